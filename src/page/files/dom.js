// Small helpers for the document, times and text.

/** Makes an element. `role`, and properties such as `ariaLabel`, are set as attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("aria")) element.setAttribute(`aria-${name.slice(4).toLowerCase()}`, value);
    else if (name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

export const byId = id => document.getElementById(id);

/** Seconds as 1:05 or 1:02:03. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const pad = number => String(number).padStart(2, "0");
  return hours > 0 ? `${hours}:${pad(minutes)}:${pad(rest)}` : `${minutes}:${pad(rest)}`;
}

/** A length of time for people: less than 0.1 s, 0.4 s, 12 s, 3 min 5 s, 2 h 1 min. */
export function spell(seconds) {
  if (seconds < 0.1) return "less than 0.1 s";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor(whole / 60) % 60} min`;
}

export function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0)} MB`;
}

/** Waits, unless the signal aborts it. A page that becomes visible goes on at once: hidden pages have slow timers. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const end = settle => () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      document.removeEventListener("visibilitychange", go);
      settle();
    };
    const [stop, go] = [end(() => reject(signal.reason)), end(resolve)];
    const timer = setTimeout(go, milliseconds);
    signal.addEventListener("abort", stop);
    document.addEventListener("visibilitychange", go);
    if (signal.aborted) stop();
  });
}

/** Waits until a moment (of Date.now()), and calls `each` with the seconds that are left. */
export async function countDown(until, each, signal) {
  for (let left = until - Date.now(); left > 0; left = until - Date.now()) {
    each(Math.ceil(left / 1000));
    await pause(Math.min(left, 1000), signal);
  }
}

const memory = new Map();

/** What the browser keeps. If it keeps nothing for pages, until the page is closed. */
export const kept = {
  get(name) {
    try { return localStorage.getItem(name); } catch { return memory.get(name) ?? null; }
  },
  set(name, value) {
    memory.set(name, value);
    try { localStorage.setItem(name, value); } catch { /* In memory only. */ }
  },
};

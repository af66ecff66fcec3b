// The board: what the server does, from its feed of reports.
import {UNREACHABLE, events} from "./api.js";
import {overlaid, stacked} from "./charts.js";
import {byId, make, megabytes, pause, spell} from "./dom.js";
import {askForKey, mayChangeKey} from "./signin.js";

/** A feed without a report for this long is opened again, in milliseconds. */
const SILENT_MILLIS = 10_000;
/** Time until the feed is opened again, in milliseconds. */
const RETRY_MILLIS = 2000;

const STATES = {
  ok: "Ready",
  loading: "The model is loading.",
  degraded: "The model is not available at the moment.",
  draining: "The server finishes its last requests and stops.",
};
/** The state of the node in words. */
const inWords = ({status, drain}) => drain?.rejects_in_seconds > 0
  ? `The server will stop, and tells routers. It takes requests for ${Math.ceil(drain.rejects_in_seconds)} s more.`
  : STATES[status] ?? status;
const WORK = {live: "live speech", short: "a short request", long: "a long file", job: "a job", spare: "speech that may go on"};

const set = (element, text) => { if (element.textContent !== text) element.textContent = text; };
const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
/** A time that counts up or down. */
const whole = seconds => seconds < 60 ? `${Math.floor(seconds)} s` : spell(Math.floor(seconds));
const size = bytes => bytes < 1e9 ? megabytes(bytes) : `${(bytes / 1e9).toFixed(1)} GB`;

function tell(text, isBad) {
  set(byId("server"), text);
  byId("server").classList.toggle("bad", isBad);
  byId("board").classList.toggle("stale", isBad && !byId("board").hidden);
}

/** Keeps the children of a list as they are, and makes, changes and removes only what differs. */
function keep(list, items, nameOf, make, change) {
  const known = new Map([...list.children].map(child => [child.dataset.name, child]));
  items.forEach((item, place) => {
    const name = nameOf(item);
    let child = known.get(name);
    known.delete(name);
    if (!child) { child = make(item); child.dataset.name = name; }
    if (list.children[place] !== child) list.insertBefore(child, list.children[place] ?? null);
    change(child, item);
  });
  for (const child of known.values()) child.remove();
}

/** Shows names with their values; those without a value are left out. */
function figures(list, rows) {
  const shown = rows.filter(([, value]) => value !== null && value !== undefined);
  const same = [...list.querySelectorAll("dt")].map(name => name.textContent).join() === shown.map(([name]) => name).join();
  if (!same) list.replaceChildren(...shown.flatMap(([name]) => [make("dt", {textContent: name}), make("dd")]));
  const values = list.querySelectorAll("dd");
  shown.forEach(([, value], index) => set(values[index], value));
}

function fill(gauge, share, label) {
  gauge.firstElementChild.style.transform = `scaleX(${Math.min(Math.max(share, 0), 1)})`;
  if (label) gauge.setAttribute("aria-label", label);
}

// --- Lanes

const makeLane = () => make("li", {className: "lane"},
  make("span", {className: "name"}), make("span"), make("span", {className: "what"}), make("span", {className: "more"}),
  make("div", {className: "gauge", ariaHidden: "true"}, make("span")));

function whatItDoes(lane) {
  const time = whole(lane.seconds);
  switch (lane.state) {
    case "loading": return `loads its model, for ${time}`;
    case "busy": return `${WORK[lane.work.kind]}: ${spell(lane.work.audio_seconds)} of audio, for ${time}`;
    case "idle": return lane.ends_in_seconds === null ? `for ${time}` : `for ${time}, ends in ${whole(lane.ends_in_seconds)}`;
    case "asleep": return `for ${time}; the next request loads the model`;
    default: return `for ${time}: ${lane.reason}`;
  }
}

function showLane(element, lane) {
  const [name, state, what, more, gauge] = element.children;
  set(name, lane.name);
  set(state, lane.state);
  state.className = `state ${lane.state}`;
  set(what, whatItDoes(lane));
  const facts = [lane.memory_bytes && size(lane.memory_bytes), lane.process_id && `process ${lane.process_id}`];
  set(more, facts.filter(Boolean).join(" · "));
  gauge.hidden = lane.ends_in_seconds === null;
  if (!gauge.hidden) fill(gauge, lane.ends_in_seconds / (lane.ends_in_seconds + lane.seconds));
}

// --- The rest

function showHistory(history) {
  const sum = name => history[name].reduce((sum, number) => sum + number, 0);
  const {requests, client_errors: refused, server_errors: failed, left} = history;
  const answered = requests.map((all, index) => all - refused[index] - failed[index] - left[index]);
  const most = stacked(byId("requests"), [["answered", answered], ["refused", refused], ["failed", failed], ["left", left]]);
  const all = sum("requests");
  set(byId("requests-most"), all === 0 ? "" : `top: ${most}`);
  const text = all === 0 ? "No request ended." : `${count(all, "request")}, ${(all / 15).toFixed(1)} a minute. ` +
    `${count(sum("client_errors"), "error of a client", "errors of clients")}, ` +
    `${count(sum("server_errors"), "error of the server", "errors of the server")}, ${count(sum("left"), "client")} left.`;
  set(byId("requests-sum"), text);
  byId("requests").setAttribute("aria-label", `Requests of the last 15 minutes. ${text}`);
  const slowest = overlaid(byId("latency"), ["most", history.p95_seconds], ["half", history.p50_seconds]);
  set(byId("latency-most"), slowest === null ? "" : `top: ${spell(slowest)}`);
  const last = history.p50_seconds.findLastIndex(seconds => seconds !== null);
  const times = last < 0 ? "No request was answered." :
    `Latest: half took at most ${spell(history.p50_seconds[last])}, 95 % at most ${spell(history.p95_seconds[last])}.`;
  set(byId("latency-sum"), times);
  byId("latency").setAttribute("aria-label", `Times of the last 15 minutes. ${times}`);
}

function showMemory(memory) {
  const {free_bytes: free, total_bytes: total} = memory;
  const isKnown = free !== null && total !== null;
  byId("memory-bar").hidden = !isKnown;
  if (isKnown) {
    const used = 1 - free / total;
    fill(byId("memory-bar"), used, `${Math.round(used * 100)} % of the memory is used`);
    byId("memory-bar").classList.toggle("much", used > 0.9);
  }
  const bytes = number => number === null ? null : size(number);
  figures(byId("memory"), [
    [memory.kind === "gpu" ? "Memory of the GPU" : "Memory of the machine", isKnown ? `${size(free)} free of ${size(total)}` : "unknown"],
    ["Load of the GPU", memory.utilization_percent === null ? null : `${memory.utilization_percent} %`],
    ["One worker uses", bytes(memory.worker_bytes)],
    ["Another worker", memory.fits_one_more ? "fits" : "does not fit"],
    ["Server and workers use", bytes(memory.used_by_server_bytes)],
  ]);
}

function showNodes(nodes) {
  byId("nodes-panel").hidden = nodes === null;
  if (nodes === null) return;
  const note = nodes.error ?? (nodes.age_seconds === null ? "Reading …"
    : nodes.complete ? count(nodes.list.length, "node") : `More than ${count(nodes.list.length, "node")}`);
  set(byId("nodes-note"), note);
  byId("nodes-note").classList.toggle("bad", nodes.error !== null);
  byId("nodes-table").hidden = nodes.list.length === 0;
  keep(byId("nodes"), nodes.list, node => node.id,
    () => make("tr", {}, make("th", {scope: "row"}), ...Array.from({length: 5}, () => make("td"))),
    (row, node) => [
      node.id, `${node.host}:${node.port}`, `${Math.round(node.load_score * 100)} %`, node.accepts_requests ? "yes" : "no",
      node.version, node.expires_in_seconds === null ? "never" : whole(node.expires_in_seconds),
    ].forEach((text, index) => set(row.children[index], text)));
}

function showWarnings(warnings) {
  byId("no-warnings").hidden = warnings.length > 0;
  const times = new Map();
  const nameOf = warning => {
    const name = `${warning.at} ${warning.message}`;
    times.set(name, (times.get(name) ?? 0) + 1);
    return `${name} ${times.get(name)}`;
  };
  keep(byId("warnings"), warnings, nameOf, warning => {
    const at = new Date(warning.at * 1000);
    return make("li", {},
      make("time", {dateTime: at.toISOString(), textContent: at.toLocaleString([], {dateStyle: "short", timeStyle: "medium"})}),
      make("span", {className: `level ${warning.level.toLowerCase()}`, textContent: warning.level}),
      make("span", {className: "message", textContent: warning.message, title: warning.target, dir: "auto"}));
  }, () => {});
}

function show(report) {
  const {node, queue, pool} = report;
  tell(`${inWords(node)}${node.status === "ok" ? ` · ${node.model}${node.device ? ` on ${node.device}` : ""}` : ""}`,
    node.status !== "ok");
  byId("board").hidden = false;
  byId("board").classList.remove("stale");
  keep(byId("lanes"), report.lanes, lane => `${lane.kind} ${lane.name}`, makeLane, showLane);
  set(byId("pool"), pool.size_cap === 0 ? "This server has no cold workers." :
    `Cold workers: ${pool.active} ready, ${pool.loading} starting, ${pool.wanted} wanted, ${pool.size_cap} at most, ${pool.spawned} started so far.`);
  const {waiting} = queue;
  const spare = waiting.spare > 0 ? `, ${waiting.spare} ahead of time` : "";
  figures(byId("queue"), [
    ["Jobs", report.jobs && `${report.jobs.queued} queued, ${report.jobs.running} running, ${report.jobs.done} done, ${report.jobs.failed} failed`],
    ["Waiting chunks", `${waiting.live} live, ${waiting.short} short, ${waiting.long} long${spare}`],
    ["Requests", String(queue.requests)],
    ["Live sessions", String(queue.live_sessions)],
    ["Audio to transcribe", queue.audio_seconds > 0 ? spell(queue.audio_seconds) : "none"],
    ["Done in about", queue.drain_seconds > 0 ? spell(queue.drain_seconds) : "–"],
  ]);
  figures(byId("node"), [
    ["Load", `${Math.round(node.load_score * 100)} %`],
    ["Takes requests", node.accepts_requests ? "yes" : "no"],
    ["Model", node.model],
    ["Device", node.device],
    ["Role", node.role],
    ["Version", node.version],
    ["Id in Redis", node.id],
    ["Runs for", whole(report.uptime_seconds)],
  ]);
  showHistory(report.history);
  showMemory(report.memory);
  showNodes(report.nodes);
  showWarnings(report.warnings);
}

// --- The feed

let feed = new AbortController();

/** Shows reports until the feed ends or nothing comes. Hidden pages watch nothing. */
async function watch() {
  feed = new AbortController();
  let timer = null;
  const alive = () => { clearTimeout(timer); timer = setTimeout(() => feed.abort(), SILENT_MILLIS); };
  alive();
  try {
    await events("v1/status/events", report => { alive(); show(report); }, feed.signal);
  } finally {
    clearTimeout(timer);
  }
}

const visible = () => document.hidden
  ? new Promise(resolve => document.addEventListener("visibilitychange", resolve, {once: true})).then(visible)
  : Promise.resolve();

async function run() {
  const forever = new AbortController().signal;
  for (;;) {
    await visible();
    let wait = RETRY_MILLIS;
    try {
      await watch();
      tell("The server has stopped. Trying again …", true);
    } catch (error) {
      if (error.name === "AbortError") {
        if (!document.hidden) tell(`${UNREACHABLE} Trying again …`, true);
        wait = 0;
      }
      else if (error.status === 401) {
        tell(error.message, true);
        const given = await askForKey(error).then(() => true, () => false);
        if (!given) {
          tell("The board needs a key.", true);
          byId("change-key").hidden = false;
          return;
        }
        wait = 0;
      } else {
        tell(`${error.message} Trying again …`, true);
        wait = (error.retryAfter ?? 0) * 1000 || RETRY_MILLIS;
      }
    }
    await pause(wait, forever);
  }
}

document.addEventListener("visibilitychange", () => { if (document.hidden) feed.abort(); });
mayChangeKey(() => location.reload());
run();

// The options of requests, kept in this browser.
import {byId, kept, make} from "./dom.js";

/** The codes of Whisper's languages. */
const CODES = "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo zh".split(" ");
const STORED = "uttera-stt.options";
const DEFAULTS = {language: "", target: "", prompt: "", words: true, vad: true, guard: true, multilingual: false};

const names = new Intl.DisplayNames(["en"], {type: "language", fallback: "code"});
// ISO 639-1 has jv for Javanese, Whisper jw.
const nameOf = code => names.of(code === "jw" ? "jv" : code);

const form = byId("options-form");
const field = name => form.elements.namedItem(name);

/** Shows the stored options and keeps changes. */
export function begin() {
  const choices = CODES.map(code => [code, nameOf(code)]).sort((one, other) => one[1].localeCompare(other[1], "en"));
  for (const [code, name] of choices) field("language").append(make("option", {value: code, textContent: name}));
  field("target").append(make("option", {value: "en", textContent: "English"}));
  const group = make("optgroup", {label: "With LibreTranslate"});
  group.append(...choices.filter(([code]) => code !== "en").map(([code, name]) => make("option", {value: code, textContent: name})));
  field("target").append(group);
  let stored = {};
  try { stored = JSON.parse(kept.get(STORED)) ?? {}; } catch { /* Something else is stored there. */ }
  show({...DEFAULTS, ...stored});
  form.addEventListener("input", changed);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", event => { event.preventDefault(); show(DEFAULTS); changed(); });
}

function show(options) {
  for (const [name, value] of Object.entries(options)) {
    const input = field(name);
    if (!input) continue;
    if (input.type === "checkbox") input.checked = Boolean(value);
    else input.value = value;
  }
  summarise();
}

function changed() {
  kept.set(STORED, JSON.stringify(current()));
  summarise();
}

/** The options as they are set now. */
export function current() {
  return Object.fromEntries(Object.entries(DEFAULTS).map(([name, usual]) =>
    [name, typeof usual === "boolean" ? field(name).checked : field(name).value.trim()]));
}

function summarise() {
  const options = current();
  const parts = [options.language ? nameOf(options.language) : "language detected"];
  if (options.target) parts.push(`translated into ${nameOf(options.target)}`);
  if (options.prompt) parts.push("with a prompt");
  if (!options.vad) parts.push("all audio");
  if (options.multilingual) parts.push("several languages");
  byId("options-summary").textContent = parts.join(", ");
}

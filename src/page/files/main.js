// The page: records, takes files, and lists transcripts.
import {json} from "./api.js";
import {Card} from "./card.js";
import {byId, clock, make} from "./dom.js";
import * as history from "./history.js";
import {Recording, whyNoMicrophone, wordsOf} from "./live.js";
import * as options from "./options.js";
import {askForKey, mayChangeKey} from "./signin.js";

/** Time between two looks at the state of the server, in milliseconds. */
const LOOK_MILLIS = 5000;

// --- The state of the server

const STATES = {
  ok: "Ready",
  loading: "The model is loading; requests are accepted as soon as it is there.",
  degraded: "The model is not available at the moment",
  draining: "The server is stopping and takes no more requests.",
};

async function look() {
  const place = byId("server");
  try {
    const health = await json("health");
    const about = health.status === "ok" ? ` · ${health.model}${health.device ? ` on ${health.device}` : ""}` : "";
    const reason = health.hot_worker_error ? `: ${health.hot_worker_error}` : "";
    show(place, (STATES[health.status] ?? health.status) + about + reason, health.status !== "ok");
  } catch (error) {
    show(place, error.message, true);
  }
  setTimeout(look, LOOK_MILLIS);
}

function show(place, text, isBad) {
  if (place.textContent !== text) place.textContent = text;
  place.classList.toggle("bad", isBad);
}

// --- The key

mayChangeKey();

/** Checks the key before it is needed. */
async function checkKey() {
  for (;;) {
    try {
      await json("v1/models");
      return true;
    } catch (error) {
      if (error.status !== 401) return true;
      try { await askForKey(error); } catch { return false; }
    }
  }
}

// --- Transcripts

const cards = new Set();

const page = {
  needsKey: askForKey,
  removed: card => { cards.delete(card); listed(); byId("transcripts").focus(); },
  /** A recording without a text gets it in its place; another transcription is a card of its own. */
  again: card => {
    if (card.transcript.isPending) card.transcribe(card.audio, options.current());
    else transcribe(card.audio, card.name);
  },
};

function add(name, isNew = true) {
  const card = new Card(name, page);
  cards.add(card);
  if (isNew) byId("cards").prepend(card.element);
  else byId("cards").append(card.element);
  listed();
  return card;
}

function listed() {
  byId("empty").hidden = cards.size > 0;
  byId("clear").hidden = cards.size === 0;
}

function transcribe(audio, name) {
  add(name).transcribe(audio, options.current());
}

/** The first file is at the top, and is sent first. */
function transcribeAll(files) {
  const added = [...files].reverse().map(file => [add(file.name), file]);
  for (const [card, file] of added.reverse()) card.transcribe(file, options.current());
}

byId("clear").onclick = async () => {
  if (!confirm(`Delete all ${cards.size} transcripts and recordings from this browser?`)) return;
  try {
    await history.forgetAll();
  } catch (error) {
    show(byId("empty"), `The browser could not delete them: ${error.message}`, true);
    byId("empty").hidden = false;
    return;
  }
  for (const card of cards) card.dispose();
  cards.clear();
  listed();
};

// --- Files

byId("files").onchange = event => {
  transcribeAll(event.target.files);
  event.target.value = "";
};

const dropping = byId("dropping");
const hasFiles = event => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", event => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  dropping.hidden = false;
});
addEventListener("dragleave", event => { if (!event.relatedTarget) dropping.hidden = true; });
addEventListener("drop", event => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  dropping.hidden = true;
  const files = [...event.dataTransfer.items].filter(item => item.kind === "file");
  const isFolder = item => item.webkitGetAsEntry?.()?.isDirectory;
  if (files.some(isFolder)) show(byId("files-note"), "Folders cannot be dropped: choose the files in them.", true);
  transcribeAll(files.filter(item => !isFolder(item)).map(item => item.getAsFile()).filter(Boolean));
});

// --- The microphone

const record = byId("record");
let recording = null;

function label(text, isOn, isBusy = false) {
  byId("record-label").textContent = text;
  record.classList.toggle("on", isOn);
  record.disabled = isBusy;
}

const report = {
  level: peak => { byId("level").style.transform = `scaleX(${Math.min(Math.sqrt(peak), 1)})`; },
  text: turns => {
    const place = byId("live-text");
    turns.forEach((turn, index) => {
      const line = place.children[index] ?? place.appendChild(make("p", {dir: "auto"}));
      if (line.textContent !== turn.text) line.textContent = turn.text;
      line.hidden = !turn.text;
      line.classList.toggle("open", !turn.isDone);
      // A screen reader hears each turn once, when it is complete.
      if (turn.isDone && !turn.isSaid) { turn.isSaid = true; byId("live-said").textContent = turn.text; }
    });
    place.scrollTop = place.scrollHeight;
  },
  trouble: message => { byId("live-note").textContent = message; },
  gone: () => {
    show(byId("record-note"), "The microphone is gone. What was recorded until then is kept.", true);
    end();
  },
};

const NO_MICROPHONE = {
  NotAllowedError: "The browser does not allow this page to use the microphone. Allow it in the address bar, and press Record again.",
  NotFoundError: "There is no microphone. Connect one, and press Record again.",
  NotReadableError: "Another program uses the microphone. Close it, and press Record again.",
};

async function begin() {
  label("Starting …", false, true);
  byId("live-text").replaceChildren();
  byId("live-note").textContent = "";
  if (!await checkKey()) { label("Record", false); return; }
  try {
    recording = await Recording.begin(options.current(), report);
  } catch (error) {
    label("Record", false);
    show(byId("record-note"), NO_MICROPHONE[error.name] ?? `The microphone cannot be used: ${error.message}`, true);
    return;
  }
  show(byId("record-note"), "Text appears while you speak.", false);
  byId("live").hidden = false;
  label("Stop", true);
  tick();
}

function tick() {
  if (!recording) return;
  byId("live-time").textContent = clock(recording.seconds);
  setTimeout(tick, 250);
}

async function end() {
  if (isEnding) return;
  isEnding = true;
  const ended = recording;
  label("Finishing …", true, true);
  const stopped = performance.now();
  try {
    finish(await ended.stop(), stopped);
  } catch (error) {
    show(byId("record-note"), `The recording could not be finished: ${error.message}`, true);
  } finally {
    [recording, isEnding] = [null, false];
    report.level(0);
    byId("live").hidden = true;
    label("Record", false);
  }
}

let isEnding = false;

async function finish({audio, turns, seconds}, stopped) {
  const name = `Recording ${new Date().toLocaleString([], {dateStyle: "medium", timeStyle: "medium"})}.wav`;
  const chosen = options.current();
  const card = add(name);
  // The live path does not translate.
  if (!turns || chosen.target) {
    await card.record(audio, seconds);
    card.transcribe(audio, chosen);
    return;
  }
  const languages = turns.flatMap(turn => turn.languages ?? []);
  await card.finish({
    isRecording: true,
    task: "transcribe",
    language: languages.length ? languageName(languages[0]) : "",
    duration: seconds,
    seconds: (performance.now() - stopped) / 1000,
    route: "live",
    segments: turns.map((turn, index) => ({
      start: turn.start,
      end: Math.min(turn.end ?? seconds, seconds),
      text: (index > 0 && hasSpaces(turn.languages) ? " " : "") + turn.text.trim(),
      words: wordsOf(turn.logprobs),
    })),
  }, audio);
}

/** Whether words of these languages have spaces between them. */
const hasSpaces = (languages = []) => !languages.some(({code}) => ["ja", "zh", "yue", "th", "lo", "my", "km"].includes(code));

/** The English name of a language, in lower case, as in other transcripts. */
function languageName({code}) {
  try { return new Intl.DisplayNames(["en"], {type: "language"}).of(code).toLowerCase(); } catch { return code; }
}

record.onclick = () => { if (recording) end(); else begin(); };
addEventListener("beforeunload", event => {
  if (recording || [...cards].some(card => card.isAtRisk)) event.preventDefault();
});

// --- Start

options.begin();
const reason = whyNoMicrophone();
if (reason) {
  record.disabled = true;
  byId("record-note").textContent = reason;
}
try {
  for (const transcript of await history.all()) add(transcript.name, false).restore(transcript);
} catch (error) {
  show(byId("empty"), `The history of this browser cannot be read: ${error.message}`, true);
}
listed();
look();
checkKey();

// A transcript on the page: its progress, its text, its sound, and what can be done with it.
import {Failure, transcribe} from "./api.js";
import {clock, countDown, make, megabytes, spell} from "./dom.js";
import {formats, plainText} from "./formats.js";
import * as history from "./history.js";
import {peaksOf, Wave} from "./wave.js";

/** Words below these probabilities are shaded. */
const DOUBT = 0.75;
const DOUBTFUL = 0.45;
/** How often a request is sent at most where the server does not say when to try again. */
const MOST_ATTEMPTS = 30;
/** The same for errors that may be the server's own fault. */
const MOST_ATTEMPTS_AT_FAULTS = 3;
/** An edit is stored after this pause, in milliseconds. */
const EDIT_PAUSE_MILLIS = 1000;
/** Files that are sent at the same time. */
const MOST_AT_ONCE = 2;

let running = 0;
const waiting = [];

/** Waits for its turn to send a file. */
async function takeTurn(signal) {
  if (running < MOST_AT_ONCE) { running += 1; return; }
  await new Promise((resolve, reject) => {
    const turn = {resolve};
    waiting.push(turn);
    signal.addEventListener("abort", () => {
      const index = waiting.indexOf(turn);
      if (index >= 0) { waiting.splice(index, 1); reject(signal.reason); }
    });
  });
}

function giveTurn() {
  const next = waiting.shift();
  if (next) next.resolve();
  else running -= 1;
}

export class Card {
  #cancel = null;
  #partial = "";
  #segments = [];
  #saving = null;
  #isDisposed = false;

  /** `page`: `needsKey(failure)` resolves when the user entered another key; `removed(card)`; `again(card)`. */
  constructor(name, page) {
    Object.assign(this, {name, page, transcript: null, audio: null});
    this.state = make("p", {className: "note", role: "status"});
    this.progress = make("progress", {max: 1, value: 0, ariaLabel: `Progress of ${name}`});
    this.stop = make("button", {type: "button", className: "quiet", textContent: "Cancel", ariaLabel: `Cancel ${name}`, onclick: () => this.#cancel?.abort(new DOMException("cancelled", "AbortError"))});
    this.partial = make("div", {className: "partial", dir: "auto", tabIndex: 0, role: "region", ariaLabel: "Text so far", hidden: true});
    this.gist = make("span", {className: "gist"});
    this.age = make("span", {className: "note time"});
    this.body = make("div", {});
    this.element = make("details", {className: "card panel", open: true},
      make("summary", {}, make("h3", {textContent: name}), this.age, this.gist), this.body);
  }

  /** Whether closing the page would lose something. */
  get isAtRisk() { return this.#cancel !== null || this.#saving !== null || (this.isRecording && !this.isKept); }

  // --- Getting the text

  /** Keeps a recording before its text is there. */
  async record(audio, seconds) {
    [this.audio, this.isRecording] = [audio, true];
    this.id = newId();
    const pending = {id: this.id, name: this.name, created: Date.now(), isRecording: true, isPending: true, duration: seconds, segments: []};
    this.isKept = await history.keep(pending, audio).catch(() => false);
  }

  /** Sends the audio and shows the text while it arrives. */
  async transcribe(audio, options) {
    this.audio = audio;
    this.#cancel = new AbortController();
    const {signal} = this.#cancel;
    const hadFocus = this.body.contains(document.activeElement);
    this.body.replaceChildren(this.state, make("div", {className: "bar"}, this.progress, this.stop), this.partial);
    if (hadFocus) this.stop.focus();
    let hasTurn = false;
    try {
      this.#say("Waiting until other files are sent …");
      await takeTurn(signal);
      hasTurn = true;
      const {done, seconds} = await this.#persist(audio, options, signal);
      await this.finish({
        isRecording: this.isRecording,
        task: options.target ? "translate" : "transcribe",
        language: done.language,
        probability: done.language_probability,
        duration: done.duration,
        model: done.x_final_model ?? done.model,
        route: done.x_route,
        seconds,
        segments: this.#segments,
        removed: done.removed,
      }, audio);
    } catch (error) {
      this.#failed(error, audio, options);
    } finally {
      if (hasTurn) giveTurn();
      this.#cancel = null;
    }
  }

  /** Sends the request again where that may help. */
  async #persist(audio, options, signal) {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#attempt(audio, options, signal);
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        if (error.status === 401) { await this.page.needsKey(error); continue; }
        const most = error.code === "internal_error" ? MOST_ATTEMPTS_AT_FAULTS : MOST_ATTEMPTS;
        if (!error.mayRetry || attempt >= most) throw error;
        // The server knows best when.
        if (error.retryAfter !== null) attempt -= 1;
        await this.#countDown(error, error.retryAfter ?? Math.min(2 ** attempt, 15), signal);
      }
    }
  }

  async #attempt(audio, options, signal) {
    [this.#partial, this.#segments] = ["", []];
    let sentAt = performance.now();
    this.progress.removeAttribute("value");
    this.#say(`Sending ${megabytes(audio.size)} …`);
    const done = await transcribe(audio, this.name, options, {
      sent: (bytes, all) => {
        this.progress.value = bytes / all;
        if (bytes < all) return;
        sentAt = performance.now();
        this.progress.removeAttribute("value");
        this.#say("Sent. Waiting for the first text …");
      },
      waits: ({position, seconds}) => {
        if (seconds > 0 && !this.#partial) {
          const behind = position > 0 ? `behind ${position} other ${position === 1 ? "request" : "requests"}` : "for a free worker";
          this.#say(`Waiting ${behind}, about ${spell(seconds)} …`);
        }
      },
      event: event => this.#event(event),
    }, signal);
    return {done, seconds: (performance.now() - sentAt) / 1000};
  }

  #event(event) {
    switch (event.type) {
      case "transcript.text.delta":
        if (!this.#partial) this.#say("Transcribing …");
        this.#partial += event.delta;
        this.partial.hidden = false;
        this.partial.textContent = this.#partial;
        this.partial.scrollTop = this.partial.scrollHeight;
        break;
      case "transcript.text.segment": {
        const {start, end, text, words} = event;
        this.#segments.push({start, end, text, words});
        break;
      }
      case "transcript.progress":
        if (event.seconds_known > 0) this.progress.value = Math.min(event.seconds_done / event.seconds_known, 1);
        break;
      default:
    }
  }

  async #countDown(error, seconds, signal) {
    this.progress.value = 0;
    this.state.className = "problem";
    // The sentence is read aloud once, the seconds are not.
    const left = make("span", {ariaHidden: "true"});
    this.state.replaceChildren(`${error.message} The page tries again by itself. `, left);
    await countDown(Date.now() + Math.max(1, seconds) * 1000, rest => { left.textContent = `In ${rest} s.`; }, signal);
    this.state.className = "note";
  }

  #say(text) {
    if (this.state.textContent !== text) this.state.textContent = text;
  }

  #failed(error, audio, options) {
    if (this.#isDisposed) return;
    const isCancelled = error.name === "AbortError";
    const hadFocus = this.body.contains(document.activeElement);
    if (!isCancelled && !(error instanceof Failure)) console.warn(error);
    this.state.className = isCancelled ? "note" : "problem";
    this.state.textContent = isCancelled ? "Cancelled." : error.message;
    const again = make("button", {type: "button", className: "quiet", textContent: "Try again", onclick: () => {
      this.state.className = "note";
      this.transcribe(audio, options);
    }});
    const close = make("button", {type: "button", className: "quiet", textContent: "Remove", onclick: () => this.remove()});
    this.body.replaceChildren(this.state, make("div", {className: "bar"}, again, this.#sound(), close), this.partial);
    if (hadFocus) again.focus();
    this.gist.textContent = this.state.textContent;
  }

  /** Shows and keeps a whole transcript. */
  async finish(facts, audio) {
    if (this.#isDisposed) return;
    const transcript = {id: this.id ?? newId(), name: this.name, created: Date.now(), ...facts};
    [this.audio, this.isRecording, this.isKept] = [audio, transcript.isRecording, true];
    this.#show(transcript);
    try {
      const isKept = await history.keep(transcript, audio);
      this.isKept = isKept;
      if (!isKept) this.#note("This browser keeps the text, but not the sound, which is too large.");
    } catch {
      this.isKept = false;
      this.#note("This browser keeps no history: the transcript is gone when the page is closed.");
    }
  }

  /** Shows a transcript of the history; its parts are made when it is opened. */
  restore(transcript) {
    [this.transcript, this.id, this.isRecording, this.isKept] = [transcript, transcript.id, transcript.isRecording, true];
    this.element.open = false;
    this.#head();
    let isShown = false;
    this.element.addEventListener("toggle", async () => {
      // It is also called for the change above.
      if (!this.element.open || isShown) return;
      isShown = true;
      this.audio = await history.audioOf(transcript.id).catch(() => null);
      this.#show(transcript);
    });
  }

  async remove() {
    if (this.isRecording && !confirm(`Delete ${this.name} with its sound?`)) return;
    const id = this.id ?? this.transcript?.id;
    try {
      if (id) await history.forget(id);
    } catch (error) {
      this.#note(`The browser could not delete it: ${error.message}`);
      return;
    }
    this.dispose();
    this.page.removed(this);
  }

  /** Stops work and releases the sound. */
  dispose() {
    this.#isDisposed = true;
    clearTimeout(this.#saving);
    this.wave?.dispose();
    this.#cancel?.abort(new DOMException("removed", "AbortError"));
    if (this.sound) { this.sound.pause(); URL.revokeObjectURL(this.sound.src); }
    this.element.remove();
  }

  // --- Showing it

  #head() {
    const {transcript} = this;
    this.age.textContent = new Date(transcript.created).toLocaleString([], {dateStyle: "medium", timeStyle: "short"});
    const gist = transcript.isPending ? "This recording has no text yet." : plainText({segments: transcript.segments.slice(0, 20)}).slice(0, 300);
    this.gist.textContent = gist || "No speech";
  }

  #note(text) {
    this.body.prepend(make("p", {className: "note", textContent: text}));
  }

  #show(transcript) {
    const hadFocus = this.body.contains(document.activeElement);
    this.transcript = transcript;
    this.#head();
    this.rows = transcript.segments.map(segment => this.#row(segment));
    // Long lists are drawn only where they are visible.
    const length = this.rows.length > 100 ? "text many" : "text";
    const list = make("div", {className: length, tabIndex: 0, role: "region", ariaLabel: `Text of ${this.name}`}, ...this.rows.map(row => row.element));
    this.list = list;
    const isEmpty = transcript.segments.length === 0;
    this.body.replaceChildren(
      ...(this.audio ? this.#player() : []),
      this.#facts(),
      isEmpty ? make("p", {className: "note", textContent: transcript.isPending ? "This recording has no text yet." : "There is no speech in this audio."}) : list,
      this.#tools(isEmpty),
    );
    if (hadFocus) this.element.querySelector("summary").focus();
    this.wave?.draw();
  }

  #facts() {
    const {transcript} = this;
    const facts = [];
    if (transcript.language && transcript.segments.length > 0) {
      const name = transcript.language.charAt(0).toUpperCase() + transcript.language.slice(1);
      facts.push(transcript.probability ? `${name} (${Math.round(transcript.probability * 100)} %)` : name);
    }
    facts.push(`${clock(transcript.duration)} of audio`);
    if (transcript.seconds !== undefined) facts.push(`took ${spell(transcript.seconds)}`);
    if (transcript.route) facts.push(`lane ${transcript.route}`);
    if (transcript.model) facts.push(`model ${transcript.model}`);
    if (transcript.task === "translate") facts.push("translated");
    if (transcript.removed?.length) facts.push(`${transcript.removed.length} hallucinated ${transcript.removed.length === 1 ? "passage" : "passages"} removed`);
    if (transcript.segments.some(segment => segment.words?.some(word => word.probability < DOUBT))) facts.push("shaded words are less certain");
    return make("ul", {className: "facts"}, ...facts.map(fact => make("li", {textContent: fact})));
  }

  #row(segment) {
    const text = make("p", {dir: "auto"});
    const row = {segment, text, words: []};
    const play = make("button", {type: "button", textContent: clock(segment.start), ariaLabel: `Play from ${clock(segment.start)}`, disabled: !this.audio, onclick: () => this.#play(segment)});
    row.element = make("div", {className: "segment"}, play, text);
    this.#fill(row);
    return row;
  }

  /** The text of a segment: its words, shaded by their probability, or plain after an edit. */
  #fill(row) {
    const {segment, text} = row;
    row.words = [];
    if (segment.isEdited || !segment.words?.length) { text.textContent = segment.text.trim(); return; }
    const parts = [];
    let rest = segment.text;
    for (const word of segment.words) {
      const at = rest.indexOf(word.word);
      if (at < 0) continue;
      if (at > 0) parts.push(rest.slice(0, at));
      const shade = word.probability < DOUBTFUL ? " doubtful" : word.probability < DOUBT ? " doubt" : "";
      const span = make("span", {className: `word${shade}`, textContent: word.word});
      if (word.probability !== null && word.probability !== undefined) span.title = `${Math.round(word.probability * 100)} %`;
      row.words.push({...word, span});
      parts.push(span);
      rest = rest.slice(at + word.word.length);
    }
    parts.push(rest);
    if (typeof parts[0] === "string") parts[0] = parts[0].trimStart();
    text.replaceChildren(...parts);
  }

  #player() {
    const {transcript, audio} = this;
    this.sound = make("audio", {controls: true, preload: "metadata", src: URL.createObjectURL(audio), ariaLabel: `Sound of ${this.name}`});
    const canvas = make("canvas", {role: "img", ariaLabel: "Waveform with the segments of the text; a click plays a segment"});
    this.wave = new Wave(canvas, transcript.segments, transcript.duration || 1);
    canvas.addEventListener("click", event => {
      const at = this.wave.timeAt(event);
      const segments = transcript.segments;
      const segment = segments.find(({start, end}) => at >= start && at < end);
      this.#play(segment ?? {start: at});
    });
    const note = make("p", {className: "note", role: "status", hidden: true, textContent: "This browser cannot play this format. The text is complete."});
    this.sound.addEventListener("error", () => { note.hidden = false; canvas.hidden = this.sound.hidden = true; });
    this.sound.addEventListener("timeupdate", () => this.#follow());
    this.sound.addEventListener("play", () => {
      const step = () => { this.#follow(); if (!this.sound.paused) requestAnimationFrame(step); };
      step();
    });
    peaksOf(audio, transcript.duration).then(peaks => { this.wave.peaks = peaks; this.wave.draw(); });
    return [canvas, this.sound, note];
  }

  #play({start}) {
    for (const other of document.querySelectorAll("audio")) if (other !== this.sound) other.pause();
    this.sound.currentTime = start;
    this.sound.play().catch(() => {});
  }

  /** Marks what is playing. */
  #follow() {
    const at = this.sound.currentTime;
    this.wave.draw(at);
    const now = this.rows.findLast(({segment}) => segment.start <= at && at < segment.end);
    if (now !== this.now) {
      this.now?.element.classList.remove("now");
      this.now?.element.removeAttribute("aria-current");
      this.now = now;
      if (now) {
        now.element.classList.add("now");
        now.element.setAttribute("aria-current", "true");
        if (!this.sound.paused && !this.list.contains(document.activeElement)) {
          this.list.scrollTop = now.element.offsetTop - this.list.offsetTop - this.list.clientHeight / 3;
        }
      }
    }
    const word = now?.words.findLast(({start}) => start <= at);
    if (word !== this.word) {
      this.word?.span.classList.remove("now");
      word?.span.classList.add("now");
      this.word = word;
    }
  }

  #tools(isEmpty) {
    const button = (text, onclick) => make("button", {type: "button", className: "quiet", textContent: text, onclick});
    const copy = button("Copy", async () => {
      copy.textContent = await copied(plainText(this.transcript)) ? "Copied" : "Copying is not allowed here";
      setTimeout(() => { copy.textContent = "Copy"; }, 2000);
    });
    const edit = button("Edit", () => {
      const isOn = edit.textContent === "Edit";
      edit.textContent = isOn ? "Done" : "Edit";
      for (const row of this.rows) this.#editable(row, isOn);
      if (!isOn) this.#head();
    });
    const downloads = Object.keys(formats).map(extension => make("button", {
      type: "button", className: "quiet", textContent: `.${extension}`, ariaLabel: `Download as ${extension}`, onclick: () => this.#download(extension),
    }));
    const again = this.audio ? button(this.transcript.isPending ? "Transcribe" : "Transcribe again", () => this.page.again(this)) : null;
    const tools = isEmpty ? [again, this.#sound()] : [copy, edit, ...downloads, this.#sound(), again];
    return make("div", {className: "bar"}, ...tools, button("Delete", () => this.remove()));
  }

  /** For a recording, which is nowhere else: its sound as a file. */
  #sound() {
    if (!this.isRecording || !this.audio) return null;
    return make("button", {type: "button", className: "quiet", textContent: ".wav", ariaLabel: "Download the sound", onclick: () => this.#give(this.audio, "wav")});
  }

  /** Stores edits, after a pause. */
  #save() {
    clearTimeout(this.#saving);
    this.#saving = setTimeout(async () => {
      this.#saving = null;
      if (this.#isDisposed) return;
      await history.update(this.transcript).catch(error => this.#note(`The browser could not keep the edit: ${error.message}`));
    }, EDIT_PAUSE_MILLIS);
  }

  #editable(row, isOn) {
    const {text, segment} = row;
    if (isOn) {
      // Without the words' elements: browsers would copy their style to new text.
      text.textContent = segment.text.trim();
      try { text.contentEditable = "plaintext-only"; } catch { text.contentEditable = "true"; }
      text.setAttribute("role", "textbox");
      text.setAttribute("aria-multiline", "true");
      text.setAttribute("aria-label", `Text at ${clock(segment.start)}`);
      text.oninput = () => {
        // The space before it joins the segments to a text.
        const space = /^\s/.test(segment.text) ? " " : "";
        Object.assign(segment, {text: space + text.innerText.trim(), isEdited: true, words: undefined});
        this.#save();
      };
      text.onpaste = event => {
        event.preventDefault();
        document.execCommand("insertText", false, event.clipboardData.getData("text/plain"));
      };
    } else {
      for (const name of ["contenteditable", "role", "aria-multiline", "aria-label"]) text.removeAttribute(name);
      text.oninput = text.onpaste = null;
      this.#fill(row);
    }
  }

  #download(extension) {
    const {type, make: content} = formats[extension];
    this.#give(new Blob([content(this.transcript)], {type}), extension);
  }

  #give(content, extension) {
    const url = URL.createObjectURL(content);
    make("a", {href: url, download: `${this.name.replace(/\.[^.]+$/, "")}.${extension}`}).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}

const newId = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;

/** Copies a text. Pages over plain HTTP have no clipboard of their own. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = make("textarea", {value: text, className: "unseen"});
    document.body.append(area);
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    return isDone;
  }
}

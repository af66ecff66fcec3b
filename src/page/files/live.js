// The microphone, and the realtime session that writes while one speaks.
import {openSession, sentence} from "./api.js";

/** The rate at which Whisper hears; browsers that cannot record at it use their own. */
const RATE = 16_000;
/** After the end of a recording, this long without any event means that the connection is dead, in milliseconds. */
const SILENT_MILLIS = 15_000;

/** Why there is no microphone, and what to do, if the browser gives none. */
export function whyNoMicrophone() {
  if (navigator.mediaDevices?.getUserMedia && globalThis.AudioWorkletNode) return null;
  if (!globalThis.isSecureContext) {
    const port = location.port ? `:${location.port}` : "";
    return "Browsers give the microphone only to pages over HTTPS and to pages of this computer. Open the page over "
      + `HTTPS (the server needs a certificate: TLS_CERT), or forward the port (ssh -L ${location.port || 80}:localhost:${location.port || 80} ${location.hostname}) and open `
      + `http://localhost${port}. Files can be transcribed from here.`;
  }
  return "This browser gives no microphone to pages. Files can be transcribed.";
}

/** A recording: its samples, and the text of its turns. */
export class Recording {
  #blocks = [];
  #samples = 0;
  #turns = new Map();
  #socket = null;
  #isOpen = false;
  #failure = null;
  #isCommitted = false;
  #isClosed = false;
  #wake = () => {};
  #context;
  #stream;

  /**
   * `report`: `level(0 to 1)`, `text(turns)`, `trouble(message)`, `gone()` when the microphone is gone. Rejects if the
   * microphone is refused.
   */
  static async begin(options, report) {
    const stream = await navigator.mediaDevices.getUserMedia({audio: {echoCancellation: false}});
    const recording = new Recording();
    recording.report = report;
    recording.#stream = stream;
    for (const track of stream.getTracks()) track.onended = () => report.gone();
    try {
      await recording.#listen(stream);
    } catch (error) {
      recording.#close();
      throw error;
    }
    recording.#connect(options);
    return recording;
  }

  async #listen(stream) {
    let [context, source] = [new AudioContext({sampleRate: RATE}), null];
    try {
      source = context.createMediaStreamSource(stream);
    } catch {
      // Some browsers do not convert the microphone's rate.
      context.close();
      context = new AudioContext();
      source = context.createMediaStreamSource(stream);
    }
    this.#context = context;
    await context.audioWorklet.addModule("page/microphone.js");
    const node = new AudioWorkletNode(context, "microphone", {numberOfOutputs: 0});
    node.port.onmessage = ({data}) => this.#take(data);
    source.connect(node);
    await context.resume();
  }

  /** The length so far, in seconds. */
  get seconds() { return this.#samples / this.#context.sampleRate; }

  #take(samples) {
    const block = new Int16Array(samples.length);
    let peak = 0;
    samples.forEach((sample, index) => {
      block[index] = Math.max(-1, Math.min(1, sample)) * 32_767;
      peak = Math.max(peak, Math.abs(sample));
    });
    this.#blocks.push(block);
    this.#samples += block.length;
    this.report.level(peak);
    if (this.#isOpen) this.#send(block);
  }

  async #connect(options) {
    let socket = null;
    try {
      socket = await openSession();
    } catch (error) {
      this.#lost(error.message);
      return;
    }
    if (this.#isClosed) { socket.close(); return; }
    this.#socket = socket;
    this.#socket.onmessage = ({data}) => this.#event(JSON.parse(data), options);
    this.#socket.onclose = ({reason}) => this.#lost(reason);
  }

  #configure(options) {
    const input = {
      format: {type: "audio/pcm", rate: this.#context.sampleRate},
      transcription: {model: "whisper-1"},
      turn_detection: {type: "server_vad", silence_duration_ms: 700},
    };
    if (options.language) input.transcription.language = options.language;
    if (options.prompt) input.transcription.prompt = options.prompt;
    const include = ["item.input_audio_transcription.logprobs"];
    this.#tell({type: "session.update", session: {type: "transcription", include, audio: {input}}});
  }

  #start() {
    this.#isOpen = true;
    // What was said while the session opened.
    this.#blocks.forEach(block => this.#send(block));
  }

  #event(event, options) {
    const turn = () => {
      const {item_id: id} = event;
      if (!this.#turns.has(id)) this.#turns.set(id, {start: 0, end: null, text: "", isDone: false});
      return this.#turns.get(id);
    };
    const prefix = "conversation.item.input_audio_transcription.";
    switch (event.type) {
      case "session.created": this.#configure(options); break;
      case "session.updated": this.#start(); break;
      case "input_audio_buffer.speech_started": turn().start = event.audio_start_ms / 1000; break;
      case "input_audio_buffer.speech_stopped": turn().end = event.audio_end_ms / 1000; break;
      case "input_audio_buffer.committed":
        // A turn that ended by itself has its end before. This is the one that `stop` ended.
        if (turn().end === null) this.#isCommitted = true;
        break;
      case `${prefix}delta`: turn().text += event.delta; break;
      case `${prefix}completed`:
        Object.assign(turn(), {text: event.transcript, isDone: true, logprobs: event.logprobs, languages: event.languages});
        break;
      case `${prefix}failed`: this.#failure = sentence(event.error); turn().isDone = true; break;
      case "session.expiring": this.report.trouble("The live session ends in a minute; the recording continues."); break;
      case "error":
        if (event.error.code === "input_audio_buffer_commit_empty") this.#isCommitted = true;
        else {
          this.#failure = sentence(event.error);
          this.report.trouble(`${this.#failure} The recording continues and is transcribed when it ends.`);
        }
        break;
      default: return;
    }
    this.report.text([...this.#turns.values()]);
    this.#wake();
  }

  #lost(reason) {
    [this.#isOpen, this.#failure] = [false, this.#failure ?? (reason || "the connection ended")];
    if (!this.#isClosed) this.report.trouble("Live text is not available at the moment. The recording continues and is transcribed when it ends.");
    this.#wake();
  }

  #tell(event) { this.#socket.send(JSON.stringify(event)); }

  #send(block) {
    const bytes = new Uint8Array(block.buffer);
    let text = "";
    for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
    this.#tell({type: "input_audio_buffer.append", audio: btoa(text)});
  }

  #stopTracks() {
    for (const track of this.#stream.getTracks()) { track.onended = null; track.stop(); }
  }

  #close() {
    this.#isClosed = true;
    this.#stopTracks();
    this.#context?.close();
    this.#socket?.close();
  }

  /**
   * Ends the recording. Returns its audio as a WAV file, and its turns; null in place of the turns if the text of some
   * of it is missing.
   */
  async stop() {
    this.#stopTracks();
    // Some browsers never answer for a microphone that is gone.
    await Promise.race([this.#context.suspend().catch(() => {}), new Promise(resolve => { setTimeout(resolve, 1000); })]);
    const audio = this.#wav();
    if (this.#isOpen) {
      this.#tell({type: "input_audio_buffer.commit"});
      await this.#settled();
    }
    const isWhole = this.#isOpen && this.#failure === null && this.#isSettled();
    const {seconds} = this;
    this.#close();
    return {audio, seconds, turns: isWhole ? [...this.#turns.values()].filter(turn => turn.text) : null};
  }

  #isSettled() { return this.#isCommitted && [...this.#turns.values()].every(turn => turn.isDone); }

  #settled() {
    // Only a commit after the last audio counts.
    this.#isCommitted = false;
    return new Promise(resolve => {
      let timer = setTimeout(resolve, SILENT_MILLIS);
      this.#wake = () => {
        clearTimeout(timer);
        if (this.#isSettled() || !this.#isOpen) resolve();
        else timer = setTimeout(resolve, SILENT_MILLIS);
      };
    });
  }

  #wav() {
    const samples = this.#samples;
    const header = new DataView(new ArrayBuffer(44));
    const text = (at, letters) => [...letters].forEach((letter, index) => header.setUint8(at + index, letter.charCodeAt(0)));
    const rate = this.#context.sampleRate;
    text(0, "RIFF"); header.setUint32(4, 36 + samples * 2, true); text(8, "WAVEfmt ");
    header.setUint32(16, 16, true); header.setUint16(20, 1, true); header.setUint16(22, 1, true);
    header.setUint32(24, rate, true); header.setUint32(28, rate * 2, true);
    header.setUint16(32, 2, true); header.setUint16(34, 16, true);
    text(36, "data"); header.setUint32(40, samples * 2, true);
    return new Blob([header, ...this.#blocks], {type: "audio/wav"});
  }
}

/** The words of a turn with their probabilities, from its tokens. A token may end within a character. */
export function wordsOf(logprobs) {
  const words = [];
  for (const {bytes, logprob} of logprobs ?? []) {
    if (words.length === 0 || bytes[0] === 32) words.push({bytes: [], sum: 0, tokens: 0});
    const word = words.at(-1);
    word.bytes.push(...bytes);
    word.sum += logprob;
    word.tokens += 1;
  }
  return words.map(({bytes, sum, tokens}) => ({
    word: new TextDecoder().decode(new Uint8Array(bytes)).trim(),
    probability: Math.exp(sum / tokens),
  })).filter(({word}) => word !== "");
}

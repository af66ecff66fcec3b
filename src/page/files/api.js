// Requests to the server: the public API, nothing else.
import {kept} from "./dom.js";

const STORED = "uttera-stt.key";

export const key = {
  get: () => kept.get(STORED) ?? "",
  set: value => kept.set(STORED, value),
};

/** An error with what the server says of it. */
export class Failure extends Error {
  constructor(message, {status = 0, code = "", retryAfter = null, mayRetry = false} = {}) {
    super(message);
    Object.assign(this, {status, code, retryAfter, mayRetry});
  }
}

/** What a person can do about an error, beside what the server says. */
const ADVICE = {
  audio_decode_error: "Check that the file plays in a player.",
  upload_too_large: "Send a shorter part, or ask the operator to raise MAX_UPLOAD_MB.",
  audio_too_long: "Send it in parts, or ask the operator to raise MAX_AUDIO_SECONDS.",
  translation_unsupported: "Choose “Do not translate” in the options.",
  unsupported_language: "Choose another language in the options.",
  insufficient_quota: "Try again tomorrow, or use another key.",
  poison_audio: "Another format of the same recording may work.",
  not_found: "The address of this page may lead through a proxy that does not pass the API on.",
};

export const UNREACHABLE = "The server does not answer. Check that it runs and that this computer reaches it.";

/** Errors within a stream, which has no status, that may end by themselves. */
const PASSING = ["draining", "overloaded", "loading", "translation_backend", "internal_error"];

/** A message of the server as a sentence, with what a person can do. */
export function sentence({message, code}) {
  const begun = message.charAt(0).toUpperCase() + message.slice(1);
  const ended = /[.!?]$/.test(begun) ? begun : `${begun}.`;
  return ADVICE[code] ? `${ended} ${ADVICE[code]}` : ended;
}

function failureOf(status, headers, body) {
  let error = {};
  try { error = JSON.parse(body).error ?? {}; } catch { /* A proxy answered. */ }
  const after = Number.parseInt(headers("retry-after"), 10);
  const isPassing = [429, 502, 503, 504, 507].includes(status) && headers("x-should-retry") !== "false";
  return new Failure(error.message ? sentence(error) : `The server answered with status ${status}.`, {
    status,
    code: error.code ?? "",
    retryAfter: Number.isFinite(after) ? after : null,
    mayRetry: isPassing || (status === 0 && PASSING.includes(error.code)),
  });
}

const authorization = () => key.get() ? {Authorization: `Bearer ${key.get()}`} : {};

/** Sends a request and returns its JSON. */
export async function json(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {...options, headers: {...authorization(), ...options.headers}, credentials: "omit"});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(UNREACHABLE, {mayRetry: true});
  }
  if (!response.ok) throw failureOf(response.status, name => response.headers.get(name), await response.text());
  return response.json();
}

/** Sends a request for server-sent events and calls `each` with every one, until they end. */
export async function events(path, each, signal) {
  let response;
  try {
    response = await fetch(path, {headers: authorization(), credentials: "omit", signal});
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure(UNREACHABLE, {mayRetry: true});
  }
  if (!response.ok) throw failureOf(response.status, name => response.headers.get(name), await response.text());
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parse = parser(each);
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) parse(part.value);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure(UNREACHABLE, {mayRetry: true});
  }
}

/** Reads server-sent events from text that arrives in parts. */
function parser(each) {
  let rest = "";
  return text => {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ") && block !== "data: [DONE]") each(JSON.parse(block.slice(6)));
    }
  };
}

/**
 * Transcribes audio. Calls the functions of `report`: `sent(bytes, all)`, `waits({position, seconds})`,
 * `event(event)`. Returns the last event.
 */
export function transcribe(audio, name, options, report, signal) {
  const form = new FormData();
  form.append("stream", "true");
  form.append("include[]", "segments");
  if (options.words) form.append("timestamp_granularities[]", "word");
  if (options.language) form.append("language", options.language);
  if (options.prompt) form.append("prompt", options.prompt);
  form.append("vad_filter", options.vad);
  form.append("hallucination_guard", options.guard);
  if (options.multilingual) form.append("multilingual", "true");
  if (options.target) form.append("to_language", options.target);
  form.append("file", audio, name);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", options.target ? "v1/audio/translations" : "v1/audio/transcriptions");
    for (const [header, value] of Object.entries(authorization())) request.setRequestHeader(header, value);
    const header = header => request.getResponseHeader(header);
    let [last, failure, read] = [null, null, 0];
    const parse = parser(event => {
      if (event.error) failure = failureOf(0, () => null, JSON.stringify(event));
      else if (event.type === "transcript.text.done") last = event;
      report.event(event);
    });
    const more = () => {
      if (request.status !== 200) return;
      const text = request.responseText;
      parse(text.slice(read));
      read = text.length;
    };
    request.upload.onprogress = event => report.sent(event.loaded, event.total);
    request.upload.onload = event => report.sent(event.total, event.total);
    request.onreadystatechange = () => {
      if (request.readyState === XMLHttpRequest.HEADERS_RECEIVED && request.status === 200) {
        const [position, wait] = [header("x-queue-position"), header("x-queue-eta-ms")];
        report.waits({position: Number(position ?? 0), seconds: Number(wait ?? 0) / 1000});
      }
    };
    request.onprogress = more;
    request.onload = () => {
      more();
      if (request.status !== 200) reject(failureOf(request.status, header, request.responseText));
      else if (last && !failure) resolve(last);
      else reject(failure ?? new Failure("The connection was lost before the end of the text.", {mayRetry: true}));
    };
    request.onerror = async () => {
      // A file that was changed or deleted meanwhile looks like a server that does not answer.
      const isReadable = await audio.slice(0, 1).arrayBuffer().then(part => part.byteLength > 0, () => false);
      reject(isReadable ? new Failure(UNREACHABLE, {mayRetry: true}) : new Failure("This file can no longer be read. Choose it again."));
    };
    signal.addEventListener("abort", () => { request.abort(); reject(signal.reason); });
    if (signal.aborted) reject(signal.reason);
    else request.send(form);
  });
}

/** Opens a realtime session. */
export async function openSession() {
  const protocols = ["realtime"];
  if (key.get()) {
    // A key may have characters that the name of a protocol may not have; an ephemeral one has none.
    const secret = await json("v1/realtime/client_secrets", {
      method: "POST",
      headers: {"Content-Type": "application/json"},
      body: JSON.stringify({session: {type: "transcription"}}),
    });
    protocols.push(`openai-insecure-api-key.${secret.value}`);
  }
  const url = new URL("v1/realtime", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = "?intent=transcription";
  return new WebSocket(url, protocols);
}

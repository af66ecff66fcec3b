// What OpenAI's own client for Node makes of the server.
//
// Usage: node openai_client.mjs CHECK, with BASE_URL, API_KEY and FILE in the environment. A check that fails throws;
// one that has something to tell prints it as JSON.

import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";

// The package lies in the folder in which the program runs, not beside this file.
const load = createRequire(`${process.cwd()}/`);
const { default: OpenAI, toFile } = load("openai");

const { BASE_URL: baseURL, API_KEY: apiKey, FILE } = process.env;
const api = (more = {}) => new OpenAI({ baseURL, apiKey, maxRetries: 0, ...more });
const file = () => fs.createReadStream(FILE);
const transcribe = (fields = {}, options = {}, client = api()) =>
  client.audio.transcriptions.create({ model: "whisper-1", file: file(), ...fields }, options);

/** Every format, all lists and the object that the client writes as several fields. */
async function formats() {
  const { text, usage } = await transcribe();
  assert.equal(usage.type, "duration");
  const verbose = await transcribe({
    response_format: "verbose_json",
    timestamp_granularities: ["word", "segment"],
    chunking_strategy: { type: "server_vad", threshold: 0.5 },
  });
  assert.equal(verbose.text, text);
  assert.equal(verbose.words.map((word) => word.word).join(" "), text);
  assert.ok(verbose.segments.length > 0);
  assert.ok((await transcribe({ include: ["logprobs"] })).logprobs.length > 0);
  assert.equal((await transcribe({ response_format: "text" })).trim(), text);
  assert.match(await transcribe({ response_format: "srt" }), /^1\n00:00:0/);
  assert.match(await transcribe({ response_format: "vtt" }), /^WEBVTT\n\n00:00:0/);
  const bytes = await toFile(fs.readFileSync(FILE), "Gespräch \"1\".wav");
  assert.equal((await transcribe({ file: bytes })).text, text);
  return text;
}

/** The events of a stream; a format that cannot be streamed arrives as without `stream`. */
async function streaming() {
  const events = [];
  for await (const event of await transcribe({ stream: true })) events.push(event);
  const done = events.pop();
  assert.equal(done.type, "transcript.text.done");
  assert.equal(events.map((event) => event.delta).join(""), done.text);
  const plain = await transcribe({ stream: true, response_format: "verbose_json" }).asResponse();
  assert.equal(plain.status, 200);
  assert.equal((await plain.json()).text, done.text);
  return done.text;
}

/** Models, errors as the classes that programs catch, and request ids. */
async function errors() {
  const ids = [];
  for await (const model of api().models.list()) ids.push(model.id);
  assert.ok(ids.includes("whisper-1"));
  for (const [kind, code, fields] of [
    [OpenAI.BadRequestError, "unsupported_language", { language: "klingon" }],
    [OpenAI.UnprocessableEntityError, "invalid_value", { response_format: "xml" }],
  ]) {
    await assert.rejects(transcribe(fields), (error) => {
      assert.ok(error instanceof kind && error.requestID, error);
      assert.equal(error.code, code);
      return true;
    });
  }
  const wrong = api({ apiKey: "wrong" });
  await assert.rejects(transcribe({}, {}, wrong), OpenAI.AuthenticationError);
  // A base URL without the version, or with it twice: the message names the path.
  for (const url of [baseURL.replace(/\/v1$/, ""), `${baseURL}/v1`]) {
    await assert.rejects(transcribe({}, {}, api({ baseURL: url })), / \/v1\/audio\/transcriptions$/);
  }
  assert.ok((await transcribe({}, {}, api({ baseURL: `${baseURL}/` }))).text);
}

/** A time limit that is shorter than the work, with many retries: how often it tried, and the text. */
async function impatience() {
  const limits = { timeout: Number(process.env.LIMIT_MS ?? 5000), maxRetries: 10 };
  let tries = 0;
  const counted = (...request) => (tries++, fetch(...request));
  const client = api({ ...limits, fetch: counted });
  // A stream can be sent once only.
  const bytes = await toFile(fs.readFileSync(FILE), "speech");
  const { text } = await transcribe({ file: bytes }, {}, client);
  return { tries, text };
}

/** A realtime session over TLS, which the client demands, and with a model in the URL, which it demands as well. */
async function realtime() {
  const { OpenAIRealtimeWS } = load("openai/realtime/ws");
  const connection = new OpenAIRealtimeWS({ model: "whisper-1" }, api());
  const samples = fs.readFileSync(FILE).subarray(44);
  return await new Promise((resolve, reject) => {
    connection.on("error", reject);
    connection.on("session.created", (event) => {
      assert.equal(event.session.audio.input.transcription.model, "whisper-1");
      const input = { format: { type: "audio/pcm", rate: 16000 }, turn_detection: null };
      connection.send({ type: "session.update", session: { type: "transcription", audio: { input } } });
    });
    connection.on("session.updated", () => {
      for (let begin = 0; begin < samples.length; begin += 3200) {
        const audio = samples.subarray(begin, begin + 3200).toString("base64");
        connection.send({ type: "input_audio_buffer.append", audio });
      }
      connection.send({ type: "input_audio_buffer.commit" });
    });
    connection.on("conversation.item.input_audio_transcription.completed", (event) => {
      connection.socket.on("close", (code) => {
        assert.equal(code, 1000);
        resolve(event.transcript);
      });
      connection.close();
    });
  });
}

const told = await { formats, streaming, errors, impatience, realtime }[process.argv[2]]();
if (told !== undefined) console.log(JSON.stringify(told));

// What people do with the page.
import assert from "node:assert/strict";
import {readFile} from "node:fs/promises";
import {accessible, ask, run, settings, shot, visit} from "./harness.mjs";

const words = text => text.toLowerCase().replace(/[^\p{L}\p{N}\s]/gu, " ").split(/\s+/).filter(Boolean);

/** The share of the expected words that the text has. */
function share(text, expected) {
  const said = new Set(words(text));
  const wanted = words(expected);
  return wanted.filter(word => said.has(word)).length / wanted.length;
}

const cards = page => page.locator("#cards > details");
const choose = (page, ...files) => page.locator("#files").setInputFiles(files);
/** Drops files on the page, as from a folder. */
async function drop(page, ...files) {
  const dropped = await Promise.all(files.map(async file => [file.split("/").at(-1), (await readFile(file)).toString("base64")]));
  await page.evaluate(files => {
    const dataTransfer = new DataTransfer();
    for (const [name, base64] of files) {
      dataTransfer.items.add(new File([Uint8Array.from(atob(base64), letter => letter.charCodeAt(0))], name));
    }
    for (const kind of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true}));
  }, dropped);
}
const text = card => card.locator(".text");
const hasText = (card, expected) => text(card).waitFor().then(async () => {
  const found = (await card.locator(".segment > p").allTextContents()).join(" ");
  assert.ok(share(found, expected) > 0.8, `${found} is not ${expected}`);
});

/** Downloads a transcript and returns the file's name and content. */
async function download(page, card, format) {
  const [file] = await Promise.all([page.waitForEvent("download"), card.getByRole("button", {name: `Download as ${format}`}).click()]);
  return [file.suggestedFilename(), await readFile(await file.path(), "utf8")];
}

/** Enters the key, if the test has one. */
async function signIn(page) {
  if (!settings.key) return;
  await page.getByRole("dialog").getByLabel("Key", {exact: true}).fill(settings.key);
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor({state: "hidden"});
}

await run({
  /** Two files at once: progress, text, details, downloads, edits, history. */
  async files() {
    await visit(async (page, context) => {
      await page.getByText(/^Ready/).waitFor();
      await shot(page, "empty");
      await accessible(page);
      await drop(page, settings.command, settings.long);
      const [command, long] = [cards(page).nth(0), cards(page).nth(1)];
      await hasText(command, settings.commandText);
      await hasText(long, settings.longText);
      await shot(page, "two-files");
      await accessible(page);
      const facts = await command.locator(".facts").innerText();
      assert.match(facts, /English \(\d+ %\)/);
      assert.match(facts, /lane HOT/);
      assert.match(facts, /model base/);
      assert.match(facts, /took (less than )?\d/);
      assert.ok(await long.locator(".word[title$='%']").count() > 10);

      // A segment in the middle: what plays is what was clicked.
      const segments = long.locator(".segment");
      const number = await segments.count();
      assert.ok(number > 3, `${number} segments`);
      const [name, srt] = await download(page, long, "srt");
      assert.equal(name, "en-long.srt");
      const cues = srt.trim().split("\n\n").map(cue => cue.split("\n"));
      assert.equal(cues.length, number);
      const seconds = time => time.split(/[:,]/).reduce((sum, part, index) => sum + part * [3600, 60, 1, 0.001][index], 0);
      const times = cues.map(cue => cue[1].split(" --> ").map(seconds));
      times.forEach(([start, end], index) => assert.ok(start <= end && (index === 0 || start >= times[index - 1][0])));
      const middle = Math.floor(number / 2);
      const sound = long.locator("audio");
      const canvas = long.locator("canvas");
      const box = await canvas.boundingBox();
      const duration = await sound.evaluate(sound => sound.duration);
      const [from, to] = times[middle];
      // Slowly, so that a slow machine looks in time.
      await sound.evaluate(sound => { sound.playbackRate = 0.1; });
      await canvas.click({position: {x: (from + to) / 2 / duration * box.width, y: box.height / 2}});
      await page.waitForFunction(([start, end]) => {
        const sound = document.querySelectorAll("audio")[1];
        return !sound.paused && sound.currentTime >= start - 0.01 && sound.currentTime < end;
      }, [from, to]);
      await page.waitForFunction(index => document.querySelectorAll("#cards > details")[1]
        .querySelectorAll(".segment")[index].getAttribute("aria-current") === "true", middle);
      await shot(page, "playing");
      await sound.evaluate(sound => sound.pause());
      // The same with the keyboard.
      await segments.nth(1).getByRole("button").focus();
      await page.keyboard.press("Enter");
      await page.waitForFunction(start => Math.abs(document.querySelectorAll("audio")[1].currentTime - start) < 1.5, times[1][0]);
      await sound.evaluate(sound => sound.pause());

      // The other formats.
      const [, vtt] = await download(page, long, "vtt");
      assert.equal(vtt.split("\n")[0], "WEBVTT");
      assert.equal(vtt.match(/ --> /g).length, number);
      const [, txt] = await download(page, long, "txt");
      assert.ok(share(txt, settings.longText) > 0.8);
      const json = JSON.parse((await download(page, long, "json"))[1]);
      assert.equal(json.segments.length, number);
      assert.equal(json.language, "english");
      assert.equal(json.text, txt.trim());
      assert.ok(json.words.every(word => word.start <= word.end && word.probability <= 1));

      // A browser that cannot delete says so.
      await page.evaluate(() => {
        globalThis.clear = IDBObjectStore.prototype.clear;
        IDBObjectStore.prototype.clear = () => { throw new Error("no"); };
      });
      page.once("dialog", dialog => dialog.accept());
      await page.getByRole("button", {name: "Delete all"}).click();
      await page.getByText("The browser could not delete them").waitFor();
      assert.equal(await cards(page).count(), 2);
      await page.evaluate(() => { IDBObjectStore.prototype.clear = globalThis.clear; });

      // An edit is in the copy and in the downloads.
      await command.getByRole("button", {name: "Edit"}).click();
      await command.getByRole("textbox").fill("An edited text.");
      // It is stored while one types. (`waitForFunction` would take a promise for a yes.)
      await page.evaluate(async () => {
        const stored = () => new Promise((resolve, reject) => {
          const opening = indexedDB.open("uttera-stt", 1);
          opening.onerror = () => reject(opening.error);
          opening.onsuccess = ({target}) => {
            const all = target.result.transaction("transcripts").objectStore("transcripts").getAll();
            all.onsuccess = () => { target.result.close(); resolve(all.result); };
          };
        });
        const isStored = transcripts => transcripts.some(({segments}) => segments.some(({text}) => text.includes("An edited text.")));
        while (!isStored(await stored())) await new Promise(requestAnimationFrame);
      });
      await accessible(page);
      await shot(page, "editing");
      await command.getByRole("button", {name: "Done"}).click();
      assert.equal((await download(page, command, "txt"))[1], "An edited text.\n");
      await context.grantPermissions(["clipboard-read", "clipboard-write"]);
      await command.getByRole("button", {name: "Copy"}).click();
      await command.getByRole("button", {name: "Copied"}).waitFor();
      assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "An edited text.");

      // The history outlives the page, with the sound, and ends with one button.
      await page.reload();
      const restored = cards(page).filter({hasText: "An edited text."});
      await restored.waitFor();
      await shot(page, "history");
      await restored.locator("summary").click();
      await restored.locator("audio").waitFor();
      await accessible(page);
      page.on("dialog", dialog => dialog.accept());
      await page.getByRole("button", {name: "Delete all"}).click();
      await page.getByText("There are none yet").waitFor();
      await page.reload();
      await page.getByText("There are none yet").waitFor();
    });
  },

  /** Speaking: text while one speaks, and a transcript that plays. */
  async speak() {
    await visit(async page => {
      await signIn(page);
      await page.getByRole("button", {name: "Record"}).click();
      const live = page.getByRole("region", {name: "Live text"});
      // The last words of the recording appear while it still runs.
      const last = words(settings.spokenText).at(-1);
      await live.getByText(new RegExp(last, "i")).waitFor();
      await shot(page, "speaking");
      await accessible(page);
      await page.getByRole("button", {name: "Stop"}).click();
      const card = cards(page).first();
      await hasText(card, settings.spokenText);
      assert.match(await card.locator(".facts").innerText(), /lane live/);
      assert.ok(await card.locator(".word[title$='%']").count() > 3);
      await card.locator(".segment").first().getByRole("button").click();
      await page.waitForFunction(() => document.querySelector("audio").currentTime > 0.2);
      const json = JSON.parse((await download(page, card, "json"))[1]);
      assert.ok(json.duration > 1 && json.segments.every(segment => segment.end <= json.duration));
    }, {mayFail: true});
  },

  /** A slow connection: what was said before Stop is in the text, although it arrives long after. */
  async speakSlowly() {
    await visit(async page => {
      // What the page sends is two seconds late.
      await page.routeWebSocket(/realtime/, socket => {
        const server = socket.connectToServer();
        socket.onMessage(message => { setTimeout(() => server.send(message), 2000); });
        server.onMessage(message => socket.send(message));
      });
      await page.reload();
      await page.getByRole("button", {name: "Record"}).click();
      const last = words(settings.spokenText).at(-1);
      await page.getByRole("region", {name: "Live text"}).getByText(new RegExp(last, "i")).waitFor();
      // The microphone disappears: the recording ends by itself.
      await page.evaluate(() => globalThis.track.dispatchEvent(new Event("ended")));
      const card = cards(page).first();
      await hasText(card, settings.spokenText);
      await page.getByText("The microphone is gone.").waitFor();
    }, {init: () => {
      const get = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = async wanted => {
        const stream = await get(wanted);
        [globalThis.track] = stream.getTracks();
        return stream;
      };
    }});
  },

  /** Speaking where no live session is to be had: the recording is sent when it ends. */
  async speakWithoutSession() {
    await visit(async page => {
      await page.getByRole("button", {name: "Record"}).click();
      await page.getByText(/Live text is not available/).waitFor();
      await shot(page, "no-session");
      await page.waitForFunction(() => document.querySelector("#live-time").textContent >= "0:04");
      // The server stops as well: the recording waits, and outlives the page.
      await ask("stop");
      await page.getByRole("button", {name: "Stop"}).click();
      const card = cards(page).first();
      await card.getByText(/tries again by itself/).waitFor();
      const asked = [];
      page.on("dialog", dialog => { asked.push(dialog.type()); dialog.accept(); });
      await ask("start");
      await page.reload();
      assert.ok(asked.length <= 1, `${asked}`);
      await card.locator("summary").waitFor();
      if (await card.evaluate(card => !card.open)) await card.locator("summary").click();
      const transcribe = card.getByRole("button", {name: "Transcribe", exact: true});
      // The page may have got the text before it was loaded again.
      await card.locator(".segment").or(transcribe).first().waitFor();
      if (await card.locator(".segment").count() === 0) await transcribe.click();
      await card.locator(".segment").first().waitFor();
      assert.match(await card.locator(".facts").innerText(), /lane HOT/);
      assert.equal(await cards(page).count(), 1);
      const [sound] = await Promise.all([page.waitForEvent("download"), card.getByRole("button", {name: "Download the sound"}).click()]);
      assert.equal((await readFile(await sound.path())).subarray(0, 4).toString(), "RIFF");
    }, {mayFail: true});
  },

  /** Plain HTTP from another machine: there is no microphone, and the page says why. */
  async withoutMicrophone() {
    const url = settings.url.replace("127.0.0.1", "stt.test");
    await visit(async page => {
      await page.getByText(/only to pages over HTTPS.*ssh -L/s).waitFor();
      assert.ok(await page.getByRole("button", {name: "Record"}).isDisabled());
      await shot(page, "no-microphone");
      await accessible(page);
      await choose(page, settings.command);
      await hasText(cards(page).first(), settings.commandText);
      await cards(page).first().getByRole("button", {name: "Copy"}).click();
      await page.getByRole("button", {name: "Copied"}).waitFor();
    }, {url, flags: ["--host-resolver-rules=MAP stt.test 127.0.0.1"]});
  },

  /** HTTPS by the server itself, from a host name that is not localhost: there is a microphone, and live text. */
  async speakOverHttps() {
    const url = settings.url.replace("127.0.0.1", "stt.test");
    await visit(async page => {
      await page.getByText(/^Ready/).waitFor();
      assert.ok(await page.evaluate(() => window.isSecureContext));
      await page.getByRole("button", {name: "Record"}).click();
      const last = words(settings.spokenText).at(-1);
      await page.getByRole("region", {name: "Live text"}).getByText(new RegExp(last, "i")).waitFor();
      await page.getByRole("button", {name: "Stop"}).click();
      await hasText(cards(page).first(), settings.spokenText);
      assert.match(await cards(page).first().locator(".facts").innerText(), /lane live/);
    }, {url, flags: ["--host-resolver-rules=MAP stt.test 127.0.0.1"], context: {ignoreHTTPSErrors: true}});
  },

  /** A server with keys: the page asks, and asks again after a wrong one. */
  async key() {
    await visit(async page => {
      const dialog = page.getByRole("dialog");
      const enter = async key => {
        await dialog.getByLabel("Key", {exact: true}).fill(key);
        await page.keyboard.press("Enter");
      };
      await dialog.waitFor();
      await shot(page, "key");
      await accessible(page);
      await enter("ключ");
      await dialog.getByText(/no letters with accents/).waitFor();
      await enter("wrong");
      await dialog.getByText(/Enter another key/).waitFor();
      await dialog.getByRole("button", {name: "Cancel"}).click();
      // A file asks again, and goes on with the right key.
      await choose(page, settings.command);
      await dialog.waitFor();
      await enter(settings.key);
      await hasText(cards(page).first(), settings.commandText);
      await page.reload();
      await choose(page, settings.command);
      await hasText(cards(page).first(), settings.commandText);
      await page.getByRole("button", {name: "Change key"}).waitFor();
    }, {mayFail: true});
  },

  /** The server stops and comes back: the file that waited is transcribed by itself. */
  async stopped() {
    await visit(async page => {
      await page.getByText(/^Ready/).waitFor();
      await ask("stop");
      await choose(page, settings.command);
      const card = cards(page).first();
      await card.getByText(/does not answer.*tries again by itself.*In \d+ s/s).waitFor();
      await page.locator("#server").getByText(/does not answer/).waitFor();
      await shot(page, "stopped");
      await accessible(page);
      await ask("start");
      await hasText(card, settings.commandText);
      await page.getByText(/^Ready/).waitFor();
    }, {mayFail: true});
  },

  /** A full queue: the page waits as long as the server says, and tries again by itself; one file is cancelled. */
  async full() {
    await visit(async page => {
      await page.getByText(/^Ready/).waitFor();
      await choose(page, settings.command, settings.long, settings.command);
      const cancelled = cards(page).filter({hasText: "en-long.ogg"});
      const refused = page.getByText(/tries again by itself. In \d+ s/).first();
      await refused.waitFor();
      await shot(page, "full");
      await accessible(page);
      await cancelled.getByRole("button", {name: "Cancel"}).click();
      await cancelled.getByRole("status").getByText("Cancelled.").waitFor();
      await ask("continue");
      const done = cards(page).filter({hasText: "en-command.wav"});
      await hasText(done.nth(0), settings.commandText);
      await hasText(done.nth(1), settings.commandText);
      await cancelled.getByRole("button", {name: "Try again"}).click();
      await hasText(cancelled, settings.longText);
    }, {mayFail: true});
  },

  /** Other requests wait: the page says how many, and a file that is cancelled leaves the queue. */
  async queue() {
    await visit(async page => {
      await choose(page, settings.command);
      const card = cards(page).first();
      await card.getByText(/Waiting behind [1-9]\d* other requests?, about/).waitFor();
      await shot(page, "queue");
      await accessible(page);
      await card.getByRole("button", {name: "Cancel"}).click();
      await card.getByRole("status").getByText("Cancelled.").waitFor();
      await ask("cancelled");
      await card.getByRole("button", {name: "Try again"}).click();
      await hasText(card, settings.commandText);
    });
  },

  /** Options: kept in the browser, sent with the file; errors are sentences. */
  async options() {
    await visit(async page => {
      await page.locator("#options > summary").click();
      await shot(page, "options");
      await accessible(page);
      await page.getByLabel("Spoken language").selectOption({label: "Spanish"});
      await page.getByLabel("Translate into").selectOption({label: "English"});
      await page.getByLabel("Times and certainty of each word").uncheck();
      await page.reload();
      await page.getByText("Spanish, translated into English").waitFor();
      await choose(page, settings.spanish);
      const card = cards(page).first();
      await card.locator(".segment").first().waitFor();
      assert.match(await card.locator(".facts").innerText(), /translated/);
      assert.equal(await card.locator(".word").count(), 0);
      // LibreTranslate is not there: the server says what is missing.
      await page.locator("#options > summary").click();
      await page.getByLabel("Translate into").selectOption({label: "German"});
      await choose(page, settings.spanish);
      await cards(page).first().getByRole("status").getByText(/LIBRETRANSLATE_URL/).waitFor();
      await shot(page, "error");
      await page.getByRole("button", {name: "Reset options"}).click();
      await page.getByText("language detected").waitFor();
      // Two files, dropped on the page, of which none is a recording.
      await page.evaluate(() => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File(["this is no recording"], "letter.txt"));
        dataTransfer.items.add(new File(["nor is this"], "second.txt"));
        for (const kind of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true}));
      });
      const broken = cards(page).filter({hasText: "letter.txt"});
      await broken.getByRole("status").getByText(/Check that the file plays/).waitFor();
      await cards(page).filter({hasText: "second.txt"}).getByRole("status").getByText(/Check that the file plays/).waitFor();
      await broken.getByRole("button", {name: "Remove"}).click();
      await broken.waitFor({state: "detached"});
    }, {mayFail: true});
  },

  /** A browser that keeps nothing for pages, and a file that is gone before it is sent. */
  async withoutStorage() {
    await visit(async page => {
      await page.getByText(/^Ready/).waitFor();
      await page.getByText("The history of this browser cannot be read: refused").waitFor();
      await choose(page, settings.command, settings.command, settings.vanishing);
      const lost = cards(page).filter({hasText: "vanishing.wav"});
      await lost.getByText(/Waiting until other files are sent/).waitFor();
      await ask("vanish");
      await lost.getByRole("status").getByText(/can no longer be read/).waitFor();
      await hasText(cards(page).first(), settings.commandText);
      await page.getByText(/keeps no history/).first().waitFor();
    }, {mayFail: true, init: () => {
      const refuse = () => { throw new DOMException("refused", "SecurityError"); };
      Object.defineProperty(globalThis, "localStorage", {get: refuse});
      indexedDB.open = refuse;
    }});
  },

  /** The server stops in the middle of a stream, and the rest comes from the one that is started after it. */
  async restarted() {
    await visit(async page => {
      await choose(page, settings.hour);
      const card = cards(page).first();
      await card.getByText("Transcribing …").waitFor();
      await ask("stop");
      await card.getByText(/tries again by itself/).waitFor();
      await ask("start");
      await card.getByText("Transcribing …").waitFor();
      await card.getByRole("button", {name: "Cancel"}).click();
      await card.getByRole("status").getByText("Cancelled.").waitFor();
    }, {mayFail: true});
  },

  /** A phone, with a recording of three hours in the history and one that is written from right to left. */
  async phone() {
    await visit(async page => {
      await page.getByText(/^Ready/).waitFor();
      await page.evaluate(() => new Promise((resolve, reject) => {
        const request = indexedDB.open("uttera-stt", 1);
        request.onerror = () => reject(request.error);
        request.onsuccess = () => {
          const keeping = request.result.transaction("transcripts", "readwrite");
          const line = "a line of a very long conversation that goes on for hours";
          const many = Array.from({length: 3600}, (_, index) => ({start: index * 3, end: index * 3 + 2.8, text: ` ${index} ${line}`}));
          const arabic = [" مرحبا، هذا نص طويل يكتب من اليمين إلى اليسار.", " وهذا سطر آخر."].map((text, index) => ({start: index, end: index + 1, text}));
          const base = {task: "transcribe", model: "base", route: "HOT", seconds: 90, removed: []};
          const keep = record => keeping.objectStore("transcripts").put({...base, ...record});
          keep({id: "1", name: "three-hours.flac", created: 1, language: "english", duration: 10_800, segments: many});
          keep({id: "2", name: "a-name-without-any-space-that-is-much-longer-than-the-screen-of-a-phone-is-wide.webm", created: 2, language: "arabic", duration: 2, segments: arabic});
          keeping.oncomplete = resolve;
        };
      }));
      await page.reload();
      const [arabic, hours] = [cards(page).nth(0), cards(page).nth(1)];
      await arabic.locator("summary").tap();
      await arabic.locator(".segment").first().waitFor();
      assert.equal(await arabic.locator(".segment > p").first().evaluate(line => getComputedStyle(line).direction), "rtl");
      await shot(page, "phone-right-to-left");
      await accessible(page);
      await hours.locator("summary").tap();
      await hours.locator(".segment:nth-child(3600)").waitFor({state: "attached"});
      assert.equal(await hours.locator(".segment:nth-child(3600) > button").textContent(), "2:59:57");
      await shot(page, "phone-hours");
      await choose(page, settings.command);
      await hasText(cards(page).first(), settings.commandText);
      const [width, needed] = await page.evaluate(() => [innerWidth, document.documentElement.scrollWidth]);
      assert.ok(needed <= width, `${needed} of ${width} pixels`);
    }, {context: {viewport: {width: 360, height: 740}, isMobile: true, hasTouch: true}});
  },
});

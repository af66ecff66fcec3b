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

await run({
  /** Two files at once: progress, text, details, downloads, edits, history. */
  async files() {
    await visit(async (page, context) => {
      await page.getByText(/^Ready/).waitFor();
      await shot(page, "empty");
      await accessible(page);
      await choose(page, settings.command, settings.long);
      const [long, command] = [cards(page).nth(0), cards(page).nth(1)];
      await hasText(command, settings.commandText);
      await hasText(long, settings.longText);
      await shot(page, "two-files");
      await accessible(page);
      const facts = await command.locator(".facts").innerText();
      assert.match(facts, /English/);
      assert.match(facts, /lane HOT/);
      assert.match(facts, /model tiny\.en/);
      assert.match(facts, /took \d/);
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
      await canvas.click({position: {x: (from + to) / 2 / duration * box.width, y: box.height / 2}});
      await page.waitForFunction(([start, end]) => {
        const sound = document.querySelectorAll("audio")[0];
        return !sound.paused && sound.currentTime >= start - 0.01 && sound.currentTime < end + 1;
      }, [from, to]);
      await page.waitForFunction(index => [...document.querySelectorAll("#cards > details")][0]
        .querySelectorAll(".segment")[index].getAttribute("aria-current") === "true", middle);
      await shot(page, "playing");
      await sound.evaluate(sound => sound.pause());
      // The same with the keyboard.
      await segments.nth(1).getByRole("button").focus();
      await page.keyboard.press("Enter");
      await page.waitForFunction(start => Math.abs(document.querySelectorAll("audio")[0].currentTime - start) < 1.5, times[1][0]);
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

      // An edit is in the copy and in the downloads.
      await command.getByRole("button", {name: "Edit"}).click();
      await command.getByRole("textbox").fill("An edited text.");
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
});

// What people see on the board.
import assert from "node:assert/strict";
import {accessible, ask, run, settings, shot, visit} from "./harness.mjs";

const PHONE = {viewport: {width: 360, height: 740}};
const lane = (page, name) => page.locator("#lanes > li").filter({hasText: name});

/** Nothing is wider than the screen, except what scrolls by itself. */
async function fits(page) {
  const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(inner <= outer, `${inner} pixels on ${outer}`);
}

await run({
  /** Lanes, history, warnings, nodes and the end, as the test makes them happen. */
  async look() {
    await visit(async page => {
      await page.getByText(/^Ready/).waitFor();
      await lane(page, "hot-1").getByText("idle").waitFor();
      await page.getByText("No request ended.").waitFor();
      await page.getByText("There are none since the server started.").waitFor();
      await page.locator("#nodes tr").filter({hasText: "kitchen"}).waitFor();
      await shot(page, "board-idle");
      await accessible(page);

      await ask("work");
      await lane(page, "hot-1").getByText("busy").waitFor();
      await lane(page, "hot-1").getByText(/a short request: \d/).waitFor();
      await page.getByText(/live, 14 short/).waitFor();
      await lane(page, "cold-1").waitFor();
      await shot(page, "board-busy");
      await ask("go on");
      await page.getByText(/^32 requests, 2\.1 a minute\./).waitFor();
      await page.getByText(/^Latest: half took at most/).waitFor();
      assert.ok(await page.locator("#requests rect").count() > 0);
      assert.ok(await page.locator("#latency rect").count() > 1);

      await ask("fail");
      await page.locator("#warnings > li").filter({hasText: "the hot worker failed"}).waitFor();
      await lane(page, "hot-2").getByText("idle").waitFor();
      await shot(page, "board-warning");
      await accessible(page);
      await fits(page);

      // Records expire sooner than they are read again; that the node is there stays true.
      assert.equal(await page.locator("#nodes tr").count(), 1);
      await ask("stop");
      await page.getByText(/Trying again/).waitFor();
      await page.locator("#board.stale").waitFor();
      await shot(page, "board-stopped");
    }, {path: "board", mayFail: true});
  },

  /** On a phone, with a key. */
  async key() {
    await visit(async page => {
      const dialog = page.getByRole("dialog");
      await dialog.getByLabel("Key", {exact: true}).fill("wrong");
      await page.keyboard.press("Enter");
      await dialog.getByText(/Enter another key/).waitFor();
      await shot(page, "board-key-phone");
      await dialog.getByLabel("Key", {exact: true}).fill(settings.key);
      await page.keyboard.press("Enter");
      await dialog.waitFor({state: "hidden"});
      await lane(page, "hot-1").getByText("idle").waitFor();
      await shot(page, "board-phone");
      await accessible(page);
      await fits(page);
    }, {path: "board", context: PHONE, mayFail: true});
  },
});

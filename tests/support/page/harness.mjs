// A real browser for the tests of the page and the board: Chromium, driven by playwright-core.
//
// Run as `node SCENARIOS.mjs SCENARIO '{"url": …}'`, in a folder with playwright-core and axe-core. `microphone` is a
// WAV file that the browser plays as its microphone; `chromium` the program; `shots` a folder for screenshots.
import assert from "node:assert/strict";
import {createRequire} from "node:module";
import {readFileSync} from "node:fs";

const require = createRequire(`${process.cwd()}/`);
const {chromium} = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

export const settings = JSON.parse(process.argv[3] ?? "{}");
/** Time limit of one wait, in milliseconds. It is never the length of a successful test. */
const PATIENCE = settings.patience ?? 60_000;
/** What the browser itself reports of refused requests, which some tests cause. */
const FAILED_LOAD = /^Failed to load resource|^WebSocket connection to .* failed/;

/** Opens a page and does the work on it; checks that the page asked no other host and reported no error. */
export async function visit(work, {path = "", context: options = {}, flags = [], mayFail = false, url = settings.url, init = null} = {}) {
  const browser = await chromium.launch({
    executablePath: settings.chromium,
    args: [
      "--no-sandbox", "--disable-quic", "--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream",
      "--use-fake-device-for-media-stream", `--use-file-for-fake-audio-capture=${settings.microphone}%noloop`, ...flags,
    ],
  });
  try {
    const context = await browser.newContext({acceptDownloads: true, ...options});
    context.setDefaultTimeout(PATIENCE);
    if (init) await context.addInitScript(init);
    const page = await context.newPage();
    const [errors, hosts] = [[], new Set()];
    page.on("console", message => { if (["error", "warning"].includes(message.type())) errors.push(message.text()); });
    page.on("pageerror", error => errors.push(String(error)));
    page.on("request", request => {
      const {protocol, host} = new URL(request.url());
      if (!["blob:", "data:"].includes(protocol)) hosts.add(host);
    });
    page.on("websocket", socket => hosts.add(new URL(socket.url()).host));
    await page.goto(url + path);
    try {
      await work(page, context);
    } catch (error) {
      const shown = await page.locator("body").innerText({timeout: 5000}).catch(String);
      console.error(`The page shows:\n${shown.slice(0, 3000)}\nIts errors: ${errors.join("; ")}`);
      throw error;
    }
    const unexpected = errors.filter(error => !(mayFail && FAILED_LOAD.test(error)));
    assert.deepEqual(unexpected, [], "the console has errors");
    assert.deepEqual([...hosts], [new URL(url).host], "another host was asked");
  } finally {
    await browser.close();
  }
}

/** Checks the page with axe-core, in both themes. */
export async function accessible(page) {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({colorScheme});
    // The policy of the page forbids foreign scripts, but not those of the browser's driver.
    const found = await page.evaluate(`${axe}; axe.run(document, {resultTypes: ["violations"]})`);
    const violations = found.violations.map(({id, help, nodes}) =>
      `${id}: ${help}: ${nodes.map(node => `${node.html} (${node.failureSummary})`).join(" | ")}`);
    assert.deepEqual(violations, [], `in the ${colorScheme} theme`);
  }
  await page.emulateMedia({colorScheme: "light"});
}

let shots = 0;

/** Keeps a screenshot, if there is a folder for them. */
export async function shot(page, name) {
  if (!settings.shots) return;
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({colorScheme});
    await page.screenshot({path: `${settings.shots}/${String(shots++).padStart(2, "0")}-${name}-${colorScheme}.png`, fullPage: true});
  }
  await page.emulateMedia({colorScheme: "light"});
}

/** Asks the test for something that only it can do, and waits for its answer. */
export function ask(what) {
  console.log(`ask ${what}`);
  return new Promise(resolve => {
    process.stdin.once("data", () => { process.stdin.pause(); resolve(); });
    process.stdin.resume();
  });
}

/** Runs the scenario that the command line names. */
export async function run(scenarios) {
  const scenario = scenarios[process.argv[2]];
  assert.ok(scenario, `scenarios: ${Object.keys(scenarios).join(", ")}`);
  try {
    await scenario();
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
  process.exit(0);
}

/**
 * The cpu device in a browser, where one is installed: in a page that is isolated from others, with threads, and in one that is
 * not. The bits are those of this runtime.
 */
import { build } from "esbuild";
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { runtime } from "../src/host/host.ts";
import { trainingBits } from "./training-bits.ts";

const browser = process.platform === "linux"
  ? ["chromium", "chromium-browser", "google-chrome"].find((name) => spawnSync(name, ["--version"]).status === 0)
  : undefined;

const page = `<!doctype html><script type="module">
const say = (text) => fetch("/said", { method: "POST", body: text });
try {
  const { trainingBits } = await import("/program.js");
  const bits = [];
  for (const threads of [1, 3]) bits.push(await trainingBits(threads));
  await say(JSON.stringify({ isolated: crossOriginIsolated, bits }));
} catch (error) {
  await say(String(error?.stack ?? error));
}
</script>`;

/** What a page says that does this, with the headers that isolate it or without. */
async function inBrowser(program: Uint8Array, isolated: boolean): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "shardwise-browser-"));
  let heard: (text: string) => void = () => {};
  const said = new Promise<string>((resolve) => heard = resolve);
  const server = createServer((request, response) => {
    if (isolated) {
      response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    }
    if (request.method === "POST") {
      let text = "";
      request.setEncoding("utf8").on("data", (part: string) => text += part).on("end", () => heard(text));
      response.end();
    } else if (request.url === "/program.js") {
      response.setHeader("Content-Type", "text/javascript").end(program);
    } else response.setHeader("Content-Type", "text/html").end(page);
  });
  await new Promise<void>((resolve) => server.listen(0, "localhost", resolve));
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  const options = ["--headless=new", "--no-sandbox", "--disable-gpu", `--user-data-dir=${folder}`];
  const child = spawn(browser!, [...options, `http://localhost:${port}/`], { stdio: "ignore" });
  const ended = new Promise<void>((resolve) => child.on("exit", () => resolve()));
  const late = setTimeout(() => heard("nothing in a minute"), 60_000);
  try {
    return await said;
  } finally {
    clearTimeout(late);
    child.kill();
    await ended;
    server.closeAllConnections();
    server.close();
    await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}

if (browser !== undefined && runtime === "node") {
  test("training has the same bits in a browser, on one thread and on three", async () => {
    const { outputFiles } = await build({
      entryPoints: [fileURLToPath(new URL("training-bits.ts", import.meta.url))],
      bundle: true,
      format: "esm",
      platform: "neutral",
      target: "es2023",
      external: ["webgpu", "cli-progress"],
      write: false,
    });
    const bits = await trainingBits(1);
    for (const isolated of [true, false]) {
      const said = await inBrowser(outputFiles[0]!.contents, isolated);
      assert.equal(said, JSON.stringify({ isolated, bits: [bits, bits] }));
    }
  });
}

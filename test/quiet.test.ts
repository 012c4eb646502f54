/** Standard error, as a user meets it in the first minutes: empty as long as all is well. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { devices } from "../src/devices/discovery.ts";
import { runtime } from "../src/host/host.ts";
import { testDevice, testKinds } from "./harness.ts";
import { runOf } from "./programs.ts";

const project = fileURLToPath(new URL("..", import.meta.url));
const program = fileURLToPath(new URL("small-program.ts", import.meta.url));

/** What Dawn says about Mesa's software adapter, past everybody; see docs/running.md. */
const unavoidable =
  /^Warning: maxDynamic(Uniform|Storage)BuffersPerPipelineLayout artificially reduced from \d+ to \d+ to fit dynamic offset allocation limit\.\n/gm;

/** Runs the program in this runtime, with no flags set. */
function run(
  words: readonly string[],
  variables: Readonly<Record<string, string>> = {},
): { readonly stdout: string; readonly stderr: string } {
  const own = Object.entries(process.env).filter(([name]) =>
    !name.startsWith("SHARDWISE_") || name === "SHARDWISE_CACHE"
  );
  const { status, stdout, stderr } = spawnSync(process.execPath, [...runOf(program), ...words], {
    cwd: project,
    env: { ...Object.fromEntries(own), ...variables },
    encoding: "utf8",
    timeout: 60_000,
  });
  assert.equal(status, 0, stderr);
  return { stdout, stderr };
}

const done = /^math: \[3,7\]\ntrain: true\nlist: true\n$/m;

test("tensors, a step and a list of devices leave standard error empty on the cpu device", () => {
  const { stdout, stderr } = run(["cpu", "math", "train", "list"]);
  assert.match(stdout, done);
  assert.equal(stderr, "");
  assert.equal(run(["math"], { SHARDWISE_DEVICE: "cpu" }).stderr, "");
});

for (const whose of runtime === "deno" ? ["gpu", "dawn"] : ["gpu"]) {
  test(`tensors, a step and a list of devices leave standard error empty on a GPU: ${whose}`, async (context) => {
    const gpu = testKinds.includes("gpu") ? await testDevice("gpu") : undefined;
    if (gpu === undefined) return context.skip("no adapter");
    const { stdout, stderr } = run([whose, "math", "train", "list"]);
    assert.match(stdout, done);
    const isDawn = new RegExp(`^${whose}: "gpu dawn"$`, "m").test(stdout);
    assert.equal(isDawn && gpu.info.software ? stderr.replaceAll(unavoidable, "") : stderr, "");
  });
}

test("a program that says nothing of devices is told of the cpu device once, where there is no hardware GPU, and of nothing else", async (context) => {
  if ((await devices())[0]?.kind !== "cpu") return context.skip("a hardware GPU");
  for (const variables of [{}, { VK_ICD_FILENAMES: "/nonexistent.json", VK_DRIVER_FILES: "/nonexistent.json" }]) {
    const { stdout, stderr } = run(["math", "train", "device", "list"], variables);
    assert.match(stdout, /^math: \[3,7\]\ntrain: true\ndevice: "cpu"\nlist: true\n$/m);
    assert.equal(stderr, "shardwise: no GPU found, using the CPU\n");
  }
});

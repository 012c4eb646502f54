/** What only a process of its own can show: that it ends by itself, what it prints, and what the flags do. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { runtime } from "../src/host/host.ts";
import { testDevice, testKinds } from "./harness.ts";
import { runOf } from "./programs.ts";

const project = fileURLToPath(new URL("..", import.meta.url));
const program = fileURLToPath(new URL("device-program.ts", import.meta.url));

const abandoning = fileURLToPath(new URL("abandon-program.ts", import.meta.url));
const threads = fileURLToPath(new URL("threads-program.ts", import.meta.url));

interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program in this runtime; it is ended, and then fails, when it does not end by itself. */
function runProgram(args: readonly string[], environment: Record<string, string> = {}, file = program): Ran {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...runOf(file, { gc: true }), ...args], {
    cwd: project,
    env: { ...process.env, ...environment },
    encoding: "utf8",
    timeout: 30_000,
  });
  return { status, stdout, stderr };
}

for (const kind of testKinds) {
  for (const manner of ["open", "busy", "closed"]) {
    test(`a process that used devices ends by itself, left ${manner} [${kind}]`, async (context) => {
      if (await testDevice(kind) === undefined) return context.skip("no adapter");
      const { status, stdout, stderr } = runProgram([kind, manner]);
      assert.equal(status, 0, stderr);
      assert.match(stdout, /^result 5$/m);
    });
  }
}

for (const how of ["close", "lose", "abandon"]) {
  for (const virtual of [1, 3]) {
    test(`GPUs that end by ${how}, ${virtual} at a time, leave no threads behind, whatever is held of them`, async (context) => {
      if (process.platform !== "linux" || !testKinds.includes("gpu") || await testDevice("gpu") === undefined) {
        return context.skip("no adapter, or no /proc");
      }
      const { status, stdout, stderr } = runProgram([how, String(virtual)], {}, threads);
      assert.equal(status, 0, stderr);
      const counts = [...stdout.matchAll(/^threads (\d+)$/gm)].map(([, count]) => Number(count));
      assert.equal(counts.length, 8, stdout);
      // The first rounds bring those of the driver's instance, and of the runtime.
      const late = counts.slice(3);
      assert.ok(Math.max(...late) <= Math.max(...counts.slice(0, 3)), `${counts}`);
      // The runtime's own may end in between.
      assert.ok(Math.max(...late) - late[0]! < 2, `${counts}`);
    });
  }
}

/** Whose WebGPU, to what a kernel counts (0: for ever), what waits for it, how the program ends, how Dawn polls. */
const givenUp = [
  "dawn 0 nothing end",
  "dawn 0 read code eager",
  "dawn 0 sync throw",
  "dawn 0 load end eager",
  "dawn 0 profile end",
  "dawn 0 step end",
  "dawn 2000000000 read end",
  ...(runtime === "deno" ? ["deno 0 nothing end", "deno 0 nothing code", "deno 2000000000 nothing end"] : []),
];
for (const how of givenUp) {
  test(`giving up a GPU that does not answer waits for nothing, and the process ends: ${how}`, async (context) => {
    const gpu = testKinds.includes("gpu") ? await testDevice("gpu") : undefined;
    if (gpu?.info.software !== true) return context.skip("no adapter, or a real GPU, which others may need");
    const [whose, , waiting, ending] = how.split(" ");
    const { status, stdout, stderr } = runProgram(how.split(" "), {}, abandoning);
    const ended = Date.now();
    assert.equal(status, ending === "code" ? 3 : ending === "throw" ? 1 : 0, `${stdout}${stderr}`);
    // Deno tells of no exit when an error ends the program.
    if (ending !== "throw" || runtime === "node") {
      const [, code, at] = /^exit (\d) at (\d+)$/m.exec(stdout) ?? [];
      assert.equal(Number(code), status);
      assert.ok(ended - Number(at) < 3000, `${ended - Number(at)} ms from the program's end to that of the process`);
    }
    const told = ({ nothing: "undefined", profile: "done", step: "gpu:1 timeout" })[waiting!] ?? "DeviceLostError";
    assert.match(stdout, new RegExp(`^told ${told}$`, "m"));
    if (waiting !== "step") assert.ok(Number(/^gave up in (\d+) ms$/m.exec(stdout)?.[1]) < 1000, stdout);
    if (whose === "dawn") assert.match(stdout, /^counted true\nresult 2,4,6$/m);
    assert.ok(Number(/^polls (\d+)$/m.exec(stdout)?.[1]) < 20, stdout);
  });
}

test("flags: devices, kernel counts, kernel times, sources and a trace", async () => {
  const kind = testKinds.includes("gpu") && await testDevice("gpu") !== undefined ? "gpu" : "cpu";
  const folder = await mkdtemp(join(tmpdir(), "shardwise-"));
  try {
    const file = join(folder, "deep/trace.json");
    const { status, stderr } = runProgram([kind, "open"], { SHARDWISE_DEBUG: "4", SHARDWISE_TRACE: file });
    assert.equal(status, 0, stderr);
    assert.match(stderr, new RegExp(`${kind}:0 is `));
    assert.match(stderr, /loads 1 dispatches and 0 copies of 1 kernels \(1 new\)/);
    assert.match(stderr, /1 \| /);
    assert.match(stderr, /ms +\S+ GFLOP\/s +\S+ GB\/s +increment_4/);
    const text = await readFile(file, "utf8");
    const events = JSON.parse(`${text.trimEnd().replace(/,$/, "")}]`) as { name: string; ph: string; dur?: number }[];
    assert.ok(events.some(({ name, ph }) => ph === "X" && name.includes("increment_4")), text);
    assert.ok(events.some(({ name, ph }) => ph === "M" && name === "thread_name"), text);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test("a bad flag ends the program with the legal values", () => {
  const { status, stderr } = runProgram(["cpu", "open"], { SHARDWISE_DEBUG: "lots" });
  assert.notEqual(status, 0);
  assert.match(stderr, /SHARDWISE_DEBUG: got lots; need 0, 1, 2, 3, 4 or 5/);
});

test("without an adapter the cpu device serves and says so once, and a GPU is refused with the way to get one", () => {
  const hidden = { VK_ICD_FILENAMES: "/nonexistent.json", VK_DRIVER_FILES: "/nonexistent.json" };
  const { status, stdout, stderr } = runProgram(["any", "open"], hidden);
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^result 5$/m);
  if (/^device gpu/m.test(stdout)) return; // The adapter comes from elsewhere than Vulkan.
  assert.match(stdout, /^device cpu:0$/m);
  assert.equal(stderr.match(/using the CPU/g)?.length, 1, stderr);
  const asked = runProgram(["gpu", "open"], hidden);
  // Deno reaches the software adapter through OpenGL too.
  if (runtime !== "deno") assert.notEqual(asked.status, 0);
  if (asked.status !== 0) assert.match(asked.stderr, /DeviceError: devices: got no adapter.*mesa-vulkan-drivers/);
});

/** Training in a process of its own: past a kernel that never ends, and what a trace shows of a step. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import type { DeviceLost } from "../src/parallel/run/fleet.ts";
import { testDevice, testKinds } from "./harness.ts";
import { runOf } from "./programs.ts";

const project = fileURLToPath(new URL("..", import.meta.url));
const program = fileURLToPath(new URL("training-program.ts", import.meta.url));
const hasGpu = testKinds.includes("gpu") && await testDevice("gpu") !== undefined;

/** What the program prints; it is ended after two minutes. */
async function output(manner: string, environment: Record<string, string> = {}): Promise<string> {
  const child = spawn(process.execPath, [...runOf(program), manner], {
    cwd: project,
    env: { ...process.env, ...environment },
    stdio: ["ignore", "pipe", "inherit"],
    timeout: 120_000,
    killSignal: "SIGKILL",
  });
  let text = "";
  child.stdout.setEncoding("utf8");
  child.stdout.on("data", (part: string) => text += part);
  await new Promise((resolve) => child.on("close", resolve));
  return text;
}

test("a kernel that never ends on one adapter stops neither the others nor the step", async (t) => {
  if (!hasGpu) return t.skip("no adapter");
  const text = await output("hang");
  assert.match(text, /^same bits true$/m, text);
  const events = JSON.parse(text.split("\n")[1]!) as DeviceLost[];
  assert.equal(events.length, 1);
  const [event] = events;
  assert.equal(event!.reason, "timeout");
  assert.equal(event!.step, 3);
  assert.equal(event!.shardsMoved, 2);
  assert.ok(event!.milliseconds < 2000, "moved shards take no time to speak of");
});

interface Span {
  readonly track: string;
  readonly name: string;
  readonly start: number;
  readonly end: number;
}

async function spansOf(file: string): Promise<Span[]> {
  const text = await readFile(file, "utf8");
  type Event = { name: string; ph: string; tid: number; ts: number; dur: number; args: { name: string } };
  const events = JSON.parse(`${text.trimEnd().replace(/,$/, "")}]`) as Event[];
  const tracks = new Map(events.filter(({ ph }) => ph === "M").map(({ tid, args }) => [tid, args.name]));
  return events.filter(({ ph }) => ph === "X").map(({ name, tid, ts, dur }) => {
    return { track: tracks.get(tid)!, name, start: ts, end: ts + dur };
  });
}

test("the trace has tracks for devices, their links and the host, and shows gradients leaving while kernels run", async (t) => {
  if (!hasGpu) return t.skip("no adapter");
  const folder = await mkdtemp(join(tmpdir(), "shardwise-"));
  try {
    const file = join(folder, "trace.json");
    const text = await output("overlap", { SHARDWISE_TRACE: file });
    const [one, two] = /^devices (\S+) (\S+)$/m.exec(text)!.slice(1) as [string, string];
    const spans = await spansOf(file);
    const on = (track: string, name: RegExp) => spans.filter((span) => span.track === track && name.test(span.name));
    for (const device of [one, two]) {
      assert.ok(on(device, /_/).length > 0, `kernels of ${device}`);
      assert.ok(on(`${device} link`, /read/).length > 0, `reads of ${device}`);
    }
    for (const phase of ["scatter", "reduce", "broadcast"]) {
      assert.ok(on("host", new RegExp(`^${phase}$`)).length >= 3, `the host's ${phase}`);
    }
    const overlaps = (a: Span, b: Span) => a.start < b.end && b.start < a.end;
    const both = on(one, /./).filter((a) => on(two, /./).some((b) => overlaps(a, b)));
    assert.ok(both.length > 0, "both devices at once");
    // The gradient of the last layers is added up while the first layers' is still being computed.
    const early = on("host", /^reduce$/).filter((reduce) =>
      [one, two].some((d) => on(d, /_/).some((kernels) => overlaps(reduce, kernels)))
    );
    assert.ok(early.length > 0, "the host reduces while a device computes");
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

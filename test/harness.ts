/**
 * What the tests of all parts share: the devices that they run on, and comparisons of numbers that say what
 * differs.
 */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import type { Target } from "../src/compiler/plan/plan.ts";
import type { Device } from "../src/devices/device/device.ts";
import { devices } from "../src/devices/discovery.ts";
import { DeviceError } from "../src/errors.ts";
import { environment, runtime, stderrLine } from "../src/host/host.ts";

export type TestKind = "cpu" | "gpu";

/** The devices that whoever runs the tests promises; undefined when nothing was said. */
const promised = environment("SHARDWISE_TEST_DEVICES")?.split(",").map((kind): TestKind => {
  if (kind === "cpu" || kind === "gpu") return kind;
  throw new Error(`SHARDWISE_TEST_DEVICES: got ${kind}; need cpu, gpu or cpu,gpu`);
});

/**
 * The kinds of device that tests run on. Without a promise, the GPU is one of them and its tests are skipped where
 * there is none.
 */
export const testKinds: readonly TestKind[] = promised ?? ["cpu", "gpu"];

/** The class of GPU whose schedules are tested instead of the adapter's own. */
const schedules = environment("SHARDWISE_TEST_CLASS");

/** How kernels hold f16 instead of as the adapter can. */
const halves = environment("SHARDWISE_TEST_F16");

/** Gives kernels for another class of GPU, or for one without f16, to a device, if that was asked for. */
function scheduled(device: Device): Device {
  if (device.kind !== "gpu" || (schedules === undefined && halves === undefined)) return device;
  if (schedules !== undefined && schedules !== "discrete" && schedules !== "integrated") {
    throw new Error(`SHARDWISE_TEST_CLASS: got ${schedules}; need discrete or integrated`);
  }
  if (halves !== undefined && halves !== "packed") throw new Error(`SHARDWISE_TEST_F16: got ${halves}; need packed`);
  const { target } = device;
  const rolled = schedules === undefined ? {} : { class: schedules, rollLoops: device.info.software } as const;
  const value: Target = { ...target, ...rolled, f16: halves ?? target.f16 };
  Object.defineProperty(device, "target", { value, configurable: true });
  return device;
}

const opened = new Map<TestKind, Promise<Device | undefined>>();

/**
 * The test device of a kind, opened once (and again after a test closed it). Undefined only for a GPU that was not
 * promised; a promised one that is missing rejects.
 */
export async function testDevice(kind: TestKind): Promise<Device | undefined> {
  const before = await opened.get(kind);
  if (opened.has(kind) && before?.isLost !== true) return before;
  const device = open(kind);
  opened.set(kind, device);
  return await device;
}

async function open(kind: TestKind): Promise<Device | undefined> {
  try {
    return (await devices({ kind, virtual: 1 })).map(scheduled)[0];
  } catch (error) {
    if (promised !== undefined || !(error instanceof DeviceError)) throw error;
    stderrLine(`NOT RUN: all tests on the gpu device, because there is no adapter (${error.message})`);
    return undefined;
  }
}

/** All test devices that there are. Rejects when a promised one is missing. */
export async function testDevices(): Promise<Device[]> {
  const found = await Promise.all(testKinds.map(testDevice));
  return found.filter((device) => device !== undefined);
}

/** `count` logical devices of a kind; undefined only for GPUs that were not promised. */
export async function virtualDevices(kind: TestKind, count: number): Promise<Device[] | undefined> {
  if (await testDevice(kind) === undefined) return undefined;
  return (await devices({ kind, virtual: count })).map(scheduled);
}

/**
 * Those of many cases of a law which this runtime takes, where the law knows nothing of runtimes and all of its cases take long: every
 * second one in Node, the others in Deno.
 */
export function ownShare<T>(cases: readonly T[]): T[] {
  return cases.filter((_, i) => i % 2 === (runtime === "deno" ? 1 : 0));
}

/** One test for each test device. */
export function onEachDevice(name: string, body: (device: Device, context: TestContext) => Promise<void> | void): void {
  for (const kind of testKinds) {
    test(`${name} [${kind}]`, async (context) => {
      const device = await testDevice(kind);
      if (device === undefined) context.skip("no adapter");
      else await body(device, context);
    });
  }
}

/** How far numbers may be apart: |actual - expected| <= atol + rtol * |expected|. */
export interface Tolerance {
  readonly atol?: number;
  readonly rtol?: number;
}

/** Whether two numbers agree; NaN agrees with NaN, and an infinity with itself only. */
export function isClose(actual: number, expected: number, { atol = 1e-6, rtol = 1e-5 }: Tolerance = {}): boolean {
  if (Object.is(actual, expected) || actual === expected) return true;
  if (!Number.isFinite(actual) || !Number.isFinite(expected)) return false;
  return Math.abs(actual - expected) <= atol + rtol * Math.abs(expected);
}

/** Asserts that arrays of numbers agree element by element; the message shows the worst and the first that do not. */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: Tolerance & { readonly message?: string } = {},
): void {
  const { atol = 1e-6, rtol = 1e-5, message = "values" } = tolerance;
  assert.equal(actual.length, expected.length, `${message}: number of elements`);
  const wrong: number[] = [];
  let worst = -1;
  let worstError = -1;
  for (let index = 0; index < actual.length; index++) {
    const a = actual[index] ?? NaN;
    const e = expected[index] ?? NaN;
    if (isClose(a, e, { atol, rtol })) continue;
    wrong.push(index);
    const error = Number.isNaN(a - e) ? Infinity : Math.abs(a - e);
    if (error > worstError) {
      worst = index;
      worstError = error;
    }
  }
  if (wrong.length === 0) return;
  const line = (index: number) => `  [${index}] got ${actual[index]}, need ${expected[index]}`;
  const shown = [...new Set([worst, ...wrong.slice(0, 5)])].map(line).join("\n");
  assert.fail(
    `${message}: ${wrong.length} of ${actual.length} differ by more than ${atol} + ${rtol} * |need|; worst first:\n${shown}`,
  );
}

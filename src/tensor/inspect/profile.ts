/** Where the time of a function of tensors goes: kernels by name, with what they reach of the device. */
import { recordTrace, traceSpan } from "../../debug/trace.ts";
import type { Device, DeviceStats } from "../../devices/device/device.ts";
import {
  type KernelClock,
  type KernelTime,
  listenToKernels,
  perSecond,
  timesReported,
} from "../../devices/device/profile.ts";
import { openDevices } from "../../devices/device/registry.ts";
import { ArgumentError } from "../../errors.ts";
import { callable, number, oneOf, options } from "../../signature/kinds.ts";
import { guard, type Methods, takes } from "../../signature/takes.ts";
import { realizeAll } from "../eager/evaluate.ts";
import { refuseInTrace } from "../eager/frame.ts";
import { isTensor, type Tensor } from "../tensor.ts";

/** How a profile is taken. */
export interface ProfileOptions {
  /** How often the function is run and timed, 1 to 10⁶ times; 1 by default. Short kernels need many: clocks of GPUs have coarse steps. */
  readonly repeat?: number | undefined;
  /** Runs before those, at most 10⁶, which are not timed: they compile the kernels. 1 by default. */
  readonly warmup?: number | undefined;
  /**
   * How kernels of a GPU are timed: `timestamp` (the default, where the adapter has `timestamp-query`) by its own clock,
   * `wall` by the host's, from the end of a kernel to the end of the next. On the cpu device it is the host's.
   */
  readonly clock?: KernelClock | undefined;
}

const mostRuns = 1e6;

const signature = takes("profile", {
  fn: callable,
  options: options<ProfileOptions>({ repeat: number, warmup: number, clock: oneOf("timestamp", "wall") }),
});

/** All dispatches of kernels of one name, in all timed runs and on all devices. */
export interface KernelProfile {
  /** Its name, as `explain` gives it. */
  readonly name: string;
  /** Dispatches. */
  readonly count: number;
  /** Milliseconds of all its runs. */
  readonly milliseconds: number;
  /** Milliseconds of one dispatch. */
  readonly mean: number;
  /** 10⁹ arithmetic operations a second; 0 where no time was measured. */
  readonly gflops: number;
  /** 10⁹ bytes a second, each buffer of a kernel counted once, whole. */
  readonly gigabytes: number;
  /** The part of the time of all kernels, 0 to 1. */
  readonly share: number;
}

/** What all devices did in the timed runs. */
interface Work {
  readonly dispatches: number;
  readonly submissions: number;
  readonly bytesWritten: number;
  readonly bytesRead: number;
}

/** What `profile` found. As a string, a table. */
export class Profile implements Work {
  /** The longest first. */
  readonly kernels: readonly KernelProfile[];
  /** Timed runs. */
  readonly repeat: number;
  /** Wall time of the timed runs, until the devices were done with the last one. */
  readonly milliseconds: number;
  /** Time of all kernels; with several devices it may be more than the wall time. */
  readonly kernelMilliseconds: number;
  /** Kernels that ran. */
  readonly dispatches: number;
  /** Timing adds to them: each plan is submitted by itself, and by wall time each kernel. */
  readonly submissions: number;
  /** Bytes copied to devices. */
  readonly bytesWritten: number;
  /** Bytes copied from devices. */
  readonly bytesRead: number;
  /** Distinct kernels that were compiled, in the runs before the timed ones too. */
  readonly compiled: number;
  /** The devices that worked, as in `gpu:0 (llvmpipe …)`. */
  readonly devices: readonly string[];
  readonly #trace: string;

  /** @internal */
  constructor(
    times: readonly KernelTime[],
    run: {
      repeat: number;
      milliseconds: number;
      work: Work;
      compiled: number;
      devices: readonly Device[];
      trace: string;
    },
  ) {
    this.kernels = byName(times);
    this.repeat = run.repeat;
    this.milliseconds = run.milliseconds;
    this.kernelMilliseconds = this.kernels.reduce((sum, kernel) => sum + kernel.milliseconds, 0);
    this.dispatches = run.work.dispatches;
    this.submissions = run.work.submissions;
    this.bytesWritten = run.work.bytesWritten;
    this.bytesRead = run.work.bytesRead;
    this.compiled = run.compiled;
    this.devices = run.devices.map(({ name, info }) => `${name} (${info.description})`);
    this.#trace = run.trace;
  }

  /** One line for each kernel, the longest first, and what the devices did in all. */
  table(): string {
    const lines = this.kernels.map(({ name, count, milliseconds, mean, gflops, gigabytes, share }) => [
      name,
      String(count),
      milliseconds.toFixed(3),
      mean.toFixed(4),
      gflops.toFixed(2),
      gigabytes.toFixed(2),
      `${(100 * share).toFixed(1)}%`,
    ]);
    const runs = this.repeat === 1
      ? "one run"
      : `${this.repeat} runs, ${(this.milliseconds / this.repeat).toFixed(3)} ms each`;
    return [
      ...aligned([["kernel", "count", "total ms", "mean ms", "GFLOP/s", "GB/s", "share"], ...lines]),
      `${this.milliseconds.toFixed(3)} ms (${runs}), of which kernels ${this.kernelMilliseconds.toFixed(3)} ms`,
      `${this.dispatches} dispatches, ${this.submissions} submissions, ${this.bytesWritten} bytes written, ` +
      `${this.bytesRead} bytes read, ${this.compiled} kernels compiled`,
      `on ${this.devices.join(", ") || "no device"}`,
    ].join("\n");
  }

  toString(): string {
    return this.table();
  }
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.table();
  }

  /**
   * The timed runs as the JSON of a Chrome trace (chrome://tracing, Perfetto): for each device a track of kernels, one of
   * submissions and one of reads, and a track of the runs.
   */
  chromeTrace(): string {
    return this.#trace;
  }
}

const methods: Methods<Profile, "toString"> = { table: {}, chromeTrace: {} };
guard("profile.", Profile.prototype, methods);

/**
 * Runs a function of tensors, synchronous or not, and times every kernel that any device runs meanwhile; tensors that it
 * returns, alone or in arrays and records, are computed. Every run computes anew, also what an earlier one has computed.
 * Rejects with TraceError inside a trace, ArgumentError for counts that are not whole.
 */
export async function profile(fn: () => unknown, options: ProfileOptions = {}): Promise<Profile> {
  signature.check(arguments);
  refuseInTrace("profile");
  const { repeat = 1, warmup = 1, clock = "timestamp" } = options;
  requireCount("repeat", repeat, 1);
  requireCount("warmup", warmup, 0);
  const beginning = statsNow();
  for (let i = 0; i < warmup; i++) await once(fn);
  await idle(beginning);
  const before = statsNow();
  const times: KernelTime[] = [];
  const recording = recordTrace();
  const stopListening = listenToKernels(clock, (time) => times.push(time));
  const start = performance.now();
  let end = start;
  let trace = "";
  try {
    for (let i = 0; i < repeat; i++) {
      const begin = performance.now();
      await once(fn);
      traceSpan("runs", `run ${i + 1}`, begin, performance.now());
    }
    await idle(before);
    end = performance.now();
    await timesReported();
  } finally {
    stopListening();
    trace = recording.stop();
  }
  return new Profile(times, {
    repeat,
    milliseconds: end - start,
    work: workSince(before),
    compiled: sumSince(beginning, "kernels"),
    devices: busySince(before),
    trace,
  });
}

/** One run. What it makes is its own: nothing of an earlier run is found again. */
async function once(fn: () => unknown): Promise<void> {
  await realizeAll(tensorsIn(await fn()));
}

function tensorsIn(value: unknown): Tensor[] {
  if (isTensor(value)) return [value];
  if (Array.isArray(value)) return value.flatMap(tensorsIn);
  if (typeof value !== "object" || value === null || Object.getPrototypeOf(value) !== Object.prototype) return [];
  return Object.values(value).flatMap(tensorsIn);
}

type Stats = ReadonlyMap<Device, DeviceStats>;

function statsNow(): Stats {
  return new Map(openDevices().map((device) => [device, device.stats()]));
}

/** What open devices did since; those that were opened meanwhile did everything. */
function sumSince(before: Stats, what: keyof DeviceStats): number {
  return openDevices().reduce((sum, device) => sum + device.stats()[what] - (before.get(device)?.[what] ?? 0), 0);
}

function workSince(before: Stats): Work {
  return {
    dispatches: sumSince(before, "dispatches"),
    submissions: sumSince(before, "submissions"),
    bytesWritten: sumSince(before, "bytesWritten"),
    bytesRead: sumSince(before, "bytesRead"),
  };
}

function busySince(before: Stats): Device[] {
  return openDevices().filter((device) => {
    const [now, then] = [device.stats(), before.get(device)];
    return now.dispatches > (then?.dispatches ?? 0) || now.submissions > (then?.submissions ?? 0);
  });
}

/** Waits for the devices that worked. */
async function idle(before: Stats): Promise<void> {
  await Promise.all(busySince(before).filter((device) => !device.isLost).map((device) => device.sync()));
}

function requireCount(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least && value <= mostRuns) return;
  throw new ArgumentError("profile", { got: `${name} ${value}`, need: `a whole number from ${least} to ${mostRuns}` });
}

function byName(times: readonly KernelTime[]): KernelProfile[] {
  const sums = new Map<string, { count: number; milliseconds: number; flops: number; bytes: number }>();
  let total = 0;
  for (const { program: { name, flops, bytes }, milliseconds } of times) {
    let sum = sums.get(name);
    if (sum === undefined) sums.set(name, sum = { count: 0, milliseconds: 0, flops: 0, bytes: 0 });
    sum.count++;
    sum.milliseconds += milliseconds;
    sum.flops += flops;
    sum.bytes += bytes;
    total += milliseconds;
  }
  const kernels = [...sums].map(([name, { count, milliseconds, flops, bytes }]): KernelProfile => ({
    name,
    count,
    milliseconds,
    mean: milliseconds / count,
    gflops: perSecond(flops, milliseconds),
    gigabytes: perSecond(bytes, milliseconds),
    share: total > 0 ? milliseconds / total : 0,
  }));
  return kernels.sort((a, b) => b.milliseconds - a.milliseconds);
}

/** Rows of words as lines: the first column to the left, the others to the right. */
function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) =>
    row.map((word, column) => column === 0 ? word.padEnd(widths[0]!) : word.padStart(widths[column]!)).join("  ")
  );
}

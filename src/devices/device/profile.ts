/** Times of kernels: devices measure them while someone wants them, and report them here. */
import type { Program } from "../../compiler/plan/plan.ts";
import { flags } from "../../debug/flags.ts";
import { traceSpan } from "../../debug/trace.ts";
import { stderrLine } from "../../host/host.ts";
import { pollEagerly } from "./polling.ts";

/** One dispatch that was timed. */
export interface KernelTime {
  /** The device's name. */
  readonly device: string;
  readonly program: Program;
  /** When it began, in milliseconds of `performance.now()`; on a GPU near to that, as its clock is another one. */
  readonly start: number;
  readonly milliseconds: number;
}

/** What a GPU's kernels are timed by: its own clock, or the host's from one kernel's end to the next one's. */
export type KernelClock = "timestamp" | "wall";

interface Listener {
  readonly clock: KernelClock;
  readonly heard: (time: KernelTime) => void;
}

const listeners = new Set<Listener>();
const pending = new Set<Promise<void>>();

/** Whether anybody wants to know how long kernels take. */
export function timingKernels(): boolean {
  return listeners.size > 0 || flags().debug >= 2;
}

/** The clock to use where there is a choice. */
export function kernelClock(): KernelClock {
  for (const { clock } of listeners) if (clock === "wall") return "wall";
  return "timestamp";
}

/** Calls `heard` for every kernel that any device runs, until the function that is returned is called. */
export function listenToKernels(clock: KernelClock, heard: (time: KernelTime) => void): () => void {
  const listener = { clock, heard };
  listeners.add(listener);
  const calm = clock === "wall" ? pollEagerly() : undefined;
  return () => {
    listeners.delete(listener);
    calm?.();
  };
}

/** Reports a dispatch. */
export function kernelRan(time: KernelTime): void {
  const { device, program, start, milliseconds } = time;
  if (flags().debug >= 2) stderrLine(profileLine(device, program, milliseconds));
  const { flops, bytes } = program;
  traceSpan(`${device} kernels`, program.name, start, start + milliseconds, { flops, bytes });
  for (const { heard } of listeners) heard(time);
}

/** Notes times that are under way. `times` must not reject. */
export function timesUnderWay(times: Promise<void>): void {
  pending.add(times);
  void times.then(() => pending.delete(times));
}

/** Resolves when the times of all dispatches so far are reported. */
export async function timesReported(): Promise<void> {
  await Promise.all(pending);
}

/** Operations or bytes in a time, in units of 10⁹ a second; 0 for no time. */
export function perSecond(amount: number, milliseconds: number): number {
  return milliseconds > 0 ? amount / (milliseconds * 1e6) : 0;
}

/** A line that tells how fast a kernel ran; `milliseconds` of one dispatch. */
function profileLine(device: string, { name, flops, bytes }: Program, milliseconds: number): string {
  const columns = [
    `${milliseconds.toFixed(3)} ms`,
    `${perSecond(flops, milliseconds).toFixed(2)} GFLOP/s`,
    `${perSecond(bytes, milliseconds).toFixed(2)} GB/s`,
  ];
  return `shardwise: ${device} ${columns.map((column) => column.padStart(14)).join("")}  ${name}`;
}

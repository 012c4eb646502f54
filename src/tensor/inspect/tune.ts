/** Finds the fastest schedules of what a function of tensors multiplies, and keeps them for later programs. */
import type { CompileRequest } from "../../compiler/compile.ts";
import {
  type ContractionSchedule,
  describeSchedule,
  type DeviceClass,
} from "../../compiler/plan/contraction-schedules.ts";
import { type Candidate, contractionsOf, tuneContraction, type TunedResult } from "../../compiler/tuning.ts";
import { flags } from "../../debug/flags.ts";
import type { Device } from "../../devices/device/device.ts";
import { learn, tableOf } from "../../devices/device/tuned.ts";
import { measurePlan, tuningKeyOf } from "../../devices/gpu/measure.ts";
import { anything, callable, rest } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { refuseInTrace } from "../eager/frame.ts";
import { exclusively } from "../eager/realize.ts";
import { CompiledTrace, placeOf } from "../transform/compile.ts";
import { flattenTree } from "../transform/tree.ts";

/** A schedule that was tried for a contraction. */
export interface TunedCandidate {
  /** As in `workgroupTile 16x16 threads of 4x4, 16 deep, by 4`. */
  readonly schedule: string;
  /** The shortest time; Infinity where it failed. */
  readonly milliseconds: number;
  /** 10⁹ operations a second. */
  readonly gflops: number;
  /** Why it could not be run. */
  readonly error?: string;
}

/** A contraction, or all whose lengths lie between the same powers of two. */
export interface TunedContraction {
  /** As in `f32 1x512x64x1024 rows own columns k`: batch, m, n and k, and how the operands lie. */
  readonly signature: string;
  /** Index of the fastest candidate; undefined where it was known from before. */
  readonly pick: number | undefined;
  /** The default schedule first; only the known one where it was known from before. */
  readonly candidates: readonly TunedCandidate[];
}

/** What `tune` found. As a string, a table. */
export class Tuning {
  /** The name of the device. */
  readonly device: string;
  /** Each product or convolution that was measured. */
  readonly contractions: readonly TunedContraction[];
  /** Why nothing was tuned; undefined where it was. */
  readonly refusal: string | undefined;

  /** @internal */
  constructor(device: string, contractions: readonly TunedContraction[], refusal?: string) {
    this.device = device;
    this.contractions = contractions;
    this.refusal = refusal;
  }

  /** A table for people. */
  toString(): string {
    const head = this.refusal ?? `${this.contractions.length} contractions on ${this.device}`;
    return [head, ...this.contractions.flatMap(listing)].join("\n");
  }
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }
}

export interface TuneOptions {
  /** As if the device were of this class; software adapters and the cpu device are not tuned otherwise. */
  readonly class?: DeviceClass | undefined;
  /** Also what was tuned before. Default false. */
  readonly again?: boolean | undefined;
}

const signature = takes("tune", { fn: callable, args: rest(anything) });

/**
 * Measures schedules for the products and convolutions that `fn` computes with such arguments, forward and backward, on the
 * device of the tensors (or the default one), and keeps the fastest: for what is compiled from now on in this process,
 * and on disk (`SHARDWISE_CACHE`) for other programs. What is known from before is not measured again. The last bits of
 * results may change, as sums may run in another order. Takes a second or so for each contraction. Nothing else ever
 * tunes. Software adapters and the cpu device are left as they are. Give it the function itself, not what `compile`
 * made of it; it is traced, and what it assigns is not assigned.
 * Rejects as a call of the compiled function does: with TraceError when `fn` reads a value or is asynchronous.
 */
export async function tune<Arguments extends unknown[]>(
  fn: (...args: Arguments) => unknown,
  ...args: Arguments
): Promise<Tuning> {
  signature.check(arguments);
  const { device, request } = await requestOf(fn, args);
  return await tuneOn(device, [request]);
}

/** The graph of a function with such arguments, and the device of the tensors. Rejects as `tune` does. */
export async function requestOf<Arguments extends unknown[]>(
  fn: (...args: Arguments) => unknown,
  args: Arguments,
): Promise<{ device: Device; request: CompileRequest }> {
  refuseInTrace("tune");
  const flat = flattenTree("tune", args, { statics: true });
  const traced = new CompiledTrace(flat, (placeholders) => fn(...flat.rebuild(placeholders) as Arguments));
  const { device } = await placeOf([...flat.leaves, ...traced.captured]);
  return { device, request: traced.request };
}

/** Tunes the contractions of graphs for a device. */
export function tuneOn(
  device: Device,
  requests: readonly CompileRequest[],
  options: TuneOptions = {},
): Promise<Tuning> {
  const name = `${device.name} (${device.info.description})`;
  const { tuned: _, ...own } = device.target;
  const target = options.class === undefined
    ? own
    : { ...own, class: options.class, rollLoops: own.class === "software" };
  if (target.class === "software" || target.language !== "wgsl") {
    return Promise.resolve(
      new Tuning(name, [], `${name} is not tuned: its schedules are measured and come with the library`),
    );
  }
  if (flags().noTune) return Promise.resolve(new Tuning(name, [], "SHARDWISE_NOTUNE=1: nothing is tuned"));
  return exclusively(async () => {
    const key = tuningKeyOf(device, options.class);
    const contractions: TunedContraction[] = [];
    for (const one of requests.flatMap(contractionsOf)) {
      const { schedules, best } = tableOf(key);
      const known = schedules[one.signature];
      if (contractions.some(({ signature }) => signature === one.signature)) continue;
      if (known !== undefined && options.again !== true) {
        contractions.push({ signature: one.signature, pick: undefined, candidates: [reported({ schedule: known })] });
        continue;
      }
      const result = await tuneContraction(one, target, (plan) => measurePlan(device, plan), best);
      await learn(key, {
        schedules: { ...added(result, schedules) },
        best: Math.max(...result.candidates.map(({ gflops }) => gflops)),
      });
      contractions.push({
        signature: one.signature,
        pick: result.candidates.findIndex(({ schedule }) => schedule === result.pick),
        candidates: result.candidates.map(reported),
      });
    }
    return new Tuning(name, contractions);
  });
}

/** What a result adds to a table: of its parts, only what was not tuned by itself. */
function added(
  { signature, entries }: TunedResult,
  known: Readonly<Record<string, ContractionSchedule>>,
): Record<string, ContractionSchedule> {
  return Object.fromEntries(Object.entries(entries).filter(([of]) => of === signature || known[of] === undefined));
}

function reported(
  { schedule, milliseconds = NaN, gflops = NaN, error }: Pick<Candidate, "schedule"> & Partial<Candidate>,
): TunedCandidate {
  return { schedule: describeSchedule(schedule), milliseconds, gflops, ...(error === undefined ? {} : { error }) };
}

function listing({ signature, pick, candidates }: TunedContraction): string[] {
  if (pick === undefined) return ["", `${signature}: known, ${candidates[0]!.schedule}`];
  const width = Math.max(...candidates.map(({ schedule }) => schedule.length));
  return [
    "",
    signature,
    ...candidates.map(({ schedule, milliseconds, gflops, error }, i) => {
      const mark = i === pick ? "*" : " ";
      if (error !== undefined) return `${mark} ${schedule.padEnd(width)}  failed: ${error.split("\n")[0]}`;
      return `${mark} ${schedule.padEnd(width)}  ${milliseconds.toFixed(4).padStart(10)} ms  ${
        gflops.toFixed(2).padStart(9)
      } GFLOP/s`;
    }),
  ];
}

/**
 * Which schedule of a contraction is the fastest on a device: about a dozen candidates, measured. The compiler knows no
 * devices, so whoever tunes hands in `measure`.
 */
import { InternalError, OutOfMemoryError } from "../errors.ts";
import { input, withSources } from "../graph/build.ts";
import { type Node, type ReductionNode, toposort } from "../graph/node.ts";
import { size } from "../graph/shape.ts";
import { isMovement, isStored } from "../graph/structural.ts";
import { type ChosenSchedule, compileGraph, type CompileRequest } from "./compile.ts";
import { isContraction } from "./kernel/patterns.ts";
import {
  blockOf,
  type ContractionSchedule,
  defaultParts,
  gemv,
  isShort,
  keepsLimits,
  layoutOfLong,
  type Problem,
  registerTile,
  signatureOf,
  workgroupTile,
} from "./plan/contraction-schedules.ts";
import type { Plan, Target } from "./plan/plan.ts";
import { problemOf } from "./prepare/contraction.ts";
import { storeOperands } from "./prepare/stored-operands.ts";
import { simplify } from "./simplify/simplify.ts";

/** A contraction that was cut out of a graph: its operands are inputs. */
export interface TunedCase {
  readonly signature: string;
  readonly problem: Problem;
  readonly request: CompileRequest;
  /** Shape of the result. */
  readonly shape: readonly number[];
  readonly flops: number;
}

/** A plan that is ready to be timed. */
export interface Measured {
  /** Runs the plan; resolves with the milliseconds that its kernels took. */
  run(): Promise<number>;
  release(): void;
}
export type Measure = (plan: Plan) => Promise<Measured>;

/** How a candidate did. */
export interface Candidate {
  readonly schedule: ContractionSchedule;
  /** The shortest time; Infinity where it failed. */
  readonly milliseconds: number;
  /** 10⁹ operations a second. */
  readonly gflops: number;
  /** Repetitions: one, or five more for those that came near the fastest. */
  readonly repetitions: number;
  /** Why it could not be run. */
  readonly error?: string;
}

export interface TunedResult {
  readonly signature: string;
  readonly problem: Problem;
  readonly shape: readonly number[];
  /** In the order in which they were tried; the first one is the default. */
  readonly candidates: readonly Candidate[];
  readonly pick: ContractionSchedule;
  /** What goes into the table: the pick, and what its parts are computed by. */
  readonly entries: Readonly<Record<string, ContractionSchedule>>;
}

const mostCandidates = 12;
/** How much slower than the fastest one may be at first, and still be measured again. */
const margin = 1.5;
const moreRepetitions = 5;
/** A rate that is near enough to the best one that the device was seen to reach. */
const enough = 0.85;

/** The contractions of a graph, one for each signature. */
export function contractionsOf(request: CompileRequest): TunedCase[] {
  const given = new Set(request.inputs);
  const inMemory = (node: Node) => given.has(node);
  const cases = new Map<string, TunedCase>();
  for (const node of toposort(storeOperands(simplify(request.roots, given), given), (node) => !inMemory(node))) {
    if (inMemory(node) || !isContraction(node)) continue;
    const contraction = node as ReductionNode;
    const problem = problemOf(contraction, inMemory);
    if (problem === undefined || size(contraction.src[0].shape) === 0) continue;
    const signature = signatureOf(problem);
    if (cases.has(signature)) continue;
    const { batch, m, n, k } = problem;
    cases.set(signature, {
      signature,
      problem,
      request: cutOut(contraction, given),
      shape: node.shape,
      flops: 2 * batch * m * n * k,
    });
  }
  return [...cases.values()];
}

/** A contraction of inputs that lie in memory as its operands do, or as what these are views of. */
function cutOut(node: ReductionNode, given: ReadonlySet<Node>): CompileRequest {
  const inputs = new Map<Node, Node>();
  const cut = (operand: Node): Node => {
    const views: Node[] = [];
    let base = operand;
    for (; isMovement(base) && !isStored(base) && base.op !== "copy" && !given.has(base); base = base.src[0]) {
      views.push(base);
    }
    let leaf = inputs.get(base);
    if (leaf === undefined) inputs.set(base, leaf = input(base.shape, base.dtype));
    return views.reduceRight((source, view) => withSources(view, [source]), leaf);
  };
  const [product] = node.src;
  const root = withSources(node, [withSources(product, product.src.map(cut))]);
  return { roots: [root], inputs: [...inputs.values()] };
}

/** Schedules that may be fast for a problem, `first` before all: what is used when nothing was tuned. */
export function candidatesFor(problem: Problem, target: Target, first: ContractionSchedule): ContractionSchedule[] {
  const { m, n, k } = problem;
  const tiles: ContractionSchedule[] = isShort(problem) ? gemvs(problem) : workgroupTiles(target, m, n);
  const cut = (schedule: ContractionSchedule, parts: number) => ({ ...schedule, parts });
  const parts = [1, first.parts * 2, Math.ceil(first.parts / 2), first.parts * 4].filter((count) =>
    count === 1 || k / count >= 64
  );
  const all = [first, ...tiles.map((tile) => cut(tile, first.parts)), ...parts.map((count) => cut(first, count))];
  const distinct = new Map(all.map((schedule) => [JSON.stringify(schedule), schedule]));
  return [...distinct.values()].filter((schedule) => keepsLimits(schedule, target)).slice(0, mostCandidates);
}

function gemvs(problem: Problem): ContractionSchedule[] {
  return layoutOfLong(problem) === "own"
    ? [
      gemv([16, 8], 4, 1),
      gemv([32, 4], 4, 1),
      gemv([8, 16], 4, 1),
      gemv([64, 2], 4, 1),
      gemv([32, 4], 1, 1),
      gemv([64, 1], 1, 1),
      gemv([32, 8], 2, 1),
    ]
    : [
      gemv([1, 64], 1, 4),
      gemv([1, 32], 1, 4),
      gemv([1, 128], 1, 4),
      gemv([1, 64], 2, 4),
      gemv([1, 64], 4, 4),
      gemv([4, 32], 1, 4),
      gemv([2, 32], 2, 4),
    ];
}

/** Blocks of at most twice the length of an axis, in the order in which they are likely for a class. */
function workgroupTiles({ class: of }: Target, m: number, n: number): ContractionSchedule[] {
  const large = [workgroupTile([16, 16], [8, 8], 8), workgroupTile([16, 16], [8, 4], 16)];
  const medium = [
    workgroupTile([16, 16], [4, 4], 16),
    workgroupTile([8, 8], [8, 8], 8),
    workgroupTile([8, 16], [4, 4], 16),
    workgroupTile([8, 8], [4, 4], 8),
    workgroupTile([8, 8], [4, 4], 16),
  ];
  const small = [
    workgroupTile([16, 4], [2, 4], 16),
    workgroupTile([4, 16], [4, 2], 16),
    workgroupTile([8, 8], [2, 2], 16),
    registerTile(4),
  ];
  const ordered = of === "discrete" ? [...large, ...medium, ...small] : [...medium, ...small, ...large];
  return ordered.filter((schedule) => {
    if (schedule.kind !== "workgroupTile") return true;
    const [height, breadth] = blockOf(schedule);
    return height < 2 * Math.max(m, 16) && breadth < 2 * Math.max(n, 16);
  });
}

/** A plan by a candidate, and the entries of a table that make it so. */
interface Prepared {
  readonly schedule: ContractionSchedule;
  readonly entries: Readonly<Record<string, ContractionSchedule>>;
  readonly plan: Plan;
}

/**
 * Measures candidates for a contraction: each once; those within 1.5 times of the fastest five times more, in turns; the
 * shortest time counts. A candidate that comes near `best`, the highest rate seen on the device (10⁹ operations a
 * second), ends the search. Rejects as `measure` does when none can be run.
 */
export async function tuneContraction(
  one: TunedCase,
  target: Target,
  measure: Measure,
  best: number,
): Promise<TunedResult> {
  const { signature, problem, shape, flops, request } = one;
  const { tuned: _, ...plain } = target;
  const first = { ...prepare(request, plain, {}).schedule, parts: defaultParts(problem, target.class) };
  const seen = new Set<string>();
  const tried: { of: Prepared; measured?: Measured; times: number[]; error?: unknown }[] = [];
  try {
    for (const schedule of candidatesFor(problem, target, first)) {
      const of = prepareOrNot(request, plain, { [signature]: schedule });
      if (of === undefined) continue;
      const key = of.plan.programs.map((program) => program.key).join();
      if (seen.has(key)) continue;
      seen.add(key);
      const entry: (typeof tried)[number] = { of, times: [] };
      tried.push(entry);
      try {
        entry.measured = await measure(of.plan);
        entry.times.push(await entry.measured.run());
      } catch (error) {
        entry.error = error;
      }
      if (best > 0 && rate(flops, entry.times) >= enough * best) break;
    }
    const fastest = Math.min(...tried.flatMap(({ times }) => times));
    if (fastest === Infinity) throw tried[0]!.error;
    const near = tried.filter(({ times }) => times.length > 0 && times[0]! <= margin * fastest);
    for (let i = 0; i < moreRepetitions && near.length > 1; i++) {
      for (const { measured, times } of near) times.push(await measured!.run());
    }
  } finally {
    for (const { measured } of tried) measured?.release();
  }
  const candidates = tried.map(({ of, times, error }): Candidate => ({
    schedule: of.schedule,
    milliseconds: Math.min(...times),
    gflops: rate(flops, times),
    repetitions: times.length,
    ...(error === undefined ? {} : { error: error instanceof Error ? error.message : String(error) }),
  }));
  const shortest = Math.min(...candidates.map(({ milliseconds }) => milliseconds));
  const { schedule: pick, entries } = tried[candidates.findIndex(({ milliseconds }) => milliseconds === shortest)]!.of;
  return { signature, problem, shape, candidates, pick, entries };
}

function rate(flops: number, times: readonly number[]): number {
  const least = Math.min(...times);
  return least > 0 && least < Infinity ? flops / least / 1e6 : 0;
}

/** The same, undefined where the parts of a sum take more memory than the device can bind. */
function prepareOrNot(...args: Parameters<typeof prepare>): Prepared | undefined {
  try {
    return prepare(...args);
  } catch (error) {
    if (error instanceof OutOfMemoryError) return undefined;
    throw error;
  }
}

/** Compiles a contraction by some entries. Its parts, which have a signature of their own, are computed by the same schedule. */
function prepare(
  request: CompileRequest,
  target: Target,
  entries: Readonly<Record<string, ContractionSchedule>>,
): Prepared {
  const compiled = (tuned: Readonly<Record<string, ContractionSchedule>>) => {
    const chosen: ChosenSchedule[] = [];
    const plan = compileGraph(request, { ...target, tuned }, ({ steps }) => {
      for (const { contraction } of steps) if (contraction !== undefined) chosen.push(contraction);
    });
    return { plan, chosen };
  };
  const first = compiled(entries);
  const [wanted] = Object.values(entries);
  const schedule = wanted ?? first.chosen[0]?.schedule;
  if (schedule === undefined) {
    throw new InternalError("tune", { got: "a contraction that became none", need: "one that compiles to itself" });
  }
  const others = first.chosen.flatMap(({ signature }) =>
    signature === undefined || signature in entries ? [] : [[signature, { ...schedule, parts: 1 }]]
  );
  if (wanted === undefined || others.length === 0) return { schedule, entries, plan: first.plan };
  const all = { ...Object.fromEntries(others), ...entries };
  return { schedule, entries: all, plan: compiled(all).plan };
}

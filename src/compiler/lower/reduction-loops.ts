/** Reductions by a nest of loops over their terms, one for all lanes. */
import type { ReductionNode } from "../../graph/node.ts";
import { type ReductionName, reductions } from "../../graph/ops.ts";
import { size } from "../../graph/shape.ts";
import { addConstant, type Index, scale, unflatten } from "../kernel/index-arithmetic.ts";
import type { Accumulator, Expr, KernelBuilder, Lane, Scope } from "../kernel/ir.ts";
import { termIndices } from "../kernel/source-indices.ts";
import { combinedByTeam, openSteps, type Steps, type TeamDomain } from "./team.ts";

/** How the terms are walked. */
export interface ReductionLoops {
  /** Where the loops go: where all that the lanes depend on is known. */
  readonly parent: Scope;
  /** The most terms of a pass of the innermost loop; 1 where that does not divide them. */
  readonly unrolled: number;
  /** Whether each axis has a loop of its own; else neighbouring axes are walked as one. */
  readonly axisLoops: boolean;
  /** Independent partial results shorten the chain of dependent additions. */
  readonly partial: boolean;
  /** The invocations that walk the terms together. */
  readonly team: TeamDomain | undefined;
  /** How many lanes have a result; those after them are only loaded for. */
  readonly computed: number;
  /**
   * The values that are reduced, each with its position: of `factor` terms one after the other, those of all lanes that are computed.
   * `steps` has all lanes of each term.
   */
  readonly terms: (steps: readonly Lane[], factor: number) => Iterable<readonly [number, Expr]>;
}

/** The results at the lanes that are computed; those after them get the identity. There must be a term. */
export function reducedInLoops(
  builder: KernelBuilder,
  node: ReductionNode,
  lanes: readonly Lane[],
  { parent, unrolled, axisLoops, partial, team, computed, terms }: ReductionLoops,
): readonly Expr[] {
  const { loops, innermost, along } = openNest(builder, node, parent, { unrolled, axisLoops, team });
  const factor = along.length;
  const identity = () => builder.constant(reductions[node.op].identity(node.dtype), node.dtype);
  const partials = partial ? factor : 1;
  const accumulators = Array.from(
    { length: computed },
    () => Array.from({ length: partials }, () => builder.accumulator(node.op, node.dtype, parent)),
  );
  const { body, inside } = innermost;
  const steps = along.flatMap((term) =>
    lanes.map((lane): Lane => ({
      indices: termIndices(node, lane.indices, term),
      when: builder.and(lane.when, inside),
    }))
  );
  for (const [i, value] of terms(steps, factor)) {
    const accumulator = accumulators[i % computed]![Math.floor(i / computed) % partials]!;
    const term = inside === undefined ? value : builder.op("where", inside, value, identity());
    body.statements.push({ kind: "update", accumulator, value: term });
  }
  closeNest(loops, parent);
  const results = accumulators.map((parts) => {
    const own = total(builder, node.op, parts, parent);
    return team === undefined ? own : combinedByTeam(builder, node, own, team);
  });
  return lanes.map((_, i) => results[i] ?? identity());
}

/** The loops over the terms of a reduction. */
interface Nest {
  /** Outermost first. */
  readonly loops: readonly Steps[];
  readonly innermost: Steps;
  /** For each term of a pass its indices along the axes that are reduced. */
  readonly along: readonly (readonly Index[])[];
}

/** Opens a loop for each run of axes. A team walks the innermost one. */
function openNest(
  builder: KernelBuilder,
  { src: [source], attrs: { axes } }: ReductionNode,
  parent: Scope,
  { unrolled, axisLoops, team }: Pick<ReductionLoops, "unrolled" | "axisLoops" | "team">,
): Nest {
  const loops: Steps[] = [];
  const outer: Index[] = [];
  const runs = (axisLoops ? longAxes(axes, source!.shape) : adjacentRuns(axes)).map((run) =>
    run.map((axis) => source!.shape[axis]!)
  );
  const last = runs.pop()!;
  const scope = () => loops.at(-1)?.body ?? parent;
  for (const extents of runs) {
    const loop = openSteps(builder, "k", size(extents), scope(), undefined);
    loops.push(loop);
    outer.push(...unflatten(loop.step, extents));
  }
  const factor = size(last) % unrolled === 0 ? unrolled : 1;
  const innermost = openSteps(builder, "k", size(last) / factor, scope(), team);
  loops.push(innermost);
  const along = Array.from(
    { length: factor },
    (_, i) => [...outer, ...unflatten(addConstant(scale(innermost.step, factor), i), last)],
  );
  return { loops, innermost, along };
}

/** Adjacent axes, which walk as one. */
function adjacentRuns(axes: readonly number[]): number[][] {
  const runs: number[][] = [];
  for (const axis of axes) {
    const last = runs.at(-1);
    if (last !== undefined && last.at(-1) === axis - 1) last.push(axis);
    else runs.push([axis]);
  }
  return runs;
}

/** Each axis alone, but those of a single term with the one before: there is no loop to them. */
function longAxes(axes: readonly number[], shape: readonly number[]): number[][] {
  const runs: number[][] = [];
  for (const axis of axes) {
    if (runs.length > 0 && shape[axis] === 1) runs.at(-1)!.push(axis);
    else runs.push([axis]);
  }
  return runs;
}

/** Puts each loop into the one around it, the innermost first. */
function closeNest(loops: readonly Steps[], parent: Scope): void {
  for (let level = loops.length - 1; level >= 0; level--) {
    const { variable, body } = loops[level]!;
    (loops[level - 1]?.body ?? parent).statements.push({ kind: "loop", variable, body });
  }
}

/** Partial results combined in pairs. */
function total(builder: KernelBuilder, op: ReductionName, parts: readonly Accumulator[], scope: Scope): Expr {
  let level = parts.map((part) => builder.result(part, scope));
  while (level.length > 1) {
    level = Array.from(
      { length: Math.ceil(level.length / 2) },
      (_, i) => 2 * i + 1 < level.length ? builder.combine(op, level[2 * i]!, level[2 * i + 1]!) : level[2 * i]!,
    );
  }
  return level[0]!;
}

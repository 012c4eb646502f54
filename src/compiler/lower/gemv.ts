/**
 * Reductions to few results, such as the product of a matrix and a vector: with an invocation for each, a GPU would be idle.
 * Many invocations walk the terms of the same results, and combine what they have in workgroup memory.
 */
import type { ReductionNode } from "../../graph/node.ts";
import { reductions } from "../../graph/ops.ts";
import { size } from "../../graph/shape.ts";
import {
  add,
  addConstant,
  atMost,
  divide,
  type Index,
  remainder,
  scale,
  unflatten,
  type Variable,
  variableIndex,
  within,
} from "../kernel/index-arithmetic.ts";
import type { Expr, KernelBuilder, Lane, ValuesOf } from "../kernel/ir.ts";
import { termIndices } from "../kernel/source-indices.ts";
import type { GemvWalk } from "../tile/tile.ts";
import type { Invocations } from "./plain-domains.ts";

export interface GemvDomain extends Invocations {
  readonly kind: "gemv";
  readonly walk: GemvWalk;
  /** Which of those that walk the same sum the invocation is. */
  readonly walker: Index;
}

/** An invocation has a part of all elements along the short axis, for each of its own along the long one. */
export function gemvDomain(
  builder: KernelBuilder,
  domain: readonly number[],
  walk: GemvWalk,
): GemvDomain {
  const { runs, short, long, threads, columns } = walk;
  const extents = runs.map((run) => size(run.map((axis) => domain[axis]!)));
  const parallel: Variable[] = [];
  const starts = extents.map((extent, run) => {
    const block = run === short ? extent : run === long ? threads[0] * columns : 1;
    const variable = builder.variable("i", Math.ceil(extent / block));
    parallel.push(variable);
    return scale(variableIndex(variable), block);
  });
  const workgroup = threads[0] * threads[1];
  const local = builder.variable("local", workgroup);
  parallel.push(local);
  // Neighbours along the long axis come first, so that they load neighbours.
  const first = add(starts[long]!, scale(remainder(variableIndex(local), threads[0]), columns));
  // At the end of the axis the last ones move back, and store only what is their own.
  const base = atMost(first, extents[long]! - columns);
  // All that walk a sum have its result.
  const stores = threads[1] === 1 ? undefined : builder.within(variableIndex(local), 0, threads[0]);
  const lanes: Lane[] = [];
  for (let row = 0; row < (extents[short] ?? 1); row++) {
    for (let column = 0; column < columns; column++) {
      const along = addConstant(base, column);
      const own = base === first ? undefined : builder.within(add(along, scale(first, -1)), 0, extents[long]!);
      const indices = starts.flatMap((start, run) => {
        const index = run === long ? along : run === short ? addConstant(start, row) : start;
        return unflatten(within(index, 0, extents[run]! - 1), runs[run]!.map((axis) => domain[axis]!));
      });
      lanes.push({ indices, when: builder.and(own, stores) });
    }
  }
  return {
    kind: "gemv",
    walk,
    parallel,
    lanes,
    loadedOnly: 0,
    workgroup,
    together: true,
    walker: divide(variableIndex(local), threads[0]),
  };
}

/** The results of a reduction at `lanes`, which are those of the domain. There must be a term. */
export function gemvResults(
  builder: KernelBuilder,
  node: ReductionNode,
  lanes: readonly Lane[],
  { walker, walk: { threads, depth } }: GemvDomain,
  values: ValuesOf,
): readonly Expr[] {
  const source = node.src[0];
  const extents = node.attrs.axes.map((axis) => source.shape[axis]!);
  const terms = size(extents);
  const step = builder.variable("k", Math.ceil(terms / (threads[1] * depth)));
  const body = builder.openLoop(builder.root, step);
  const group = scale(add(scale(variableIndex(step), threads[1]), walker), depth);
  const identity = builder.constant(reductions[node.op].identity(node.dtype), node.dtype);
  const accumulators = lanes.map(() => builder.accumulator(node.op, node.dtype, builder.root));
  const whole = terms % (threads[1] * depth) === 0;
  for (let i = 0; i < depth; i++) {
    const position = addConstant(group, i);
    // A vector is inside as a whole.
    const inside = whole ? undefined : builder.within(terms % depth === 0 ? group : position, 0, terms);
    const along = unflatten(within(position, 0, terms - 1), extents);
    const places = lanes.map((lane): Lane => ({ indices: termIndices(node, lane.indices, along), when: inside }));
    values(source, places).forEach((value, lane) => {
      const term = inside === undefined ? value : builder.op("where", inside, value, identity);
      body.statements.push({ kind: "update", accumulator: accumulators[lane]!, value: term });
    });
  }
  builder.root.statements.push({ kind: "loop", variable: step, body });
  if (threads[1] > 1) {
    const array = builder.combiningArray(node.dtype, lanes.length * threads[0] * threads[1]);
    builder.root.statements.push({ kind: "combine", accumulators, columns: threads[0], array });
  }
  return accumulators.map((accumulator) => builder.result(accumulator, builder.root));
}

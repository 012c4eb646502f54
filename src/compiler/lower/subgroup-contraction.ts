/** Contractions by subgroups: each lane loads a part of both operands, and broadcasts its elements of one of them to all. */
import type { Node } from "../../graph/node.ts";
import type { ElementwiseName } from "../../graph/ops.ts";
import { size } from "../../graph/shape.ts";
import {
  add,
  addConstant,
  atMost,
  constantIndex,
  type Index,
  scale,
  unflatten,
  type Variable,
  variableIndex,
  within,
} from "../kernel/index-arithmetic.ts";
import type { Expr, KernelBuilder, Lane, ValuesOf } from "../kernel/ir.ts";
import type { SubgroupWalk } from "../tile/tile.ts";
import { dependsOn } from "./contraction-operands.ts";
import type { Invocations } from "./plain-domains.ts";

export interface SubgroupDomain extends Invocations {
  readonly kind: "subgroup";
  readonly walk: SubgroupWalk;
  /** The invocation's number in its subgroup. */
  readonly lane: Variable;
}

/** The lanes of an invocation are row by row; behind them are the elements whose row operand it loads for its subgroup. */
export function subgroupDomain(
  builder: KernelBuilder,
  domain: readonly number[],
  walk: SubgroupWalk,
  varying: readonly number[],
): SubgroupDomain {
  const { runs, m, n, rows, columns, lanes } = walk;
  const parallel: Variable[] = [];
  const extents = runs.map((run) => size(run.map((axis) => domain[axis]!)));
  const bases = extents.map((extent, axis) => {
    const block = axis === m ? lanes * rows : axis === n ? lanes * columns : 1;
    const variable = builder.variable("i", Math.ceil(extent / block));
    parallel.push(variable);
    const start = scale(variableIndex(variable), block);
    const varies = block > 1 && runs[axis]!.some((own) => varying.includes(domain[own]!));
    return { start, base: atMost(start, extent - block, varies) };
  });
  const lane = builder.variable("lane", lanes);
  parallel.push(lane);
  // At an edge the last block moves back, and stores only what is its own.
  const own = (axis: number, index: Index) => {
    const { start, base } = bases[axis]!;
    return base === start ? undefined : builder.within(add(index, scale(start, -1)), 0, extents[axis]!);
  };
  const at = (row: Index, column: Index) =>
    bases.map(({ base }, axis) =>
      within(axis === m ? add(base, row) : axis === n ? add(base, column) : base, 0, extents[axis]! - 1)
    );
  const apart = (indices: readonly Index[]) =>
    indices.flatMap((index, i) => unflatten(index, runs[i]!.map((axis) => domain[axis]!)));
  const ownColumn = (j: number) => addConstant(scale(variableIndex(lane), columns), j);
  const computed: Lane[] = [];
  // Columns that are all there or none share a guard, so that they are stored as a vector.
  const inGroups = extents[n]! % columns === 0;
  for (let row = 0; row < lanes * rows; row++) {
    for (let j = 0; j < columns; j++) {
      const indices = at(constantIndex(row), ownColumn(j));
      const guarded = inGroups ? at(constantIndex(row), ownColumn(0)) : indices;
      computed.push({ indices: apart(indices), when: builder.and(own(m, guarded[m]!), own(n, guarded[n]!)) });
    }
  }
  const loaded = Array.from({ length: rows }, (_, i): Lane => ({
    indices: apart(at(addConstant(scale(variableIndex(lane), rows), i), ownColumn(0))),
    when: undefined,
  }));
  return {
    kind: "subgroup",
    walk,
    parallel,
    lanes: [...computed, ...loaded],
    loadedOnly: rows,
    workgroup: lanes * walk.subgroups,
    together: true,
    lane,
  };
}

/**
 * The products of a block, each with its position in `factor` blocks of them: each lane's own elements of the row operand are
 * broadcast to all. `steps` are the lanes of the domain at the product, for each of `factor` terms of the sum. Row by row, so that
 * few values are alive at once, and all terms of an element together, so that its sum is fetched and put back once.
 */
export function* blockProducts(
  builder: KernelBuilder,
  product: Node,
  steps: readonly Lane[],
  factor: number,
  { walk: { rows, columns }, lane }: SubgroupDomain,
  values: ValuesOf,
): Generator<[number, Expr]> {
  const [left, right] = product.src as [Node, Node];
  // The first row is that of all lanes, its columns are a lane's own.
  const leftIsRow = !dependsOn(left, steps[0]!.indices, lane);
  const [rowOperand, columnOperand] = leftIsRow ? [left, right] : [right, left];
  const stride = steps.length / factor;
  const count = stride - rows;
  const terms = Array.from({ length: factor }, (_, term) => {
    const own = steps.slice(term * stride, (term + 1) * stride);
    return { own: values(rowOperand, own.slice(count)), column: values(columnOperand, own.slice(0, columns)) };
  });
  for (let row = 0; row < count / columns; row++) {
    for (const [term, { own, column }] of terms.entries()) {
      const element = builder.broadcast(own[row % rows]!, Math.floor(row / rows));
      for (let j = 0; j < columns; j++) {
        const [a, b] = leftIsRow ? [element, column[j]!] : [column[j]!, element];
        yield [term * count + row * columns + j, builder.op(product.op as ElementwiseName, a, b)];
      }
    }
  }
}

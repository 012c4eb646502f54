/**
 * Contractions through workgroup memory: a workgroup brings a slice of both operands there and computes its whole block
 * from it, so that each element is loaded from the device's memory once for the block and not once for each result.
 */
import { type Node, type ReductionNode } from "../../graph/node.ts";
import type { ElementwiseName } from "../../graph/ops.ts";
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
  zeroIndex,
} from "../kernel/index-arithmetic.ts";
import type { Expr, KernelBuilder, Lane, Statement, ValuesOf } from "../kernel/ir.ts";
import type { StagedWalk } from "../tile/tile.ts";
import { dependsOn, productAt } from "./contraction-operands.ts";
import type { Invocations } from "./plain-domains.ts";

/** Elements of a vector of WGSL. */
const width = 4;

/** An element of an operand's slice that an invocation brings to workgroup memory: its place along the block and along k. */
interface Brought {
  readonly along: Index;
  readonly k: Index;
}

/** The same, with the lane of the domain that lies there. */
interface BroughtLane extends Brought {
  readonly lane: number;
}

/** The elements that an invocation brings of a slice of `length` by `depth`, `width` neighbours at a time. */
function brought(
  local: Variable,
  invocations: number,
  length: number,
  depth: number,
  adjacent: boolean,
  width: number,
): Brought[] {
  const [fast, slow] = adjacent ? [length, depth] : [depth, length];
  const groups = length * depth / width;
  return Array.from({ length: groups / invocations }, (_, i) => {
    const group = within(addConstant(variableIndex(local), i * invocations), 0, groups - 1);
    const inFast = scale(remainder(group, fast / width), width);
    const inSlow = within(divide(group, fast / width), 0, slow - 1);
    return Array.from({ length: width }, (_, v): Brought => {
      const at = addConstant(inFast, v);
      return adjacent ? { along: at, k: inSlow } : { along: inSlow, k: at };
    });
  }).flat();
}

export interface StagedDomain extends Invocations {
  readonly kind: "staged";
  readonly walk: StagedWalk;
  readonly rows: readonly BroughtLane[];
  readonly columns: readonly BroughtLane[];
  /** A lane of the first row at any column, which `variable` stands for: it tells what depends on the column. */
  readonly column: { readonly variable: Variable; readonly lane: number };
  /** The invocation's place in the block, in parts. */
  readonly part: readonly [m: Index, n: Index];
}

/** The lanes of an invocation are row by row; behind them are those whose operands it brings, rows' first, then `column`'s. */
export function stagedDomain(
  builder: KernelBuilder,
  domain: readonly number[],
  walk: StagedWalk,
  varying: readonly number[],
): StagedDomain {
  const { runs, m, n, threads, rows, columns, depth, adjacent, widths } = walk;
  const [height, breadth] = [threads[0] * rows, threads[1] * columns];
  const parallel: Variable[] = [];
  const extents = runs.map((run) => size(run.map((axis) => domain[axis]!)));
  const bases = extents.map((extent, axis) => {
    const block = axis === m ? height : axis === n ? breadth : 1;
    const variable = builder.variable("i", Math.ceil(extent / block));
    parallel.push(variable);
    const start = scale(variableIndex(variable), block);
    // At an edge the last block moves back, and stores only what is its own. A block that is longer than the axis stays.
    const varies = block > 1 && runs[axis]!.some((own) => varying.includes(domain[own]!));
    return { start, base: extent < block ? start : atMost(start, extent - block, varies) };
  });
  const invocations = threads[0] * threads[1];
  const local = builder.variable("local", invocations);
  parallel.push(local);
  const part = [divide(variableIndex(local), threads[1]), remainder(variableIndex(local), threads[1])] as const;
  const own = (axis: number, inside: Index) => {
    const { start, base } = bases[axis]!;
    const extent = extents[axis]!;
    const index = add(base, inside);
    return base === start && index.max < extent ? undefined : builder.within(add(index, scale(start, -1)), 0, extent);
  };
  /** The indices at a place in the block; `width` neighbours along it move together. */
  const at = (row: Index | undefined, column: Index | undefined, width = 1) =>
    bases.flatMap(({ start, base }, axis) => {
      const inside = axis === m ? row : axis === n ? column : undefined;
      const extent = extents[axis]!;
      let there = inside === undefined ? base : add(base, inside);
      if (inside !== undefined && base === start) {
        // Beyond a short axis there is its end again, which is not stored.
        const first = there.offset % width;
        there = addConstant(atMost(addConstant(there, -first), extent - width), first);
      }
      return unflatten(within(there, 0, extent - 1), runs[axis]!.map((of) => domain[of]!));
    });
  const lanes: Lane[] = [];
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const [row, column] = [addConstant(scale(part[0], rows), i), addConstant(scale(part[1], columns), j)];
      lanes.push({ indices: at(row, column), when: builder.and(own(m, row), own(n, column)) });
    }
  }
  // Elements at the same place along the block share a lane: lanes are distinct.
  const withLanes = (elements: readonly Brought[], place: (along: Index) => Index[]): BroughtLane[] => {
    const known = new Map<string, number>();
    return elements.map((element) => {
      let lane = known.get(element.along.key);
      if (lane === undefined) {
        known.set(element.along.key, lane = lanes.length);
        lanes.push({ indices: place(element.along), when: undefined });
      }
      return { ...element, lane };
    });
  };
  const groupOf = (operand: 0 | 1, axis: number) =>
    adjacent[operand] && extents[axis]! % widths[operand] === 0 ? widths[operand] : 1;
  const ofRows = withLanes(
    brought(local, invocations, height, depth, adjacent[0], widths[0]),
    (along) => at(along, undefined, groupOf(0, m)),
  );
  const ofColumns = withLanes(
    brought(local, invocations, breadth, depth, adjacent[1], widths[1]),
    (along) => at(undefined, along, groupOf(1, n)),
  );
  const column = { variable: builder.variable("column", breadth), lane: lanes.length };
  lanes.push({ indices: at(zeroIndex, variableIndex(column.variable)), when: undefined });
  return {
    kind: "staged",
    walk,
    parallel,
    lanes,
    loadedOnly: lanes.length - rows * columns,
    workgroup: invocations,
    together: true,
    rows: ofRows,
    columns: ofColumns,
    column,
    part,
  };
}

/**
 * The sums of an invocation's elements; those at what is only loaded are 0. `lanes` are those of the domain at the contraction.
 * There must be a term.
 */
export function stagedSums(
  builder: KernelBuilder,
  node: ReductionNode,
  lanes: readonly Lane[],
  domain: StagedDomain,
  values: ValuesOf,
): readonly Expr[] {
  const { threads, rows, columns, depth, adjacent, widths } = domain.walk;
  const source = node.src[0];
  const extents = node.attrs.axes.map((axis) => source.shape[axis]!);
  const terms = size(extents);
  const slice = builder.variable("k", Math.ceil(terms / depth));
  const slices = builder.openLoop(builder.root, slice);
  const step = builder.variable("k", depth);
  const steps = builder.openLoop(slices, step);
  const zero = builder.constant(0, node.dtype);

  // Where the product of the operands reads, at an element of the contraction and a term of its sum.
  const at = (lane: Lane, k: Index): { product: Node; lane: Lane; inside: Expr | undefined } => {
    const position = add(scale(variableIndex(slice), depth), k);
    const inside = terms % depth === 0 ? undefined : builder.within(position, 0, terms);
    const { product, indices } = productAt(node, lane.indices, unflatten(within(position, 0, terms - 1), extents));
    return { product, lane: { indices, when: inside }, inside };
  };
  const rowLanes = domain.rows.map(({ lane, k }) => at(lanes[lane]!, k));
  const columnLanes = domain.columns.map(({ lane, k }) => at(lanes[lane]!, k));
  const { product } = rowLanes[0]!;
  const [left, right] = product.src as [Node, Node];
  // The row operand is the one that does not change along n.
  const leftIsColumn = dependsOn(left, at(lanes[domain.column.lane]!, zeroIndex).lane.indices, domain.column.variable);
  const operands = leftIsColumn ? [right, left] as const : [left, right] as const;

  const staging: Statement[] = [];
  const bring = (
    operand: Node,
    of: readonly ReturnType<typeof at>[],
    places: readonly Brought[],
    length: number,
    byVectors: boolean,
  ) => {
    // Two invocations must not store to one vector: WGSL lets a store of an element rewrite the others.
    const array = builder.sharedArray(node.dtype, length * depth, byVectors);
    const elements = values(operand, of.map(({ lane }) => lane)).map((element, i) => {
      const { inside } = of[i]!;
      return inside === undefined ? element : builder.op("where", inside, element, zero);
    });
    const count = byVectors ? width : 1;
    for (let i = 0; i < elements.length; i += count) {
      const { along, k } = places[i]!;
      staging.push({ kind: "stage", array, index: add(scale(k, length), along), values: elements.slice(i, i + count) });
    }
    return array;
  };
  const vectors = [rows, columns].map((count, i) => adjacent[i]! && widths[i] === width && count % width === 0);
  const [height, breadth] = [threads[0] * rows, threads[1] * columns];
  const rowArray = bring(operands[0], rowLanes, domain.rows, height, vectors[0]!);
  const columnArray = bring(operands[1], columnLanes, domain.columns, breadth, vectors[1]!);

  const accumulators = Array.from(
    { length: rows * columns },
    () => builder.accumulator(node.op, node.dtype, builder.root),
  );
  const inArray = (length: number, part: Index, count: number, i: number) =>
    addConstant(add(scale(variableIndex(step), length), scale(part, count)), i);
  const ofRows = Array.from(
    { length: rows },
    (_, i) => builder.sharedLoad(rowArray, inArray(height, domain.part[0], rows, i)),
  );
  const ofColumns = Array.from(
    { length: columns },
    (_, j) => builder.sharedLoad(columnArray, inArray(breadth, domain.part[1], columns, j)),
  );
  accumulators.forEach((accumulator, lane) => {
    const [row, column] = [ofRows[Math.floor(lane / columns)]!, ofColumns[lane % columns]!];
    const value = builder.op(product.op as ElementwiseName, ...leftIsColumn ? [column, row] : [row, column]);
    steps.statements.push({ kind: "update", accumulator, value });
  });
  slices.statements.push(...staging, { kind: "barrier" }, { kind: "loop", variable: step, body: steps }, {
    kind: "barrier",
  });
  builder.root.statements.push({ kind: "loop", variable: slice, body: slices });
  const sums = accumulators.map((accumulator) => builder.result(accumulator, builder.root));
  return lanes.map((_, i) => sums[i] ?? zero);
}

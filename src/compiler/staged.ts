/**
 * Contractions through workgroup memory: a workgroup brings a slice of both operands there and computes its whole block
 * from it, so that each element is loaded from the device's memory once for the block and not once for each result.
 */
import { type Node, type ReductionNode } from "../graph/node.ts";
import { size } from "../graph/shape.ts";
import { add, addConstant, atMost, divide, type Index, remainder, scale, unflatten, type Variable, variableIndex, within } from "./affine.ts";
import { type Expr, type KernelBuilder, type Lane, type Statement } from "./ir.ts";
import type { Staged } from "./tile.ts";
import { isMovement, shownAt, sourceIndices } from "./views.ts";

/** Elements of a vector of WGSL: loads and stores go by four neighbours where they can. */
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

/** The elements that an invocation brings of a slice of `length` by `depth`, four neighbours at a time. */
function brought(local: Variable, invocations: number, length: number, depth: number, adjacent: boolean): Brought[] {
  const [fast, slow] = adjacent ? [length, depth] : [depth, length];
  const quads = length * depth / width;
  return Array.from({ length: quads / invocations }, (_, i) => {
    const quad = within(addConstant(variableIndex(local), i * invocations), 0, quads - 1);
    const inFast = scale(remainder(quad, fast / width), width);
    const inSlow = within(divide(quad, fast / width), 0, slow - 1);
    return Array.from({ length: width }, (_, v): Brought => {
      const at = addConstant(inFast, v);
      return adjacent ? { along: at, k: inSlow } : { along: inSlow, k: at };
    });
  }).flat();
}

/** How the domain is walked: blocks of a workgroup, and the elements of one invocation. */
export interface StagedDomain {
  readonly parallel: readonly Variable[];
  /** The elements that an invocation computes, row by row; behind them those whose operands it brings, rows' first. */
  readonly lanes: readonly Lane[];
  readonly rows: readonly BroughtLane[];
  readonly columns: readonly BroughtLane[];
  /** Lanes that are only for bringing operands. */
  readonly loadedOnly: number;
  /** The invocation's place in the block, in parts. */
  readonly part: readonly [m: Index, n: Index];
}

/** The domain of a contraction; `and` joins conditions. */
export function stagedDomain(
  builder: KernelBuilder,
  domain: readonly number[],
  { m, n, threads, rows, columns, depth, adjacent }: Staged,
  and: (a: Expr | undefined, b: Expr | undefined) => Expr | undefined,
): StagedDomain {
  const [height, breadth] = [threads[0] * rows, threads[1] * columns];
  const parallel: Variable[] = [];
  const bases = domain.map((extent, axis) => {
    const block = axis === m ? height : axis === n ? breadth : 1;
    const variable = builder.variable("i", Math.ceil(extent / block));
    parallel.push(variable);
    const start = scale(variableIndex(variable), block);
    // At an edge the last block moves back, and stores only what is its own.
    return { start, base: atMost(start, extent - block) };
  });
  const invocations = threads[0] * threads[1];
  const local = builder.variable("local", invocations);
  parallel.push(local);
  const part = [divide(variableIndex(local), threads[1]), remainder(variableIndex(local), threads[1])] as const;
  const own = (axis: number, index: Index) => {
    const { start, base } = bases[axis]!;
    return base === start ? undefined : builder.within(add(index, scale(start, -1)), 0, domain[axis]!);
  };
  const at = (row: Index | undefined, column: Index | undefined) =>
    bases.map(({ base }, axis) => {
      const inside = axis === m ? row : axis === n ? column : undefined;
      return within(inside === undefined ? base : add(base, inside), 0, domain[axis]! - 1);
    });
  const lanes: Lane[] = [];
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const indices = at(addConstant(scale(part[0], rows), i), addConstant(scale(part[1], columns), j));
      lanes.push({ indices, when: and(own(m, indices[m]!), own(n, indices[n]!)) });
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
  const ofRows = withLanes(brought(local, invocations, height, depth, adjacent[0]), (along) => at(along, undefined));
  const ofColumns = withLanes(brought(local, invocations, breadth, depth, adjacent[1]), (along) => at(undefined, along));
  return { parallel, lanes, rows: ofRows, columns: ofColumns, loadedOnly: lanes.length - rows * columns, part };
}

/**
 * The sums of an invocation's elements. `lanes` are those of `domain` at the contraction, `values` gives the elements of a
 * node at some indices.
 */
export function stagedSums(
  builder: KernelBuilder,
  node: ReductionNode,
  lanes: readonly Lane[],
  domain: StagedDomain,
  { threads, rows, columns, depth }: Staged,
  values: (node: Node, lanes: readonly Lane[]) => readonly Expr[],
): readonly Expr[] {
  const source = node.src[0]!;
  const extents = node.attrs.axes.map((axis) => source.shape[axis]!);
  const terms = size(extents);
  const slice = builder.variable("k", Math.ceil(terms / depth));
  const slices = builder.openLoop(builder.root, slice);
  const step = builder.variable("k", depth);
  const steps = builder.openLoop(slices, step);
  const zero = builder.constant(0, node.dtype);

  // Where the product of the operands reads, at an element of the contraction and a term of its sum.
  const productAt = (lane: Lane, k: Index): { product: Node; lane: Lane; inside: Expr | undefined } => {
    const position = add(scale(variableIndex(slice), depth), k);
    const inside = terms % depth === 0 ? undefined : builder.within(position, 0, terms);
    const along = unflatten(within(position, 0, terms - 1), extents);
    let kept = 0;
    let indices: readonly Index[] = source.shape.map((_, axis) => {
      const reduced = node.attrs.axes.indexOf(axis);
      return reduced >= 0 ? along[reduced]! : lane.indices[kept++]!;
    });
    let product = source;
    for (; isMovement(product); product = product.src[0]!) indices = sourceIndices(product, indices).indices;
    return { product, lane: { indices, when: inside }, inside };
  };
  const rowLanes = domain.rows.map(({ lane, k }) => productAt(lanes[lane]!, k));
  const columnLanes = domain.columns.map(({ lane, k }) => productAt(lanes[lane]!, k));
  const { product } = rowLanes[0]!;
  const [left, right] = product.src as [Node, Node];
  // The row operand is the one that does not change along n.
  const keyOf = (operand: Node, lane: Lane) => shownAt(operand, lane.indices).indices.map((index) => index.key).join();
  const none = domain.rows[0]!.k;
  const leftIsRow = keyOf(left, productAt(lanes[0]!, none).lane) === keyOf(left, productAt(lanes[1]!, none).lane);
  const operands = leftIsRow ? [left, right] as const : [right, left] as const;

  const staging: Statement[] = [];
  const bring = (operand: Node, of: readonly ReturnType<typeof productAt>[], places: readonly Brought[], length: number) => {
    const array = builder.sharedArray(node.dtype, length * depth, true);
    const elements = values(operand, of.map(({ lane }) => lane));
    elements.forEach((element, i) => {
      const { inside } = of[i]!;
      const { along, k } = places[i]!;
      const value = inside === undefined ? element : builder.op("where", inside, element, zero);
      staging.push({ kind: "stage", array, index: add(scale(k, length), along), value });
    });
    return array;
  };
  const [height, breadth] = [threads[0] * rows, threads[1] * columns];
  const rowArray = bring(operands[0], rowLanes, domain.rows, height);
  const columnArray = bring(operands[1], columnLanes, domain.columns, breadth);

  const accumulators = Array.from({ length: rows * columns }, () => builder.accumulator(node.op, node.dtype, builder.root));
  const at = (length: number, part: Index, count: number, i: number) =>
    addConstant(add(scale(variableIndex(step), length), scale(part, count)), i);
  const ofRows = Array.from({ length: rows }, (_, i) => builder.sharedLoad(rowArray, at(height, domain.part[0], rows, i)));
  const ofColumns = Array.from({ length: columns }, (_, j) => builder.sharedLoad(columnArray, at(breadth, domain.part[1], columns, j)));
  accumulators.forEach((accumulator, lane) => {
    const value = builder.op("mul", ofRows[Math.floor(lane / columns)]!, ofColumns[lane % columns]!);
    steps.statements.push({ kind: "update", accumulator, value });
  });
  slices.statements.push(...staging, { kind: "barrier" }, { kind: "loop", variable: step, body: steps }, { kind: "barrier" });
  builder.root.statements.push({ kind: "loop", variable: slice, body: slices });
  return accumulators.map((accumulator) => builder.result(accumulator, builder.root));
}

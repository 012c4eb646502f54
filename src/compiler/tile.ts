/** The shape of one kernel's work: how many neighbouring elements an invocation computes, and how loops are unrolled. */
import { size } from "../graph/shape.ts";
import { type Index, strideOf, type Variable } from "./affine.ts";
import { type Expr, eachStatement, type KernelIR, type Scope } from "./ir.ts";
import type { KernelGroup } from "./merge.ts";
import type { Target } from "./plan.ts";

export interface Tile {
  /** Neighbours that one invocation computes, where the domain is walked by one counter. */
  readonly outer: number;
  /** The block that one invocation computes, a factor per axis of the domain (axes of length 1 left out). */
  readonly axes: readonly number[] | undefined;
  /** Elements of a row per pass of its loop. */
  readonly row: number;
  /** Terms of a reduction per pass of its loop. */
  readonly reduce: number;
  /** The subgroup that computes a block of a contraction together, instead of `axes`. */
  readonly subgroup: OuterProduct | undefined;
  /**
   * Steps in which each invocation of a small workgroup walks a block of the domain that lies in one piece; 1: every
   * invocation has one element, or `outer` of them.
   */
  readonly walk: number;
  /** Invocations of a workgroup that walk each row, and each reduction's terms, together; 1: every row has one invocation. */
  readonly team: number;
  /** The workgroup that computes a block of a contraction through memory that it shares. */
  readonly staged: Staged | undefined;
}

/**
 * A block of `lanes * rows` by `lanes * columns` elements. In each step of k every lane loads `rows` elements of one operand and
 * `columns` of the other; the former are broadcast to all lanes, so that each has all rows of its own columns.
 */
export interface OuterProduct {
  /** Neighbouring axes of the domain that are walked as one, so that rows of a convolution's images follow each other. */
  readonly runs: readonly (readonly number[])[];
  /** The runs along which the rows and the columns of the block lie. */
  readonly m: number;
  readonly n: number;
  readonly rows: number;
  readonly columns: number;
  readonly lanes: number;
  /** Subgroups of a workgroup. */
  readonly subgroups: number;
}

/**
 * A workgroup's block of `threads[0] * rows` by `threads[1] * columns` elements, a part of `rows` by `columns` for each
 * invocation. `depth` terms of the sum at a time are brought to workgroup memory, by all invocations together.
 */
export interface Staged {
  /** The axes of the domain along which the rows and the columns of the block lie. */
  readonly m: number;
  readonly n: number;
  readonly threads: readonly [m: number, n: number];
  readonly rows: number;
  readonly columns: number;
  readonly depth: number;
  /** Whether neighbours of the row operand (of the column operand) along that axis are neighbours in memory. */
  readonly adjacent: readonly [rows: boolean, columns: boolean];
}

/** One element an invocation, walked by one counter: what a kernel is first lowered with, to see its accesses. */
export const plainTile: Tile = { outer: 1, axes: undefined, row: 1, reduce: 1, walk: 1, team: 1, subgroup: undefined, staged: undefined };

/** As plainTile, with a counter per axis. */
export function plainBlock(rank: number): Tile {
  return { ...plainTile, axes: new Array<number>(rank).fill(1) };
}

interface Reference {
  readonly index: Index;
  /** The innermost loop around it. */
  readonly loop: Variable | undefined;
}

function references(ir: KernelIR): { loads: Reference[]; stores: Reference[] } {
  const loads: Reference[] = [];
  const stores: Reference[] = [];
  const walk = (scope: Scope, loop: Variable | undefined) => {
    for (const statement of scope.statements) {
      if (statement.kind === "let" && statement.expr.kind === "load") loads.push({ index: statement.expr.index, loop });
      else if (statement.kind === "store") stores.push({ index: statement.index, loop });
      else if (statement.kind === "loop") walk(statement.body, statement.variable);
    }
  };
  walk(ir.body, undefined);
  return { loads, stores };
}

/** Vectors are four elements wide, the width of a load of WGSL. */
const width = 4;

/** Chooses the tile of a kernel that was lowered with plainTile, or with plainBlock where it has a contraction. */
export function chooseTile(group: KernelGroup, probe: KernelIR, domain: readonly number[], target: Target): Tile {
  if (group.drafts[0]!.contraction !== undefined && domain.length > 0) return contractionTile(probe, domain, target);
  const { loads, stores } = references(probe);
  const [counter] = probe.parallel;
  const count = size(domain);
  const rowStores = stores.filter((store) => store.loop !== undefined);
  const loopLoads = loads.filter((load) => load.loop !== undefined);
  const along = (reference: Reference) => strideOf(reference.index, reference.loop!);
  const vector = target.language === "wgsl" ? width : 1;
  const reduceContiguous = loopLoads.length > 0 && loopLoads.every((load) => [0, 1].includes(along(load) ?? 2)) &&
    loopLoads.some((load) => along(load) === 1);
  const columns = !reduceContiguous && rowStores.length === 0 && count % width === 0 && count >= width &&
    stores.every((store) => strideOf(store.index, counter!) === 1);
  if (loopLoads.length > 0 || rowStores.length > 0) {
    const rowsContiguous = rowStores.length > 0 && rowStores.every((store) => along(store) === 1);
    const longest = Math.max(...[...loopLoads, ...rowStores].map(({ loop }) => loop!.extent));
    const team = reduceContiguous || rowsContiguous ? teamOf(longest, target) : 1;
    if (team > 1) return { ...plainTile, row: rowsContiguous ? width : 1, reduce: reduceContiguous ? width : 1, team };
    return {
      ...plainTile,
      outer: columns && loopLoads.every((load) => [0, 1].includes(strideOf(load.index, counter!) ?? 2)) ? width : 1,
      row: rowsContiguous ? vector : 1,
      // Four partial results also on the cpu device: they shorten the chain of additions and lose less.
      reduce: reduceContiguous ? width : 1,
    };
  }
  // A few invocations with a vector each would leave a device idle.
  const outer = columns && count >= 256 * width ? vector : 1;
  const blocks = count / (outer * walkSteps * 8);
  return { ...plainTile, outer, walk: target.class === "software" && blocks >= fewestBlocks ? walkSteps : 1 };
}

/**
 * On a software adapter an invocation is a vector lane: what all elements have in common is loaded once for a block, and
 * memory is walked in one piece. Drivers unroll loops of up to 32 steps, which makes this one slower than none.
 */
const walkSteps = 64;
/** Blocks of a domain that are worth walking: every core gets some. */
const fewestBlocks = 8;

/** On a GPU, neighbouring invocations want neighbouring elements, and a row gives work to many of them. */
function teamOf(length: number, target: Target): number {
  if (target.class === "software" || target.class === "js" || length < 256) return 1;
  return length < 2048 ? 64 : Math.min(256, target.maxInvocationsPerWorkgroup);
}

/** The block of a contraction: the two axes along which the operands are reused, eight or four elements each. */
function contractionTile(probe: KernelIR, domain: readonly number[], target: Target): Tile {
  const { loads, stores } = references(probe);
  const inner = loads.filter((load) => load.loop !== undefined);
  const depends = (load: Reference, variable: Variable) => strideOf(load.index, variable) !== 0;
  const axes = probe.parallel;
  const storeStride = (variable: Variable) => Math.min(...stores.map((store) => Math.abs(strideOf(store.index, variable) ?? Infinity)));
  let best: { m: number; n: number; score: number } | undefined;
  for (let m = 0; m < axes.length; m++) {
    for (let n = 0; n < axes.length; n++) {
      if (m === n) continue;
      const reused = inner.some((load) => depends(load, axes[m]!) && !depends(load, axes[n]!)) &&
        inner.some((load) => depends(load, axes[n]!) && !depends(load, axes[m]!));
      if (!reused) continue;
      // Neighbours in memory go along n, so that the block is stored by vectors; larger axes first.
      const score = (storeStride(axes[n]!) === 1 ? 1e12 : 0) + domain[m]! * domain[n]!;
      if (best === undefined || score > best.score) best = { m, n, score };
    }
  }
  const outer = best === undefined ? undefined : outerProduct(inner, axes, domain, best, target);
  if (outer !== undefined) return { ...plainTile, subgroup: outer };
  const staged = best === undefined ? undefined : stagedBlock(inner, axes, domain, best, target);
  if (staged !== undefined) return { ...plainTile, staged };
  const factors = domain.map(() => 1);
  const blocks = (edge: number) => size(domain) / (edge * edge);
  const most = target.class === "software" && blocks(8) >= 64 ? 8 : 4;
  if (best === undefined) {
    const last = domain.length - 1;
    factors[last] = blockLength(domain[last]!, width);
  } else {
    factors[best.m] = blockLength(domain[best.m]!, most);
    factors[best.n] = blockLength(domain[best.n]!, most);
  }
  return { ...plainTile, axes: factors };
}

/**
 * The fastest way to multiply on an adapter that runs on the CPU: no workgroup memory, few loads, all arithmetic on named
 * values. Needs a block of rows and columns at least.
 */
function outerProduct(
  inner: readonly Reference[],
  axes: readonly Variable[],
  domain: readonly number[],
  { m, n }: { m: number; n: number },
  target: Target,
): OuterProduct | undefined {
  const lanes = target.subgroupSize;
  if (target.class !== "software" || lanes === 0) return undefined;
  // Rows that are neighbours in memory are loaded as a vector; others one by one, and then fewer are better. A large block
  // takes the driver a second more to compile, which a small problem does not earn back.
  const adjacent = inner.some((load) => strideOf(load.index, axes[m]!) === 1);
  const small = size(domain) < 2 ** 17;
  const short = small && inner.every((load) => load.loop!.extent <= shortSum);
  const [rows, columns] = [adjacent && !small ? width : short ? width / 4 : width / 2, width];
  const run = adjacent && domain[m]! >= lanes * rows ? [m] : rowRun(inner, axes, m, n);
  const runs = [...domain.keys()].filter((axis) => axis === run[0] || !run.includes(axis)).map((axis) => axis === run[0] ? run : [axis]);
  const block = { m: runs.indexOf(run), n: runs.findIndex((own) => own.includes(n)) };
  const extents = runs.map((own) => own.reduce((count, axis) => count * domain[axis]!, 1));
  if (extents[block.m]! < lanes * rows || extents[block.n]! < lanes * columns) return undefined;
  const blocks = extents.reduce(
    (count, extent, i) => count * (i === block.m ? Math.ceil(extent / (lanes * rows)) : i === block.n ? Math.ceil(extent / (lanes * columns)) : extent),
    1,
  );
  const subgroups = blocks % 4 === 0 && blocks >= 32 ? 4 : 1;
  return { runs, ...block, rows, columns, lanes, subgroups };
}

/** Terms of a sum so few that loading and storing the block takes longer than adding them up. */
const shortSum = 32;

/** `m` with its neighbours among the axes along which the operand that has the columns does not change. */
function rowRun(inner: readonly Reference[], axes: readonly Variable[], m: number, n: number): number[] {
  const columns = inner.filter((load) => strideOf(load.index, axes[n]!) !== 0);
  const isRow = (axis: number) => axis !== n && axis >= 0 && axis < axes.length && columns.every((load) => strideOf(load.index, axes[axis]!) === 0);
  let [first, last] = [m, m];
  while (isRow(first - 1)) first--;
  while (isRow(last + 1)) last++;
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

/** Blocks for GPUs, the largest first: invocations along m and n, elements of each along both, terms at a time. */
const stagedBlocks = [
  { threads: [16, 16], edge: 8, depth: 8, least: 256 },
  { threads: [16, 16], edge: 4, depth: 16, least: 64 },
  { threads: [8, 8], edge: 4, depth: 8, least: 1 },
] as const;

/** The largest block of which there are enough to keep a GPU busy. */
function stagedBlock(
  inner: readonly Reference[],
  axes: readonly Variable[],
  domain: readonly number[],
  { m, n }: { m: number; n: number },
  target: Target,
): Staged | undefined {
  if (target.class === "software" || target.class === "js") return undefined;
  const adjacent = (along: number, across: number) =>
    inner.some((load) => strideOf(load.index, axes[along]!) === 1 && strideOf(load.index, axes[across]!) === 0);
  for (const { threads: [tm, tn], edge, depth, least } of stagedBlocks) {
    const [height, breadth] = [tm * edge, tn * edge];
    if (tm * tn > target.maxInvocationsPerWorkgroup || domain[m]! < height || domain[n]! < breadth) continue;
    const blocks = domain.reduce((count, extent, axis) => count * Math.ceil(extent / (axis === m ? height : axis === n ? breadth : 1)), 1);
    if (blocks < least) continue;
    return { m, n, threads: [tm, tn], rows: edge, columns: edge, depth, adjacent: [adjacent(m, n), adjacent(n, m)] };
  }
  return undefined;
}

/** A length of at most `most` that divides the axis, a multiple of the vector width if one does; `most` where none is near. */
function blockLength(extent: number, most: number): number {
  if (extent <= most) return extent;
  for (let length = most; length >= width; length -= width) if (extent % length === 0) return length;
  for (let length = most; length > most / 2; length--) if (extent % length === 0) return length;
  return most;
}

/** Arithmetic operations of a whole kernel, index arithmetic left out. */
export function countOperations(ir: KernelIR): number {
  let operations = 0;
  const invocations = ir.parallel.reduce((n, variable) => n * variable.extent, 1);
  const isArithmetic = (expr: Expr) => expr.kind === "op" && expr.op !== "where" && expr.dtype !== "bool";
  eachStatement(ir.body, (statement, times) => {
    if (statement.kind === "update" || (statement.kind === "let" && isArithmetic(statement.expr))) operations += times;
  });
  return operations * invocations;
}

/** The shape of one kernel's work: how many neighbouring elements an invocation computes, and how loops are unrolled. */
import { size } from "../../graph/shape.ts";
import { accessesOf, inLoops, type LoopAccess } from "../kernel/accesses.ts";
import { strideInGroup, strideOf } from "../kernel/index-arithmetic.ts";
import { eachStatement, type Expr, type KernelIR } from "../kernel/ir.ts";
import type { AttentionBlock } from "../plan/attention-block.ts";
import type { Target } from "../plan/plan.ts";

export interface Tile {
  /** How invocations walk the elements of the domain. */
  readonly walk: Walk;
  /** Elements of a row per pass of its loop. */
  readonly row: number;
  /** Terms of a reduction per pass of its loop. */
  readonly reduce: number;
  /** Whether each axis of a contraction's sum has a loop of its own, so that places in memory grow evenly in it. */
  readonly axisLoops: boolean;
  /** For each axis of the domain the lengths of those that it is walked by: of 256, [8, 32]. Undefined: each by itself. */
  readonly factors: readonly (readonly number[])[] | undefined;
  /** Whether exponentials and quotients are spelled by fewer instructions where something is known of their operands. */
  readonly knownRanges: boolean;
  /** How an attention is walked. */
  readonly attention: AttentionBlock | undefined;
}

/** By invocations each for itself, the first three; the others by those of a workgroup, or of a subgroup, together. */
export type Walk = FlatWalk | PiecesWalk | BlocksWalk | TeamWalk | SubgroupWalk | StagedWalk | PanelWalk | GemvWalk;

/** One counter over all elements; each invocation computes so many neighbours. */
export interface FlatWalk {
  readonly kind: "flat";
  readonly neighbours: number;
}

/** The same, but each invocation of a small workgroup walks in `steps` steps what lies in one piece for all of them. */
export interface PiecesWalk {
  readonly kind: "pieces";
  readonly neighbours: number;
  readonly steps: number;
}

/** A counter per axis; each invocation computes a block of so many elements along each (axes of length 1 left out). */
export interface BlocksWalk {
  readonly kind: "blocks";
  readonly block: readonly number[];
}

/** A workgroup of so many invocations for each element: they walk its row, and the terms of its reductions, together. */
export interface TeamWalk {
  readonly kind: "team";
  readonly invocations: number;
}

/** Neighbouring axes of the domain that are walked as one, so that rows of a convolution's images follow each other. */
export type Runs = readonly (readonly number[])[];

/**
 * A subgroup's block of a contraction, `lanes * rows` by `lanes * columns` elements. In each step of k every lane loads `rows`
 * elements of one operand and `columns` of the other; the former are broadcast to all lanes, so that each has all rows of its own
 * columns.
 */
export interface SubgroupWalk {
  readonly kind: "subgroup";
  readonly runs: Runs;
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
 * A workgroup's block of a contraction, `threads[0] * rows` by `threads[1] * columns` elements, a part of `rows` by `columns` for
 * each invocation. `depth` terms of the sum at a time are brought to workgroup memory, by all invocations together.
 */
export interface StagedWalk {
  readonly kind: "staged";
  readonly runs: Runs;
  /** The runs along which the rows and the columns of the block lie. */
  readonly m: number;
  readonly n: number;
  readonly threads: readonly [m: number, n: number];
  readonly rows: number;
  readonly columns: number;
  readonly depth: number;
  /** Whether neighbours of the row operand (of the column operand) along that run are neighbours in memory. */
  readonly adjacent: readonly [rows: boolean, columns: boolean];
  /** How many neighbours of them an invocation brings at a time. */
  readonly widths: readonly [rows: number, columns: number];
}

/**
 * A block of a contraction on the cpu device, `tiles * rows` by `panels * columns` elements: `columns` lanes side by side take panel
 * after panel, of each all rows, `rows` of them at a time.
 */
export interface PanelWalk {
  readonly kind: "panel";
  readonly runs: Runs;
  /** The runs along which the rows and the columns of the block lie; -1: there is one row. */
  readonly m: number;
  readonly n: number;
  readonly rows: number;
  readonly columns: number;
  readonly tiles: number;
  readonly panels: number;
  /** Parts of the sum, one after the other, and terms of each. */
  readonly parts: number;
  readonly depth: number;
  /** Whether neighbours of the row operand along its run are neighbours in memory. */
  readonly adjacent: boolean;
  /** Whether operands are read where they are, and not from scratch memory. */
  readonly direct: boolean;
}

/**
 * A workgroup's `threads[0] * columns` elements along one run, and all along another, short one. `threads[1]` invocations
 * walk the terms of a reduction, or of a contraction, to the same elements, `depth` terms each at a time.
 */
export interface GemvWalk {
  readonly kind: "gemv";
  readonly runs: Runs;
  /** -1: there is no short run. */
  readonly short: number;
  readonly long: number;
  readonly threads: readonly [long: number, k: number];
  readonly columns: number;
  readonly depth: number;
}

/** One element an invocation, walked by one counter: what a kernel is first lowered with, to see its accesses. */
export const plainTile: Tile = {
  walk: { kind: "flat", neighbours: 1 },
  row: 1,
  reduce: 1,
  axisLoops: false,
  factors: undefined,
  knownRanges: false,
  attention: undefined,
};

/** As plainTile, with a counter per axis. */
export function plainBlock(rank: number): Tile {
  return { ...plainTile, walk: { kind: "blocks", block: new Array<number>(rank).fill(1) } };
}

/** Vectors are four elements wide, the width of a load of WGSL. */
const width = 4;

/** Chooses the tile of a kernel without contractions that was lowered with plainTile. */
export function chooseTile(probe: KernelIR, domain: readonly number[], target: Target): Tile {
  const { loads, stores } = accessesOf(probe);
  const [counter] = probe.parallel;
  const count = size(domain);
  const rowStores = inLoops(stores);
  const loopLoads = inLoops(loads);
  const along = ({ index, loop }: LoopAccess) => strideOf(index, loop);
  const vector = target.language === "wgsl" ? width : 1;
  const reduceContiguous = loopLoads.length > 0 && loopLoads.every((load) => [0, 1].includes(along(load) ?? 2)) &&
    loopLoads.some((load) => along(load) === 1);
  const columns = !reduceContiguous && rowStores.length === 0 && count % width === 0 && count >= width &&
    stores.every((store) => strideOf(store.index, counter!) === 1);
  if (loopLoads.length > 0 || rowStores.length > 0) {
    const rowsContiguous = rowStores.length > 0 && rowStores.every((store) => along(store) === 1);
    const longest = Math.max(...[...loopLoads, ...rowStores].map(({ loop }) => loop.extent));
    const team = reduceContiguous || rowsContiguous ? teamOf(longest, target) : 1;
    if (team > 1) {
      return {
        ...plainTile,
        walk: { kind: "team", invocations: team },
        row: rowsContiguous ? width : 1,
        reduce: reduceContiguous ? width : 1,
      };
    }
    const neighbours = columns && loopLoads.every((load) =>
        [0, 1].includes(strideInGroup(load.index, counter!, width) ?? 2)
      )
      ? width
      : 1;
    if (
      isGpu(target) && rowStores.length === 0 && !reduceContiguous && count / neighbours < fewInvocations &&
      longest >= leastWalked
    ) {
      return { ...plainTile, walk: columnWalk(domain, neighbours, longest) };
    }
    return {
      ...plainTile,
      walk: { kind: "flat", neighbours },
      row: rowsContiguous ? vector : 1,
      // Four partial results also on the cpu device: they shorten the chain of additions and lose less.
      reduce: reduceContiguous ? width : 1,
    };
  }
  // A few invocations with a vector each would leave a device idle.
  const neighbours = columns && count >= 256 * width ? vector : 1;
  const pieces = count / (neighbours * walkSteps * pieceWalkers);
  return {
    ...plainTile,
    walk: target.class === "software" && pieces >= fewestPieces
      ? { kind: "pieces", neighbours, steps: walkSteps }
      : { kind: "flat", neighbours },
  };
}

/**
 * On a software adapter an invocation is a vector lane: what all elements have in common is loaded once for a block, and
 * memory is walked in one piece. Drivers unroll loops of up to 32 steps, which makes this one slower than none.
 */
const walkSteps = 64;
/** Pieces of a domain that are worth walking: every core gets some. */
const fewestPieces = 8;
/** Invocations that walk a piece side by side: a subgroup of the software adapters. */
export const pieceWalkers = 8;

/** Fewer invocations leave a GPU idle, if each has so many terms. */
const fewInvocations = 16384;
const leastWalked = 32;

/** Results that are neighbours, of which a workgroup walks the terms together. */
function columnWalk(domain: readonly number[], columns: number, terms: number): GemvWalk {
  const needed = powerFor(size(domain) / columns);
  const walkers = Math.min(128 / Math.min(16, needed), powerFor(terms));
  return {
    kind: "gemv",
    runs: [[...domain.keys()]],
    short: -1,
    long: 0,
    threads: [Math.min(16, needed), walkers],
    columns,
    depth: 1,
  };
}

export function isGpu({ class: of }: Pick<Target, "class">): boolean {
  return of === "discrete" || of === "integrated";
}

/** The power of two that is not below a count. */
export function powerFor(count: number): number {
  return 2 ** Math.ceil(Math.log2(count));
}

/** On a GPU, neighbouring invocations want neighbouring elements, and a row gives work to many of them. */
function teamOf(length: number, target: Target): number {
  if (!isGpu(target) || length < 256) return 1;
  return length < 2048 ? 64 : Math.min(256, target.maxInvocationsPerWorkgroup);
}

/** Arithmetic operations of a whole kernel, index arithmetic left out. */
export function countOperations(ir: KernelIR): number {
  let operations = 0;
  const invocations = ir.parallel.reduce((n, variable) => n * variable.extent, 1);
  const isArithmetic = (expr: Expr) => expr.kind === "op" && expr.op !== "where" && expr.dtype !== "bool";
  eachStatement(ir.body, (statement, times) => {
    if (
      statement.kind === "update" || statement.kind === "assign" ||
      (statement.kind === "let" && isArithmetic(statement.expr))
    ) operations += times;
  });
  return operations * invocations;
}

/** Terms of a part, a multiple of `unit`, at most `most`: that divide the sum if at least half as many do. */
export function partLength(terms: number, unit: number, most: number): number {
  for (let length = most - most % unit; 2 * length >= most; length -= unit) if (terms % length === 0) return length;
  return Math.ceil(terms / Math.ceil(terms / most) / unit) * unit;
}

/** The tile of a contraction's kernel: its schedule, tuned or default, fitted to the axes of its domain. */
import type { Node } from "../../graph/node.ts";
import { size } from "../../graph/shape.ts";
import type { KernelGroup } from "../group/merge.ts";
import { accessesOf, inLoops, type LoopAccess } from "../kernel/accesses.ts";
import { type Index, strideOf, type Variable } from "../kernel/index-arithmetic.ts";
import { eachStatement, type KernelIR } from "../kernel/ir.ts";
import {
  blockOf,
  type ContractionSchedule,
  type Default,
  defaults,
  type Gemv,
  isShort,
  keepsLimits,
  layoutOfLong,
  type OperandLayout,
  type Panel,
  type Problem,
  signatureOf,
  type WorkgroupTile,
} from "../plan/contraction-schedules.ts";
import type { Target } from "../plan/plan.ts";
import { problemOf } from "../prepare/contraction.ts";
import { partLength, plainBlock, plainTile, powerFor, type Runs, type Tile } from "./tile.ts";

/** Vectors are four elements wide, the width of a load of WGSL. */
const width = 4;

/** A kernel of a contraction, as its probe shows it. */
interface Contraction {
  readonly problem: Problem;
  readonly domain: readonly number[];
  readonly axes: readonly Variable[];
  /** Loads of operands. */
  readonly inner: readonly LoopAccess[];
  /** The axes along which the rows and the columns of a block lie; undefined where no two axes reuse operands. */
  readonly pair: { readonly m: number; readonly n: number } | undefined;
  /** The axis along which results are neighbours, else the longest. */
  readonly long: number;
  /** Length of the last axis of the sum. */
  readonly lastTerms: number;
  /** Whether of the operands some are more than what is in memory. */
  readonly computed: boolean;
}

/** A schedule that was fitted, and how many blocks of it there are. */
interface Fitted {
  readonly tile: Tile;
  readonly blocks: number;
}

/** The tile that was chosen, and by which schedule. */
export interface ContractionTile {
  readonly tile: Tile;
  readonly schedule: ContractionSchedule;
}

/**
 * Chooses the tile of a contraction's kernel with results of shape `domain`, of at least one axis. `probe` lowers the kernel,
 * `inMemory` tells the nodes that it reads.
 */
export function contractionTile(
  group: KernelGroup,
  probe: (tile: Tile) => KernelIR,
  domain: readonly number[],
  inMemory: (node: Node) => boolean,
  target: Target,
): ContractionTile {
  const node = group.drafts[0]!.contraction!;
  const terms = node.attrs.axes.map((axis) => node.src[0].shape[axis]!);
  let ir = probe(plainBlock(domain.length));
  const factors = target.class === "js" ? undefined : factorsOf(ir, domain);
  if (factors !== undefined) ir = probe({ ...plainBlock(factors.flat().length), factors });
  const contraction = contractionOf(ir, factors?.flat() ?? domain, terms, node.dtype);
  const known = target.tuned && problemOf(node, inMemory);
  const tuned = known && target.tuned?.[signatureOf(known)];
  const choices: readonly Default[] = [
    ...(tuned === undefined ? [] : [{ schedule: tuned }]),
    ...defaults[target.class],
  ];
  for (const { schedule, leastBlocks, when } of choices) {
    if (when?.(contraction.problem, contraction.computed) === false || !keepsLimits(schedule, target)) continue;
    const fitted = fit(schedule, contraction, target, leastBlocks !== undefined);
    if (fitted === undefined || fitted.blocks < (leastBlocks ?? 0)) continue;
    return { tile: { ...fitted.tile, factors }, schedule };
  }
  const { domain: walked } = contraction;
  return {
    tile: { ...plainBlock(walked.length), factors },
    schedule: { kind: "registerTile", elements: [1, 1], parts: 1 },
  };
}

/**
 * Axes of a result in which several of its contraction's lie, one after the other (the heads of an attention and their
 * widths, say), with the lengths of those; undefined where there are none.
 */
function factorsOf(ir: KernelIR, domain: readonly number[]): number[][] | undefined {
  const cuts = new Map<Variable, Set<number>>(ir.parallel.map((variable) => [variable, new Set()]));
  const note = (of: Index, by: number) => {
    const [only] = of.terms;
    if (of.terms.length !== 1 || of.offset !== 0 || only!.coefficient !== 1) return;
    if (only!.atom.kind === "variable") cuts.get(only!.atom.variable)?.add(by);
    else if (only!.atom.kind === "div") note(only!.atom.of, only!.atom.by * by);
  };
  const visit = (index: Index) => {
    for (const { atom } of index.terms) {
      if (atom.kind === "div" || atom.kind === "mod") note(atom.of, atom.by);
      if (atom.kind === "div" || atom.kind === "mod" || atom.kind === "min") visit(atom.of);
    }
  };
  for (const { index } of inLoops(accessesOf(ir).loads)) visit(index);
  const factors = ir.parallel.map((variable, axis) => {
    const lengths: number[] = [];
    let below = 1;
    for (const cut of [...cuts.get(variable)!].sort((a, b) => a - b)) {
      if (cut % below !== 0 || domain[axis]! % cut !== 0 || cut === below || cut === domain[axis]) continue;
      lengths.unshift(cut / below);
      below = cut;
    }
    return [domain[axis]! / below, ...lengths];
  });
  return factors.some((lengths) => lengths.length > 1) ? factors : undefined;
}

function contractionOf(
  ir: KernelIR,
  domain: readonly number[],
  terms: readonly number[],
  dtype: Problem["dtype"],
): Contraction {
  const { loads, stores } = accessesOf(ir);
  const inner = inLoops(loads);
  const axes = ir.parallel;
  const depends = (load: LoopAccess, variable: Variable) => strideOf(load.index, variable) !== 0;
  const storeStride = (variable: Variable) =>
    Math.min(...stores.map((store) => Math.abs(strideOf(store.index, variable) ?? Infinity)));
  let pair: { m: number; n: number; score: number } | undefined;
  for (let m = 0; m < axes.length; m++) {
    for (let n = 0; n < axes.length; n++) {
      if (m === n) continue;
      const reused = inner.some((load) => depends(load, axes[m]!) && !depends(load, axes[n]!)) &&
        inner.some((load) => depends(load, axes[n]!) && !depends(load, axes[m]!));
      if (!reused) continue;
      // Neighbours in memory go along n, so that the block is stored by vectors; larger axes first.
      const score = (storeStride(axes[n]!) === 1 ? 1e12 : 0) + domain[m]! * domain[n]!;
      if (pair === undefined || score > pair.score) pair = { m, n, score };
    }
  }
  const longest = domain.indexOf(Math.max(...domain));
  const neighbours = axes.findIndex((axis) => storeStride(axis) === 1);
  const long = pair?.n ?? (neighbours >= 0 ? neighbours : longest);
  const layoutAlong = (axis: number): OperandLayout => {
    if (inner.some((load) => strideOf(load.index, axes[axis]!) === 1)) return "own";
    return inner.some((load) => depends(load, axes[axis]!) && (strideOf(load.index, load.loop) ?? 1) === 1)
      ? "k"
      : "neither";
  };
  const m = pair === undefined ? 1 : lengthOf(rowRun(inner, axes, pair.m, pair.n), domain);
  const n = domain[long]!;
  const problem: Problem = {
    dtype,
    batch: size(domain) / (m * n),
    m,
    n,
    k: size(terms),
    rows: pair === undefined ? "neither" : layoutAlong(pair.m),
    columns: layoutAlong(long),
  };
  let operations = 0;
  eachStatement(ir.body, (statement, _, scope) => {
    if (scope !== ir.body && statement.kind === "let" && statement.expr.kind === "op") operations++;
  });
  return {
    problem,
    domain,
    axes,
    inner,
    pair,
    long,
    lastTerms: terms[terms.length - 1] ?? 1,
    computed: operations > 1,
  };
}

/** A tile by a schedule; undefined where the schedule is for other contractions. `whole`: only where an axis holds a block. */
function fit(
  schedule: ContractionSchedule,
  contraction: Contraction,
  target: Target,
  whole: boolean,
): Fitted | undefined {
  switch (schedule.kind) {
    case "registerTile":
      return registerTile(schedule, contraction, target);
    case "subgroupOuter":
      return subgroupTile(schedule, contraction, target.subgroupSize);
    case "workgroupTile":
      return stagedTile(schedule, contraction, whole);
    case "panel":
      return target.language === "wasm" ? panelTile(schedule, contraction) : undefined;
    case "gemv":
      return gemvTile(schedule, contraction);
  }
}

/** The two axes along which the operands are reused, so many elements each. */
function registerTile(
  { elements }: ContractionSchedule,
  { domain, pair }: Contraction,
  { varying = [], language }: Target,
): Fitted {
  const inBlock = (extent: number, most: number) =>
    varying.includes(extent) ? Math.min(extent, most) : blockLength(extent, most);
  const block = domain.map(() => 1);
  if (pair === undefined) {
    const last = domain.length - 1;
    block[last] = inBlock(domain[last]!, Math.min(width, elements[1]));
  } else {
    block[pair.m] = inBlock(domain[pair.m]!, elements[0]);
    block[pair.n] = inBlock(domain[pair.n]!, elements[1]);
  }
  return {
    tile: { ...plainTile, walk: { kind: "blocks", block }, axisLoops: language === "wasm" },
    blocks: size(domain) / (elements[0] * elements[1]),
  };
}

/**
 * The fastest way to multiply on an adapter that runs on the CPU: no workgroup memory, few loads, all arithmetic on named
 * values. Needs a block of rows and columns at least.
 */
function subgroupTile(
  schedule: ContractionSchedule & { readonly kind: "subgroupOuter" },
  { domain, axes, inner, pair, problem }: Contraction,
  lanes: number,
): Fitted | undefined {
  if (pair === undefined) return undefined;
  const { m, n } = pair;
  const [rows, columns] = schedule.elements;
  const run = problem.rows === "own" && domain[m]! >= lanes * rows ? [m] : rowRun(inner, axes, m, n);
  const { runs, extents, place } = runsWith(run, domain);
  const block = { m: place(m), n: place(n) };
  if (extents[block.m]! < lanes * rows || extents[block.n]! < lanes * columns) return undefined;
  const blocks = extents.reduce(
    (count, extent, i) =>
      count * Math.ceil(extent / (i === block.m ? lanes * rows : i === block.n ? lanes * columns : 1)),
    1,
  );
  const subgroups = blocks % schedule.subgroups === 0 && blocks >= 32 ? schedule.subgroups : 1;
  return {
    tile: {
      ...plainTile,
      walk: { kind: "subgroup", runs, ...block, rows, columns, lanes, subgroups },
      reduce: schedule.depth,
    },
    blocks,
  };
}

/** `m` with its neighbours among the axes along which the operand that has the columns does not change. */
function rowRun(inner: readonly LoopAccess[], axes: readonly Variable[], m: number, n: number): number[] {
  const columns = inner.filter((load) => strideOf(load.index, axes[n]!) !== 0);
  const isRow = (axis: number) =>
    axis !== n && axis >= 0 && axis < axes.length && columns.every((load) => strideOf(load.index, axes[axis]!) === 0);
  let [first, last] = [m, m];
  while (isRow(first - 1)) first--;
  while (isRow(last + 1)) last++;
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

function lengthOf(run: readonly number[], domain: readonly number[]): number {
  return size(run.map((axis) => domain[axis]!));
}

/** The axes of a domain with some of them walked as one: the runs, their lengths, and the number of the one with an axis. */
function runsWith(
  run: readonly number[],
  domain: readonly number[],
): { runs: Runs; extents: number[]; place: (axis: number) => number } {
  const runs = [...domain.keys()].filter((axis) => axis === run[0] || !run.includes(axis)).map((axis) =>
    axis === run[0] ? run : [axis]
  );
  return {
    runs,
    extents: runs.map((own) => lengthOf(own, domain)),
    place: (axis) => runs.findIndex((own) => own.includes(axis)),
  };
}

function stagedTile(
  schedule: WorkgroupTile,
  { domain, axes, inner, pair, lastTerms }: Contraction,
  whole: boolean,
): Fitted | undefined {
  if (pair === undefined) return undefined;
  const adjacent = (along: number, across: number) =>
    inner.some((load) => strideOf(load.index, axes[along]!) === 1 && strideOf(load.index, axes[across]!) === 0);
  const [height, breadth] = blockOf(schedule);
  const { m, n } = pair;
  const all = rowRun(inner, axes, m, n);
  const run = adjacent(m, n) && domain[m]! >= height ? [m] : all;
  const { runs, extents, place } = runsWith(run, domain);
  const block = { m: place(m), n: place(n) };
  if (whole && (extents[block.m]! < height || extents[block.n]! < breadth)) return undefined;
  const blocks = extents.reduce(
    (count, extent, i) => count * Math.ceil(extent / (i === block.m ? height : i === block.n ? breadth : 1)),
    1,
  );
  const last = run[run.length - 1]!;
  const along = [adjacent(last, n), adjacent(n, m)] as const;
  // Neighbours that straddle two vectors are brought one by one, so that neighbouring invocations still load neighbours.
  const widthOf = (adjacent: boolean, axis: number) =>
    (adjacent ? domain[axis]! : lastTerms) % schedule.width === 0 ? schedule.width : 1;
  const tile: Tile = {
    ...plainTile,
    walk: {
      kind: "staged",
      runs,
      ...block,
      threads: schedule.threads,
      rows: schedule.elements[0],
      columns: schedule.elements[1],
      depth: schedule.depth,
      adjacent: along,
      widths: [widthOf(along[0], last), widthOf(along[1], n)],
    },
  };
  return { tile, blocks };
}

/** Blocks of equal lengths, and parts of the sum of equal lengths where there are such that are long enough. */
function panelTile(
  { elements: [rows, columns], block, depth, direct: wantsDirect }: Panel,
  { problem: { k }, domain, axes, inner, pair, long, lastTerms }: Contraction,
): Fitted | undefined {
  const direct = wantsDirect === true;
  if (k < 2 || (direct ? lastTerms !== k : pair === undefined)) return undefined;
  const { runs, extents, place } = runsWith(pair === undefined ? [long] : rowRun(inner, axes, pair.m, pair.n), domain);
  const [m, n] = pair === undefined ? [-1, place(long)] : [place(pair.m), place(pair.n)];
  const last = axes[runs[m]?.at(-1) ?? -1];
  const adjacent = last !== undefined &&
    inner.some((load) => strideOf(load.index, last) === 1 && strideOf(load.index, axes[long]!) === 0);
  const cut = (extent: number, unit: number, most: number) => {
    const units = Math.ceil(extent / unit);
    return Math.ceil(units / Math.ceil(units * unit / most));
  };
  const [tiles, panels] = [cut(extents[m] ?? 1, rows, block[0]), cut(extents[n]!, columns, block[1])];
  const terms = k <= depth ? k : partLength(k, direct ? 1 : columns, depth);
  const blocks = extents.reduce(
    (count, extent, i) => count * Math.ceil(extent / (i === m ? tiles * rows : i === n ? panels * columns : 1)),
    1,
  );
  const walk = { kind: "panel", runs, m, n, rows, columns, tiles, panels, adjacent, direct } as const;
  return { tile: { ...plainTile, walk: { ...walk, parts: Math.ceil(k / terms), depth: terms } }, blocks };
}

function gemvTile(
  schedule: Gemv,
  { problem, domain, axes, inner, pair, long, lastTerms }: Contraction,
): Fitted | undefined {
  if (!isShort(problem)) return undefined;
  const all = pair === undefined ? [long] : rowRun(inner, axes, pair.m, pair.n);
  // A long run goes on with the axis along which it has neighbours.
  const apart = pair !== undefined && problem.m >= problem.n && problem.rows === "own" &&
    all[all.length - 1] !== pair.m;
  const { runs, extents, place } = runsWith(apart ? [pair.m] : all, domain);
  const rows = pair === undefined ? -1 : place(pair.m);
  const [short, of] = problem.m < problem.n || rows < 0 ? [rows, place(long)] : [place(long), rows];
  const length = extents[of]!;
  const layout = layoutOfLong(problem);
  const [, most] = schedule.elements;
  const columns = layout !== "k" && length % most !== 0 ? 1 : Math.min(most, length);
  const depth = lastTerms % schedule.depth === 0 ? schedule.depth : 1;
  const invocations = schedule.threads[0] * schedule.threads[1];
  const needed = powerFor(Math.ceil(length / columns));
  // Invocations that would have nothing to do along one axis work along the other.
  const walkers = Math.min(invocations / Math.min(schedule.threads[0], needed), powerFor(Math.ceil(problem.k / depth)));
  const threads = [Math.min(invocations / walkers, needed), walkers] as const;
  const blocks = extents.reduce(
    (count, extent, i) => count * (i === of ? Math.ceil(extent / (threads[0] * columns)) : i === short ? 1 : extent),
    1,
  );
  return { tile: { ...plainTile, walk: { kind: "gemv", runs, short, long: of, threads, columns, depth } }, blocks };
}

/** A length of at most `most` that divides the axis, a multiple of the vector width if one does; `most` where none is near. */
function blockLength(extent: number, most: number): number {
  if (extent <= most) return extent;
  for (let length = most; length >= width; length -= width) if (extent % length === 0) return length;
  for (let length = most; length > most / 2; length--) if (extent % length === 0) return length;
  return most;
}

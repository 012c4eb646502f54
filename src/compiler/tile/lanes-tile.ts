/** The tile of a kernel on the cpu device, where invocations are lanes of vectors: what lies side by side goes along them. */
import { size } from "../../graph/shape.ts";
import { accessesOf, inLoops, type LoopAccess } from "../kernel/accesses.ts";
import { type Index, strideInGroup, strideOf } from "../kernel/index-arithmetic.ts";
import type { KernelIR } from "../kernel/ir.ts";
import { isLongStrip, stripDepth, stripWidth } from "../plan/contraction-schedules.ts";
import { partLength, plainBlock, plainTile, type Tile } from "./tile.ts";

/** Lanes of a vector. */
const lanes = 4;

/** Lanes side by side of a strip. */
const stripColumns = 16;

/** A row is walked by at least a vector of lanes, and by more of them where it is long: sums do not wait for each other then. */
const teams: readonly { readonly length: number; readonly invocations: number }[] = [
  { length: 64, invocations: 16 },
  { length: 16, invocations: 8 },
  { length: 8, invocations: 4 },
];

const laneTile: Tile = { ...plainTile, knownRanges: true };

/** Chooses the tile of a kernel without contractions. `probe` lowers it, `plain` is what it gives for plainTile. */
export function lanesTile(plain: KernelIR, probe: (tile: Tile) => KernelIR, domain: readonly number[]): Tile {
  const { loads, stores } = accessesOf(plain);
  const rowStores = inLoops(stores);
  const loopLoads = inLoops(loads);
  const along = ({ index, loop }: LoopAccess) => strideOf(index, loop);
  const termsAlongLanes = loopLoads.length > 0 && loopLoads.every((load) => [0, 1].includes(along(load) ?? 2)) &&
    loopLoads.some((load) => along(load) === 1);
  const rowsAlongLanes = rowStores.length > 0 && rowStores.every((store) => along(store) === 1);
  if (termsAlongLanes || rowsAlongLanes) {
    const longest = Math.max(...[...loopLoads, ...rowStores].map(({ loop }) => loop.extent));
    const team = teams.find(({ length }) => longest >= length);
    if (team !== undefined) return { ...laneTile, walk: { kind: "team", invocations: team.invocations } };
  }
  const strip = stripTile(plain, domain);
  if (strip !== undefined) return strip;
  const transposed = loopLoads.length + rowStores.length > 0 ? undefined : acrossTile(probe, domain);
  if (transposed !== undefined) return transposed;
  const uneven = unevenAccesses(plain);
  if (uneven === 0 || domain.length < 2 || domain.at(-1)! < lanes) return laneTile;
  const block = { ...plainBlock(domain.length), knownRanges: true };
  return unevenAccesses(probe(block)) < uneven ? block : laneTile;
}

/** How many loads and stores are not at even distances along the lanes of a vector. */
function unevenAccesses(ir: KernelIR): number {
  const vector = ir.parallel.findLast(({ extent }) => extent > 1);
  if (vector === undefined) return 0;
  const isUneven = ({ index }: { readonly index: Index }) =>
    strideOf(index, vector) === undefined && strideInGroup(index, vector, lanes) === undefined;
  const { loads, stores } = accessesOf(ir);
  return [...loads, ...stores].filter(isUneven).length;
}

/** A tile of a kernel that is one reduction of long columns, neighbours of which lie side by side: some terms of all at a time. */
function stripTile({ body, parallel }: KernelIR, domain: readonly number[]): Tile | undefined {
  const loops = body.statements.filter((statement) => statement.kind === "loop");
  const [loop] = loops;
  const along = domain.findLastIndex((extent) => extent > 1);
  const vector = parallel.findLast(({ extent }) => extent > 1);
  if (loops.length !== 1 || vector === undefined || along < 0) return undefined;
  let accumulators = 0;
  let even = true;
  let far = false;
  const { statements } = loop!.body;
  for (const statement of body.statements) if (statement.kind === "declare") accumulators++;
  for (const statement of statements) {
    if (statement.kind === "update" && statement.accumulator.dtype !== "bool") continue;
    if (statement.kind !== "let") return undefined;
    const { expr } = statement;
    if (expr.kind !== "load") continue;
    const stride = strideOf(expr.index, vector) ?? strideInGroup(expr.index, vector, lanes);
    even &&= stride === 0 || stride === 1;
    far ||= stride === 1 && Math.abs(strideOf(expr.index, loop!.variable) ?? 0) >= stripColumns;
  }
  const [extent, terms] = [domain[along]!, loop!.variable.extent];
  if (accumulators !== 1 || !even || !far || !isLongStrip(extent, terms)) return undefined;
  const units = Math.ceil(extent / stripColumns);
  const depth = partLength(terms, 1, stripDepth);
  return {
    ...laneTile,
    walk: {
      kind: "panel",
      runs: domain.map((_, axis) => [axis]),
      m: -1,
      n: along,
      rows: 1,
      columns: stripColumns,
      tiles: 1,
      panels: Math.ceil(units / Math.ceil(extent / stripWidth)),
      parts: Math.ceil(terms / depth),
      depth,
      adjacent: false,
      direct: true,
    },
  };
}

/** So many elements along an axis an invocation computes where that axis goes along memory, and the lanes do not. */
const across = [8, 4] as const;
/** Fewer elements stay in the nearest cache however they are walked. */
const leastAcross = 2 ** 12;

/** A tile of a kernel that reads across the lanes, as a transpose does. */
function acrossTile(probe: (tile: Tile) => KernelIR, domain: readonly number[]): Tile | undefined {
  if (domain.length < 2 || size(domain) < leastAcross) return undefined;
  const { parallel, ...ir } = probe(plainBlock(domain.length));
  const { loads, stores } = accessesOf({ parallel, ...ir });
  const vector = parallel.findLastIndex(({ extent }) => extent > 1);
  if (vector < 0 || stores.some(({ index }) => strideOf(index, parallel[vector]!) !== 1)) return undefined;
  const along = loads.flatMap(({ index }) => {
    const stride = strideOf(index, parallel[vector]!);
    if (stride === undefined || Math.abs(stride) < 2) return [];
    return [parallel.findIndex((variable, axis) => axis !== vector && strideOf(index, variable) === 1)];
  });
  const [axis] = along;
  if (axis === undefined || axis < 0 || along.some((other) => other !== axis)) return undefined;
  const length = across.find((length) => domain[axis]! % length === 0);
  return length === undefined ? undefined : {
    ...laneTile,
    walk: { kind: "blocks", block: domain.map((_, of) => of === axis ? length : 1) },
  };
}

/** The tile of a kernel on the cpu device, where invocations are lanes of vectors: what lies side by side goes along them. */
import { accessesOf, inLoops, type LoopAccess } from "../kernel/accesses.ts";
import { type Index, strideInGroup, strideOf } from "../kernel/index-arithmetic.ts";
import type { KernelIR } from "../kernel/ir.ts";
import { plainBlock, plainTile, type Tile } from "./tile.ts";

/** Lanes of a vector. */
const lanes = 4;

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

/** The kernel of a group: lowered in a plain way first, which shows the tile that it is to have. */
import type { Node } from "../../graph/node.ts";
import { size } from "../../graph/shape.ts";
import { kernelOf } from "../../graph/structural.ts";
import { outerExtents } from "../group/draft.ts";
import type { KernelGroup } from "../group/merge.ts";
import type { KernelIR } from "../kernel/ir.ts";
import type { Memory } from "../kernel/location.ts";
import { attentionBlock } from "../plan/attention-block.ts";
import type { ContractionSchedule } from "../plan/contraction-schedules.ts";
import type { Target } from "../plan/plan.ts";
import { contractionTile } from "../tile/contraction-tile.ts";
import { loadsPerElement, readsInParts, sharedLoads } from "../tile/shared-loads.ts";
import { lanesTile } from "../tile/lanes-tile.ts";
import { chooseTile, plainBlock, plainTile, type Tile, type Walk } from "../tile/tile.ts";
import { keptRows } from "./kept-rows.ts";
import { lower } from "./lower.ts";
import { scanTeam } from "./scan.ts";

export interface LoweredGroup {
  readonly group: KernelGroup;
  /** Undefined where it has none: its value is that of an op's own program, or its parts are made in its memory, or it is empty. */
  readonly ir: KernelIR | undefined;
  /** By which its contraction is computed, if it has one. */
  readonly schedule?: ContractionSchedule;
}

export function lowerGroup(group: KernelGroup, memory: Memory, target: Target): LoweredGroup {
  const [draft] = group.drafts;
  const kernel = kernelOf(draft.root);
  if (kernel === "region" || kernel === "program" || size(draft.root.shape) === 0) return { group, ir: undefined };
  if (kernel === "own") {
    const invocations = draft.root.op === "scan" && target.language === "wasm" ? scanTeam(draft.root) : 1;
    const walk: Walk = invocations > 1 ? { kind: "team", invocations } : plainTile.walk;
    return { group, ir: lower(group, memory, { ...plainTile, walk, attention: attentionBlock(target) }) };
  }
  const domain = outerExtents(draft);
  const probe = (tile: Tile) => lower(group, memory, tile, target.varying);
  if (draft.contraction === undefined || domain.length === 0) return { group, ir: lowerPlain(probe, domain, target) };
  const inMemory = (node: Node) => memory.source(node) !== undefined;
  const { tile, schedule } = contractionTile(group, probe, domain, inMemory, target);
  return { group, ir: probe(tile), schedule };
}

/** The kernel of a group without a contraction: of elements that share what they are made of, if that saves loads. */
function lowerPlain(probe: (tile: Tile) => KernelIR, domain: readonly number[], target: Target): KernelIR {
  const plain = probe(plainTile);
  if (target.language === "wasm") return keptRows(probe(lanesTile(plain, probe, domain)));
  const tile = chooseTile(plain, domain, target);
  const tiled = probe(tile);
  const walksRows = tile.row > 1 || tile.reduce > 1 || tile.walk.kind === "team" || tile.walk.kind === "gemv";
  const shared = !walksRows && readsInParts(plain)
    ? sharedLoads(probe(plainBlock(domain.length)), domain, target)
    : undefined;
  if (shared === undefined) return tiled;
  const together = probe(shared);
  return loadsPerElement(together) < loadsPerElement(tiled) ? together : tiled;
}

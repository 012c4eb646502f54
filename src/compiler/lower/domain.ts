/** How a kernel walks its domain: a file for each way, chosen by the tile. */
import { strides } from "../../graph/shape.ts";
import { flatten, type Index } from "../kernel/index-arithmetic.ts";
import type { KernelBuilder } from "../kernel/ir.ts";
import type { Tile, Walk } from "../tile/tile.ts";
import { type GemvDomain, gemvDomain } from "./gemv.ts";
import {
  type BlocksDomain,
  blocksDomain,
  type FlatDomain,
  flatDomain,
  type PiecesDomain,
  piecesDomain,
} from "./plain-domains.ts";
import { type PanelDomain, panelDomain } from "./panel-contraction.ts";
import { type SubgroupDomain, subgroupDomain } from "./subgroup-contraction.ts";
import { type TeamDomain, teamDomain } from "./team.ts";
import { type StagedDomain, stagedDomain } from "./workgroup-contraction.ts";

export type Domain =
  | FlatDomain
  | PiecesDomain
  | BlocksDomain
  | TeamDomain
  | SubgroupDomain
  | StagedDomain
  | PanelDomain
  | GemvDomain;

/** The domain of so many elements along each axis. Along `varying` lengths blocks are guarded even where they divide them. */
export function domainOf(
  builder: KernelBuilder,
  extents: readonly number[],
  { walk, factors }: Tile,
  varying: readonly number[],
): Domain {
  if (factors === undefined) return walkedBy(builder, extents, walk, varying);
  const domain = walkedBy(builder, factors.flat(), walk, varying);
  return { ...domain, lanes: domain.lanes.map((lane) => ({ ...lane, indices: multiplied(lane.indices, factors) })) };
}

function walkedBy(
  builder: KernelBuilder,
  extents: readonly number[],
  walk: Walk,
  varying: readonly number[],
): Domain {
  switch (walk.kind) {
    case "flat":
      return flatDomain(builder, extents, walk);
    case "pieces":
      return piecesDomain(builder, extents, walk, varying);
    case "blocks":
      return blocksDomain(builder, extents, walk, varying);
    case "team":
      return teamDomain(builder, extents, walk);
    case "subgroup":
      return subgroupDomain(builder, extents, walk, varying);
    case "staged":
      return stagedDomain(builder, extents, walk, varying);
    case "panel":
      return panelDomain(builder, extents, walk);
    case "gemv":
      return gemvDomain(builder, extents, walk);
  }
}

/** Indices along the axes of a domain, from those along their factors. */
function multiplied(indices: readonly Index[], factors: readonly (readonly number[])[]): Index[] {
  let next = 0;
  return factors.map((lengths) => flatten(indices.slice(next, next += lengths.length), strides(lengths)));
}

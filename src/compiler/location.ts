/** Where values lie in memory. */
import type { Node } from "../graph/node.ts";
import { add, constantIndex, type Index, scale } from "./affine.ts";

/** Where a node's elements lie: element i at offset + sum of strides[a] * i[a], in elements. */
export interface Location {
  readonly slot: number;
  readonly offset: number;
  readonly strides: readonly number[];
}

export interface Memory {
  /** Where a node can be read, if it is in memory. */
  readonly source: (node: Node) => Location | undefined;
  /** Where a kernel's value goes; several places for one that is wanted in several. */
  readonly targets: (node: Node) => readonly Location[];
}

export function locate(location: Location, indices: readonly Index[]): Index {
  return indices.reduce((sum, index, axis) => add(sum, scale(index, location.strides[axis]!)), constantIndex(location.offset));
}

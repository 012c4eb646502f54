/** Where values lie in memory. */
import type { Node } from "../../graph/node.ts";
import { add, constantIndex, type Index, scale } from "./index-arithmetic.ts";

/** Where a node's elements lie: element i at offset + sum of strides[a] * i[a], in elements. */
export interface Location {
  readonly slot: number;
  readonly offset: number;
  readonly strides: readonly number[];
}

/** Where faults of a watched value go: see group/watch.ts. */
export interface Marks {
  readonly slot: number;
  readonly number: number;
  readonly each: boolean;
  readonly boundary: number;
}

export interface Memory {
  /** Where a node can be read, if it is in memory. */
  readonly source: (node: Node) => Location | undefined;
  /** Where a kernel's value goes; several places for one that is wanted in several. */
  readonly targets: (node: Node) => readonly Location[];
  /** Where it is noted that a value is not finite, if it is watched; one for each place among the watched ones. */
  readonly marks: (node: Node) => readonly Marks[];
}

export function locate(location: Location, indices: readonly Index[]): Index {
  return indices.reduce(
    (sum, index, axis) => add(sum, scale(index, location.strides[axis]!)),
    constantIndex(location.offset),
  );
}

/** How a value of a traced function is spread over the rows of a batch. */
import type { Node } from "../../graph/node.ts";

/**
 * The axis `axis` has length outer * rows * inner, row-major; so index (o * rows + row) * inner + i belongs
 * to `row`.
 */
export interface Batched {
  readonly kind: "batched";
  readonly axis: number;
  readonly outer: number;
  readonly inner: number;
}

export type Spread =
  | { readonly kind: "replicated" }
  | Batched
  | { readonly kind: "partial" }
  | OfShard;

/** What depends on how many rows the shard has. */
export interface OfShard {
  readonly kind: "shard";
  readonly what: string;
  /** The largest or smallest of the shard's rows: those of all shards give that of the whole. */
  readonly extreme?: "max" | "min";
}

export const replicated: Spread = { kind: "replicated" };
export const partial: Spread = { kind: "partial" };
export function batched(
  axis: number,
  { outer = 1, inner = 1 }: { outer?: number; inner?: number } = {},
): Batched {
  return { kind: "batched", axis, outer, inner };
}

/** An op where it stands: the spreads of its sources, of which there are as many as `S` says, and its twin in the other trace. */
export interface Site<N extends Node = Node, S extends readonly Spread[] = readonly Spread[]> {
  readonly node: N & { readonly src: { readonly [I in keyof S]: Node } };
  readonly twin: Node;
  readonly src: S;
  readonly rows: number;
  readonly twinRows: number;
}

/** How an attention is walked. */
import type { Target } from "./plan.ts";

/**
 * Columns of an attention are the positions that its result is for, rows those that are summed over. `lanes` invocations have
 * `columns` neighbouring columns each, and walk all rows, a block at a time; the rows of a block are loaded by
 *  - "each" invocation for itself, `rows` of them;
 *  - the lanes of a "subgroup", `rows` by each, which are broadcast to the others;
 *  - a "workgroup" by way of its memory, `rows` in all, of `depth` features at a time.
 */
export interface AttentionBlock {
  readonly by: "each" | "subgroup" | "workgroup";
  readonly lanes: number;
  readonly columns: number;
  readonly rows: number;
  readonly depth: number;
}

/** The block of attentions on a device of this kind. */
export function attentionBlock(target: Target): AttentionBlock {
  if (target.class === "wasm") return { by: "each", lanes: 1, columns: 1, rows: 8, depth: 1 };
  if (target.class === "js") return { by: "each", lanes: 1, columns: 4, rows: 8, depth: 1 };
  if (target.class !== "software") return { by: "workgroup", lanes: 64, columns: 1, rows: 32, depth: 16 };
  const lanes = target.subgroupSize;
  if (lanes === 0) return { by: "each", lanes: 1, columns: 8, rows: 8, depth: 1 };
  return { by: "subgroup", lanes, columns: 4, rows: 4, depth: 1 };
}

/** The number that the lengths of an attention with such a block are to be multiples of. */
export function attentionUnit({ by, lanes, columns, rows }: AttentionBlock): number {
  return Math.max(lanes * columns, by === "subgroup" ? lanes * rows : rows);
}

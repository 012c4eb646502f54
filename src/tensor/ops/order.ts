/** Sorting, and running sums and products, of nodes along an axis. */
import * as build from "../../graph/build.ts";
import { computed } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import { resolveAxis, size } from "../../graph/shape.ts";
import { apply, where } from "./elementwise.ts";
import { flip, moveAxis } from "./movement.ts";

/** i32 positions that sort an axis, stably. Ascending puts NaN last, descending first. */
export function argsort(x: Node, axis: number, descending: boolean): Node {
  const at = resolveAxis("argsort", axis, x.shape.length);
  const last = x.shape.length - 1;
  const values = moveAxis(build.cast(x, computed(x.dtype)), at, last);
  if (!descending) return moveAxis(build.argsort(values), last, at);
  // The ascending order of the reversed axis, read backwards, keeps equal elements in their order.
  const length = x.shape[at]!;
  const backwards = flip(build.argsort(flip(values, last)), last);
  return moveAxis(apply("sub", length - 1, backwards), last, at);
}

export function sort(x: Node, axis: number, descending: boolean): Node {
  const at = resolveAxis("sort", axis, x.shape.length);
  return build.gather(x, argsort(x, at, descending), at);
}

/** Axes up to this length are scanned as one masked reduction. */
const block = 128;

/**
 * Running sums (products) along an axis. Each block of 128 is a reduction with a triangular mask, and the totals of
 * the blocks before are added: 128 n operations in all, every one of them a reduction that fuses and runs in
 * parallel.
 */
export function cumulative(op: "sum" | "prod", x: Node, axis: number): Node {
  const at = resolveAxis(op === "sum" ? "cumsum" : "cumprod", axis, x.shape.length);
  const last = x.shape.length - 1;
  return moveAxis(scan(op, moveAxis(build.cast(x, computed(x.dtype)), at, last)), last, at);
}

function scan(op: "sum" | "prod", x: Node): Node {
  const identity = op === "sum" ? 0 : 1;
  // Rows of block totals, each `block` times shorter than the one before.
  const levels: Node[] = [];
  let row = x;
  while (row.shape.at(-1)! > block) {
    const blocks = inBlocks(row, identity);
    levels.push(row);
    row = build.reduce(op, blocks, [blocks.shape.length - 1]);
  }
  let scanned = within(op, row, identity);
  for (let i = levels.length - 1; i >= 0; i--) {
    const values = levels[i]!;
    const length = values.shape.at(-1)!;
    const blocks = inBlocks(values, identity);
    const before = build.expand(build.reshape(shifted(scanned, identity), [...scanned.shape, 1]), blocks.shape);
    const inside = within(op, blocks, identity);
    const whole = build.elementwise(op === "sum" ? "add" : "mul", inside, before);
    const flat = build.reshape(whole, [...values.shape.slice(0, -1), size(whole.shape.slice(-2))]);
    scanned = build.slice(flat, flat.shape.map(() => 0), [...flat.shape.slice(0, -1), length], flat.shape.map(() => 1));
  }
  return scanned;
}

/** The last axis as [blocks, block], filled up with the identity. */
function inBlocks(x: Node, identity: number): Node {
  const length = x.shape.at(-1)!;
  const count = Math.ceil(length / block);
  const none = x.shape.map(() => 0);
  const padded = build.pad(x, none, [...none.slice(1), count * block - length], identity);
  return build.reshape(padded, [...x.shape.slice(0, -1), count, block]);
}

/** The identity, then all elements of the last axis but its last. */
function shifted(x: Node, identity: number): Node {
  const none = x.shape.map(() => 0);
  const padded = build.pad(x, [...none.slice(1), 1], none, identity);
  return build.slice(padded, none, x.shape, x.shape.map(() => 1));
}

/** out[..., i] = the reduction of x[..., j] over j <= i. */
function within(op: "sum" | "prod", x: Node, identity: number): Node {
  const n = x.shape.at(-1)!;
  const shape = [...x.shape, n];
  const [j, i] = [build.reshape(build.iota(n), [1, n]), build.reshape(build.iota(n), [n, 1])];
  const all = build.broadcastTo(build.reshape(x, [...x.shape.slice(0, -1), 1, n]), shape);
  return build.reduce(op, where(build.broadcastTo(apply("le", j, i), shape), all, identity), [shape.length - 1]);
}

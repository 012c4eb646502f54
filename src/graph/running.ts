/** Running sums and products written with reductions, for devices that compute everything in parallel. */
import { broadcastTo, elementwise, expand, iota, number, pad, permute, reduce, reshape, slice } from "./build.ts";
import type { Node } from "./node.ts";
import { size } from "./shape.ts";

/** Axes up to this length are scanned as one masked reduction; longer ones in blocks of so many elements. */
export const runningBlock = 128;

/**
 * Running sums (products) along an axis. Each block of 128 is a reduction with a triangular mask, and the totals of
 * the blocks before are added: 128 n operations in all, every one of them a reduction that fuses and runs in
 * parallel.
 */
export function runningBlocks(op: "sum" | "prod", x: Node, axis: number): Node {
  return toAxis(scanned(op, toLast(x, axis)), axis);
}

/** An axis moved to the end. */
export function toLast(x: Node, axis: number): Node {
  const axes = x.shape.map((_, i) => i);
  return permute(x, [...axes.slice(0, axis), ...axes.slice(axis + 1), axis]);
}

/** The last axis moved to where another one is. */
export function toAxis(x: Node, axis: number): Node {
  const axes = x.shape.map((_, i) => i);
  const last = axes.length - 1;
  return permute(x, [...axes.slice(0, axis), last, ...axes.slice(axis, last)]);
}

function scanned(op: "sum" | "prod", x: Node): Node {
  const identity = op === "sum" ? 0 : 1;
  // Rows of block totals, each `runningBlock` times shorter than the one before.
  const levels: Node[] = [];
  let row = x;
  while (row.shape.at(-1)! > runningBlock) {
    const blocks = inBlocks(row, identity);
    levels.push(row);
    row = reduce(op, blocks, [blocks.shape.length - 1]);
  }
  let result = within(op, row, identity);
  for (let i = levels.length - 1; i >= 0; i--) {
    const values = levels[i]!;
    const length = values.shape.at(-1)!;
    const blocks = inBlocks(values, identity);
    const before = expand(reshape(shifted(result, identity), [...result.shape, 1]), blocks.shape);
    const inside = within(op, blocks, identity);
    const whole = elementwise(op === "sum" ? "add" : "mul", inside, before);
    const flat = reshape(whole, [...values.shape.slice(0, -1), size(whole.shape.slice(-2))]);
    result = slice(flat, flat.shape.map(() => 0), [...flat.shape.slice(0, -1), length], flat.shape.map(() => 1));
  }
  return result;
}

/** The last axis as [blocks, block], filled up with the identity. */
export function inBlocks(x: Node, identity: number): Node {
  const length = x.shape.at(-1)!;
  const count = Math.ceil(length / runningBlock);
  const none = x.shape.map(() => 0);
  const padded = pad(x, none, [...none.slice(1), count * runningBlock - length], identity);
  return reshape(padded, [...x.shape.slice(0, -1), count, runningBlock]);
}

/** The identity, then all elements of the last axis but its last. */
export function shifted(x: Node, identity: number): Node {
  const none = x.shape.map(() => 0);
  const padded = pad(x, [...none.slice(1), 1], none, identity);
  return slice(padded, none, x.shape, x.shape.map(() => 1));
}

/** out[..., i] = the reduction of x[..., j] over j <= i. */
export function within(op: "sum" | "prod", x: Node, identity: number): Node {
  const n = x.shape.at(-1)!;
  const shape = [...x.shape, n];
  const all = broadcastTo(reshape(x, [...x.shape.slice(0, -1), 1, n]), shape);
  return reduce(op, untilEach(all, identity), [shape.length - 1]);
}

/** Of [..., n, n] what is not behind the diagonal of the last two axes, and the identity there. */
export function untilEach(x: Node, identity: number): Node {
  const n = x.shape.at(-1)!;
  const [j, i] = [reshape(iota(n), [1, n]), reshape(iota(n), [n, 1])];
  const before = elementwise("le", broadcastTo(j, [n, n]), broadcastTo(i, [n, n]));
  return elementwise("where", broadcastTo(before, x.shape), x, number(x.shape, identity, x.dtype));
}

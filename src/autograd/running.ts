/** The adjoint of running products, which may contain zeros: no product is divided by a factor. */
import { broadcastTo, expand, pad, reduce, reshape, scan, slice } from "../graph/build.ts";
import type { Node } from "../graph/node.ts";
import { inBlocks, runningBlock, shifted, toAxis, toLast, untilEach, within } from "../graph/running.ts";
import { size } from "../graph/shape.ts";
import { productAdjoint } from "./adjoints.ts";
import { add, mul } from "./arithmetic.ts";

/** dxⱼ = Σ gᵢ Π xₖ over k ≤ i, k ≠ j, and i ≥ j. */
export function runningProductAdjoint(g: Node, x: Node, axis: number): Node {
  return toAxis(alongLast(toLast(g, axis), toLast(x, axis)), axis);
}

/** Block by block, as the products of graph/running.ts: those within a block, times those of all blocks before it. */
function alongLast(g: Node, x: Node): Node {
  const length = x.shape.at(-1)!;
  if (length <= runningBlock) return withinAdjoint(g, x);
  const blocks = inBlocks(x, 1);
  const last = blocks.shape.length - 1;
  const totals = reduce("prod", blocks, [last]);
  const before = shifted(scan("prod", totals, totals.shape.length - 1), 1);
  const ofBlocks = inBlocks(g, 0);
  const inside = withinAdjoint(mul(ofBlocks, expand(reshape(before, [...before.shape, 1]), blocks.shape)), blocks);
  const ofBefore = reduce("sum", mul(ofBlocks, within("prod", blocks, 1)), [last]);
  const throughTotals = productAdjoint(alongLast(unshifted(ofBefore), totals), blocks, [last]);
  return add(outOfBlocks(inside, x), outOfBlocks(throughTotals, x));
}

/** The adjoint of `inBlocks` of x. */
function outOfBlocks(g: Node, x: Node): Node {
  const flat = reshape(g, [...x.shape.slice(0, -1), size(g.shape.slice(-2))]);
  return slice(flat, x.shape.map(() => 0), x.shape, x.shape.map(() => 1));
}

function withinAdjoint(g: Node, x: Node): Node {
  const n = x.shape.at(-1)!;
  const shape = [...x.shape, n];
  const factors = untilEach(broadcastTo(reshape(x, [...x.shape.slice(0, -1), 1, n]), shape), 1);
  const each = productAdjoint(g, factors, [shape.length - 1]);
  return reduce("sum", untilEach(each, 0), [shape.length - 2]);
}

/** The adjoint of `shifted`: all elements of the last axis but its first, then 0. */
function unshifted(g: Node): Node {
  const none = g.shape.map(() => 0);
  const padded = pad(g, none, [...none.slice(1), 1], 0);
  return slice(padded, [...none.slice(1), 1], g.shape, g.shape.map(() => 1));
}

/** Attention of nodes. Vaswani et al., Attention Is All You Need (2017). */
import { ArgumentError, ShapeError } from "../errors.ts";
import * as build from "../graph/build.ts";
import type { Node } from "../graph/node.ts";
import { broadcastShapes, formatShape, sameShape } from "../graph/shape.ts";
import { matmul } from "./contract.ts";
import { add, apply, div, equal, isFinite, lessEqual, logical, mul, sub, where } from "./elementwise.ts";
import { transpose, unsqueeze } from "./movement.ts";
import { reduce, softmax, sum } from "./reduce.ts";

export interface MaskOptions {
  /** bool: true where a query sees a key; a number is added to the score. Broadcasts to [..., queries, keys]. */
  readonly mask?: Node | undefined;
  /** Whether a query sees only keys that are not later than itself; the last query is as late as the last key. Default false. */
  readonly causal?: boolean | undefined;
  /** Factor of the scores. Default 1 / sqrt(features). */
  readonly scale?: number | undefined;
}

/**
 * softmax(q kᵀ * scale), how much each query [..., t, d] heeds each key [..., s, d]: [..., t, s]. A query that sees no key
 * has weights of 0. Throws ShapeError where features differ or the mask does not broadcast.
 */
export function attentionWeights(q: Node, k: Node, { mask, causal = false, scale }: MaskOptions): Node {
  if (q.shape.length < 2 || k.shape.length < 2 || q.shape.at(-1) !== k.shape.at(-1)) {
    throw new ShapeError("scaledDotProductAttention", {
      got: `queries ${formatShape(q.shape)}, keys ${formatShape(k.shape)}`,
      need: "[..., queries, features] and [..., keys, features]",
    });
  }
  const factor = scale ?? 1 / Math.sqrt(Math.max(1, q.shape.at(-1)!));
  if (!Number.isFinite(factor)) {
    throw new ArgumentError("scaledDotProductAttention", { got: `scale ${scale}`, need: "a finite number" });
  }
  let scores = mul(matmul(build.cast(q, "f32"), transpose(k, undefined)), factor);
  let seen = causal ? notLater(q.shape.at(-2)!, k.shape.at(-2)!) : undefined;
  if (mask !== undefined) {
    if (!sameShape(broadcastShapes("scaledDotProductAttention", mask.shape, scores.shape), scores.shape)) {
      throw new ShapeError("scaledDotProductAttention", {
        got: `mask ${formatShape(mask.shape)}`,
        need: `one that broadcasts to ${formatShape(scores.shape)}`,
      });
    }
    if (mask.dtype !== "bool") scores = add(scores, mask);
    else seen = seen === undefined ? mask : logical("and", seen, mask);
  }
  return seen === undefined ? softmax(scores, -1) : maskedSoftmax(scores, seen);
}

/** Which keys each query sees: [t, s]. */
function notLater(t: number, s: number): Node {
  return lessEqual(build.iota(s), add(unsqueeze(build.iota(t), -1), s - t));
}

/** The softmax over what is seen; 0 elsewhere, and in rows where nothing is seen. */
function maskedSoftmax(scores: Node, seen: Node): Node {
  const masked = where(seen, scores, -Infinity);
  const most = build.stopGradient(reduce("amax", masked, { axis: -1, keepDims: true }));
  const exponentials = apply("exp", sub(masked, where(isFinite(most), most, 0)));
  const total = sum(exponentials, { axis: -1, keepDims: true });
  return div(exponentials, where(equal(total, 0), 1, total));
}

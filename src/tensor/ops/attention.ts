/** Attention of nodes. Vaswani et al., Attention Is All You Need (2017). */
import { ArgumentError, ShapeError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import type { Node } from "../../graph/node.ts";
import { hidden } from "../../graph/ops.ts";
import { broadcastShapes, formatShape, sameShape, size } from "../../graph/shape.ts";
import { matmul } from "./contract.ts";
import { add, apply, div, equal, less, lessEqual, logical, mul, sub, where } from "./elementwise.ts";
import { sliceAxis, transpose, unsqueeze } from "./movement.ts";
import type { AttentionOptionsOf } from "./options.ts";
import { reduce, sum } from "./reduce.ts";

type MaskOptions = Pick<AttentionOptionsOf<Node>, "mask" | "causal" | "scale">;

/** The factor of the scores of queries [..., t, d] and keys [..., s, d], and their shape [..., t, s]; checks the options. */
function scoresOf(q: Node, k: Node, { mask, scale }: MaskOptions): { factor: number; shape: number[] } {
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
  const batch = broadcastShapes("scaledDotProductAttention", q.shape.slice(0, -2), k.shape.slice(0, -2));
  const shape = [...batch, q.shape.at(-2)!, k.shape.at(-2)!];
  if (mask !== undefined && !sameShape(broadcastShapes("scaledDotProductAttention", mask.shape, shape), shape)) {
    throw new ShapeError("scaledDotProductAttention", {
      got: `mask ${formatShape(mask.shape)}`,
      need: `one that broadcasts to ${formatShape(shape)}`,
    });
  }
  return { factor, shape };
}

/** Which keys are seen by the bool mask and by lateness, and what is added to scores. */
function maskOf(
  { mask, causal = false }: MaskOptions,
  t: number,
  s: number,
): { seen: Node | undefined; bias: Node | undefined } {
  const early = causal ? notLater(t, s) : undefined;
  if (mask === undefined) return { seen: early, bias: undefined };
  if (mask.dtype !== "bool") return { seen: early, bias: build.cast(mask, "f32") };
  return { seen: early === undefined ? mask : logical("and", early, mask), bias: undefined };
}

/** Which keys each query sees: [t, s]. */
function notLater(t: number, s: number): Node {
  return lessEqual(build.iota(s), add(unsqueeze(build.iota(t), -1), s - t));
}

/** Which keys are seen in all, a bias of -Infinity hiding one, too; undefined where all are. */
function seenIn(seen: Node | undefined, bias: Node | undefined): Node | undefined {
  if (bias === undefined) return seen;
  const added = build.elementwise("not", less(bias, hidden));
  return seen === undefined ? added : logical("and", seen, added);
}

/**
 * softmax(q kᵀ * scale) v for queries q [..., t, d], keys k [..., s, d] and values v [..., s, e]: [..., t, e]. The weights
 * [..., t, s] are in memory, and `onWeights` may change those of what is seen before they are applied. Throws ShapeError where
 * shapes do not fit.
 */
function attendStored(
  q: Node,
  k: Node,
  v: Node,
  options: MaskOptions,
  onWeights: (weights: Node) => Node = (weights) => weights,
): Node {
  const { factor, shape } = scoresOf(q, k, options);
  const { seen: known, bias } = maskOf(options, shape.at(-2)!, shape.at(-1)!);
  const seen = seenIn(known, bias);
  const products = seen === undefined
    ? matmul(build.cast(q, "f32"), transpose(k, undefined))
    : contract("heed", build.broadcastTo(seen, shape), q, transpose(k, undefined));
  const scores = bias === undefined ? mul(products, factor) : add(mul(products, factor), bias);
  // What is not f32 would have the products of integers with integer values.
  const weights = build.cast(onWeights(seenSoftmax(scores, seen)), "f32");
  if (seen === undefined) return matmul(weights, v);
  if (weights.shape.length < 2 || weights.shape.at(-2) !== shape.at(-2) || weights.shape.at(-1) !== shape.at(-1)) {
    throw new ShapeError("scaledDotProductAttention", {
      got: `weights ${formatShape(weights.shape)}`,
      need: `those of ${formatShape(shape)}`,
    });
  }
  return contract("weigh", seen, where(seen, weights, 0), v);
}

/** The softmax over what is seen; 0 elsewhere, and in rows in which nothing is seen, or no score but -Infinity. */
function seenSoftmax(scores: Node, seen: Node | undefined): Node {
  const masked = seen === undefined ? scores : where(seen, scores, -Infinity);
  const most = build.stopGradient(reduce("amax", masked, { axis: -1, keepDims: true }));
  // -Infinity less itself is no number; of another that is not finite, the row is to be none either.
  const exponentials = apply("exp", sub(masked, where(less(most, hidden), 0, most)));
  const total = sum(exponentials, { axis: -1, keepDims: true });
  // A sum of nothing divides 0, and may be any number but 0.
  const weights = div(exponentials, add(total, build.stopGradient(build.cast(equal(total, 0), "f32"))));
  // A row that sees NaN is NaN throughout.
  return seen === undefined ? weights : where(seen, weights, 0);
}

/**
 * a b for a [..., m, k] and b [..., k, n], of which `seen` is about the queries and keys: those of the result of "heed", which
 * is of use where they are seen, and of a for "weigh", which adds nothing where they are not.
 */
function contract(op: "heed" | "weigh", seen: Node, a: Node, b: Node): Node {
  const batch = broadcastShapes(
    "scaledDotProductAttention",
    a.shape.slice(0, -2),
    b.shape.slice(0, -2),
    seen.shape.slice(0, -2),
  );
  if (a.shape.at(-1) !== b.shape.at(-2)) {
    throw new ShapeError("scaledDotProductAttention", {
      got: `values ${formatShape(b.shape)}`,
      need: `[..., ${a.shape.at(-1)}, features]`,
    });
  }
  const shape = [...batch, a.shape.at(-2)!, a.shape.at(-1)!, b.shape.at(-1)!];
  const spread = (x: Node, axis: number) => build.broadcastTo(unsqueeze(x, axis), shape);
  const whole = build.broadcastTo(
    seen,
    broadcastShapes(
      "scaledDotProductAttention",
      seen.shape,
      op === "heed" ? [shape.at(-3)!, shape.at(-1)!] : shape.slice(-3, -1),
    ),
  );
  const product = build.elementwise(
    op,
    spread(whole, op === "heed" ? -2 : -1),
    spread(build.cast(a, "f32"), -1),
    spread(build.cast(b, "f32"), -3),
  );
  return build.reduce("sum", product, [shape.length - 2]);
}

/**
 * What attendStored gives, with scores that are never in memory. Throws ShapeError as it does.
 */
export function attendOnline(q: Node, k: Node, v: Node, options: MaskOptions): Node {
  const { factor, shape } = scoresOf(q, k, options);
  const [t, s] = shape.slice(-2) as [number, number];
  if (v.shape.length < 2 || v.shape.at(-2) !== s) {
    throw new ShapeError("scaledDotProductAttention", {
      got: `values ${formatShape(v.shape)}`,
      need: `[..., ${s}, features]`,
    });
  }
  const batch = broadcastShapes("scaledDotProductAttention", shape.slice(0, -2), v.shape.slice(0, -2));
  const e = v.shape.at(-1)!;
  if (size([...batch, t, e]) === 0 || s === 0 || q.shape.at(-1) === 0) return attendStored(q, k, v, options);
  const { seen, bias } = maskOf(options, t, s);
  const added = seen === undefined ? bias : where(seen, bias ?? 0, -Infinity);
  const featuresFirst = (x: Node) =>
    build.broadcastTo(transpose(build.cast(x, "f32"), undefined), [...batch, x.shape.at(-1)!, x.shape.at(-2)!]);
  const both = build.attention({
    q: featuresFirst(mul(build.cast(q, "f32"), factor)),
    k: featuresFirst(k),
    v: featuresFirst(v),
    bias: added === undefined ? undefined : build.broadcastTo(added, [...batch, t, s]),
  }, options.causal === true ? s - t : undefined);
  return transpose(sliceAxis(both, -2, { start: 0, end: e }), undefined);
}

/**
 * Scores of one batch entry from which on they are not stored by default. Measured on llvmpipe and on the cpu device, d 64:
 * with 2^20 both ways take the same time, forward and backward. A causal mask halves what is computed block by block, which
 * is then faster from 2^14 on; below 2^16 the kernels are not worth compiling.
 */
const manyScores = { full: 2 ** 20, causal: 2 ** 16 };

/** Whether attention of such queries and keys had better not store its scores. */
function isLong(q: Node, k: Node, v: Node, causal: boolean): boolean {
  if (q.shape.length < 2 || k.shape.length < 2 || v.shape.length < 2) return false;
  return q.shape.at(-2)! * k.shape.at(-2)! >= (causal ? manyScores.causal : manyScores.full);
}

/** Attention in the way that is asked for, by default by the number of scores. */
export function attend(q: Node, k: Node, v: Node, options: AttentionOptionsOf<Node>): Node {
  const { onWeights, scores, ...rest } = options;
  if (scores === "online" && onWeights !== undefined) {
    throw new ArgumentError("scaledDotProductAttention", {
      got: 'scores "online" with onWeights',
      need: "one of them: weights that are to be looked at are stored",
    });
  }
  const online = onWeights === undefined &&
    (scores ?? (isLong(q, k, v, rest.causal === true) ? "online" : "stored")) === "online";
  return online ? attendOnline(q, k, v, rest) : attendStored(q, k, v, rest, onWeights);
}

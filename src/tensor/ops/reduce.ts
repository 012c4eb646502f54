/**
 * Reductions of nodes over axes. Over no elements: sum 0, prod 1, max -Infinity, min Infinity, any false, all true,
 * mean NaN.
 */
import { ShapeError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import { computed } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import type { ReductionName } from "../../graph/ops.ts";
import { powersOfTwo } from "../../graph/powers.ts";
import { formatShape, resolveAxes, resolveAxis, size, withOnes, withoutAxes } from "../../graph/shape.ts";
import { add, apply, div, equal, isFinite, isInfinite, less, mul, square, sub, truth, where } from "./elementwise.ts";
import { noteProbabilities } from "./probabilities.ts";

/** Over what is reduced. */
export interface ReduceOptions {
  /** The axes that are reduced; all by default. Negative ones count from the end. */
  readonly axis?: number | readonly number[] | undefined;
  /** Whether reduced axes stay, with length 1. False by default. */
  readonly keepDims?: boolean | undefined;
}

/** Over what a variance is taken, and by what it is divided. */
export interface VarianceOptions extends ReduceOptions {
  /** What is taken off the number of elements before the division by it. Default 0. */
  readonly correction?: number | undefined;
}

/** Over what a norm is taken, and which one. */
export interface NormOptions extends ReduceOptions {
  /** 2: the Euclidean norm; 1: the sum of magnitudes; Infinity: the largest magnitude. Default 2. */
  readonly ord?: 1 | 2 | typeof Infinity | undefined;
}

/** A reduction; a bool counts as an i32, an f16 as an f32. */
export function reduce(op: ReductionName, x: Node, options: ReduceOptions): Node {
  const axes = resolveAxes(op, options.axis, x.shape.length);
  const result = build.reduce(op, build.cast(x, computed(x.dtype)), axes);
  return options.keepDims === true ? build.reshape(result, withOnes(x.shape, axes)) : result;
}

export const sum = (x: Node, options: ReduceOptions): Node => reduce("sum", x, options);

/** sum / count, in f32; NaN over no elements. */
export function mean(x: Node, options: ReduceOptions): Node {
  const axes = resolveAxes("mean", options.axis, x.shape.length);
  const total = sum(build.cast(x, "f32"), options);
  const count = countOf(x, axes);
  // 0 / 0 is not NaN on every driver.
  return count === 0 ? build.full(total.shape, NaN, "f32") : div(total, count);
}

function countOf(x: Node, axes: readonly number[]): number {
  return size(axes.map((axis) => x.shape[axis]!));
}

/**
 * The mean of squared distances from the mean, in two passes: the one-pass formula cancels. `correction` is taken off
 * the count (1 gives the unbiased estimate of a sample); by default 0. Infinite where the sum of the squares is.
 */
export function variance(x: Node, options: VarianceOptions): Node {
  const axes = resolveAxes("var", options.axis, x.shape.length);
  const values = build.cast(x, "f32");
  const distances = sub(values, mean(values, { axis: axes, keepDims: true }));
  return div(sum(square(distances), options), countOf(x, axes) - (options.correction ?? 0));
}

/** sqrt with gradient 0 at 0, where sqrt's own is infinite. */
function safeSqrt(x: Node): Node {
  const positive = less(0, x);
  return where(positive, apply("sqrt", where(positive, x, 1)), where(equal(x, 0), 0, x));
}

/** Values whose squares are in f32's range, and the power of two, of the reduced shape, by which they were divided. */
function scaled(op: string, x: Node, options: ReduceOptions): { values: Node; power: Node } {
  const values = build.cast(x, "f32");
  const axes = resolveAxes(op, options.axis, x.shape.length);
  const { power, inverse } = powersOfTwo(reduce("amax", apply("abs", values), { axis: axes, keepDims: true }));
  return {
    values: mul(values, inverse),
    power: options.keepDims === true ? power : build.reshape(power, withoutAxes(x.shape, axes)),
  };
}

/** The square root of the variance, also where that is beyond f32; its gradient is 0 where it is 0. */
export function standardDeviation(x: Node, options: VarianceOptions): Node {
  const { values, power } = scaled("std", x, options);
  return mul(power, safeSqrt(variance(values, options)));
}

/**
 * The Euclidean norm (2), the sum of magnitudes (1) or the largest magnitude (Infinity). The gradient at 0 is 0. Squares may
 * be beyond f32: [3e20, 4e20] has norm 5e20, for which the largest element is looked for first.
 */
export function norm(x: Node, options: NormOptions): Node {
  if (options.ord === 1) return sum(apply("abs", build.cast(x, "f32")), options);
  if (options.ord === Infinity) return reduce("amax", apply("abs", build.cast(x, "f32")), options);
  const { values, power } = scaled("norm", x, options);
  return mul(power, safeSqrt(sum(square(values), options)));
}

/** Whether all, or any, elements are not 0. */
export function all(x: Node, options: ReduceOptions): Node {
  return truth(reduce("amin", build.cast(truth(x), "u32"), options));
}
export function any(x: Node, options: ReduceOptions): Node {
  return truth(reduce("amax", build.cast(truth(x), "u32"), options));
}

/**
 * i32 position of the first largest (smallest) element on an axis, or in the flattened tensor. Any position where one
 * is NaN.
 */
export function argExtreme(
  op: "amax" | "amin",
  x: Node,
  options: { readonly axis?: number | undefined; readonly keepDims?: boolean | undefined },
): Node {
  const name = op === "amax" ? "argmax" : "argmin";
  if (options.axis === undefined) {
    const flat = argExtreme(op, build.reshape(x, [size(x.shape)]), { axis: 0 });
    return options.keepDims === true ? build.reshape(flat, x.shape.map(() => 1)) : flat;
  }
  const axis = resolveAxis(name, options.axis, x.shape.length);
  const length = x.shape[axis]!;
  if (length === 0) {
    throw new ShapeError(name, { got: formatShape(x.shape), need: `at least one element on axis ${axis}` });
  }
  const values = build.cast(x, computed(x.dtype));
  const extreme = reduce(op, values, { axis, keepDims: true });
  const positions = build.reshape(build.iota(length), x.shape.map((_, i) => i === axis ? length : 1));
  // Where a NaN is the extreme no element equals it, and the last position is given.
  const hits = where(equal(values, extreme), positions, length - 1);
  const result = build.reduce("amin", hits, [axis]);
  return options.keepDims === true ? build.reshape(result, withOnes(x.shape, [axis])) : result;
}

/** The largest element of each row, as a constant for gradients; 0 where it is infinite. */
function shift(x: Node, axis: number | readonly number[] | undefined): Node {
  const most = build.stopGradient(reduce("amax", x, { axis, keepDims: true }));
  return where(isFinite(most), most, 0);
}

/**
 * log(sum(exp(x - most))), axes kept. One of the largest elements is the 1 of log1p: so the log keeps its digits where all
 * others are far away, and it vanishes.
 */
function logOfSum(x: Node, most: Node, axis: number | readonly number[] | undefined): Node {
  const over = { axis, keepDims: true };
  const largest = build.cast(equal(x, most), "f32");
  const others = sum(sub(apply("exp", sub(x, most)), largest), over);
  return apply("log1p", add(others, sub(sum(largest, over), 1)));
}

/**
 * log(sum(exp(x))), with the largest element taken out so that no exponent is positive. A row whose largest element is infinite
 * gives that, and no gradient: no finite change of an element changes it.
 */
export function logSumExp(x: Node, options: ReduceOptions): Node {
  const values = build.cast(x, "f32");
  const axes = resolveAxes("logSumExp", options.axis, x.shape.length);
  const most = build.stopGradient(reduce("amax", values, { axis: axes, keepDims: true }));
  const infinite = isInfinite(most);
  // Infinite rows are not looked at: their gradient would be 0·∞.
  const finite = where(infinite, 0, most);
  const logs = where(infinite, most, add(logOfSum(where(infinite, 0, values), finite, axes), finite));
  return options.keepDims === true ? logs : build.reshape(logs, withoutAxes(x.shape, axes));
}

/** exp(x) / sum(exp(x)) along an axis. */
export function softmax(x: Node, axis: number): Node {
  const values = build.cast(x, "f32");
  const exponentials = apply("exp", sub(values, shift(values, axis)));
  return noteProbabilities("softmax", div(exponentials, sum(exponentials, { axis, keepDims: true })));
}

/** log(softmax(x)), without ever taking the log of a small quotient. */
export function logSoftmax(x: Node, axis: number): Node {
  const values = build.cast(x, "f32");
  const most = shift(values, axis);
  return sub(sub(values, most), logOfSum(values, most, axis));
}

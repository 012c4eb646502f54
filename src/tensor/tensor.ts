import type { Device } from "../devices/device/device.ts";
import { DeviceError } from "../errors.ts";
import * as build from "../graph/build.ts";
import type { DType } from "../graph/dtype.ts";
import type { Node } from "../graph/node.ts";
import type { ElementwiseName } from "../graph/ops.ts";
import type { Shape } from "../graph/shape.ts";
import { foreignWords } from "../signature/foreign.ts";
import type { Kind } from "../signature/kinds.ts";
import { guard, type Methods } from "../signature/takes.ts";
import type { Bits, Computed, Extreme, Magnitude, MeetOperands, Power, Product, Sum } from "./dtypes.ts";
import { foreignToTensor, indexOfTensor, noOperand, noTensor } from "./foreign.ts";
import { TensorHandle } from "./handle.ts";
import type { NestedArray } from "./nested.ts";
import * as activation from "./ops/activation.ts";
import { attend } from "./ops/attention.ts";
import * as contract from "./ops/contract.ts";
import { convolve, convolveTransposed, type ConvOptions, type ConvTransposeOptions } from "./ops/conv.ts";
import * as e from "./ops/elementwise.ts";
import * as indexing from "./ops/indexing.ts";
import * as movement from "./ops/movement.ts";
import type * as o from "./ops/options.ts";
import * as order from "./ops/order.ts";
import { avgPool2d, maxPool2d, type PoolOptions } from "./ops/pool.ts";
import * as r from "./ops/reduce.ts";
import { windows, type WindowsOptions } from "./ops/windows.ts";
import { signaturesOf, type Unchecked } from "./signatures.ts";

/** An operand: a number or boolean takes the tensor's dtype where that holds it, else it makes the result f32. */
export type Operand = Tensor | number | boolean;

/** What of keys each query may see, and how: see `scaledDotProductAttention`. */
export type AttentionOptions = o.AttentionOptionsOf<Tensor, Tensor<"f32">>;

export type { ConvOptions, ConvTransposeOptions, NestedArray, PoolOptions, WindowsOptions };

/**
 * An array of any number of axes, of elements of a dtype D. Calls on it are lazy: they say what is to be computed, and reading
 * a value (`data`, `array`, `item`) or `realize` computes it. Its value is fixed when it is made, whatever is assigned to its
 * sources later. What ops give is typed by its dtype, as far as that is known; `Tensor` alone is one of any.
 */
export class Tensor<out D extends DType = DType> extends TensorHandle<D> {
  // Elementwise. Shapes broadcast; see elementwise.ts for dtypes.
  /** The sum, element by element. */
  add<O extends Operand>(other: O): Tensor<Sum<D, O>> {
    return this.#with("add", other);
  }
  /** The difference. */
  sub<O extends Operand>(other: O): Tensor<Sum<D, O>> {
    return this.#with("sub", other);
  }
  /** The product, element by element; `matmul` is that of matrices. */
  mul<O extends Operand>(other: O): Tensor<Sum<D, O>> {
    return this.#with("mul", other);
  }
  /** The quotient; integers give f32. */
  div(other: Operand): Tensor<"f32"> {
    return this.#with("div", other);
  }
  /** The quotient rounded down; integer division by 0 gives 0. */
  floorDiv<O extends Operand>(other: O): Tensor<Sum<D, O>> {
    return new Tensor(e.floorDiv(this.node, operand(other)));
  }
  /** The remainder with the sign of the divisor; an integer divisor 0 gives 0. */
  mod<O extends Operand>(other: O): Tensor<Sum<D, O>> {
    return new Tensor(e.mod(this.node, operand(other)));
  }
  /** This to the power of `exponent`; NaN for a negative base with a fraction. */
  pow<O extends Operand>(exponent: O): Tensor<Power<D, O>> {
    return new Tensor(e.pow(this.node, operand(exponent)));
  }
  /** The larger; where one is NaN, either. */
  maximum<O extends Operand>(other: O): Tensor<Extreme<D, O>> {
    return this.#with("max", other);
  }
  /** The smaller; where one is NaN, either. */
  minimum<O extends Operand>(other: O): Tensor<Extreme<D, O>> {
    return this.#with("min", other);
  }
  /** The angle of the point (x, this) in radians, from -π to π. */
  atan2(x: Operand): Tensor<"f32"> {
    return this.#with("atan2", x);
  }
  /** -x. */
  neg(): Tensor<Computed<D>> {
    return new Tensor(e.neg(this.node));
  }
  /** The magnitude. */
  abs(): Tensor<Magnitude<D>> {
    return new Tensor(e.abs(this.node));
  }
  /** -1, 0 or 1; NaN of NaN. */
  sign(): Tensor<Computed<D>> {
    return new Tensor(e.sign(this.node));
  }
  /** The square root; NaN below 0. */
  sqrt(): Tensor<"f32"> {
    return this.#map("sqrt");
  }
  /** The cube root, also of negative numbers: cbrt(-8) is -2. Its gradient at 0 is infinite. */
  cbrt(): Tensor<"f32"> {
    return this.#map("cbrt");
  }
  /** 1 / sqrt(x). */
  rsqrt(): Tensor<"f32"> {
    return new Tensor(e.rsqrt(this.node));
  }
  /** x². */
  square(): Tensor<Computed<D>> {
    return new Tensor(e.square(this.node));
  }
  /** 1 / x. */
  reciprocal(): Tensor<"f32"> {
    return new Tensor(e.reciprocal(this.node));
  }
  /** e to the power of x. */
  exp(): Tensor<"f32"> {
    return this.#map("exp");
  }
  /** exp(x) - 1, exact near 0. */
  expm1(): Tensor<"f32"> {
    return this.#map("expm1");
  }
  /** The natural logarithm; NaN below 0. */
  log(): Tensor<"f32"> {
    return this.#map("log");
  }
  /** log(1 + x), exact near 0. */
  log1p(): Tensor<"f32"> {
    return this.#map("log1p");
  }
  /** The sine of radians. */
  sin(): Tensor<"f32"> {
    return this.#map("sin");
  }
  /** The cosine of radians. */
  cos(): Tensor<"f32"> {
    return this.#map("cos");
  }
  /** The tangent of radians. */
  tan(): Tensor<"f32"> {
    return this.#map("tan");
  }
  /** In radians; NaN outside [-1, 1]. */
  asin(): Tensor<"f32"> {
    return this.#map("asin");
  }
  /** In radians; NaN outside [-1, 1]. */
  acos(): Tensor<"f32"> {
    return this.#map("acos");
  }
  /** In radians. */
  atan(): Tensor<"f32"> {
    return this.#map("atan");
  }
  /** The hyperbolic sine. */
  sinh(): Tensor<"f32"> {
    return this.#map("sinh");
  }
  /** The hyperbolic cosine. */
  cosh(): Tensor<"f32"> {
    return this.#map("cosh");
  }
  /** The hyperbolic tangent. */
  tanh(): Tensor<"f32"> {
    return this.#map("tanh");
  }
  /** The error function. */
  erf(): Tensor<"f32"> {
    return this.#map("erf");
  }
  /** Rounded down. */
  floor(): Tensor<Magnitude<D>> {
    return new Tensor(e.rounded("floor", this.node));
  }
  /** Rounded up. */
  ceil(): Tensor<Magnitude<D>> {
    return new Tensor(e.rounded("ceil", this.node));
  }
  /** Rounded towards 0. */
  trunc(): Tensor<Magnitude<D>> {
    return new Tensor(e.rounded("trunc", this.node));
  }
  /** To the nearest whole number, halves to the even one. */
  round(): Tensor<Magnitude<D>> {
    return new Tensor(e.rounded("round", this.node));
  }
  /** max(x, 0). */
  relu(): Tensor<Computed<D>> {
    return this.#map("relu");
  }
  /** x * P(Z <= x), exact by erf, or approximated with tanh. */
  gelu(options: o.GeluOptions = {}): Tensor<"f32"> {
    return new Tensor(activation.gelu(this.node, options.approximate ?? "none"));
  }
  /** 1 / (1 + exp(-x)). */
  sigmoid(): Tensor<"f32"> {
    return new Tensor(activation.sigmoid(this.node));
  }
  /** x * sigmoid(x), also called swish. */
  silu(): Tensor<"f32"> {
    return new Tensor(activation.silu(this.node));
  }
  /** log(1 + exp(x)). */
  softplus(): Tensor<"f32"> {
    return new Tensor(activation.softplus(this.node));
  }
  /** The nearest value within bounds, of which one at least is given. */
  clamp<O extends Operand = boolean>(options: o.Bounds<O> = {}): Tensor<Extreme<D, O>> {
    const bound = (x: Operand | undefined) => x === undefined ? undefined : operand(x);
    return new Tensor(e.clamp(this.node, bound(options.min), bound(options.max)));
  }
  /** Whether this is less; never beside NaN. */
  less(other: Operand): Tensor<"bool"> {
    return this.#with("lt", other);
  }
  /** Whether this is at most as large. */
  lessEqual(other: Operand): Tensor<"bool"> {
    return this.#with("le", other);
  }
  /** Whether this is greater. */
  greater(other: Operand): Tensor<"bool"> {
    return new Tensor(e.less(operand(other), this.node));
  }
  /** Whether this is at least as large. */
  greaterEqual(other: Operand): Tensor<"bool"> {
    return new Tensor(e.lessEqual(operand(other), this.node));
  }
  /** Whether both are equal; NaN equals nothing. */
  equal(other: Operand): Tensor<"bool"> {
    return this.#with("eq", other);
  }
  /** Whether they differ. */
  notEqual(other: Operand): Tensor<"bool"> {
    return this.#with("ne", other);
  }
  /** Where it is NaN. */
  isNaN(): Tensor<"bool"> {
    return new Tensor(e.isNaN(this.node));
  }
  /** Where it is neither NaN nor infinite. */
  isFinite(): Tensor<"bool"> {
    return new Tensor(e.isFinite(this.node));
  }
  /** Of truth values: what is not 0 is true. */
  not(): Tensor<"bool"> {
    return new Tensor(e.not(this.node));
  }
  /** Whether both are true (not 0). */
  and(other: Operand): Tensor<"bool"> {
    return new Tensor(e.logical("and", this.node, operand(other)));
  }
  /** Whether one is true (not 0). */
  or(other: Operand): Tensor<"bool"> {
    return new Tensor(e.logical("or", this.node, operand(other)));
  }
  /** Whether exactly one is true (not 0). */
  xor(other: Operand): Tensor<"bool"> {
    return new Tensor(e.logical("xor", this.node, operand(other)));
  }
  /** The bits set in both integers. */
  bitAnd<O extends Operand>(other: O): Tensor<Bits<D, O>> {
    return new Tensor(e.bitwise("and", this.node, operand(other)));
  }
  /** The bits set in one of them. */
  bitOr<O extends Operand>(other: O): Tensor<Bits<D, O>> {
    return new Tensor(e.bitwise("or", this.node, operand(other)));
  }
  /** The bits in which they differ. */
  bitXor<O extends Operand>(other: O): Tensor<Bits<D, O>> {
    return new Tensor(e.bitwise("xor", this.node, operand(other)));
  }
  /** All bits changed. */
  bitNot(): Tensor<Bits<D>> {
    return new Tensor(e.bitNot(this.node));
  }
  /** Shifts are by the operand modulo 32. */
  shiftLeft<O extends Operand>(other: O): Tensor<Bits<D, O>> {
    return new Tensor(e.bitwise("shl", this.node, operand(other)));
  }
  /** As shiftLeft; of i32 the sign stays. */
  shiftRight<O extends Operand>(other: O): Tensor<Bits<D, O>> {
    return new Tensor(e.bitwise("shr", this.node, operand(other)));
  }
  /** `a` where this is true (not 0), else `b`. */
  where<A extends Operand, B extends Operand>(a: A, b: B): Tensor<MeetOperands<A, B>> {
    return new Tensor(e.where(this.node, operand(a), operand(b)));
  }
  /**
   * f32 to an integer truncates and saturates (NaN gives 0); integers wrap; what is not 0 is true. f16 gets the nearest half,
   * halfway cases the even one, beyond ±65504 an infinity: the same bits on every device.
   */
  cast<E extends DType>(dtype: E): Tensor<E> {
    return new Tensor(build.cast(this.node, dtype));
  }
  /** The same 32 bits as another dtype (not bool or f16). */
  bitcast<E extends DType>(dtype: E): Tensor<E> {
    return new Tensor(build.bitcast(this.node, dtype));
  }

  // Movement.
  /** The same elements in order; one length may be -1. */
  reshape(shape: Shape): Tensor<D>;
  reshape(...lengths: readonly number[]): Tensor<D>;
  reshape(...shape: readonly (number | Shape)[]): Tensor<D> {
    return new Tensor(movement.reshape(this.node, movement.lengthsOf("reshape", shape)));
  }
  /** With the axes from `start` to `end` as one. */
  flatten(options: o.FlattenOptions = {}): Tensor<D> {
    return new Tensor(movement.flatten(this.node, options.start, options.end));
  }
  /** Axes in the order given; two change places where they are given as two numbers, by default the last two. */
  transpose(axes?: readonly number[]): Tensor<D>;
  transpose(axis: number, other: number): Tensor<D>;
  transpose(...axes: readonly (number | readonly number[] | undefined)[]): Tensor<D> {
    return new Tensor(movement.transpose(this.node, ...axes));
  }
  /** Axes in the order given. */
  permute(axes: readonly number[]): Tensor<D>;
  permute(...axes: readonly number[]): Tensor<D>;
  permute(...axes: readonly (number | readonly number[])[]): Tensor<D> {
    return new Tensor(movement.permute(this.node, movement.lengthsOf("permute", axes)));
  }
  /** NumPy broadcasting; -1 keeps a length. */
  broadcastTo(shape: Shape): Tensor<D>;
  broadcastTo(...lengths: readonly number[]): Tensor<D>;
  broadcastTo(...shape: readonly (number | Shape)[]): Tensor<D> {
    return new Tensor(movement.broadcastTo(this.node, movement.lengthsOf("broadcastTo", shape)));
  }
  /** The same as `broadcastTo`. */
  expand(shape: Shape): Tensor<D>;
  expand(...lengths: readonly number[]): Tensor<D>;
  expand(...shape: readonly (number | Shape)[]): Tensor<D> {
    return new Tensor(movement.broadcastTo(this.node, movement.lengthsOf("expand", shape), "expand"));
  }
  /** Without axes of length 1: all of them, or those named. */
  squeeze(axis?: number | readonly number[]): Tensor<D> {
    return new Tensor(movement.squeeze(this.node, axis));
  }
  /** With a new axis of length 1 at `axis`. */
  unsqueeze(axis: number): Tensor<D> {
    return new Tensor(movement.unsqueeze(this.node, axis));
  }
  /** The other way round along all axes, or those named. */
  flip(axis?: number | readonly number[]): Tensor<D> {
    return new Tensor(movement.flip(this.node, axis));
  }
  /**
   * A range of one axis (0 by default), or a range for each of the first axes (undefined takes all). As in NumPy,
   * bounds are clamped and negative ones count from the end.
   */
  slice(range: movement.Range & { readonly axis?: number } | readonly (movement.Range | undefined)[]): Tensor<D> {
    return new Tensor(
      "length" in range ? movement.slice(this.node, range) : movement.sliceAxis(this.node, range.axis ?? 0, range),
    );
  }
  /** The part at one index of an axis (0 by default), which disappears. Throws ShapeError when out of range. */
  at(index: number, options: o.AxisOptions = {}): Tensor<D> {
    return new Tensor(movement.at(this.node, index, options.axis ?? 0));
  }
  /**
   * The parts at `indices` of an axis (0 by default). JS numbers may count from the end and must be in range; of an
   * index tensor, positions out of range give 0.
   */
  take(indices: Tensor | readonly number[], options: o.AxisOptions = {}): Tensor<D> {
    const axis = options.axis ?? 0;
    if (indices instanceof Tensor) return new Tensor(indexing.take(this.node, indices.node, axis));
    const rows = indexing.hostIndices("take", this.node, indices, axis).map((i) =>
      movement.sliceAxis(this.node, axis, { start: i, end: i + 1 })
    );
    return new Tensor(
      rows.length === 0 ? movement.sliceAxis(this.node, axis, { end: 0 }) : movement.concat(rows, axis),
    );
  }
  /** out[i] = this[i with i[axis] := index[i]]; positions out of range give 0. */
  gather(index: Tensor, options: o.NamedAxisOptions): Tensor<D> {
    return new Tensor(indexing.gather(this.node, index.node, options.axis));
  }
  /** This with values[i] added at i with i[axis] := index[i]; positions out of range are dropped. */
  scatterAdd<E extends DType>(index: Tensor, values: Tensor<E>, options: o.NamedAxisOptions): Tensor<Product<D, E>> {
    return new Tensor(indexing.scatterAdd(this.node, index.node, values.node, options.axis));
  }
  /**
   * This, or where that is larger the largest of the values[i] at i with i[axis] := index[i], of one element or of several; what
   * no index names stays, positions out of range are dropped. Equal largest ones share the gradient equally, this among them.
   */
  scatterMax<E extends DType>(index: Tensor, values: Tensor<E>, options: o.NamedAxisOptions): Tensor<Product<D, E>> {
    return new Tensor(indexing.scatterMax(this.node, index.node, values.node, options.axis));
  }
  /** A new last axis: 1 at the label, else 0; a label outside gives zeros. f32 by default. */
  oneHot<E extends DType = "f32">(classes: number, options: o.DTypeOptions<E> = {}): Tensor<NoInfer<E>> {
    return new Tensor(indexing.oneHot(this.node, classes, options.dtype ?? "f32"));
  }
  /**
   * Sliding windows along an axis of length L: [..., L, ...] to [..., O, ..., length], the place within a window last, and
   * O = floor((L - (length - 1) * dilation - 1) / stride) + 1. Throws ShapeError where no window lies within the axis.
   */
  windows(options: WindowsOptions): Tensor<D> {
    return new Tensor(windows(this.node, options));
  }
  /** One count for all sides, or [before, after] for each axis. */
  pad(widths: number | readonly (readonly [number, number])[], options: o.PadOptions = {}): Tensor<D> {
    return new Tensor(movement.pad(this.node, widths, options.value ?? 0));
  }
  /** So many parts, the longer ones first, or parts of these lengths, along an axis (0 by default). */
  split(parts: number | readonly number[], options: o.AxisOptions = {}): Tensor<D>[] {
    return movement.split(this.node, parts, options.axis ?? 0).map((node) => new Tensor(node));
  }
  /** Every element `count` times in a row, along an axis (0 by default). */
  repeat(count: number, options: o.AxisOptions = {}): Tensor<D> {
    return new Tensor(movement.repeat(this.node, count, options.axis ?? 0));
  }
  /** The whole tensor again and again: `counts[i]` times along axis i. */
  tile(counts: readonly number[]): Tensor<D>;
  tile(...counts: readonly number[]): Tensor<D>;
  tile(...counts: readonly (number | readonly number[])[]): Tensor<D> {
    return new Tensor(movement.tile(this.node, movement.lengthsOf("tile", counts)));
  }

  // Reductions, over all axes by default; see reduce.ts for what they give over no elements.
  /** The sum; of bools how many are true. */
  sum(options: r.ReduceOptions = {}): Tensor<Computed<D>> {
    return new Tensor(r.sum(this.node, options));
  }
  /** The mean, f32; NaN of nothing. */
  mean(options: r.ReduceOptions = {}): Tensor<"f32"> {
    return new Tensor(r.mean(this.node, options));
  }
  /** The product. */
  prod(options: r.ReduceOptions = {}): Tensor<Computed<D>> {
    return new Tensor(r.reduce("prod", this.node, options));
  }
  /** The largest; NaN elements may be passed over. */
  max(options: r.ReduceOptions = {}): Tensor<Computed<D>> {
    return new Tensor(r.reduce("amax", this.node, options));
  }
  /** The smallest; NaN elements may be passed over. */
  min(options: r.ReduceOptions = {}): Tensor<Computed<D>> {
    return new Tensor(r.reduce("amin", this.node, options));
  }
  /** The mean squared distance from the mean; `correction` (0 by default) is taken off the count. */
  variance(options: r.VarianceOptions = {}): Tensor<"f32"> {
    return new Tensor(r.variance(this.node, options));
  }
  /** The square root of the variance. */
  std(options: r.VarianceOptions = {}): Tensor<"f32"> {
    return new Tensor(r.standardDeviation(this.node, options));
  }
  /** i32 position of the first largest element, on an axis or in the flattened tensor. */
  argmax(options: o.ArgOptions = {}): Tensor<"i32"> {
    return new Tensor(r.argExtreme("amax", this.node, options));
  }
  /** i32 position of the first smallest element, on an axis or in the flattened tensor. */
  argmin(options: o.ArgOptions = {}): Tensor<"i32"> {
    return new Tensor(r.argExtreme("amin", this.node, options));
  }
  /** Whether all are true (not 0). */
  all(options: r.ReduceOptions = {}): Tensor<"bool"> {
    return new Tensor(r.all(this.node, options));
  }
  /** Whether one is true (not 0). */
  any(options: r.ReduceOptions = {}): Tensor<"bool"> {
    return new Tensor(r.any(this.node, options));
  }
  /** Euclidean by default. The gradient at 0 is 0. */
  norm(options: r.NormOptions = {}): Tensor<"f32"> {
    return new Tensor(r.norm(this.node, options));
  }
  /** log(sum(exp(x))), of any magnitude. */
  logSumExp(options: r.ReduceOptions = {}): Tensor<"f32"> {
    return new Tensor(r.logSumExp(this.node, options));
  }
  /** Along the last axis by default. */
  softmax(options: o.AxisOptions = {}): Tensor<"f32"> {
    return new Tensor(r.softmax(this.node, options.axis ?? -1));
  }
  /** The logarithm of softmax. Along the last axis by default. */
  logSoftmax(options: o.AxisOptions = {}): Tensor<"f32"> {
    return new Tensor(r.logSoftmax(this.node, options.axis ?? -1));
  }
  /** The sums of all elements so far. Along the last axis by default. */
  cumsum(options: o.AxisOptions = {}): Tensor<Computed<D>> {
    return new Tensor(order.cumulative("sum", this.node, options.axis ?? -1));
  }
  /** The products of all elements so far. Along the last axis by default. */
  cumprod(options: o.AxisOptions = {}): Tensor<Computed<D>> {
    return new Tensor(order.cumulative("prod", this.node, options.axis ?? -1));
  }
  /** Along the last axis by default. Ascending puts NaN last, descending first. */
  sort(options: o.SortOptions = {}): Tensor<D> {
    return new Tensor(order.sort(this.node, options.axis ?? -1, options.descending ?? false));
  }
  /** i32 positions that sort, stably. */
  argsort(options: o.SortOptions = {}): Tensor<"i32"> {
    return new Tensor(order.argsort(this.node, options.axis ?? -1, options.descending ?? false));
  }

  // Products.
  /**
   * The matrix product of the last two axes; leading axes broadcast; a vector is a row on the left, a column on the
   * right.
   */
  matmul<E extends DType>(other: Tensor<E>): Tensor<Product<D, E>> {
    return new Tensor(contract.matmul(this.node, other.node));
  }
  /** The inner product of two vectors; for more axes, `matmul`. */
  dot<E extends DType>(other: Tensor<E>): Tensor<Product<D, E>> {
    return new Tensor(contract.dot(this.node, other.node));
  }
  /** [n, length, in] by w [kernel, in / groups, out] to [n, windows, out]. Throws as conv2d. */
  conv1d<E extends DType>(w: Tensor<E>, options: ConvOptions = {}): Tensor<Product<D, E>> {
    return new Tensor(convolve("conv1d", this.node, w.node, options, 1));
  }
  /**
   * The convolution (cross-correlation) of [n, height, width, in] by w [kernelHeight, kernelWidth, in / groups, out], to
   * [n, oh, ow, out]; oh = floor((height + padding - (kernelHeight - 1) * dilation - 1) / stride) + 1. Output channel o is of
   * group floor(o * groups / out). Throws ShapeError where shapes do not fit, ArgumentError for options that make no sense.
   */
  conv2d<E extends DType>(w: Tensor<E>, options: ConvOptions = {}): Tensor<Product<D, E>> {
    return new Tensor(convolve("conv2d", this.node, w.node, options, 2));
  }
  /**
   * The adjoint of conv2d: [n, height, width, in] by w [kernelHeight, kernelWidth, out, in], to [n, oh, ow, out]; oh =
   * (height - 1) * stride + (kernelHeight - 1) * dilation + 1 - padding, and height * stride with padding "same".
   */
  convTranspose2d<E extends DType>(w: Tensor<E>, options: ConvTransposeOptions = {}): Tensor<Product<D, E>> {
    return new Tensor(convolveTransposed("convTranspose2d", this.node, w.node, options, 2));
  }
  /** [n, height, width, channels] to the largest of each window. Equal largest elements share the gradient equally. */
  maxPool2d(options: PoolOptions): Tensor<Computed<D>> {
    return new Tensor(maxPool2d(this.node, options));
  }
  /** [n, height, width, channels] to the mean of each window, of which padding is no part; f32. */
  avgPool2d(options: PoolOptions): Tensor<"f32"> {
    return new Tensor(avgPool2d(this.node, options));
  }
  /**
   * softmax(q kᵀ * scale) v for queries q, this, [..., t, d], keys k [..., s, d] and values v [..., s, e]: [..., t, e]. A
   * query that sees no key gives 0; what a hidden key and its value hold, NaN too, has no effect on the query's result and
   * gradients, nor the query on theirs. A mask of -1e9, or of the least f32, hides nothing. Throws ShapeError where shapes do
   * not fit, ArgumentError for options that exclude each other.
   */
  scaledDotProductAttention(k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor<"f32"> {
    const { mask, onWeights, ...rest } = options;
    const changed = onWeights && ((weights: Node) => onWeights(new Tensor(weights)).node);
    return new Tensor(attend(this.node, k.node, v.node, { ...rest, mask: mask?.node, onWeights: changed }));
  }

  // Where and when.
  /** The same values on `device`. Throws DeviceError when it is closed or lost. */
  to(device: Device): Tensor<D> {
    if (device.isLost) {
      throw new DeviceError("to", { got: `${device.name}, which was closed or lost`, need: "an open device" });
    }
    return new Tensor(build.copy(this.node, device.id));
  }
  /** The same values, through which no gradient flows. */
  detach(): Tensor<D> {
    return new Tensor(build.stopGradient(this.node));
  }
  /** The same as `detach`. */
  stopGradient(): Tensor<D> {
    return this.detach();
  }
  /** The same values, stored in order. */
  contiguous(): Tensor<D> {
    return new Tensor(build.contiguous(this.node));
  }

  #map<R extends DType>(op: ElementwiseName): Tensor<R> {
    return new Tensor(e.apply(op, this.node));
  }
  #with<R extends DType>(op: ElementwiseName, other: Operand): Tensor<R> {
    return new Tensor(e.apply(op, this.node, operand(other)));
  }
}

/** For what functions take. */
export const tensorKind: Kind<Tensor> = { need: "a Tensor", accepts: isTensor, refuse: noTensor };
export const operandKind: Kind<Operand> = {
  need: "a Tensor, a number or a boolean",
  accepts: (x) => x instanceof Tensor || typeof x === "number" || typeof x === "boolean",
  refuse: noOperand,
};

const signatures: Methods<Tensor, Unchecked> = signaturesOf(tensorKind, operandKind);
guard("", Tensor.prototype, signatures);
foreignWords("Tensor", Tensor.prototype, foreignToTensor, indexOfTensor);

/** Whether something is a Tensor. */
export function isTensor(x: unknown): x is Tensor {
  return x instanceof Tensor;
}

/** An operand as the ops on nodes take it. */
export function operand(x: Operand): e.NodeOperand {
  return x instanceof Tensor ? x.node : x;
}

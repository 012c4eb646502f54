/** What the methods of Tensor take. */
import {
  boolean,
  callable,
  either,
  type Kind,
  listOf,
  number,
  oneOf,
  optional,
  options,
  required,
  unplaced,
} from "../signature/kinds.ts";
import { rejects } from "../signature/takes.ts";
import { axes, axis, device, dtype, lengths, padding, perAxis } from "./kinds.ts";
import type { ConvOptions, ConvTransposeOptions } from "./ops/conv.ts";
import type { Range } from "./ops/movement.ts";
import type {
  ArgOptions,
  AttentionOptionsOf,
  AxisOptions,
  Bounds,
  DTypeOptions,
  FlattenOptions,
  GeluOptions,
  NamedAxisOptions,
  PadOptions,
  SortOptions,
} from "./ops/options.ts";
import type { PoolOptions } from "./ops/pool.ts";
import type { NormOptions, ReduceOptions, VarianceOptions } from "./ops/reduce.ts";
import type { WindowsOptions } from "./ops/windows.ts";

const reduction = { axis: axes, keepDims: boolean };
const reduceOptions = { options: options<ReduceOptions>(reduction) };
const alongAxis = options<AxisOptions>({ axis });
const sorting = { options: options<SortOptions>({ axis, descending: boolean }) };
const range = { start: number, end: number, step: number };
const convolution = { stride: perAxis, padding, dilation: perAxis };

/** Methods that only the engine itself calls, and those that JavaScript calls. */
export type Unchecked = "bind" | "settle" | "promise" | "aliasOf" | "toString" | "toJSON";

/** What they take, where T is Tensor, whose type holds that none of its methods is forgotten. */
export function signaturesOf<T extends object>(tensor: Kind<T>, operand: Kind<T | number | boolean>) {
  const unary = {};
  const binary = { other: operand };
  const pooling = { options: required<PoolOptions>(["size"], { size: perAxis, stride: perAxis, padding }) };
  return {
    add: binary,
    sub: binary,
    mul: binary,
    div: binary,
    floorDiv: binary,
    mod: binary,
    pow: { exponent: operand },
    maximum: binary,
    minimum: binary,
    atan2: { x: operand },
    neg: unary,
    abs: unary,
    sign: unary,
    sqrt: unary,
    cbrt: unary,
    rsqrt: unary,
    square: unary,
    reciprocal: unary,
    exp: unary,
    expm1: unary,
    log: unary,
    log1p: unary,
    sin: unary,
    cos: unary,
    tan: unary,
    asin: unary,
    acos: unary,
    atan: unary,
    sinh: unary,
    cosh: unary,
    tanh: unary,
    erf: unary,
    floor: unary,
    ceil: unary,
    trunc: unary,
    round: unary,
    relu: unary,
    gelu: { options: options<GeluOptions>({ approximate: oneOf("none", "tanh") }) },
    sigmoid: unary,
    silu: unary,
    softplus: unary,
    clamp: { options: options<Bounds<T | number | boolean>>({ min: operand, max: operand }) },
    less: binary,
    lessEqual: binary,
    greater: binary,
    greaterEqual: binary,
    equal: binary,
    notEqual: binary,
    isNaN: unary,
    isFinite: unary,
    not: unary,
    and: binary,
    or: binary,
    xor: binary,
    bitAnd: binary,
    bitOr: binary,
    bitXor: binary,
    bitNot: unary,
    shiftLeft: binary,
    shiftRight: binary,
    where: { a: operand, b: operand },
    cast: { dtype },
    bitcast: { dtype },

    reshape: { shape: lengths },
    flatten: { options: options<FlattenOptions>({ start: axis, end: axis }) },
    transpose: { axes: lengths },
    permute: { axes: lengths },
    broadcastTo: { shape: lengths },
    expand: { shape: lengths },
    squeeze: { axis: optional(axes) },
    unsqueeze: { axis },
    flip: { axis: optional(axes) },
    slice: {
      range: either(
        required<Range & { readonly axis?: number }>([], { ...range, axis }),
        {
          need: "a list of ranges",
          accepts: (x) =>
            Array.isArray(x) && x.every((one) => one === undefined || required<Range>([], range).accepts(one)),
        },
      ),
    },
    at: { index: number, options: unplaced(alongAxis) },
    take: { indices: either(tensor, listOf(number, "a list of numbers")), options: alongAxis },
    gather: { index: tensor, options: required<NamedAxisOptions>(["axis"], { axis }) },
    scatterAdd: { index: tensor, values: tensor, options: required<NamedAxisOptions>(["axis"], { axis }) },
    scatterMax: { index: tensor, values: tensor, options: required<NamedAxisOptions>(["axis"], { axis }) },
    oneHot: { classes: number, options: options<DTypeOptions>({ dtype }) },
    windows: {
      options: required<WindowsOptions>(["axis", "length"], { axis, length: number, stride: number, dilation: number }),
    },
    pad: {
      widths: either(number, listOf(listOf(number, "two numbers"), "[before, after] for each axis")),
      options: options<PadOptions>({ value: number }),
    },
    split: { parts: either(number, listOf(number, "a list of lengths")), options: alongAxis },
    repeat: { count: number, options: unplaced(alongAxis) },
    tile: { counts: lengths },

    sum: reduceOptions,
    mean: reduceOptions,
    prod: reduceOptions,
    max: reduceOptions,
    min: reduceOptions,
    variance: { options: options<VarianceOptions>({ ...reduction, correction: number }) },
    std: { options: options<VarianceOptions>({ ...reduction, correction: number }) },
    argmax: { options: options<ArgOptions>({ axis, keepDims: boolean }) },
    argmin: { options: options<ArgOptions>({ axis, keepDims: boolean }) },
    all: reduceOptions,
    any: reduceOptions,
    norm: {
      options: options<NormOptions>({
        // First, as elsewhere: x.norm(2) means the order.
        ord: { need: "1, 2 or Infinity", accepts: (x) => x === 1 || x === 2 || x === Infinity },
        ...reduction,
      }),
    },
    logSumExp: reduceOptions,
    softmax: { options: alongAxis },
    logSoftmax: { options: alongAxis },
    cumsum: { options: alongAxis },
    cumprod: { options: alongAxis },
    sort: sorting,
    argsort: sorting,

    matmul: { other: tensor },
    dot: { other: tensor },
    conv1d: { w: tensor, options: options<ConvOptions>({ ...convolution, groups: number }) },
    conv2d: { w: tensor, options: options<ConvOptions>({ ...convolution, groups: number }) },
    convTranspose2d: { w: tensor, options: options<ConvTransposeOptions>(convolution) },
    maxPool2d: pooling,
    avgPool2d: pooling,
    scaledDotProductAttention: {
      k: tensor,
      v: tensor,
      options: options<AttentionOptionsOf<T>>({
        mask: tensor,
        causal: boolean,
        scale: number,
        scores: oneOf("stored", "online"),
        onWeights: callable,
      }),
    },

    to: { device },
    detach: unary,
    stopGradient: unary,
    contiguous: unary,
    assign: { value: operand },
    data: rejects({}),
    array: rejects({}),
    item: rejects({}),
    realize: rejects({}),
    dispose: {},
  };
}

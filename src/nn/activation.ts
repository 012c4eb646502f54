/** Functions without parameters as layers, so that `sequential` can chain them. */
import { ShapeError } from "../errors.ts";
import type { DType } from "../graph/dtype.ts";
import type { Computed } from "../tensor/dtypes.ts";
import { formatShape, size } from "../graph/shape.ts";
import type { PoolOptions, Tensor } from "../tensor/tensor.ts";
import { Module } from "./module.ts";

/** What an activation gives: a dtype, the "same" as its input has, or what that is "computed" as: f32 for f16, i32 for bool. */
export type Gives = DType | "same" | "computed";

/** The dtype that such an activation gives of D. */
export type GivenOf<G extends Gives, D extends DType> = G extends DType ? G : G extends "same" ? D : Computed<D>;

/** A layer that applies a function. */
export class Activation<out G extends Gives = Gives> extends Module {
  readonly name: string;
  readonly apply: (x: Tensor) => Tensor;

  constructor(name: string, apply: (x: Tensor) => Tensor) {
    super();
    this.name = name;
    this.apply = apply;
  }

  override forward<D extends DType>(x: Tensor<D>): Tensor<GivenOf<G, D>> {
    return this.apply(x) as Tensor<GivenOf<G, D>>;
  }
}

/** A function of your own as a layer. */
export function lambda<D extends DType>(apply: (x: Tensor) => Tensor<D>): Activation<D> {
  return new Activation("lambda", apply);
}

/**
 * x as another dtype. Between layers that compute in f32, `nn.cast("f16")` makes x be stored in half the bytes: after a
 * linear layer and again after its activation, as in linear, cast, relu, cast, all that a training step keeps of them is f16.
 */
export function cast<D extends DType>(dtype: D): Activation<D> {
  return new Activation("cast", (x) => x.cast(dtype));
}

/** max(x, 0). */
export function relu(): Activation<"computed"> {
  return new Activation("relu", (x) => x.relu());
}

/** x times the normal distribution function of x. Hendrycks and Gimpel, Gaussian Error Linear Units (2016). */
export function gelu(): Activation<"f32"> {
  return new Activation("gelu", (x) => x.gelu());
}

export function tanh(): Activation<"f32"> {
  return new Activation("tanh", (x) => x.tanh());
}

/** 1 / (1 + exp(-x)). */
export function sigmoid(): Activation<"f32"> {
  return new Activation("sigmoid", (x) => x.sigmoid());
}

/** x * sigmoid(x), also called swish. */
export function silu(): Activation<"f32"> {
  return new Activation("silu", (x) => x.silu());
}

/** log(1 + exp(x)). */
export function softplus(): Activation<"f32"> {
  return new Activation("softplus", (x) => x.softplus());
}

/** exp(x) over its sum along `axis`, by default the last. */
export function softmax(options: { readonly axis?: number } = {}): Activation<"f32"> {
  const { axis = -1 } = options;
  return new Activation("softmax", (x) => x.softmax({ axis }));
}

/** The logarithm of softmax along `axis`, by default the last. */
export function logSoftmax(options: { readonly axis?: number } = {}): Activation<"f32"> {
  const { axis = -1 } = options;
  return new Activation("logSoftmax", (x) => x.logSoftmax({ axis }));
}

/** The largest of each window of [n, height, width, channels]; by default windows lie side by side. */
export function maxPool2d(options: PoolOptions): Activation<"computed"> {
  return new Activation("maxPool2d", (x) => x.maxPool2d(options));
}

/** The mean of each window of [n, height, width, channels]; by default windows lie side by side. */
export function avgPool2d(options: PoolOptions): Activation<"f32"> {
  return new Activation("avgPool2d", (x) => x.avgPool2d(options));
}

/** [n, ...] to [n, elements of a row]. Throws ShapeError for a scalar. */
export function flatten(): Activation<"same"> {
  return new Activation("flatten", (x) => {
    const [rows, ...rest] = x.shape;
    if (rows === undefined) {
      throw new ShapeError("nn.flatten", { got: formatShape(x.shape), need: "a batch axis in front" });
    }
    return x.reshape([rows, size(rest)]);
  });
}

/** Functions without parameters as layers, so that `sequential` can chain them. */
import { ShapeError } from "../errors.ts";
import type { DType } from "../graph/dtype.ts";
import { formatShape, size } from "../graph/shape.ts";
import type { PoolOptions, Tensor } from "../tensor/tensor.ts";
import { Module } from "./module.ts";

/** A layer that applies a function. */
export class Activation extends Module {
  readonly name: string;
  readonly apply: (x: Tensor) => Tensor;

  constructor(name: string, apply: (x: Tensor) => Tensor) {
    super();
    this.name = name;
    this.apply = apply;
  }

  override forward(x: Tensor): Tensor {
    return this.apply(x);
  }
}

/** A function of your own as a layer. */
export function lambda(apply: (x: Tensor) => Tensor): Activation {
  return new Activation("lambda", apply);
}

/**
 * x as another dtype. Between layers that compute in f32, `nn.cast("f16")` makes x be stored in half the bytes: after a
 * linear layer and again after its activation, as in linear, cast, relu, cast, all that a training step keeps of them is f16.
 */
export function cast(dtype: DType): Activation {
  return new Activation("cast", (x) => x.cast(dtype));
}

/** max(x, 0). */
export function relu(): Activation {
  return new Activation("relu", (x) => x.relu());
}

/** x times the normal distribution function of x. Hendrycks and Gimpel, Gaussian Error Linear Units (2016). */
export function gelu(): Activation {
  return new Activation("gelu", (x) => x.gelu());
}

export function tanh(): Activation {
  return new Activation("tanh", (x) => x.tanh());
}

/** 1 / (1 + exp(-x)). */
export function sigmoid(): Activation {
  return new Activation("sigmoid", (x) => x.sigmoid());
}

/** x * sigmoid(x), also called swish. */
export function silu(): Activation {
  return new Activation("silu", (x) => x.silu());
}

/** log(1 + exp(x)). */
export function softplus(): Activation {
  return new Activation("softplus", (x) => x.softplus());
}

/** exp(x) over its sum along `axis`, by default the last. */
export function softmax(options: { readonly axis?: number } = {}): Activation {
  const { axis = -1 } = options;
  return new Activation("softmax", (x) => x.softmax({ axis }));
}

/** The logarithm of softmax along `axis`, by default the last. */
export function logSoftmax(options: { readonly axis?: number } = {}): Activation {
  const { axis = -1 } = options;
  return new Activation("logSoftmax", (x) => x.logSoftmax({ axis }));
}

/** The largest of each window of [n, height, width, channels]; by default windows lie side by side. */
export function maxPool2d(options: PoolOptions): Activation {
  return new Activation("maxPool2d", (x) => x.maxPool2d(options));
}

/** The mean of each window of [n, height, width, channels]; by default windows lie side by side. */
export function avgPool2d(options: PoolOptions): Activation {
  return new Activation("avgPool2d", (x) => x.avgPool2d(options));
}

/** [n, ...] to [n, elements of a row]. Throws ShapeError for a scalar. */
export function flatten(): Activation {
  return new Activation("flatten", (x) => {
    const [rows, ...rest] = x.shape;
    if (rows === undefined) {
      throw new ShapeError("nn.flatten", { got: formatShape(x.shape), need: "a batch axis in front" });
    }
    return x.reshape([rows, size(rest)]);
  });
}

/** Functions without parameters as layers, so that `sequential` can chain them. */
import { ArgumentError, ShapeError } from "../../errors.ts";
import type { DType } from "../../graph/dtype.ts";
import { formatShape, size } from "../../graph/shape.ts";
import { callable, options, required, string } from "../../signature/kinds.ts";
import { show } from "../../signature/show.ts";
import { type Signature, takes } from "../../signature/takes.ts";
import type { Computed } from "../../tensor/dtypes.ts";
import { axis, dtype as dtypeKind, padding, perAxis } from "../../tensor/kinds.ts";
import type { AxisOptions } from "../../tensor/ops/options.ts";
import { isTensor, type PoolOptions, type Tensor, tensorKind } from "../../tensor/tensor.ts";
import { Module } from "./module.ts";

/** What an activation gives: a dtype, the "same" as its input has, or what that is "computed" as: f32 for f16, i32 for bool. */
export type Gives = DType | "same" | "computed";

/** The dtype that such an activation gives of D. */
export type GivenOf<G extends Gives, D extends DType> = G extends DType ? G : G extends "same" ? D : Computed<D>;

/** A layer that applies a function. */
export class Activation<out G extends Gives = Gives> extends Module {
  /** What errors call it, after `nn.`. */
  readonly name: string;
  /** What it does to a tensor. */
  readonly apply: (x: Tensor) => Tensor;
  readonly #takes: Signature;

  /** `name` is what errors call it, after `nn.`. */
  constructor(name: string, apply: (x: Tensor) => Tensor) {
    super();
    signatures.Activation.check(arguments);
    this.name = name;
    this.apply = apply;
    this.#takes = takes(`nn.${name}`, { x: tensorKind });
  }

  /** Throws ArgumentError where the function gives anything but a Tensor. */
  override forward<D extends DType>(x: Tensor<D>): Tensor<GivenOf<G, D>> {
    this.#takes.check(arguments);
    const y: unknown = this.apply(x);
    if (isTensor(y)) return y as Tensor<GivenOf<G, D>>;
    throw new ArgumentError(`nn.${this.name}`, {
      got: `a function that returns ${show(y)}`,
      need: "one that returns a Tensor",
    });
  }
}

/** A function of your own as a layer. */
export function lambda<D extends DType>(apply: (x: Tensor) => Tensor<D>): Activation<D> {
  signatures.lambda.check(arguments);
  return new Activation("lambda", apply);
}

/**
 * x as another dtype. Between layers that compute in f32, `nn.cast("f16")` makes x be stored in half the bytes: after a
 * linear layer and again after its activation, as in linear, cast, relu, cast, all that a training step keeps of them is f16.
 */
export function cast<D extends DType>(dtype: D): Activation<D> {
  signatures.cast.check(arguments);
  return new Activation("cast", (x) => x.cast(dtype));
}

/** max(x, 0). */
export function relu(): Activation<"computed"> {
  signatures.relu.check(arguments);
  return new Activation("relu", (x) => x.relu());
}

/** x times the normal distribution function of x. Hendrycks and Gimpel, Gaussian Error Linear Units (2016). */
export function gelu(): Activation<"f32"> {
  signatures.gelu.check(arguments);
  return new Activation("gelu", (x) => x.gelu());
}

/** The hyperbolic tangent. */
export function tanh(): Activation<"f32"> {
  signatures.tanh.check(arguments);
  return new Activation("tanh", (x) => x.tanh());
}

/** 1 / (1 + exp(-x)). */
export function sigmoid(): Activation<"f32"> {
  signatures.sigmoid.check(arguments);
  return new Activation("sigmoid", (x) => x.sigmoid());
}

/** x * sigmoid(x), also called swish. */
export function silu(): Activation<"f32"> {
  signatures.silu.check(arguments);
  return new Activation("silu", (x) => x.silu());
}

/** log(1 + exp(x)). */
export function softplus(): Activation<"f32"> {
  signatures.softplus.check(arguments);
  return new Activation("softplus", (x) => x.softplus());
}

/** exp(x) over its sum along `axis`, by default the last. */
export function softmax(options: AxisOptions = {}): Activation<"f32"> {
  signatures.softmax.check(arguments);
  const { axis = -1 } = options;
  return new Activation("softmax", (x) => x.softmax({ axis }));
}

/** The logarithm of softmax along `axis`, by default the last. */
export function logSoftmax(options: AxisOptions = {}): Activation<"f32"> {
  signatures.logSoftmax.check(arguments);
  const { axis = -1 } = options;
  return new Activation("logSoftmax", (x) => x.logSoftmax({ axis }));
}

/** The largest of each window of [n, height, width, channels]; by default windows lie side by side. */
export function maxPool2d(options: PoolOptions): Activation<"computed"> {
  signatures.maxPool2d.check(arguments);
  return new Activation("maxPool2d", (x) => x.maxPool2d(options));
}

/** The mean of each window of [n, height, width, channels]; by default windows lie side by side. */
export function avgPool2d(options: PoolOptions): Activation<"f32"> {
  signatures.avgPool2d.check(arguments);
  return new Activation("avgPool2d", (x) => x.avgPool2d(options));
}

/** [n, ...] to [n, elements of a row]. Throws ShapeError for a scalar. */
export function flatten(): Activation<"same"> {
  signatures.flatten.check(arguments);
  return new Activation("flatten", (x) => {
    const [rows, ...rest] = x.shape;
    if (rows === undefined) {
      throw new ShapeError("nn.flatten", { got: formatShape(x.shape), need: "a batch axis in front" });
    }
    return x.reshape([rows, size(rest)]);
  });
}

const alongAxis = { options: options<AxisOptions>({ axis }) };
const pooling = { options: required<PoolOptions>(["size"], { size: perAxis, stride: perAxis, padding }) };
const signatures = {
  Activation: takes("nn.Activation", { name: string, apply: callable }),
  lambda: takes("nn.lambda", { apply: callable }),
  cast: takes("nn.cast", { dtype: dtypeKind }),
  relu: takes("nn.relu", {}),
  gelu: takes("nn.gelu", {}),
  tanh: takes("nn.tanh", {}),
  sigmoid: takes("nn.sigmoid", {}),
  silu: takes("nn.silu", {}),
  softplus: takes("nn.softplus", {}),
  softmax: takes("nn.softmax", alongAxis),
  logSoftmax: takes("nn.logSoftmax", alongAxis),
  maxPool2d: takes("nn.maxPool2d", pooling),
  avgPool2d: takes("nn.avgPool2d", pooling),
  flatten: takes("nn.flatten", {}),
};

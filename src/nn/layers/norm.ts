import { ArgumentError, ShapeError } from "../../errors.ts";
import { formatShape, type Shape, size } from "../../graph/shape.ts";
import { allReduce } from "../../parallel/collectives/collectives.ts";
import { boolean, either, number, options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { full } from "../../tensor/create.ts";
import { shape as shapeKind } from "../../tensor/kinds.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";
import { ones, zeros } from "./init.ts";
import { requireLength } from "./linear.ts";
import { Module } from "./module.ts";
import { buffer, parameter } from "./parameter.ts";

/** What a layer norm is like. */
export interface LayerNormOptions {
  /** Added to the variance. Default 1e-5. */
  readonly epsilon?: number | undefined;
  /** Whether to scale and shift by parameters. Default true. */
  readonly affine?: boolean | undefined;
}

/**
 * (x - mean) / sqrt(variance + epsilon) * weight + bias, over the last axes, whose lengths are `shape`.
 * Ba, Kiros and Hinton, Layer Normalization (2016).
 */
export class LayerNorm extends Module {
  /** The factors; undefined without `affine`. */
  readonly weight: Tensor<"f32"> | undefined;
  /** What is added; undefined without `affine`. */
  readonly bias: Tensor<"f32"> | undefined;
  /** The last axes, over which is normalised. */
  readonly shape: Shape;
  /** What is added to a variance before its root. */
  readonly epsilon: number;

  constructor(shape: number | Shape, options: LayerNormOptions = {}) {
    super();
    signatures.layerNorm.check(arguments);
    const { epsilon = 1e-5, affine = true } = options;
    this.shape = typeof shape === "number" ? [shape] : [...shape];
    this.shape.forEach((length, axis) => requireLength("nn.layerNorm", `length of axis ${axis}`, length));
    if (this.shape.length === 0) {
      throw new ArgumentError("nn.layerNorm", { got: "no axes", need: "at least one length" });
    }
    if (!(epsilon > 0)) {
      throw new ArgumentError("nn.layerNorm", { got: `epsilon ${epsilon}`, need: "a number above 0" });
    }
    this.epsilon = epsilon;
    const fan = { in: size(this.shape), out: size(this.shape) };
    this.weight = affine ? parameter(ones(this.shape, fan)) : undefined;
    this.bias = affine ? parameter(zeros(this.shape, fan)) : undefined;
  }

  /** What the layer gives for x. Throws ShapeError where x does not fit, DTypeError where its dtype does not. */
  override forward(x: Tensor): Tensor<"f32"> {
    signatures.normalizeLayer.check(arguments);
    const first = x.rank - this.shape.length;
    if (first < 0 || !this.shape.every((length, i) => x.shape[first + i] === length)) {
      throw new ShapeError("nn.layerNorm", { got: formatShape(x.shape), need: `[..., ${this.shape.join(", ")}]` });
    }
    const over = { axis: this.shape.map((_, i) => first + i), keepDims: true };
    const centered = x.sub(x.mean(over));
    const normal = centered.mul(centered.square().mean(over).add(this.epsilon).rsqrt());
    return this.weight === undefined ? normal : normal.mul(this.weight).add(this.bias!);
  }
}

/**
 * Layer normalisation over the last axes, given their lengths. Throws ArgumentError for lengths or an epsilon that make
 * no sense.
 */
export function layerNorm(shape: number | Shape, options: LayerNormOptions = {}): LayerNorm {
  signatures.layerNorm.check(arguments);
  return new LayerNorm(shape, options);
}

/** What a batch norm is like. */
export interface BatchNormOptions {
  /** Added to the variance. Default 1e-5. */
  readonly epsilon?: number | undefined;
  /** Weight of the newest batch in the running statistics, above 0 and at most 1. Default 0.1. */
  readonly momentum?: number | undefined;
  /** Whether to scale and shift by parameters. Default true. */
  readonly affine?: boolean | undefined;
}

/**
 * (x - mean) / sqrt(variance + epsilon) * weight + bias for each feature, the last axis of x [rows, …, features].
 * In training, mean and (biased) variance are those of the whole batch, on however many devices it is computed, and
 * the running statistics move towards them, with the unbiased variance; in evaluation the running statistics are used.
 * Ioffe and Szegedy, Batch Normalization (2015).
 */
export class BatchNorm extends Module {
  /** The factors; undefined without `affine`. */
  readonly weight: Tensor<"f32"> | undefined;
  /** What is added; undefined without `affine`. */
  readonly bias: Tensor<"f32"> | undefined;
  /** The mean that is used in evaluation. */
  readonly runningMean: Tensor<"f32">;
  /** The variance that is used in evaluation. */
  readonly runningVariance: Tensor<"f32">;
  /** The length of the last axis. */
  readonly features: number;
  /** What is added to a variance before its root. */
  readonly epsilon: number;
  /** The weight of the newest batch in the running statistics. */
  readonly momentum: number;

  constructor(features: number, options: BatchNormOptions = {}) {
    super();
    signatures.batchNorm.check(arguments);
    const { epsilon = 1e-5, momentum = 0.1, affine = true } = options;
    requireLength("nn.batchNorm", "features", features);
    if (!(epsilon > 0)) {
      throw new ArgumentError("nn.batchNorm", { got: `epsilon ${epsilon}`, need: "a number above 0" });
    }
    if (!(momentum > 0 && momentum <= 1)) {
      throw new ArgumentError("nn.batchNorm", { got: `momentum ${momentum}`, need: "a number above 0, at most 1" });
    }
    this.features = features;
    this.epsilon = epsilon;
    this.momentum = momentum;
    const shape = [features];
    const fan = { in: features, out: features };
    this.weight = affine ? parameter(ones(shape, fan)) : undefined;
    this.bias = affine ? parameter(zeros(shape, fan)) : undefined;
    this.runningMean = buffer(zeros(shape, fan));
    this.runningVariance = buffer(ones(shape, fan));
  }

  /** What the layer gives for x. Throws ShapeError where x does not fit, DTypeError where its dtype does not. */
  override forward(x: Tensor): Tensor<"f32"> {
    signatures.normalizeBatch.check(arguments);
    if (x.rank < 2 || x.shape[x.rank - 1] !== this.features) {
      throw new ShapeError("nn.batchNorm", {
        got: formatShape(x.shape),
        need: `[rows, …, ${this.features}]`,
      });
    }
    const centered = x.sub(this.training ? this.#batchMean(x) : this.runningMean);
    const variance = this.training ? this.#batchVariance(x, centered) : this.runningVariance;
    const normal = centered.mul(variance.add(this.epsilon).rsqrt());
    return this.weight === undefined ? normal : normal.mul(this.weight).add(this.bias!);
  }

  #batchMean(x: Tensor): Tensor<"f32"> {
    const mean = allReduce(x.sum(over(x)) as Tensor<"f32">, { op: "mean", count: count(x) });
    this.#move(this.runningMean, mean);
    return mean;
  }

  /** Of differences from the mean of the whole batch, as E[x²] - E[x]² would lose what they have in common. */
  #batchVariance(x: Tensor, centered: Tensor<"f32">): Tensor<"f32"> {
    const variance = allReduce(centered.square().sum(over(x)), { op: "mean", count: count(x) });
    const n = allReduce(count(x));
    this.#move(this.runningVariance, variance.mul(n.div(n.sub(1).maximum(1))));
    return variance;
  }

  #move(running: Tensor, now: Tensor): void {
    running.assign(running.mul(1 - this.momentum).add(now.detach().mul(this.momentum)));
  }
}

/** All axes but that of the features. */
function over(x: Tensor): { axis: number[] } {
  return { axis: x.shape.slice(0, -1).map((_, axis) => axis) };
}

/** Elements of each feature, an f32 scalar. */
function count(x: Tensor): Tensor<"f32"> {
  return full([], x.size / x.shape[x.rank - 1]!);
}

/**
 * Batch normalisation of the last axis, of so many features. Throws ArgumentError for numbers that make no sense.
 */
export function batchNorm(features: number, options: BatchNormOptions = {}): BatchNorm {
  signatures.batchNorm.check(arguments);
  return new BatchNorm(features, options);
}

const signatures = {
  layerNorm: takes("nn.layerNorm", {
    shape: either(number, shapeKind),
    options: options<LayerNormOptions>({ epsilon: number, affine: boolean }),
  }),
  normalizeLayer: takes("nn.layerNorm", { x: tensorKind }),
  batchNorm: takes("nn.batchNorm", {
    features: number,
    options: options<BatchNormOptions>({ epsilon: number, momentum: number, affine: boolean }),
  }),
  normalizeBatch: takes("nn.batchNorm", { x: tensorKind }),
};

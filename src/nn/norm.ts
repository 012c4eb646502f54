import { ArgumentError, ShapeError } from "../errors.ts";
import { formatShape, type Shape, size } from "../graph/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { ones, zeros } from "./init.ts";
import { requireLength } from "./linear.ts";
import { Module } from "./module.ts";
import { parameter } from "./parameter.ts";

export interface LayerNormOptions {
  /** Added to the variance. Default 1e-5. */
  readonly epsilon?: number;
  /** Whether to scale and shift by parameters. Default true. */
  readonly affine?: boolean;
}

/**
 * (x - mean) / sqrt(variance + epsilon) * weight + bias, over the last axes, whose lengths are `shape`.
 * Ba, Kiros and Hinton, Layer Normalization (2016).
 */
export class LayerNorm extends Module {
  readonly weight: Tensor | undefined;
  readonly bias: Tensor | undefined;
  readonly shape: Shape;
  readonly epsilon: number;

  constructor(shape: number | Shape, options: LayerNormOptions = {}) {
    super();
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

  override forward(x: Tensor): Tensor {
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
  return new LayerNorm(shape, options);
}

import { ArgumentError, ShapeError } from "../errors.ts";
import { formatShape, size } from "../graph/shape.ts";
import type { ConvOptions, Tensor } from "../tensor/tensor.ts";
import type { PerAxis } from "../tensor/windows.ts";
import { glorotUniform, type Initializer, zeros } from "./init.ts";
import { requireLength } from "./linear.ts";
import { Module } from "./module.ts";
import { parameter } from "./parameter.ts";

export interface Conv2dOptions extends ConvOptions {
  /** Height and width of the kernel, or one number for both. */
  readonly kernel: PerAxis;
  /** Whether to add a bias, which starts at 0. Default true. */
  readonly bias?: boolean;
  /** Initial weight. Default `init.glorotUniform`, as of a linear layer. */
  readonly init?: Initializer;
}

/** x [n, height, width, in] to x.conv2d(weight) + bias; `weight` is [kernelHeight, kernelWidth, in / groups, out]. */
export class Conv2d extends Module {
  readonly weight: Tensor<"f32">;
  readonly bias: Tensor<"f32"> | undefined;
  readonly inputs: number;
  readonly options: ConvOptions;

  constructor(inputs: number, outputs: number, { kernel, bias = true, init = glorotUniform, ...options }: Conv2dOptions) {
    super();
    const { groups = 1 } = options;
    const lengths = typeof kernel === "number" ? [kernel, kernel] : [...kernel];
    if (lengths.length !== 2) throw new ArgumentError("nn.conv2d", { got: `kernel [${lengths}]`, need: "a number, or two" });
    requireLength("nn.conv2d", "in", inputs);
    requireLength("nn.conv2d", "out", outputs);
    requireLength("nn.conv2d", "groups", groups);
    for (const length of lengths) requireLength("nn.conv2d", "kernel", length);
    if (inputs % groups !== 0 || outputs % groups !== 0) {
      throw new ArgumentError("nn.conv2d", { got: `groups ${groups}`, need: `a divisor of in (${inputs}) and of out (${outputs})` });
    }
    const fan = { in: size(lengths) * (inputs / groups), out: size(lengths) * (outputs / groups) };
    this.inputs = inputs;
    this.options = options;
    this.weight = parameter(init([...lengths, inputs / groups, outputs], fan));
    this.bias = bias ? parameter(zeros([outputs], fan)) : undefined;
  }

  override forward(x: Tensor): Tensor<"f32"> {
    if (x.rank !== 4 || x.shape[3] !== this.inputs) {
      throw new ShapeError("nn.conv2d", { got: formatShape(x.shape), need: `[n, height, width, ${this.inputs}]` });
    }
    const y = x.conv2d(this.weight, this.options);
    return this.bias === undefined ? y : y.add(this.bias);
  }
}

/**
 * A convolution of `inputs` to `outputs` channels, channels last. Throws ArgumentError for numbers that make no sense, and
 * for groups that do not divide both.
 */
export function conv2d(inputs: number, outputs: number, options: Conv2dOptions): Conv2d {
  return new Conv2d(inputs, outputs, options);
}

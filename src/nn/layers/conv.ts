import { ArgumentError, ShapeError } from "../../errors.ts";
import { formatShape, size } from "../../graph/shape.ts";
import { boolean, number, required } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { padding, perAxis } from "../../tensor/kinds.ts";
import type { PerAxis } from "../../tensor/ops/windows.ts";
import { type ConvOptions, type Tensor, tensorKind } from "../../tensor/tensor.ts";
import { glorotUniform, type Initializer, zeros } from "./init.ts";
import { initializer } from "./kinds.ts";
import { requireLength } from "./linear.ts";
import { Module } from "./module.ts";
import { initialized, parameter } from "./parameter.ts";

/** What a convolution is like. */
export interface Conv2dOptions extends ConvOptions {
  /** Height and width of the kernel, or one number for both. */
  readonly kernel: PerAxis;
  /** Whether to add a bias, which starts at 0. Default true. */
  readonly bias?: boolean | undefined;
  /** Initial weight. Default `init.glorotUniform`, as of a linear layer. */
  readonly init?: Initializer | undefined;
}

const op = "nn.conv2d";
const signatures = {
  conv2d: takes(op, {
    inputs: number,
    outputs: number,
    options: required<Conv2dOptions>(["kernel"], {
      kernel: perAxis,
      stride: perAxis,
      padding,
      dilation: perAxis,
      groups: number,
      bias: boolean,
      init: initializer,
    }),
  }),
  forward: takes(op, { x: tensorKind }),
};

/** x [n, height, width, in] to x.conv2d(weight) + bias; `weight` is [kernelHeight, kernelWidth, in / groups, out]. */
export class Conv2d extends Module {
  /** Of shape [kernelHeight, kernelWidth, in / groups, out]. */
  readonly weight: Tensor<"f32">;
  /** Of shape [out]; undefined without one. */
  readonly bias: Tensor<"f32"> | undefined;
  /** Input channels. */
  readonly inputs: number;
  /** How it goes over its input. */
  readonly options: ConvOptions;

  constructor(inputs: number, outputs: number, options: Conv2dOptions) {
    super();
    signatures.conv2d.check(arguments);
    const { kernel, bias = true, init = glorotUniform, ...sliding } = options;
    const { groups = 1 } = sliding;
    const lengths = typeof kernel === "number" ? [kernel, kernel] : [...kernel];
    if (lengths.length !== 2) throw new ArgumentError(op, { got: `kernel [${lengths}]`, need: "a number, or two" });
    requireLength(op, "in", inputs);
    requireLength(op, "out", outputs);
    requireLength(op, "groups", groups);
    for (const length of lengths) requireLength(op, "kernel", length);
    if (inputs % groups !== 0 || outputs % groups !== 0) {
      throw new ArgumentError(op, {
        got: `groups ${groups}`,
        need: `a divisor of in (${inputs}) and of out (${outputs})`,
      });
    }
    const fan = { in: size(lengths) * (inputs / groups), out: size(lengths) * (outputs / groups) };
    this.inputs = inputs;
    this.options = sliding;
    this.weight = initialized(op, init, [...lengths, inputs / groups, outputs], fan);
    this.bias = bias ? parameter(zeros([outputs], fan)) : undefined;
  }

  /** What the layer gives for x. Throws ShapeError where x does not fit, DTypeError where its dtype does not. */
  override forward(x: Tensor): Tensor<"f32"> {
    signatures.forward.check(arguments);
    if (x.rank !== 4 || x.shape[3] !== this.inputs) {
      throw new ShapeError(op, { got: formatShape(x.shape), need: `[n, height, width, ${this.inputs}]` });
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
  signatures.conv2d.check(arguments);
  return new Conv2d(inputs, outputs, options);
}

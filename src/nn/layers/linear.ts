import { ArgumentError, ShapeError } from "../../errors.ts";
import { formatShape } from "../../graph/shape.ts";
import { boolean, number, options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";
import { glorotUniform, type Initializer, zeros } from "./init.ts";
import { initializer } from "./kinds.ts";
import { Module } from "./module.ts";
import { initialized, parameter } from "./parameter.ts";

/** What a linear layer is like. */
export interface LinearOptions {
  /** Whether to add a bias, which starts at 0. Default true. */
  readonly bias?: boolean | undefined;
  /** Initial weight. Default `init.glorotUniform`. */
  readonly init?: Initializer | undefined;
}

const op = "nn.linear";
const signatures = {
  linear: takes(op, {
    inputs: number,
    outputs: number,
    options: options<LinearOptions>({ bias: boolean, init: initializer }),
  }),
  forward: takes(op, { x: tensorKind }),
};

/** x [..., in] to x @ weight + bias [..., out]; `weight` is [in, out]. */
export class Linear extends Module {
  /** Of shape [in, out]. */
  readonly weight: Tensor<"f32">;
  /** Of shape [out]; undefined without one. */
  readonly bias: Tensor<"f32"> | undefined;

  constructor(inputs: number, outputs: number, options: LinearOptions = {}) {
    super();
    signatures.linear.check(arguments);
    requireLength(op, "in", inputs);
    requireLength(op, "out", outputs);
    const { bias = true, init = glorotUniform } = options;
    const fan = { in: inputs, out: outputs };
    this.weight = initialized(op, init, [inputs, outputs], fan);
    this.bias = bias ? parameter(zeros([outputs], fan)) : undefined;
  }

  /** What the layer gives for x. Throws ShapeError where x does not fit, DTypeError where its dtype does not. */
  override forward(x: Tensor): Tensor<"f32"> {
    signatures.forward.check(arguments);
    const inputs = this.weight.shape[0]!;
    if (x.rank === 0 || x.shape.at(-1) !== inputs) {
      throw new ShapeError(op, { got: formatShape(x.shape), need: `[..., ${inputs}]` });
    }
    const y = x.matmul(this.weight);
    return this.bias === undefined ? y : y.add(this.bias);
  }
}

/** A linear layer of `inputs` to `outputs` features. Throws ArgumentError unless both are integers of at least 1. */
export function linear(inputs: number, outputs: number, options: LinearOptions = {}): Linear {
  signatures.linear.check(arguments);
  return new Linear(inputs, outputs, options);
}

/** Throws ArgumentError unless `value` is an integer of at least 1. */
export function requireLength(op: string, name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new ArgumentError(op, { got: `${name} ${value}`, need: "an integer of at least 1" });
  }
}

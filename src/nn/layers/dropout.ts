import { ArgumentError } from "../../errors.ts";
import type { DType } from "../../graph/dtype.ts";
import { number } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { where } from "../../tensor/create.ts";
import type { Sum } from "../../tensor/dtypes.ts";
import * as random from "../../tensor/random.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";
import { Module } from "./module.ts";

const op = "nn.dropout";
const signatures = { dropout: takes(op, { rate: number }), forward: takes(op, { x: tensorKind }) };

/**
 * In training, each element is 0 with probability `rate`, else divided by 1 - rate; in evaluation nothing happens.
 * Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting (2014).
 */
export class Dropout extends Module {
  /** The part of elements that is dropped in training. */
  readonly rate: number;

  constructor(rate: number) {
    super();
    signatures.dropout.check(arguments);
    if (!(rate >= 0 && rate < 1)) {
      throw new ArgumentError(op, { got: `rate ${rate}`, need: "a number from 0 to below 1" });
    }
    this.rate = rate;
  }

  /** What the layer gives for x. */
  override forward<D extends DType>(x: Tensor<D>): Tensor<D | Sum<D, number>> {
    signatures.forward.check(arguments);
    if (this.rate === 0 || !this.training) return x;
    const keep = 1 - this.rate;
    return where(random.bernoulliLike(x, keep), x.mul(1 / keep), 0) as Tensor as Tensor<Sum<D, number>>;
  }
}

/** A dropout layer. Throws ArgumentError unless `rate` is from 0 to below 1. */
export function dropout(rate: number): Dropout {
  signatures.dropout.check(arguments);
  return new Dropout(rate);
}

/** A mean as its sum and its count, which add up over shards. */
import type { DType } from "../../graph/dtype.ts";
import { where } from "../../tensor/create.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/** A mean: `sum / count`, both f32 scalars that add up over the shards of a batch. */
export interface Ratio<D extends DType = DType> {
  /** The sum over rows: a scalar. */
  readonly sum: Tensor<D>;
  /** What it is divided by: a scalar. */
  readonly count: Tensor<D>;
}

/** `sum / count`, and 0 (with a gradient of 0) where the count is 0. */
export function quotient(sum: Tensor, count: Tensor): Tensor<"f32"> {
  const counted = count.notEqual(0);
  return where(counted, sum.div(where(counted, count, 1)), 0) as Tensor as Tensor<"f32">;
}

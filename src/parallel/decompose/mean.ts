/** A mean over the rows of a batch that is declared as one, so that shards of the batch combine exactly. */
import { DTypeError, ShapeError } from "../../errors.ts";
import { formatShape } from "../../graph/shape.ts";
import { options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { full, where } from "../../tensor/create.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";

/** How rows count in a mean. */
export interface MeanOptions {
  /** How much each row counts, of shape [rows]; 0 for one that does not, whatever it holds. By default each counts 1. */
  readonly weights?: Tensor | undefined;
}

const signature = takes("parallel.mean", { x: tensorKind, options: options<MeanOptions>({ weights: tensorKind }) });
const ofRowMean = takes("parallel.RowMean", { sum: tensorKind, count: tensorKind });

/** The sum over a shard's rows and what it is to be divided by, in an output of a replicated function. */
export class RowMean {
  /** The sum over rows that count. */
  readonly sum: Tensor;
  /** How many count, or the sum of their weights. */
  readonly count: Tensor;

  /** `sum` over axis 0, and the f32 scalar that the sums of all shards are divided by the total of. */
  constructor(sum: Tensor, count: Tensor) {
    ofRowMean.check(arguments);
    this.sum = sum;
    this.count = count;
  }
}

/**
 * Declares the mean of `x` [rows, ...] over axis 0 as an output of a function given to `parallel.replicate`;
 * with `weights` [rows] the weighted mean, to which a row of weight 0 contributes nothing, whatever it holds.
 * Throws ShapeError when the shapes do not fit, DTypeError unless `x` is f32.
 */
export function mean(x: Tensor, options: MeanOptions = {}): RowMean {
  signature.check(arguments);
  const { weights } = options;
  if (x.rank === 0) throw new ShapeError("parallel.mean", { got: "a scalar", need: "rows on axis 0" });
  if (x.dtype !== "f32") {
    throw new DTypeError("parallel.mean", { got: x.dtype, need: 'f32: cast it with .cast("f32")' });
  }
  if (weights === undefined) return new RowMean(x.sum({ axis: 0 }), full([], x.shape[0]!));
  if (weights.rank !== 1 || weights.shape[0] !== x.shape[0]) {
    throw new ShapeError("parallel.mean", {
      got: `weights ${formatShape(weights.shape)}`,
      need: `[${x.shape[0]}], one for each row`,
    });
  }
  const factors = weights.cast("f32");
  const aligned = factors.reshape([x.shape[0]!, ...new Array<number>(x.rank - 1).fill(1)]);
  // Selected before the product: 0 times NaN is NaN.
  return new RowMean(where(aligned.notEqual(0), x, 0).mul(aligned).sum({ axis: 0 }), factors.sum());
}

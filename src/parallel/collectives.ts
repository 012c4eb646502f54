/**
 * Values that all shards of a batch have in common, inside a function that an executor runs: a statistic of the whole
 * batch, or all of its rows. The executor cuts the function there. Outside of one there is a single shard, and they
 * give what they are given.
 */
import { ArgumentError, DTypeError, ShapeError } from "../errors.ts";
import * as build from "../graph/build.ts";
import type { DType } from "../graph/dtype.ts";
import { formatShape } from "../graph/shape.ts";
import { arange } from "../tensor/create.ts";
import { currentFrame } from "../tensor/frame.ts";
import { Tensor } from "../tensor/tensor.ts";
import { where } from "../tensor/where.ts";

export interface AllReduceOptions {
  /** Default `sum`. */
  readonly op?: "sum" | "mean" | "max" | "min";
  /** For `mean`: how many `x` is the sum of in this shard, an f32 scalar such as a number of rows. */
  readonly count?: Tensor;
}

/**
 * The same on every shard: `x` summed over all of them, or its largest or smallest values; for `mean` the sums of `x`
 * divided by the sum of the counts, 0 where that is 0. `x` is a sum over rows (`max`: the maximum over rows) of f32, i32
 * or u32 with any shape. Its gradient is that of the whole batch.
 *
 * Throws ArgumentError for other options, DTypeError for a bool tensor.
 */
export function allReduce<D extends DType>(x: Tensor<D>, { op = "sum", count }: AllReduceOptions = {}): Tensor<D> {
  if ((op === "mean") !== (count !== undefined)) {
    throw new ArgumentError("allReduce", {
      got: op === "mean" ? "no count" : `a count with op ${op}`,
      need: 'op "mean" with the count of what x is the sum of',
    });
  }
  switch (op) {
    case "sum":
    case "max":
    case "min":
      return new Tensor(build.allReduce(x.node, op));
    case "mean": {
      if (x.dtype !== "f32" || count!.dtype !== "f32") {
        throw new DTypeError("allReduce", { got: `a mean of ${x.dtype} and ${count!.dtype}`, need: "f32" });
      }
      const all = allReduce(count!);
      const counted = all.notEqual(0);
      return where(counted, allReduce(x).div(where(counted, all, 1)), 0) as Tensor as Tensor<D>;
    }
    default:
      throw new ArgumentError("allReduce", { got: `op ${String(op)}`, need: "sum, mean, max or min" });
  }
}

/**
 * The rows of the whole batch, in order: the same on every shard. `x` has the rows of the shard on `axis` (0 by default).
 * Its gradient is the sum over all shards, of which each gets that of its own rows.
 */
export function allGather<D extends DType>(x: Tensor<D>, { axis = 0 }: { readonly axis?: number } = {}): Tensor<D> {
  const at = axis < 0 ? axis + x.rank : axis;
  if (!Number.isInteger(axis) || at < 0 || at >= x.rank) {
    throw new ShapeError("allGather", { got: `axis ${axis} of ${formatShape(x.shape)}`, need: "an axis of x" });
  }
  const shard = currentFrame()?.shard;
  if (shard === undefined) return x;
  const rows = x.shape[at]!;
  if (rows % shard.rows !== 0) {
    throw new ShapeError("allGather", {
      got: `${rows} on axis ${axis} of ${formatShape(x.shape)}, for ${shard.rows} rows`,
      need: "the axis of the rows",
    });
  }
  const first = [at, ...x.shape.keys()].filter((n, i) => i === 0 || n !== at);
  const back = x.shape.map((_, i) => first.indexOf(i));
  const gathered = build.allGather(x.permute(first).node, rows / shard.rows * shard.total);
  return new Tensor<D>(gathered).permute(back);
}

/** The index of each row of `x`, a tensor with a row for each sample on axis 0, in the whole batch: u32 [rows]. */
export function rowIndex(x: Tensor): Tensor<"u32"> {
  const shard = currentFrame()?.shard;
  const rows = x.shape[0];
  if (rows === undefined || (shard !== undefined && rows !== shard.rows)) {
    throw new ShapeError("rowIndex", {
      got: formatShape(x.shape),
      need: shard === undefined ? "at least one axis" : `the ${shard.rows} rows of the batch on axis 0`,
    });
  }
  return shard === undefined ? arange(rows, { dtype: "u32" }) : new Tensor(shard.rowIndex());
}

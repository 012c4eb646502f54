/**
 * Values that all shards of a batch have in common, inside a function that an executor runs: a statistic of the whole
 * batch, or all of its rows. The executor cuts the function there. Outside of one there is a single shard, and they
 * give what they are given.
 */
import { ArgumentError, DTypeError, ShapeError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import type { DType } from "../../graph/dtype.ts";
import { formatShape } from "../../graph/shape.ts";
import { oneOf, options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { arange } from "../../tensor/create.ts";
import { currentFrame } from "../../tensor/eager/frame.ts";
import { axis } from "../../tensor/kinds.ts";
import { Tensor, tensorKind } from "../../tensor/tensor.ts";
import { quotient } from "../decompose/ratio.ts";

/** What is reduced. */
export interface AllReduceOptions {
  /** Default `sum`. */
  readonly op?: "sum" | "mean" | "max" | "min" | undefined;
  /** For `mean`: how many `x` is the sum of in this shard, an f32 scalar such as a number of rows. */
  readonly count?: Tensor | undefined;
}

/** What is gathered. */
export interface AllGatherOptions {
  /** The axis of the rows. Default 0. */
  readonly axis?: number | undefined;
}

const signatures = {
  allReduce: takes("parallel.allReduce", {
    x: tensorKind,
    options: options<AllReduceOptions>({ op: oneOf("sum", "mean", "max", "min"), count: tensorKind }),
  }),
  allGather: takes("parallel.allGather", { x: tensorKind, options: options<AllGatherOptions>({ axis }) }),
  rowIndex: takes("parallel.rowIndex", { x: tensorKind }),
};

/**
 * The same on every shard: `x` summed over all of them, or its largest or smallest values; for `mean` the sums of `x`
 * divided by the sum of the counts, 0 where that is 0. `x` is a sum over rows (`max`: the maximum over rows) of f32, i32
 * or u32 with any shape. Its gradient is that of the whole batch.
 *
 * Throws ArgumentError for other options, DTypeError for a bool tensor.
 */
export function allReduce<D extends DType>(x: Tensor<D>, options: AllReduceOptions = {}): Tensor<D> {
  signatures.allReduce.check(arguments);
  const { op = "sum", count } = options;
  if ((op === "mean") !== (count !== undefined)) {
    throw new ArgumentError("parallel.allReduce", {
      got: op === "mean" ? "no count" : `a count with op ${op}`,
      need: 'op "mean" with the count of what x is the sum of',
    });
  }
  if (op !== "mean") return new Tensor(build.allReduce(x.node, op));
  if (x.dtype !== "f32" || count!.dtype !== "f32") {
    throw new DTypeError("parallel.allReduce", { got: `a mean of ${x.dtype} and ${count!.dtype}`, need: "f32" });
  }
  return quotient(allReduce(x), allReduce(count!)) as Tensor as Tensor<D>;
}

/**
 * The rows of the whole batch, in order: the same on every shard. `x` has the rows of the shard on `axis` (0 by default).
 * Its gradient is the sum over all shards, of which each gets that of its own rows.
 */
export function allGather<D extends DType>(x: Tensor<D>, options: AllGatherOptions = {}): Tensor<D> {
  signatures.allGather.check(arguments);
  const { axis = 0 } = options;
  const at = axis < 0 ? axis + x.rank : axis;
  if (!Number.isInteger(axis) || at < 0 || at >= x.rank) {
    throw new ShapeError("parallel.allGather", {
      got: `axis ${axis} of ${formatShape(x.shape)}`,
      need: "an axis of x",
    });
  }
  const shard = currentFrame()?.shard;
  if (shard === undefined) return x;
  const rows = x.shape[at]!;
  if (rows % shard.rows !== 0) {
    throw new ShapeError("parallel.allGather", {
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
  signatures.rowIndex.check(arguments);
  const shard = currentFrame()?.shard;
  const rows = x.shape[0];
  if (rows === undefined || (shard !== undefined && rows !== shard.rows)) {
    throw new ShapeError("parallel.rowIndex", {
      got: formatShape(x.shape),
      need: shard === undefined ? "at least one axis" : `the ${shard.rows} rows of the batch on axis 0`,
    });
  }
  return shard === undefined ? arange(rows, { dtype: "u32" }) : new Tensor(shard.rowIndex());
}

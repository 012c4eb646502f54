import { ArgumentError, DTypeError, ShapeError } from "../../errors.ts";
import { isFloat } from "../../graph/dtype.ts";
import { formatShape, sameShape } from "../../graph/shape.ts";
import { listOf, number, oneOf, required } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { tensor } from "../../tensor/create.ts";
import { trees } from "../../tensor/kinds.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { TensorsOf, Tree } from "../../tensor/transform/tree.ts";
import { sameForm } from "./gather.ts";

/** A weighted mean, or a sum. */
export type ReduceOptions =
  | {
    /** One for each shard, finite and at least 0. */
    readonly weights: readonly number[];
    /** Default "mean", where there are weights. */
    readonly op?: "mean";
  }
  | {
    /** To add up. */
    readonly op: "sum";
    /** None. */
    readonly weights?: undefined;
  };

const signature = takes("parallel.reduce", {
  shards: trees,
  options: required<{ op?: ReduceOptions["op"]; weights?: ReduceOptions["weights"] }>([], {
    op: oneOf("mean", "sum"),
    weights: listOf(number, "a number for each shard"),
  }),
});

/**
 * Combines shards on the host, element by element and in their order: sum(w_i * x_i) / sum(w_i) with
 * `weights`, or the sum. A shard of weight 0 contributes nothing, whatever it holds. For the gradient of a
 * mean over all rows, each shard's is that of its own mean and the weight is what that mean was divided by:
 * rows, counted rows, or the sum of their weights.
 *
 * Sums are taken in float64 and rounded once; integers wrap to 32 bits. Rejects with ArgumentError for
 * weights that are negative, not finite, all 0, or not one a shard; with ShapeError or DTypeError for shards
 * that differ, or a mean of integers.
 */
export async function reduce<T extends Tree>(
  shards: readonly T[],
  options: ReduceOptions,
): Promise<TensorsOf<T>> {
  signature.check(arguments);
  const { op } = signature;
  const flats = sameForm(op, shards);
  const weights = options.weights === undefined ? undefined : readWeights(op, options.weights, shards.length);
  if ((weights === undefined) !== (options.op === "sum")) {
    throw new ArgumentError(op, {
      got: JSON.stringify(options),
      need: '{ weights } with one number for each shard, or { op: "sum" }',
    });
  }
  const first = flats[0]!;
  const leaves = await Promise.all(first.leaves.map((_, i) => {
    return reduceLeaf(op, first.paths[i]!, flats.map((flat) => flat.leaves[i]!), weights);
  }));
  return first.rebuild(leaves) as TensorsOf<T>;
}

async function reduceLeaf(
  op: string,
  path: string,
  parts: readonly Tensor[],
  weights: readonly number[] | undefined,
): Promise<Tensor> {
  const { shape, dtype } = parts[0]!;
  const shown = () =>
    `${path === "" ? "" : `${path} `}${parts.map((part) => `${part.dtype}${formatShape(part.shape)}`).join(", ")}`;
  if (!parts.every((part) => sameShape(part.shape, shape))) {
    throw new ShapeError(op, { got: shown(), need: "equal shapes" });
  }
  const legal = weights === undefined ? dtype !== "bool" : isFloat(dtype);
  if (!legal || parts.some((part) => part.dtype !== dtype)) {
    throw new DTypeError(op, {
      got: shown(),
      need: weights === undefined ? "numbers of one dtype" : "floats for a mean",
    });
  }
  const total = new Float64Array(parts[0]!.size);
  const read = await Promise.all(parts.map((part) => part.data()));
  read.forEach((values, shard) => {
    const weight = weights?.[shard] ?? 1;
    if (weight === 0) return;
    for (let i = 0; i < total.length; i++) total[i]! += weight * values[i]!;
  });
  const divisor = weights?.reduce((sum, weight) => sum + weight, 0) ?? 1;
  return tensor(total.map((x) => x / divisor), { shape, dtype });
}

function readWeights(op: string, weights: readonly number[], shards: number): readonly number[] {
  const legal = weights.length === shards &&
    weights.every((weight) => Number.isFinite(weight) && weight >= 0) && weights.some((weight) => weight > 0);
  if (legal) return weights;
  throw new ArgumentError(op, {
    got: `weights [${weights.join(", ")}] for ${shards} shards`,
    need: "a finite number of at least 0 for each shard, at least one of them above 0",
  });
}

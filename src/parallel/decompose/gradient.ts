/** The gradient of a batch's loss, of sums over its rows: sum over groups of sum / count, plus the penalty. */
import { full, where, zeros } from "../../tensor/create.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { grad } from "../../tensor/transform/grad.ts";
import { quotient, type Ratio } from "./ratio.ts";

/** Whether any group counts something; a loss of a penalty alone counts always. */
export function countsAny(counts: readonly Tensor[]): Tensor {
  return counts.length === 0 ? full([], true) : counts.map((count) => count.notEqual(0)).reduce((a, b) => a.or(b));
}

/**
 * The gradient for each parameter, of which groups that count nothing are left out, and the penalty where no group counts
 * anything.
 */
export function meanGradient(
  groups: readonly Ratio[],
  penalty: Tensor | undefined,
  parameters: readonly Tensor[],
): Tensor[] {
  const terms: Tensor[][] = groups.map(({ sum, count }) => grad(sum, parameters).map((part) => quotient(part, count)));
  if (penalty !== undefined) {
    const any = countsAny(groups.map(({ count }) => count));
    terms.push(grad(penalty, parameters).map((part) => groups.length === 0 ? part : where(any, part, 0)));
  }
  return parameters.map((parameter, i) => addUp(terms.map((of) => of[i]!), parameter.shape));
}

/** The same from sums over all shards, of the groups and then of the penalty, which is always added. */
export function gradientOfSums(sums: readonly Tensor[], counts: readonly Tensor[], shape: readonly number[]): Tensor {
  return addUp(sums.map((sum, i) => i < counts.length ? quotient(sum, counts[i]!) : sum), shape);
}

/**
 * The first of such sums as the gradient takes it, to be watched for all: with 0 where its group counts nothing. Where the
 * batch counts anything and its gradient is not finite, it is not finite either.
 */
export function watchedSum(sums: readonly Tensor[], counts: readonly Tensor[]): Tensor {
  const [sum] = sums as [Tensor];
  const [count] = counts;
  const gradient = gradientOfSums(sums, counts, sum.shape);
  const kept = count === undefined ? sum : where(count.notEqual(0), sum, 0);
  return where(countsAny(counts).and(gradient.isFinite().not()), gradient, kept);
}

function addUp(terms: readonly Tensor[], shape: readonly number[]): Tensor {
  return terms.length === 0 ? zeros(shape) : terms.reduce((a, b) => a.add(b));
}

/** Which parameter it is whose gradient is not finite: found on a device as the gradient is stored, or on the host as it is added. */
import { faultOf } from "../../compiler/group/watch.ts";
import { NonFiniteGradientError } from "../../errors.ts";
import type { Bucket } from "./buckets.ts";
import type { FlatParameters } from "./flat-parameters.ts";
import { infinityBits } from "./vectors.ts";

/** The first parameter, by its position, that a state's faults are of; undefined where there are none. */
export function faultyParameter(layout: FlatParameters, faults: Uint32Array): number | undefined {
  const found = [...faults].map(faultOf).filter((element) => element !== undefined).map((element) =>
    layout.positionAt(element)
  );
  return found.length === 0 ? undefined : Math.min(...found);
}

/** The sums of a bucket: a row for each group of the loss, and one for the penalty. */
export interface BucketSums extends Bucket {
  readonly sums: Float32Array;
}

/** Looks for what is not finite among the sums that make a gradient. */
export class GradientCheck {
  readonly #layout: FlatParameters;
  /** Bits of the largest magnitude met so far. */
  #largest = 0;

  constructor(layout: FlatParameters) {
    this.#layout = layout;
  }

  /** Takes note of the largest magnitude among some sums, as bits. */
  note(largest: number): void {
    this.#largest = Math.max(this.#largest, largest);
  }

  /**
   * The first parameter whose gradient is not finite: the sum over groups of sums / count, and the penalty's, as the update has
   * it. Looks at single elements only where there may be one.
   */
  faulty(buckets: readonly BucketSums[], counts: readonly number[], penalty: boolean): number | undefined {
    const factor = counts.reduce((sum, count) => count === 0 ? sum : sum + 1 / Math.abs(count), penalty ? 1 : 0);
    if (this.#largest < infinityBits && valueOf(this.#largest) * factor < 3e38) return undefined;
    const first = this.#layout.ranges.findIndex(({ start, end }) => {
      const bucket = buckets.find((of) => of.start <= start && start < of.end);
      return bucket !== undefined && !isFiniteWithin(bucket, start, end, counts, penalty);
    });
    return first < 0 ? undefined : first;
  }
}

function isFiniteWithin(
  { sums, ...bucket }: BucketSums,
  start: number,
  end: number,
  counts: readonly number[],
  penalty: boolean,
): boolean {
  const length = bucket.end - bucket.start;
  for (let i = start - bucket.start; i < end - bucket.start; i++) {
    let gradient = 0;
    counts.forEach((count, group) => {
      if (count !== 0) gradient = Math.fround(gradient + Math.fround(sums[group * length + i]! / count));
    });
    if (penalty) gradient = Math.fround(gradient + sums[counts.length * length + i]!);
    if (!Number.isFinite(gradient)) return false;
  }
  return true;
}

function valueOf(bits: number): number {
  return new Float32Array(Uint32Array.of(bits).buffer)[0]!;
}

/** What a step is refused with whose gradient of `parameter` is not finite, although its loss is. */
export function gradientError(
  op: string,
  parameter: string,
  at: { readonly step: number; readonly loss: number },
): NonFiniteGradientError {
  return new NonFiniteGradientError(op, {
    parameter,
    got: `a gradient of parameter ${parameter} that is not finite at step ${at.step}, where the loss is ${at.loss}`,
    need:
      "a finite gradient (the weights and the optimizer's state are those of before the step): look for a function " +
      "whose derivative is infinite or NaN there, and for NaN in inputs whose rows do not count",
  });
}

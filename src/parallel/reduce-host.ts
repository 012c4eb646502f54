/** Sums over shards, on the host. Always in the same order, so that a run can be repeated bit for bit. */
import type { Vectors } from "./vectors.ts";

/** The gradients of one bucket of parameters, as the shards gave them. */
export interface BucketSums {
  /**
   * Of each shard: the groups' vectors, each of `length`, one after the other, then the penalty's where the shard has
   * it. They are overwritten.
   */
  readonly parts: readonly Float32Array[];
  /** What each group is divided by; a group whose count is 0 is left out. */
  readonly counts: readonly number[];
  readonly length: number;
  /** Whether the first shard has the gradient of a penalty, which is added undivided. */
  readonly penalty: boolean;
}

/** Elements that are added at one time: few enough to stay in the cache over all shards. */
const block = 4096;

/**
 * Writes `sum over groups of (sum over shards of part) / count`, plus the penalty, to `out`. In single precision, shards
 * added in a fixed binary tree: neighbours in pairs, then neighbouring pairs, and so on, one that is left over being
 * carried up. Every addition and the one division round to f32, so that the result depends on the shards alone. `out`
 * and the parts are among `vectors`.
 */
export function reduceBucket(
  vectors: Vectors,
  { parts, counts, length, penalty }: BucketSums,
  out: Float32Array,
): void {
  for (let begin = 0; begin < length; begin += block) {
    const n = Math.min(block, length - begin);
    let first = true;
    counts.forEach((count, group) => {
      if (count === 0) return;
      const at = group * length + begin;
      for (let stride = 1; stride < parts.length; stride *= 2) {
        for (let left = 0; left + stride < parts.length; left += 2 * stride) {
          vectors.add(parts[left]!, at, parts[left + stride]!, at, n);
        }
      }
      const total = parts[0]!;
      if (first) vectors.divide(out, begin, total, at, n, count);
      else {
        vectors.divide(total, at, total, at, n, count);
        vectors.add(out, begin, total, at, n);
      }
      first = false;
    });
    if (first) out.fill(0, begin, begin + n);
    if (penalty) vectors.add(out, begin, parts[0]!, counts.length * length + begin, n);
  }
}

/** Element-wise sum of equally long lists, in order. */
export function sumOf(lists: readonly ArrayLike<number>[]): number[] {
  const [first] = lists;
  if (first === undefined) return [];
  return Array.from({ length: first.length }, (_, i) => lists.reduce((sum, list) => sum + list[i]!, 0));
}

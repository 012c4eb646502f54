/**
 * Sums over shards, on the host. Always in the order of the shards, so that a run can be repeated bit for
 * bit.
 */

/**
 * `sum over groups of (sum over shards of part) / count` for every element, rounded to f32 once.
 * `parts[shard]` holds the groups' vectors, each of `length`, one after the other; a group whose count is 0
 * is left out. `penalty`, where given, is added undivided.
 */
export function reduceGradients(
  parts: readonly Float32Array[],
  counts: readonly number[],
  length: number,
  penalty?: Float32Array,
): Float32Array {
  const total = new Float64Array(length);
  counts.forEach((count, group) => {
    if (count === 0) return;
    const shards = parts.map((part) => part.subarray(group * length, (group + 1) * length));
    const [first, second, third] = shards;
    // The common numbers of shards are spelled out: this loop runs once for each parameter and step.
    if (shards.length === 1) {
      for (let i = 0; i < length; i++) total[i]! += first![i]! / count;
    } else if (shards.length === 2) {
      for (let i = 0; i < length; i++) total[i]! += (first![i]! + second![i]!) / count;
    } else if (shards.length === 3) {
      for (let i = 0; i < length; i++) total[i]! += (first![i]! + second![i]! + third![i]!) / count;
    } else {
      for (let i = 0; i < length; i++) {
        let sum = 0;
        for (const shard of shards) sum += shard[i]!;
        total[i]! += sum / count;
      }
    }
  });
  if (penalty !== undefined) { for (let i = 0; i < length; i++) total[i]! += penalty[i]!; }
  return new Float32Array(total);
}

/** Element-wise sum of equally long lists, in order. */
export function sumOf(lists: readonly ArrayLike<number>[]): number[] {
  const [first] = lists;
  if (first === undefined) return [];
  return Array.from({ length: first.length }, (_, i) => lists.reduce((sum, list) => sum + list[i]!, 0));
}

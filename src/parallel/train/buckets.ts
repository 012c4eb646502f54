/** Cutting the gradient into parts that leave a device while it still computes the others. */
import type { Range } from "./flat-parameters.ts";

/** A range of the flat parameters whose gradient leaves a device by itself. */
export type Bucket = Range;

/** The first bucket is small, so that the exchange begins early; the others are large, so that each costs little. */
const firstBytes = 4 * 2 ** 20;
const otherBytes = 25 * 2 ** 20;
/** What is left at the end is a bucket of its own from this size on: a read of its own costs as much as copying this. */
const leastBytes = 2 ** 20;

/**
 * Buckets of whole parameters, the last parameters first: that is the order in which backward finishes them. The first one
 * takes parameters until it holds 4 MiB, the others as many as 25 MiB hold; a parameter larger than that is a bucket of its
 * own. What is left at the end joins the last bucket when it is small. `offsets` says where each parameter begins among
 * `length` elements; a gradient of so many `bytes` belongs to each.
 */
export function bucketsOf(offsets: readonly number[], length: number, bytes: number): Bucket[] {
  const buckets: Bucket[] = [];
  const starts = [...offsets].sort((a, b) => a - b);
  let end = length;
  for (let i = starts.length - 1; i >= 0; i--) {
    const start = starts[i]!;
    const withNext = i === 0 ? Infinity : (end - starts[i - 1]!) * bytes;
    if (withNext <= otherBytes && (buckets.length > 0 || (end - start) * bytes < firstBytes)) continue;
    const [last] = buckets.slice(-1);
    const isSmall = i === 0 && (end - start) * bytes < leastBytes;
    if (last !== undefined && isSmall && (last.end - start) * bytes <= otherBytes) {
      buckets[buckets.length - 1] = { start, end: last.end };
    } else buckets.push({ start, end });
    end = start;
  }
  return buckets.filter((bucket) => bucket.end > bucket.start);
}

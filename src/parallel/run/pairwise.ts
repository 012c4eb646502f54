/**
 * The order in which the values of shards are added: a fixed binary tree, neighbours in pairs, then neighbouring pairs, and so on, one
 * that is left over being carried up. So a sum depends on the shards alone, wherever it is made.
 */

/** Calls `add` for the pairs of the tree over `count` leaves, in order: each right one to its left one. The last one makes the whole. */
export function eachPair(count: number, add: (left: number, right: number) => void): void {
  for (let stride = 1; stride < count; stride *= 2) {
    for (let left = 0; left + stride < count; left += 2 * stride) add(left, left + stride);
  }
}

/**
 * Sums over shards, in the tree of `eachPair`. Every addition rounds to f32, and what is smaller than the smallest normal number
 * counts as 0, as some devices have no smaller ones: so that a device can make the sum as well.
 */
import { elementwise, full } from "../../graph/build.ts";
import { Tensor } from "../../tensor/tensor.ts";
import { flushedAdd, smallestNormal } from "../run/flushed.ts";
import { eachPair } from "../run/pairwise.ts";
import type { Vectors } from "./vectors.ts";

/** Elements that are added at one time: few enough to stay in the cache over all shards. */
const block = 4096;

/**
 * Adds `n` elements of each of the `parts`, which are among `vectors`, into the first one. The others are overwritten. Returns
 * the bits of the largest magnitude among the sums.
 */
export function sumShards(vectors: Vectors, parts: readonly Float32Array[], n: number): number {
  if (parts.length === 1) return vectors.largest(parts[0]!, 0, n);
  let largest = 0;
  for (let begin = 0; begin < n; begin += block) {
    const length = Math.min(block, n - begin);
    let last = 0;
    eachPair(parts.length, (left, right) => last = vectors.add(parts[left]!, begin, parts[right]!, begin, length));
    largest = Math.max(largest, last);
  }
  return largest;
}

/** The same of a few numbers, anew. */
export function sumOfFew(parts: readonly ArrayLike<number>[], n: number): Float32Array {
  const sums = parts.map((part) => Float32Array.from({ length: n }, (_, i) => part[i]!));
  eachPair(parts.length, (left, right) => {
    for (let i = 0; i < n; i++) sums[left]![i] = flushedAdd(sums[left]![i]!, sums[right]![i]!);
  });
  return sums[0]!;
}

/** The same on a device. */
export function sumOfTensors(parts: readonly Tensor[]): Tensor {
  const sums = parts.map((part) => part.node);
  const [{ shape }] = sums as [Tensor["node"]];
  const [least, zero] = [smallestNormal, 0].map((value) => full(shape, value, "f32")) as [
    Tensor["node"],
    Tensor["node"],
  ];
  const flushed = (x: Tensor["node"]) => elementwise("where", elementwise("lt", elementwise("abs", x), least), zero, x);
  eachPair(parts.length, (left, right) => {
    sums[left] = flushed(elementwise("add", flushed(sums[left]!), flushed(sums[right]!)));
  });
  return new Tensor(sums[0]!);
}

/** Element-wise sum of equally long lists, in order. */
export function sumOf(lists: readonly ArrayLike<number>[]): number[] {
  const [first] = lists;
  if (first === undefined) return [];
  return Array.from({ length: first.length }, (_, i) => lists.reduce((sum, list) => sum + list[i]!, 0));
}

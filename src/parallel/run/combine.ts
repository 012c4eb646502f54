/** What a collective gives, from what the shards put in: on the host, in the order of the shards. */
import type { Words } from "../../graph/words.ts";
import type { CollectiveNode } from "../decompose/stages.ts";
import { flushedAdd } from "./flushed.ts";
import { eachPair } from "./pairwise.ts";

/**
 * What each shard gets. Sums are made in the tree of `eachPair`, as those of gradients: of f32 rounded and flushed, as `flushedAdd`
 * does; integers wrap around. `rows` are the lengths of axis 0 that a reduceScatter gives. The parts
 * are used as scratch memory.
 */
export function combine(
  attributes: CollectiveNode,
  parts: readonly Words[],
  rows: readonly number[],
): readonly Words[] {
  switch (attributes.op) {
    case "allReduce": {
      const whole = fold(parts, operations[attributes.attrs.how]);
      return parts.map(() => whole);
    }
    case "allGather": {
      const whole = concatenated(parts);
      return parts.map(() => whole);
    }
    case "reduceScatter": {
      const whole = fold(parts, operations.sum);
      const total = rows.reduce((a, b) => a + b, 0);
      const inner = total === 0 ? 0 : whole.length / total;
      let first = 0;
      return rows.map((count) => {
        const own = whole.subarray(first * inner, (first + count) * inner);
        first += count;
        return own;
      });
    }
  }
}

// A typed array rounds, or wraps around, what is stored in it.
const operations = {
  sum: (to: Words, from: Words) => {
    const add = to instanceof Float32Array ? flushedAdd : (a: number, b: number) => a + b;
    for (let i = 0; i < to.length; i++) to[i] = add(to[i]!, from[i]!);
  },
  max: (to: Words, from: Words) => {
    for (let i = 0; i < to.length; i++) to[i] = Math.max(to[i]!, from[i]!);
  },
  min: (to: Words, from: Words) => {
    for (let i = 0; i < to.length; i++) to[i] = Math.min(to[i]!, from[i]!);
  },
};

function fold(parts: readonly Words[], into: (to: Words, from: Words) => void): Words {
  eachPair(parts.length, (left, right) => into(parts[left]!, parts[right]!));
  return parts[0]!;
}

function concatenated(parts: readonly Words[]): Words {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const whole = new (parts[0]!.constructor as new (length: number) => Words)(length);
  let first = 0;
  for (const part of parts) {
    whole.set(part, first);
    first += part.length;
  }
  return whole;
}

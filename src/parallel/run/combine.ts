/** What a collective gives, from what the shards put in: on the host, in the order of the shards. */
import type { Words } from "../../graph/words.ts";
import type { CollectiveNode } from "../decompose/stages.ts";

/**
 * What each shard gets. Sums of f32 are added in the fixed tree of the gradients: neighbours in pairs, then neighbouring
 * pairs, each rounded to f32; integers wrap around. `rows` are the lengths of axis 0 that a reduceScatter gives. The parts
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
      const whole = joined(parts);
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
    for (let i = 0; i < to.length; i++) to[i] = to[i]! + from[i]!;
  },
  max: (to: Words, from: Words) => {
    for (let i = 0; i < to.length; i++) to[i] = Math.max(to[i]!, from[i]!);
  },
  min: (to: Words, from: Words) => {
    for (let i = 0; i < to.length; i++) to[i] = Math.min(to[i]!, from[i]!);
  },
};

function fold(parts: readonly Words[], into: (to: Words, from: Words) => void): Words {
  for (let stride = 1; stride < parts.length; stride *= 2) {
    for (let left = 0; left + stride < parts.length; left += 2 * stride) into(parts[left]!, parts[left + stride]!);
  }
  return parts[0]!;
}

function joined(parts: readonly Words[]): Words {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const whole = new (parts[0]!.constructor as new (length: number) => Words)(length);
  let first = 0;
  for (const part of parts) {
    whole.set(part, first);
    first += part.length;
  }
  return whole;
}

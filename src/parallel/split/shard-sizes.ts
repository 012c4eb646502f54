/** How a number of rows is cut into shards: exactly, and as evenly as it goes. */
import { ArgumentError } from "../../errors.ts";
import { either, listOf, number, required } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";

/** How much each shard is to have. */
export interface Capacities {
  /** Relative speed or memory of each shard's device, finite and at least 0; the unit does not matter. */
  readonly capacities: readonly number[];
}

/** Shards of one batch. */
export const mostShards: number = 2 ** 16;

const signature = takes("parallel.shardSizes", {
  n: number,
  parts: either(number, required<Capacities>(["capacities"], { capacities: listOf(number, "a list of numbers") })),
});

/**
 * Sizes of the shards of `n` rows, which sum to `n`.
 *
 * With a number of `parts` they differ by at most one, the larger ones first: `shardSizes(7, 3)` is `[3, 2,
 * 2]`. With `capacities` they follow the largest-remainder method (Hamilton's): each size is within one of
 * its ideal share `n * capacity / sum`, ties go to the lower index, and a capacity of 0 gets no rows.
 *
 * Throws ArgumentError unless `n` is an integer of at least 0, there are 1 to 65,536 parts, and the capacities
 * are finite numbers of at least 0 that are not all 0.
 */
export function shardSizes(n: number, parts: number | Capacities): number[] {
  signature.check(arguments);
  if (!Number.isSafeInteger(n) || n < 0) {
    throw new ArgumentError("parallel.shardSizes", { got: `${n} rows`, need: "an integer of at least 0" });
  }
  return typeof parts === "number" ? evenly(n, parts) : byCapacity(n, parts.capacities);
}

/** The first row of each shard of these sizes. */
export function shardOffsets(sizes: readonly number[]): number[] {
  let offset = 0;
  return sizes.map((rows) => {
    const first = offset;
    offset += rows;
    return first;
  });
}

function evenly(n: number, parts: number): number[] {
  if (!Number.isInteger(parts) || parts < 1 || parts > mostShards) {
    throw new ArgumentError("parallel.shardSizes", {
      got: `${parts} parts`,
      need: `an integer from 1 to ${mostShards}`,
    });
  }
  const least = Math.floor(n / parts);
  const larger = n % parts;
  return Array.from({ length: parts }, (_, part) => part < larger ? least + 1 : least);
}

function byCapacity(n: number, capacities: readonly number[]): number[] {
  if (capacities.length > mostShards) {
    throw new ArgumentError("parallel.shardSizes", {
      got: `${capacities.length} capacities`,
      need: `1 to ${mostShards}`,
    });
  }
  const most = Math.max(...capacities);
  if (capacities.length === 0 || !capacities.every((c) => Number.isFinite(c) && c >= 0) || most === 0) {
    throw new ArgumentError("parallel.shardSizes", {
      got: `capacities [${capacities.join(", ")}]`,
      need: "finite numbers of at least 0, at least one of them above 0",
    });
  }
  // Dividing by the largest first keeps the sum finite.
  const weights = capacities.map((c) => c / most);
  const total = weights.reduce((sum, w) => sum + w, 0);
  const ideal = weights.map((w) => (n * w) / total);
  const sizes = ideal.map(Math.floor);
  const byRemainder = [...ideal.keys()]
    .filter((part) => weights[part]! > 0)
    .sort((a, b) => (ideal[b]! - sizes[b]!) - (ideal[a]! - sizes[a]!) || a - b);
  let rest = n - sizes.reduce((sum, rows) => sum + rows, 0);
  for (let i = 0; rest > 0; i = (i + 1) % byRemainder.length, rest--) sizes[byRemainder[i]!]!++;
  // An ideal share that rounding lifted to the next integer can make the floors one too many.
  for (let i = byRemainder.length - 1; rest < 0; i = i > 0 ? i - 1 : byRemainder.length - 1) {
    if (sizes[byRemainder[i]!]! === 0) continue;
    sizes[byRemainder[i]!]!--;
    rest++;
  }
  return sizes;
}

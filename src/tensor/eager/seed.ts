/** What all random numbers follow from: the seed, and how many draws there were. */
import { ArgumentError } from "../../errors.ts";
import { number } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";

const state = { seed: 0, draws: 0 };

const signatures = {
  seed: takes("random.seed", { value: { ...number, need: "an integer from 0 to 4294967295" } }),
  currentSeed: takes("random.currentSeed", {}),
};

/** Starts all random numbers anew. Throws ArgumentError unless `value` is an integer from 0 to 2^32 - 1. */
export function seed(value: number): void {
  signatures.seed.check(arguments);
  if (!Number.isInteger(value) || value < 0 || value > 0xffffffff) {
    throw new ArgumentError("random.seed", { got: String(value), need: "an integer from 0 to 4294967295" });
  }
  state.seed = value;
  state.draws = 0;
}

/** The seed that all random numbers follow from. */
export function currentSeed(): number {
  signatures.currentSeed.check(arguments);
  return state.seed;
}

/** The key of the next draw. */
export function nextKey(): Uint32Array<ArrayBuffer> {
  return Uint32Array.of(state.seed, state.draws++);
}

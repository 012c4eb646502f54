import type { DType } from "./dtype.ts";
import type { LaneSpelling } from "./lanes.ts";

/**
 * One elementwise op. `f64` is its meaning on host numbers, which the interpreter uses (integers are wrapped to 32 bits
 * after it, a bool is 0 or 1); `js`, `wgsl` and `wasm` are its spelling, given the spelled arguments and the dtype of the last.
 * The JS renderer rounds what it gets (`Math.fround`, `| 0`, `>>> 0`); a bool is a boolean in both languages. `wasm` gives of
 * lanes of 32 bits such lanes, of f32 already rounded; a bool is there all ones or 0.
 */
export interface ElementwiseOp {
  readonly arity: 1 | 2 | 3 | 4;
  /** Legal dtypes of the operands, which are equal, a condition apart. */
  readonly takes: readonly DType[];
  /** The result's dtype: that of the last operand, or this one. */
  readonly gives: "same" | DType;
  readonly f64: (...x: number[]) => number;
  readonly js: (x: readonly string[], dtype: DType) => string;
  readonly wgsl: (x: readonly string[], dtype: DType) => string;
  readonly wasm: LaneSpelling;
  /** The source of functions that the spellings call. Ops that call the same have the same. */
  readonly jsHelper?: string;
  readonly wgslHelper?: string;
  /** The first operand is a bool, whatever the others are. */
  readonly conditional?: true;
  /** The operands may be swapped without changing a bit. */
  readonly commutes?: true;
  /**
   * Of f32 it gives an operand, up to its sign, or a whole number next to one: so of numbers that f16 holds one that f16 holds,
   * and nothing is to be rounded.
   */
  readonly exact?: true;
  /** Costs many instructions, so that computing it twice is worse than storing it. */
  readonly heavy?: true;
  /**
   * Which sums over the rows of a batch it may be computed of in parts, the parts adding up to the result: where all operands are
   * such sums ("terms"), where one is and the others are the same for all rows ("factor"), where the first is and the second
   * the same for all ("dividend"), where all but a condition are ("chosen"). By default of none: it is not linear.
   */
  readonly partial?: "terms" | "factor" | "dividend" | "chosen";
}

export const float: readonly DType[] = ["f32"];

export function call(name: string): (x: readonly string[]) => string {
  return (x) => `${name}(${x.join(", ")})`;
}

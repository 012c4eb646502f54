/** Integers against JS numbers that their dtype does not hold: decided here, as f32 holds neither exactly. */
import { type DType, dtypes } from "../../graph/dtype.ts";

type Comparison = "lt" | "le" | "eq" | "ne";

/**
 * How integers x of `dtype` compare with `value`, which they do not hold: by a comparison with a number that they hold, or
 * always the same. x op value, or value op x where it is `turned`.
 */
export function wholeComparison(
  op: Comparison,
  value: number,
  dtype: DType,
  turned: boolean,
): boolean | { readonly op: Comparison; readonly value: number } {
  if (op === "eq" || op === "ne" || Number.isNaN(value)) return op === "ne";
  const { least, most } = dtypes[dtype];
  if (value > most) return !turned;
  if (value < least) return turned;
  // A fraction: x < 2.5 and x <= 2.5 both where x <= 2; 2.5 < x where 2 < x.
  return { op: turned ? "lt" : "le", value: Math.floor(value) };
}

/** Whether the larger (smaller) of `value` and any integer of `dtype` is the integer. */
export function isWithinAll(op: "max" | "min", value: number, dtype: DType): boolean {
  return op === "max" ? value <= dtypes[dtype].least : value >= dtypes[dtype].most;
}

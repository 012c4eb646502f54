import { DTypeError } from "../errors.ts";

/** Element types. Every element takes four bytes on a device; a bool is stored there as the u32 0 or 1. */
export const dtypes = {
  f32: { bytes: 4, kind: "float", wgsl: "f32", storage: "f32", array: Float32Array },
  i32: { bytes: 4, kind: "int", wgsl: "i32", storage: "i32", array: Int32Array },
  u32: { bytes: 4, kind: "int", wgsl: "u32", storage: "u32", array: Uint32Array },
  bool: { bytes: 4, kind: "bool", wgsl: "bool", storage: "u32", array: Uint8Array },
} as const;

/** The name of an element type. */
export type DType = keyof typeof dtypes;

/** The host array that holds elements of a dtype; a bool is a byte, 0 or 1. */
export type HostArray<D extends DType = DType> = D extends "f32" ? Float32Array
  : D extends "i32" ? Int32Array
  : D extends "u32" ? Uint32Array
  : Uint8Array;

export const dtypeNames: readonly DType[] = Object.keys(dtypes) as DType[];

export function isDType(name: unknown): name is DType {
  return typeof name === "string" && Object.hasOwn(dtypes, name);
}

const rank: Record<DType, number> = { bool: 0, u32: 1, i32: 2, f32: 3 };

/** The dtype of a result of two tensors: bool < u32 < i32 < f32, the higher one wins (u32 with i32 gives i32). */
export function promote(a: DType, b: DType): DType {
  return rank[a] >= rank[b] ? a : b;
}

/** Whether `value` can be held by `dtype` without change (f32 takes any number). */
export function holds(dtype: DType, value: number): boolean {
  switch (dtype) {
    case "f32":
      return true;
    case "i32":
      return value === (value | 0);
    case "u32":
      return value === value >>> 0;
    case "bool":
      return value === 0 || value === 1;
  }
}

/** `value` as an element of `dtype`: rounded to f32, truncated and wrapped to 32 bits, or 0/1. Never NaN for integers. */
export function toElement(dtype: DType, value: number): number {
  switch (dtype) {
    case "f32":
      return Math.fround(value);
    case "i32":
      return value | 0;
    case "u32":
      return value >>> 0;
    case "bool":
      return value !== 0 ? 1 : 0; // NaN is not 0, so it is true, as in C and NumPy
  }
}

/** Throws DTypeError unless `dtype` is one of `allowed`. */
export function requireDType(op: string, dtype: DType, allowed: readonly DType[]): void {
  if (!allowed.includes(dtype)) throw new DTypeError(op, { got: dtype, need: allowed.join(" or ") });
}

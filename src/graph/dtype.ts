import { DTypeError } from "../errors.ts";
import { roundToHalf } from "./half.ts";

/** The name of an element type. */
export type DType = "f32" | "f16" | "i32" | "u32" | "bool";

/** What is to be known of an element type. */
interface ElementType {
  /** Bytes of an element on a device. */
  readonly bytes: 2 | 4;
  readonly kind: "float" | "int" | "bool";
  /** The dtype in which arithmetic is done with it, and which the result has. */
  readonly computes: "f32" | "i32" | "u32";
  /** Of two dtypes, the higher one is that in which they meet. */
  readonly rank: number;
  /** How a buffer of WGSL holds it; a bool is there the u32 0 or 1. */
  readonly storage: "f32" | "f16" | "i32" | "u32";
  /** The host array that holds its values; a bool is a byte, 0 or 1. */
  readonly array: typeof Float32Array | typeof Int32Array | typeof Uint32Array | typeof Uint8Array;
  /** The host array that holds what a device holds; of an f16 its bits. */
  readonly words: typeof Float32Array | typeof Int32Array | typeof Uint32Array | typeof Uint16Array;
  /** The least and the largest element. */
  readonly least: number;
  readonly most: number;
  /** A number as an element: rounded to the nearest float, truncated and wrapped to 32 bits, or 0 or 1. */
  readonly element: (value: number) => number;
  /** Whether it takes a number as it is: a float also one that it rounds, but not one beyond its range. */
  readonly holds: (value: number) => boolean;
}

/** Element types. f16 is only stored: whoever computes with it converts it to f32 first. */
export const dtypes = {
  f32: {
    bytes: 4,
    kind: "float",
    computes: "f32",
    rank: 4,
    storage: "f32",
    array: Float32Array,
    words: Float32Array,
    least: -Infinity,
    most: Infinity,
    element: (value: number): number => Math.fround(value),
    holds: (): boolean => true,
  },
  f16: {
    bytes: 2,
    kind: "float",
    computes: "f32",
    rank: 3,
    storage: "f16",
    array: Float32Array,
    words: Uint16Array,
    least: -Infinity,
    most: Infinity,
    element: (value: number): number => roundToHalf(value),
    holds: (value: number): boolean => !Number.isFinite(value) || Number.isFinite(roundToHalf(value)),
  },
  i32: {
    bytes: 4,
    kind: "int",
    computes: "i32",
    rank: 2,
    storage: "i32",
    array: Int32Array,
    words: Int32Array,
    least: -2147483648,
    most: 2147483647,
    element: (value: number): number => value | 0,
    holds: (value: number): boolean => value === (value | 0),
  },
  u32: {
    bytes: 4,
    kind: "int",
    computes: "u32",
    rank: 1,
    storage: "u32",
    array: Uint32Array,
    words: Uint32Array,
    least: 0,
    most: 4294967295,
    element: (value: number): number => value >>> 0,
    holds: (value: number): boolean => value === value >>> 0,
  },
  bool: {
    bytes: 4,
    kind: "bool",
    computes: "i32",
    rank: 0,
    storage: "u32",
    array: Uint8Array,
    words: Uint32Array,
    least: 0,
    most: 1,
    element: (value: number): number => value !== 0 ? 1 : 0, // NaN is not 0, so it is true, as in C and NumPy
    holds: (value: number): boolean => value === 0 || value === 1,
  },
} as const satisfies Record<DType, ElementType>;

interface HostArrays {
  f32: Float32Array;
  f16: Float32Array;
  i32: Int32Array;
  u32: Uint32Array;
  bool: Uint8Array;
}

/** The host array that holds elements of a dtype: the values, of an f16 as f32; a bool is a byte, 0 or 1. */
export type HostArray<D extends DType = DType> = HostArrays[D];

export const dtypeNames: readonly DType[] = Object.keys(dtypes) as DType[];

export function isDType(name: unknown): name is DType {
  return typeof name === "string" && Object.hasOwn(dtypes, name);
}

export function isFloat(dtype: DType): boolean {
  return dtypes[dtype].kind === "float";
}

/**
 * The dtype in which two meet: bool < u32 < i32 < f16 < f32, the higher one wins (u32 with i32 gives i32). An f16 and an
 * integer, which it might not hold, meet in f32.
 */
export function promote(a: DType, b: DType): DType {
  const [lower, higher] = dtypes[a].rank < dtypes[b].rank ? [a, b] : [b, a];
  return higher === "f16" && dtypes[lower].kind === "int" ? "f32" : higher;
}

/** The dtype in which an element of `dtype` is computed with: f32 for an f16, i32 for a bool. */
export function computed(dtype: DType): "f32" | "i32" | "u32" {
  return dtypes[dtype].computes;
}

/** Whether `value` can be held by `dtype` without change; a float rounds it, but does not take what it makes infinite. */
export function holds(dtype: DType, value: number): boolean {
  return dtypes[dtype].holds(value);
}

/** `value` as an element of `dtype`: rounded, truncated and wrapped to 32 bits, or 0/1. Never NaN for integers. */
export function toElement(dtype: DType, value: number): number {
  return dtypes[dtype].element(value);
}

/** Throws DTypeError unless `dtype` is one of `allowed`. */
export function requireDType(op: string, dtype: DType, allowed: readonly DType[]): void {
  if (!allowed.includes(dtype)) throw new DTypeError(op, { got: dtype, need: allowed.join(" or ") });
}

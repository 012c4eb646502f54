/** The element types of safetensors files, and how they are read as those that there are here. */
import type { DType, HostArray } from "../../graph/dtype.ts";
import { dtypes } from "../../graph/dtype.ts";
import { halfValues } from "../../graph/half.ts";

export interface ElementReader {
  /** Bytes of an element in the file. */
  readonly bytes: number;
  /** What it is read as. */
  readonly dtype: DType;
  /** The element at a byte; undefined where `dtype` cannot hold it. Without this, elements lie there as on the host. */
  readonly at?: (view: DataView, offset: number) => number | undefined;
}

/** Halves of an f64 or a 64-bit integer, lower first. */
const halfWord = 4;

/**
 * Floats of 8 and 16 bits and integers of up to 32 are read exactly, f64 are rounded to the nearest f32 (infinite beyond
 * its range), and 64-bit integers are taken where 32 bits can hold them.
 */
const table: Record<string, ElementReader> = {
  F64: { bytes: 8, dtype: "f32", at: (view, offset) => view.getFloat64(offset, true) },
  F32: { bytes: 4, dtype: "f32" },
  F16: { bytes: 2, dtype: "f16", at: (view, offset) => halfValues()[view.getUint16(offset, true)]! },
  BF16: { bytes: 2, dtype: "f32", at: (view, offset) => bfloatToNumber(view.getUint16(offset, true)) },
  F8_E5M2: { bytes: 1, dtype: "f32", at: (view, offset) => halfValues()[view.getUint8(offset) << 8]! },
  F8_E4M3: {
    bytes: 1,
    dtype: "f32",
    at: (view, offset) => byteToNumber(view.getUint8(offset), 3, 7, (bits) => (bits & 127) === 127),
  },
  F8_E4M3FNUZ: {
    bytes: 1,
    dtype: "f32",
    at: (view, offset) => byteToNumber(view.getUint8(offset), 3, 8, (bits) => bits === 128),
  },
  F8_E5M2FNUZ: {
    bytes: 1,
    dtype: "f32",
    at: (view, offset) => byteToNumber(view.getUint8(offset), 2, 16, (bits) => bits === 128),
  },
  F8_E8M0: { bytes: 1, dtype: "f32", at: (view, offset) => e8m0ToNumber(view.getUint8(offset)) },
  I64: {
    bytes: 8,
    dtype: "i32",
    at(view, offset) {
      const low = view.getInt32(offset, true);
      return view.getInt32(offset + halfWord, true) === low >> 31 ? low : undefined;
    },
  },
  U64: {
    bytes: 8,
    dtype: "u32",
    at: (view, offset) => view.getUint32(offset + halfWord, true) === 0 ? view.getUint32(offset, true) : undefined,
  },
  I32: { bytes: 4, dtype: "i32" },
  U32: { bytes: 4, dtype: "u32" },
  I16: { bytes: 2, dtype: "i32", at: (view, offset) => view.getInt16(offset, true) },
  U16: { bytes: 2, dtype: "i32", at: (view, offset) => view.getUint16(offset, true) },
  I8: { bytes: 1, dtype: "i32", at: (view, offset) => view.getInt8(offset) },
  U8: { bytes: 1, dtype: "i32", at: (view, offset) => view.getUint8(offset) },
  BOOL: { bytes: 1, dtype: "bool", at: (view, offset) => view.getUint8(offset) !== 0 ? 1 : 0 },
};

/** The types that can be read. */
export const readable: readonly string[] = Object.keys(table);

/** How a type is read; undefined for one that is not. */
export function readerOf(type: string): ElementReader | undefined {
  return Object.hasOwn(table, type) ? table[type] : undefined;
}

/** The values of elements as they lie in a file; takes the bytes over where it can. `refuse` is called for one that does not fit. */
export function valuesOf(
  reader: ElementReader,
  bytes: Uint8Array<ArrayBuffer>,
  refuse: (element: number, value: bigint) => Error,
): HostArray {
  const { array: Values } = dtypes[reader.dtype];
  const count = bytes.length / reader.bytes;
  // The format is little-endian, as every platform with WebGPU is.
  if (reader.at === undefined) return new Values(bytes.buffer, bytes.byteOffset, count);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values = new Values(count);
  for (let i = 0; i < count; i++) {
    const value = reader.at(view, i * reader.bytes);
    if (value === undefined) {
      const read = reader.dtype === "u32"
        ? view.getBigUint64(i * reader.bytes, true)
        : view.getBigInt64(i * reader.bytes, true);
      throw refuse(i, read);
    }
    values[i] = value;
  }
  return values;
}

const word = new DataView(new ArrayBuffer(4));

/** The upper half of an f32. */
function bfloatToNumber(bits: number): number {
  word.setUint32(0, bits << 16 >>> 0);
  return word.getFloat32(0);
}

/** 1 sign bit, exponent bits and `fractionBits`; some stand for NaN, none for an infinity (OCP OFP8, and its FNUZ variants). */
function byteToNumber(bits: number, fractionBits: number, bias: number, isNaN: (bits: number) => boolean): number {
  if (isNaN(bits)) return NaN;
  const [exponent, fraction] = [(bits & 127) >> fractionBits, bits & (1 << fractionBits) - 1];
  const significand = exponent === 0 ? fraction : fraction + (1 << fractionBits);
  const magnitude = significand * 2 ** (Math.max(1, exponent) - bias - fractionBits);
  return bits >= 128 ? -magnitude : magnitude;
}

/** A power of two, 8 exponent bits with bias 127; NaN where all are set (OCP MX). */
function e8m0ToNumber(bits: number): number {
  return bits === 255 ? NaN : 2 ** (bits - 127);
}

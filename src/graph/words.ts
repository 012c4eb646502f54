/** Elements as a device holds them, on the host: in whole words of four bytes, so that an odd number of f16 has one more. */
import { type DType, dtypes, type HostArray, toElement } from "./dtype.ts";
import { allToHalfBits, allToValues } from "./half.ts";

/** Elements as a device holds them; of an f16 the bits. */
export type Words = Float32Array | Int32Array | Uint32Array | Uint16Array;

const wordBytes = 4;

/** Bytes that so many elements take on a device, in whole words. */
export function bytesOf(dtype: DType, count: number): number {
  return Math.ceil(count * dtypes[dtype].bytes / wordBytes) * wordBytes;
}

/** Zeros: memory for so many elements. */
export function wordsFor(dtype: DType, count: number): Words {
  return new dtypes[dtype].words(bytesOf(dtype, count) / dtypes[dtype].bytes);
}

/** A device's bytes as its elements; no copy. */
export function asWords(
  dtype: DType,
  bytes: ArrayBuffer,
  offset = 0,
  length: number = bytes.byteLength - offset,
): Words {
  const { words: Kind } = dtypes[dtype];
  return new Kind(bytes, offset, Math.floor(length / Kind.BYTES_PER_ELEMENT));
}

/** Values of `dtype` as a device holds them: the array itself where it is of that kind. */
export function toWords(dtype: DType, values: ArrayLike<number>): Words {
  const { words: Kind } = dtypes[dtype];
  if (dtype !== "f16" && dtype !== "bool") return values instanceof Kind ? values : Kind.from(values);
  const words = wordsFor(dtype, values.length);
  if (words instanceof Uint16Array) allToHalfBits(values, words);
  else for (let i = 0; i < values.length; i++) words[i] = toElement(dtype, values[i]!);
  return words;
}

/** The first `count` of a device's elements as values. Takes over the memory where it can. */
export function fromWords(dtype: DType, words: Words, count: number): HostArray {
  const own = words.subarray(0, count);
  switch (dtype) {
    case "f16": {
      const values = new Float32Array(count);
      allToValues(own, values);
      return values;
    }
    case "bool":
      return Uint8Array.from(own);
    default:
      return own as HostArray;
  }
}

/** A copy of numbers as elements of `dtype`: rounded, wrapped, or 0 and 1. */
export function hostElements(dtype: DType, values: ArrayLike<number | boolean>): HostArray {
  const { array: Kind } = dtypes[dtype];
  const data = new Kind(values.length);
  if (values instanceof Float32Array && dtype === "f16") return fromWords(dtype, toWords(dtype, values), values.length);
  if (values instanceof Kind && dtype !== "f16" && dtype !== "bool") data.set(values);
  else for (let i = 0; i < data.length; i++) data[i] = toElement(dtype, Number(values[i]));
  return data;
}

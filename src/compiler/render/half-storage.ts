/**
 * How WGSL holds an f16. With the feature shader-f16 it is an `f16`, in buffers and in between. Without, buffers hold two of
 * them in a u32, the first in the lower bits, and in between an f16 is a u32 with its bits. Either way nothing is computed
 * with it: values are converted where the graph casts, and what only moves keeps its bits.
 */
import { halfBits, roundToHalf } from "../../graph/helpers.ts";
import type { Target } from "../plan/plan.ts";

export interface HalfStorage {
  /** The module's first line. */
  readonly enable: string | undefined;
  /** The elements of a buffer that is bound as vectors of four, as scalars, and as scalars that are stored one by one. */
  readonly vector: string;
  readonly scalar: string;
  readonly written: string;
  /** An element of what `vector` and `scalar` hold, loaded; `element` is its place in the vector, `index` in the buffer. */
  readonly ofVector: (vector: string, element: number) => string;
  readonly load: (buffer: string, index: string, written: boolean) => string;
  /** A vector of four elements, and the statement that stores one. */
  readonly toVector: (values: readonly string[]) => string;
  readonly store: (buffer: string, index: string, value: string) => string;
  /** Conversions; the rounding is ours, and what is left to the driver both types can hold. */
  readonly toFloat: (x: string) => string;
  readonly fromFloat: (x: string) => string;
  /** The source of the function that rounds. */
  readonly helper: string;
  /** A constant: its bits, and how the f32 is spelled that it is. */
  readonly literal: (bits: number, float: string) => string;
}

export const halfStorage: { readonly [K in Target["f16"]]: HalfStorage } = {
  native: {
    enable: "enable f16;",
    vector: "vec4<f16>",
    scalar: "f16",
    written: "f16",
    ofVector: (vector, element) => `${vector}.${"xyzw"[element]}`,
    load: (buffer, index) => `${buffer}[${index}]`,
    toVector: (values) => `vec4<f16>(${values.join(", ")})`,
    store: (buffer, index, value) => `${buffer}[${index}] = ${value};`,
    toFloat: (x) => `f32(${x})`,
    fromFloat: (x) => `f16(sw_round_to_half(${x}))`,
    helper: roundToHalf,
    literal: (_bits, float) => `f16(${float})`,
  },
  packed: {
    enable: undefined,
    vector: "vec2<u32>",
    scalar: "u32",
    // Neighbours in one word may be stored by two invocations at once.
    written: "atomic<u32>",
    ofVector: (vector, element) => {
      const word = `${vector}.${"xxyy"[element]}`;
      return element % 2 === 0 ? `(${word} & 0xffffu)` : `(${word} >> 16u)`;
    },
    load: (buffer, index, written) => {
      const place = `${buffer}[(${index}) >> 1u]`;
      return `((${written ? `atomicLoad(&${place})` : place} >> (((${index}) & 1u) * 16u)) & 0xffffu)`;
    },
    toVector: ([x, y, z, w]) => `vec2<u32>(${x} | (${y} << 16u), ${z} | (${w} << 16u))`,
    store: (buffer, index, value) =>
      `{ let at = ${index}; let word = &${buffer}[at >> 1u]; let low = (at & 1u) * 16u; ` +
      `atomicAnd(word, ~(0xffffu << low)); atomicOr(word, ${value} << low); }`,
    toFloat: (x) => `unpack2x16float(${x}).x`,
    fromFloat: (x) => `sw_half_bits(${x})`,
    helper: halfBits,
    literal: (bits) => `${bits}u`,
  },
};

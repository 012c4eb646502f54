/** The options of the methods of Tensor that have no file of their own. */
import type { DType } from "../../graph/dtype.ts";

/** One axis. */
export interface AxisOptions {
  /** The axis; a negative one counts from the end. Each method says which one it takes by default. */
  readonly axis?: number | undefined;
}

/** An axis that must be named. */
export interface NamedAxisOptions {
  /** The axis; a negative one counts from the end. */
  readonly axis: number;
}

/** How to sort. */
export interface SortOptions {
  /** The axis along which is sorted. Default -1, the last. */
  readonly axis?: number | undefined;
  /** Whether the largest comes first. Default false. */
  readonly descending?: boolean | undefined;
}

/** Where to look for an extreme. */
export interface ArgOptions {
  /** The axis along which is looked; by default the positions are those in the flattened tensor. */
  readonly axis?: number | undefined;
  /** Whether the axis stays, with length 1. Default false. */
  readonly keepDims?: boolean | undefined;
}

/** How gelu is computed. */
export interface GeluOptions {
  /** "none": by erf, exact. "tanh": approximated. Default "none". */
  readonly approximate?: "none" | "tanh" | undefined;
}

/** The bounds of clamp; each a Tensor, a number or a boolean. */
export interface Bounds<O> {
  /** The least value. By default none. */
  readonly min?: O | undefined;
  /** The largest value. By default none. */
  readonly max?: O | undefined;
}

/** Which axes become one. */
export interface FlattenOptions {
  /** The first of them. Default 0. */
  readonly start?: number | undefined;
  /** The last of them. Default -1, the last. */
  readonly end?: number | undefined;
}

/** What is put around a tensor. */
export interface PadOptions {
  /** The value of the new elements. Default 0. */
  readonly value?: number | undefined;
}

/** The dtype of a result. */
export interface DTypeOptions<D extends DType = DType> {
  /** Default "f32". */
  readonly dtype?: D | undefined;
}

/** What of keys each query may see, and how: see `scaledDotProductAttention`; T is Tensor, and Weights one of f32. */
export interface AttentionOptionsOf<T, Weights = T> {
  /** bool: true where a query sees a key; a number is added to the score, -Infinity hides. Broadcasts to [..., queries, keys]. */
  readonly mask?: T | undefined;
  /** Whether a query sees only keys that are not later than itself; the last query is as late as the last key. Default false. */
  readonly causal?: boolean | undefined;
  /** Factor of the scores. Default 1 / sqrt(features). */
  readonly scale?: number | undefined;
  /**
   * "stored": scores and weights [..., queries, keys] are in memory. "online": they never are, forward and backward; they are
   * computed block by block, and again for the gradients. By default by the number of scores: many are not stored. A second
   * gradient, and the gradient of a mask of numbers, stores them in either case.
   */
  readonly scores?: "stored" | "online" | undefined;
  /** What to do with the weights [..., queries, keys] before they are applied, as dropout: they are stored then. Hidden keys stay hidden. */
  readonly onWeights?: ((weights: Weights) => T) | undefined;
}

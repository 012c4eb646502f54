/**
 * The ops that are not elementwise: their attributes, and what passes must know of each to treat one that they do not know by
 * name. Both tables are exhaustive: an op is in both or does not compile.
 */
import { type ElementwiseName, isElementwise } from "./ops.ts";

export interface Windows {
  readonly axis: number;
  readonly length: number;
  readonly stride: number;
  readonly dilation: number;
}

/** Data that exists, as the graph sees it; src/tensor says what it is. */
export interface StorageToken {
  readonly id: number;
  /** Living nodes that read this storage directly; 0 means that it may be overwritten. Lags behind garbage collection. */
  readers: number;
}

/** The attributes of every op that is not elementwise. */
export interface OpAttributes {
  /** A scalar constant (shape []); broadcast it with expand. */
  const: { readonly value: number };
  /** 0, 1, 2, … along one axis. */
  iota: Record<never, never>;
  /** A placeholder, bound when a plan runs; `slot` is unique in the process. */
  input: { readonly slot: number };
  /** Data that exists. */
  storage: { readonly storage: StorageToken };
  cast: Record<never, never>;
  bitcast: Record<never, never>;
  reshape: Record<never, never>;
  /** Output axis i is source axis `axes[i]`. */
  permute: { readonly axes: readonly number[] };
  /** Axes of length 1 repeated; the rank stays. */
  expand: Record<never, never>;
  /** `low[i]` and `high[i]` elements of `value` put before and after axis i. */
  pad: { readonly low: readonly number[]; readonly high: readonly number[]; readonly value: number };
  /** Output index i reads source index `start + i * step`; a negative step flips. The output's shape gives the counts. */
  slice: { readonly start: readonly number[]; readonly step: readonly number[] };
  /**
   * Sliding windows of `length` elements, `dilation` apart, along `axis`, one every `stride` elements; the last axis of
   * the result is the place within a window. [..., L, ...] -> [..., O, ..., length]:
   * out[..., o, ..., k] = x[..., o * stride + k * dilation, ...].
   */
  window: Windows;
  /**
   * Where the elements of windows came from, zeros elsewhere; the windows were of an axis of `length` elements.
   * [..., O, ..., K] -> [..., length, ..., K]: out[..., l, ..., k] = x[..., (l - k * dilation) / stride, ..., k] where that
   * is a whole number from 0 to O - 1. Each element of x stands at most once in it, so the sum over k is window's adjoint.
   */
  unwindow: Windows;
  sum: { readonly axes: readonly number[] };
  prod: { readonly axes: readonly number[] };
  amax: { readonly axes: readonly number[] };
  amin: { readonly axes: readonly number[] };
  /** gather(x, index): out[i] = x[i with i[axis] := index[i]]; x and index (i32) agree on the other axes. Out of range gives 0. */
  gather: { readonly axis: number };
  /** scatterAdd(index, values): zeros of `length` on `axis`, values added at index (i32). Out of range is dropped. Adds in order of position. */
  scatterAdd: { readonly axis: number; readonly length: number };
  /**
   * scatterMax(x, index, values): x, or the largest of the values at index (i32) where that is larger. Out of range is dropped.
   * Where one of them is NaN, it or another one.
   */
  scatterMax: { readonly axis: number };
  /**
   * attention(q [..., d, t], k [..., d, s], v [..., e, s], bias [..., t, s] or none): [..., e + 2, t]. Features come first,
   * so that positions are neighbours. Of the scores q_i · k_j + bias_ij of a query, row e is the largest one and row e + 1 the
   * log of Σ_j exp(score_ij - largest): two rows, as their sum rounds the log away where scores are large. Only that sum has a
   * gradient, so that both are to be read for nothing else. The rows before are the values weighted by exp(score_ij - sum of
   * both). A bias of -Infinity hides key j from query i: whatever they hold, neither adds to anything of the other, here and in
   * gradients. All is 0 for a query that sees no key, or has no score but -Infinity. Keys j > i + `diagonal` are hidden by their
   * bias, if there is a diagonal, so that they need not be looked at.
   */
  attention: { readonly diagonal: number | undefined };
  /**
   * attentionGradient(q, k, v, norm [..., 2, t], g [..., e, t], delta [..., 1, t], bias or none), norm being the last two rows
   * of their attention. With weights p_ij = exp(q_i · k_j + bias_ij - norm_i0 - norm_i1) and w_ij = p_ij (g_i · v_j - delta_i),
   * of queries it is Σ_j w_ij k_j [..., d, t]; of keys Σ_i w_ij q_i, and behind these rows Σ_i p_ij g_i: [..., d + e, s]. Sums
   * are over what is not hidden.
   */
  attentionGradient: { readonly of: "queries" | "keys"; readonly diagonal: number | undefined };
  /** i32 positions that sort the last axis ascending, stably; NaN last. */
  argsort: Record<never, never>;
  /** Running sums or products: out[i] = that of x[i with i[axis] := k] over k <= i[axis]. */
  scan: { readonly axis: number; readonly how: "sum" | "prod" };
  concat: { readonly axis: number };
  /** The same values; forces them into memory, and so ends a fusion. */
  contiguous: Record<never, never>;
  /** The same values, with no gradient. */
  stopGradient: Record<never, never>;
  /**
   * checkpoint(x, …others): the values of x, and a border of a region that gradients compute again instead of reading what is
   * inside. "in" is what the region is given, "out" a result; the others are all its results then.
   */
  checkpoint: { readonly region: number; readonly side: "in" | "out" };
  /**
   * after(x, …others): the values of x, but what is computed from them is something else than what is computed from x, and
   * is computed after the others, if these are computed. The compiler puts a number for the others.
   */
  after: { readonly wait: number | undefined };
  /**
   * Collectives, of a graph that computes one shard of a batch: the values of all shards combined element by element; on
   * axis 0 those of all shards one after another, `total` in all; and the sum over shards, of which each has its own
   * `rows` of axis 0. Where there is one shard, each is the identity.
   */
  allReduce: { readonly how: "sum" | "max" | "min" };
  allGather: { readonly total: number };
  reduceScatter: { readonly rows: number };
  /** The same values on another device. */
  copy: { readonly device: number };
}

export type StructuralName = keyof OpAttributes;
export type Op = ElementwiseName | StructuralName;

/**
 * What kernels make of an op.
 *  - given: nothing; it is in memory before any of them runs.
 *  - number: it is computed wherever it is read, of nothing.
 *  - moved: its source's elements at other places, which are computed where it is read: see source-indices.ts.
 *  - same: its source's elements at the same places. Only the first source is read.
 *  - inside: computed where it is read, of the same element of its sources, as all elementwise ops are.
 *  - lookup: computed where it is read, of an element that data name.
 *  - reduction: see `reductions`.
 *  - own: a kernel of its own computes it, with its sources where it reads them: see own-kernels.ts. It is in memory.
 *  - program: a program of its own computes it, of what is in memory: see programs.ts. It is in memory that nothing else is in.
 *  - region: its sources are computed into its memory. There is no kernel.
 *  - cut: none sees it. Graphs are cut there, and for one shard it is the same as its source.
 */
export type KernelKind =
  | "given"
  | "number"
  | "moved"
  | "same"
  | "inside"
  | "lookup"
  | "reduction"
  | "own"
  | "program"
  | "region"
  | "cut";

export type Traits =
  | { readonly kernel: Exclude<KernelKind, "same" | "own"> }
  /** `stored`: it is in memory all the same. */
  | { readonly kernel: "same"; readonly stored?: true }
  | { readonly kernel: "own"; readonly reads: Reading };

/**
 * What a kernel of an op's own reads of each source for one element: all that lies along `attrs.axis` ("axis"), or along the
 * last two axes, as attention does ("matrices"); and of the other axes what is at the same place.
 */
export type Reading = "axis" | "matrices";

export const structural = {
  const: { kernel: "number" },
  iota: { kernel: "number" },
  input: { kernel: "given" },
  storage: { kernel: "given" },
  cast: { kernel: "inside" },
  bitcast: { kernel: "inside" },
  reshape: { kernel: "moved" },
  permute: { kernel: "moved" },
  expand: { kernel: "moved" },
  pad: { kernel: "moved" },
  slice: { kernel: "moved" },
  window: { kernel: "moved" },
  unwindow: { kernel: "moved" },
  sum: { kernel: "reduction" },
  prod: { kernel: "reduction" },
  amax: { kernel: "reduction" },
  amin: { kernel: "reduction" },
  gather: { kernel: "lookup" },
  scatterAdd: { kernel: "own", reads: "axis" },
  scatterMax: { kernel: "own", reads: "axis" },
  attention: { kernel: "own", reads: "matrices" },
  attentionGradient: { kernel: "own", reads: "matrices" },
  argsort: { kernel: "program" },
  scan: { kernel: "own", reads: "axis" },
  concat: { kernel: "region" },
  contiguous: { kernel: "same", stored: true },
  stopGradient: { kernel: "same" },
  checkpoint: { kernel: "same" },
  after: { kernel: "same" },
  allReduce: { kernel: "cut" },
  allGather: { kernel: "cut" },
  reduceScatter: { kernel: "cut" },
  copy: { kernel: "same" },
} as const satisfies Record<StructuralName, Traits>;

/** Names of the structural ops of a kind. */
export type StructuralOf<K extends KernelKind> = {
  [N in StructuralName]: (typeof structural)[N]["kernel"] extends K ? N : never;
}[StructuralName];

/** Names of the ops with a kernel of their own that reads so. */
export type StructuralReading<R extends Reading> = {
  [N in StructuralName]: (typeof structural)[N] extends { readonly reads: R } ? N : never;
}[StructuralName];

/** A node, as far as its traits go. */
interface OfOp {
  readonly op: Op;
}

function traitsOf({ op }: OfOp): Traits {
  return isElementwise(op) ? { kernel: "inside" } : structural[op];
}

/** What a kernel of its own reads; undefined where there is none. */
export function readingOf(node: OfOp): Reading | undefined {
  const traits = traitsOf(node);
  return traits.kernel === "own" ? traits.reads : undefined;
}

export function kernelOf(node: OfOp): KernelKind {
  return traitsOf(node).kernel;
}

/** Whether it only says where its source's element is. */
export function isMovement<N extends OfOp>(
  node: N,
): node is N & { readonly op: StructuralOf<"moved" | "same"> } {
  const kernel = kernelOf(node);
  return kernel === "moved" || kernel === "same";
}

/** Whether no kernel has anything to compute for it: data, numbers, and movements of them. */
export function isFree(node: OfOp): boolean {
  const kernel = kernelOf(node);
  return isMovement(node) || kernel === "number" || kernel === "given";
}

/** Whether it shares no kernel with other values: its kernel, if it has one, knows of nothing but it. */
export function isAlone(node: OfOp): boolean {
  const kernel = kernelOf(node);
  return kernel === "own" || kernel === "program" || kernel === "region";
}

/** Whether its values are in memory, whoever reads them. */
export function isStored(node: OfOp): boolean {
  const traits = traitsOf(node);
  return isAlone(node) || (traits.kernel === "same" && traits.stored === true);
}

/** Whether its sources have to be in memory. */
export function readsMemory(node: OfOp): boolean {
  const kernel = kernelOf(node);
  return kernel === "program" || kernel === "region";
}

/** Whether it is worth keeping, rather than computing again. */
export function isExpensive(node: OfOp): boolean {
  const kernel = kernelOf(node);
  return kernel === "reduction" || kernel === "own" || kernel === "program";
}

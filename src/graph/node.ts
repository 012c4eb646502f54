import type { DType } from "./dtype.ts";
import type { ElementwiseName, ReductionName } from "./ops.ts";
import type { Shape } from "./shape.ts";

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

export interface Windows {
  readonly axis: number;
  readonly length: number;
  readonly stride: number;
  readonly dilation: number;
}

export type StructuralName = keyof OpAttributes;
export type Op = ElementwiseName | StructuralName;

/** Data that exists, as the graph sees it; src/tensor says what it is. */
export interface StorageToken {
  readonly id: number;
  /** Living nodes that read this storage directly; 0 means that it may be overwritten. Lags behind garbage collection. */
  readers: number;
}

interface NodeBase {
  /** Increases with creation, so that sources have smaller ids. */
  readonly id: number;
  readonly src: readonly Node[];
  readonly shape: Shape;
  readonly dtype: DType;
  /** The device to which the value is bound; undefined where any will do (constants, host data, placeholders). */
  readonly device: number | undefined;
}

/**
 * One op of the graph. Immutable, and itself: two calls make two nodes, however equal, as each may be a variable by which
 * something is differentiated. The compiler merges equal ones.
 */
export type Node =
  & NodeBase
  & (
    | { readonly op: ElementwiseName; readonly attrs: Record<never, never> }
    | { [K in StructuralName]: { readonly op: K; readonly attrs: OpAttributes[K] } }[StructuralName]
  );
export type NodeOf<K extends Op> = Extract<Node, { op: K }>;
export type ReductionNode = NodeOf<ReductionName>;

let nextId = 0;

/** Takes what a node read off the readers of its storages, when it is gone. */
const collected = new FinalizationRegistry<readonly StorageToken[]>((storages) => {
  for (const storage of storages) storage.readers--;
});

/** On whose behalf nodes are made: of a node that is differentiated (`backward`) or rewritten; of nothing but the caller. */
export interface Purpose {
  readonly node: Node | undefined;
  readonly backward: boolean;
}

const callersOwn: Purpose = { node: undefined, backward: false };
let purpose = callersOwn;
let watcher: ((node: Node, purpose: Purpose) => void) | undefined;

/** Calls `watch` with every node that is asked for from now on; undefined ends that. */
export function watchNodes(watch: typeof watcher): void {
  watcher = watch;
  purpose = callersOwn;
}

/** Nodes that are asked for from now on are made on behalf of `node`; undefined ends that. Costs nothing unless watched. */
export function makeFor(node: Node | undefined, backward = false): void {
  if (watcher !== undefined) purpose = node === undefined ? callersOwn : { node, backward };
}

/** While equal nodes are merged: those that there are, by their parts. */
let merging: Map<string, Node> | undefined;

/**
 * Runs `body`, in which every node that is made is the one that was made in it of equal parts before, if there is one; inside
 * another call, that one's `body` counts. What was made outside is not looked for, and what is made inside is not counted
 * among the readers of storages: it is for rewriting, and no tensor shows it.
 */
export function mergingEqual<T>(body: () => T): T {
  if (merging !== undefined) return body();
  merging = new Map();
  try {
    return body();
  } finally {
    merging = undefined;
  }
}

/** A node of these parts. Callers check them: see build.ts. */
export function makeNode(
  op: Op,
  src: readonly Node[],
  attrs: OpAttributes[StructuralName] | Record<never, never>,
  shape: Shape,
  dtype: DType,
  device: number | undefined,
): Node {
  if (merging !== undefined) {
    const key = keyOf(op, src, attrs, shape, dtype, device);
    let node = merging.get(key);
    if (node === undefined) merging.set(key, node = make(op, src, attrs, shape, dtype, device));
    watcher?.(node, purpose);
    return node;
  }
  const node = make(op, src, attrs, shape, dtype, device);
  let storages: StorageToken[] | undefined;
  for (const source of src) {
    if (source.op !== "storage") continue;
    source.attrs.storage.readers++;
    (storages ??= []).push(source.attrs.storage);
  }
  if (storages !== undefined) collected.register(node, storages, node);
  watcher?.(node, purpose);
  return node;
}

/** A leaf of data. There is one for each storage that is made. */
export function leaf(storage: StorageToken, shape: Shape, dtype: DType, device: number | undefined): NodeOf<"storage"> {
  const node = make("storage", [], { storage }, shape, dtype, device) as NodeOf<"storage">;
  watcher?.(node, purpose);
  return node;
}

function make(op: Op, src: readonly Node[], attrs: Node["attrs"], shape: Shape, dtype: DType, device: number | undefined): Node {
  return Object.freeze({ id: nextId++, op, src: kept(src), attrs, shape: kept(shape), dtype, device }) as Node;
}

/** A list that nobody can change. */
function kept<T>(list: readonly T[]): readonly T[] {
  return Object.isFrozen(list) ? list : Object.freeze([...list]);
}

/** Does now what else happens when a node is collected, which nobody can reach any more. */
export function release(node: Node): void {
  if (!collected.unregister(node)) return;
  for (const source of node.src) if (source.op === "storage") source.attrs.storage.readers--;
}

function keyOf(
  op: Op,
  src: readonly Node[],
  attrs: object,
  shape: Shape,
  dtype: DType,
  device: number | undefined,
): string {
  let key = `${op}|${dtype}|${shape.join()}|${device ?? ""}|`;
  for (const node of src) key += `${node.id},`;
  return key + attributesKey(attrs);
}

function attributesKey(attrs: object): string {
  let key = "";
  for (const value of Object.values(attrs)) key += `|${Object.is(value, -0) ? "-0" : String(value)}`;
  return key;
}

/** All nodes reachable from `roots`, sources first. Iterative, as graphs may be deep. `into` may cut the walk at a node. */
export function toposort(roots: readonly Node[], into: (node: Node) => boolean = () => true): Node[] {
  const order: Node[] = [];
  const seen = new Set<Node>();
  const stack: { node: Node; next: number }[] = [];
  for (const root of roots) {
    if (seen.has(root)) continue;
    seen.add(root);
    stack.push({ node: root, next: 0 });
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      const source = into(top.node) ? top.node.src[top.next++] : undefined;
      if (source === undefined) {
        order.push(top.node);
        stack.pop();
      } else if (!seen.has(source)) {
        seen.add(source);
        stack.push({ node: source, next: 0 });
      }
    }
  }
  return order;
}

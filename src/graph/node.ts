import { Finalizer } from "./collected.ts";
import type { DType } from "./dtype.ts";
import { type ElementwiseName, isElementwise, type ReductionName } from "./ops.ts";
import type { Shape } from "./shape.ts";
import {
  type KernelKind,
  kernelOf,
  type Op,
  type OpAttributes,
  type Reading,
  readingOf,
  type StorageToken,
  type StructuralName,
  type StructuralOf,
  type StructuralReading,
} from "./structural.ts";

export type { Op, StorageToken, StructuralName };
export type { Windows } from "./structural.ts";

interface NodeBase {
  /** Increases with creation, so that sources have smaller ids. */
  readonly id: number;
  readonly src: readonly Node[];
  readonly shape: Shape;
  readonly dtype: DType;
  /** The device to which the value is bound; undefined where any will do (constants, host data, placeholders). */
  readonly device: number | undefined;
  readonly notes: Notes;
}

/** What changes of a node, which says nothing of what it computes. */
interface Notes {
  /** What tensors know of it: theirs alone. A map beside the graph would cost more than what most ops compute. */
  record: object | undefined;
  /** Takes it off the readers of its storages when it is gone. */
  readers: Finalizer<object, readonly StorageToken[]> | undefined;
}

/**
 * One op of the graph. Immutable, and itself: two calls make two nodes, however equal, as each may be a variable by which
 * something is differentiated. The compiler merges equal ones.
 */
export type Node =
  & NodeBase
  & (
    | { readonly op: ElementwiseName; readonly attrs: Record<never, never>; readonly src: AtLeastOne }
    | { [K in StructuralName]: { readonly op: K; readonly attrs: OpAttributes[K]; readonly src: Sources<K> } }[
      StructuralName
    ]
  );
/** The sources of a structural op, as far as its kind tells how many they are. */
type Sources<K extends StructuralName> = K extends StructuralOf<"given" | "number"> ? AnyNumber
  : K extends StructuralOf<"lookup"> ? readonly [Node, Node]
  : AtLeastOne;
// Where tuples and lists meet, only what is written as optional is taken to be missing.
type AnyNumber = readonly [Node?, Node?, ...Node[]];
type AtLeastOne = readonly [Node, Node?, ...Node[]];
export type NodeOf<K extends Op> = Extract<Node, { op: K }>;
export type ReductionNode = NodeOf<ReductionName>;

/** Whether a node is of a structural op of that kind. */
export function isKind<K extends KernelKind>(node: Node, kind: K): node is NodeOf<StructuralOf<K>> {
  return kernelOf(node) === kind && !isElementwise(node.op);
}

/** Whether a node has a kernel of its own that reads so. */
export function isReading<R extends Reading>(node: Node, reading: R): node is NodeOf<StructuralReading<R>> {
  return readingOf(node) === reading;
}

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
  if (storages !== undefined) node.notes.readers = new Finalizer(collected, node, storages);
  watcher?.(node, purpose);
  return node;
}

/** A leaf of data. There is one for each storage that is made. */
export function leaf(storage: StorageToken, shape: Shape, dtype: DType, device: number | undefined): NodeOf<"storage"> {
  const node = make("storage", [], { storage }, shape, dtype, device) as NodeOf<"storage">;
  watcher?.(node, purpose);
  return node;
}

function make(
  op: Op,
  src: readonly Node[],
  attrs: Node["attrs"],
  shape: Shape,
  dtype: DType,
  device: number | undefined,
): Node {
  const notes: Notes = { record: undefined, readers: undefined };
  return Object.freeze({ id: nextId++, op, src: kept(src), attrs, shape: kept(shape), dtype, device, notes }) as Node;
}

/** A list that nobody can change. */
function kept<T>(list: readonly T[]): readonly T[] {
  return Object.isFrozen(list) ? list : Object.freeze([...list]);
}

/** Does now what else happens when a node is collected, which nobody can reach any more. */
export function release(node: Node): void {
  if (node.notes.readers?.callOff() !== true) return;
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

/** Nodes of a graph up to which a list is searched faster than a set. */
const few = 8;

/** All nodes reachable from `roots`, sources first. Iterative, as graphs may be deep. `into` may cut the walk at a node. */
export function toposort(roots: readonly Node[], into?: (node: Node) => boolean): Node[] {
  const order: Node[] = [];
  const path: Node[] = [];
  /** Which source of each node of the path is next. */
  const next: number[] = [];
  let seen: Set<Node> | undefined;
  for (let root = 0; root < roots.length; root++) {
    let node: Node | undefined = roots[root]!;
    for (;;) {
      if (node !== undefined) {
        if (seen === undefined ? !order.includes(node) && !path.includes(node) : !seen.has(node)) {
          path.push(node);
          next.push(into === undefined || into(node) ? 0 : node.src.length);
          if (seen !== undefined) seen.add(node);
          else if (order.length + path.length > few) seen = new Set([...order, ...path]);
        }
      }
      const last = path.length - 1;
      if (last < 0) break;
      const top: Node = path[last]!;
      node = top.src[next[last]!];
      if (node === undefined) {
        order.push(top);
        path.pop();
        next.pop();
      } else next[last]!++;
    }
  }
  return order;
}

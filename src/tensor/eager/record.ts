/** What is known of a node besides its parts: its value once there is one, its age, and who holds it. */
import { TraceError } from "../../errors.ts";
import type { LateReference } from "../../graph/collected.ts";
import { leaf as leafOf, type Node, type NodeOf, toposort } from "../../graph/node.ts";
import { Storage } from "./storage.ts";

/** The leaf of data that exists. */
export type Leaf = NodeOf<"storage">;

/** Living tensors with one node. An object of its own, as finalizers hold it. */
export interface HandleCount {
  count: number;
}

export interface NodeRecord {
  readonly handles: HandleCount;
  /** Whether it was a tensor's node, of a tensor that may be gone: another one gets a node of its own. */
  shown: boolean;
  /** Whether a node was made from this one, for a tensor. */
  consumed: boolean;
  /** Whether it depends on a placeholder, so that it has no value outside plans. */
  readonly symbolic: boolean;
  /** Of a leaf whose value is still to be computed. */
  due: Due | undefined;
  /** Whether a plan computed it and did not keep it. */
  computed: boolean;
  /** Its value. */
  leaf: Leaf | undefined;
  /** Of a leaf: the node whose value it is, kept for differentiation. */
  history: History | undefined;
  /** Of a leaf: the one that was computed from it last and remembers that. */
  heir: LateReference<Leaf> | undefined;
}

/** What a value is still to be computed from. */
export interface Due {
  readonly node: Node;
  readonly chunk: Chunk;
}

/** Nodes that are computed together, although nobody may read them; each alone, once one of them could not be computed. */
export interface Chunk {
  readonly nodes: readonly Node[];
  failed: boolean;
}

/** How the value of a leaf came about. */
export interface History {
  /** The node, for differentiation through it; undefined where nothing flows through, or where the history was cut. */
  readonly origin: Node | undefined;
  readonly originId: number;
  /** Nodes and bytes that `origin` keeps alive; -1 until they are counted. */
  readonly nodes: number;
  readonly bytes: number;
  /** To what it led before it was cut here for its length. */
  readonly lost: Lost | undefined;
}

/** What tensors show of all that was behind a cut, here or further back: by these nobody can differentiate any more. */
export interface Lost {
  readonly nodes: WeakSet<Node>;
  readonly references: readonly WeakRef<Node>[];
}

/** The record of a node, made with those of its sources at the first call. */
export function recordOf(node: Node): NodeRecord {
  return knownRecord(node) ?? enlist(node);
}

/** The record of a node that was a tensor's, or a source of one. */
export function knownRecord(node: Node): NodeRecord | undefined {
  return node.notes.record as NodeRecord | undefined;
}

function enlist(root: Node): NodeRecord {
  for (const source of root.src) {
    if (source.notes.record !== undefined) continue;
    if (source.src.length === 0) enter(source);
    else for (const node of toposort([source], (node) => node.notes.record === undefined)) enter(node);
  }
  return enter(root);
}

/** The record of a node whose sources have one. */
function enter(node: Node): NodeRecord {
  const known = knownRecord(node);
  if (known !== undefined) return known;
  let symbolic = node.op === "input";
  for (const source of node.src) {
    const record = knownRecord(source)!;
    record.consumed = true;
    symbolic ||= record.symbolic;
  }
  const record: NodeRecord = {
    handles: { count: 0 },
    shown: false,
    consumed: false,
    symbolic,
    due: undefined,
    computed: false,
    leaf: undefined,
    history: undefined,
    heir: undefined,
  };
  node.notes.record = record;
  return record;
}

/** Whether a node is a leaf whose value is still to be computed. */
export function isDue(node: Node): boolean {
  return node.op === "storage" && knownRecord(node)?.due !== undefined;
}

/** The leaf that a node's value is due to be in. */
export function dueOf(node: Node): Leaf | undefined {
  const leaf = knownRecord(node)?.leaf;
  return leaf !== undefined && isDue(leaf) ? leaf : undefined;
}

/** The leaf that holds a node's value, where it exists; of a leaf itself, also where it is due. */
export function valueOf(node: Node): Leaf | undefined {
  if (node.op === "storage") return node;
  const leaf = knownRecord(node)?.leaf;
  return leaf !== undefined && storageOf(leaf).exists ? leaf : undefined;
}

export function storageOf(leaf: Leaf): Storage {
  const { storage } = leaf.attrs;
  if (!(storage instanceof Storage)) throw new TypeError("a storage node of another library");
  return storage;
}

/** A leaf of its own for the data of another, with no history. */
export function sharedLeaf(leaf: Leaf): Leaf {
  return leafOf(storageOf(leaf).share(), leaf.shape, leaf.dtype, leaf.device);
}

/** Nodes that must be computed for `roots`, sources first, and the nodes with values that they start from. */
export function pendingOrder(roots: readonly Node[]): Node[] {
  return toposort(roots, hasNoValue);
}

function hasNoValue(node: Node): boolean {
  return valueOf(node) === undefined;
}

/** Throws TraceError when a node depends on a placeholder, and so has no value. */
export function requireConcrete(op: string, node: Node): void {
  if (!recordOf(node).symbolic) return;
  throw new TraceError(op, {
    got: "a tensor that was made while a function was traced",
    need: "a tensor that the traced function returned, as its caller gets it",
  });
}

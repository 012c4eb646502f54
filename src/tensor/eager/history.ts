/**
 * How values came about. A tensor that was computed shows a leaf; the leaf remembers the node whose value it is, so
 * that `grad` can go on through it. Graphs made before that node was computed refer to the node, those made after it
 * to the leaf: `grad` must know that the two are one.
 */
import { GradientError } from "../../errors.ts";
import { withSources } from "../../graph/build.ts";
import { LateReference, Young } from "../../graph/collected.ts";
import { isFloat } from "../../graph/dtype.ts";
import { type Node, release, toposort } from "../../graph/node.ts";
import { isMovement } from "../../graph/structural.ts";
import {
  dueOf,
  isDue,
  knownRecord,
  type Leaf,
  type Lost,
  type NodeRecord,
  recordOf,
  storageOf,
  valueOf,
} from "./record.ts";

/**
 * What the history of one value may keep alive. Beyond it the history is cut, and a gradient through the cut is
 * refused.
 */
export const historyLimits = { nodes: 5000, bytes: 256 * 2 ** 20 };

/**
 * Notes that `leaf` is the value of `origin`. A stopGradient has no history: nothing flows through it. What the
 * history keeps alive is measured when a tensor shows the leaf: see `settleHistory`.
 */
export function remember(leaf: Leaf, origin: Node): void {
  const flows = origin.op !== "stopGradient" && isFloat(origin.dtype) && origin.src.length > 0;
  recordOf(leaf).history = {
    origin: flows ? origin : undefined,
    originId: origin.id,
    nodes: -1,
    bytes: 0,
    lost: undefined,
  };
}

/**
 * Called when a tensor shows a leaf instead of its node, which may then be forgotten: bounds the history of the leaf.
 */
export function settleHistory(leaf: Leaf): void {
  const record = recordOf(leaf);
  const { history } = record;
  if (history?.origin === undefined || history.nodes >= 0) return;
  let { own, nodes, bytes } = measure(history.origin);
  if (isLong({ nodes, bytes })) {
    // What came about before the values that it was computed from goes first.
    for (const node of toposort([history.origin])) if (originOf(node) !== undefined) cut(node as Leaf);
    ({ own, nodes, bytes } = measure(history.origin));
  }
  record.history = { ...history, nodes, bytes };
  if (isLong({ nodes, bytes })) return cut(leaf);
  const reference = new Remembered(leaf);
  for (const source of history.origin.src) if (source.op === "storage") recordOf(source).heir = reference;
  counted += own;
  if (counted > Math.max(worthPruning, remaining)) prune();
}

function isLong({ nodes, bytes }: { readonly nodes: number; readonly bytes: number }): boolean {
  return nodes > historyLimits.nodes || bytes > historyLimits.bytes;
}

/** Forgets how the value of `leaf` came about, but not what cannot be differentiated by any more. */
function cut(leaf: Leaf): void {
  const origin = originOf(leaf);
  if (origin !== undefined) end(recordOf(leaf), lostWith(origin));
}

/** The history that a record has ends: nothing flows through it any more. */
function end(record: NodeRecord, lost: Lost | undefined = record.history?.lost): void {
  if (record.history !== undefined) record.history = { ...record.history, origin: undefined, nodes: 0, bytes: 0, lost };
}

/**
 * Called when the last tensor that showed `leaf` was disposed of: frees its memory, unless something that is left needs
 * it. A history that nobody can differentiate through any more needs nothing, nor does what was kept for it alone.
 */
export function free(leaf: Leaf): void {
  for (let unused: Leaf | undefined = leaf; unused !== undefined;) {
    const heir: Leaf | undefined = recordOf(unused).heir?.deref();
    const forgotten: boolean = heir !== undefined && forgetOrigin(heir, unused);
    const storage = storageOf(unused);
    if (storage.readers > 0) return;
    storage.free();
    unused = forgotten && heir !== undefined && recordOf(heir).handles.count === 0 ? heir : undefined;
  }
}

/** Forgets how `leaf` came from `source`, if no tensor is left to differentiate by; tells whether it did. */
function forgetOrigin(leaf: Leaf, source: Leaf): boolean {
  const origin = originOf(leaf);
  // What is due is still to be computed from it.
  if (origin === undefined || isDue(leaf) || !origin.src.includes(source) || origin.src.some(leadsToTensor)) {
    return false;
  }
  end(recordOf(leaf));
  forget(recordOf(source));
  const { handles, consumed, leaf: value } = recordOf(origin);
  if (handles.count === 0 && !consumed && value === leaf) release(origin);
  return true;
}

/** Forgets what was computed from a leaf last, and how that came about. */
function forget(record: NodeRecord): void {
  if (record.heir === undefined) return;
  if (!record.heir.isStrong) remembered.delete(record.heir);
  record.heir.drop();
  record.heir = undefined;
}

/** Whether a tensor may show `node` or something behind it. Looks no further than constants. */
function leadsToTensor(node: Node): boolean {
  let x = node;
  while (x.src.length === 1 && !isHeld(x)) x = x.src[0]!;
  return x.src.length > 0 || isHeld(x) || originOf(x) !== undefined;
}

/** Whether a tensor shows `node`, or the leaf of its value. */
function isHeld(node: Node): boolean {
  const { handles, leaf } = recordOf(node);
  return handles.count > 0 || (leaf !== undefined && recordOf(leaf).handles.count > 0);
}

/** What tensors show of all that `origin` was computed from, also of what was forgotten before. */
function lostWith(origin: Node): Lost {
  const nodes = new Set<Node>();
  for (const node of everythingBefore(origin.src)) {
    if (isHeld(node)) nodes.add(node);
    for (const reference of knownRecord(node)?.history?.lost?.references ?? []) {
      const older = reference.deref();
      if (older !== undefined && isHeld(older)) nodes.add(older);
    }
  }
  return { nodes: new WeakSet(nodes), references: [...nodes].map((node) => new WeakRef(node)) };
}

/** What `origin` keeps alive: the nodes behind it up to leaves, and the longest of the histories of those. */
function measure(origin: Node): { own: number; nodes: number; bytes: number } {
  const order = toposort([origin]);
  let bytes = 0;
  const older = { nodes: 0, bytes: 0 };
  for (const node of order) {
    // The value of origin itself is the leaf's own, and counts where a later one came of it.
    const value = node === origin ? undefined : valueOf(node);
    if (value !== undefined) bytes += storageOf(value).bytes;
    const history = node.op === "storage" ? knownRecord(node)?.history : undefined;
    if (history === undefined) continue;
    older.nodes = Math.max(older.nodes, history.nodes);
    older.bytes = Math.max(older.bytes, history.bytes);
  }
  return { own: order.length, nodes: order.length + older.nodes, bytes: bytes + older.bytes };
}

const worthPruning = 1000;
/**
 * Nodes of histories that were measured since the last pruning, and those that it left: so it costs no more than they
 * did.
 */
let counted = 0;
let remaining = 0;
const remembered = new Set<LateReference<Leaf>>();

/** A leaf with a history, which is looked through for useless ones when it is some time old. */
class Remembered extends LateReference<Leaf> {
  protected override age(): void {
    super.age();
    remembered.add(this);
  }
}

/** Forgets histories in which no living tensor is left to differentiate by. */
export function prune(): void {
  Young.ageAll();
  const leaves: Leaf[] = [];
  for (const reference of remembered) {
    const leaf = reference.deref();
    if (leaf !== undefined && originOf(leaf) !== undefined) leaves.push(leaf);
    else remembered.delete(reference);
  }
  const useful = new Set<Node>();
  /** What has something useful behind it, and is no leaf of which a tensor shows just that value. */
  const leading = new Set<Node>();
  const order = everythingBefore(leaves);
  for (const node of order) {
    const record = recordOf(node);
    const origin = originOf(node);
    const leads = origin === undefined
      ? node.src.some((source) => useful.has(source))
      : leading.has(origin) || recordOf(origin).handles.count > 0;
    if (leads) {
      leading.add(node);
      useful.add(node);
      if (origin !== undefined && record.history !== undefined) {
        const { nodes, bytes } = measure(origin);
        record.history = { ...record.history, nodes, bytes };
      }
    } else if (origin !== undefined) end(record);
    if (isHeld(node)) useful.add(node);
  }
  counted = 0;
  remaining = useful.size;
}

/** All nodes that some were computed from, and those, through the histories of leaves; sources first. */
function everythingBefore(nodes: readonly Node[]): Node[] {
  return walk(nodes, (node) => {
    const older = originOf(node);
    return older === undefined ? node.src : [older];
  });
}

/** Nodes reachable through `sourcesOf`, sources first. */
function walk(roots: readonly Node[], sourcesOf: (node: Node) => readonly Node[]): Node[] {
  const order: Node[] = [];
  const seen = new Set<Node>();
  const stack: { node: Node; sources: readonly Node[]; next: number }[] = [];
  const enter = (node: Node) => {
    if (seen.has(node)) return;
    seen.add(node);
    stack.push({ node, sources: sourcesOf(node), next: 0 });
  };
  for (const root of roots) {
    enter(root);
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const source = top.sources[top.next++];
      if (source !== undefined) {
        enter(source);
      } else {
        order.push(top.node);
        stack.pop();
      }
    }
  }
  return order;
}

/** The node that a leaf is the value of, if its history is there. */
function originOf(node: Node): Node | undefined {
  return node.op === "storage" ? knownRecord(node)?.history?.origin : undefined;
}

/**
 * A value is one thing that graphs may show in two ways: as the node that was computed, and as the leaf that holds
 * the result, or is to hold it. This is the node where the history is there, else the leaf.
 */
function identityOf(node: Node): Node {
  const origin = originOf(node);
  if (origin !== undefined) return origin;
  const leaf = valueOf(node) ?? dueOf(node);
  return leaf !== undefined && originOf(leaf) === undefined ? leaf : node;
}

/**
 * `outputs` as graphs that show how they came from `wanted`, also through values that were computed since: a value
 * stands as its leaf where no wanted node lies behind it, and else as the node that it came from. And `wanted`, as
 * they stand there. Sources have smaller ids than what is made from them, so nodes older than all wanted ones need no
 * look.
 * Throws GradientError where the way from an output to a wanted node leads through a history that was cut.
 */
export function unroll(
  op: string,
  outputs: readonly Node[],
  wanted: readonly Node[],
): { outputs: Node[]; wanted: Node[] } {
  const oldest = Math.min(...wanted.flatMap((node) => [age(node), age(viewed(node))]));
  // Nothing flows through what is no float.
  const isOpaque = (node: Node) => node.id < oldest || node.op === "stopGradient" || !isFloat(node.dtype);
  const sourcesOf = (node: Node) => isOpaque(node) ? [] : node.src.map(identityOf);
  const goals = new Set(wanted.map(identityOf));
  const leading = new Set<Node>();
  const now = new Map<Node, Node>();
  for (const node of walk([...outputs, ...wanted].map(identityOf), sourcesOf)) {
    refuseLost(op, node, wanted);
    const sources = sourcesOf(node);
    const goalBehind = sources.some((source) => leading.has(source));
    if (goalBehind || goals.has(node)) leading.add(node);
    const value = valueOf(node);
    if (sources.length === 0 || (value !== undefined && !goalBehind)) {
      now.set(node, value ?? node);
      continue;
    }
    const rebuilt = withSources(node, sources.map((source) => now.get(source)!));
    if (value !== undefined && rebuilt !== node) recordOf(rebuilt).leaf ??= value;
    now.set(node, rebuilt);
  }
  const standIn = (node: Node) => now.get(identityOf(node))!;
  return { outputs: outputs.map(standIn), wanted: wanted.map(standIn) };
}

/** The id of the node that a value came from: graphs made before it was computed refer to that one. */
function age(node: Node): number {
  const history = node.op === "storage" ? knownRecord(node)?.history : undefined;
  return Math.min(node.id, history?.originId ?? node.id);
}

/** What a view shows; the node itself where it is no view. */
function viewed(node: Node): Node {
  let x = node;
  while (isMovement(x)) x = x.src[0]!;
  return x;
}

function refuseLost(op: string, node: Node, wanted: readonly Node[]): void {
  const lost = node.op === "storage" ? knownRecord(node)?.history?.lost?.nodes : undefined;
  if (lost === undefined) return;
  const isLost = (goal: Node | undefined) => goal !== undefined && lost.has(goal);
  const wasLost = (goal: Node) => isLost(goal) || isLost(valueOf(goal)) || isLost(originOf(goal));
  if (!wanted.some((goal) => wasLost(goal) || wasLost(viewed(goal)))) return;
  throw new GradientError(op, {
    got:
      `a way to an input through the history of a computed tensor, which was dropped beyond ${historyLimits.nodes} nodes ` +
      `or ${historyLimits.bytes} bytes`,
    need: "a shorter way; or x.detach() or x.assign(value) on what shall count as a constant",
  });
}

/**
 * How values came about. A tensor that was computed shows a leaf; the leaf remembers the node whose value it is, so that
 * `grad` can go on through it. A leaf whose history was cut still knows its node weakly, because graphs made before the
 * node was computed refer to the node, those made after it to the leaf, and `grad` must know that the two are one.
 */
import { GradientError } from "../errors.ts";
import { withSources } from "../graph/build.ts";
import { type Node, toposort } from "../graph/node.ts";
import { type Leaf, knownRecord, recordOf, storageOf, valueOf } from "./record.ts";

/** What the history of one value may keep alive. Beyond it the history is cut, and a gradient through the cut is refused. */
export const historyLimits = { nodes: 10_000, bytes: 256 * 2 ** 20 };

/** Notes that `leaf` is the value of `origin`. A stopGradient has no history: nothing flows through it. */
export function remember(leaf: Leaf, origin: Node): void {
  const record = recordOf(leaf);
  const twin = new WeakRef(origin);
  if (origin.op === "stopGradient" || origin.dtype !== "f32" || origin.src.length === 0) {
    record.history = { origin: undefined, twin, nodes: 0, bytes: 0, lost: [] };
    return;
  }
  const order = toposort([origin]);
  let [nodes, bytes] = [order.length, 0];
  let [olderNodes, olderBytes] = [0, 0];
  const lost: WeakSet<Node>[] = [];
  for (const node of order) {
    const value = valueOf(node);
    if (value !== undefined) bytes += storageOf(value).bytes;
    const older = node.op === "storage" ? knownRecord(node)?.history : undefined;
    if (older === undefined) continue;
    olderNodes = Math.max(olderNodes, older.nodes);
    olderBytes = Math.max(olderBytes, older.bytes);
    for (const set of older.lost) if (!lost.includes(set)) lost.push(set);
  }
  nodes += olderNodes;
  bytes += olderBytes;
  if (nodes <= historyLimits.nodes && bytes <= historyLimits.bytes) {
    record.history = { origin, twin, nodes, bytes, lost: [] };
    return;
  }
  const before = new WeakSet(everythingBefore(origin));
  record.history = { origin: undefined, twin, nodes: 0, bytes: 0, lost: [before, ...lost] };
}

/** All nodes that `origin` was computed from, through the histories of leaves. */
function everythingBefore(origin: Node): Node[] {
  return walk(origin.src, (node) => {
    const older = node.op === "storage" ? knownRecord(node)?.history?.origin : undefined;
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

/** The node whose value a leaf is, as long as anybody can refer to it. */
function originOf(node: Node): Node | undefined {
  if (node.op !== "storage") return undefined;
  const history = knownRecord(node)?.history;
  return history?.origin ?? history?.twin.deref();
}

/**
 * `outputs` and `wanted` as graphs in which every value stands as the node that it came from, as far back as some wanted
 * node may be found. Sources have smaller ids than what is made from them, so older nodes need no look.
 * Throws GradientError where the way from an output to a wanted node leads through a history that was cut.
 */
export function unroll(
  op: string,
  outputs: readonly Node[],
  wanted: readonly Node[],
): { outputs: Node[]; wanted: Node[] } {
  const oldest = Math.min(...wanted.map((node) => {
    const base = viewed(node);
    return Math.min(node.id, base.id, originOf(base)?.id ?? base.id);
  }));
  const within = (node: Node) => {
    const origin = originOf(node);
    return origin !== undefined && origin.id >= oldest ? origin : undefined;
  };
  const order = walk([...outputs, ...wanted], (node) => {
    const origin = within(node);
    if (origin !== undefined) return [origin];
    return node.id < oldest ? [] : node.src;
  });
  const goals = wanted.flatMap((node) => [node, originOf(node) ?? node]);
  const now = new Map<Node, Node>();
  for (const node of order) {
    const origin = within(node);
    if (node.op === "storage") refuseLost(op, node, goals, wanted);
    if (origin !== undefined) now.set(node, now.get(origin)!);
    else if (node.id < oldest) now.set(node, node);
    else {
      const rebuilt = withSources(node, node.src.map((source) => now.get(source)!));
      const value = rebuilt === node ? undefined : valueOf(node);
      if (value !== undefined) recordOf(rebuilt).leaf ??= value;
      now.set(node, rebuilt);
    }
  }
  return { outputs: outputs.map((node) => now.get(node)!), wanted: wanted.map((node) => now.get(node)!) };
}

/** What a view shows; the node itself where it is no view. */
function viewed(node: Node): Node {
  let x = node;
  while (x.op === "reshape" || x.op === "slice" || x.op === "permute" || x.op === "expand") x = x.src[0]!;
  return x;
}

function refuseLost(op: string, leaf: Leaf, goals: readonly Node[], wanted: readonly Node[]): void {
  const lost = knownRecord(leaf)?.history?.lost ?? [];
  if (lost.length === 0 || wanted.includes(leaf)) return;
  if (!goals.some((goal) => lost.some((set) => set.has(goal)))) return;
  throw new GradientError(op, {
    got: `a way to an input through the history of a computed tensor, which was dropped beyond ${historyLimits.nodes} nodes ` +
      `or ${historyLimits.bytes} bytes`,
    need: "a shorter way; or x.detach() or x.assign(value) on what shall count as a constant",
  });
}

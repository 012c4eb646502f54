/**
 * What is computed again for gradients waits until they get there: see `after` in structural.ts. Which kernel waits for which is
 * kept beside the graph, and their order made such that what they store lives shortly.
 */
import { after, byteLength, withSources } from "../../graph/build.ts";
import { makeFor, type Node, toposort } from "../../graph/node.ts";
import type { Draft } from "./draft.ts";
import type { Schedule } from "./fuse.ts";

/** For each `after` of a graph, the nodes that it waits for. */
export type Waits = ReadonlyMap<Node, readonly Node[]>;

/** Rewrites the graph above `given`, so that nothing is a source that is only waited for. */
export function takeWaits(roots: readonly Node[], given: ReadonlySet<Node>): { roots: Node[]; waits: Waits } {
  const waits = new Map<Node, readonly Node[]>();
  const order = toposort(roots, (node) => !given.has(node));
  if (!order.some((node) => node.op === "after" && !given.has(node))) return { roots: [...roots], waits };
  const replaced = new Map<Node, Node>();
  const now = (node: Node) => replaced.get(node) ?? node;
  const numbers = new Map<string, number>();
  for (const node of order) {
    if (given.has(node)) continue;
    makeFor(node);
    let result: Node;
    if (node.op === "after") {
      const [x, ...others] = node.src.map(now) as [Node, ...Node[]];
      const key = others.map((other) => other.id).join();
      if (!numbers.has(key)) numbers.set(key, numbers.size);
      result = after(x, [], numbers.get(key)!);
      waits.set(result, others);
    } else {
      result = withSources(node, node.src.map(now));
    }
    if (result !== node) replaced.set(node, result);
  }
  makeFor(undefined);
  return { roots: roots.map(now), waits };
}

/** The values in memory that each kernel waits for, without reading them. */
export function waitedFor(
  { drafts, reads }: Schedule,
  given: ReadonlySet<Node>,
  waits: Waits,
): Map<Draft, Set<Node>> {
  const draftOf = new Map<Node, Draft>(drafts.map((draft) => [draft.root, draft]));
  const result = new Map<Draft, Set<Node>>();
  for (const [node, others] of waits) {
    const waiting = new Set((reads.get(node) ?? []).map((read) => read.draft));
    const own = draftOf.get(node);
    if (own !== undefined) waiting.add(own);
    const ends = toposort(others, (x) => !draftOf.has(x) && !given.has(x)).filter((x) => draftOf.has(x));
    for (const draft of waiting) {
      const values = result.get(draft) ?? new Set<Node>();
      result.set(draft, values);
      for (const end of ends) if (end !== draft.root) values.add(end);
    }
  }
  return result;
}

/**
 * The kernels in an order that its sources allow: of those that may run next the one that adds least to what is in memory
 * (what it writes, less what nobody reads after it), and of equal ones the first. `kept` takes no temporary memory.
 */
export function leanOrder<Group extends { readonly drafts: readonly Draft[] }>(
  groups: readonly Group[],
  sources: (of: Group) => ReadonlySet<Group>,
  reads: (of: Group) => ReadonlySet<Node>,
  kept: ReadonlySet<Node>,
): Group[] {
  const missing = new Map<Group, number>();
  const readers = new Map<Group, Group[]>();
  const readersLeft = new Map<Node, number>();
  const written = new Set(groups.flatMap((group) => group.drafts.map((draft) => draft.root)));
  for (const group of groups) {
    const needs = sources(group);
    missing.set(group, needs.size);
    for (const source of needs) readers.set(source, [...readers.get(source) ?? [], group]);
    for (const node of reads(group)) readersLeft.set(node, (readersLeft.get(node) ?? 0) + 1);
  }
  const isTemporary = (node: Node) => written.has(node) && !kept.has(node);
  const growth = (group: Group) => {
    let bytes = 0;
    for (const { root } of group.drafts) if (isTemporary(root)) bytes += byteLength(root);
    for (const node of reads(group)) if (isTemporary(node) && readersLeft.get(node) === 1) bytes -= byteLength(node);
    return bytes;
  };
  const position = new Map(groups.map((group, i) => [group, i]));
  const ready = groups.filter((group) => missing.get(group) === 0);
  const result: Group[] = [];
  while (ready.length > 0) {
    let best = 0;
    let least = Infinity;
    ready.forEach((group, i) => {
      const bytes = growth(group);
      if (bytes < least || (bytes === least && position.get(group)! < position.get(ready[best]!)!)) {
        [best, least] = [i, bytes];
      }
    });
    const [next] = ready.splice(best, 1) as [Group];
    result.push(next);
    for (const node of reads(next)) readersLeft.set(node, readersLeft.get(node)! - 1);
    for (const reader of readers.get(next) ?? []) {
      const left = missing.get(reader)! - 1;
      missing.set(reader, left);
      if (left === 0) ready.push(reader);
    }
  }
  return result;
}

/**
 * Joins kernels that walk the same domain: two that share a reduction or a buffer and do not depend on each other, or one
 * that reads what the other has just computed for the same element (an optimizer's state and its parameters).
 */
import type { Node } from "../../graph/node.ts";
import { isReduction } from "../../graph/ops.ts";
import { size } from "../../graph/shape.ts";
import { isAlone, kernelOf } from "../../graph/structural.ts";
import { variableIndex } from "../kernel/index-arithmetic.ts";
import type { Access, Draft, Schedule } from "./fuse.ts";
import { leanOrder, waitedFor, type Waits } from "./waits.ts";

/** A kernel: one or more values computed over a common outer domain. */
export interface KernelGroup {
  /** In the order of their roots. */
  readonly drafts: [Draft, ...Draft[]];
}

/** Domains so small that a dispatch costs more than running two kernels one after the other. */
const smallDomain = 4096;

/** Axes of a draft's domain, those of length 1 left out. */
function outerExtents(draft: Draft): number[] {
  return draft.variables.filter((v) => v.extent > 1 && (draft.outer === undefined || draft.outer.has(v))).map((v) =>
    v.extent
  );
}

function hasRows(draft: Draft): boolean {
  return draft.outer !== undefined && draft.variables.some((v) => v.extent > 1 && !draft.outer!.has(v));
}

/** Joins drafts into kernels; `maxBuffers` bounds what one of them may bind. Sources come before their readers. */
export function mergeKernels(
  schedule: Schedule,
  { given, roots, maxBuffers, waits, watched, join }: {
    readonly given: ReadonlySet<Node>;
    readonly roots: readonly Node[];
    readonly maxBuffers: number;
    readonly waits: Waits;
    /** The values that are watched, and where their faults go. */
    readonly watched?: { readonly values: ReadonlySet<Node>; readonly faults: Node } | undefined;
    /** False: every draft stays a kernel of its own. */
    readonly join: boolean;
  },
): KernelGroup[] {
  const { drafts, accesses } = schedule;
  const waited = waitedFor(schedule, given, waits);
  if (watched !== undefined) {
    for (const { draft } of accesses.get(watched.faults) ?? []) {
      waited.set(draft, new Set([...waited.get(draft) ?? [], ...watched.values]));
    }
  }
  const draftOf = new Map<Node, Draft>(drafts.map((draft) => [draft.root, draft]));
  const reads = new Map<Draft, Set<Node>>(drafts.map((draft) => [draft, new Set<Node>()]));
  const computes = new Map<Draft, Set<Node>>(drafts.map((draft) => [draft, new Set<Node>()]));
  for (const [node, list] of accesses) {
    for (const access of list) {
      (draftOf.has(node) || given.has(node) ? reads : computes).get(access.draft)!.add(node);
    }
  }
  const marks = (of: KernelGroup) => watched !== undefined && of.drafts.some((draft) => watched.values.has(draft.root));
  const asks = (of: KernelGroup) =>
    watched !== undefined && of.drafts.some((draft) => reads.get(draft)!.has(watched.faults));
  const group = new Map<Draft, KernelGroup>(drafts.map((draft) => [draft, { drafts: [draft] }]));
  const sources = (of: KernelGroup): Set<KernelGroup> => {
    const result = new Set<KernelGroup>();
    for (const draft of of.drafts) {
      for (const node of [...reads.get(draft)!, ...waited.get(draft) ?? []]) {
        const source = draftOf.get(node);
        if (source !== undefined && group.get(source) !== of) result.add(group.get(source)!);
      }
    }
    return result;
  };
  /** Whether `from` is reached from `to` through kernels other than the two (or directly, where `direct`). */
  const reaches = (from: KernelGroup, to: KernelGroup, direct: boolean): boolean => {
    const seen = new Set<KernelGroup>();
    const stack = [...sources(to)].filter((source) => direct || source !== from);
    while (stack.length > 0) {
      const next = stack.pop()!;
      if (next === from) return true;
      if (seen.has(next)) continue;
      seen.add(next);
      stack.push(...sources(next));
    }
    return false;
  };
  const buffers = (kernels: readonly Draft[]): number => {
    const all = new Set<Node>(kernels.map((draft) => draft.root));
    for (const draft of kernels) {
      for (const node of reads.get(draft)!) all.add(node);
      if (watched?.values.has(draft.root)) all.add(watched.faults);
    }
    return all.size;
  };
  const mergeable = (draft: Draft) =>
    size(draft.root.shape) > 0 && draft.contraction === undefined && !isAlone(draft.root);

  for (let j = 1; j < drafts.length; j++) {
    const later = drafts[j]!;
    if (!join || !mergeable(later)) continue;
    const domain = outerExtents(later);
    const count = domain.reduce((a, b) => a * b, 1);
    // Near kernels are the likely partners; a bound keeps long plans linear.
    for (let i = j - 1; i >= Math.max(0, j - 64); i--) {
      const earlier = drafts[i]!;
      const a = group.get(earlier)!;
      const b = group.get(later)!;
      if (a === b || !mergeable(earlier)) continue;
      // What is noted is known when all of it is, so after the kernel.
      if ((marks(a) && asks(b)) || (asks(a) && marks(b))) continue;
      const extents = outerExtents(earlier);
      if (extents.length !== domain.length || extents.some((n, axis) => n !== domain[axis])) continue;
      if (buffers([...a.drafts, ...b.drafts]) > maxBuffers) continue;
      const serial = [...a.drafts, ...b.drafts].some((draft) =>
        hasRows(draft) || isReduction(draft.root.op) || draft.outer !== undefined
      );
      const shared = shares(computes, earlier, later, (node) => isReduction(node.op)) ||
        (shares(reads, earlier, later, () => true) && (!serial || count <= smallDomain));
      const dependent = sources(b).has(a);
      if (dependent) {
        if (!a.drafts.every((source) => b.drafts.every((reader) => readsPointwise(source, reader, accesses)))) continue;
      } else if (!shared && count > (serial ? 64 : smallDomain)) continue;
      if (reaches(a, b, false) || reaches(b, a, true)) continue;
      for (const draft of b.drafts) {
        a.drafts.push(draft);
        group.set(draft, a);
      }
      a.drafts.sort((x, y) => x.id - y.id);
    }
  }
  const ordered = inOrder([...new Set(drafts.map((draft) => group.get(draft)!))], sources);
  if (waits.size === 0) return ordered;
  // Parts of a concatenation are in its memory.
  const kept = new Set([
    ...roots,
    ...drafts.flatMap(({ root }) => kernelOf(root) === "region" ? [root, ...root.src] : []),
  ]);
  const readsOf = new Map(ordered.map((own) => [own, new Set(own.drafts.flatMap((draft) => [...reads.get(draft)!]))]));
  return leanOrder(ordered, sources, (own) => readsOf.get(own)!, kept);
}

function shares(
  of: ReadonlyMap<Draft, ReadonlySet<Node>>,
  a: Draft,
  b: Draft,
  counts: (node: Node) => boolean,
): boolean {
  for (const node of of.get(a)!) if (counts(node) && of.get(b)!.has(node)) return true;
  return false;
}

/** Whether `reader` reads of `source` only the element that the same invocation has computed. */
function readsPointwise(source: Draft, reader: Draft, accesses: ReadonlyMap<Node, readonly Access[]>): boolean {
  for (const access of accesses.get(source.root) ?? []) {
    if (access.draft !== reader) continue;
    const read = access.indices.map((index) => index.key);
    const own = hasRows(source)
      ? reader.variables
      : reader.variables.filter((v) => reader.outer === undefined || reader.outer.has(v));
    const expected = own.filter((v) => v.extent > 1).map((v) => variableIndex(v).key);
    const significant = read.filter((_, axis) => source.root.shape[axis]! > 1);
    if (access.loop.length > 0) return false;
    if (significant.length !== expected.length || significant.some((key, axis) => key !== expected[axis])) return false;
    if (hasRows(source) && !sameRows(source, reader)) return false;
  }
  return true;
}

function sameRows(a: Draft, b: Draft): boolean {
  const pattern = (draft: Draft) =>
    draft.variables.filter((v) => v.extent > 1).map((v) => draft.outer === undefined || draft.outer.has(v));
  const [x, y] = [pattern(a), pattern(b)];
  return x.length === y.length && x.every((outer, axis) => outer === y[axis]);
}

/** Kernels such that each comes after those it reads; otherwise in the order of their first value. */
function inOrder(groups: readonly KernelGroup[], sources: (of: KernelGroup) => Set<KernelGroup>): KernelGroup[] {
  const result: KernelGroup[] = [];
  const placed = new Set<KernelGroup>();
  for (const group of groups) {
    const stack = [group];
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      const waiting = placed.has(top) ? [] : [...sources(top)].filter((source) => !placed.has(source));
      if (waiting.length > 0) {
        stack.push(...waiting);
      } else {
        stack.pop();
        if (!placed.has(top)) {
          placed.add(top);
          result.push(top);
        }
      }
    }
  }
  return result;
}

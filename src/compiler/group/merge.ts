/**
 * Joins kernels that walk the same domain: two that share a reduction or a buffer and do not depend on each other, or one
 * that reads what the other has just computed for the same element (an optimizer's state and its parameters).
 */
import { InternalError } from "../../errors.ts";
import type { Node } from "../../graph/node.ts";
import { isReduction } from "../../graph/ops.ts";
import { size } from "../../graph/shape.ts";
import { isAlone, kernelOf } from "../../graph/structural.ts";
import { variableIndex } from "../kernel/index-arithmetic.ts";
import { type Draft, hasRows, isOuter, outerExtents, outerVariables } from "./draft.ts";
import type { Read, Schedule } from "./fuse.ts";
import { leanOrder, waitedFor, type Waits } from "./waits.ts";

/** A kernel: one or more values computed over a common outer domain. */
export interface KernelGroup {
  /** In the order of their roots. */
  readonly drafts: [Draft, ...Draft[]];
}

export interface MergeOptions {
  readonly given: ReadonlySet<Node>;
  readonly roots: readonly Node[];
  /** What one kernel may bind. */
  readonly maxBuffers: number;
  readonly waits: Waits;
  /** The values that are watched, and where their faults go. */
  readonly watched?: { readonly values: ReadonlySet<Node>; readonly faults: Node } | undefined;
  /** False: every draft stays a kernel of its own. */
  readonly join: boolean;
}

/** Domains so small that a dispatch costs more than running two kernels one after the other. */
const smallDomain = 4096;
/** The same, where a row or a reduction makes each invocation long. */
const smallSerialDomain = 64;
/** Near drafts are the likely partners; a bound keeps long plans linear. */
const nearest = 64;

/** Joins drafts into kernels. Sources come before their readers. */
export function mergeKernels(schedule: Schedule, options: MergeOptions): KernelGroup[] {
  const members = membersOf(schedule, options);
  if (options.join) joinNear(members, options);
  const groups = inOrder([...new Set(members.map((member) => member.group))]);
  return options.waits.size === 0 ? groups : leanly(groups, options.roots);
}

/** A draft, and what it has to do with the others. */
interface Member {
  readonly draft: Draft;
  readonly domain: readonly number[];
  /** Whether it may share a kernel with others. */
  readonly sociable: boolean;
  /** What it reads from memory, with the ways in which it does. */
  readonly reads: Map<Node, Read[]>;
  /** What is computed in its kernel. */
  readonly computes: Set<Node>;
  readonly sources: Source[];
  group: Group;
}

/** One whose value is read or waited for, and how it is read. */
interface Source {
  readonly member: Member;
  readonly reads: readonly Read[];
}

interface Group extends KernelGroup {
  /** Of the drafts. */
  readonly members: Member[];
}

function membersOf(schedule: Schedule, { given, waits, watched }: MergeOptions): Member[] {
  const waited = waitedFor(schedule, given, waits);
  if (watched !== undefined) {
    for (const { draft } of schedule.reads.get(watched.faults) ?? []) {
      waited.set(draft, new Set([...waited.get(draft) ?? [], ...watched.values]));
    }
  }
  const members = new Map(schedule.drafts.map((draft) => [draft, alone(draft)]));
  const roots = new Map([...members.values()].map((member) => [member.draft.root, member]));
  for (const [node, reads] of schedule.reads) {
    const inMemory = roots.has(node) || given.has(node);
    for (const read of reads) {
      const member = memberOf(members, read.draft);
      if (inMemory) append(member.reads, node, read);
      else member.computes.add(node);
    }
  }
  for (const { draft, reads, sources } of members.values()) {
    for (const node of new Set([...reads.keys(), ...waited.get(draft) ?? []])) {
      const member = roots.get(node);
      if (member !== undefined) sources.push({ member, reads: reads.get(node) ?? [] });
    }
  }
  return [...members.values()];
}

function memberOf(members: ReadonlyMap<Draft, Member>, draft: Draft): Member {
  const member = members.get(draft);
  if (member === undefined) {
    throw new InternalError("mergeKernels", { got: `a read by ${draft.root.op}`, need: "a kernel of this schedule" });
  }
  return member;
}

function append<K, V>(lists: Map<K, V[]>, key: K, value: V): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [value]);
  else list.push(value);
}

function alone(draft: Draft): Member {
  const { root, contraction } = draft;
  const group: Group = { drafts: [draft], members: [] };
  const member: Member = {
    draft,
    domain: outerExtents(draft),
    sociable: size(root.shape) > 0 && contraction === undefined && !isAlone(root),
    reads: new Map(),
    computes: new Set(),
    sources: [],
    group,
  };
  group.members.push(member);
  return member;
}

/** Joins each member with those shortly before it, the nearest first, as far as that is allowed and worth it. */
function joinNear(members: readonly Member[], options: MergeOptions): void {
  for (const [j, later] of members.entries()) {
    if (!later.sociable) continue;
    for (const earlier of members.slice(Math.max(0, j - nearest), j).reverse()) {
      if (earlier.group === later.group || !earlier.sociable) continue;
      if (
        mayJoin(earlier, later, options) && isWorthJoining(earlier, later) && keepsOrder(earlier.group, later.group)
      ) {
        join(earlier.group, later.group);
      }
    }
  }
}

function mayJoin(earlier: Member, later: Member, { watched, maxBuffers }: MergeOptions): boolean {
  const [a, b] = [earlier.group, later.group];
  // What is noted is known when all of it is, so after the kernel.
  if (watched !== undefined) {
    const marks = ({ drafts }: Group) => drafts.some(({ root }) => watched.values.has(root));
    const asks = (group: Group) => group.members.some(({ reads }) => reads.has(watched.faults));
    if ((marks(a) && asks(b)) || (asks(a) && marks(b))) return false;
  }
  const { domain } = later;
  if (earlier.domain.length !== domain.length || earlier.domain.some((n, axis) => n !== domain[axis])) return false;
  return buffersOf([...a.members, ...b.members], watched) <= maxBuffers;
}

/** How many buffers a kernel of some drafts binds. */
function buffersOf(members: readonly Member[], watched: MergeOptions["watched"]): number {
  const all = new Set<Node>();
  for (const { draft: { root }, reads } of members) {
    all.add(root);
    for (const node of reads.keys()) all.add(node);
    if (watched?.values.has(root)) all.add(watched.faults);
  }
  return all.size;
}

/** Whether the later one reads of the earlier one's kernel only what the same invocation computes, or one kernel costs less than two. */
function isWorthJoining(earlier: Member, later: Member): boolean {
  const [a, b] = [earlier.group, later.group];
  const count = size(later.domain);
  const serial = [...a.drafts, ...b.drafts].some((draft) =>
    hasRows(draft) || isReduction(draft.root.op) || draft.outer !== undefined
  );
  const between = b.members.flatMap((reader) =>
    reader.sources.filter(({ member }) => member.group === a).map((source) => ({ reader, source }))
  );
  if (between.length > 0) return between.every(({ reader, source }) => readsPointwise(reader.draft, source));
  if (count <= (serial ? smallSerialDomain : smallDomain)) return true;
  for (const node of earlier.computes) if (isReduction(node.op) && later.computes.has(node)) return true;
  if (serial && count > smallDomain) return false;
  for (const node of earlier.reads.keys()) if (later.reads.has(node)) return true;
  return false;
}

/** Whether `reader` reads of a source only the element that the same invocation has computed. */
function readsPointwise(reader: Draft, { member: { draft: source }, reads }: Source): boolean {
  const rows = hasRows(source);
  const own = rows ? reader.variables : outerVariables(reader);
  const expected = own.filter((v) => v.extent > 1).map((v) => variableIndex(v).key);
  return reads.every(({ indices, loop }) => {
    const read = indices.filter((_, axis) => source.root.shape[axis] !== 1).map((index) => index.key);
    return loop.length === 0 && read.length === expected.length && read.every((key, axis) => key === expected[axis]) &&
      (!rows || sameRows(source, reader));
  });
}

function sameRows(a: Draft, b: Draft): boolean {
  const pattern = (draft: Draft) => draft.variables.filter((v) => v.extent > 1).map((v) => isOuter(draft, v));
  const [x, y] = [pattern(a), pattern(b)];
  return x.length === y.length && x.every((outer, axis) => outer === y[axis]);
}

/** The kernels of which a kernel reads values or waits for them. */
function sourcesOf(group: Group): Set<Group> {
  const result = new Set<Group>();
  for (const { sources } of group.members) {
    for (const { member } of sources) if (member.group !== group) result.add(member.group);
  }
  return result;
}

/** Whether no other kernel has to run between two that are joined. */
function keepsOrder(a: Group, b: Group): boolean {
  return !reaches(a, b, false) && !reaches(b, a, true);
}

/** Whether `from` is reached from `to` through kernels other than the two (or directly, where `direct`). */
function reaches(from: Group, to: Group, direct: boolean): boolean {
  const seen = new Set<Group>();
  const stack = [...sourcesOf(to)].filter((source) => direct || source !== from);
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    if (next === from) return true;
    if (seen.has(next)) continue;
    seen.add(next);
    stack.push(...sourcesOf(next));
  }
  return false;
}

/** Moves all of `b` to `a`. */
function join(a: Group, b: Group): void {
  for (const member of b.members) member.group = a;
  a.members.push(...b.members);
  a.members.sort((x, y) => x.draft.id - y.draft.id);
  a.drafts.push(...b.drafts);
  a.drafts.sort((x, y) => x.id - y.id);
}

/** Kernels such that each comes after those it reads; otherwise in the order of their first value. */
function inOrder(groups: readonly Group[]): Group[] {
  const placed = new Set<Group>();
  for (const group of groups) {
    const stack = [group];
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const waiting = placed.has(top) ? [] : [...sourcesOf(top)].filter((source) => !placed.has(source));
      if (waiting.length > 0) {
        stack.push(...waiting);
      } else {
        stack.pop();
        placed.add(top);
      }
    }
  }
  return [...placed];
}

/** In the order in which what they store lives shortly. */
function leanly(groups: readonly Group[], roots: readonly Node[]): Group[] {
  const drafted = groups.flatMap(({ drafts }) => drafts.map(({ root }) => root));
  // Parts of a concatenation are in its memory.
  const regions = drafted.filter((root) => kernelOf(root) === "region");
  const kept = new Set([...roots, ...regions.flatMap((root) => [root, ...root.src])]);
  const reads = new Map(
    groups.map((group) => [group, new Set(group.members.flatMap((member) => [...member.reads.keys()]))]),
  );
  return leanOrder(groups, sourcesOf, (group) => reads.get(group) ?? new Set(), kept);
}

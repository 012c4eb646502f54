/** The kernels of a graph on a device: fused, cut where they would bind too many buffers, and joined. */
import { flags } from "../../debug/flags.ts";
import { InternalError } from "../../errors.ts";
import { type Node, toposort } from "../../graph/node.ts";
import { kernelOf } from "../../graph/structural.ts";
import type { Draft } from "./draft.ts";
import { type Schedule, schedule } from "./fuse.ts";
import { type KernelGroup, mergeKernels, type MergeOptions } from "./merge.ts";

export type KernelsRequest = Omit<MergeOptions, "join">;

/** `stored` are the values of the kernels, sources first. */
export function kernelsOf(request: KernelsRequest): { groups: KernelGroup[]; stored: Node[] } {
  const { roots, given } = request;
  const fuse = !flags().noFuse;
  const extra = new Set<Node>();
  for (;;) {
    const fused = schedule({ roots, given, stored: extra, fuse });
    const cut = cutOf(fused, request);
    if (cut === undefined) {
      return { groups: mergeKernels(fused, { ...request, join: fuse }), stored: fused.drafts.map(({ root }) => root) };
    }
    extra.add(cut);
  }
}

/** In the first kernel that would bind too many buffers, the node to be stored before it; undefined if all fit. */
function cutOf({ drafts }: Schedule, { given, watched, maxBuffers }: KernelsRequest): Node | undefined {
  const inMemory = new Set([...given, ...drafts.map(({ root }) => root)]);
  for (const draft of drafts) {
    if (kernelOf(draft.root) === "region") continue;
    const most = watched?.values.has(draft.root) ? maxBuffers - 1 : maxBuffers;
    const cut = cutWithin(draft, inMemory, most);
    if (cut !== undefined) return cut;
  }
  return undefined;
}

/** The inner node of a kernel that takes most buffers off it; undefined where it needs no more than `most`. */
function cutWithin({ root }: Draft, inMemory: ReadonlySet<Node>, most: number): Node | undefined {
  const isLeaf = (node: Node) => node !== root && inMemory.has(node);
  const order = toposort([root], (node) => !isLeaf(node));
  const leaves = order.filter(isLeaf);
  if (leaves.length + 1 <= most) return undefined;
  const reads = new Map<Node, ReadonlySet<Node>>();
  let best: { readonly node: Node; readonly takes: number } | undefined;
  for (const node of order) {
    const own = isLeaf(node) ? new Set([node]) : new Set(node.src.flatMap((source) => [...reads.get(source) ?? []]));
    reads.set(node, own);
    const candidate = node !== root && !isLeaf(node) && own.size > 1 && own.size < most;
    if (candidate && (best === undefined || own.size > best.takes)) best = { node, takes: own.size };
  }
  if (best === undefined) {
    throw new InternalError("schedule", { got: `${root.op} of ${leaves.length} buffers`, need: `at most ${most - 1}` });
  }
  return best.node;
}

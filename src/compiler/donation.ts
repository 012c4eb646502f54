/** Roots that are written over donated inputs: by kernels in an order and of a kind that allow it, or by a copy. */
import { type Node, toposort } from "../graph/node.ts";
import { kernelOf } from "../graph/structural.ts";
import type { KernelGroup } from "./group/merge.ts";
import { overwritesSlot } from "./lower/in-place.ts";
import type { LoweredGroup } from "./lower/lower-group.ts";

/** Kernels that overwrite a donated input run as late as their readers allow. `donated` are the roots that do. */
export function donorsLast(groups: readonly KernelGroup[], donated: readonly Node[]): KernelGroup[] {
  const written = new Set(donated.flatMap((root) => [...writtenParts(root)]));
  const isDonor = (group: KernelGroup) => group.drafts.some((draft) => written.has(draft.root));
  const late = new Set(groups.filter(isDonor));
  // A kernel that reads a donor's result is late, too: `groups` has sources first.
  const lateRoots = new Set([...late].flatMap((group) => group.drafts.map((draft) => draft.root)));
  for (const group of groups) {
    if (late.has(group)) continue;
    const roots = group.drafts.map((draft) => draft.root);
    const reads = toposort(roots, (node) => roots.includes(node) || !lateRoots.has(node));
    if (!reads.some((node) => lateRoots.has(node))) continue;
    late.add(group);
    roots.forEach((root) => lateRoots.add(root));
  }
  return [...groups.filter((group) => !late.has(group)), ...groups.filter((group) => late.has(group))];
}

/** Whether the kernel that writes `root` over `old` is followed by a reader of `old`, or itself reads elsewhere than it writes. */
export function overwritesTooEarly(
  lowered: readonly LoweredGroup[],
  root: Node,
  old: Node,
  slot: number,
  inMemory: ReadonlySet<Node>,
): boolean {
  if (root === old) return false;
  const parts = writtenParts(root);
  let earlier = false;
  for (const { group, ir } of lowered) {
    const roots = group.drafts.map((draft) => draft.root);
    const writes = roots.some((own) => parts.has(own));
    if (!writes && !earlier) continue;
    const reads = toposort(roots, (node) => roots.includes(node) || !inMemory.has(node)).includes(old);
    if (reads && earlier) return true;
    if (writes && reads && !overwritesSlot(ir, slot, slot)) return true;
    earlier ||= writes;
  }
  return !earlier;
}

/** A root, or for a concatenation the values that are its parts. */
function writtenParts(root: Node): Set<Node> {
  const parts = new Set<Node>([root]);
  for (const part of parts) {
    if (kernelOf(part) !== "region") continue;
    parts.delete(part);
    for (const source of part.src) parts.add(source);
  }
  return parts;
}

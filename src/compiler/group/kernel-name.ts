import { isKind, type Node } from "../../graph/node.ts";
import { isReduction } from "../../graph/ops.ts";
import { isFree } from "../../graph/structural.ts";
import { type Draft, hasRows } from "./draft.ts";
import type { KernelGroup } from "./merge.ts";

/** As in `reduce_64x32_exp_add`: of what kind it is, by default as its domain tells, of which shape, and made of what. */
export function kernelName(group: KernelGroup, own?: string): string {
  const draft = group.drafts[group.drafts.length - 1]!;
  const { root } = draft;
  const kind = own ?? kindOf(draft);
  const shape = (isKind(root, "reduction") ? root.src[0].shape : root.shape).join("x") || "scalar";
  const names: string[] = [];
  const stack: Node[] = [root];
  const seen = new Set<Node>();
  while (stack.length > 0 && names.length < 4) {
    const node = stack.pop()!;
    if (seen.has(node)) continue;
    seen.add(node);
    const plain = isFree(node) || node.op === "cast";
    if (!plain && !names.includes(node.op)) names.push(node.op);
    stack.push(...node.src);
  }
  return [kind, shape, ...names].join("_");
}

function kindOf(draft: Draft): string {
  if (draft.contraction !== undefined) return "contract";
  if (isReduction(draft.root.op)) return "reduce";
  return hasRows(draft) ? "row" : "map";
}

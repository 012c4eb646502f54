import type { Node } from "../../graph/node.ts";
import { isReduction } from "../../graph/ops.ts";
import { isMovement } from "../kernel/source-indices.ts";
import type { KernelGroup } from "./merge.ts";

/** As in `reduce_64x32_exp_add`: what it is, of which shape, made of what. */
export function kernelName(group: KernelGroup): string {
  const draft = group.drafts[group.drafts.length - 1]!;
  const { root } = draft;
  const kind = draft.contraction !== undefined
    ? "contract"
    : isReduction(root.op)
    ? "reduce"
    : draft.variables.some((v) => v.extent > 1 && draft.outer !== undefined && !draft.outer.has(v))
    ? "row"
    : root.op === "scatterAdd"
    ? "scatter"
    : "map";
  const shape = (isReduction(root.op) ? root.src[0]!.shape : root.shape).join("x") || "scalar";
  const names: string[] = [];
  const stack: Node[] = [root];
  const seen = new Set<Node>();
  while (stack.length > 0 && names.length < 4) {
    const node = stack.pop()!;
    if (seen.has(node)) continue;
    seen.add(node);
    const plain = isMovement(node) || ["const", "iota", "storage", "input", "cast"].includes(node.op);
    if (!plain && !names.includes(node.op)) names.push(node.op);
    stack.push(...node.src);
  }
  return [kind, shape, ...names].join("_");
}

/** The product under a contraction's sum: where it and its operands are read. */
import type { Node, ReductionNode } from "../../graph/node.ts";
import { isMovement } from "../../graph/structural.ts";
import { eachLeaf, type Index, type Variable } from "../kernel/index-arithmetic.ts";
import { shownAt, sourceIndices, termIndices } from "../kernel/source-indices.ts";

/** The product of a contraction, and its indices at an element of the contraction and at the term `along` of its sum. */
export function productAt(
  node: ReductionNode,
  element: readonly Index[],
  along: readonly Index[],
): { product: Node; indices: readonly Index[] } {
  let product = node.src[0];
  let indices: readonly Index[] = termIndices(node, element, along);
  for (; isMovement(product); product = product.src[0]) indices = sourceIndices(product, indices).indices;
  return { product, indices };
}

/** Whether which element of an operand is read, at some indices of the product, depends on a variable. */
export function dependsOn(operand: Node, indices: readonly Index[], variable: Variable): boolean {
  let depends = false;
  for (const index of shownAt(operand, indices).indices) {
    eachLeaf(index, (leaf) => depends ||= leaf.kind === "variable" && leaf.variable === variable);
  }
  return depends;
}

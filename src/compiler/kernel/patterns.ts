/** Patterns of nodes that get kernels of a kind of their own. */
import type { Node, NodeOf } from "../../graph/node.ts";
import { hidden } from "../../graph/ops.ts";
import { isMovement, isStored } from "../../graph/structural.ts";

/** A sum of products whose two operands are both broadcast: matmul, convolution, attention. */
export function isContraction(node: Node): boolean {
  if (node.op !== "sum") return false;
  let product = node.src[0];
  while (isMovement(product) && product.op !== "pad" && !isStored(product)) product = product.src[0];
  if (!isProduct(product)) return false;
  return product.src.every((operand) => {
    for (let x = operand; isMovement(x) || x.op === "cast"; x = x.src[0]) if (x.op === "expand") return true;
    return false;
  });
}

/** What a contraction sums. */
export function isProduct(node: Node): boolean {
  return node.op === "mul" || node.op === "gated";
}

/** Weights with those of what is not seen marked, for `gated`. */
export function isMarking(node: Node): boolean {
  const [, , other] = node.src;
  if (node.op !== "where") return false;
  let filler = other!;
  while (filler.op === "expand" || filler.op === "reshape") filler = filler.src[0];
  return filler.op === "const" && filler.attrs.value === hidden;
}

export function isAttention(node: Node): node is NodeOf<"attention" | "attentionGradient"> {
  return node.op === "attention" || node.op === "attentionGradient";
}

/** Values that are to stand in memory of others: roots over donated inputs, and the parts of concatenations. */
import { makeFor, makeNode, type Node, toposort } from "../../graph/node.ts";
import { kernelOf } from "../../graph/structural.ts";
import { isContraction } from "../kernel/patterns.ts";

/** A root that turned out to be an input is copied by a kernel if that input is written over: in order with other kernels. */
export function keepDonors(
  roots: readonly Node[],
  inputs: readonly Node[],
  donate: readonly { readonly input: number; readonly output: number }[],
): Node[] {
  const donors = new Set(donate.map((pair) => inputs[pair.input]!));
  return roots.map((root, i) => {
    const stays = donate.some((pair) => pair.output === i && inputs[pair.input] === root);
    if (!donors.has(root) || stays) return root;
    return makeNode("contiguous", [root], {}, root.shape, root.dtype, root.device);
  });
}

/**
 * Parts of a concatenation that exist elsewhere, or that cannot be made in their place, are copied into it. The result of
 * a contraction that is only laid out flat, as a root or as part of a vector, stands there in its own shape: the axes
 * of its domain are what its kernel is tiled by. So the parts of a vector may have any shape.
 */
export function materializeOperands(roots: readonly Node[], given: ReadonlySet<Node>): Node[] {
  const replaced = new Map<Node, Node>();
  const now = (node: Node) => replaced.get(node) ?? node;
  for (const node of toposort(roots, (node) => !given.has(node))) {
    if (given.has(node)) continue;
    makeFor(node);
    const src = node.src.map((source) => {
      if (kernelOf(node) !== "region") return now(source);
      if (!given.has(source) && kernelOf(source) !== "program") {
        return node.shape.length === 1 ? contractionOf(now(source), given) : now(source);
      }
      const inPlace = now(source);
      return makeNode("contiguous", [inPlace], {}, source.shape, source.dtype, source.device);
    });
    if (src.every((source, i) => source === node.src[i])) continue;
    replaced.set(node, makeNode(node.op, src, node.attrs, node.shape, node.dtype, node.device));
  }
  makeFor(undefined);
  return roots.map((root) => contractionOf(now(root), given));
}

/** Ops between a contraction and what is looked at that are looked through. */
const epilogueDepth = 16;

/** What a reshape lays out, if it is a contraction, or elementwise ops of one; else the node itself. */
function contractionOf(node: Node, given: ReadonlySet<Node>): Node {
  let base = node;
  while (base.op === "reshape" && !given.has(base)) base = base.src[0];
  const contracts = (x: Node, depth: number): boolean =>
    !given.has(x) && (isContraction(x) ||
      (depth > 0 && kernelOf(x) === "inside" && x.src.some((source) => contracts(source, depth - 1))));
  return base !== node && contracts(base, epilogueDepth) ? base : node;
}

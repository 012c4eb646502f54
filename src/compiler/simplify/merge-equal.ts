/** Equal nodes are one: what a program says twice is computed once. */
import { makeFor, makeNode, mergingEqual, type Node, toposort } from "../../graph/node.ts";
import { kernelOf } from "../../graph/structural.ts";

/**
 * The same graph, in which nodes of equal parts are one. Never looks above `inputs`, which stay what they are, as leaves do.
 * For what is made afterwards to be merged with it, call it inside `mergingEqual`.
 */
export function mergeEqual(roots: readonly Node[], inputs: ReadonlySet<Node>): Node[] {
  return mergingEqual(() => {
    const now = new Map<Node, Node>();
    for (const node of toposort(roots, (node) => !inputs.has(node))) {
      if (inputs.has(node) || kernelOf(node) === "given") {
        now.set(node, node);
        continue;
      }
      makeFor(node);
      const src = node.src.map((source) => now.get(source)!);
      now.set(node, makeNode(node.op, src, node.attrs, node.shape, node.dtype, node.device));
    }
    makeFor(undefined);
    return roots.map((root) => now.get(root)!);
  });
}

/** Whether two nodes are of the same value because they are of equal parts. */
export function areEqual(a: Node, b: Node): boolean {
  if (a === b) return true;
  const [one, other] = mergeEqual([a, b], new Set());
  return one === other;
}

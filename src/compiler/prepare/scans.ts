/** Scans for devices that have no kernel for them: GPUs, where running sums are a reduction for each block of elements. */
import { withSources } from "../../graph/build.ts";
import { makeFor, type Node, toposort } from "../../graph/node.ts";
import { runningBlocks } from "../../graph/running.ts";

/** Rewrites the graph above `given`. */
export function scansInBlocks(roots: readonly Node[], given: ReadonlySet<Node>): readonly Node[] {
  const order = toposort(roots, (node) => !given.has(node));
  if (!order.some((node) => node.op === "scan" && !given.has(node))) return roots;
  const replaced = new Map<Node, Node>();
  for (const node of order) {
    if (given.has(node)) continue;
    makeFor(node);
    const src = node.src.map((source) => replaced.get(source) ?? source);
    const result = node.op === "scan"
      ? runningBlocks(node.attrs.how, src[0]!, node.attrs.axis)
      : withSources(node, src);
    if (result !== node) replaced.set(node, result);
  }
  makeFor(undefined);
  return roots.map((node) => replaced.get(node) ?? node);
}

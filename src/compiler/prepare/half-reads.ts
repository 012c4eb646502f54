/**
 * Values of f32 that are halves, as relu(x) of an f16 is: who reads one of which there is an f16 besides reads that, so that
 * only the f16 need be in memory. A backward pass asks where relu's result was positive: that is such a reader.
 */
import { cast, withSources } from "../../graph/build.ts";
import { toElement } from "../../graph/dtype.ts";
import { makeFor, type Node, toposort } from "../../graph/node.ts";
import { elementwise, type ElementwiseOp, isElementwise, isReduction, reductions } from "../../graph/ops.ts";
import { isMovement } from "../../graph/structural.ts";

/** Rewrites the graph above `given`. */
export function readHalves(roots: readonly Node[], given: ReadonlySet<Node>): Node[] {
  const order = toposort(roots, (node) => !given.has(node));
  const narrowed = halvesBesides(order, given);
  if (narrowed.size === 0) return [...roots];
  const replaced = new Map<Node, Node>();
  const now = (node: Node) => replaced.get(node) ?? node;
  for (const node of order) {
    if (given.has(node)) continue;
    makeFor(node);
    const source = (x: Node) => narrowed.has(x) && !isNarrowing(node) ? cast(cast(now(x), "f16"), "f32") : now(x);
    const result = withSources(node, node.src.map(source));
    if (result !== node) replaced.set(node, result);
  }
  makeFor(undefined);
  return roots.map(now);
}

/** The f32 that hold halves and are cast to f16, too. */
function halvesBesides(order: readonly Node[], given: ReadonlySet<Node>): Set<Node> {
  const halves = new Set<Node>();
  const narrowed = new Set<Node>();
  const isHalf = (value: number) => Object.is(toElement("f16", value), value);
  for (const node of order) {
    const [x] = node.src;
    if (given.has(node)) continue;
    if (isNarrowing(node)) {
      if (halves.has(x!) && x!.op !== "cast" && x!.op !== "const") narrowed.add(x!);
    } else if (node.dtype !== "f32") continue;
    else if (node.op === "cast") {
      if (x!.dtype === "f16") halves.add(node);
    } else if (node.op === "const") {
      if (isHalf(node.attrs.value)) halves.add(node);
    } else {
      const record = computing(node);
      if (!isMovement(node) && !record?.exact) continue;
      const values = record?.conditional ? node.src.slice(1) : node.src;
      if (values.every((source) => halves.has(source)) && (node.op !== "pad" || isHalf(node.attrs.value))) {
        halves.add(node);
      }
    }
  }
  return narrowed;
}

/** The record of an elementwise op, and of the one by which a reduction combines. */
function computing({ op }: Node): ElementwiseOp | undefined {
  return isElementwise(op) ? elementwise[op] : isReduction(op) ? elementwise[reductions[op].combine] : undefined;
}

function isNarrowing(node: Node): boolean {
  return node.op === "cast" && node.dtype === "f16";
}

/** Long reductions to few results become two: many partial results at once, then those. */
import { pad, reduce, reshape, withSources } from "../graph/build.ts";
import { makeFor, type Node, type ReductionNode, toposort } from "../graph/node.ts";
import { isReduction, reductions } from "../graph/ops.ts";
import { size } from "../graph/shape.ts";
import { isContraction } from "./schedule.ts";

/** Fewer results than this leave a device idle; fewer terms are not worth a second kernel. */
const fewResults = 1024;
const manyTerms = 8192;
const mostParts = 1024;

/** Rewrites the graph above `given`. A chain of partial sums also loses less to rounding than one long sum. */
export function splitReductions(roots: readonly Node[], given: ReadonlySet<Node>): Node[] {
  const replaced = new Map<Node, Node>();
  const now = (node: Node) => replaced.get(node) ?? node;
  for (const node of toposort(roots, (node) => !given.has(node))) {
    if (given.has(node)) continue;
    makeFor(node);
    const rebuilt = withSources(node, node.src.map(now));
    const result = isReduction(rebuilt.op) && !isContraction(rebuilt) ? split(rebuilt as ReductionNode) : rebuilt;
    if (result !== node) replaced.set(node, result);
  }
  makeFor(undefined);
  return roots.map(now);
}

function split(node: ReductionNode): Node {
  let source = node.src[0]!;
  let axes = node.attrs.axes;
  const terms = axes.reduce((n, axis) => n * source.shape[axis]!, 1);
  if (size(node.shape) >= fewResults || terms < manyTerms) return node;
  if (axes.length === source.shape.length) {
    source = reshape(source, [terms]);
    axes = [0];
  }
  const axis = axes.reduce((best, a) => source.shape[a]! > source.shape[best]! ? a : best, axes[0]!);
  const length = source.shape[axis]!;
  const wanted = Math.min(mostParts, Math.ceil(Math.sqrt(length)));
  let parts = wanted;
  while (length % parts !== 0) parts--;
  if (parts < wanted / 4) {
    parts = wanted;
    const missing = Math.ceil(length / parts) * parts - length;
    const after = source.shape.map((_, a) => a === axis ? missing : 0);
    source = pad(source, source.shape.map(() => 0), after, reductions[node.op].identity(node.dtype));
  }
  const shape = [...source.shape.slice(0, axis), parts, source.shape[axis]! / parts, ...source.shape.slice(axis + 1)];
  const inner = axes.map((a) => a >= axis ? a + 1 : a);
  const partial = reduce(node.op, reshape(source, shape), inner);
  // The axis of parts stands where its axis stood among those that stay.
  const position = shape.slice(0, axis).filter((_, a) => !inner.includes(a)).length;
  return reshape(reduce(node.op, partial, [position]), node.shape);
}

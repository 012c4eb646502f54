/** Long reductions to few results become two: many partial results at once, then those. */
import { elementwise, pad, permute, reduce, reshape, withSources } from "../../graph/build.ts";
import { makeFor, type Node, type ReductionNode, toposort } from "../../graph/node.ts";
import { type ElementwiseName, isReduction, reductions } from "../../graph/ops.ts";
import { size } from "../../graph/shape.ts";
import { isContraction, isProduct } from "../kernel/patterns.ts";
import { defaultParts, signatureOf, splitsSums } from "../plan/contraction-schedules.ts";
import type { Target } from "../plan/plan.ts";
import { problemOf } from "./contraction.ts";

/** Fewer results than this leave a device idle; fewer terms are not worth a second kernel. */
const fewResults = 1024;
const manyTerms = 8192;
const mostParts = 1024;

/** Rewrites the graph above `given`. A chain of partial sums also loses less to rounding than one long sum. */
export function splitReductions(roots: readonly Node[], given: ReadonlySet<Node>, target: Target): Node[] {
  const replaced = new Map<Node, Node>();
  const now = (node: Node) => replaced.get(node) ?? node;
  for (const node of toposort(roots, (node) => !given.has(node))) {
    if (given.has(node)) continue;
    makeFor(node);
    const rebuilt = withSources(node, node.src.map(now));
    const result = !isReduction(rebuilt.op)
      ? rebuilt
      : isContraction(rebuilt)
      ? splitContraction(rebuilt as ReductionNode, given, target)
      : split(rebuilt as ReductionNode);
    if (result !== node) replaced.set(node, result);
  }
  makeFor(undefined);
  return roots.map(now);
}

function split(node: ReductionNode): Node {
  let source = node.src[0];
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

/** A contraction whose sum is cut along its longest axis (split-k), if that axis can be cut evenly. */
function splitContraction(node: ReductionNode, given: ReadonlySet<Node>, target: Target): Node {
  const product = node.src[0];
  if (!splitsSums(target.class) || !isProduct(product) || given.has(product)) return node;
  const problem = problemOf(node, (x) => given.has(x));
  if (problem === undefined) return node;
  const { axes } = node.attrs;
  const wanted = target.tuned?.[signatureOf(problem)]?.parts ?? defaultParts(problem, target.class);
  if (wanted < 2) return node;
  const axis = axes.reduce((best, a) => product.shape[a]! > product.shape[best]! ? a : best, axes[0]!);
  const length = product.shape[axis]!;
  let parts = Math.min(wanted, length);
  while (length % parts !== 0) parts--;
  if (parts < 2) return node;
  // The parts come first, so that each of them is a contraction like the whole.
  const cut = (x: Node) => {
    const shape = [...x.shape.slice(0, axis), parts, length / parts, ...x.shape.slice(axis + 1)];
    return permute(reshape(x, shape), [axis, ...shape.keys()].filter((a, i) => i === 0 || a !== axis));
  };
  const [left, right] = product.src as [Node, Node];
  const partial = reduce(
    "sum",
    elementwise(product.op as ElementwiseName, cut(left), cut(right)),
    axes.map((a) => a + 1),
  );
  return reduce("sum", partial, [0]);
}

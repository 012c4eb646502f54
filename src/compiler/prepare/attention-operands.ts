/**
 * Operands of attention as its kernels want them: positions are neighbours in memory, and so many of them that blocks are
 * whole. What a length lacks of that is made up by zeros, keys with a bias of -Infinity, and cut off the result.
 */
import { attention, attentionGradient, contiguous, expand, full, pad, slice, withSources } from "../../graph/build.ts";
import { makeFor, type Node, type NodeOf, toposort } from "../../graph/node.ts";
import { sameShape, type Shape } from "../../graph/shape.ts";
import { isMovement } from "../../graph/structural.ts";
import { isAttention } from "../kernel/patterns.ts";
import { attentionBlock, attentionUnit } from "../plan/attention-block.ts";
import type { Target } from "../plan/plan.ts";

/** Rewrites the graph above `given`. */
export function wholeBlocks(roots: readonly Node[], given: ReadonlySet<Node>, target: Target): Node[] {
  const order = toposort(roots, (node) => !given.has(node));
  if (!order.some((node) => isAttention(node) && !given.has(node))) return [...roots];
  const unit = attentionUnit(attentionBlock(target));
  const replaced = new Map<Node, Node>();
  const now = (node: Node) => replaced.get(node) ?? node;
  for (const node of order) {
    if (given.has(node)) continue;
    makeFor(node);
    const rebuilt = withSources(node, node.src.map(now));
    const result = isAttention(rebuilt) ? ofWholeBlocks(rebuilt, given, unit) : rebuilt;
    if (result !== node) replaced.set(node, result);
  }
  makeFor(undefined);
  return roots.map(now);
}

function ofWholeBlocks(node: NodeOf<"attention" | "attentionGradient">, given: ReadonlySet<Node>, unit: number): Node {
  const [t, s] = [node.src[0]!.shape.at(-1)!, node.src[1]!.shape.at(-1)!];
  const more = (n: number) => Math.ceil(n / unit) * unit - n;
  const operand = (x: Node) => neighbours(lengthened(x, more(x.shape.at(-1)!), given), given);
  const [q, k, v] = node.src.slice(0, 3).map(operand) as [Node, Node, Node];
  const { diagonal } = node.attrs;
  let result: Node;
  if (node.op === "attention") {
    result = attention({ q, k, v, bias: biasOf(node.src[3], node.shape.slice(0, -2), t, s, more) }, diagonal);
  } else {
    const [norm, g, delta, bias] = node.src.slice(3) as [Node, Node, Node, Node?];
    const row = (x: Node) => lengthened(x, more(t), given);
    const operands = { q, k, v, norm: row(norm), g: operand(g), delta: row(delta) };
    result = attentionGradient(
      node.attrs.of,
      { ...operands, bias: biasOf(bias, node.shape.slice(0, -2), t, s, more) },
      diagonal,
    );
  }
  if (sameShape(result.shape, node.shape)) return result;
  return slice(result, node.shape.map(() => 0), node.shape, node.shape.map(() => 1));
}

/** The bias for more queries and keys: nobody sees those keys, and of those queries nothing is kept. */
function biasOf(
  bias: Node | undefined,
  batch: Shape,
  t: number,
  s: number,
  more: (n: number) => number,
): Node | undefined {
  if (bias === undefined && more(s) === 0) return undefined;
  const known = bias ?? full([...batch, t + more(t), s], 0, "f32");
  const high = known.shape.map((n, axis) =>
    axis === known.shape.length - 2 ? t + more(t) - n : axis < batch.length ? 0 : more(s)
  );
  return pad(known, known.shape.map(() => 0), high, -Infinity);
}

/** `count` zeros more on the last axis; what is repeated on other axes still is. */
function lengthened(x: Node, count: number, given: ReadonlySet<Node>): Node {
  if (count === 0) return x;
  const last = x.shape.length - 1;
  const high = x.shape.map((_, axis) => axis === last ? count : 0);
  const shape = x.shape.map((n, axis) => n + high[axis]!);
  const source = x.op === "expand" && !given.has(x) && x.src[0].shape[last] === x.shape[last] ? x.src[0] : x;
  return expand(pad(source, x.shape.map(() => 0), high), shape);
}

/** A view stored in its own order, unless it only repeats what is. */
function neighbours(x: Node, given: ReadonlySet<Node>): Node {
  if (given.has(x)) return x;
  if (x.op === "expand" || x.op === "after") return withSources(x, [neighbours(x.src[0], given), ...x.src.slice(1)]);
  return isMovement(x) ? contiguous(x) : x;
}

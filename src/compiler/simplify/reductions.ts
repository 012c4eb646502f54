/** Rules of reductions: over constants, over nothing, over axes that only repeat, and of reductions. */
import { elementwise, expand, full, reduce } from "../../graph/build.ts";
import { isFloat } from "../../graph/dtype.ts";
import type { Node, ReductionNode } from "../../graph/node.ts";
import { isReduction, reductions } from "../../graph/ops.ts";
import { size, withOnes } from "../../graph/shape.ts";
import { axesThroughOnes } from "./movement.ts";
import type { Readers } from "./read-counts.ts";
import { constantLike, type RewriteRule, type Rewriting } from "./rewriting.ts";

export function reductionRule(node: Node, graph: Rewriting): Node | undefined {
  if (!isReductionNode(node)) return undefined;
  const [x] = node.src;
  if (size(x.shape) === 0) return full(node.shape, reductions[node.op].identity(node.dtype), node.dtype);
  const value = graph.constantOf(x);
  const folded = value === undefined ? undefined : ofConstant(node, value);
  if (folded !== undefined) return full(node.shape, folded, node.dtype);
  return overOnes(node, x, graph) ?? overRepeats(node, x, graph) ?? overView(node, x, graph);
}

function isReductionNode(node: Node): node is ReductionNode {
  return isReduction(node.op);
}

/** The reduction of as many equal values as there are; undefined where that is not known. */
function ofConstant(node: ReductionNode, value: number): number | undefined {
  if (reductions[node.op].idempotent) return value;
  const count = size(node.attrs.axes.map((axis) => node.src[0].shape[axis]!));
  switch (node.op) {
    case "sum":
      return isFloat(node.dtype) ? value * count : Math.imul(value, count);
    case "prod":
      return isFloat(node.dtype) ? value ** count : integerPower(value, count);
    default:
      return undefined;
  }
}

/** Modulo 2^32. */
function integerPower(base: number, exponent: number): number {
  let result = 1;
  for (let square = base, rest = exponent; rest > 0; rest = Math.floor(rest / 2), square = Math.imul(square, square)) {
    if (rest % 2 === 1) result = Math.imul(result, square);
  }
  return result;
}

/** Axes of length 1 go by a reshape. */
function overOnes(node: ReductionNode, x: Node, graph: Rewriting): Node | undefined {
  const { axes } = node.attrs;
  const long = axes.filter((axis) => x.shape[axis] !== 1);
  if (long.length === axes.length) return undefined;
  if (long.length === 0) return graph.reshape(x, node.shape);
  return graph.reshape(graph.simple(reduce(node.op, x, long)), node.shape);
}

/**
 * Axes along which x only repeats: those that are reduced become a factor of a sum, and nothing for a maximum; the others
 * are repeated afterwards.
 */
function overRepeats(node: ReductionNode, x: Node, graph: Rewriting): Node | undefined {
  const [source] = graph.look(x, "expand")?.src ?? [];
  if (source === undefined) return undefined;
  const { axes } = node.attrs;
  const repeats = [...x.shape.keys()].filter((axis) => source.shape[axis] !== x.shape[axis]);
  const stays = (axis: number) => node.op !== "sum" && !reductions[node.op].idempotent && axes.includes(axis);
  if (repeats.every(stays)) return undefined;
  const base = graph.simple(expand(source, withOnes(x.shape, repeats.filter((axis) => !stays(axis)))));
  let result = graph.simple(reduce(node.op, base, axes));
  if (node.op === "sum") {
    const count = size(repeats.filter((axis) => axes.includes(axis)).map((axis) => x.shape[axis]!));
    result = graph.simple(elementwise("mul", result, constantLike(result, count)));
  }
  // What was repeated and is kept has length 1 in the result.
  return graph.simple(expand(result, node.shape));
}

/** A permutation or reshape below a reduction goes, or moves above it, where that needs no new permutation. */
function overView(node: ReductionNode, x: Node, graph: Rewriting): Node | undefined {
  const { axes } = node.attrs;
  const permuted = graph.look(x, "permute");
  if (permuted !== undefined) {
    const kept = permuted.attrs.axes.filter((_, axis) => !axes.includes(axis));
    if (!kept.every((axis, i) => i === 0 || axis > kept[i - 1]!)) return undefined;
    const inner = axes.map((axis) => permuted.attrs.axes[axis]!).sort((a, b) => a - b);
    return graph.simple(reduce(node.op, permuted.src[0], inner));
  }
  const reshaped = graph.look(x, "reshape");
  if (reshaped === undefined) return undefined;
  const [source] = reshaped.src;
  if (axes.length === x.shape.length) return graph.simple(reduce(node.op, source, [...source.shape.keys()]));
  const places = axesThroughOnes(x.shape, source.shape);
  if (places === undefined) return undefined;
  return graph.reshape(graph.simple(reduce(node.op, source, axes.map((axis) => places.get(axis)!))), node.shape);
}

/**
 * A rule that makes one reduction of a reduction of a reduction, where the inner one has no other reader, which would have
 * to compute it all the same.
 */
export function mergeReductions(readers: Readers): RewriteRule {
  return (node, graph) => {
    if (!isReductionNode(node)) return undefined;
    const inner = graph.look(node.src[0], node.op);
    if (inner === undefined || readers.of(inner) !== 1) return undefined;
    const [source] = inner.src;
    const kept = [...source.shape.keys()].filter((axis) => !inner.attrs.axes.includes(axis));
    const axes = [...inner.attrs.axes, ...node.attrs.axes.map((axis) => kept[axis]!)].sort((a, b) => a - b);
    const merged = reduce(node.op, source, axes);
    readers.add(merged, readers.of(node) ?? 1);
    return graph.simple(merged);
  };
}

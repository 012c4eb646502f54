/** Rules of views and of the ops that move elements: one view for several, and nothing moved that is constant. */
import { concat, expand, full, pad, permute, slice } from "../../graph/build.ts";
import type { Node, NodeOf } from "../../graph/node.ts";
import { sameShape, type Shape, size } from "../../graph/shape.ts";
import type { Rewriting } from "./rewriting.ts";

export function movementRule(node: Node, graph: Rewriting): Node | undefined {
  switch (node.op) {
    case "reshape":
      return reshapeRule(node, graph);
    case "permute":
      return permuteRule(node, graph);
    case "expand":
      return expandRule(node, graph);
    case "pad":
      return padRule(node, graph);
    case "slice":
      return sliceRule(node, graph);
    case "concat":
      return concatRule(node, graph);
    case "gather":
      return size(node.src[0].shape) === 0 ? full(node.shape, 0, node.dtype) : undefined;
    case "scatterAdd":
      return size(node.src[1]!.shape) === 0 ? full(node.shape, 0, node.dtype) : undefined;
    case "argsort":
      return node.shape.at(-1) === 1 ? full(node.shape, 0, node.dtype) : undefined;
    case "scan":
      return node.shape[node.attrs.axis]! <= 1 || size(node.shape) === 0 ? node.src[0] : undefined;
    default:
      return undefined;
  }
}

/** The axes of `shape` that are longer than 1. */
function longAxes(shape: Shape): number[] {
  return shape.flatMap((length, axis) => length === 1 ? [] : [axis]);
}

/**
 * For shapes that differ in axes of length 1 alone: the axis of `to` for each axis of `from` that is longer than 1.
 * Undefined for other shapes.
 */
export function axesThroughOnes(from: Shape, to: Shape): ReadonlyMap<number, number> | undefined {
  const [left, right] = [longAxes(from), longAxes(to)];
  if (left.length !== right.length || left.some((axis, i) => from[axis] !== to[right[i]!])) return undefined;
  return new Map(left.map((axis, i) => [axis, right[i]!]));
}

function reshapeRule(node: NodeOf<"reshape">, graph: Rewriting): Node | undefined {
  const [x] = node.src;
  if (sameShape(x.shape, node.shape)) return x;
  const value = graph.constantOf(x);
  if (value !== undefined) return full(node.shape, value, node.dtype);
  if (graph.look(x, "reshape") !== undefined) return graph.reshape(x, node.shape);
  const expanded = graph.look(x, "expand");
  if (expanded === undefined) return undefined;
  const places = axesThroughOnes(x.shape, node.shape);
  if (places === undefined) return undefined;
  const [source] = expanded.src;
  const small = node.shape.map(() => 1);
  for (const [axis, place] of places) small[place] = source.shape[axis]!;
  return graph.simple(expand(graph.reshape(source, small), node.shape));
}

function permuteRule(node: NodeOf<"permute">, graph: Rewriting): Node | undefined {
  const [x] = node.src;
  const { axes } = node.attrs;
  const value = graph.constantOf(x);
  if (value !== undefined) return full(node.shape, value, node.dtype);
  const inner = graph.look(x, "permute");
  if (inner !== undefined) return graph.simple(permute(inner.src[0], axes.map((axis) => inner.attrs.axes[axis]!)));
  const expanded = graph.look(x, "expand");
  if (expanded !== undefined) return graph.simple(expand(graph.simple(permute(expanded.src[0], axes)), node.shape));
  const long = axes.filter((axis) => x.shape[axis] !== 1);
  return long.every((axis, i) => i === 0 || axis > long[i - 1]!) ? graph.reshape(x, node.shape) : undefined;
}

function expandRule(node: NodeOf<"expand">, graph: Rewriting): Node | undefined {
  const [x] = node.src;
  const value = graph.constantOf(x);
  if (value !== undefined) return full(node.shape, value, node.dtype);
  const inner = graph.look(x, "expand");
  return inner === undefined ? undefined : graph.simple(expand(inner.src[0], node.shape));
}

function padRule(node: NodeOf<"pad">, graph: Rewriting): Node | undefined {
  const [x] = node.src;
  const { low, high, value } = node.attrs;
  if (size(x.shape) === 0 || Object.is(graph.constantOf(x), value)) return full(node.shape, value, node.dtype);
  const inner = graph.look(x, "pad");
  if (inner === undefined || !Object.is(inner.attrs.value, value)) return undefined;
  const sum = (a: readonly number[], b: readonly number[]) => a.map((n, axis) => n + b[axis]!);
  return graph.simple(pad(inner.src[0], sum(low, inner.attrs.low), sum(high, inner.attrs.high), value));
}

function sliceRule(node: NodeOf<"slice">, graph: Rewriting): Node | undefined {
  const [x] = node.src;
  const { start, step } = node.attrs;
  const count = node.shape;
  const value = graph.constantOf(x);
  if (value !== undefined) return full(count, value, node.dtype);
  if (step.some((n, axis) => n !== 1 && count[axis] === 1)) {
    return graph.simple(slice(x, start, count, step.map((n, axis) => count[axis] === 1 ? 1 : n)));
  }
  const inner = graph.look(x, "slice");
  if (inner !== undefined) {
    const first = start.map((n, axis) => inner.attrs.start[axis]! + n * inner.attrs.step[axis]!);
    return graph.simple(slice(inner.src[0], first, count, step.map((n, axis) => n * inner.attrs.step[axis]!)));
  }
  const expanded = graph.look(x, "expand");
  if (expanded !== undefined) {
    const [source] = expanded.src;
    const repeats = source.shape.map((n, axis) => n === 1 && x.shape[axis] !== 1);
    const own = <T>(list: readonly T[], other: T) => list.map((n, axis) => repeats[axis] ? other : n);
    return graph.simple(expand(graph.simple(slice(source, own(start, 0), own(count, 1), own(step, 1))), count));
  }
  return sliceOfPad(node, graph) ?? sliceOfConcat(node, graph);
}

/** The least and the largest index that a slice reads on an axis. */
function range(node: NodeOf<"slice">, axis: number): readonly [number, number] {
  const first = node.attrs.start[axis]!;
  const last = first + (node.shape[axis]! - 1) * node.attrs.step[axis]!;
  return first < last ? [first, last] : [last, first];
}

/** A slice that lies within what was padded, or wholly in the padding. */
function sliceOfPad(node: NodeOf<"slice">, graph: Rewriting): Node | undefined {
  const padded = graph.look(node.src[0], "pad");
  if (padded === undefined) return undefined;
  const [source] = padded.src;
  const { low, value } = padded.attrs;
  let inside = true;
  for (const [axis, length] of source.shape.entries()) {
    const [least, most] = range(node, axis);
    const end = low[axis]! + length;
    if (most < low[axis]! || least >= end) return full(node.shape, value, node.dtype);
    inside &&= least >= low[axis]! && most < end;
  }
  if (!inside) return undefined;
  return graph.simple(slice(source, node.attrs.start.map((n, axis) => n - low[axis]!), node.shape, node.attrs.step));
}

/** A slice that reads one operand of a concat. */
function sliceOfConcat(node: NodeOf<"slice">, graph: Rewriting): Node | undefined {
  const joined = graph.look(node.src[0], "concat");
  if (joined === undefined) return undefined;
  const { axis } = joined.attrs;
  const [least, most] = range(node, axis);
  let before = 0;
  for (const part of joined.src) {
    const end = before + part.shape[axis]!;
    if (least >= before && most < end) {
      const start = node.attrs.start.map((n, i) => i === axis ? n - before : n);
      return graph.simple(slice(part, start, node.shape, node.attrs.step));
    }
    before = end;
  }
  return undefined;
}

/** Nested concats become one; neighbours that are slices that follow each other, or equal constants, become one operand. */
function concatRule(node: NodeOf<"concat">, graph: Rewriting): Node | undefined {
  const { axis } = node.attrs;
  const parts: Node[] = [];
  for (const source of node.src) {
    const inner = graph.look(source, "concat");
    for (const part of inner?.attrs.axis === axis ? inner.src : [source]) {
      if (size(part.shape) === 0) continue;
      const previous = parts.at(-1);
      const both = previous === undefined ? undefined : join(previous, part, axis, graph);
      if (both === undefined) parts.push(part);
      else parts[parts.length - 1] = both;
    }
  }
  if (parts.length === node.src.length && parts.every((part, i) => part === node.src[i])) return undefined;
  return parts.length === 1 ? parts[0] : graph.simple(concat(parts, axis));
}

function join(left: Node, right: Node, axis: number, graph: Rewriting): Node | undefined {
  const shape = left.shape.map((n, i) => i === axis ? n + right.shape[axis]! : n);
  const value = graph.constantOf(left);
  if (value !== undefined) {
    return Object.is(graph.constantOf(right), value) ? full(shape, value, left.dtype) : undefined;
  }
  const [a, b] = [graph.look(left, "slice"), graph.look(right, "slice")];
  if (a === undefined || b === undefined || a.src[0] !== b.src[0]) return undefined;
  const alike = a.attrs.step.every((step, i) => {
    if (i !== axis) return step === b.attrs.step[i] && a.attrs.start[i] === b.attrs.start[i];
    return step === 1 && b.attrs.step[i] === 1 && a.attrs.start[i]! + a.shape[i]! === b.attrs.start[i];
  });
  return alike ? graph.simple(slice(a.src[0], a.attrs.start, shape, a.attrs.step)) : undefined;
}

/** Adjoints that take more than a line: of slices, of reductions, and of products that may contain zeros. */
import { concat, expand, full, pad, permute, reduce, reshape, slice, window } from "../graph/build.ts";
import type { Node, NodeOf, Windows } from "../graph/node.ts";
import { type Shape, size, withOnes, withoutAxes } from "../graph/shape.ts";
import { mul } from "./arithmetic.ts";

/** `g`, whose `axes` were reduced away, repeated along them to `shape`. */
export function alongAxes(g: Node, axes: readonly number[], shape: Shape): Node {
  return expand(reshape(g, withOnes(shape, axes)), shape);
}

/** The adjoint of expand: sums over the axes that were repeated, and only over those. */
export function sumToShape(g: Node, shape: Shape): Node {
  const axes = shape.flatMap((length, axis) => length === g.shape[axis] ? [] : [axis]);
  return reshape(reduce("sum", g, axes), shape);
}

/** The elements in the opposite order along an axis. */
export function reversed(x: Node, axis: number): Node {
  const turned = (i: number) => i === axis && x.shape[i]! > 0;
  const start = x.shape.map((n, i) => turned(i) ? n - 1 : 0);
  return slice(x, start, x.shape, x.shape.map((_, i) => turned(i) ? -1 : 1));
}

/** Zeros of `shape`, in which index `start + i * step` of each axis holds index i of `g`. */
export function unslice(g: Node, start: readonly number[], step: readonly number[], shape: Shape): Node {
  if (size(g.shape) === 0) return full(shape, 0, g.dtype);
  const count = g.shape;
  const zeros = count.map(() => 0);
  const last = count.map((n, axis) => start[axis]! + (n - 1) * step[axis]!);
  const flip = step.map((n, axis) => n < 0 && count[axis]! > 1 ? -1 : 1);
  const flipped = slice(g, flip.map((n, axis) => n < 0 ? count[axis]! - 1 : 0), count, flip);
  const spread = dilate(flipped, step.map((n, axis) => count[axis] === 1 ? 1 : Math.abs(n)));
  const used = last.map((n, axis) => Math.abs(n - start[axis]!) + 1);
  const cut = slice(spread, zeros, used, count.map(() => 1));
  const low = start.map((n, axis) => Math.min(n, last[axis]!));
  return pad(cut, low, shape.map((n, axis) => n - low[axis]! - used[axis]!));
}

/**
 * The adjoint of unwindow, from `g` [..., L, ..., K] to windows of `shape` [..., O, ..., K]: element (o, k) is that of g at
 * o * stride + k * dilation and k, so windows of g, of which the diagonal of the last two axes is taken.
 */
export function placesOfWindows(g: Node, { axis, stride, dilation }: Windows, shape: Shape): Node {
  const length = shape.at(-1)!;
  const windows = window(g, { axis, length, stride, dilation });
  const rows = windows.shape.slice(0, -2);
  const flat = reshape(windows, [...rows, length * length]);
  return slice(flat, flat.shape.map(() => 0), shape, [...rows.map(() => 1), length + 1]);
}

/** `step - 1` zeros behind every element of each axis. */
function dilate(x: Node, step: readonly number[]): Node {
  if (step.every((n) => n === 1)) return x;
  const apart = reshape(x, x.shape.flatMap((n) => [n, 1]));
  const padded = pad(apart, apart.shape.map(() => 0), step.flatMap((n) => [0, n - 1]));
  return reshape(padded, x.shape.map((n, axis) => n * step[axis]!));
}

/**
 * Terms of a sum, of equal shape, fewer where they can be: terms that are padded with zeros along one and the same axis,
 * and do not overlap, become one concat. The adjoints of n slices of one tensor would otherwise cost n of its lengths.
 */
export function joinDisjoint(terms: readonly Node[]): readonly Node[] {
  if (terms.length < 2) return terms;
  const byAxis = new Map<number, { node: NodeOf<"pad">; start: number; end: number }[]>();
  const others: Node[] = [];
  for (const node of terms) {
    const axis = node.op === "pad" && node.attrs.value === 0 ? onlyPaddedAxis(node) : undefined;
    if (node.op !== "pad" || axis === undefined) {
      others.push(node);
      continue;
    }
    const start = node.attrs.low[axis]!;
    const list = byAxis.get(axis) ?? [];
    list.push({ node, start, end: start + node.src[0]!.shape[axis]! });
    byAxis.set(axis, list);
  }
  for (const [axis, parts] of byAxis) {
    parts.sort((a, b) => a.start - b.start);
    const device = parts[0]!.node.device;
    const disjoint = parts.every(({ node, start }, i) =>
      node.device === device && (i === 0 || parts[i - 1]!.end <= start)
    );
    if (parts.length < 2 || !disjoint) others.push(...parts.map((part) => part.node));
    else {others.push(
        laidOut(parts.map(({ node, start }) => ({ start, values: node.src[0]! })), axis, parts[0]!.node.shape),
      );}
  }
  return others;
}

function onlyPaddedAxis(node: NodeOf<"pad">): number | undefined {
  const axes = node.shape.flatMap((length, axis) => length === node.src[0]!.shape[axis] ? [] : [axis]);
  return axes.length === 1 ? axes[0] : undefined;
}

/** Values laid along an axis in order, with zeros between and around them. */
function laidOut(parts: readonly { start: number; values: Node }[], axis: number, shape: Shape): Node {
  const pieces: Node[] = [];
  let at = 0;
  const zerosTo = (end: number) => {
    if (end > at) pieces.push(full(shape.map((n, i) => i === axis ? end - at : n), 0, "f32"));
  };
  for (const { start, values } of parts) {
    zerosTo(start);
    pieces.push(values);
    at = start + values.shape[axis]!;
  }
  zerosTo(shape[axis]!);
  return concat(pieces, axis);
}

/**
 * The adjoint of prod: g times the product of all the other elements. Dividing the product by an element would fail at
 * zeros, so a binary tree of partial products goes up, and on the way down each half is multiplied by the other one:
 * O(n) products, and made of mul and views alone, so that its own gradient needs nothing special.
 */
export function productAdjoint(g: Node, x: Node, axes: readonly number[]): Node {
  const rows = withoutAxes(x.shape, axes);
  const reduced = axes.map((axis) => x.shape[axis]!);
  const n = size(reduced);
  if (size(x.shape) === 0) return full(x.shape, 0, x.dtype);
  const order = [...x.shape.keys()].filter((axis) => !axes.includes(axis)).concat(axes);
  const count = size(rows);
  let level = reshape(permute(x, order), [count, n]);
  const width = 2 ** Math.ceil(Math.log2(n));
  level = pad(level, [0, 0], [0, width - n], 1);
  const swapped: Node[] = [];
  for (let half = width / 2; half >= 1; half /= 2) {
    const halves = reshape(level, [count, 2, half]);
    const side = (index: number) => reshape(slice(halves, [0, index, 0], [count, 1, half], [1, 1, 1]), [count, half]);
    swapped.push(slice(halves, [0, 1, 0], [count, 2, half], [1, -1, 1]));
    level = mul(side(0), side(1));
  }
  let others = reshape(g, [count, 1]);
  for (const sides of swapped.reverse()) {
    const half = sides.shape[2]!;
    const both = expand(reshape(others, [count, 1, half]), [count, 2, half]);
    others = reshape(mul(both, sides), [count, 2 * half]);
  }
  const cut = slice(others, [0, 0], [count, n], [1, 1]);
  return permute(reshape(cut, [...rows, ...reduced]), order.map((_, axis) => order.indexOf(axis)));
}

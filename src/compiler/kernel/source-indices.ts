import { InternalError } from "../../errors.ts";
import { isKind, type Node, type NodeOf, type ReductionNode } from "../../graph/node.ts";
import { strides } from "../../graph/shape.ts";
import { isMovement, type StructuralOf } from "../../graph/structural.ts";
import {
  add,
  addConstant,
  constantIndex,
  divide,
  flatten,
  type Index,
  remainder,
  scale,
  unflatten,
  within,
  zeroIndex,
} from "./index-arithmetic.ts";

/** `low <= index < high` must hold, or the padding value is meant. */
export interface Bound {
  readonly index: Index;
  readonly low: number;
  readonly high: number;
}

/** What a reduction reads of its source for an element: the indices of a term, `along` being those on the axes that are reduced. */
export function termIndices(
  { src, attrs: { axes } }: ReductionNode,
  element: readonly Index[],
  along: readonly Index[],
): Index[] {
  let kept = 0;
  return src[0].shape.map((_, axis) => along[axes.indexOf(axis)] ?? element[kept++]!);
}

/** Where an element comes from: the source's indices, and what must hold for it to come from there. */
interface Place {
  readonly indices: readonly Index[];
  readonly bounds: readonly Bound[];
}

const places: { readonly [K in StructuralOf<"moved">]: (node: NodeOf<K>, indices: readonly Index[]) => Place } = {
  reshape: (node, indices) => ({
    indices: unflatten(flatten(indices, strides(node.shape)), node.src[0].shape),
    bounds: [],
  }),
  permute: (node, indices) => {
    const result = new Array<Index>(indices.length);
    node.attrs.axes.forEach((axis, i) => result[axis] = indices[i]!);
    return { indices: result, bounds: [] };
  },
  expand: (node, indices) => {
    const source = node.src[0].shape;
    return { indices: indices.map((index, axis) => source[axis] === 1 ? zeroIndex : index), bounds: [] };
  },
  slice: (node, indices) => {
    const { start, step } = node.attrs;
    const source = node.src[0].shape;
    return {
      indices: indices.map((index, axis) =>
        within(add(scale(index, step[axis]!), constantIndex(start[axis]!)), 0, Math.max(0, source[axis]! - 1))
      ),
      bounds: [],
    };
  },
  pad: (node, indices) => {
    const source = node.src[0].shape;
    const bounds: Bound[] = [];
    const moved = indices.map((index, axis) => {
      const shifted = addConstant(index, -node.attrs.low[axis]!);
      if (shifted.min >= 0 && shifted.max < source[axis]!) return shifted;
      bounds.push({ index: shifted, low: 0, high: source[axis]! });
      return within(shifted, 0, Math.max(0, source[axis]! - 1));
    });
    return { indices: moved, bounds };
  },
  window: (node, indices) => {
    const { axis, stride, dilation } = node.attrs;
    const place = indices[indices.length - 1]!;
    const length = node.src[0].shape[axis]!;
    const moved = indices.slice(0, -1);
    moved[axis] = within(add(scale(moved[axis]!, stride), scale(place, dilation)), 0, Math.max(0, length - 1));
    return { indices: moved, bounds: [] };
  },
  unwindow: (node, indices) => unwindowed(node, indices),
};

/** The source's indices for an element of a movement, and what must hold for it to come from the source. */
export function sourceIndices(node: Node, indices: readonly Index[]): Place {
  // Each entry of the table takes the node of its own op, which is the one it is looked up with.
  if (isKind(node, "moved")) {
    return (places[node.op] as (node: Node, indices: readonly Index[]) => Place)(node, indices);
  }
  if (isKind(node, "same")) return { indices, bounds: [] };
  throw new InternalError("sourceIndices", { got: node.op, need: "an op that only moves elements" });
}

/** What views and conversions show at some indices: the value behind them, and where of it. */
export function shownAt(
  node: Node,
  indices: readonly Index[],
): { readonly node: Node; readonly indices: readonly Index[] } {
  let [x, at] = [node, indices];
  for (; isMovement(x) || x.op === "cast"; x = x.src[0]) if (isMovement(x)) at = sourceIndices(x, at).indices;
  return { node: x, indices: at };
}

/** The window (l - k * dilation) / stride, if there is one. */
function unwindowed(node: NodeOf<"unwindow">, indices: readonly Index[]): Place {
  const { axis, stride, dilation } = node.attrs;
  const count = node.src[0].shape[axis]!;
  const first = add(indices[axis]!, scale(indices[indices.length - 1]!, -dilation));
  // Quotient and remainder are of what is not negative: so many windows more, and taken off again.
  const more = Math.ceil(Math.max(0, -first.min) / stride);
  const shifted = addConstant(first, more * stride);
  const window = addConstant(divide(shifted, stride), -more);
  const rest = remainder(shifted, stride);
  const bounds: Bound[] = [];
  if (rest.min < 0 || rest.max > 0) bounds.push({ index: rest, low: 0, high: 1 });
  const outside = window.min < 0 || window.max >= count;
  if (outside) bounds.push({ index: window, low: 0, high: count });
  const moved = [...indices];
  moved[axis] = outside ? within(window, 0, Math.max(0, count - 1)) : window;
  return { indices: moved, bounds };
}

/**
 * Views in which every index of the source is a sum of multiples of the view's indices, with zeros where the source has no
 * such index: what slices, windows, zero padding, permutations and expansions are, in whatever order they stand. Views of
 * that kind compose, and are written down again in one order: padding innermost, expansion outermost.
 */
import { expand, pad, permute, slice, window } from "../../graph/build.ts";
import type { Node, NodeOf, StructuralName } from "../../graph/node.ts";
import type { Shape } from "../../graph/shape.ts";
import { axesThroughOnes } from "./movement.ts";
import type { Rewriting } from "./rewriting.ts";

/** offset + Σ coefficients[j] * (index j of the view). */
export interface Affine {
  readonly offset: number;
  readonly coefficients: readonly number[];
}

/** Element i of the view is element `rows(i)` of `base`, a row for each axis; 0 where that is out of range. */
export interface AffineView {
  readonly base: Node;
  readonly shape: Shape;
  readonly rows: readonly Affine[];
}

/** A movement as a change of indices: index a of what is moved is `rows[a]` of the indices of the result. */
export interface AffineMove {
  readonly shape: Shape;
  readonly rows: readonly Affine[];
}

/** `x` if it is of that op and may be looked through. */
export type Look = <K extends StructuralName>(x: Node, op: K) => NodeOf<K> | undefined;

/** Index j of so many. */
function unit(j: number, rank: number): Affine {
  return { offset: 0, coefficients: Array.from({ length: rank }, (_, i) => i === j ? 1 : 0) };
}

function identity(shape: Shape): AffineMove {
  return { shape, rows: shape.map((_, axis) => unit(axis, shape.length)) };
}

/** The least and the largest value over indices of `shape`. */
export function rangeOf({ offset, coefficients }: Affine, shape: Shape): readonly [number, number] {
  let [least, most] = [offset, offset];
  coefficients.forEach((c, j) => {
    const end = c * (shape[j]! - 1);
    if (end < 0) least += end;
    else most += end;
  });
  return [least, most];
}

function isWithin(row: Affine, shape: Shape, length: number): boolean {
  const [least, most] = rangeOf(row, shape);
  return least >= 0 && most < length;
}

/** The movement of a node whose source's indices are affine in its own; undefined for others. */
export function moveOf(node: Node, look: Look): AffineMove | undefined {
  const { shape } = node;
  const own = (axis: number): Affine => unit(axis, shape.length);
  const permuted = look(node, "permute");
  if (permuted !== undefined) {
    return { shape, rows: shape.map((_, axis) => own(permuted.attrs.axes.indexOf(axis))) };
  }
  const reshaped = look(node, "reshape");
  if (reshaped !== undefined) {
    const source = reshaped.src[0].shape;
    const places = axesThroughOnes(source, shape);
    return places && { shape, rows: source.map((_, axis) => own(places.get(axis) ?? -1)) };
  }
  const expanded = look(node, "expand");
  if (expanded !== undefined) {
    const source = expanded.src[0].shape;
    return { shape, rows: source.map((n, axis) => own(n === 1 ? -1 : axis)) };
  }
  const sliced = look(node, "slice");
  if (sliced !== undefined) {
    const { start, step } = sliced.attrs;
    const row = (axis: number) => own(axis).coefficients.map((c) => c * step[axis]!);
    return { shape, rows: shape.map((_, axis) => ({ offset: start[axis]!, coefficients: row(axis) })) };
  }
  const padded = look(node, "pad");
  if (padded !== undefined && padded.attrs.value === 0) {
    return { shape, rows: shape.map((_, axis) => ({ ...own(axis), offset: -padded.attrs.low[axis]! })) };
  }
  const last = shape.length - 1;
  const windows = look(node, "window");
  if (windows !== undefined) {
    const { axis, stride, dilation } = windows.attrs;
    const both = shape.map((_, j) => j === axis ? stride : j === last ? dilation : 0);
    return {
      shape,
      rows: windows.src[0].shape.map((_, i) => i === axis ? { offset: 0, coefficients: both } : own(i)),
    };
  }
  const unwindowed = look(node, "unwindow");
  if (unwindowed?.attrs.stride === 1) {
    const { axis, dilation } = unwindowed.attrs;
    const both = shape.map((_, j) => j === axis ? 1 : j === last ? -dilation : 0);
    return { shape, rows: shape.map((_, i) => i === axis ? { offset: 0, coefficients: both } : own(i)) };
  }
  return undefined;
}

/** The outer indices in the place of the inner ones. */
function substitute(row: Affine, move: AffineMove): Affine {
  let offset = row.offset;
  const coefficients = new Array<number>(move.shape.length).fill(0);
  row.coefficients.forEach((c, a) => {
    const inner = move.rows[a]!;
    offset += c * inner.offset;
    inner.coefficients.forEach((d, j) => coefficients[j]! += c * d);
  });
  return { offset, coefficients };
}

/** `x` as a view of what is below as many movements as can be looked through. */
export function viewOf(x: Node, look: Look): AffineView {
  let view: AffineView = { base: x, ...identity(x.shape) };
  for (;;) {
    const move = moveOf(view.base, look);
    if (move === undefined) return view;
    const source = view.base.src[0]!;
    // What is beyond an axis is 0; below, it must be beyond as well.
    const lost = view.rows.some((row, axis) =>
      !isWithin(row, view.shape, view.base.shape[axis]!) &&
      !isBeyond(move.rows, source.shape, axis, view.base.shape[axis]!)
    );
    if (lost) return view;
    const outer: AffineMove = { shape: view.shape, rows: view.rows };
    view = { base: source, shape: view.shape, rows: move.rows.map((row) => substitute(row, outer)) };
  }
}

/**
 * Whether an index beyond axis `axis`, of `length`, is beyond an axis of the source, too: the source's axis lies within, and
 * its index is that index alone.
 */
function isBeyond(rows: readonly Affine[], source: Shape, axis: number, length: number): boolean {
  return rows.some(({ offset, coefficients }, i) =>
    offset <= 0 && source[i]! - offset <= length && coefficients.every((c, j) => c === (j === axis ? 1 : 0))
  );
}

/** A view moved, and whether it is 0 wherever the movement reads beyond it. */
export function moved(view: AffineView, move: AffineMove): { view: AffineView; zeroOutside: boolean } {
  const zeroOutside = view.shape.every((length, axis) =>
    isWithin(move.rows[axis]!, move.shape, length) || isBeyond(view.rows, view.base.shape, axis, length)
  );
  return {
    view: { base: view.base, shape: move.shape, rows: view.rows.map((row) => substitute(row, move)) },
    zeroOutside,
  };
}

/** A view as nodes; undefined where an index of the view stands in two rows. */
export function written(view: AffineView, graph: Rewriting): Node | undefined {
  const { shape, rows } = view;
  const terms = rows.map((row) => row.coefficients.flatMap((c, j) => c !== 0 && shape[j] !== 1 ? [j] : []));
  const used = terms.flat();
  // An index that two axes have in common is a diagonal.
  if (new Set(used).size !== used.length) return undefined;
  let x = cut(view, graph);
  // Which index of the view each axis is; -1 for one of length 1.
  const axes: number[] = terms.map((list) => list[0] ?? -1);
  rows.forEach(({ coefficients }, axis) => {
    const step = (j: number) => Math.abs(coefficients[j]!);
    const [first, ...rest] = terms[axis]!;
    if (first === undefined) return;
    rest.forEach((j, i) => {
      const stride = i === rest.length - 1 ? step(first) : 1;
      x = graph.simple(window(x, { axis, length: shape[j]!, stride, dilation: step(j) }));
      axes.push(j);
    });
    if (rest.length === 0 && step(first) > 1) {
      const on = (own: number, others: readonly number[]) => others.map((n, i) => i === axis ? own : n);
      const [zeros, ones] = [x.shape.map(() => 0), x.shape.map(() => 1)];
      x = graph.simple(slice(x, zeros, on(shape[first]!, x.shape), on(step(first), ones)));
    }
  });
  const flips = axes.map((j) => j >= 0 && rows.some((row) => row.coefficients[j]! < 0));
  if (flips.includes(true)) {
    x = graph.simple(
      slice(x, x.shape.map((n, i) => flips[i] ? n - 1 : 0), x.shape, flips.map((flip) => flip ? -1 : 1)),
    );
  }
  const order = [...axes.keys()].sort((a, b) => axes[a]! - axes[b]!);
  x = graph.simple(permute(x, order));
  return graph.simple(expand(graph.reshape(x, shape.map((n, j) => used.includes(j) ? n : 1)), shape));
}

/** Of the base, with zeros around it, what the view reads of each axis. */
function cut({ base, shape, rows }: AffineView, graph: Rewriting): Node {
  const ranges = rows.map((row) => rangeOf(row, shape));
  const low = ranges.map(([least]) => Math.max(0, -least));
  const high = ranges.map(([, most], axis) => Math.max(0, most - base.shape[axis]! + 1));
  const padded = graph.simple(pad(base, low, high));
  const start = ranges.map(([least], axis) => least + low[axis]!);
  return graph.simple(slice(padded, start, ranges.map(([least, most]) => most - least + 1), start.map(() => 1)));
}

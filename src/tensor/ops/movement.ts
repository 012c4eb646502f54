/** Ops on nodes that only say where elements come from. */
import { ArgumentError, ShapeError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import { promote } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import { checkShape, formatShape, resolveAxes, resolveAxis, type Shape, size } from "../../graph/shape.ts";

/** A reshape in which one length may be -1, which takes what is left. */
export function reshape(x: Node, shape: Shape): Node {
  const free = shape.indexOf(-1);
  if (free === -1) return build.reshape(x, shape);
  const known = size(shape.filter((_, axis) => axis !== free));
  const length = size(x.shape) / known;
  if (shape.indexOf(-1, free + 1) !== -1 || !Number.isInteger(length)) {
    throw new ShapeError("reshape", {
      got: `${formatShape(x.shape)} to ${formatShape(shape)}`,
      need: `at most one -1, and other lengths whose product divides ${size(x.shape)}`,
    });
  }
  return build.reshape(x, shape.map((n, axis) => axis === free ? length : n));
}

/** Axes `start` to `end` (included) as one. */
export function flatten(x: Node, start = 0, end = -1): Node {
  if (x.shape.length === 0) return build.reshape(x, [1]);
  const first = resolveAxis("flatten", start, x.shape.length);
  const last = resolveAxis("flatten", end, x.shape.length);
  if (first > last) throw new ShapeError("flatten", { got: `start ${start}, end ${end}`, need: "start <= end" });
  return build.reshape(x, [
    ...x.shape.slice(0, first),
    size(x.shape.slice(first, last + 1)),
    ...x.shape.slice(last + 1),
  ]);
}

/** Output axis i is source axis `axes[i]`, which may be negative. */
export function permute(x: Node, axes: readonly number[]): Node {
  return build.permute(x, axes.map((axis) => resolveAxis("permute", axis, x.shape.length)));
}

/** Lengths that were given as one list, or each as an argument of its own. */
export function lengthsOf(op: string, given: readonly (number | Shape)[]): Shape {
  const [first] = given;
  if (given.length === 1 && typeof first === "object") return first;
  const lengths = given.filter((one) => typeof one === "number");
  if (lengths.length === given.length && given.length > 0) return lengths;
  throw new ArgumentError(op, {
    got: given.length === 0 ? "no lengths" : `lists among ${given.length} arguments`,
    need: "one list of numbers, or numbers",
  });
}

/** Axes in the order of a list, or two that change places: by default the last two (a vector stays as it is). */
export function transpose(x: Node, ...given: readonly (number | readonly number[] | undefined)[]): Node {
  const [axes, other] = given;
  if (typeof axes === "object" && given.length === 1) return permute(x, axes);
  const rank = x.shape.length;
  if (axes === undefined && given.length <= 1) {
    if (rank < 2) return x;
    return build.permute(x, x.shape.map((_, axis) => axis < rank - 2 ? axis : 2 * rank - 3 - axis));
  }
  if (typeof axes !== "number" || typeof other !== "number" || given.length > 2) {
    throw new ArgumentError("transpose", {
      got: `${given.length} arguments`,
      need: "a list of all axes, or two axes to change places",
    });
  }
  const [a, b] = [resolveAxis("transpose", axes, rank), resolveAxis("transpose", other, rank)];
  return build.permute(x, x.shape.map((_, axis) => axis === a ? b : axis === b ? a : axis));
}

/** Source axis `from` becomes axis `to`; the others keep their order. */
export function moveAxis(x: Node, from: number, to: number): Node {
  const axes = x.shape.map((_, axis) => axis).filter((axis) => axis !== from);
  axes.splice(to, 0, from);
  return build.permute(x, axes);
}

/** NumPy broadcasting to `shape`; -1 keeps a length. */
export function broadcastTo(x: Node, shape: Shape, op = "broadcastTo"): Node {
  const missing = shape.length - x.shape.length;
  const lengths = shape.map((n, axis) => n === -1 && axis >= missing ? x.shape[axis - missing]! : n);
  checkShape(op, lengths);
  return build.broadcastTo(x, lengths);
}

/** Without axes of length 1: all of them, or those named. Throws ShapeError when a named one is longer. */
export function squeeze(x: Node, axis: number | readonly number[] | undefined): Node {
  const named = axis === undefined
    ? x.shape.map((_, i) => i).filter((i) => x.shape[i] === 1)
    : resolveAxes("squeeze", axis, x.shape.length);
  const long = named.find((i) => x.shape[i] !== 1);
  if (long !== undefined) {
    throw new ShapeError("squeeze", { got: `axis ${long} of ${formatShape(x.shape)}`, need: "axes of length 1" });
  }
  return build.reshape(x, x.shape.filter((_, i) => !named.includes(i)));
}

/** A new axis of length 1 that becomes axis `axis` of the result. */
export function unsqueeze(x: Node, axis: number): Node {
  const at = resolveAxis("unsqueeze", axis, x.shape.length + 1);
  return build.reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]);
}

export function flip(x: Node, axis: number | readonly number[] | undefined): Node {
  const axes = resolveAxes("flip", axis, x.shape.length);
  const turned = (i: number) => axes.includes(i) && x.shape[i]! > 0;
  return build.slice(
    x,
    x.shape.map((n, i) => turned(i) ? n - 1 : 0),
    x.shape,
    x.shape.map((_, i) => turned(i) ? -1 : 1),
  );
}

/** A range of one axis, as in NumPy: bounds are clamped, negative ones count from the end. */
export interface Range {
  /** The first position. Default 0, the last for a negative step. */
  readonly start?: number | undefined;
  /** The position before which it ends. By default the end. */
  readonly end?: number | undefined;
  /** Not 0; a negative one goes backwards, from the end by default. */
  readonly step?: number | undefined;
}

/** The elements of a range on an axis of `length`. */
function resolveRange(length: number, range: Range): { start: number; count: number; step: number } {
  const { step = 1, start, end } = range;
  for (const [name, value] of [["start", start], ["end", end], ["step", step]] as const) {
    if (value !== undefined && !(Number.isInteger(value) || (name !== "step" && Math.abs(value) === Infinity))) {
      throw new ArgumentError("slice", { got: `${name} ${value}`, need: "an integer" });
    }
  }
  if (step === 0) throw new ArgumentError("slice", { got: "step 0", need: "a step other than 0" });
  const [least, most] = step > 0 ? [0, length] : [-1, length - 1];
  const bound = (value: number) => Math.min(Math.max(value < 0 ? value + length : value, least), most);
  const from = start === undefined ? (step > 0 ? 0 : length - 1) : bound(start);
  const to = end === undefined ? (step > 0 ? length : -1) : bound(end);
  return { start: from, count: Math.max(0, Math.ceil((to - from) / step)), step };
}

/** One range for each of the first axes; undefined takes all of an axis. Throws ShapeError for too many. */
export function slice(x: Node, ranges: readonly (Range | undefined)[]): Node {
  if (ranges.length > x.shape.length) {
    throw new ShapeError("slice", { got: `${ranges.length} ranges`, need: `at most ${x.shape.length}, one an axis` });
  }
  const resolved = x.shape.map((length, axis) => resolveRange(length, ranges[axis] ?? {}));
  return build.slice(
    x,
    resolved.map((r) => r.start),
    resolved.map((r) => r.count),
    resolved.map((r) => r.step),
  );
}

/** A range of one axis. */
export function sliceAxis(x: Node, axis: number, range: Range): Node {
  const at = resolveAxis("slice", axis, x.shape.length);
  return slice(x, [...new Array<undefined>(at).fill(undefined), range]);
}

/** The part at one index of an axis, which disappears. Throws ShapeError when the index is out of range. */
export function at(x: Node, index: number, axis: number): Node {
  const i = resolveAxis("at", axis, x.shape.length);
  const length = x.shape[i]!;
  if (!Number.isInteger(index) || index < -length || index >= length) {
    throw new ShapeError("at", {
      got: `index ${index} on axis ${i} of ${formatShape(x.shape)}`,
      need: length === 0 ? "an axis that is not empty" : `an integer from ${-length} to ${length - 1}`,
    });
  }
  const start = index < 0 ? index + length : index;
  const row = sliceAxis(x, i, { start, end: start + 1 });
  return build.reshape(row, x.shape.filter((_, a) => a !== i));
}

/** Elements of `value` around each axis: one count for all sides, or [before, after] for each axis. */
export function pad(x: Node, widths: number | readonly (readonly [number, number])[], value: number): Node {
  const pairs = typeof widths === "number" ? x.shape.map(() => [widths, widths] as const) : widths;
  return build.pad(x, pairs.map((pair) => pair[0]), pairs.map((pair) => pair[1]), value);
}

/** Parts that an axis is cut into where only their number is given: each is a tensor. */
const mostParts = 2 ** 16;

/** Parts along an axis: so many, as equal as can be with the longer ones first, or of these lengths. */
export function split(x: Node, parts: number | readonly number[], axis: number): Node[] {
  const i = resolveAxis("split", axis, x.shape.length);
  const length = x.shape[i]!;
  if (typeof parts === "number" && !(Number.isInteger(parts) && parts > 0 && parts <= mostParts)) {
    throw new ArgumentError("split", {
      got: `${parts} parts`,
      need: `a whole number from 1 to ${mostParts}, or a list of lengths`,
    });
  }
  const lengths = typeof parts === "number"
    ? Array.from({ length: parts }, (_, k) => Math.floor(length / parts) + (k < length % parts ? 1 : 0))
    : parts;
  for (const n of lengths) checkShape("split", [n]);
  const total = lengths.reduce((sum, n) => sum + n, 0);
  if (total !== length) {
    throw new ShapeError("split", {
      got: `lengths [${lengths}], in all ${total}`,
      need: `${length}, the length of axis ${i}`,
    });
  }
  let start = 0;
  return lengths.map((n) => sliceAxis(x, i, { start, end: start += n }));
}

/** Every element `count` times, one after the other, along an axis. */
export function repeat(x: Node, count: number, axis: number): Node {
  const i = resolveAxis("repeat", axis, x.shape.length);
  checkCount("repeat", count);
  const shape = x.shape.map((n, a) => a === i ? n * count : n);
  checkShape("repeat", shape);
  const wide = [...x.shape.slice(0, i + 1), count, ...x.shape.slice(i + 1)];
  const expanded = build.expand(unsqueeze(x, i + 1), wide);
  return build.reshape(expanded, shape);
}

/** The whole tensor `counts[i]` times along axis i; counts are aligned from the last axis. */
export function tile(x: Node, counts: readonly number[]): Node {
  counts.forEach((count) => checkCount("tile", count));
  const rank = Math.max(x.shape.length, counts.length);
  const lengths = [...new Array<number>(rank - x.shape.length).fill(1), ...x.shape];
  const times = [...new Array<number>(rank - counts.length).fill(1), ...counts];
  const shape = lengths.map((n, i) => n * times[i]!);
  checkShape("tile", shape);
  const spaced = build.reshape(x, lengths.flatMap((n) => [1, n]));
  const expanded = build.expand(spaced, lengths.flatMap((n, i) => [times[i]!, n]));
  return build.reshape(expanded, shape);
}

function checkCount(op: string, count: number): void {
  if (!Number.isSafeInteger(count) || count < 0) {
    throw new ArgumentError(op, { got: `count ${count}`, need: "a whole number of at least 0" });
  }
}

/** Tensors joined along an axis, in the dtype in which they meet. */
export function concat(nodes: readonly Node[], axis: number): Node {
  const first = nodes[0];
  if (first === undefined) throw new ArgumentError("concat", { got: "no tensors", need: "at least one" });
  const dtype = nodes.reduce((common, node) => promote(common, node.dtype), first.dtype);
  return build.concat(nodes.map((node) => build.cast(node, dtype)), resolveAxis("concat", axis, first.shape.length));
}

/** Tensors of equal shape side by side along a new axis. */
export function stack(nodes: readonly Node[], axis: number): Node {
  const first = nodes[0];
  if (first === undefined) throw new ArgumentError("stack", { got: "no tensors", need: "at least one" });
  const i = resolveAxis("stack", axis, first.shape.length + 1);
  const shapes = new Set(nodes.map((node) => formatShape(node.shape)));
  if (shapes.size > 1) throw new ShapeError("stack", { got: [...shapes].join(", "), need: "equal shapes" });
  return concat(nodes.map((node) => unsqueeze(node, i)), i);
}

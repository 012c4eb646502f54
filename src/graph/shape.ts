import { ShapeError } from "../errors.ts";

/** Lengths of the axes, outermost first; `[]` is a scalar. */
export type Shape = readonly number[];

/** Number of elements; 1 for a scalar. */
export function size(shape: Shape): number {
  let n = 1;
  for (const length of shape) n *= length;
  return n;
}

export function sameShape(a: Shape, b: Shape): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let axis = 0; axis < a.length; axis++) if (a[axis] !== b[axis]) return false;
  return true;
}

/** Row-major strides in elements. */
export function strides(shape: Shape): number[] {
  const result = new Array<number>(shape.length);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    result[axis] = stride;
    stride *= shape[axis]!;
  }
  return result;
}

export function formatShape(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

/** An axis counted from the front, from one that may be negative. Throws ShapeError when out of range. */
export function resolveAxis(op: string, axis: number, rank: number): number {
  if (!Number.isInteger(axis) || axis < -rank || axis >= rank) {
    throw new ShapeError(op, {
      got: `axis ${axis}`,
      need: rank === 0 ? "no axis, as the tensor is a scalar" : `an integer from ${-rank} to ${rank - 1}`,
    });
  }
  return axis < 0 ? axis + rank : axis;
}

/** Sorted, distinct axes; undefined means all. Throws ShapeError when one is out of range or named twice. */
export function resolveAxes(
  op: string,
  axes: number | readonly number[] | undefined,
  rank: number,
): number[] {
  if (axes === undefined) return Array.from({ length: rank }, (_, axis) => axis);
  const resolved = (typeof axes === "number" ? [axes] : axes).map((axis) => resolveAxis(op, axis, rank));
  const distinct = [...new Set(resolved)].sort((a, b) => a - b);
  if (distinct.length !== resolved.length) {
    throw new ShapeError(op, { got: `axes [${axes}]`, need: "each axis at most once" });
  }
  return distinct;
}

/** The NumPy broadcast of shapes. Throws ShapeError when two lengths differ and neither is 1, or it has too many elements. */
export function broadcastShapes(op: string, ...shapes: Shape[]): number[] {
  let rank = 0;
  for (const shape of shapes) rank = Math.max(rank, shape.length);
  const result = new Array<number>(rank).fill(1);
  for (const shape of shapes) {
    for (let i = 0; i < shape.length; i++) {
      const axis = rank - shape.length + i;
      const length = shape[i]!;
      if (length === 1 || length === result[axis]) continue;
      if (result[axis] !== 1) {
        throw new ShapeError(op, {
          got: shapes.map(formatShape).join(" and "),
          need: "axes that are equal or 1, aligned from the last",
        });
      }
      result[axis] = length;
    }
  }
  checkShape(op, result);
  return result;
}

/** `shape` without `axes` (sorted, distinct). */
export function withoutAxes(shape: Shape, axes: readonly number[]): number[] {
  return shape.filter((_, axis) => !axes.includes(axis));
}

/** `shape` with `axes` set to 1. */
export function withOnes(shape: Shape, axes: readonly number[]): number[] {
  return shape.map((length, axis) => axes.includes(axis) ? 1 : length);
}

/** The longest axis: positions are integers of 32 bits. */
export const longestAxis: number = 2 ** 31 - 1;
/** Axes that a tensor may have. */
export const mostAxes = 256;
/** Elements that a tensor may have, computed or not: as many as can be counted. */
const mostElements = Number.MAX_SAFE_INTEGER;

/** Throws ShapeError unless every length is an integer from 0 to 2^31 - 1, with at most 2^53 - 1 elements and 256 axes in all. */
export function checkShape(op: string, shape: Shape): void {
  let n = 1;
  let legal = shape.length <= mostAxes;
  for (let axis = 0; legal && axis < shape.length; axis++) {
    const length = shape[axis]!;
    legal = Number.isInteger(length) && length >= 0 && length <= longestAxis;
    n *= length;
  }
  if (legal && n <= mostElements) return;
  if (shape.length > mostAxes) throw new ShapeError(op, { got: `${shape.length} axes`, need: `at most ${mostAxes}` });
  throw new ShapeError(op, {
    got: legal ? `${formatShape(shape)}, of ${n} elements` : formatShape(shape),
    need: legal ? `at most ${mostElements} elements` : `axis lengths that are integers from 0 to ${longestAxis}`,
  });
}

/** Nested JS arrays from and to flat data. */
import { ArgumentError, ShapeError } from "../errors.ts";
import { type DType, type HostArray, isFloat } from "../graph/dtype.ts";
import { mostAxes, type Shape, size, strides } from "../graph/shape.ts";

/** A number, a boolean, or arrays of them, all of one length on each level; T says of which. */
export type NestedArray<T extends number | boolean = number | boolean> = T | readonly NestedArray<T>[];

/**
 * The shape and the elements of nested arrays. Throws ShapeError for ragged ones, ArgumentError for what is no
 * number.
 */
export function flattenNested(op: string, data: NestedArray): { shape: number[]; values: (number | boolean)[] } {
  const shape: number[] = [];
  for (let level: NestedArray | undefined = data; Array.isArray(level); level = level[0]) {
    shape.push(level.length);
    // An array that has itself among its elements has no end.
    if (shape.length > mostAxes) throw new ShapeError(op, { got: `arrays nested more than ${mostAxes} deep`, need: `at most ${mostAxes} axes` });
  }
  const values: (number | boolean)[] = [];
  const visit = (part: unknown, axis: number): void => {
    if (Array.isArray(part)) {
      if (axis >= shape.length || part.length !== shape[axis]) {
        throw new ShapeError(op, {
          got: `ragged arrays: ${axis >= shape.length ? `an array of ${part.length}` : `lengths ${shape[axis]} and ${part.length}`} at depth ${axis}`,
          need: "arrays of one length on each level",
        });
      }
      for (const element of part) visit(element, axis + 1);
      return;
    }
    if (axis !== shape.length) {
      throw new ShapeError(op, { got: `ragged arrays: ${typeof part} beside an array at depth ${axis}`, need: "arrays of one depth" });
    }
    if (typeof part !== "number" && typeof part !== "boolean") {
      throw new ArgumentError(op, { got: part === null ? "null" : typeof part, need: "numbers, booleans, or nested arrays of them" });
    }
    values.push(part);
  };
  visit(data, 0);
  return { shape, values };
}

/** Nested arrays of flat data; a bool becomes a boolean. */
export function nested(data: HostArray, shape: Shape, dtype: DType): NestedArray {
  const step = strides(shape);
  const part = (axis: number, offset: number): NestedArray => {
    if (axis === shape.length) return dtype === "bool" ? data[offset] !== 0 : data[offset]!;
    return Array.from({ length: shape[axis]! }, (_, i) => part(axis + 1, offset + i * step[axis]!));
  };
  return part(0, 0);
}

/** Of an axis that is longer only the first and the last three elements are shown. */
const shown = 6;

/** The elements that are shown of a tensor, in order. */
export function visible(data: HostArray, shape: Shape): HostArray {
  const counts = shape.map((length) => Math.min(length, shown));
  const step = strides(shape);
  const picked = data.slice(0, size(counts));
  let next = 0;
  const pick = (axis: number, offset: number): void => {
    if (axis === shape.length) {
      picked[next++] = data[offset]!;
      return;
    }
    const [length, count] = [shape[axis]!, counts[axis]!];
    for (let i = 0; i < count; i++) pick(axis + 1, offset + (i < shown / 2 ? i : length - count + i) * step[axis]!);
  };
  pick(0, 0);
  return picked;
}

/** What is visible of a tensor, for people. */
export function show(picked: HostArray, shape: Shape, dtype: DType): string {
  let next = 0;
  const part = (axis: number): string => {
    if (axis === shape.length) {
      const value = picked[next++]!;
      return dtype === "bool" ? String(value !== 0) : isFloat(dtype) ? String(Number(value.toPrecision(6))) : String(value);
    }
    const parts = Array.from({ length: Math.min(shape[axis]!, shown) }, () => part(axis + 1));
    if (shape[axis]! > shown) parts.splice(shown / 2, 0, "…");
    return `[${parts.join(", ")}]`;
  };
  return part(0);
}

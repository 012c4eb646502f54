/** Nested JS arrays from and to flat data. */
import { ArgumentError, ShapeError } from "../errors.ts";
import { type DType, type HostArray, isFloat } from "../graph/dtype.ts";
import { mostAxes, type Shape, size, strides } from "../graph/shape.ts";
import { show as inWords } from "../signature/show.ts";

/** A number, a boolean, or arrays of them, all of one length on each level; T says of which. */
export type NestedArray<T extends number | boolean = number | boolean> = T | readonly NestedArray<T>[];

/** Nested arrays with typed ones innermost. */
export type NestedTyped<T extends ArrayBufferView = ArrayBufferView> = readonly (T | NestedTyped<T>)[];

/** The elements of nested arrays, in order. */
interface Flat {
  readonly shape: number[];
  readonly values: (number | boolean)[];
  /** One of the typed arrays, where the innermost ones are. */
  readonly typed: ArrayBufferView | undefined;
}

/**
 * The shape and the elements of nested arrays, of which the innermost may be typed arrays, all of one type. Throws ShapeError for
 * ragged ones, ArgumentError for what is no number.
 */
export function flattenNested(op: string, data: NestedArray | NestedTyped): Flat {
  const shape: number[] = [];
  let typed: ArrayBufferView | undefined;
  const isList = (x: unknown): x is ArrayLike<unknown> => Array.isArray(x) || (ArrayBuffer.isView(x) && "length" in x);
  for (let level: unknown = data; isList(level); level = level[0]) {
    shape.push(level.length);
    // An array that has itself among its elements has no end.
    if (shape.length > mostAxes) {
      throw new ShapeError(op, { got: `arrays nested more than ${mostAxes} deep`, need: `at most ${mostAxes} axes` });
    }
  }
  const values: (number | boolean)[] = [];
  const visit = (part: unknown, axis: number): void => {
    if (isList(part)) {
      if (axis >= shape.length || part.length !== shape[axis]) {
        throw new ShapeError(op, {
          got: `ragged arrays: ${
            axis >= shape.length ? `an array of ${part.length}` : `lengths ${shape[axis]} and ${part.length}`
          } at depth ${axis}`,
          need: "arrays of one length on each level",
        });
      }
      if (ArrayBuffer.isView(part) && (typed ??= part).constructor !== part.constructor) {
        throw new ArgumentError(op, {
          got: `${inWords(typed)} beside ${inWords(part)}`,
          need: "typed arrays of one type",
        });
      }
      for (let i = 0; i < part.length; i++) visit(part[i], axis + 1);
      return;
    }
    if (part instanceof Promise) {
      throw new ArgumentError(op, { got: "a Promise among the values", need: "what it gives: await it" });
    }
    if (axis !== shape.length) {
      throw new ShapeError(op, {
        got: `ragged arrays: ${typeof part} beside an array at depth ${axis}`,
        need: "arrays of one depth",
      });
    }
    if (typeof part !== "number" && typeof part !== "boolean") {
      const need = typeof part === "object" && part !== null && "shape" in part
        ? "numbers; stack([a, b]) puts Tensors together"
        : "numbers, booleans, or nested arrays of them";
      throw new ArgumentError(op, { got: `${inWords(part)} at [${placeOf(values.length, shape).join(", ")}]`, need });
    }
    values.push(part);
  };
  visit(data, 0);
  return { shape, values, typed };
}

/** The indices of the element at a position. */
function placeOf(position: number, shape: Shape): number[] {
  return strides(shape).map((step, axis) => Math.floor(position / step) % shape[axis]!);
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
      return dtype === "bool"
        ? String(value !== 0)
        : isFloat(dtype)
        ? String(Number(value.toPrecision(6)))
        : String(value);
    }
    const parts = Array.from({ length: Math.min(shape[axis]!, shown) }, () => part(axis + 1));
    if (shape[axis]! > shown) parts.splice(shown / 2, 0, "…");
    return `[${parts.join(", ")}]`;
  };
  return part(0);
}

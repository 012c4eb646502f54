/** Ops on nodes that look elements up by number, or add to them. */
import { ArgumentError, DTypeError, ShapeError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import { computed, type DType } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import { checkShape, formatShape, resolveAxis, size } from "../../graph/shape.ts";
import { add, commonDType } from "./elementwise.ts";

/** Indices as i32. Throws DTypeError for floats and bools. */
function asIndex(op: string, index: Node): Node {
  if (index.dtype !== "i32" && index.dtype !== "u32") {
    throw new DTypeError(op, { got: `indices of ${index.dtype}`, need: 'i32 or u32: .cast("i32")' });
  }
  return build.cast(index, "i32");
}

/** out[i] = x[i with i[axis] := index[i]]; an index outside the axis gives 0. */
export function gather(x: Node, index: Node, axis: number): Node {
  return build.gather(x, asIndex("gather", index), resolveAxis("gather", axis, x.shape.length));
}

/**
 * The parts of `x` at `indices` (of any shape, which takes the place of the axis); an index outside the axis gives 0.
 */
export function take(x: Node, indices: Node, axis: number): Node {
  const at = resolveAxis("take", axis, x.shape.length);
  const [before, after] = [x.shape.slice(0, at), x.shape.slice(at + 1)];
  const count = size(indices.shape);
  const flat = build.reshape(asIndex("take", indices), [...before.map(() => 1), count, ...after.map(() => 1)]);
  const picked = build.gather(x, build.expand(flat, [...before, count, ...after]), at);
  return build.reshape(picked, [...before, ...indices.shape, ...after]);
}

/** Positions on an axis given as JS numbers: negative ones count from the end. Throws ShapeError when out of range. */
export function hostIndices(op: string, x: Node, indices: readonly number[], axis: number): number[] {
  const length = x.shape[resolveAxis(op, axis, x.shape.length)]!;
  return indices.map((index) => {
    if (!Number.isInteger(index) || index < -length || index >= length) {
      throw new ShapeError(op, {
        got: `index ${index} on axis ${axis} of ${formatShape(x.shape)}`,
        need: `integers from ${-length} to ${length - 1}`,
      });
    }
    return index < 0 ? index + length : index;
  });
}

/** x with values[i] added at i with i[axis] := index[i]; an index outside the axis is dropped. */
export function scatterAdd(x: Node, index: Node, values: Node, axis: number): Node {
  const { at, dtype } = scattered("scatterAdd", x, values, axis);
  return add(x, build.scatterAdd(asIndex("scatterAdd", index), build.cast(values, dtype), at, x.shape[at]!));
}

/** The larger of x and values[i] at i with i[axis] := index[i]; an index outside the axis is dropped. */
export function scatterMax(x: Node, index: Node, values: Node, axis: number): Node {
  const { at, dtype } = scattered("scatterMax", x, values, axis);
  return build.scatterMax(build.cast(x, dtype), asIndex("scatterMax", index), build.cast(values, dtype), at);
}

/** The axis, and the dtype in which x meets the values that are put along it. */
function scattered(op: string, x: Node, values: Node, axis: number): { at: number; dtype: DType } {
  const at = resolveAxis(op, axis, x.shape.length);
  if (values.shape.length === x.shape.length && values.shape.every((n, i) => i === at || n === x.shape[i])) {
    return { at, dtype: computed(commonDType([x, values])) };
  }
  throw new ShapeError(op, {
    got: `${formatShape(x.shape)} and values ${formatShape(values.shape)}`,
    need: `shapes that agree but for axis ${at}`,
  });
}

/** A new last axis of length `classes` that is 1 at the label and else 0; a label outside gives zeros. */
export function oneHot(labels: Node, classes: number, dtype: DType): Node {
  if (!Number.isSafeInteger(classes) || classes < 0) {
    throw new ArgumentError("oneHot", { got: `${classes} classes`, need: "a whole number of at least 0" });
  }
  const index = asIndex("oneHot", labels);
  const shape = [...index.shape, classes];
  checkShape("oneHot", shape);
  const hit = build.elementwise(
    "eq",
    build.expand(build.reshape(index, [...index.shape, 1]), shape),
    build.broadcastTo(build.iota(classes), shape),
  );
  return build.cast(hit, dtype);
}

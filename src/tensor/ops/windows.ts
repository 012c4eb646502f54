/** Sliding windows over axes of nodes, and what convolution and pooling say about them. */
import { ArgumentError, ShapeError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import type { Node } from "../../graph/node.ts";
import { formatShape, resolveAxis } from "../../graph/shape.ts";
import { moveAxis, unsqueeze } from "./movement.ts";

/** A number for each of the window's axes, or one for all. */
export type PerAxis = number | readonly number[];

/**
 * Elements put before and after each axis of the windows: so many on both sides; none, so that windows lie within
 * ("valid"); or as many as give ceil(length / stride) windows, the odd one behind ("same").
 */
export type Padding = PerAxis | "same" | "valid";

/** What is put before and after one axis. */
export interface Width {
  readonly before: number;
  readonly after: number;
}

/** How windows slide along one axis. */
export interface Sliding {
  readonly length: number;
  readonly stride: number;
  readonly dilation: number;
}

/** Windows of `length` elements along `axis`, `stride` apart (1), their elements `dilation` apart (1). */
export interface WindowsOptions {
  /** The axis along which windows slide; a negative one counts from the end. */
  readonly axis: number;
  /** Elements of a window. */
  readonly length: number;
  /** Elements from one window to the next. Default 1. */
  readonly stride?: number | undefined;
  /** Elements from one element of a window to the next. Default 1. */
  readonly dilation?: number | undefined;
}

/**
 * x [..., L, ...] to [..., O, ..., length], O = floor((L - (length - 1) * dilation - 1) / stride) + 1: the place within a
 * window becomes the last axis. Throws ShapeError where no window lies within the axis.
 */
export function windows(x: Node, { axis, length, stride = 1, dilation = 1 }: WindowsOptions): Node {
  const i = resolveAxis("windows", axis, x.shape.length);
  for (const [name, value] of Object.entries({ length, stride, dilation })) requireWhole("windows", name, value, 1);
  return slide("windows", x, i, { length, stride, dilation });
}

/** Windows of one axis. Those that neither overlap nor skip are a reshape, whose gradient is one, too. */
export function slide(op: string, x: Node, axis: number, sliding: Sliding): Node {
  const { length, stride, dilation } = sliding;
  const count = build.windowCount(x.shape[axis]!, sliding);
  if (count === 0) {
    throw new ShapeError(op, {
      got: `windows that span ${(length - 1) * dilation + 1} elements of axis ${axis} of ${formatShape(x.shape)}`,
      need: "an axis at least as long, or more padding",
    });
  }
  if (length === 1 && stride === 1) return unsqueeze(x, -1);
  if (length !== stride || dilation !== 1) return build.window(x, { axis, length, stride, dilation });
  const cut = build.slice(
    x,
    x.shape.map(() => 0),
    x.shape.map((n, i) => i === axis ? count * length : n),
    x.shape.map(() => 1),
  );
  const apart = build.reshape(cut, [...x.shape.slice(0, axis), count, length, ...x.shape.slice(axis + 1)]);
  return moveAxis(apart, axis + 1, x.shape.length);
}

/** Windows along neighbouring axes from `first`, one after the other: their places are the last axes. */
export function slideAll(op: string, x: Node, first: number, slidings: readonly Sliding[]): Node {
  return slidings.reduce((node, sliding, i) => slide(op, node, first + i, sliding), x);
}

/** One number for each of `count` axes. Throws ArgumentError unless they are whole numbers of at least `least`. */
export function perAxis(op: string, name: string, value: PerAxis, count: number, least: number): number[] {
  const list = typeof value === "number" ? new Array<number>(count).fill(value) : [...value];
  if (list.length !== count) {
    throw new ArgumentError(op, {
      got: `${name} [${list}]`,
      need: count === 1 ? "a number" : `a number, or ${count} of them`,
    });
  }
  for (const n of list) requireWhole(op, name, n, least);
  return list;
}

/** How much is to be put before and after each axis. Throws ArgumentError for counts that are no whole numbers of at least 0. */
export function paddingOf(
  op: string,
  padding: Padding,
  lengths: readonly number[],
  slidings: readonly Sliding[],
): Width[] {
  if (padding === "valid") return lengths.map(() => ({ before: 0, after: 0 }));
  if (padding !== "same") {
    if (typeof padding === "string") {
      throw new ArgumentError(op, {
        got: `padding "${String(padding)}"`,
        need: '"same", "valid", a number, or one for each axis',
      });
    }
    return perAxis(op, "padding", padding, lengths.length, 0).map((n) => ({ before: n, after: n }));
  }
  return lengths.map((n, i) => {
    const { length, stride, dilation } = slidings[i]!;
    const total = Math.max(0, (Math.ceil(n / stride) - 1) * stride + (length - 1) * dilation + 1 - n);
    return { before: Math.floor(total / 2), after: Math.ceil(total / 2) };
  });
}

/** `value` around the axes from `first`. */
export function padAxes(x: Node, first: number, widths: readonly Width[], value = 0): Node {
  const of = (side: "before" | "after") => x.shape.map((_, axis) => widths[axis - first]?.[side] ?? 0);
  return build.pad(x, of("before"), of("after"), value);
}

function requireWhole(op: string, name: string, value: number, least: number): void {
  if (!Number.isSafeInteger(value) || value < least) {
    throw new ArgumentError(op, { got: `${name} ${value}`, need: `an integer of at least ${least}` });
  }
}

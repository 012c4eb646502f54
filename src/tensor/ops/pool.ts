/** Pooling of nodes: a maximum or a mean over windows of the axes between the first and the last. */
import { ArgumentError, ShapeError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import { computed } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import { reductions } from "../../graph/ops.ts";
import { formatShape } from "../../graph/shape.ts";
import { add, apply, div, mul, sub } from "./elementwise.ts";
import {
  padAxes,
  type Padding,
  paddingOf,
  type PerAxis,
  perAxis,
  slideAll,
  type Sliding,
  type Width,
} from "./windows.ts";

/** The windows that are pooled. */
export interface PoolOptions {
  /** Height and width of a window, or one number for both. */
  readonly size: PerAxis;
  /** Elements from one window to the next. Default: the size, so that windows do not overlap. */
  readonly stride?: PerAxis | undefined;
  /** What is put around the input and counts for nothing. Less than the size. Default 0. */
  readonly padding?: Padding | undefined;
}

interface Pooling {
  readonly slidings: readonly Sliding[];
  readonly widths: readonly Width[];
}

/** x [n, h, w, c] to [n, oh, ow, c]. Equal largest elements of a window share its gradient equally. */
export function maxPool2d(x: Node, options: PoolOptions): Node {
  const { slidings, widths } = pooling("maxPool2d", x, options);
  const value = build.cast(x, computed(x.dtype));
  const padded = padAxes(value, 1, widths, reductions.amax.identity(value.dtype));
  const windows = slideAll("maxPool2d", padded, 1, slidings);
  return build.reduce("amax", windows, [4, 5]);
}

/** x [n, h, w, c] to [n, oh, ow, c], in f32: the mean of the elements that a window has; padding is none. */
export function avgPool2d(x: Node, options: PoolOptions): Node {
  const { slidings, widths } = pooling("avgPool2d", x, options);
  const windows = slideAll("avgPool2d", padAxes(build.cast(x, "f32"), 1, widths), 1, slidings);
  const sum = build.reduce("sum", windows, [4, 5]);
  const counts = slidings.map((sliding, i) => elementsOf(sliding, widths[i]!, x.shape[1 + i]!, sum.shape[1 + i]!));
  const count = counts.map((n, i) => build.reshape(n, i === 0 ? [n.shape[0]!, 1, 1] : [n.shape[0]!, 1]));
  return div(sum, mul(count[0]!, count[1]!));
}

/** How many elements of an axis of `extent` each of `count` windows has: of start to start + length, what lies within. */
function elementsOf({ length, stride }: Sliding, { before, after }: Width, extent: number, count: number): Node {
  if (before === 0 && after === 0) return build.full([count], length, "f32");
  const start = sub(mul(build.iota(count, "f32"), stride), before);
  return sub(apply("min", add(start, length), extent), apply("max", start, 0));
}

function pooling(op: string, x: Node, { size, stride = size, padding = 0 }: PoolOptions): Pooling {
  if (x.shape.length !== 4) {
    throw new ShapeError(op, { got: formatShape(x.shape), need: "[n, height, width, channels]" });
  }
  const lengths = perAxis(op, "size", size, 2, 1);
  const strides = perAxis(op, "stride", stride, 2, 1);
  const slidings = lengths.map((length, i) => ({ length, stride: strides[i]!, dilation: 1 }));
  const widths = paddingOf(op, padding, x.shape.slice(1, 3), slidings);
  if (widths.some(({ before, after }, i) => Math.max(before, after) >= lengths[i]!)) {
    throw new ArgumentError(op, {
      got: `padding [${padding}], size [${size}]`,
      need: "less padding than a window has elements",
    });
  }
  return { slidings, widths };
}

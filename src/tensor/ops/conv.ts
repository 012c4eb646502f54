/**
 * Convolutions of nodes, channels last: products of windows and weights, summed over the window and its channels, a form
 * that the compiler recognises. (Cross-correlations, as everywhere in the field: the kernel is not flipped.)
 */
import { ShapeError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import { computed, promote } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import { formatShape, type Shape } from "../../graph/shape.ts";
import { padAxes, type Padding, paddingOf, type PerAxis, perAxis, slideAll, type Sliding } from "./windows.ts";

/** How a convolution goes over its input. */
export interface ConvOptions {
  /** Elements from one window to the next. Default 1. */
  readonly stride?: PerAxis | undefined;
  /** Zeros around the input. Default 0. */
  readonly padding?: Padding | undefined;
  /** Elements from one element of a window to the next. Default 1. */
  readonly dilation?: PerAxis | undefined;
  /** Input and output channels are cut into so many groups, each convolved by itself. Default 1. */
  readonly groups?: number | undefined;
}

/** How a transposed convolution goes over its output. */
export type ConvTransposeOptions = Omit<ConvOptions, "groups">;

/**
 * x [n, ...lengths, in] by w [...kernel, in / groups, out] to [n, ...counts, out], over as many axes as w has before its
 * last two. Throws ShapeError where they do not fit, ArgumentError for options that make no sense.
 */
export function convolve(op: string, x: Node, w: Node, options: ConvOptions, axes: number): Node {
  const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
  const channels = x.shape.at(-1)!;
  const outputs = w.shape.at(-1)!;
  perAxis(op, "groups", groups, 1, 1);
  checkRanks(op, x, w, axes);
  if (w.shape[axes] !== channels / groups || outputs % groups !== 0) {
    throw new ShapeError(op, {
      got: `x ${formatShape(x.shape)}, w ${formatShape(w.shape)}, groups ${groups}`,
      need: `w of shape [...kernel, ${
        channels / groups
      }, a multiple of ${groups}]: x's channels, over the groups, and outputs`,
    });
  }
  const kernel = w.shape.slice(0, axes);
  const slidings = slidingsOf(op, kernel, stride, dilation);
  const widths = paddingOf(op, padding, x.shape.slice(1, -1), slidings);
  const [value, weight] = meet(x, w);
  const [n, inner, outer] = [x.shape[0]!, channels / groups, outputs / groups];
  // Groups are an axis of their own before anything moves, so that in the gradient no reshape stands in between.
  const parts = groups === 1 ? [] : [groups];
  const grouped = build.reshape(value, [...x.shape.slice(0, -1), ...parts, inner]);
  const windows = slideAll(op, padAxes(grouped, 1, widths), 1, slidings);
  const counts = windows.shape.slice(1, 1 + axes);
  // [n, ...counts, groups, in, ...kernel] and [...kernel, in, groups, out], both as [n, ...counts, groups, ...kernel, in, out].
  const lead = 1 + axes + parts.length;
  const left = build.permute(windows, [...range(0, lead), ...range(lead + 1, axes), lead]);
  const split = build.reshape(weight, [...kernel, inner, ...parts, outer]);
  const right = build.permute(split, [
    ...range(axes + 1, parts.length),
    ...range(0, axes + 1),
    axes + 1 + parts.length,
  ]);
  const shape = [n, ...counts, ...parts, ...kernel, inner, outer];
  const product = build.elementwise(
    "mul",
    build.expand(build.reshape(left, [...left.shape, 1]), shape),
    build.expand(build.reshape(right, [...shape.slice(0, 1 + axes).map(() => 1), ...right.shape]), shape),
  );
  const sum = build.reduce("sum", product, range(lead, axes + 1));
  return build.reshape(sum, [n, ...counts, outputs]);
}

/**
 * The adjoint of a convolution: x [n, ...lengths, in] by w [...kernel, out, in] to [n, ...grown, out], where a length L of
 * x becomes (L - 1) * stride + (kernel - 1) * dilation + 1, less the padding of both sides; with "same", L * stride.
 */
export function convolveTransposed(op: string, x: Node, w: Node, options: ConvTransposeOptions, axes: number): Node {
  const { stride = 1, padding = 0, dilation = 1 } = options;
  checkRanks(op, x, w, axes);
  if (w.shape.at(-1) !== x.shape.at(-1)) {
    throw new ShapeError(op, {
      got: `x ${formatShape(x.shape)}, w ${formatShape(w.shape)}`,
      need: `w of shape [...kernel, outputs, ${x.shape.at(-1)}], x's channels last`,
    });
  }
  const kernel = w.shape.slice(0, axes);
  const slidings = slidingsOf(op, kernel, stride, dilation);
  const lengths = x.shape.slice(1, 1 + axes);
  const along = lengths.map((steps, i) => ({ steps, ...slidings[i]! }));
  const whole = along.map(({ steps, length, stride, dilation }) => (steps - 1) * stride + (length - 1) * dilation + 1);
  const same = along.map(({ steps, stride }) => steps * stride);
  // The padding is that of the convolution whose input is this one's output.
  const widths = paddingOf(op, padding, padding === "same" ? same : whole, slidings);
  const grown = padding === "same" ? same : widths.map(({ before, after }, i) => whole[i]! - before - after);
  if (grown.some((n) => n < 1)) {
    throw new ShapeError(op, {
      got: `x ${formatShape(x.shape)}, w ${formatShape(w.shape)}, padding ${String(padding)}`,
      need: `less padding than [${whole}], to which the windows extend`,
    });
  }
  const [value, weight] = meet(x, w);
  const [n, channels, outputs] = [x.shape[0]!, x.shape.at(-1)!, w.shape[axes]!];
  const shape = [n, ...lengths, ...kernel, outputs, channels];
  const left = build.reshape(value, [n, ...lengths, ...kernel.map(() => 1), 1, channels]);
  const product = build.elementwise("mul", build.expand(left, shape), build.broadcastTo(weight, shape));
  const columns = build.reduce("sum", product, [shape.length - 1]);
  // [n, ...lengths, ...kernel, outputs] to [n, ...lengths, outputs, ...kernel], then one kernel axis after the other, last first.
  let result = build.permute(columns, [...range(0, axes + 1), 2 * axes + 1, ...range(axes + 1, axes)]);
  for (let i = axes - 1; i >= 0; i--) {
    const { stride, dilation } = slidings[i]!;
    const length = Math.max(whole[i]!, widths[i]!.before + grown[i]!);
    result = build.unwindow(result, { axis: 1 + i, length, stride, dilation });
    result = build.reduce("sum", result, [result.shape.length - 1]);
  }
  const start = result.shape.map((_, axis) => widths[axis - 1]?.before ?? 0);
  return build.slice(result, start, [n, ...grown, outputs], start.map(() => 1));
}

function slidingsOf(op: string, kernel: Shape, stride: PerAxis, dilation: PerAxis): Sliding[] {
  const strides = perAxis(op, "stride", stride, kernel.length, 1);
  const dilations = perAxis(op, "dilation", dilation, kernel.length, 1);
  return kernel.map((length, i) => ({ length, stride: strides[i]!, dilation: dilations[i]! }));
}

function checkRanks(op: string, x: Node, w: Node, axes: number): void {
  if (x.shape.length === axes + 2 && w.shape.length === axes + 2 && w.shape.slice(0, axes).every((n) => n > 0)) return;
  const names = axes === 1 ? ["length", "kernel"] : ["height, width", "kernelHeight, kernelWidth"];
  throw new ShapeError(op, {
    got: `x ${formatShape(x.shape)}, w ${formatShape(w.shape)}`,
    need: `x [n, ${names[0]}, channels], w [${names[1]}, channels, channels], with a kernel of at least one element`,
  });
}

/** Both in the dtype in which they meet; bools count as i32, f16 as f32. */
function meet(x: Node, w: Node): [Node, Node] {
  const dtype = computed(promote(x.dtype, w.dtype));
  return [build.cast(x, dtype), build.cast(w, dtype)];
}

function range(start: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => start + i);
}

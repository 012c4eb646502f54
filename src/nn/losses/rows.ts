/** The rows that a loss or metric averages over, and how much each counts. */
import { ArgumentError, DTypeError, ShapeError } from "../../errors.ts";
import { isFloat } from "../../graph/dtype.ts";
import { formatShape, sameShape, type Shape, size } from "../../graph/shape.ts";
import type { Ratio } from "../../parallel/decompose/ratio.ts";
import { full, where } from "../../tensor/create.ts";
import { probabilitiesOf } from "../../tensor/ops/probabilities.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/** Options that every loss and metric takes. */
export interface RowOptions {
  /**
   * How much each row counts: as long as the leading axes, or as the first of them (one weight a sequence, for its
   * tokens). A row of weight 0 contributes nothing, forward or backward, whatever it holds: NaN, infinities or a label
   * outside the classes. Not negative.
   */
  readonly weights?: Tensor | undefined;
}

/** The rows that a loss or a metric averages over. */
export interface Rows {
  /**
   * `x` [rows..., ...] with 0 in the rows that do not count. To be taken before any arithmetic: what such a row holds may be
   * NaN, and a cotangent of 0 that meets an infinite derivative is NaN too.
   */
  keep(x: Tensor): Tensor;
  /** The weighted mean of `values`, as numerator and denominator. */
  mean(values: Tensor): Ratio;
}

/**
 * Rows of a shape, of which those count whose weight is not 0 and for which `counted` is true. Their values are f32, one a
 * row. Throws ShapeError when weights do not fit.
 */
export function rowsOf(op: string, shape: Shape, weights: Tensor | undefined, counted?: Tensor): Rows {
  const given = weights === undefined ? undefined : spread(op, weights, shape);
  const own = given === undefined || counted === undefined ? given : where(counted, given, 0);
  const kept = own?.notEqual(0) ?? counted;
  if (kept === undefined) {
    return { keep: (x) => x, mean: (values) => ({ sum: values.sum(), count: full([], size(shape)) }) };
  }
  const factors = own ?? kept.cast("f32");
  return {
    keep: (x) => where(alongRows(kept, x.rank), x, 0),
    mean: (values) => ({
      sum: where(kept, own === undefined ? values : values.mul(own), 0).sum(),
      count: factors.sum(),
    }),
  };
}

/**
 * The same for values [rows..., elements...], whose mean runs over all elements. With weights, the axes that they cover are
 * the rows, and a row's value is the mean over its elements.
 */
export function rowsOfElements(op: string, shape: Shape, weights: Tensor | undefined): Rows {
  const rank = Math.min(shape.length, weights?.rank ?? 1);
  const axis = shape.map((_, i) => i).slice(rank);
  const elements = size(shape.slice(rank));
  const rows = rowsOf(op, shape.slice(0, rank), weights);
  return {
    keep: (x) => rows.keep(x),
    mean: (values) => rows.mean(axis.length === 0 ? values : values.sum({ axis }).mul(1 / Math.max(1, elements))),
  };
}

/** Labels as the losses and metrics of classes take them. */
export type Labels =
  | { readonly kind: "classes"; readonly labels: Tensor; readonly counted: Tensor | undefined }
  | { readonly kind: "probabilities"; readonly probabilities: Tensor };

/**
 * Tells integer labels from probabilities by their shape. Throws ShapeError, DTypeError or ArgumentError when neither
 * fits.
 */
export function readLabels(op: string, logits: Tensor, labels: Tensor, ignore: number | undefined): Labels {
  if (!isFloat(logits.dtype) && isFloat(labels.dtype)) {
    throw new DTypeError(op, {
      got: `logits of ${logits.dtype} and labels of ${labels.dtype}`,
      need: "the logits first, the labels second",
    });
  }
  requireFloat(op, "logits", logits);
  const leading = logits.shape.slice(0, -1);
  const integer = labels.dtype === "i32" || labels.dtype === "u32";
  if (logits.rank > 0 && sameShape(labels.shape, logits.shape)) {
    if (ignore !== undefined) {
      throw new ArgumentError(op, {
        got: `ignore ${ignore} with probabilities`,
        need: "integer labels; with probabilities use weights",
      });
    }
    return { kind: "probabilities", probabilities: labels.dtype === "f32" ? labels : labels.cast("f32") };
  }
  if (logits.rank === 0 || !sameShape(labels.shape, leading)) {
    throw new ShapeError(op, {
      got: `logits ${formatShape(logits.shape)} and labels ${formatShape(labels.shape)}`,
      need: "logits [..., classes] with integer labels [...] or probabilities [..., classes]",
    });
  }
  if (!integer) {
    throw new DTypeError(op, {
      got: `labels of ${labels.dtype}`,
      need: 'integers: an Int32Array in the data, or labels.cast("i32")',
    });
  }
  if (ignore !== undefined && !Number.isInteger(ignore)) {
    throw new ArgumentError(op, { got: `ignore ${ignore}`, need: "an integer label" });
  }
  const classes = labels.dtype === "i32" ? labels : labels.cast("i32");
  return { kind: "classes", labels: classes, counted: ignore === undefined ? undefined : classes.notEqual(ignore) };
}

/** Throws ShapeError unless the shapes are equal, DTypeError unless the prediction is of floats. */
export function requireAlike(op: string, prediction: Tensor, target: Tensor): void {
  if (!sameShape(prediction.shape, target.shape)) {
    throw new ShapeError(op, {
      got: `${formatShape(prediction.shape)} and ${formatShape(target.shape)}`,
      need: "equal shapes: reshape one of them",
    });
  }
  requireFloat(op, "a prediction", prediction);
}

/** Throws ArgumentError for logits that are the result of a softmax or a sigmoid: these functions begin with one themselves. */
export function requireLogits(op: string, logits: Tensor): void {
  const by = probabilitiesOf(logits.node);
  if (by === undefined) return;
  throw new ArgumentError(op, {
    got: `the result of a ${by} as logits`,
    need:
      `what the ${by} was taken of: ${op} has one in it; leave it out of the model, and take output.${by}() where probabilities are wanted`,
  });
}

function requireFloat(op: string, what: string, value: Tensor): void {
  if (!isFloat(value.dtype)) throw new DTypeError(op, { got: `${what} of ${value.dtype}`, need: "f32 or f16" });
}

function spread(op: string, weights: Tensor, shape: Shape): Tensor {
  const fits = weights.rank <= shape.length && weights.shape.every((length, axis) => length === shape[axis]);
  if (!fits || weights.rank === 0 && shape.length > 0) {
    throw new ShapeError(op, {
      got: `weights ${formatShape(weights.shape)} for rows ${formatShape(shape)}`,
      need: "a weight for each row: the same shape, or its first axes",
    });
  }
  const values = weights.dtype === "f32" ? weights : weights.cast("f32");
  return alongRows(values, shape.length).broadcastTo(shape);
}

/** A value of each row [rows...], with axes of length 1 behind up to `rank`. */
function alongRows(x: Tensor, rank: number): Tensor {
  return x.rank === rank ? x : x.reshape([...x.shape, ...new Array<number>(rank - x.rank).fill(1)]);
}

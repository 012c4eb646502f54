/** The rows that a loss or metric averages over, and how much each counts. */
import { ArgumentError, DTypeError, ShapeError } from "../errors.ts";
import { isFloat } from "../graph/dtype.ts";
import { formatShape, sameShape, type Shape, size } from "../graph/shape.ts";
import { full } from "../tensor/create.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { where } from "../tensor/where.ts";
import type { Ratio } from "./loss.ts";

/** Options that every loss and metric takes. */
export interface RowOptions {
  /**
   * How much each row counts: as long as the leading axes, or as the first of them (one weight a sequence, for its
   * tokens). A row of weight 0 contributes nothing, whatever its values. Not negative.
   */
  readonly weights?: Tensor;
}

/**
 * The weighted mean of `values` (f32, one a row) as numerator and denominator; only rows where `counted` is true count.
 * Throws ShapeError when weights do not fit.
 */
export function weightedRows(op: string, values: Tensor, weights: Tensor | undefined, counted?: Tensor): Ratio {
  if (weights === undefined && counted === undefined) {
    return { sum: values.sum(), count: full([], size(values.shape)) };
  }
  if (weights === undefined) {
    return { sum: where(counted!, values, 0).sum(), count: counted!.cast("f32").sum() };
  }
  const own = spread(op, weights, values.shape);
  const kept = counted === undefined ? own : where(counted, own, 0);
  // A select, not a product alone: 0 times an infinite loss is NaN.
  return { sum: where(kept.notEqual(0), values.mul(kept), 0).sum(), count: kept.sum() };
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
    throw new DTypeError(op, { got: `labels of ${labels.dtype}`, need: 'integers: cast them with .cast("i32")' });
  }
  if (ignore !== undefined && !Number.isInteger(ignore)) {
    throw new ArgumentError(op, { got: `ignore ${ignore}`, need: "an integer label" });
  }
  const classes = labels.dtype === "i32" ? labels : labels.cast("i32");
  return { kind: "classes", labels: classes, counted: ignore === undefined ? undefined : classes.notEqual(ignore) };
}

/**
 * The mean over all elements of `values` [rows..., elements...] as numerator and denominator. With weights, the axes
 * that
 * they cover are the rows, and a row's value is the mean over its elements.
 */
export function weightedElements(op: string, values: Tensor, weights: Tensor | undefined): Ratio {
  const rank = Math.min(values.rank, weights?.rank ?? 1);
  const axis = values.shape.map((_, i) => i).slice(rank);
  const elements = size(values.shape.slice(rank));
  const rows = axis.length === 0 ? values : values.sum({ axis }).mul(1 / Math.max(1, elements));
  return weightedRows(op, rows, weights);
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
  const ones = new Array<number>(shape.length - weights.rank).fill(1);
  return values.reshape([...weights.shape, ...ones]).broadcastTo(shape);
}

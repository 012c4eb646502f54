/**
 * The losses. Each gives numerator and denominator, and is written so that its gradient stays one elementwise row
 * expression.
 */
import { ArgumentError } from "../errors.ts";
import { arange } from "../tensor/create.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { where } from "../tensor/where.ts";
import { Loss } from "./loss.ts";
import { readLabels, requireAlike, type RowOptions, weightedElements, weightedRows } from "./rows.ts";

export interface CrossEntropyOptions extends RowOptions {
  /** Rows with this label do not count. Integer labels only. */
  readonly ignore?: number;
  /** Share of the target that is spread evenly over all classes, from 0 to below 1. Default 0. */
  readonly labelSmoothing?: number;
}

/**
 * Cross-entropy, in nats, under `logits` [..., classes] of integer `labels` [...] (i32 or u32, 0 to classes - 1) or of
 * probabilities [..., classes]. Leading axes are rows, so token logits [n, tokens, classes] work as they are.
 * The sum runs over counted rows; the count is their number, or the sum of their weights.
 * A label outside the classes makes the loss NaN, unless it is `ignore`.
 * Throws ShapeError when leading axes differ, DTypeError for labels that are not integers, ArgumentError for bad
 * options.
 */
export function crossEntropy(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Loss {
  const op = "nn.crossEntropy";
  const { weights, ignore, labelSmoothing = 0 } = options;
  if (!(labelSmoothing >= 0 && labelSmoothing < 1)) {
    throw new ArgumentError(op, { got: `labelSmoothing ${labelSmoothing}`, need: "a number from 0 to below 1" });
  }
  const target = readLabels(op, logits, labels, ignore);
  const classes = logits.shape.at(-1)!;
  const even = labelSmoothing / classes;
  const normalizer = logits.logSumExp({ axis: -1 });
  if (target.kind === "probabilities") {
    const given = target.probabilities;
    const p = labelSmoothing === 0 ? given : given.mul(1 - labelSmoothing).add(even);
    // -sum p log softmax(z); a class of probability 0 adds nothing even where its logit is -Infinity.
    const terms = p.mul(normalizer.unsqueeze(-1).sub(logits));
    const rows = where(p.equal(0), 0, terms).sum({ axis: -1 });
    return new Loss([{ ...weightedRows(op, rows, weights), weight: 1 }]);
  }
  // The logit of the label is picked by comparison rather than by gather: its gradient is then a select that fuses into
  // softmax(z) - target, instead of a scatter.
  const hit = arange(classes, { dtype: "i32" }).equal(target.labels.unsqueeze(-1));
  const picked = labelSmoothing === 0 ? where(hit, logits, 0) : logits.mul(where(hit, 1 - labelSmoothing + even, even));
  const rows = normalizer.sub(picked.sum({ axis: -1 }));
  const legal = target.labels.greaterEqual(0).and(target.labels.less(classes));
  return new Loss([{ ...weightedRows(op, where(legal, rows, NaN), weights, target.counted), weight: 1 }]);
}

/**
 * Mean squared error of `prediction` against `target`, of equal shapes. The mean runs over all elements; with `weights`
 * over weighted rows, a row's error being the mean over its elements.
 * Throws ShapeError when the shapes differ: nothing is broadcast.
 */
export function mse(prediction: Tensor, target: Tensor, options: RowOptions = {}): Loss {
  const op = "nn.mse";
  requireAlike(op, prediction, target);
  return new Loss([{ ...weightedElements(op, prediction.sub(target).square(), options.weights), weight: 1 }]);
}

/**
 * Cross-entropy, in nats, of independent yes/no targets (0 to 1, bool or numbers) under `logits` of the same shape:
 * log(1 + exp(z)) - target * z. Mean and weights as in `mse`.
 * Throws ShapeError when the shapes differ: nothing is broadcast.
 */
export function binaryCrossEntropy(logits: Tensor, targets: Tensor, options: RowOptions = {}): Loss {
  const op = "nn.binaryCrossEntropy";
  requireAlike(op, logits, targets);
  const y = targets.dtype === "f32" ? targets : targets.cast("f32");
  return new Loss([{ ...weightedElements(op, logits.softplus().sub(logits.mul(y)), options.weights), weight: 1 }]);
}

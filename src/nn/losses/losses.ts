/**
 * The losses. Each gives numerator and denominator, and is written so that its gradient stays one elementwise row
 * expression, and that neither loss nor gradient is a difference of numbers that are nearly equal: both keep their digits
 * however far the logits are from 0, and however small they are.
 */
import { ArgumentError } from "../../errors.ts";
import { noteLabels } from "../../parallel/run/label-ranges.ts";
import { number, options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { arange, where } from "../../tensor/create.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";
import { Loss } from "./loss.ts";
import { readLabels, requireAlike, requireLogits, type RowOptions, rowsOf, rowsOfElements } from "./rows.ts";

export interface CrossEntropyOptions extends RowOptions {
  /** Rows with this label do not count. Integer labels only. */
  readonly ignore?: number | undefined;
  /** Share of the target that is spread evenly over all classes, from 0 to below 1. Default 0. */
  readonly labelSmoothing?: number | undefined;
}

/**
 * Cross-entropy, in nats, under `logits` [..., classes] of integer `labels` [...] (i32 or u32, 0 to classes - 1) or of
 * probabilities [..., classes]. Leading axes are rows, so token logits [n, tokens, classes] work as they are.
 * The sum runs over counted rows; the count is their number, or the sum of their weights.
 * A label outside the classes makes the loss NaN, unless its row does not count; its row has no part in the gradient. A trainer
 * says which label it is. A logit of Infinity is a class that is
 * certain (several share the certainty), one of -Infinity a class that is impossible; NaN, and -Infinity for all classes,
 * make the loss NaN.
 * Throws ShapeError when leading axes differ, DTypeError for labels that are not integers, ArgumentError for bad
 * options.
 */
export function crossEntropy(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Loss {
  const op = "nn.crossEntropy";
  signatures.crossEntropy.check(arguments);
  const { weights, ignore, labelSmoothing = 0 } = options;
  if (!(labelSmoothing >= 0 && labelSmoothing < 1)) {
    throw new ArgumentError(op, { got: `labelSmoothing ${labelSmoothing}`, need: "a number from 0 to below 1" });
  }
  requireLogits(op, logits);
  const target = readLabels(op, logits, labels, ignore);
  const classes = logits.shape.at(-1)!;
  const even = labelSmoothing / classes;
  const rows = rowsOf(op, logits.shape.slice(0, -1), weights, target.kind === "classes" ? target.counted : undefined);
  const z = rows.keep(logits).cast("f32");
  if (target.kind === "probabilities") {
    const given = rows.keep(target.probabilities);
    const p = labelSmoothing === 0 ? given : given.mul(1 - labelSmoothing).add(even);
    return new Loss([{ ...rows.mean(ofProbabilities(z, p)), weight: 1 }]);
  }
  // The logit of the label is picked by comparison rather than by gather: its gradient is then a select that fuses into
  // softmax(z) - target, instead of a scatter.
  const label = rows.keep(target.labels);
  const hit = arange(classes, { dtype: "i32" }).equal(label.unsqueeze(-1));
  const values = labelSmoothing === 0
    ? ofLabels(z, hit)
    : ofProbabilities(z, where(hit, 1 - labelSmoothing + even, even));
  const legal = label.greaterEqual(0).and(label.less(classes));
  const ofRows = where(legal, values, NaN);
  noteLabels(op, ofRows, label, classes);
  return new Loss([{ ...rows.mean(ofRows), weight: 1 }]);
}

/** The largest logit of each row, on which no loss depends: a constant for gradients. */
function largestOf(z: Tensor, keepDims: boolean): Tensor {
  return z.max({ axis: -1, keepDims }).detach();
}

/** z - largest. Beside an infinite logit, finite ones are as far away as can be. */
function below(largest: Tensor, z: Tensor): Tensor {
  return where(largest.equal(Infinity), where(z.equal(Infinity), 0, -Infinity), z.sub(largest));
}

/**
 * log(sum exp(d)) - d_label of each row, of d = z - largest. Where the label is likely it is log1p(others / exp(d_label)),
 * whose parts and derivatives vanish as the loss does: 1 - softmax would have lost its digits by then.
 */
function ofLabels(z: Tensor, hit: Tensor): Tensor {
  const picked = below(largestOf(z, false), where(hit, z, 0).sum({ axis: -1 }));
  const others = where(hit, -Infinity, below(largestOf(z, true), z)).exp().sum({ axis: -1 });
  const likely = picked.greater(-1);
  const small = others.mul(where(likely, picked, 0).neg().exp()).log1p();
  return where(likely, small, others.add(picked.exp()).log().sub(picked));
}

/**
 * sum p (log(sum exp(d)) - d) of each row, of d = z - largest; a class of probability 0 adds nothing even where its logit is
 * -Infinity.
 */
function ofProbabilities(z: Tensor, p: Tensor): Tensor {
  const largest = largestOf(z, true);
  // One of the largest logits is the 1 of log1p, so that the log of a row whose others are far away keeps its digits.
  const isLargest = z.equal(largest).cast("f32");
  const more = isLargest.sum({ axis: -1 }).sub(1);
  const normalizer = below(largest, z).exp().sub(isLargest).sum({ axis: -1 }).add(more).log1p();
  // largest - z, by itself: what a row kernel needs in more than two passes would be stored.
  const ahead = where(largest.equal(Infinity), where(z.equal(Infinity), 0, Infinity), largest.sub(z));
  const impossible = p.equal(0).and(ahead.equal(Infinity));
  return p.sum({ axis: -1 }).mul(normalizer).add(p.mul(where(impossible, 0, ahead)).sum({ axis: -1 }));
}

/**
 * Mean squared error of `prediction` against `target`, of equal shapes. The mean runs over all elements; with `weights`
 * over weighted rows, a row's error being the mean over its elements.
 * Throws ShapeError when the shapes differ: nothing is broadcast.
 */
export function mse(prediction: Tensor, target: Tensor, options: RowOptions = {}): Loss {
  const op = "nn.mse";
  signatures.mse.check(arguments);
  requireAlike(op, prediction, target);
  const rows = rowsOfElements(op, prediction.shape, options.weights);
  return new Loss([{ ...rows.mean(rows.keep(prediction).sub(rows.keep(target)).square()), weight: 1 }]);
}

/**
 * Cross-entropy, in nats, of independent yes/no targets (0 to 1, bool or numbers) under `logits` of the same shape:
 * log(1 + exp(z)) - target * z. A logit of Infinity or -Infinity is certainty: 0 where the target agrees, else Infinity.
 * Mean and weights as in `mse`.
 * Throws ShapeError when the shapes differ: nothing is broadcast.
 */
export function binaryCrossEntropy(logits: Tensor, targets: Tensor, options: RowOptions = {}): Loss {
  const op = "nn.binaryCrossEntropy";
  signatures.binaryCrossEntropy.check(arguments);
  requireLogits(op, logits);
  requireAlike(op, logits, targets);
  const rows = rowsOfElements(op, logits.shape, options.weights);
  const z = rows.keep(logits).cast("f32");
  const y = rows.keep(targets).cast("f32");
  // |z| times the part of the target that it speaks against, and what is left of a log that vanishes for large |z|.
  const yes = z.greaterEqual(0);
  const size = where(yes, z, z.neg());
  const against = where(yes, y.neg().add(1), y);
  const certain = against.equal(0).and(size.equal(Infinity));
  const values = against.mul(where(certain, 0, size)).add(size.neg().exp().log1p());
  return new Loss([{ ...rows.mean(values), weight: 1 }]);
}

const byRows = options<RowOptions>({ weights: tensorKind });
const signatures = {
  crossEntropy: takes("nn.crossEntropy", {
    logits: tensorKind,
    labels: tensorKind,
    options: options<CrossEntropyOptions>({ ignore: number, labelSmoothing: number, weights: tensorKind }),
  }),
  mse: takes("nn.mse", { prediction: tensorKind, target: tensorKind, options: byRows }),
  binaryCrossEntropy: takes("nn.binaryCrossEntropy", { logits: tensorKind, targets: tensorKind, options: byRows }),
};

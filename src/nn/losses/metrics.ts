/** Metrics: means to report. They combine over shards as losses do. */
import { ArgumentError, ShapeError } from "../../errors.ts";
import { formatShape } from "../../graph/shape.ts";
import { number, options, required } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { arange, where } from "../../tensor/create.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";
import { type Loss, lossKind, Metric } from "./loss.ts";
import { readLabels, requireAlike, requireLogits, type RowOptions, rowsOf, rowsOfElements } from "./rows.ts";

export interface AccuracyOptions extends RowOptions {
  /** Rows with this label do not count. Integer labels only. */
  readonly ignore?: number | undefined;
}

export interface TopKOptions extends AccuracyOptions {
  /** How many of the largest logits are looked at: an integer of at least 1. */
  readonly k: number;
}

/**
 * Share of rows whose largest logit (the first of equal ones) is the label's; of probabilities, the likeliest class. A row
 * with a NaN has no largest one, and is wrong. Shapes, weights and errors as in `crossEntropy`.
 */
export function accuracy(logits: Tensor, labels: Tensor, options: AccuracyOptions = {}): Metric {
  const op = "nn.accuracy";
  signatures.accuracy.check(arguments);
  if (logits.shape.at(-1) === 1) {
    throw new ShapeError(op, {
      got: `logits ${formatShape(logits.shape)}`,
      need: "a logit for each class; nn.binaryAccuracy for one logit of yes and no",
    });
  }
  const target = readLabels(op, logits, labels, options.ignore);
  const counted = target.kind === "classes" ? target.counted : undefined;
  const classes = target.kind === "classes" ? target.labels : likeliest(target.probabilities);
  // Where both are unknown, nothing is right.
  const first = likeliest(logits);
  const right = first.equal(classes).and(first.greaterEqual(0)).cast("f32");
  return new Metric(rowsOf(op, right.shape, options.weights, counted).mean(right));
}

/** The position of the largest element of each row; -1 where one is NaN. */
function likeliest(x: Tensor): Tensor {
  return where(x.isNaN().any({ axis: -1 }), -1, x.argmax({ axis: -1 }));
}

/**
 * Share of rows whose label is among the `k` largest logits; ties count as among them. A logit that is NaN is no hit where
 * it is the label's, and counts as larger where it is another's. Integer labels only.
 */
export function topKAccuracy(logits: Tensor, labels: Tensor, options: TopKOptions): Metric {
  const op = "nn.topKAccuracy";
  signatures.topKAccuracy.check(arguments);
  const { k, ignore, weights } = options;
  if (!Number.isInteger(k) || k < 1) throw new ArgumentError(op, { got: `k ${k}`, need: "an integer of at least 1" });
  const target = readLabels(op, logits, labels, ignore);
  if (target.kind !== "classes") {
    throw new ShapeError(op, { got: `labels ${formatShape(labels.shape)}`, need: "integer labels, one a row" });
  }
  const hit = arange(logits.shape.at(-1)!, { dtype: "i32" }).equal(target.labels.unsqueeze(-1));
  const picked = where(hit, logits, 0).sum({ axis: -1, keepDims: true });
  const unknown = logits.isNaN();
  const above = logits.greater(picked).or(unknown).cast("f32").sum({ axis: -1 });
  const right = above.less(k).and(hit.and(unknown.not()).any({ axis: -1 })).cast("f32");
  return new Metric(rowsOf(op, right.shape, weights, target.counted).mean(right));
}

/**
 * Share of yes/no targets (bool, or numbers that mean yes above 0.5) that `logits` of the same shape get right: yes
 * above 0. A NaN, in either, is wrong.
 */
export function binaryAccuracy(logits: Tensor, targets: Tensor, options: RowOptions = {}): Metric {
  const op = "nn.binaryAccuracy";
  signatures.binaryAccuracy.check(arguments);
  requireLogits(op, logits);
  requireAlike(op, logits, targets);
  const yes = targets.dtype === "bool" ? targets : targets.greater(0.5);
  const unknown = logits.isNaN().or(targets.isNaN());
  const right = logits.greater(0).equal(yes).and(unknown.not()).cast("f32");
  return new Metric(rowsOfElements(op, right.shape, options.weights).mean(right));
}

/** Mean of |prediction - target|, of equal shapes; weights as in `mse`. */
export function meanAbsoluteError(prediction: Tensor, target: Tensor, options: RowOptions = {}): Metric {
  const op = "nn.meanAbsoluteError";
  signatures.meanAbsoluteError.check(arguments);
  requireAlike(op, prediction, target);
  const rows = rowsOfElements(op, prediction.shape, options.weights);
  return new Metric(rows.mean(rows.keep(prediction).sub(rows.keep(target)).abs()));
}

/** A loss of one term, reported as a metric. Throws ArgumentError for a loss of several terms. */
export function lossMetric(loss: Loss): Metric {
  signatures.lossMetric.check(arguments);
  return new Metric({ sum: loss.sum, count: loss.count });
}

const byRows = options<RowOptions>({ weights: tensorKind });
const ofClasses = { ignore: number, weights: tensorKind };
const signatures = {
  accuracy: takes("nn.accuracy", {
    logits: tensorKind,
    labels: tensorKind,
    options: options<AccuracyOptions>(ofClasses),
  }),
  topKAccuracy: takes("nn.topKAccuracy", {
    logits: tensorKind,
    labels: tensorKind,
    options: required<TopKOptions>(["k"], { k: number, ...ofClasses }),
  }),
  binaryAccuracy: takes("nn.binaryAccuracy", { logits: tensorKind, targets: tensorKind, options: byRows }),
  meanAbsoluteError: takes("nn.meanAbsoluteError", { prediction: tensorKind, target: tensorKind, options: byRows }),
  lossMetric: takes("nn.lossMetric", { loss: lossKind }),
};

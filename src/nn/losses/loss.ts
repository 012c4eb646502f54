/** Losses and metrics as numerators and denominators, so that the shards of a batch combine exactly. */
import { areEqual } from "../../compiler/simplify/merge-equal.ts";
import { ArgumentError, DecompositionError, DTypeError, ShapeError } from "../../errors.ts";
import { type DType, isFloat } from "../../graph/dtype.ts";
import { type Node, toposort } from "../../graph/node.ts";
import { formatShape } from "../../graph/shape.ts";
import { quotient, type Ratio } from "../../parallel/decompose/ratio.ts";
import { foreignWords } from "../../signature/foreign.ts";
import { either, instance, type Kind, listOf, number, optional, required } from "../../signature/kinds.ts";
import { guard, type Methods, takes } from "../../signature/takes.ts";
import { full } from "../../tensor/create.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";

/** A mean of your own: see `nn.loss`. */
export interface GivenRatio {
  /** The sum over what is counted, an f32 scalar. */
  readonly sum: Tensor;
  /** What it is divided by: an f32 scalar, or a number of at least 0. */
  readonly count: Tensor | number;
}

/** One term of a loss: `weight * sum / count`. */
export interface LossTerm<D extends DType = DType> extends Ratio<D> {
  /** By what its quotient is multiplied. */
  readonly weight: number;
}

/**
 * A loss: the sum over its terms of `weight * sum / count`, plus a penalty that does not depend on the batch.
 * Shards of a batch are combined by adding the sums and the counts of each term, so the denominators are those of the
 * whole batch. A term that counts nothing is 0, never NaN. A count may not depend on parameters.
 */
export class Loss {
  /** Each a sum over rows and its count. */
  readonly terms: readonly LossTerm<"f32">[];
  /** f32 scalar added once, whatever the number of shards; undefined for none. */
  readonly penalty: Tensor<"f32"> | undefined;

  constructor(terms: readonly LossTerm[], penalty?: Tensor) {
    signatures.Loss.check(arguments);
    for (const term of terms) {
      requireScalar("nn.loss", "sum", term.sum);
      requireScalar("nn.loss", "count", term.count);
    }
    if (penalty !== undefined) requireScalar("nn.penalty", "tensor", penalty);
    this.terms = terms as readonly LossTerm<"f32">[];
    this.penalty = penalty as Tensor<"f32"> | undefined;
  }

  /** The numerator, weight included. Throws ArgumentError unless the loss is one term. */
  get sum(): Tensor<"f32"> {
    const term = this.#only("sum");
    return scaled(term.sum, term.weight);
  }

  /** The denominator. Throws ArgumentError unless the loss is one term. */
  get count(): Tensor<"f32"> {
    return this.#only("count").count;
  }

  /** The loss itself, an f32 scalar: what one differentiates. */
  get mean(): Tensor<"f32"> {
    const parts = this.terms.map((term) => scaled(quotient(term.sum, term.count), term.weight));
    if (this.penalty !== undefined) parts.push(this.penalty);
    return parts.length === 0 ? full([], 0) : parts.reduce((total, part) => total.add(part));
  }

  /** This loss and another. Terms with the same denominator (the same node) become one. */
  plus(other: Loss): Loss {
    const terms = [...this.terms];
    for (const term of other.terms) {
      const at = terms.findIndex((known) => areEqual(known.count.node, term.count.node));
      if (at === -1) terms.push(term);
      else terms[at] = merged(terms[at]!, term);
    }
    const penalties = [this.penalty, other.penalty].filter((penalty) => penalty !== undefined);
    return new Loss(terms, penalties.length === 2 ? penalties[0]!.add(penalties[1]!) : penalties[0]);
  }

  /** This loss times a finite number, its penalty included. */
  scale(factor: number): Loss {
    if (!Number.isFinite(factor)) {
      throw new ArgumentError("Loss.scale", { got: String(factor), need: "a finite number" });
    }
    const terms = this.terms.map((term) => ({ ...term, weight: term.weight * factor }));
    return new Loss(terms, this.penalty?.mul(factor));
  }

  #only(field: string): LossTerm<"f32"> {
    const [term] = this.terms;
    if (term === undefined || this.terms.length > 1 || this.penalty !== undefined) {
      throw new ArgumentError(`Loss.${field}`, {
        got: `${this.terms.length} terms${this.penalty === undefined ? "" : " and a penalty"}`,
        need: "a loss of one term: read .mean, or each of .terms",
      });
    }
    return term;
  }
}

/** A metric: a mean that is reported, without a gradient. Shards combine as those of a loss. */
export class Metric implements Ratio {
  /** The sum over rows: a scalar. */
  readonly sum: Tensor<"f32">;
  /** What it is divided by: a scalar. */
  readonly count: Tensor<"f32">;

  constructor(ratio: Ratio) {
    signatures.Metric.check(arguments);
    const { sum, count } = ratio;
    requireScalar("nn.metric", "sum", sum);
    requireScalar("nn.metric", "count", count);
    this.sum = sum as Tensor<"f32">;
    this.count = count as Tensor<"f32">;
  }

  /** `sum / count`, an f32 scalar; 0 where nothing was counted. */
  get mean(): Tensor<"f32"> {
    return quotient(this.sum, this.count);
  }
}

/** A loss of your own: `sum` over what `count` counts. Both are f32 scalars; a number serves as a constant count. */
export function loss(ratio: GivenRatio): Loss {
  signatures.loss.check(arguments);
  return new Loss([{ sum: ratio.sum, count: asCount("nn.loss", ratio.count), weight: 1 }]);
}

/** A metric of your own: `sum` over what `count` counts. Both are f32 scalars; a number serves as a constant count. */
export function metric(ratio: GivenRatio): Metric {
  signatures.metric.check(arguments);
  return new Metric({ sum: ratio.sum, count: asCount("nn.metric", ratio.count) });
}

/**
 * A term that depends on parameters only, such as weight decay: an f32 scalar that counts once, whatever the shards.
 */
export function penalty(value: Tensor): Loss {
  signatures.penalty.check(arguments);
  return new Loss([], value);
}

export const lossKind: Kind<Loss> = instance(Loss, "a Loss, as of nn.crossEntropy, nn.mse or nn.loss({ sum, count })");
const ratio = { sum: tensorKind, count: tensorKind };
const given = { ratio: required<GivenRatio>(["sum", "count"], { sum: tensorKind, count: either(tensorKind, number) }) };
const signatures = {
  Loss: takes("nn.Loss", {
    terms: listOf(
      required<LossTerm>(["sum", "count", "weight"], { ...ratio, weight: number }),
      "a list of { sum, count, weight }",
    ),
    penalty: optional(tensorKind),
  }),
  Metric: takes("nn.Metric", { ratio: required<Ratio>(["sum", "count"], ratio) }),
  loss: takes("nn.loss", given),
  metric: takes("nn.metric", given),
  penalty: takes("nn.penalty", { value: tensorKind }),
};
const methods: Methods<Loss> = { plus: { other: lossKind }, scale: { factor: number } };
guard("Loss.", Loss.prototype, methods);
for (const [owner, { prototype }] of [["Loss", Loss], ["Metric", Metric]] as const) {
  foreignWords(owner, prototype, {
    item: "await loss.mean.item()",
    data: "await loss.mean.data()",
    dataSync: "await loss.mean.item()",
    array: "await loss.mean.array()",
    backward: "grad(loss.mean, tensors)",
    add: "loss.plus(other)",
    mul: "loss.scale(factor)",
    div: "loss.scale(1 / divisor)",
  });
}

/**
 * Throws DecompositionError when a count has a derivative with respect to one of `parameters`: numerators and
 * denominators are added separately over shards, so the gradient of a quotient would be lost.
 */
export function checkCounts(loss: Loss, parameters: readonly Tensor[]): void {
  const nodes = new Set<Node>(parameters.map((parameter) => parameter.node));
  loss.terms.forEach((term, index) => {
    // Integers and bools have no derivative, and stopGradient cuts it: nothing differentiable lies above them.
    const reached = toposort(
      [term.count.node],
      (node) => isFloat(node.dtype) && node.op !== "stopGradient" && !nodes.has(node),
    );
    if (reached.some((node) => nodes.has(node))) {
      throw new DecompositionError("nn.loss", {
        got: `a count of term ${index} that depends on parameters`,
        need: "a count of rows, tokens or sample weights; for a constant factor use detach()",
      });
    }
  });
}

function merged(a: LossTerm<"f32">, b: LossTerm<"f32">): LossTerm<"f32"> {
  return { sum: scaled(a.sum, a.weight).add(scaled(b.sum, b.weight)), count: a.count, weight: 1 };
}

function scaled(x: Tensor<"f32">, factor: number): Tensor<"f32"> {
  return factor === 1 ? x : x.mul(factor);
}

function asCount(op: string, count: Tensor | number): Tensor {
  if (typeof count !== "number") return count;
  if (!Number.isFinite(count) || count < 0) {
    throw new ArgumentError(op, { got: `count ${count}`, need: "a number of at least 0" });
  }
  return full([], count);
}

function requireScalar(op: string, name: string, value: Tensor): void {
  if (value.rank !== 0) {
    throw new ShapeError(op, { got: `${name} ${formatShape(value.shape)}`, need: "a scalar, such as x.sum()" });
  }
  if (value.dtype !== "f32") {
    throw new DTypeError(op, { got: `${name} of ${value.dtype}`, need: 'f32: cast it with .cast("f32")' });
  }
}

import { ArgumentError, ShapeError } from "../../errors.ts";
import { formatShape } from "../../graph/shape.ts";
import { boolean, number, oneOf, options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";
import { type Dropout, dropout } from "./dropout.ts";
import { type Linear, linear, requireLength } from "./linear.ts";
import { Module } from "./module.ts";

/** What an attention layer is like. */
export interface MultiHeadAttentionOptions {
  /** Whether a position sees only those that are not later than itself. Default false. */
  readonly causal?: boolean | undefined;
  /** Rate at which attention weights are dropped in training. Default 0. */
  readonly dropout?: number | undefined;
  /** Whether the four linear layers have biases. Default true. */
  readonly bias?: boolean | undefined;
  /** As that of `Tensor.scaledDotProductAttention`; while weights are dropped, scores are stored. By default by their number. */
  readonly scores?: "stored" | "online" | undefined;
}

/** What one call of the layer attends to. */
export interface AttendOptions {
  /** Where keys and values come from, of shape [..., s, features]. Default: x itself. */
  readonly context?: Tensor | undefined;
  /** As that of `Tensor.scaledDotProductAttention`, for [..., heads, t, s]. Default: none. */
  readonly mask?: Tensor | undefined;
}

const op = "nn.multiHeadAttention";
const signatures = {
  multiHeadAttention: takes(op, {
    features: number,
    heads: number,
    options: options<MultiHeadAttentionOptions>({
      causal: boolean,
      dropout: number,
      bias: boolean,
      scores: oneOf("stored", "online"),
    }),
  }),
  forward: takes(op, { x: tensorKind, options: options<AttendOptions>({ context: tensorKind, mask: tensorKind }) }),
};

/**
 * x [..., t, features] to the same shape: queries, keys and values are linear in x, and each of `heads` attends with its
 * share of the features. With `context` [..., s, features] the keys and values come from there. `mask` is as that of
 * `Tensor.scaledDotProductAttention`, for [..., heads, t, s]. Vaswani et al., Attention Is All You Need (2017).
 */
export class MultiHeadAttention extends Module {
  /** From x to queries. */
  readonly query: Linear;
  /** From the context to keys. */
  readonly key: Linear;
  /** From the context to values. */
  readonly value: Linear;
  /** From the joined heads to the result. */
  readonly output: Linear;
  /** The dropout of weights. */
  readonly drop: Dropout;
  /** Into how many heads features are cut. */
  readonly heads: number;
  /** Whether nothing later is seen. */
  readonly causal: boolean;
  /** How scores are held; undefined for by their number. */
  readonly scores: "stored" | "online" | undefined;

  constructor(features: number, heads: number, options: MultiHeadAttentionOptions = {}) {
    super();
    signatures.multiHeadAttention.check(arguments);
    requireLength(op, "features", features);
    requireLength(op, "heads", heads);
    if (features % heads !== 0) {
      throw new ArgumentError(op, { got: `${heads} heads`, need: `a divisor of features (${features})` });
    }
    const { causal = false, bias = true } = options;
    this.query = linear(features, features, { bias });
    this.key = linear(features, features, { bias });
    this.value = linear(features, features, { bias });
    this.output = linear(features, features, { bias });
    this.drop = dropout(options.dropout ?? 0);
    this.heads = heads;
    this.causal = causal;
    this.scores = options.scores;
  }

  /** What the layer gives for x. */
  override forward(x: Tensor, options: AttendOptions = {}): Tensor<"f32"> {
    signatures.forward.check(arguments);
    const { context = x, mask } = options;
    const features = this.query.weight.shape[0]!;
    for (const part of [x, context]) {
      if (part.rank < 2 || part.shape.at(-1) !== features) {
        throw new ShapeError(op, { got: formatShape(part.shape), need: `[..., positions, ${features}]` });
      }
    }
    const drops = this.drop.rate > 0 && this.drop.training;
    const attended = this.#apart(this.query.forward(x)).scaledDotProductAttention(
      this.#apart(this.key.forward(context)),
      this.#apart(this.value.forward(context)),
      {
        causal: this.causal,
        ...(drops
          ? { onWeights: (weights: Tensor) => this.drop.forward(weights) }
          : this.scores === undefined
          ? {}
          : { scores: this.scores }),
        ...(mask === undefined ? {} : { mask }),
      },
    );
    return this.output.forward(swapped(attended).reshape(x.shape));
  }

  /** [..., t, features] to [..., heads, t, features / heads]. */
  #apart(x: Tensor): Tensor {
    return swapped(x.reshape([...x.shape.slice(0, -1), this.heads, x.shape.at(-1)! / this.heads]));
  }
}

/** [..., a, b, c] to [..., b, a, c]. */
function swapped(x: Tensor): Tensor {
  return x.permute(x.shape.map((_, axis) => axis === x.rank - 3 ? axis + 1 : axis === x.rank - 2 ? axis - 1 : axis));
}

/**
 * Attention of so many heads over so many features. Throws ArgumentError for numbers that make no sense, and for heads
 * that do not divide the features.
 */
export function multiHeadAttention(
  features: number,
  heads: number,
  options: MultiHeadAttentionOptions = {},
): MultiHeadAttention {
  signatures.multiHeadAttention.check(arguments);
  return new MultiHeadAttention(features, heads, options);
}

import { DTypeError } from "../../errors.ts";
import { number, options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";
import { type Initializer, normal } from "./init.ts";
import { initializer } from "./kinds.ts";
import { requireLength } from "./linear.ts";
import { Module } from "./module.ts";
import { initialized } from "./parameter.ts";

/** What an embedding is like. */
export interface EmbeddingOptions {
  /** Initial table. Default normal with standard deviation 1. */
  readonly init?: Initializer | undefined;
}

const op = "nn.embedding";
const signatures = {
  embedding: takes(op, {
    entries: number,
    features: number,
    options: options<EmbeddingOptions>({ init: initializer }),
  }),
  forward: takes(op, { indices: tensorKind }),
};

/** Rows of `weight` [entries, features] by integers [...], as [..., features]. */
export class Embedding extends Module {
  /** The rows, of shape [entries, features]. */
  readonly weight: Tensor<"f32">;

  constructor(entries: number, features: number, options: EmbeddingOptions = {}) {
    super();
    signatures.embedding.check(arguments);
    requireLength(op, "entries", entries);
    requireLength(op, "features", features);
    const { init = normal() } = options;
    this.weight = initialized(op, init, [entries, features], { in: entries, out: features });
  }

  /** What the layer gives for x. Throws ShapeError where x does not fit, DTypeError where its dtype does not. */
  override forward(indices: Tensor): Tensor<"f32"> {
    signatures.forward.check(arguments);
    if (indices.dtype !== "i32" && indices.dtype !== "u32") {
      throw new DTypeError(op, {
        got: `indices of ${indices.dtype}`,
        need: 'integers: cast them with .cast("i32")',
      });
    }
    return this.weight.take(indices, { axis: 0 });
  }
}

/** A table of `entries` vectors of `features` elements. Throws ArgumentError unless both are integers of at least 1. */
export function embedding(entries: number, features: number, options: EmbeddingOptions = {}): Embedding {
  signatures.embedding.check(arguments);
  return new Embedding(entries, features, options);
}

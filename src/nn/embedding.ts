import { DTypeError } from "../errors.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type Initializer, normal } from "./init.ts";
import { requireLength } from "./linear.ts";
import { Module } from "./module.ts";
import { parameter } from "./parameter.ts";

export interface EmbeddingOptions {
  /** Initial table. Default normal with standard deviation 1. */
  readonly init?: Initializer;
}

/** Rows of `weight` [entries, features] by integers [...], as [..., features]. */
export class Embedding extends Module {
  readonly weight: Tensor<"f32">;

  constructor(entries: number, features: number, options: EmbeddingOptions = {}) {
    super();
    requireLength("nn.embedding", "entries", entries);
    requireLength("nn.embedding", "features", features);
    const { init = normal() } = options;
    this.weight = parameter(init([entries, features], { in: entries, out: features }));
  }

  override forward(indices: Tensor): Tensor<"f32"> {
    if (indices.dtype !== "i32" && indices.dtype !== "u32") {
      throw new DTypeError("nn.embedding", {
        got: `indices of ${indices.dtype}`,
        need: 'integers: cast them with .cast("i32")',
      });
    }
    return this.weight.take(indices, { axis: 0 });
  }
}

/** A table of `entries` vectors of `features` elements. Throws ArgumentError unless both are integers of at least 1. */
export function embedding(entries: number, features: number, options: EmbeddingOptions = {}): Embedding {
  return new Embedding(entries, features, options);
}

/** Batches as types: as the functions of a trainer see them, and as they are given to it. */
import type { BatchOf, HostTensor } from "../../parallel/split/host-batch.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/** Tensors in records and lists, nested in any way. */
export type TensorTree = Tensor | readonly TensorTree[] | { readonly [name: string]: TensorTree };

/** A batch as the functions of a trainer see it. */
export type TensorRecord = { readonly [name: string]: TensorTree };

/** The fields of a batch `B`, which may be an interface (those have no index signature): tensors, in records and lists. */
export type TensorFields<B> = { readonly [K in keyof B]: TensorsOf<B[K]> };

/** A field of a batch, or a part of one, as `TensorFields` wants it. */
export type TensorsOf<T> = T extends Tensor ? Tensor : T extends object ? TensorFields<T> : undefined;

declare const byDefault: unique symbol;

/**
 * The fields that a trainer's functions find in a batch unless they say otherwise, as `(output, batch: { x: Tensor; weights:
 * Tensor }) => …` does. Batches without `y` may be given, for functions that do not read it.
 */
export type DefaultBatch = {
  /** What the model is given. */
  readonly x: Tensor;
  /** What its output is compared with. */
  readonly y: Tensor;
  /** Tells it from a batch of one's own with these fields. */
  readonly [byDefault]?: never;
};

/** What may be given where a trainer's functions take `B`. */
export type InputOf<B> = typeof byDefault extends keyof B ? {
    /** What the model is given. */
    readonly x: Tensor | HostTensor;
    /** What its output is compared with. */
    readonly y?: Tensor | HostTensor;
  }
  : BatchOf<B>;

/** Batches of an epoch, such as `data.batches`: iterated once for each epoch. */
export type Batched<G> = (Iterable<G> | AsyncIterable<G>) & {
  /** Batches in an epoch, for the progress shown. */
  readonly length?: number;
  /** Rows in an epoch, for the time left. */
  readonly rows?: number;
};

/** The batches of an epoch, for a trainer whose functions take `B`. */
export type BatchSource<B> = Batched<InputOf<B>>;

/** In an error of the type checker: the fields that batches lack, or have as something else. */
export interface BatchesWithout<Names> {
  /** Their names. */
  readonly "fields that the batches need": Names;
}

/** Nothing where batches `G` may be given for `W`, and else what says which fields do not fit: a short error. */
export type Fits<G, W> = unknown extends G ? unknown
  : [G] extends [W] ? unknown
  : BatchesWithout<
    {
      [K in keyof W]-?: K extends keyof G ? [G[K]] extends [W[K]] ? never : K
        : { readonly [P in K]?: W[P] } extends Pick<W, K> ? never
        : K;
    }[
      keyof W
    ]
  >;

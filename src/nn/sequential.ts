import type { DType } from "../graph/dtype.ts";
import type { Sum } from "../tensor/dtypes.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Activation, GivenOf } from "./activation.ts";
import type { Dropout } from "./dropout.ts";
import { type Layer, Module } from "./module.ts";

/** The dtype that a chain of layers gives of D. */
export type ChainOf<L extends readonly Layer[], D extends DType = DType> = L extends
  readonly [infer First extends Layer, ...infer Rest extends readonly Layer[]] ? ChainOf<Rest, NextOf<First, D>>
  : L extends readonly [] ? D
  : DType;

type NextOf<L extends Layer, D extends DType> = L extends Activation<infer G> ? GivenOf<G, D>
  : L extends Dropout ? D | Sum<D, number>
  : ReturnType<L["forward"]>["dtype"];

/** Layers applied one after the other, which give a tensor of D. */
export class Sequential<out D extends DType = DType> extends Module {
  readonly layers: readonly Layer[];

  constructor(layers: readonly Layer[]) {
    super();
    this.layers = layers;
  }

  override forward(x: Tensor): Tensor<D> {
    return this.layers.reduce((value, layer) => layer.forward(value), x) as Tensor<D>;
  }
}

/** A chain of layers; of none, the identity. A layer that stands twice has one set of weights. */
export function sequential<L extends readonly Layer[]>(...layers: L): Sequential<ChainOf<L>> {
  return new Sequential(layers);
}

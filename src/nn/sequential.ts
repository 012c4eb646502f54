import type { Tensor } from "../tensor/tensor.ts";
import { type Layer, Module } from "./module.ts";

/** Layers applied one after the other. */
export class Sequential extends Module {
  readonly layers: readonly Layer[];

  constructor(layers: readonly Layer[]) {
    super();
    this.layers = layers;
  }

  override forward(x: Tensor): Tensor {
    return this.layers.reduce((value, layer) => layer.forward(value), x);
  }
}

/** A chain of layers; of none, the identity. A layer that stands twice has one set of weights. */
export function sequential(...layers: Layer[]): Sequential {
  return new Sequential(layers);
}

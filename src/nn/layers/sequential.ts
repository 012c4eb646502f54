import { ArgumentError } from "../../errors.ts";
import type { DType } from "../../graph/dtype.ts";
import { anything, listOf, rest } from "../../signature/kinds.ts";
import { show } from "../../signature/show.ts";
import { takes } from "../../signature/takes.ts";
import type { Sum } from "../../tensor/dtypes.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";
import type { Activation, GivenOf } from "./activation.ts";
import type { Dropout } from "./dropout.ts";
import { type Layer, Module, moduleKind } from "./module.ts";

const op = "nn.sequential";
const signatures = {
  list: takes(op, { layers: listOf<Layer>(anything, "a list of modules") }),
  layers: takes(op, { layers: rest(moduleKind) }),
  forward: takes(op, { x: tensorKind }),
};

/** The dtype that a chain of layers gives of D. */
export type ChainOf<L extends readonly Layer[], D extends DType = DType> = L extends
  readonly [infer First extends Layer, ...infer Rest extends readonly Layer[]] ? ChainOf<Rest, NextOf<First, D>>
  : L extends readonly [] ? D
  : DType;

type NextOf<L extends Layer, D extends DType> = L extends Activation<infer G> ? GivenOf<G, D>
  : L extends Dropout ? D | Sum<D, number>
  : ReturnType<L["forward"]>["dtype"];

/** Those that are given one by one, or as the one list. */
type LayersOf<L extends readonly unknown[]> = L extends readonly Layer[] ? L
  : L extends readonly [infer List extends readonly Layer[]] ? List
  : readonly Layer[];

/** Layers applied one after the other, which give a tensor of D. */
export class Sequential<out D extends DType = DType> extends Module {
  /** In their order. */
  readonly layers: readonly Layer[];

  constructor(layers: readonly Layer[]) {
    super();
    signatures.list.check(arguments);
    signatures.layers.check(layers);
    this.layers = [...layers];
  }

  /** What the layer gives for x. */
  override forward(x: Tensor): Tensor<D> {
    signatures.forward.check(arguments);
    return this.layers.reduce((value, layer, i) => {
      const next: unknown = layer.forward(value);
      if (next !== undefined) return next as Tensor;
      throw new ArgumentError(op, {
        got: `undefined from layer ${i}, ${show(layer)}`,
        need: "a forward that returns a Tensor",
      });
    }, x) as Tensor<D>;
  }
}

/** A chain of layers, given one by one or as a list; of none, the identity. A layer that stands twice has one set of weights. */
export function sequential<L extends readonly (Layer | readonly Layer[] | readonly [])[]>(
  ...layers: L
): Sequential<ChainOf<LayersOf<L>>> {
  const [first] = layers;
  if (layers.length === 1 && Array.isArray(first)) return new Sequential(first as readonly Layer[]);
  signatures.layers.check(layers);
  return new Sequential(layers as readonly (Layer | readonly Layer[])[] as readonly Layer[]);
}

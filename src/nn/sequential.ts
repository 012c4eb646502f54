import { ArgumentError } from "../errors.ts";
import { anything, listOf, rest } from "../signature/kinds.ts";
import { show } from "../signature/show.ts";
import { takes } from "../signature/takes.ts";
import { type Tensor, tensorKind } from "../tensor/tensor.ts";
import { type Layer, Module, moduleKind } from "./module.ts";

const op = "nn.sequential";
const signatures = {
  list: takes(op, { layers: listOf<Layer>(anything, "a list of modules") }),
  layers: takes(op, { layers: rest(moduleKind) }),
  forward: takes(op, { x: tensorKind }),
};

/** Layers applied one after the other. */
export class Sequential extends Module {
  readonly layers: readonly Layer[];

  constructor(layers: readonly Layer[]) {
    super();
    signatures.list.check(arguments);
    signatures.layers.check(layers);
    this.layers = [...layers];
  }

  override forward(x: Tensor): Tensor {
    signatures.forward.check(arguments);
    return this.layers.reduce((value, layer, i) => {
      const next: unknown = layer.forward(value);
      if (next !== undefined) return next as Tensor;
      throw new ArgumentError(op, { got: `undefined from layer ${i}, ${show(layer)}`, need: "a forward that returns a Tensor" });
    }, x);
  }
}

/** A chain of layers, given one by one or as a list; of none, the identity. A layer that stands twice has one set of weights. */
export function sequential(...layers: readonly Layer[] | readonly [layers: readonly Layer[]]): Sequential {
  if (layers.length === 1 && Array.isArray(layers[0])) return new Sequential(layers[0] as readonly Layer[]);
  signatures.layers.check(layers);
  return new Sequential(layers as readonly Layer[]);
}

/** Kinds of arguments that modules, optimizers and trainers have to do with. */
import { callable, type Kind, listOf, refusalOf } from "../../signature/kinds.ts";
import { show } from "../../signature/show.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";
import type { Initializer } from "./init.ts";

export const initializer: Kind<Initializer> = {
  ...callable,
  need: "an initializer, a function of shape and fan, such as nn.init.zeros",
};

export const tensors: Kind<readonly Tensor[]> = listOf(tensorKind, "a list of Tensors");

/** A plain object with values of one kind. */
export function recordOf<T>(kind: Kind<T>, need: string): Kind<Readonly<Record<string, T>>> {
  return {
    need,
    accepts: (x) => isRecord(x) && Object.values(x).every((value) => kind.accepts(value)),
    refuse(name, x) {
      if (!isRecord(x)) return { got: `${show(x)} as ${name}`, need };
      const [key, value] = Object.entries(x).find(([, value]) => !kind.accepts(value))!;
      return refusalOf(kind, `${name}.${key}`, value);
    },
  };
}

export const namedTensors: Kind<Readonly<Record<string, Tensor>>> = recordOf(tensorKind, "a plain object of Tensors");

/** Whether it is a plain object, and no class's. */
export function isRecord(x: unknown): x is Readonly<Record<string, unknown>> {
  if (typeof x !== "object" || x === null) return false;
  const prototype: unknown = Object.getPrototypeOf(x);
  return prototype === Object.prototype || prototype === null;
}

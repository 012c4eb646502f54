/** Kinds of arguments that optimizers have to do with. */
import { type Kind, number } from "../../signature/kinds.ts";
import { show } from "../../signature/show.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { namedTensors, tensors } from "../layers/kinds.ts";
import type { MomentOptions } from "./moments.ts";
import type { LearningRate } from "./rule.ts";

export const learningRate: Kind<LearningRate> = {
  need: "a number or a function of the step as learning rate, such as optim.cosineSchedule(…)",
  accepts: (x) => typeof x === "number" || typeof x === "function",
};

/** Tensors as a list or by name. */
export const tensorTree: Kind<readonly Tensor[] | Readonly<Record<string, Tensor>>> = {
  need: "a list of Tensors, or a plain object of them",
  accepts: (x) => tensors.accepts(x) || namedTensors.accepts(x),
  refuse(name, x) {
    const isModel = typeof (x as { readonly parameters?: unknown } | null)?.parameters === "function";
    return {
      got: `${show(x)} as ${name}`,
      need: `a list of Tensors, or a plain object of them${isModel ? ": did you mean model.parameters()?" : ""}`,
    };
  },
};

export const moments: { readonly [K in keyof MomentOptions]-?: Kind<number> } = {
  beta1: number,
  beta2: number,
  epsilon: number,
};

import { ArgumentError, ShapeError } from "../../errors.ts";
import { formatShape, sameShape } from "../../graph/shape.ts";
import { foreignProperties } from "../../signature/foreign.ts";
import { callable, listOf, number, required, string } from "../../signature/kinds.ts";
import { show } from "../../signature/show.ts";
import { takes } from "../../signature/takes.ts";
import { isTensor, type Tensor, tensorKind } from "../../tensor/tensor.ts";
import { namedTensors, recordOf } from "../layers/kinds.ts";
import { bind, type BoundOptimizer, type ParameterTree } from "./bind.ts";
import { learningRate as learningRateKind, tensorTree } from "./kinds.ts";
import { requireLearningRate, type UpdateInput, type UpdateResult, type UpdateRule } from "./rule.ts";

/** A rule that can also be bound to parameters, for use without the trainer. */
export interface Optimizer extends UpdateRule {
  /** Packs the parameters (f32, distinct) into one flat tensor and gives what updates them in place. */
  bind<T extends ParameterTree>(parameters: T): BoundOptimizer<T>;
}

const signature = takes("optim.optimizer", {
  // That of another optimizer may be a part of it, as in { ...optim.adam(), learningRate: 1 }.
  rule: required<Optimizer>(["name", "learningRate", "slots", "scalars", "update"], {
    name: string,
    learningRate: learningRateKind,
    slots: listOf(string, "a list of names"),
    scalars: recordOf(number, "a plain object of numbers"),
    update: callable,
    bind: callable,
  }),
});

const input = required<UpdateInput>(["parameter", "gradient", "slots", "scalars", "step", "learningRate"], {
  parameter: tensorKind,
  gradient: tensorKind,
  slots: namedTensors,
  scalars: namedTensors,
  step: tensorKind,
  learningRate: tensorKind,
});

/**
 * An optimizer of your own from its rule. Throws ArgumentError for a learning rate that is negative or not finite. An update
 * that does not return what it is to return is refused when it runs: with ArgumentError, ShapeError for a wrong shape.
 */
export function optimizer(rule: UpdateRule): Optimizer {
  signature.check(arguments);
  const { name, learningRate, slots, scalars } = rule;
  if (typeof learningRate !== "function") requireLearningRate(name, learningRate);
  const updating = takes(`optim.${name}.update`, { input });
  const binding = takes(`optim.${name}.bind`, { parameters: tensorTree });
  const checked: UpdateRule = {
    name,
    learningRate,
    slots,
    scalars,
    update(input) {
      updating.check(arguments);
      return updated(rule, input);
    },
  };
  const made: Optimizer = {
    ...checked,
    bind(parameters) {
      binding.check(arguments);
      return bind(checked, parameters);
    },
  };
  foreignProperties(`optim.${name}`, made, {
    step: bound,
    minimize: bound,
    applyGradients: bound,
    zeroGrad: "nothing: grad and valueAndGrad give gradients, and keep none",
    zero_grad: "nothing: grad and valueAndGrad give gradients, and keep none",
  });
  return made;
}

const bound =
  "an optimizer that knows its parameters: const opt = optimizer.bind(model.parameters()); opt.step(gradients)";

/** What a rule makes of the state. */
function updated(rule: UpdateRule, input: UpdateInput): UpdateResult {
  const op = `optim.${rule.name}`;
  const result: unknown = rule.update(input);
  const of = (from: unknown, name: string, path: string, like: Tensor) => {
    const value = (from as Readonly<Record<string, unknown>> | null | undefined)?.[name];
    if (!isTensor(value)) {
      throw new ArgumentError(op, { got: `an update that returns ${show(value)} as ${path}`, need: "a Tensor" });
    }
    if (sameShape(value.shape, like.shape)) return;
    throw new ShapeError(op, {
      got: `an update that returns ${path} ${formatShape(value.shape)}`,
      need: formatShape(like.shape),
    });
  };
  of(result, "parameter", "parameter", input.parameter);
  const { slots, scalars } = result as UpdateResult;
  for (const name of rule.slots) of(slots, name, `slots.${name}`, input.slots[name]!);
  for (const name of Object.keys(rule.scalars)) of(scalars, name, `scalars.${name}`, input.scalars[name]!);
  return result as UpdateResult;
}

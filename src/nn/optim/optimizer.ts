import { bind, type BoundOptimizer, type ParameterTree } from "./bind.ts";
import { requireLearningRate, type UpdateRule } from "./rule.ts";

/** A rule that can also be bound to parameters, for use without the trainer. */
export interface Optimizer extends UpdateRule {
  /** Packs the parameters (f32, distinct) into one flat tensor and gives what updates them in place. */
  bind<T extends ParameterTree>(parameters: T): BoundOptimizer<T>;
}

/** An optimizer of your own from its rule. Throws ArgumentError for a learning rate that is negative or not finite. */
export function optimizer(rule: UpdateRule): Optimizer {
  const { name, learningRate } = rule;
  if (typeof learningRate !== "function") requireLearningRate(name, learningRate);
  return { ...rule, update: (input) => rule.update(input), bind: (parameters) => bind(rule, parameters) };
}

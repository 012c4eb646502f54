import { ArgumentError } from "../../errors.ts";
import { boolean, number, required } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { learningRate as learningRateKind } from "./kinds.ts";
import { type Optimizer, optimizer } from "./optimizer.ts";
import { type LearningRate, requireWithin } from "./rule.ts";

/** How `sgd` updates. */
export interface SgdOptions {
  /** A number, or a function of the step. */
  readonly learningRate: LearningRate;
  /** From 0 to below 1. Default 0. */
  readonly momentum?: number | undefined;
  /** Looks ahead along the velocity; needs momentum. Default false. */
  readonly nesterov?: boolean | undefined;
  /** This times the parameter is added to the gradient. Default 0. */
  readonly weightDecay?: number | undefined;
}

const signature = takes("optim.sgd", {
  options: required<SgdOptions>(["learningRate"], {
    learningRate: learningRateKind,
    momentum: number,
    nesterov: boolean,
    weightDecay: number,
  }),
});

/**
 * Stochastic gradient descent: v = momentum v + g; p -= learningRate v, or with Nesterov p -= learningRate (g +
 * momentum v).
 * Sutskever et al., On the importance of initialization and momentum in deep learning (2013), with the learning rate
 * outside the velocity, as in PyTorch.
 */
export function sgd(options: SgdOptions): Optimizer {
  signature.check(arguments);
  const name = "sgd";
  const { learningRate, momentum = 0, nesterov = false, weightDecay = 0 } = options;
  requireWithin(name, "momentum", momentum, 0, 1);
  requireWithin(name, "weightDecay", weightDecay, 0, Infinity);
  if (nesterov && momentum === 0) {
    throw new ArgumentError("optim.sgd", { got: "nesterov without momentum", need: "momentum above 0" });
  }
  return optimizer({
    name,
    learningRate,
    slots: momentum === 0 ? [] : ["velocity"],
    scalars: {},
    update({ parameter, gradient, slots, learningRate }) {
      const g = weightDecay === 0 ? gradient : gradient.add(parameter.mul(weightDecay));
      if (momentum === 0) return { parameter: parameter.sub(g.mul(learningRate)), slots: {}, scalars: {} };
      const velocity = slots["velocity"]!.mul(momentum).add(g);
      const direction = nesterov ? g.add(velocity.mul(momentum)) : velocity;
      return { parameter: parameter.sub(direction.mul(learningRate)), slots: { velocity }, scalars: {} };
    },
  });
}

import { number, options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { learningRate as learningRateKind, moments } from "./kinds.ts";
import { decayed, type MomentOptions, nextCorrection, readMoments } from "./moments.ts";
import { type Optimizer, optimizer } from "./optimizer.ts";
import { type LearningRate, requireWithin, type UpdateRule } from "./rule.ts";

/** How `adam` updates. */
export interface AdamOptions extends MomentOptions {
  /** Default 0.001. */
  readonly learningRate?: LearningRate | undefined;
  /** This times the parameter is added to the gradient (adamw decays the parameter itself). Default 0. */
  readonly weightDecay?: number | undefined;
}

const signature = takes("optim.adam", {
  options: options<AdamOptions>({ learningRate: learningRateKind, ...moments, weightDecay: number }),
});

/**
 * m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g²;
 * p -= learningRate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon).
 * Kingma and Ba, Adam: A Method for Stochastic Optimization (2014), algorithm 1.
 */
export function adam(options: AdamOptions = {}): Optimizer {
  signature.check(arguments);
  return optimizer(adamRule("adam", options, "gradient"));
}

/** Adam's rule, with weight decay added to the gradient or taken off the parameter. */
export function adamRule(name: string, options: AdamOptions, decay: "gradient" | "parameter"): UpdateRule {
  const { learningRate = 1e-3, weightDecay = 0 } = options;
  const { beta1, beta2, epsilon } = readMoments(name, options);
  requireWithin(name, "weightDecay", weightDecay, 0, Infinity);
  const coupled = decay === "gradient" && weightDecay !== 0;
  const decoupled = decay === "parameter" && weightDecay !== 0;
  return {
    name,
    learningRate,
    slots: ["mean", "square"],
    scalars: { meanCorrection: 0, squareCorrection: 0 },
    update({ parameter, gradient, slots, scalars, learningRate }) {
      const g = coupled ? gradient.add(parameter.mul(weightDecay)) : gradient;
      const mean = decayed(slots["mean"]!, beta1, g);
      const square = decayed(slots["square"]!, beta2, g.square());
      const meanCorrection = nextCorrection(scalars["meanCorrection"]!, beta1);
      const squareCorrection = nextCorrection(scalars["squareCorrection"]!, beta2);
      const rate = learningRate.div(meanCorrection);
      const move = mean.mul(rate).div(square.div(squareCorrection).sqrt().add(epsilon));
      const kept = decoupled ? parameter.mul(learningRate.mul(-weightDecay).add(1)) : parameter;
      return { parameter: kept.sub(move), slots: { mean, square }, scalars: { meanCorrection, squareCorrection } };
    },
  };
}

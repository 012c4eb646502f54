import { number, options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { learningRate as learningRateKind, moments } from "./kinds.ts";
import { decayed, type MomentOptions, nextCorrection, readMoments } from "./moments.ts";
import { type Optimizer, optimizer } from "./optimizer.ts";
import { type LearningRate, requireWithin } from "./rule.ts";

/** How `nadam` updates. */
export interface NadamOptions extends MomentOptions {
  /** Default 0.002. */
  readonly learningRate?: LearningRate | undefined;
  /** How fast the momentum warms up. Default 0.004. */
  readonly scheduleDecay?: number | undefined;
}

const signature = takes("optim.nadam", {
  options: options<NadamOptions>({ learningRate: learningRateKind, ...moments, scheduleDecay: number }),
});

/**
 * Adam with Nesterov momentum, as in Keras 2.
 * With mu_t = beta1 (1 - 0.96^(t scheduleDecay) / 2) and P_t = mu_1 … mu_t:
 * m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g²;
 * p -= learningRate ((1 - mu_t) g / (1 - P_t) + mu_{t+1} m / (1 - P_{t+1})) / (sqrt(v / (1 - beta2^t)) + epsilon).
 * Dozat, Incorporating Nesterov Momentum into Adam (2016).
 */
export function nadam(options: NadamOptions = {}): Optimizer {
  signature.check(arguments);
  const name = "nadam";
  const { learningRate = 2e-3, scheduleDecay = 0.004 } = options;
  const { beta1, beta2, epsilon } = readMoments(name, options);
  requireWithin(name, "scheduleDecay", scheduleDecay, 0, Infinity);
  const rate = scheduleDecay * Math.log(0.96);
  return optimizer({
    name,
    learningRate,
    slots: ["mean", "square"],
    scalars: { schedule: 1, squareCorrection: 0 },
    update({ parameter, gradient, slots, scalars, step, learningRate }) {
      const fading = step.mul(rate).exp();
      const mu = fading.mul(-0.5 * beta1).add(beta1);
      const nextMu = fading.mul(-0.5 * beta1 * Math.exp(rate)).add(beta1);
      const schedule = scalars["schedule"]!.mul(mu);
      const squareCorrection = nextCorrection(scalars["squareCorrection"]!, beta2);
      const mean = decayed(slots["mean"]!, beta1, gradient);
      const square = decayed(slots["square"]!, beta2, gradient.square());
      // The scalar factors come first, so that an element costs two products and a sum.
      const ofGradient = mu.neg().add(1).div(schedule.neg().add(1)).mul(learningRate);
      const ofMean = nextMu.div(schedule.mul(nextMu).neg().add(1)).mul(learningRate);
      const move = gradient.mul(ofGradient).add(mean.mul(ofMean)).div(square.div(squareCorrection).sqrt().add(epsilon));
      return { parameter: parameter.sub(move), slots: { mean, square }, scalars: { schedule, squareCorrection } };
    },
  });
}

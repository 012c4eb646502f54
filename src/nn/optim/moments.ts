/** The running moments that the Adam family shares. */
import type { Tensor } from "../../tensor/tensor.ts";
import { requireWithin } from "./rule.ts";

/** What optimizers with moments have in common. */
export interface MomentOptions {
  /** Decay of the mean of gradients, from 0 to below 1. Default 0.9. */
  readonly beta1?: number | undefined;
  /** Decay of the mean of squared gradients, from 0 to below 1. Default 0.999. */
  readonly beta2?: number | undefined;
  /** Added to the root of the mean of squares. Default 1e-8. */
  readonly epsilon?: number | undefined;
}

export interface Moments {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
}

/** The options with their defaults. Throws ArgumentError when one is out of range. */
export function readMoments(name: string, options: MomentOptions): Moments {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8 } = options;
  requireWithin(name, "beta1", beta1, 0, 1);
  requireWithin(name, "beta2", beta2, 0, 1);
  requireWithin(name, "epsilon", epsilon, 0, Infinity);
  return { beta1, beta2, epsilon };
}

/** beta x + (1 - beta) y. */
export function decayed(x: Tensor, beta: number, y: Tensor | number): Tensor {
  return x.mul(beta).add(typeof y === "number" ? (1 - beta) * y : y.mul(1 - beta));
}

/**
 * 1 - beta^(t + 1) from 1 - beta^t: the running mean of ones. In f32 it keeps the digits that 1 - pow(beta, t) loses at
 * the first steps (beta2^1 = 0.999 leaves four of them), and it does not depend on a driver's pow.
 */
export function nextCorrection(correction: Tensor, beta: number): Tensor {
  return decayed(correction, beta, 1);
}

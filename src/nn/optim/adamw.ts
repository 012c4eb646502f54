import { type AdamOptions, adamRule } from "./adam.ts";
import { type Optimizer, optimizer } from "./optimizer.ts";

export interface AdamWOptions extends Omit<AdamOptions, "weightDecay"> {
  /** Each step the parameter loses this share of itself, times the learning rate. Default 0.01. */
  readonly weightDecay?: number;
}

/**
 * Adam with decoupled weight decay: p = p (1 - learningRate weightDecay), then Adam's update.
 * Loshchilov and Hutter, Decoupled Weight Decay Regularization (2017).
 */
export function adamw(options: AdamWOptions = {}): Optimizer {
  return optimizer(adamRule("adamw", { weightDecay: 0.01, ...options }, "parameter"));
}

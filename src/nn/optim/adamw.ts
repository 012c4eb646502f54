import { number, options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { type AdamOptions, adamRule } from "./adam.ts";
import { learningRate, moments } from "./kinds.ts";
import { type Optimizer, optimizer } from "./optimizer.ts";

/** How `adamw` updates. */
export interface AdamWOptions extends Omit<AdamOptions, "weightDecay"> {
  /** Each step the parameter loses this share of itself, times the learning rate. Default 0.01. */
  readonly weightDecay?: number | undefined;
}

const signature = takes("optim.adamw", {
  options: options<AdamWOptions>({ learningRate, ...moments, weightDecay: number }),
});

/**
 * Adam with decoupled weight decay: p = p (1 - learningRate weightDecay), then Adam's update.
 * Loshchilov and Hutter, Decoupled Weight Decay Regularization (2017).
 */
export function adamw(options: AdamWOptions = {}): Optimizer {
  signature.check(arguments);
  return optimizer(adamRule("adamw", { ...options, weightDecay: options.weightDecay ?? 0.01 }, "parameter"));
}

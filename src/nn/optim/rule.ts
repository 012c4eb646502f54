/** What an optimizer computes: a pure rule from parameters, gradients and state to new parameters and state. */
import { ArgumentError } from "../../errors.ts";
import type { StateUpdate } from "../../parallel/train/update.ts";
import { type Kind, number } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import type { Schedule } from "./schedules.ts";

export type { UpdateInput, UpdateResult } from "../../parallel/train/update.ts";

/** The learning rate: a number, or a function of the step, which is 1 at the first update. */
export type LearningRate = number | ((step: number) => number) | Schedule;

/** The rule alone, and what it needs. */
export interface UpdateRule extends StateUpdate {
  /** At least 0. */
  readonly learningRate: LearningRate;
}

const ruleKind: Kind<UpdateRule> = {
  need: "an optimizer, such as optim.adam()",
  accepts: (x) => typeof x === "object" && x !== null && "learningRate" in x && "name" in x,
};
const signature = takes("optim.learningRateAt", { rule: ruleKind, step: number });

/**
 * The learning rate at `step` (1 at the first update). Throws ArgumentError when a schedule gives no finite number of
 * at least 0.
 */
export function learningRateAt(rule: UpdateRule, step: number): number {
  signature.check(arguments);
  const { name, learningRate } = rule;
  return requireLearningRate(name, typeof learningRate === "function" ? learningRate(step) : learningRate, step);
}

/** Throws ArgumentError unless `value` is a finite number of at least 0. */
export function requireLearningRate(name: string, value: number, step?: number): number {
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0) {
    const when = step === undefined ? "" : ` at step ${step}`;
    throw new ArgumentError(`optim.${name}`, {
      got: `learning rate ${value}${when}`,
      need: "a finite number of at least 0",
    });
  }
  return value;
}

/** Throws ArgumentError unless `value` is within `from` (included) and `to` (excluded). */
export function requireWithin(name: string, option: string, value: number, from: number, to: number): void {
  if (!(value >= from && value < to)) {
    const need = to === Infinity ? `a finite number of at least ${from}` : `a number from ${from} to below ${to}`;
    throw new ArgumentError(`optim.${name}`, { got: `${option} ${value}`, need });
  }
}

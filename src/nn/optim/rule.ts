/** What an optimizer computes: a pure rule from parameters, gradients and state to new parameters and state. */
import { ArgumentError } from "../../errors.ts";
import { type Kind, number } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Schedule } from "./schedules.ts";

/** What a rule is given. All are f32; vectors have one element for each element of the parameters. */
export interface UpdateInput {
  /** All parameters in one vector. */
  readonly parameter: Tensor;
  /** Their gradient, in the same order. */
  readonly gradient: Tensor;
  /** State vectors, by the names in `Optimizer.slots`. */
  readonly slots: Readonly<Record<string, Tensor>>;
  /** State scalars, by the names in `Optimizer.scalars`. */
  readonly scalars: Readonly<Record<string, Tensor>>;
  /** Scalar: 1 at the first update. */
  readonly step: Tensor;
  /** Scalar. */
  readonly learningRate: Tensor;
}

/** What an update gives. */
export interface UpdateResult {
  /** The new parameters. */
  readonly parameter: Tensor;
  /** The new slots, by name. */
  readonly slots: Readonly<Record<string, Tensor>>;
  /** The new scalars, by name. */
  readonly scalars: Readonly<Record<string, Tensor>>;
}

/** The learning rate: a number, or a function of the step, which is 1 at the first update. */
export type LearningRate = number | ((step: number) => number) | Schedule;

/** The rule alone, and what it needs. */
export interface UpdateRule {
  /** What errors call it, after `optim.`. */
  readonly name: string;
  /** At least 0. */
  readonly learningRate: LearningRate;
  /** Names of the state vectors, which are 0 at first. */
  readonly slots: readonly string[];
  /** State scalars with their first values. */
  readonly scalars: Readonly<Record<string, number>>;
  /** One update. Elementwise in parameter, gradient and slots, so that it may run on all parameters laid end to end. */
  update(input: UpdateInput): UpdateResult;
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

/** Whether a step is taken or refused: by its loss, and by what is found of its gradient. */
import { NonFiniteLossError } from "../../errors.ts";
import { counted, isFiniteLoss, lossOf, readScores, type Scores } from "../decompose/scores.ts";
import type { Reason } from "../run/label-ranges.ts";
import { faultyParameter, gradientError } from "./faults.ts";
import type { FlatParameters } from "./flat-parameters.ts";
import type { Step } from "./step.ts";

/** A step that is not refused. */
export interface Judged {
  readonly scores: Scores;
  /** False where it counts nothing, so that nothing is updated. */
  readonly updated: boolean;
}

export class Judge {
  readonly #op: string;
  readonly #layout: FlatParameters;
  readonly #names: readonly string[] | undefined;
  readonly #reason: (step: Step) => Reason | undefined;
  #failure: NonFiniteLossError | undefined;

  /** `names` are those of the parameters, for messages; `reason` says why a loss is not finite, where that is known. */
  constructor(
    op: string,
    layout: FlatParameters,
    names: readonly string[] | undefined,
    reason: (step: Step) => Reason | undefined,
  ) {
    this.#op = op;
    this.#layout = layout;
    this.#names = names;
    this.#reason = reason;
  }

  /** Whether a step was refused, so that those behind it are, until `recovered`. */
  get hasRefused(): boolean {
    return this.#failure !== undefined;
  }

  /** Throws what a step was refused with. */
  requireNone(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** The devices update again. */
  recovered(): void {
    this.#failure = undefined;
  }

  /**
   * Judges a step by the scores of its batch, and by the faults of its gradient where a device has found them. Throws
   * NonFiniteLossError where it is refused, or one before it was.
   */
  judge(step: Step, numbers: readonly number[], faults?: Uint32Array): Judged {
    this.requireNone();
    const scores = readScores(step.layout, numbers);
    if (!isFiniteLoss(scores)) {
      const groups = scores.groups.map(({ sum, count }) => `sum ${sum} and count ${count}`).join(", ");
      const reason = this.#reason(step);
      throw this.#failure = new NonFiniteLossError(this.#op, {
        got: `a loss of ${lossOf(scores)} at step ${step.number}, with ${reason?.got ?? groups}`,
        need: reason === undefined
          ? "a finite loss (the weights are those of before the step): look at the batch and the learning rate"
          : `${reason.need} (the weights are those of before the step)`,
      });
    }
    const parameter = faults === undefined ? undefined : faultyParameter(this.#layout, faults);
    if (parameter !== undefined) this.refuseGradient(step, scores, parameter);
    return { scores, updated: step.fields.rows > 0 && counted(scores) };
  }

  /** Throws NonFiniteGradientError for the gradient of a parameter, by its position. */
  refuseGradient(step: Step, scores: Scores, position: number): never {
    const parameter = this.#names?.[position] ?? String(position);
    throw this.#failure = gradientError(this.#op, parameter, { step: step.number, loss: lossOf(scores) });
  }
}

/** A training step: what it is made of, and what became of it. */
import type { Means, ScoreLayout, Scores } from "../decompose/scores.ts";
import type { HostFields } from "../run/uploads.ts";
import type { Phases } from "./phases.ts";

/** A step that is being made. */
export interface Step {
  /** 1 for the first. */
  readonly number: number;
  readonly fields: HostFields;
  readonly layout: ScoreLayout;
  /** Whether the loss has a penalty, which the first shard of a step carries. */
  readonly penalty: boolean;
  /** Whether a shard's computation depends on how many rows the whole batch has. */
  readonly dependsOnTotal: boolean;
  readonly seed: number;
  readonly learningRate: number;
}

/** One training step. */
export interface StepRecord {
  /** 1 for the first update of the trainer; counts on over epochs and calls of fit. */
  readonly step: number;
  /** The loss over all rows. */
  readonly loss: number;
  /** The metrics over all rows, by name. */
  readonly metrics: Means;
  /** Rows that were given. */
  readonly rows: number;
  /** Names of the devices that took part. */
  readonly devices: readonly string[];
  /** Rows that each of them computed. */
  readonly sizes: readonly number[];
  /** The learning rate of the step. */
  readonly learningRate: number;
  /** False where the batch counted nothing (all of it masked), so that nothing was updated. */
  readonly updated: boolean;
  /** Milliseconds that the host spent on the step, and waited. */
  readonly phases: Phases;
}

/** The record of a step, and the sums and counts that it was made of, to be added over steps. */
export interface StepOutcome {
  readonly record: StepRecord;
  readonly scores: Scores;
}

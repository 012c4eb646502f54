import type { ScoreLayout } from "../decompose/scores.ts";
import type { HostFields } from "../run/uploads.ts";

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

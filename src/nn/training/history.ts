/** What a training run reports, and the record it leaves. */
import type { Means } from "../../parallel/decompose/scores.ts";
import type { DeviceEvent } from "../../parallel/run/fleet.ts";
import type { StepRecord } from "../../parallel/train/step.ts";

export type { Means } from "../../parallel/decompose/scores.ts";
export type { Phases } from "../../parallel/train/phases.ts";
export type { StepRecord } from "../../parallel/train/step.ts";
export type { DeviceEvent, DeviceJoined, DeviceLost } from "../../parallel/run/fleet.ts";

/** Loss and metrics over a whole data set. */
export interface Evaluation {
  /** The loss over all rows. */
  readonly loss: number;
  /** The metrics over all rows, by name. */
  readonly metrics: Means;
  /** Rows that were given. */
  readonly rows: number;
}

/** One epoch. Loss and metrics are means over the epoch's training batches, while the weights changed. */
export interface EpochRecord extends Evaluation {
  /** 1 for the first epoch of the call of fit. */
  readonly epoch: number;
  /** What the validation batches gave, where there were some. */
  readonly validation: Evaluation | undefined;
  /** Of the training part. */
  readonly seconds: number;
  /** Rows by seconds, validation included. */
  readonly rowsPerSecond: number;
}

/** What `fit` returns: a record of each step and epoch. Plain data. */
export interface History {
  /** Every step, in order. */
  readonly steps: readonly StepRecord[];
  /** Every epoch of `fit`, in order. */
  readonly epochs: readonly EpochRecord[];
  /** Devices that were lost or have joined. */
  readonly events: readonly DeviceEvent[];
}

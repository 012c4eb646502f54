/** What a training run reports, and the record it leaves. */

export type { Phases } from "../../parallel/train/phases.ts";
import type { DeviceEvent } from "../../parallel/run/fleet.ts";
import type { Phases } from "../../parallel/train/phases.ts";

export type { DeviceEvent, DeviceJoined, DeviceLost } from "../../parallel/run/fleet.ts";

/** Means of a batch or an epoch, by name. */
export type Means = Readonly<Record<string, number>>;

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

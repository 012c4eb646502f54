/** A step on a single device: it is prepared, then enqueued at once, so that the next step need not wait for what is read of it. */
import type { DeviceBuffer } from "../../devices/device/device.ts";
import type { HostCopy } from "./assigned-tensors.ts";
import type { State } from "./update.ts";

/** A step that is ready to be enqueued. */
export interface PreparedStep {
  /**
   * Enqueues all of it; `state` is the device's, claimed, and is updated in place. The new parameters are read into `copy`.
   */
  enqueue(state: State<DeviceBuffer>, copy: Float32Array | undefined): StepReads;
}

/** What is being read of a step that is enqueued. */
export interface StepReads {
  /** The scores of the whole batch; with them all else has been read. */
  readonly scores: Promise<readonly number[]>;
  /** The state's faults. */
  readonly faults: Uint32Array;
  /** Tensors that the model assigns to, where the host keeps the parameters as well. */
  readonly statistics: readonly HostCopy[];
  /** When it began, and when it was on the device. */
  readonly start: number;
  readonly enqueued: number;
}

import type { DeviceInfo } from "../device/device.ts";

/** Which of the devices on one adapter is meant. */
export interface Slot {
  readonly index: number;
  /** One of several logical devices, which are to run side by side. */
  readonly virtual: boolean;
}

/** An adapter that can be opened. */
export interface Adapter {
  /** Distinct for each adapter of the process. */
  readonly key: string;
  readonly info: DeviceInfo;
  /** A WebGPU adapter that was not used for a device yet. Rejects when the system gives none any more. */
  request(slot: Slot): Promise<GPUAdapter>;
  /**
   * Tells that a device of a slot does not answer or open, so that what served it is not used again: until what this returns
   * is called.
   */
  giveUp(slot: Slot): () => void;
}

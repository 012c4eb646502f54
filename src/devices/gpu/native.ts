import { DeviceLostError } from "../../errors.ts";

/**
 * A device of the driver's, for as long as it lives. Nothing else may hold it: threads of the driver's go when nobody holds the
 * device or anything made by it any more, and the handles that users keep of a device that has ended are not to hinder that.
 */
export class Native {
  readonly #name: string;
  #device: GPUDevice | undefined;

  constructor(name: string, device: GPUDevice) {
    this.#name = name;
    this.#device = device;
  }

  /** Throws DeviceLostError when the device has ended. */
  get device(): GPUDevice {
    if (this.#device !== undefined) return this.#device;
    throw new DeviceLostError("device", {
      got: `${this.#name}, which has ended`,
      need: "an open device: call devices() again",
    });
  }

  /** Ends the device. */
  end(): void {
    this.#device?.destroy();
    this.#device = undefined;
  }
}

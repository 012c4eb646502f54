import { DeviceLostError } from "../errors.ts";
import type { DeviceLoss } from "./device.ts";

/** Whether a device is still there, and why not. */
export class Lifetime {
  readonly lost: Promise<DeviceLoss>;
  readonly #name: string;
  #loss: DeviceLoss | undefined;
  #resolve: (loss: DeviceLoss) => void = () => {};
  #failure: Error | undefined;

  constructor(name: string) {
    this.#name = name;
    this.lost = new Promise((resolve) => this.#resolve = resolve);
  }

  get isLost(): boolean {
    return this.#loss !== undefined;
  }

  /** Ends the device. Tells whether it was still there. */
  end(reason: DeviceLoss["reason"], message: string): boolean {
    if (this.#loss !== undefined) return false;
    this.#loss = { reason, message };
    this.#resolve(this.#loss);
    return true;
  }

  /** Throws DeviceLostError when the device is gone. */
  require(op: string): void {
    if (this.#loss === undefined) return;
    throw new DeviceLostError(op, {
      got: this.#loss.reason === "closed"
        ? `${this.#name}, which was closed`
        : `${this.#name}, which was lost (${this.#loss.message || "no reason given"})`,
      need: "an open device: call devices() again",
    });
  }

  /** Keeps an error of work that was only enqueued, for the next call that waits. The first one tells most. */
  fail(error: Error): void {
    this.#failure ??= error;
  }

  /** Throws the kept error, if any, once. */
  rethrow(): void {
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure !== undefined) throw failure;
  }
}

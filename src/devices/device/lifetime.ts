import { DeviceLostError } from "../../errors.ts";
import type { DeviceLoss } from "./device.ts";

/** Whether a device is still there, and why not. */
export class Lifetime {
  readonly lost: Promise<DeviceLoss>;
  readonly #name: string;
  #loss: DeviceLoss | undefined;
  #resolve: (loss: DeviceLoss) => void = () => {};
  #failure: Error | undefined;
  /** Rejects what waits for the device. */
  readonly #waiting = new Set<() => void>();

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
    for (const leave of this.#waiting) leave();
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

  /** What `work` gives, unless the device goes before: then rejects with DeviceLostError. */
  async whileThere<T>(op: string, work: Promise<T>): Promise<T> {
    this.require(op);
    let leave = () => {};
    try {
      // Not a race with `lost`: that promise would keep every one of its contestants.
      return await new Promise<T>((resolve, reject) => {
        leave = () => reject(new Error("the device is gone"));
        this.#waiting.add(leave);
        work.then(resolve, reject);
      });
    } finally {
      this.#waiting.delete(leave);
      this.require(op); // Some runtimes resolve what waits for a device that is gone.
    }
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

/** The parameters and statistics as the host knows them: what remains when every device is lost. */
import type { HostCopy } from "./assigned-tensors.ts";

export class Snapshot {
  #values: Float32Array | undefined;
  #statistics: readonly HostCopy[] = [];
  #step = 0;
  /** Memory for copies under way, used again and again. */
  readonly #spare: Float32Array[] = [];

  /** All parameters end to end, as they were after `step`; undefined before the first copy. */
  get values(): Float32Array | undefined {
    return this.#values;
  }

  /** Statistics of that step which the host would not know otherwise. */
  get statistics(): readonly HostCopy[] {
    return this.#statistics;
  }

  get step(): number {
    return this.#step;
  }

  /** Keeps these values as those after a step. */
  keep(values: Float32Array, step: number, statistics: readonly HostCopy[] = []): void {
    if (this.#values !== undefined && step < this.#step) {
      this.#spare.push(values);
      return;
    }
    if (this.#values?.length === values.length) this.#spare.push(this.#values);
    this.#values = values;
    this.#step = step;
    this.#statistics = statistics;
  }

  /** Memory of `length` elements to copy into; to be given to `keep` when the copy is there, else to `giveBack`. */
  memory(length: number): Float32Array {
    return this.#spare.pop() ?? new Float32Array(length);
  }

  giveBack(values: Float32Array): void {
    this.#spare.push(values);
  }
}

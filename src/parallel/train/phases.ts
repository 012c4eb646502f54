/** Where the time of a step goes on the host. */
import { traceSpan } from "../../debug/trace.ts";

/** Milliseconds of the host in a step. */
export interface Phases {
  /** Writing the batch's rows to the devices, and their work to the queues (a cpu device computes there). */
  readonly scatter: number;
  /** Waiting for the devices. */
  readonly wait: number;
  /** Adding and dividing gradients. */
  readonly reduce: number;
  /** Writing the gradient to the devices, and their updates to the queues. */
  readonly broadcast: number;
}

/** Adds up what the host does in a step. */
export class Clock {
  readonly #start = performance.now();
  readonly #spent = { scatter: 0, reduce: 0, broadcast: 0 };

  time<T>(phase: "scatter" | "reduce" | "broadcast", body: () => T): T {
    const start = performance.now();
    try {
      return body();
    } finally {
      const end = performance.now();
      this.#spent[phase] += end - start;
      traceSpan("host", phase, start, end);
    }
  }

  phases(): Phases {
    const { scatter, reduce, broadcast } = this.#spent;
    const whole = performance.now() - this.#start;
    return { scatter, wait: Math.max(0, whole - scatter - reduce - broadcast), reduce, broadcast };
  }
}

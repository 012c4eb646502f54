/** Functions that the user gave, to be told of something: what they throw is theirs, and stops nothing. */
import { CallbackError, ShardwiseError } from "../../errors.ts";

/** An error of a user's function with what it was thrown by; one that is typed already stays as it is. */
export function errorOf(op: string, callback: string, cause: unknown): ShardwiseError {
  if (cause instanceof ShardwiseError) return cause;
  return new CallbackError(op, {
    got: `an error in ${callback}: ${cause instanceof Error ? cause.message : String(cause)}`,
    need: "a function that does not throw; what was done before it stays done",
    cause,
  });
}

/** Calls listeners at once, and throws what they threw where a call comes to its end. */
export class Listeners {
  readonly #op: string;
  #error: ShardwiseError | undefined;

  constructor(op: string) {
    this.#op = op;
  }

  /** Calls all of them. */
  tell<E>(callback: string, listeners: Iterable<(event: E) => unknown>, event: E): void {
    const failed = (cause: unknown) => this.#error ??= errorOf(this.#op, callback, cause);
    for (const listener of listeners) {
      try {
        const result = listener(event);
        if (result instanceof Promise) result.catch(failed);
      } catch (cause) {
        failed(cause);
      }
    }
  }

  /** Throws the first error since the last time, once; `result` is what the call would have given. */
  raise(result?: unknown): void {
    const error = this.#error;
    this.#error = undefined;
    if (error === undefined) return;
    if (error instanceof CallbackError) error.result = result;
    throw error;
  }
}

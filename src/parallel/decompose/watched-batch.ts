/** A batch as the functions of it see it, which knows what was read of it that is not there. */
import { ArgumentError, ShardwiseError } from "../../errors.ts";
import { nearest } from "../../signature/nearest.ts";
import { isTensor } from "../../tensor/tensor.ts";

/** A name that was read of a part of a batch. */
interface Missing {
  /** Where the part is, as in `batch.inputs`. */
  readonly path: string;
  readonly name: string;
  /** The names that the part has. */
  readonly there: readonly string[];
}

export class WatchedBatch {
  readonly batch: unknown;
  readonly #missing = new Map<string, Missing>();

  constructor(batch: unknown) {
    this.batch = this.#watch(batch, "batch");
  }

  /**
   * Calls a function of the batch. A name that is not there is undefined for it, so that it can look for optional fields; but an
   * error about something undefined is then one about that name: throws ArgumentError with the other as its cause.
   */
  during<R>(op: string, body: () => R): R {
    try {
      return body();
    } catch (cause) {
      const missing = [...this.#missing.values()];
      if (missing.length === 0 || !isOfUndefined(cause)) throw cause;
      // The last one is most likely to be it: optional fields are looked for before.
      const hints = missing.reverse().flatMap(({ path, name, there }) => {
        const meant = nearest(name, there);
        return meant === undefined ? [] : [nameOf({ path, name: meant })];
      });
      const has = new Map(missing.map(({ path, there }) => [path, `${path} has ${there.join(", ") || "nothing"}`]));
      throw new ArgumentError(op, {
        got: `a function that reads ${missing.map(nameOf).join(" and ")} where ${
          [...has.values()].join(" and ")
        }, and fails: ${(cause as Error).message}`,
        need: `a batch that has what is read of it${hints.length === 0 ? "" : `: did you mean ${hints[0]}?`}`,
        cause,
      });
    }
  }

  #watch(part: unknown, path: string): unknown {
    if (typeof part !== "object" || part === null || isTensor(part)) return part;
    const entries = Object.entries(part).map(([name, inner]) =>
      [name, this.#watch(inner, nameOf({ path, name }))] as const
    );
    const copy: object = Array.isArray(part) ? entries.map(([, inner]) => inner) : Object.fromEntries(entries);
    const there = entries.map(([name]) => name);
    return new Proxy(copy, {
      get: (target, key, receiver) => {
        if (typeof key === "string" && !(key in target)) {
          this.#missing.set(nameOf({ path, name: key }), { path, name: key, there });
        }
        return Reflect.get(target, key, receiver) as unknown;
      },
    });
  }
}

function nameOf({ path, name }: Pick<Missing, "path" | "name">): string {
  return /^\d+$/.test(name) ? `${path}[${name}]` : `${path}.${name}`;
}

/** Whether an error may come of a value that is undefined: what a runtime says of one, and what a signature does. */
function isOfUndefined(error: unknown): boolean {
  const said = error instanceof ShardwiseError ? error.got : error instanceof TypeError ? error.message : "";
  return /\bundefined\b/.test(said);
}

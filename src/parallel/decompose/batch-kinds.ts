/** What is judged once for each kind of batch: its structure, and the modes of what a function of it runs. */
import { areModes, type Modes } from "../../tensor/eager/mode.ts";
import type { Fields } from "../split/host-batch.ts";

/** What a function of a batch came to, and the modes that it found outside while it was traced. */
export interface Judged<T> {
  readonly value: T;
  readonly modes: Modes;
}

interface Kind<T> extends Judged<T> {
  readonly signature: string;
  /** All modes in which batches of this kind are traced. */
  readonly all: Modes;
}

export class BatchKinds<T> {
  readonly #given: () => Modes;
  readonly #judge: (fields: Fields) => Judged<T>;
  readonly #known = new Map<string, Kind<T>[]>();

  /** `given` are modes that hold whatever they are outside; it is asked for each kind of batch. */
  constructor(judge: (fields: Fields) => Judged<T>, given: () => Modes = () => new Map()) {
    this.#judge = judge;
    this.#given = given;
  }

  /**
   * What is known of batches like this one, as modes are now; and the batch with the signature and modes of its kind, so that
   * it is traced alike however much later that is.
   */
  of(fields: Fields): { readonly value: T; readonly fields: Fields } {
    let kinds = this.#known.get(fields.signature);
    if (kinds === undefined) this.#known.set(fields.signature, kinds = []);
    let kind = kinds.find(({ modes }) => areModes(modes));
    if (kind === undefined) {
      const given = this.#given();
      const judged = this.#judge({ ...fields, modes: given });
      const all = new Map([...judged.modes, ...given]);
      kind = { ...judged, all, signature: `${fields.signature}#${kinds.length}` };
      kinds.push(kind);
    }
    return { value: kind.value, fields: { ...fields, signature: kind.signature, modes: kind.all } };
  }
}

/** Whose turn it is: what is asked for happens in the order of the calls, one after the other. */

/** The right to run now, until it is given on. */
export interface Turn {
  /**
   * Waits for something of the user's, which may itself wait for a later turn: when others want theirs, they get it after a
   * moment, once `leave` is done. What follows then runs beside them. Where `leave` fails it rejects so, and the turn is given
   * on all the same.
   */
  wait<T>(coming: Promise<T>, leave: () => Promise<void>): Promise<T>;
}

/** Milliseconds for which others wait on what is the user's. */
const patience = 50;

export class Turns {
  #last: Promise<void> = Promise.resolve();
  #waiting = 0;
  readonly #arrivals = new Set<() => void>();

  /** Runs `body` when all that was asked for before is done; it has the turn until `until` resolves, by default its end. */
  take<R>(
    body: (turn: Turn) => Promise<R>,
    until: (result: R) => Promise<unknown> = () => Promise.resolve(),
  ): Promise<R> {
    this.#waiting++;
    for (const arrived of this.#arrivals) arrived();
    let give = () => {};
    const given = new Promise<void>((resolve) => give = resolve);
    let has = true;
    const wait = async <T>(coming: Promise<T>, leave: () => Promise<void>): Promise<T> => {
      if (has && await this.#wantedBefore(coming)) {
        try {
          await leave();
        } finally {
          has = false;
          give();
        }
      }
      return await coming;
    };
    const result = this.#last.then(() => {
      this.#waiting--;
      return body({ wait });
    });
    this.#last = Promise.race([given, result.then(until)]).then(() => {}, () => {});
    return result;
  }

  /** Whether somebody waits for a turn, and has for a while, before a promise settles. */
  async #wantedBefore(coming: Promise<unknown>): Promise<boolean> {
    let off = () => {};
    const wanted = await new Promise<boolean>((resolve) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const arrived = () => timer ??= setTimeout(() => resolve(true), patience);
      off = () => {
        clearTimeout(timer);
        this.#arrivals.delete(arrived);
      };
      coming.then(() => resolve(false), () => resolve(false));
      this.#arrivals.add(arrived);
      if (this.#waiting > 0) arrived();
    });
    off();
    return wanted;
  }
}

/**
 * What is to happen when an object is collected. V8 takes its time for each object that it is told to watch, and keeps it through
 * its quick collections; most tensors are disposed of, or computed and forgotten, before long. So an object is held for a little
 * while first, and watched once it has lived that long.
 */

/** How many are held. */
const places = 256;
/** Bytes of data that was made while they were held: who holds more of it than that is not worth it. */
const mostBytes = 2 ** 20;

/** In the order in which they came; what was given up leaves its place empty. */
const young: (Young | undefined)[] = new Array<Young | undefined>(places).fill(undefined);
let next = 0;
let bytesSince = 0;
/** Whether a collection will tell. */
let awaiting = false;

/** Who is held; `age` is called when that ends by itself. */
export abstract class Young {
  #place = next;

  constructor() {
    young[next]?.age();
    young[next] = this;
    next = (next + 1) % places;
    if (awaiting) return;
    awaiting = true;
    collections.register({}, undefined);
  }

  /** Holds the object no longer. */
  protected abstract age(): void;

  /** To be called when it was given up, or has aged. */
  protected leave(): void {
    if (young[this.#place] === this) young[this.#place] = undefined;
  }

  /** Holds none of them any more: the next collection takes what nobody else does. */
  static ageAll(): void {
    bytesSince = 0;
    for (const each of young) each?.age();
    young.fill(undefined);
  }

  /** Data of so many bytes is made, which those that are held may lead to. */
  static weigh(bytes: number): void {
    bytesSince += bytes;
    if (bytesSince > mostBytes) Young.ageAll();
  }
}

/** What was held through one collection goes with the next. */
const collections = new FinalizationRegistry<undefined>(() => {
  awaiting = false;
  Young.ageAll();
});

/** Does something with `held` when `target` is collected, unless it was called off before. */
export class Finalizer<T extends object, H> extends Young {
  readonly #registry: FinalizationRegistry<H>;
  readonly held: H;
  #target: T | undefined;
  #done = false;

  constructor(registry: FinalizationRegistry<H>, target: T, held: H) {
    super();
    this.#registry = registry;
    this.#target = target;
    this.held = held;
  }

  protected override age(): void {
    if (this.#target !== undefined) this.#registry.register(this.#target, this.held, this);
    this.#target = undefined;
  }

  /** Calls it off; false where that happened before. */
  callOff(): boolean {
    if (this.#done) return false;
    this.#done = true;
    if (this.#target === undefined) return this.#registry.unregister(this);
    this.#target = undefined;
    this.leave();
    return true;
  }
}

/** A reference to an object that is strong for a little while, and weak then. */
export class LateReference<T extends object> extends Young {
  #strong: T | undefined;
  #weak: WeakRef<T> | undefined;

  constructor(target: T) {
    super();
    this.#strong = target;
  }

  get isStrong(): boolean {
    return this.#strong !== undefined;
  }

  deref(): T | undefined {
    return this.#strong ?? this.#weak?.deref();
  }

  protected override age(): void {
    if (this.#strong !== undefined) this.#weak = new WeakRef(this.#strong);
    this.#strong = undefined;
  }

  /** Refers to nothing any more. */
  drop(): void {
    this.#weak = undefined;
    if (this.#strong === undefined) return;
    this.#strong = undefined;
    this.leave();
  }
}

import type { Block, MemoryPool } from "./pool.ts";

/** Blocks of one size: the k-th is used by every plan that needs more than k of that size. */
interface Shelf<T> {
  readonly blocks: Block<T>[];
  readonly users: number[];
}

/** Memory that a plan uses only while it runs. */
export interface Lease<T> {
  /** One for each size that was asked for, in that order. */
  readonly blocks: readonly Block<T>[];
  /** Gives them back. Idempotent. */
  release(): void;
}

/**
 * The temporaries of all plans of one device. Plans run one after the other and leave nothing in their temporaries,
 * so they share them: the memory needed is that of the neediest plan, however many plans are loaded.
 */
export class Scratch<T> {
  readonly #pool: MemoryPool<T>;
  readonly #shelves = new Map<number, Shelf<T>>();

  constructor(pool: MemoryPool<T>) {
    this.#pool = pool;
  }

  /** Distinct blocks of at least `sizes` bytes. Throws OutOfMemoryError. */
  lease(sizes: readonly number[]): Lease<T> {
    const counts = new Map<number, number>();
    const blocks: Block<T>[] = [];
    let open = true;
    const release = (): void => {
      if (!open) return;
      open = false;
      for (const [size, count] of counts) this.#giveBack(size, count);
    };
    try {
      for (const bytes of sizes) {
        const size = this.#pool.classOf(bytes);
        const index = counts.get(size) ?? 0;
        blocks.push(this.#take(size, index));
        counts.set(size, index + 1);
      }
    } catch (error) {
      release();
      throw error;
    }
    return { blocks, release };
  }

  #take(size: number, index: number): Block<T> {
    let shelf = this.#shelves.get(size);
    if (shelf === undefined) this.#shelves.set(size, shelf = { blocks: [], users: [] });
    const block = shelf.blocks[index] ?? this.#pool.take(size);
    shelf.blocks[index] = block;
    shelf.users[index] = (shelf.users[index] ?? 0) + 1;
    return block;
  }

  #giveBack(size: number, count: number): void {
    const shelf = this.#shelves.get(size);
    if (shelf === undefined) return;
    for (let index = 0; index < count; index++) shelf.users[index] = (shelf.users[index] ?? 1) - 1;
    // A plan takes the first blocks, so the users never rise along the shelf: unused ones are at its end.
    while (shelf.users.at(-1) === 0) {
      shelf.users.pop();
      const block = shelf.blocks.pop();
      if (block !== undefined) this.#pool.give(block);
    }
  }
}

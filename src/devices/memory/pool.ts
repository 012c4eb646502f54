import { ArgumentError, DeviceError, OutOfMemoryError } from "../../errors.ts";
import type { DeviceBuffer } from "../device/device.ts";

/** How a pool makes and ends memory of its device. */
export interface Allocator<T> {
  create(bytes: number): T;
  destroy(memory: T): void;
  /** Whether memory that was given back may serve again; always, when left out. */
  usable?(memory: T): boolean;
}

/**
 * A piece of the device's memory. It keeps its `id` when it goes through the pool, unlike the buffers that it
 * serves.
 */
export interface Block<T> {
  readonly id: number;
  readonly bytes: number;
  /** Not to be asked for when the pool was dropped. */
  readonly memory: T;
}

/** What blocks are made of: held by the pool, so that whoever holds a block does not hold that. */
class PooledBlock<T> implements Block<T> {
  readonly id: number = nextId++;
  readonly bytes: number;
  /** When it was given back: a number that grows. */
  freed = 0;
  readonly #pool: { readonly memory: WeakMap<object, T> };

  constructor(bytes: number, memory: T, pool: { readonly memory: WeakMap<object, T> }) {
    this.bytes = bytes;
    this.#pool = pool;
    pool.memory.set(this, memory);
  }

  get memory(): T {
    return this.#pool.memory.get(this) as T;
  }
}

/** What a pool may hold. */
export interface PoolLimits {
  /** Bytes in use and kept for reuse, together. */
  readonly budget: number;
  /** Bytes of one buffer. */
  readonly largest: number;
}

const smallest = 256;
/** Kept for reuse even when little was ever in use. */
const alwaysKept = 32 * 2 ** 20;

/** A buffer that a pool handed out; `block` is there until it is freed. */
class PooledBuffer<T> implements DeviceBuffer {
  readonly id: number;
  readonly bytes: number;
  readonly pool: MemoryPool<T>;
  block: Block<T> | undefined;

  constructor(id: number, bytes: number, pool: MemoryPool<T>, block: Block<T>) {
    this.id = id;
    this.bytes = bytes;
    this.pool = pool;
    this.block = block;
  }
}

let nextId = 1;

/** The bytes that a request of `bytes` takes: four sizes for each power of two, so that at most a fifth is unused. */
export function sizeClass(bytes: number): number {
  if (bytes <= smallest) return smallest;
  const step = 2 ** Math.max(6, Math.floor(Math.log2(bytes)) - 2);
  return Math.ceil(bytes / step) * step;
}

/**
 * A device's memory: blocks by size class, used again rather than given back to the driver. What is kept for reuse is
 * bounded by the most that was in use at one time; beyond it, what was freed longest ago is given back.
 */
export class MemoryPool<T> {
  readonly #owner: string;
  readonly #allocator: Allocator<T>;
  #limits: PoolLimits;
  /** Free blocks of each size, the one freed last at the end. */
  readonly #free = new Map<number, PooledBlock<T>[]>();
  #given = 0;
  readonly #content = { memory: new WeakMap<object, T>() };
  #dropped = false;
  #liveBytes = 0;
  #peakBytes = 0;
  #pooledBytes = 0;
  #allocations = 0;

  constructor(owner: string, allocator: Allocator<T>, limits: PoolLimits) {
    this.#owner = owner;
    this.#allocator = allocator;
    this.#limits = limits;
  }

  get liveBytes(): number {
    return this.#liveBytes;
  }
  get peakBytes(): number {
    return this.#peakBytes;
  }
  get pooledBytes(): number {
    return this.#pooledBytes;
  }
  get allocations(): number {
    return this.#allocations;
  }

  set budget(bytes: number) {
    this.#limits = { ...this.#limits, budget: bytes };
  }

  /** A buffer of `bytes`, rounded up to a multiple of 4. Throws OutOfMemoryError above the limits. */
  alloc(bytes: number): DeviceBuffer {
    if (!Number.isSafeInteger(bytes) || bytes < 0) {
      throw new ArgumentError("alloc", { got: `${bytes} bytes`, need: "a whole number, 0 or more" });
    }
    return new PooledBuffer(nextId++, Math.ceil(bytes / 4) * 4, this, this.take(bytes));
  }

  /** Gives a buffer back; does nothing for one that was given back before. */
  free(buffer: DeviceBuffer): void {
    const pooled = this.#own("free", buffer);
    if (pooled.block === undefined) return;
    this.give(pooled.block);
    pooled.block = undefined;
  }

  /** The block behind a buffer. Throws DeviceError for a freed buffer and for one of another device. */
  block(op: string, buffer: DeviceBuffer): Block<T> {
    const { block } = this.#own(op, buffer);
    if (block === undefined) {
      throw new DeviceError(op, { got: `freed buffer ${buffer.id}`, need: `a buffer in use on ${this.#owner}` });
    }
    return block;
  }

  /**
   * The bytes of the block that serves a request of `bytes`: its size class, unless that is above the largest
   * buffer.
   */
  classOf(bytes: number): number {
    return Math.min(sizeClass(bytes), Math.max(smallest, this.#limits.largest));
  }

  /** A block of at least `bytes`. Throws OutOfMemoryError above the limits. */
  take(bytes: number): Block<T> {
    const { largest, budget } = this.#limits;
    if (bytes > largest) {
      throw new OutOfMemoryError("alloc", {
        got: `${mebibytes(bytes)} in one buffer`,
        need: `at most ${mebibytes(largest)} on ${this.#owner}`,
      });
    }
    let wanted = this.classOf(bytes);
    if (this.#liveBytes + wanted > budget) wanted = Math.max(smallest, Math.ceil(bytes / 4) * 4);
    const reused = this.#free.get(wanted)?.pop();
    if (reused !== undefined) {
      this.#pooledBytes -= reused.bytes;
      this.#count(wanted);
      return reused;
    }
    if (this.#liveBytes + wanted > budget) {
      throw new OutOfMemoryError("alloc", {
        got: `${mebibytes(bytes)} with ${mebibytes(this.#liveBytes)} in use on ${this.#owner}`,
        need: `at most ${mebibytes(budget)} in all: dispose of tensors, or give the device a larger budget`,
      });
    }
    this.#trim(budget - this.#liveBytes - wanted);
    const memory = this.#create(wanted);
    this.#allocations++;
    this.#count(wanted);
    return new PooledBlock(wanted, memory, this.#content);
  }

  /** What is kept for reuse makes room where the device has less than the budget. */
  #create(bytes: number): T {
    try {
      return this.#allocator.create(bytes);
    } catch (error) {
      if (!(error instanceof OutOfMemoryError) || this.#pooledBytes === 0) throw error;
      this.#trim(0);
      return this.#allocator.create(bytes);
    }
  }

  /** Gives a block back for reuse. */
  give(given: Block<T>): void {
    const block = given as PooledBlock<T>;
    this.#liveBytes -= block.bytes;
    if (this.#dropped) return;
    if (this.#allocator.usable?.(block.memory) === false) {
      this.#allocator.destroy(block.memory);
      return;
    }
    this.#pooledBytes += block.bytes;
    const same = this.#free.get(block.bytes);
    if (same === undefined) this.#free.set(block.bytes, [block]);
    else same.push(block);
    block.freed = this.#given++;
    this.#trim(Math.max(alwaysKept, this.#peakBytes));
  }

  /** Ends everything that is kept for reuse. */
  clear(): void {
    this.#trim(0);
  }

  /** Lets go of all memory, which went with the device: what was handed out can only be given back from now on. */
  drop(): void {
    this.#dropped = true;
    this.#content.memory = new WeakMap();
    this.#free.clear();
    this.#pooledBytes = 0;
  }

  #count(bytes: number): void {
    this.#liveBytes += bytes;
    this.#peakBytes = Math.max(this.#peakBytes, this.#liveBytes);
  }

  /** Ends free blocks, oldest first, until no more than `bytes` of them are kept. */
  #trim(bytes: number): void {
    while (this.#pooledBytes > bytes) {
      let oldest: PooledBlock<T>[] | undefined;
      for (const same of this.#free.values()) {
        if (same.length > 0 && (oldest === undefined || same[0]!.freed < oldest[0]!.freed)) oldest = same;
      }
      const block = oldest?.shift();
      if (block === undefined) return;
      this.#pooledBytes -= block.bytes;
      this.#allocator.destroy(block.memory);
    }
  }

  #own(op: string, buffer: DeviceBuffer): PooledBuffer<T> {
    if (buffer instanceof PooledBuffer && buffer.pool === this) return buffer;
    throw new DeviceError(op, { got: `a buffer of another device (${buffer.id})`, need: `one of ${this.#owner}` });
  }
}

/** A count of bytes as people read it. */
export function mebibytes(bytes: number): string {
  return bytes === Infinity ? "unlimited" : `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 23 ? 3 : 0)} MiB`;
}

/** Checks a range of bytes in a buffer. Throws ArgumentError when it is not aligned to 4 or does not fit. */
export function requireRange(op: string, buffer: DeviceBuffer, offset: number, bytes: number): void {
  const aligned = Number.isSafeInteger(offset) && Number.isSafeInteger(bytes) && offset % 4 === 0 && bytes % 4 === 0;
  if (aligned && offset >= 0 && bytes >= 0 && offset + bytes <= buffer.bytes) return;
  throw new ArgumentError(op, {
    got: `${bytes} bytes at ${offset} of a buffer of ${buffer.bytes}`,
    need: "multiples of 4 that lie inside the buffer",
  });
}

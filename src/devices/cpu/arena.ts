/** Memory of the cpu device in which WebAssembly computes: one memory that grows, and blocks of it. */
import { OutOfMemoryError } from "../../errors.ts";
import { addressTable, addressTableEnd } from "../../compiler/wasm/module.ts";
import { mebibytes } from "../memory/pool.ts";

/** A block of an arena, or of memory of its own. */
export interface Piece {
  /** Its first byte. */
  readonly offset: number;
  readonly bytes: number;
}

const page = 65536;
/** All that 32 bits can address. */
const mostPages = 65536;
/** Blocks begin at multiples of it, the length of a cache line. */
export const alignment = 64;
/** Before it lie the addresses of buffers; and no address that a kernel makes is below 0, whatever comes before a block. */
const firstByte = page;

/**
 * Blocks in one WebAssembly memory. What is given back joins what is free beside it; the least that suffices is given out, and
 * memory grows where nothing does. Behind each block `spare` bytes belong to nobody else, which vectors may read.
 */
export class Arena {
  readonly memory: WebAssembly.Memory;
  readonly #spare: number;
  #pages: number;
  /** The bytes of free blocks by where they begin, and where they begin by their end. */
  readonly #free = new Map<number, number>();
  readonly #ends = new Map<number, number>();
  /** Where free blocks of at least 2^i bytes begin, and of fewer than twice as many. */
  readonly #bins: Set<number>[] = Array.from({ length: 33 }, () => new Set<number>());
  /** The bytes of blocks in use, by where they begin. */
  readonly #used = new Map<number, number>();
  #bytes: Uint8Array<ArrayBuffer>;
  #addresses: Int32Array<ArrayBuffer>;

  /** With `shared`, threads can share the memory. */
  constructor(spare: number, shared: boolean) {
    this.#spare = spare;
    this.#pages = 2;
    this.memory = new WebAssembly.Memory({ initial: this.#pages, maximum: mostPages, shared });
    this.#bytes = this.#bytesNow();
    this.#addresses = this.#addressesNow();
    this.#put(firstByte, this.#pages * page - firstByte);
  }

  /** All of the memory, as it is now: growing ends what was given before. */
  get bytes(): Uint8Array<ArrayBuffer> {
    // A view of memory that has grown is short where that is shared, and empty where it is not.
    if (this.#bytes.length !== this.#pages * page) this.#bytes = this.#bytesNow();
    return this.#bytes;
  }

  /** Where kernels find the addresses of their buffers. */
  get addresses(): Int32Array<ArrayBuffer> {
    if (this.#addresses.length === 0) this.#addresses = this.#addressesNow();
    return this.#addresses;
  }

  // What tells shared memory from other memory does not matter to who copies out of it, or into it.
  #bytesNow(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.memory.buffer as ArrayBuffer);
  }

  #addressesNow(): Int32Array<ArrayBuffer> {
    return new Int32Array(this.memory.buffer as ArrayBuffer, addressTable, (addressTableEnd - addressTable) / 4);
  }

  /** A block whose bytes are whatever was there. Throws OutOfMemoryError where 4 GiB, or the machine, have no room for it. */
  create(bytes: number): Piece {
    const whole = Math.ceil((bytes + this.#spare) / alignment) * alignment;
    let offset = this.#fitting(whole);
    if (offset === undefined) {
      this.#grow(whole);
      offset = this.#fitting(whole)!;
    }
    const there = this.#take(offset);
    if (there > whole) this.#put(offset + whole, there - whole);
    this.#used.set(offset, whole);
    return { offset, bytes };
  }

  destroy(piece: Piece): void {
    let { offset } = piece;
    let bytes = this.#used.get(offset);
    if (bytes === undefined) return;
    this.#used.delete(offset);
    if (this.#free.has(offset + bytes)) bytes += this.#take(offset + bytes);
    const before = this.#ends.get(offset);
    if (before !== undefined) {
      bytes += this.#take(before);
      offset = before;
    }
    this.#put(offset, bytes);
  }

  /** The smallest of the free blocks that suffice; of many nearly alike, one of the first. */
  #fitting(bytes: number): number | undefined {
    let best: number | undefined;
    let least = Infinity;
    for (let bin = binOf(bytes); bin < this.#bins.length && best === undefined; bin++) {
      let looked = 0;
      for (const offset of this.#bins[bin]!) {
        const there = this.#free.get(offset)!;
        if (there >= bytes && there < least) {
          best = offset;
          least = there;
        }
        if (++looked >= 64 && best !== undefined) break;
      }
    }
    return best;
  }

  #grow(bytes: number): void {
    const end = this.#pages * page;
    const last = this.#ends.get(end);
    const missing = Math.ceil((bytes - (last === undefined ? 0 : end - last)) / page);
    // A little more than is needed, as growing takes a while.
    const wanted = Math.max(missing, Math.min(Math.ceil(this.#pages / 8), mostPages - this.#pages));
    const pages = this.#tryGrow(wanted) ?? this.#tryGrow(missing);
    if (pages === undefined) {
      throw new OutOfMemoryError("alloc", {
        got: `${mebibytes(bytes)} with ${mebibytes(end)} in the memory of the cpu device`,
        need: `at most ${mebibytes(mostPages * page)} in all, and as much as the machine has`,
      });
    }
    this.#pages += pages;
    const start = last ?? end;
    if (last !== undefined) this.#take(last);
    this.#put(start, this.#pages * page - start);
  }

  #tryGrow(pages: number): number | undefined {
    if (pages > mostPages - this.#pages) return undefined;
    try {
      this.memory.grow(pages);
      return pages;
    } catch {
      return undefined; // The machine has no more.
    }
  }

  #put(offset: number, bytes: number): void {
    if (bytes === 0) return;
    this.#free.set(offset, bytes);
    this.#ends.set(offset + bytes, offset);
    this.#bins[binOf(bytes)]!.add(offset);
  }

  /** Takes a free block away; gives its bytes. */
  #take(offset: number): number {
    const bytes = this.#free.get(offset)!;
    this.#free.delete(offset);
    this.#ends.delete(offset + bytes);
    this.#bins[binOf(bytes)]!.delete(offset);
    return bytes;
  }
}

function binOf(bytes: number): number {
  return Math.floor(Math.log2(bytes));
}

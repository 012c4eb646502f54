/** Memory of the cpu device: in the arena of its WebAssembly, or, where there is none, arrays of JavaScript's own. */
import type { DType } from "../../graph/dtype.ts";
import { asWords, type Words } from "../../graph/words.ts";
import type { Allocator } from "../memory/pool.ts";
import { Arena, type Piece } from "./arena.ts";

/** Blocks of memory, and what is in them now: a view ends with the next block that is made. */
export interface HostMemory<P> extends Allocator<P> {
  bytes(piece: P): Uint8Array<ArrayBuffer>;
  /** The elements of a block from a byte on. */
  words(piece: P, dtype: DType, from: number): Words;
}

export class ArenaMemory implements HostMemory<Piece> {
  readonly arena: Arena;

  constructor(spare: number, shared: boolean) {
    this.arena = new Arena(spare, shared);
  }

  create(bytes: number): Piece {
    return this.arena.create(bytes);
  }

  destroy(piece: Piece): void {
    this.arena.destroy(piece);
  }

  bytes({ offset, bytes }: Piece): Uint8Array<ArrayBuffer> {
    return this.arena.bytes.subarray(offset, offset + bytes);
  }

  words({ offset, bytes }: Piece, dtype: DType, from: number): Words {
    return asWords(dtype, this.arena.bytes.buffer, offset + from, bytes - from);
  }
}

/** A block in an array of its own. */
interface OwnPiece extends Piece {
  readonly buffer: ArrayBuffer;
}

export class ArrayMemory implements HostMemory<Piece> {
  create(bytes: number): OwnPiece {
    return { offset: 0, bytes, buffer: new ArrayBuffer(bytes) };
  }

  destroy(): void {}

  bytes(piece: Piece): Uint8Array<ArrayBuffer> {
    return new Uint8Array((piece as OwnPiece).buffer);
  }

  words(piece: Piece, dtype: DType, from: number): Words {
    return asWords(dtype, (piece as OwnPiece).buffer, from, piece.bytes - from);
  }
}

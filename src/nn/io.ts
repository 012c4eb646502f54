/** Tensors in files of the safetensors format: an 8-byte little-endian header length, a JSON header, then the bytes. */
import { ArgumentError, DTypeError, ShapeError } from "../errors.ts";
import { type DType, dtypes, type HostArray } from "../graph/dtype.ts";
import { halfValues } from "../graph/half.ts";
import { formatShape, type Shape, size } from "../graph/shape.ts";
import { toWords, type Words } from "../graph/words.ts";
import { readFile, writeFile } from "../host/host.ts";
import { tensor } from "../tensor/create.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "./module.ts";

/** Named tensors, or a module for its `stateDict()`. */
export type Savable = Module | Readonly<Record<string, Tensor>>;

interface Entry {
  readonly dtype: string;
  readonly shape: Shape;
  readonly data_offsets: readonly [number, number];
}

/** Longer headers are refused, as the reference implementation does. */
const maxHeaderBytes = 100_000_000;

/** What each dtype is called in the format; a bool takes one byte there. */
const spelled = { f32: "F32", f16: "F16", i32: "I32", u32: "U32", bool: "BOOL" } as const satisfies Record<DType, string>;

/**
 * How the format's dtypes are read; without `at`, as they lie there. What 32 bits cannot hold is refused rather than
 * rounded.
 */
const readers: Record<string, { bytes: number; dtype: DType; at?: (view: DataView, offset: number) => number }> = {
  F32: { bytes: 4, dtype: "f32" },
  F16: { bytes: 2, dtype: "f16", at: (view, offset) => halfValues()[view.getUint16(offset, true)]! },
  BF16: { bytes: 2, dtype: "f32", at: (view, offset) => bfloatToNumber(view.getUint16(offset, true)) },
  I32: { bytes: 4, dtype: "i32" },
  I16: { bytes: 2, dtype: "i32", at: (view, offset) => view.getInt16(offset, true) },
  I8: { bytes: 1, dtype: "i32", at: (view, offset) => view.getInt8(offset) },
  U32: { bytes: 4, dtype: "u32" },
  U16: { bytes: 2, dtype: "i32", at: (view, offset) => view.getUint16(offset, true) },
  U8: { bytes: 1, dtype: "i32", at: (view, offset) => view.getUint8(offset) },
  BOOL: { bytes: 1, dtype: "bool", at: (view, offset) => view.getUint8(offset) !== 0 ? 1 : 0 },
};

/** Writes named tensors, or a module's state, to a file. `metadata` are strings kept with them. */
export async function save(
  path: string,
  what: Savable,
  options: { readonly metadata?: Readonly<Record<string, string>> } = {},
): Promise<void> {
  await writeFile(path, await encode(what, options));
}

/**
 * Reads the named tensors of a file. F16 stays f16; BF16 becomes f32, and 8- and 16-bit integers i32.
 * Throws ArgumentError for a file that is not well-formed, DTypeError for 64-bit elements. Rejects when it cannot be
 * read.
 */
export async function load(path: string): Promise<Record<string, Tensor>> {
  return decode(await readFile(path), path);
}

/** Loads a file into a module, whose paths, shapes and dtypes must be those of the file; see `Module.loadStateDict`. */
export async function loadInto<M extends Module>(module: M, path: string): Promise<M> {
  return module.loadStateDict(await load(path));
}

/** The bytes of a file with these tensors. */
export async function encode(
  what: Savable,
  options: { readonly metadata?: Readonly<Record<string, string>> } = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const state = what instanceof Module ? what.stateDict() : what;
  // Long elements first, so that all of them are aligned; by name, so that equal states give equal files.
  const bytesOfElement = (name: string) => readers[spelled[state[name]!.dtype]]!.bytes;
  const names = Object.keys(state).sort((a, b) => bytesOfElement(b) - bytesOfElement(a) || (a < b ? -1 : 1));
  if (names.includes("__metadata__")) {
    throw new ArgumentError("io.save", {
      got: "a tensor named __metadata__",
      need: "another name, as the format uses this one",
    });
  }
  const arrays = await Promise.all(names.map(async (name) => inFile(state[name]!.dtype, await state[name]!.data())));
  const header: Record<string, unknown> = {};
  if (options.metadata !== undefined) header["__metadata__"] = options.metadata;
  let bytes = 0;
  names.forEach((name, i) => {
    const { dtype, shape } = state[name]!;
    header[name] = { dtype: spelled[dtype], shape, data_offsets: [bytes, bytes + arrays[i]!.byteLength] };
    bytes += arrays[i]!.byteLength;
  });
  const json = new TextEncoder().encode(JSON.stringify(header));
  const headerBytes = Math.ceil(json.length / 8) * 8;
  const file = new Uint8Array(8 + headerBytes + bytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
  file.set(json, 8);
  file.fill(0x20, 8 + json.length, 8 + headerBytes);
  let offset = 8 + headerBytes;
  for (const array of arrays) {
    file.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), offset);
    offset += array.byteLength;
  }
  return file;
}

/** Values as they lie in a file: as on a device, but a bool takes one byte, and nothing is filled up. */
function inFile(dtype: DType, values: HostArray): HostArray | Words {
  return dtype === "bool" ? values : toWords(dtype, values).subarray(0, values.length);
}

/** The tensors in the bytes of a file; `name` is what errors call it. Errors as in `load`. */
export function decode(file: Uint8Array, name = "the file"): Record<string, Tensor> {
  const refuse = (got: string, need: string) => new ArgumentError("io.load", { got: `${name}: ${got}`, need });
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 8) throw refuse(`${file.length} bytes`, "a safetensors file of at least 8");
  const headerBytes = Number(view.getBigUint64(0, true));
  if (headerBytes > maxHeaderBytes || 8 + headerBytes > file.length) {
    throw refuse(`a header of ${headerBytes} bytes in a file of ${file.length}`, "a safetensors file that is whole");
  }
  const header = readHeader(file.subarray(8, 8 + headerBytes), refuse);
  const body = 8 + headerBytes;
  const entries = [...header].sort(([, a], [, b]) =>
    a.data_offsets[0] - b.data_offsets[0] || a.data_offsets[1] - b.data_offsets[1]
  );
  let end = 0;
  for (const [path, { dtype, shape, data_offsets: [from, to] }] of entries) {
    const reader = readers[dtype];
    if (reader === undefined) {
      throw new DTypeError("io.load", { got: `${name}: ${path} of ${dtype}`, need: Object.keys(readers).join(", ") });
    }
    if (to - from !== size(shape) * reader.bytes) {
      throw new ShapeError("io.load", {
        got: `${name}: ${path} ${formatShape(shape)} of ${dtype} in ${to - from} bytes`,
        need: `${size(shape) * reader.bytes} bytes`,
      });
    }
    if (from !== end) throw refuse(`${path} at byte ${from}`, `no gap and no overlap: byte ${end}`);
    end = to;
  }
  if (body + end !== file.length) {
    throw refuse(`${file.length - body} bytes of data`, `the ${end} bytes that the header tells of`);
  }
  const result: Record<string, Tensor> = {};
  for (const [path, { dtype, shape, data_offsets: [from] }] of header) {
    const reader = readers[dtype]!;
    const data: HostArray = new dtypes[reader.dtype].array(size(shape));
    const start = body + from;
    // The format is little-endian, as every platform with WebGPU is: four-byte elements are copied as they are.
    if (reader.at === undefined) new Uint8Array(data.buffer).set(file.subarray(start, start + data.byteLength));
    else for (let i = 0; i < data.length; i++) data[i] = reader.at(view, start + i * reader.bytes);
    result[path] = tensor(data, { shape, dtype: reader.dtype });
  }
  return result;
}

function readHeader(bytes: Uint8Array, refuse: (got: string, need: string) => ArgumentError): Map<string, Entry> {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw refuse(`a header that is not JSON (${String(cause)})`, "a safetensors file");
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) {
    throw refuse("a header that is no record", "a safetensors file");
  }
  const entries = new Map<string, Entry>();
  for (const [path, entry] of Object.entries(header)) {
    if (path === "__metadata__") continue;
    if (!isEntry(entry)) throw refuse(`${path}: ${JSON.stringify(entry)}`, "dtype, shape and data_offsets");
    entries.set(path, entry);
  }
  return entries;
}

function isEntry(value: unknown): value is Entry {
  const entry = value as Partial<Entry> | null;
  const counts = (list: unknown): list is number[] =>
    Array.isArray(list) && list.every((n) => Number.isSafeInteger(n) && n >= 0);
  return typeof entry === "object" && entry !== null && typeof entry.dtype === "string" && counts(entry.shape) &&
    counts(entry.data_offsets) && entry.data_offsets.length === 2 && entry.data_offsets[0] <= entry.data_offsets[1];
}

/** The upper half of an f32. */
function bfloatToNumber(bits: number): number {
  const word = new DataView(new ArrayBuffer(4));
  word.setUint32(0, bits << 16 >>> 0);
  return word.getFloat32(0);
}

/**
 * The safetensors format: an 8-byte little-endian header length, a JSON header with the type, shape and place of each tensor,
 * then the bytes of all, with no gap. https://github.com/huggingface/safetensors
 */
import { ArgumentError, DTypeError, ShapeError } from "../../errors.ts";
import type { DType, HostArray } from "../../graph/dtype.ts";
import { formatShape, type Shape, size } from "../../graph/shape.ts";
import { toWords, type Words } from "../../graph/words.ts";
import { type ElementReader, readable, readerOf, valuesOf } from "./element-readers.ts";
import { parseStrict } from "./strict-json.ts";

/** The bytes before the header. */
export const lengthBytes = 8;
/** Longer headers are refused, and those nested deeper, as the reference implementation does. */
const maxHeaderBytes = 100_000_000;
const maxDepth = 127;

const metadataName = "__metadata__";

/** What each dtype is called in the format; a bool takes one byte there. */
const spelled = { f32: "F32", f16: "F16", i32: "I32", u32: "U32", bool: "BOOL" } as const satisfies Record<
  DType,
  string
>;

/** A tensor in a file. */
export interface Entry {
  /** Its type as the file calls it. */
  readonly type: string;
  readonly shape: Shape;
  /** Its first byte, and that after its last, in the file. */
  readonly from: number;
  readonly to: number;
}

/** A tensor's values on the host. */
export interface Values {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly values: HostArray;
}

type Refuse = (got: string, need: string, cause?: unknown) => ArgumentError;

const refusal = (file: string): Refuse => (got, need, cause) =>
  new ArgumentError("io.load", { got: `${file}: ${got}`, need, cause });

/** The bytes of the header, by the first `lengthBytes` of a file of so many bytes. Throws ArgumentError where there is none. */
export function headerBytes(start: Uint8Array, fileBytes: number, file: string): number {
  const refuse = refusal(file);
  if (start.length < lengthBytes) {
    throw refuse(`${start.length} bytes`, `a safetensors file of at least ${lengthBytes}`);
  }
  const bytes = Number(new DataView(start.buffer, start.byteOffset, lengthBytes).getBigUint64(0, true));
  if (bytes > maxHeaderBytes || lengthBytes + bytes > fileBytes) {
    throw refuse(`a header of ${bytes} bytes in a file of ${fileBytes}`, "a safetensors file that is whole");
  }
  return bytes;
}

/**
 * The tensors that a header tells of, by name, in its order. Throws ArgumentError for one that is not well-formed or tells of
 * other than `fileBytes`, ShapeError for a tensor that takes other bytes than its shape says.
 */
export function readHeader(header: Uint8Array, fileBytes: number, file: string): Map<string, Entry> {
  const refuse = refusal(file);
  const body = lengthBytes + header.length;
  const entries = new Map<string, Entry>();
  for (const [name, value] of Object.entries(parseHeader(header, refuse))) {
    if (name === metadataName) requireMetadata(value, refuse);
    else entries.set(name, readEntry(name, value, body, refuse));
  }
  let end = body;
  for (const [name, { type, shape, from, to }] of [...entries].sort(([, a], [, b]) => a.from - b.from || a.to - b.to)) {
    const reader = readerOf(type);
    if (reader !== undefined && to - from !== size(shape) * reader.bytes) {
      throw new ShapeError("io.load", {
        got: `${file}: ${quoted(name)} ${short(formatShape(shape))} of ${type} in ${to - from} bytes`,
        need: `${size(shape) * reader.bytes} bytes`,
      });
    }
    if (from !== end) {
      throw refuse(`${quoted(name)} at byte ${from - body}`, `no gap and no overlap: byte ${end - body}`);
    }
    end = to;
  }
  if (end !== fileBytes) {
    throw refuse(`${fileBytes - body} bytes of data`, `the ${end - body} bytes that the header tells of`);
  }
  return entries;
}

function parseHeader(bytes: Uint8Array, refuse: Refuse): object {
  if (bytes[0] !== 0x7b) throw refuse("a header that does not begin with {", "a safetensors file");
  try {
    return parseStrict(new TextDecoder("utf-8", { fatal: true }).decode(bytes), maxDepth) as object;
  } catch (cause) {
    const message = short(cause instanceof Error ? cause.message : String(cause));
    throw refuse(`a header that is no JSON, or ambiguous (${message})`, "a safetensors file", cause);
  }
}

function requireMetadata(value: unknown, refuse: Refuse): void {
  if (value === null || isRecord(value) && Object.values(value).every((text) => typeof text === "string")) return;
  throw refuse(`${metadataName} ${described(value)}`, "strings by name");
}

function readEntry(name: string, value: unknown, body: number, refuse: Refuse): Entry {
  const counts = (list: unknown): list is number[] =>
    Array.isArray(list) && list.every((n) => Number.isSafeInteger(n) && n >= 0 && !Object.is(n, -0));
  if (isRecord(value)) {
    const { dtype, shape, data_offsets: offsets } = value;
    if (typeof dtype === "string" && counts(shape) && counts(offsets) && offsets.length === 2) {
      const [from, to] = offsets as [number, number];
      if (from <= to) return { type: dtype, shape, from: body + from, to: body + to };
    }
  }
  throw refuse(`${quoted(name)}: ${described(value)}`, "dtype, shape and data_offsets");
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * The values of a tensor, of its bytes, which are taken over where that can be. Throws DTypeError for a type that cannot be read
 * and for integers that 32 bits cannot hold.
 */
export function readTensor(name: string, { type, shape }: Entry, bytes: Uint8Array<ArrayBuffer>, file: string): Values {
  const reader = requireReader(name, type, file);
  const refuse = (element: number, value: bigint) =>
    new DTypeError("io.load", {
      got: `${file}: ${quoted(name)} of ${type} with ${value} as element ${element}`,
      need: `integers that fit into ${reader.dtype}, or io.load(path, { only: [names] }) without it`,
    });
  return { dtype: reader.dtype, shape, values: valuesOf(reader, bytes, refuse) };
}

/** How a type is read. Throws DTypeError for one that cannot be read. */
export function requireReader(name: string, type: string, file: string): ElementReader {
  const reader = readerOf(type);
  if (reader !== undefined) return reader;
  throw new DTypeError("io.load", {
    got: `${file}: ${quoted(name)} of ${short(type)}`,
    need: `${readable.join(", ")}, or io.load(path, { only: [names] }) without it`,
  });
}

/**
 * A file with these tensors, in pieces. Throws ArgumentError for a tensor called __metadata__, for metadata that are no
 * strings, and for names that take more than a header may.
 */
export function writeTensors(
  tensors: ReadonlyMap<string, Values>,
  metadata: Readonly<Record<string, string>> | undefined,
): Uint8Array[] {
  const op = "io.save";
  if (tensors.has(metadataName)) {
    throw new ArgumentError(op, {
      got: `a tensor named ${metadataName}`,
      need: "another name, as the format uses this one",
    });
  }
  // Long elements first, so that all of them are aligned; by name, so that equal states give equal files.
  const bytesOfElement = (dtype: DType) => readerOf(spelled[dtype])!.bytes;
  const sorted = [...tensors].sort(([a, { dtype: left }], [b, { dtype: right }]) =>
    bytesOfElement(right) - bytesOfElement(left) || (a < b ? -1 : 1)
  );
  const entries: [name: string, value: unknown][] = metadata === undefined ? [] : [[metadataName, metadata]];
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for (const [name, { dtype, shape, values }] of sorted) {
    const array = inFile(dtype, values);
    entries.push([name, { dtype: spelled[dtype], shape, data_offsets: [bytes, bytes + array.byteLength] }]);
    pieces.push(new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
    bytes += array.byteLength;
  }
  // Of entries, as to assign to the name __proto__ would set a prototype.
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const header = new Uint8Array(lengthBytes + Math.ceil(json.length / 8) * 8).fill(0x20);
  if (header.length - lengthBytes > maxHeaderBytes) {
    throw new ArgumentError(op, {
      got: `names and metadata of ${json.length} bytes`,
      need: `at most ${maxHeaderBytes}`,
    });
  }
  new DataView(header.buffer).setBigUint64(0, BigInt(header.length - lengthBytes), true);
  header.set(json, lengthBytes);
  return [header, ...pieces];
}

/** Values as they lie in a file: as on a device, but a bool takes one byte, and nothing is filled up. */
function inFile(dtype: DType, values: HostArray): HostArray | Words {
  return dtype === "bool" ? values : toWords(dtype, values).subarray(0, values.length);
}

/** What stands in a header, for a message. Nothing there is deep. */
function described(value: unknown): string {
  return short(JSON.stringify(value));
}

/** A name, for a message. */
export function quoted(name: string): string {
  return short(/^[\w.-]+$/.test(name) ? name : JSON.stringify(name));
}

function short(text: string): string {
  return text.length <= 100 ? text : `${text.slice(0, 100)}…`;
}

/** Tensors in files of the safetensors format. */
import { ArgumentError, FileError, ShardwiseError } from "../../errors.ts";
import { placeOf, replaceFile, withFile } from "../../host/files.ts";
import { anything, type Kind, oneOf, optional, options as optionsOf, string } from "../../signature/kinds.ts";
import { show } from "../../signature/show.ts";
import { type Signature, takes } from "../../signature/takes.ts";
import { fromHost } from "../../tensor/create.ts";
import { isTensor, type Tensor } from "../../tensor/tensor.ts";
import { isRecord } from "../layers/kinds.ts";
import { Module, moduleKind, requirePaths } from "../layers/module.ts";
import {
  type Entry,
  headerBytes,
  lengthBytes,
  quoted,
  readHeader,
  readTensor,
  requireReader,
  type Values,
  writeTensors,
} from "./safetensors.ts";

/** Named tensors in a plain object, or a module for its `stateDict()`. */
export type Savable = Module | Readonly<Record<string, Tensor>>;

/** What is saved besides. */
export interface SaveOptions {
  /** Strings that are kept with the tensors. Default none. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

/** What is loaded of a file. */
export interface LoadOptions {
  /** The names of the tensors to read; all others are passed over. Default all. */
  readonly only?: readonly string[] | undefined;
}

/** How a file is loaded into a module. */
export interface LoadIntoOptions {
  /** What tensors of the file are that the module does not have. Default `refuse`; with `ignore` they are not read. */
  readonly unexpected?: "refuse" | "ignore" | undefined;
}

const path: Kind<string> = {
  need: "the path of a file, as a string",
  accepts: (x) => typeof x === "string" && x !== "",
  refuse: (_, x) => ({ got: `the path ${show(x)}`, need: "the path of a file, as a string" }),
};
// A state and metadata are read once only, where that is told of.
const savable: Kind<Savable> = { ...anything, need: "a module, or tensors in a plain object" };
const bytes: Kind<Uint8Array> = { need: "bytes in a Uint8Array", accepts: (x) => kindOf(x) === "Uint8Array" };
const names: Kind<readonly string[]> = {
  need: "a list of names",
  // Spread, as `every` passes holes over.
  accepts: (x) => Array.isArray(x) && [...x].every((name) => typeof name === "string"),
};
const saveOptions = optionsOf<SaveOptions>({ metadata: anything });
const loadOptions = optionsOf<LoadOptions>({ only: names });
const signatures = {
  save: takes("io.save", { path, what: savable, options: saveOptions }),
  load: takes("io.load", { path, options: loadOptions }),
  loadInto: takes("io.loadInto", {
    module: moduleKind,
    path,
    options: optionsOf<LoadIntoOptions>({ unexpected: oneOf("refuse", "ignore") }),
  }),
  encode: takes("io.encode", { what: savable, options: saveOptions }),
  decode: takes("io.decode", { file: bytes, name: optional(string), options: loadOptions }),
};

/** The last save to each file, until it is done. */
const saves = new Map<string, Promise<unknown>>();

/**
 * Writes named tensors, or a module's state, to a file, as they are when this is called, and makes its folder where needed.
 * The file has all of the new content or all of the old, at every time and for every reader; calls for one path take effect in
 * their order, and of several processes the last one to complete. Resolves when the content is on disk. A save that fails
 * leaves the old file; what one left that was killed goes with the next save to this path. Links are followed, also those to
 * what is not there yet.
 * Rejects with ArgumentError for what is neither a module nor a plain object of tensors (no array, no Map), for a tensor named
 * `__metadata__`, for metadata that are no plain object of strings, and where a getter of these throws; with FileError for what
 * cannot be written: in a folder that cannot be made, where the path is a folder, ends as one (`new/`) or is of links in a
 * circle, without permission or room.
 */
export async function save(path: string, what: Savable, options: SaveOptions = {}): Promise<void> {
  const op = "io.save";
  check(signatures.save, arguments);
  let place: string;
  try {
    place = placeOf(path);
  } catch (error) {
    throw asFileError(op, path, error);
  }
  const content = pieces(what, options);
  const before = saves.get(place);
  const replaced = Promise.all([content, before])
    .then(([content]) =>
      replaceFile(place, content, { durable: true }).catch((error: unknown) => {
        throw asFileError(op, path, error);
      })
    );
  // Also after one that failed early, the next waits for those before it.
  const done = Promise.allSettled([before, replaced]);
  saves.set(place, done);
  try {
    await replaced;
  } finally {
    if (saves.get(place) === done) saves.delete(place);
  }
}

/**
 * Reads the named tensors of a file, exactly: F32, F16, I32, U32 and BOOL as they are; BF16, F8_E5M2, F8_E4M3, F8_E5M2FNUZ,
 * F8_E4M3FNUZ and F8_E8M0 as f32; I8, U8, I16 and U16 as i32; I64 as i32 and U64 as u32. Only F64 is rounded, to the nearest
 * f32 (infinite beyond its range).
 * Rejects with ArgumentError for wrong arguments, for a file that is not well-formed, for a name of `only` that it does
 * not have and for a tensor that the host's memory does not hold; DTypeError (with the tensor's name) for an I64 or U64 that 32
 * bits do not hold and for other types; ShapeError for a tensor of other bytes than its shape says; FileError when it cannot be
 * read. What `only` passes over may have any type and size.
 */
export async function load(path: string, options: LoadOptions = {}): Promise<Record<string, Tensor>> {
  check(signatures.load, arguments);
  const only = options.only && [...options.only];
  return await loadChosen("io.load", path, (names) => chosen(names, only, path));
}

/**
 * Loads a file into a module, whose paths, shapes and dtypes must be those of the file, except for what `unexpected: "ignore"`
 * allows; see `Module.loadStateDict`. Errors as there and in `load`. The module is unchanged where this rejects.
 */
export async function loadInto<M extends Module>(module: M, path: string, options: LoadIntoOptions = {}): Promise<M> {
  const op = "io.loadInto";
  check(signatures.loadInto, arguments);
  const { unexpected = "refuse" } = options;
  const own = Object.keys(module.stateDict());
  const state = await loadChosen(op, path, (names) => {
    const wanted = new Set(own);
    requirePaths(own, unexpected === "refuse" ? names : names.filter((name) => wanted.has(name)));
    return own;
  });
  return module.loadStateDict(state);
}

/** The bytes of a file with these tensors, as they are when this is called. Errors as in `save`. */
export async function encode(what: Savable, options: SaveOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
  check(signatures.encode, arguments);
  const parts = await pieces(what, options);
  const file = new Uint8Array(parts.reduce((bytes, part) => bytes + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    file.set(part, offset);
    offset += part.length;
  }
  return file;
}

/** The tensors in the bytes of a file; `name` is what errors call it. Throws what `load` rejects with, but no FileError. */
export function decode(file: Uint8Array, name = "the file", options: LoadOptions = {}): Record<string, Tensor> {
  check(signatures.decode, arguments);
  const end = lengthBytes + headerBytes(file.subarray(0, lengthBytes), file.length, name);
  const entries = readHeader(file.subarray(lengthBytes, end), file.length, name);
  const wanted = chosen([...entries.keys()], options.only, name);
  return Object.fromEntries(wanted.map((path) => {
    const entry = entries.get(path)!;
    // A copy; `slice` of a Buffer is none.
    const bytes = new Uint8Array(file.subarray(entry.from, entry.to));
    return [path, tensorOf(readTensor(path, entry, bytes, name))];
  }));
}

/** The content of a file. All tensors are read at once, and kept from changes by handles of their own. */
async function pieces(what: Savable, options: SaveOptions): Promise<Uint8Array[]> {
  const op = "io.save";
  const { metadata } = options;
  const kept = metadata === undefined ? undefined : entriesOf(op, "metadata", metadata, "strings in a plain object");
  const texts = kept?.map(([name, value]): [string, string] => {
    if (typeof value === "string") return [name, value];
    throw new ArgumentError(op, { got: `metadata with ${name}: ${show(value)}`, need: "strings" });
  });
  const state = what instanceof Module
    ? Object.entries(what.stateDict())
    : entriesOf(op, "the state", what, "a module, or tensors in a plain object");
  const reading = state.map(async ([name, tensor]): Promise<[string, Values]> => {
    if (!isTensor(tensor)) throw new ArgumentError(op, { got: `${name}: ${show(tensor)}`, need: "a tensor" });
    // Read by the given handle, so that it has what is computed for this; by another the data lives on if that is disposed.
    const own = tensor.detach();
    try {
      return [name, { dtype: own.dtype, shape: own.shape, values: await tensor.data() }];
    } finally {
      own.dispose();
    }
  });
  return writeTensors(new Map(await Promise.all(reading)), texts && Object.fromEntries(texts));
}

/** Checks arguments; a getter among them that throws is theirs. */
function check(signature: Signature, args: ArrayLike<unknown>): void {
  try {
    signature.check(args);
  } catch (cause) {
    if (cause instanceof ShardwiseError) throw cause;
    throw new ArgumentError(signature.op, { got: "a getter that throws", need: signature.names.join(", "), cause });
  }
}

/** What is in a plain object. Throws ArgumentError for all else, of which entries may be none or others than are meant. */
function entriesOf(op: string, what: string, value: unknown, need: string): [string, unknown][] {
  if (!isRecord(value)) {
    const kind = kindOf(value);
    throw new ArgumentError(op, { got: `${what}: ${kind === "Object" ? "an object of a class" : kind}`, need });
  }
  try {
    return Object.entries(value);
  } catch (cause) {
    throw new ArgumentError(op, { got: `${what}: a getter that throws`, need, cause });
  }
}

/** `Map`, `Null`, `String`, …: for anything, also what cannot be made a string. */
function kindOf(value: unknown): string {
  return Object.prototype.toString.call(value).slice("[object ".length, -1);
}

async function loadChosen(
  op: string,
  path: string,
  choose: (names: readonly string[]) => readonly string[],
): Promise<Record<string, Tensor>> {
  try {
    return await withFile(path, async ({ bytes, read }) => {
      const length = headerBytes(await read(0, Math.min(bytes, lengthBytes)), bytes, path);
      const entries = readHeader(await read(lengthBytes, length), bytes, path);
      const wanted = choose([...entries.keys()]).map((name): [string, Entry] => [name, entries.get(name)!]);
      for (const [name, { type }] of wanted) requireReader(name, type, path);
      const tensors: [string, Tensor][] = [];
      for (const [name, entry] of wanted) {
        const bytes = entry.to - entry.from;
        try {
          tensors.push([name, tensorOf(readTensor(name, entry, await read(entry.from, bytes), path))]);
        } catch (cause) {
          // What a runtime says of an array that it cannot make.
          if (!(cause instanceof RangeError)) throw cause;
          const need = "tensors that memory holds, or io.load(path, { only: [names] }) without it";
          throw new ArgumentError(op, { got: `${path}: ${quoted(name)} of ${bytes} bytes`, need, cause });
        }
      }
      // Not assigned by name: __proto__ is one.
      return Object.fromEntries(tensors);
    });
  } catch (error) {
    throw asFileError(op, path, error);
  }
}

function chosen(names: readonly string[], only: readonly string[] | undefined, file: string): readonly string[] {
  if (only === undefined) return names;
  const there = new Set(names);
  const missing = only.filter((name) => !there.has(name));
  if (missing.length > 0) {
    throw new ArgumentError("io.load", { got: `${file}: without [${missing}]`, need: "names of its tensors" });
  }
  return [...new Set(only)];
}

function tensorOf({ dtype, shape, values }: Values): Tensor {
  return fromHost(values, shape, dtype);
}

/** What the system says of a file. Errors of shardwise stay. */
function asFileError(op: string, path: string, cause: unknown): unknown {
  if (cause instanceof ShardwiseError) return cause;
  const message = cause instanceof Error ? cause.message : String(cause);
  const need = op === "io.save"
    ? "a file that can be written, in a folder that can be made"
    : "a file that can be read";
  return new FileError(op, { got: `${path} (${message})`, need, cause });
}

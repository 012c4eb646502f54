/** Tensors in files of the safetensors format. */
import { ArgumentError, FileError, ShardwiseError } from "../errors.ts";
import { placeOf, replaceFile, withFile } from "../host/files.ts";
import { fromHost } from "../tensor/create.ts";
import { isTensor, type Tensor } from "../tensor/tensor.ts";
import { Module, requirePaths } from "./module.ts";
import {
  type Entry,
  headerBytes,
  lengthBytes,
  readHeader,
  readTensor,
  requireReader,
  type Values,
  writeTensors,
} from "./safetensors.ts";

/** Named tensors, or a module for its `stateDict()`. */
export type Savable = Module | Readonly<Record<string, Tensor>>;

export interface SaveOptions {
  /** Strings that are kept with the tensors. */
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface LoadOptions {
  /** The names of the tensors to read; all others are passed over. Default all. */
  readonly only?: readonly string[];
}

export interface LoadIntoOptions {
  /** What tensors of the file are that the module does not have. Default `refuse`; with `ignore` they are not read. */
  readonly unexpected?: "refuse" | "ignore";
}

/** The last save to each file, until it is done. */
const saves = new Map<string, Promise<unknown>>();

/**
 * Writes named tensors, or a module's state, to a file, as they are when this is called, and makes its folder where needed.
 * The file has all of the new content or all of the old, at every time and for every reader; calls for one path take effect in
 * their order, and of several processes the last one to complete. Resolves when the content is on disk. A save that fails
 * leaves the old file; what one left that was killed goes with the next save to this path.
 * Throws ArgumentError for what is no tensor, for a tensor named `__metadata__` and for metadata that are no strings. Rejects
 * with FileError for what cannot be written: in a folder that cannot be made, where the path is a folder, without permission
 * or room.
 */
export async function save(path: string, what: Savable, options: SaveOptions = {}): Promise<void> {
  const op = "io.save";
  requirePath(op, path);
  const content = pieces(what, options);
  const place = placeOf(path);
  const before = saves.get(place);
  const replaced = Promise.all([content, before]).then(([content]) => replaceFile(place, content, { durable: true }));
  // Also after one that failed early, the next waits for those before it.
  const done = Promise.allSettled([before, replaced]);
  saves.set(place, done);
  try {
    await replaced;
  } catch (error) {
    throw asFileError(op, path, error);
  } finally {
    if (saves.get(place) === done) saves.delete(place);
  }
}

/**
 * Reads the named tensors of a file, exactly: F32, F16, I32, U32 and BOOL as they are; BF16, F8_E5M2, F8_E4M3 and F8_E8M0 as
 * f32; I8, U8, I16 and U16 as i32; I64 as i32 and U64 as u32. Only F64 is rounded, to the nearest f32 (infinite beyond its
 * range).
 * Throws ArgumentError for a file that is not well-formed and for a name of `only` that it does not have, DTypeError (with the
 * tensor's name) for an I64 or U64 that 32 bits do not hold and for other types, unless `only` passes them over; ShapeError
 * for a tensor of other bytes than its shape says. Rejects with FileError when it cannot be read.
 */
export async function load(path: string, options: LoadOptions = {}): Promise<Record<string, Tensor>> {
  return await loadChosen(path, (names) => chosen(names, options, path));
}

/**
 * Loads a file into a module, whose paths, shapes and dtypes must be those of the file, except for what `unexpected: "ignore"`
 * allows; see `Module.loadStateDict`. Errors as there and in `load`. The module is unchanged where this rejects.
 */
export async function loadInto<M extends Module>(module: M, path: string, options: LoadIntoOptions = {}): Promise<M> {
  const { unexpected = "refuse" } = options;
  if (unexpected !== "refuse" && unexpected !== "ignore") {
    throw new ArgumentError("io.loadInto", { got: `unexpected: ${String(unexpected)}`, need: "refuse or ignore" });
  }
  const own = Object.keys(module.stateDict());
  const state = await loadChosen(path, (names) => {
    const wanted = new Set(own);
    requirePaths(own, unexpected === "refuse" ? names : names.filter((name) => wanted.has(name)));
    return own;
  });
  return module.loadStateDict(state);
}

/** The bytes of a file with these tensors, as they are when this is called. Errors as in `save`. */
export async function encode(what: Savable, options: SaveOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
  const parts = await pieces(what, options);
  const file = new Uint8Array(parts.reduce((bytes, part) => bytes + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    file.set(part, offset);
    offset += part.length;
  }
  return file;
}

/** The tensors in the bytes of a file; `name` is what errors call it. Errors as in `load`. */
export function decode(file: Uint8Array, name = "the file", options: LoadOptions = {}): Record<string, Tensor> {
  const end = lengthBytes + headerBytes(file.subarray(0, lengthBytes), file.length, name);
  const entries = readHeader(file.subarray(lengthBytes, end), file.length, name);
  const wanted = chosen([...entries.keys()], options, name);
  return Object.fromEntries(wanted.map((path) => {
    const entry = entries.get(path)!;
    // A copy; `slice` of a Buffer is none.
    const bytes = new Uint8Array(file.subarray(entry.from, entry.to));
    return [path, tensorOf(readTensor(path, entry, bytes, name))];
  }));
}

/** The content of a file. All tensors are read at once, and kept from changes by handles of their own. */
async function pieces(what: Savable, { metadata }: SaveOptions): Promise<Uint8Array[]> {
  const op = "io.save";
  for (const [name, value] of Object.entries(metadata ?? {})) {
    if (typeof value === "string") continue;
    throw new ArgumentError(op, { got: `metadata with ${name}: ${typeof value}`, need: "strings" });
  }
  const kept = metadata === undefined ? undefined : Object.fromEntries(Object.entries(metadata));
  if (typeof what !== "object" || what === null) {
    throw new ArgumentError(op, { got: typeof what, need: "a module or tensors by name" });
  }
  const state = what instanceof Module ? what.stateDict() : what;
  const reading = Object.entries(state).map(async ([name, tensor]): Promise<[string, Values]> => {
    if (!isTensor(tensor)) throw new ArgumentError(op, { got: `${name}: ${typeof tensor}`, need: "a tensor" });
    // Read by the given handle, so that it has what is computed for this; by another the data lives on if that is disposed.
    const own = tensor.detach();
    try {
      return [name, { dtype: own.dtype, shape: own.shape, values: await tensor.data() }];
    } finally {
      own.dispose();
    }
  });
  return writeTensors(new Map(await Promise.all(reading)), kept);
}

async function loadChosen(
  path: string,
  choose: (names: readonly string[]) => readonly string[],
): Promise<Record<string, Tensor>> {
  const op = "io.load";
  requirePath(op, path);
  try {
    return await withFile(path, async ({ bytes, read }) => {
      const length = headerBytes(await read(0, Math.min(bytes, lengthBytes)), bytes, path);
      const entries = readHeader(await read(lengthBytes, length), bytes, path);
      const wanted = choose([...entries.keys()]).map((name): [string, Entry] => [name, entries.get(name)!]);
      for (const [name, { type }] of wanted) requireReader(name, type, path);
      const tensors: [string, Tensor][] = [];
      for (const [name, entry] of wanted) {
        tensors.push([name, tensorOf(readTensor(name, entry, await read(entry.from, entry.to - entry.from), path))]);
      }
      // Not assigned by name: __proto__ is one.
      return Object.fromEntries(tensors);
    });
  } catch (error) {
    throw asFileError(op, path, error);
  }
}

function chosen(names: readonly string[], { only }: LoadOptions, file: string): readonly string[] {
  if (only === undefined) return names;
  if (!Array.isArray(only)) {
    throw new ArgumentError("io.load", { got: `only: ${typeof only}`, need: "a list of names" });
  }
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

function requirePath(op: string, path: unknown): void {
  if (typeof path === "string" && path !== "") return;
  throw new ArgumentError(op, {
    got: `the path ${path === "" ? '""' : String(path)}`,
    need: "the path of a file, as a string",
  });
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

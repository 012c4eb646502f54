/**
 * Files that are replaced as a whole: what is new is written beside them, under a name of its own, and takes the old one's
 * place when it is complete. Also reading parts of a file, and making folders.
 */
import {
  digest,
  type FileHandle,
  type FileStatus,
  fileSystem,
  isRunning,
  mayUseFolder,
  mayWrite,
  paths,
  platform,
  processId,
  processSpace,
} from "./host.ts";

/** Bytes that are read or written in one call: systems have limits below the size of large files. */
const mostAtOnce = 2 ** 26;
/** Milliseconds since the last write after which nobody is believed to write on, whoever that was. */
const longestPause = 3_600_000;

/** Names end so while they are written: a digest that stands for the space of process ids, the process, a number. */
const partialEnd = /\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.partial$/;
/** Links that are followed from one path, as many as Linux does. */
const mostLinks = 40;
/** Longer names are replaced by a digest: a name has at most 255 bytes. */
const longestStem = 200;

/**
 * Replaces a file, and makes its folder where needed. A reader sees the old content or the new, never a part, also when
 * several replace it at once, in one process or many; the last to complete stays. Where that fails, the old content is
 * still there and nothing else. Links are followed as `placeOf` does, and a file keeps its mode. With `durable` the content is on disk before it
 * takes the old one's place, and what writers left there that ended too early is removed.
 * Rejects as the runtime does, and for what is there and no file.
 */
export async function replaceFile(
  path: string,
  content: string | readonly Uint8Array[],
  options: { readonly durable: boolean },
): Promise<void> {
  const { promises } = fileSystem();
  const target = placeOf(path);
  const folder = paths().dirname(target);
  // Without both nothing takes the old one's place, and what is written beside it could not be removed.
  if (!mayUseFolder(folder, { write: true })) throw failure("EACCES", `${folder} may not be read and written`);
  const old = await promises.stat(target).catch(() => undefined);
  if (old !== undefined) {
    requireFile(target, old);
    // To replace a file that may not be written to would be allowed by its folder, but not meant. Root may write to all.
    await (await promises.open(target, "r+")).close();
  }
  makeFolder(folder);
  if (options.durable) await removePartials(folder, paths().basename(target));
  const partial = partialOf(target);
  try {
    const handle = await promises.open(partial, "wx", old === undefined ? 0o666 : old.mode & 0o777);
    try {
      // What the process masks is missing else. File systems without modes refuse this.
      if (old !== undefined) await handle.chmod(old.mode & 0o777).catch(() => undefined);
      for (const piece of typeof content === "string" ? [new TextEncoder().encode(content)] : content) {
        await writeAll(handle, piece);
      }
      if (options.durable) await handle.sync();
    } finally {
      await handle.close();
    }
    await promises.rename(partial, target);
  } catch (error) {
    await promises.rm(partial, { recursive: true, force: true }).catch(() => undefined);
    throw error;
  }
  if (options.durable) await syncFolder(folder);
}

function requireFile(path: string, status: FileStatus): void {
  if (status.isFile()) return;
  throw status.isDirectory()
    ? failure("EISDIR", `${path} is a folder`)
    : failure("EINVAL", `${path} is no regular file`);
}

/** An error as the system's are. */
function failure(code: string, text: string): Error {
  return Object.assign(new Error(`${code}: ${text}`), { code });
}

async function writeAll(handle: FileHandle, data: Uint8Array): Promise<void> {
  for (let done = 0; done < data.length;) {
    done += (await handle.write(data, done, Math.min(mostAtOnce, data.length - done))).bytesWritten;
  }
}

/** Where a system cannot do this, a crash of the machine may bring back the old content, which is whole too. */
async function syncFolder(path: string): Promise<void> {
  if (!mayUseFolder(path, { write: false })) return;
  const handle = await fileSystem().promises.open(path, "r").catch(() => undefined);
  await handle?.sync().catch(() => undefined);
  await handle?.close().catch(() => undefined);
}

/**
 * The file that a path means at this time: absolute, links followed, also those to what is not there. Throws for a path that
 * ends as a folder's does, for links in a circle, and for a relative path in a folder that is gone.
 */
export function placeOf(path: string): string {
  const { basename, dirname, join, resolve } = paths();
  requireFileName(path);
  let at = resolve(path);
  const { realpathSync } = fileSystem();
  const missing: string[] = [];
  let links = 0;
  while (at !== dirname(at) && mayUseFolder(at, { write: false })) {
    try {
      return join(realpathSync(at), ...missing);
    } catch {
      // Not there, or a link to what is not there.
    }
    const link = linkAt(at);
    if (link === undefined) {
      missing.unshift(basename(at));
      at = dirname(at);
      continue;
    }
    if (++links > mostLinks) throw failure("ELOOP", `too many links from ${path}`);
    if (missing.length === 0) requireFileName(link);
    at = resolve(mayUseFolder(dirname(at), { write: false }) ? realpathSync(dirname(at)) : dirname(at), link);
  }
  return join(at, ...missing);
}

/** Resolving a path drops a slash at its end, and dots there; a system takes it for a folder. */
function requireFileName(path: string): void {
  const end = platform === "win32" ? /[/\\]\.{0,2}$/ : /\/\.{0,2}$/;
  if (end.test(path)) throw failure("EISDIR", `${path} names a folder`);
}

function linkAt(path: string): string | undefined {
  try {
    return fileSystem().readlinkSync(path);
  } catch {
    return undefined;
  }
}

function partialOf(path: string): string {
  const { basename, dirname, join } = paths();
  const number = crypto.getRandomValues(new Uint32Array(1))[0]!.toString(16).padStart(8, "0");
  return join(dirname(path), `${stemOf(basename(path))}.${ownSpace().digest}-${processId}-${number}.partial`);
}

function stemOf(name: string): string {
  return new TextEncoder().encode(name).length > longestStem ? digest(name)! : name;
}

let space: { readonly known: boolean; readonly digest: string } | undefined;

function ownSpace(): { readonly known: boolean; readonly digest: string } {
  if (space === undefined) {
    const found = processSpace();
    space = { known: found !== undefined, digest: digest(found ?? "")!.slice(0, 8) };
  }
  return space;
}

/**
 * Removes what `replaceFile` left half written in a folder, for one name or for all, where its process can be seen from here
 * to be gone; and of any process, as numbers of processes are used again, what was not written to for an hour. Does nothing
 * where it may not.
 */
export async function removePartials(folder: string, name?: string): Promise<void> {
  if (!mayUseFolder(folder, { write: true })) return;
  const stem = name === undefined ? undefined : stemOf(name);
  for (const found of await listFolder(folder).catch(() => [])) {
    const [end, itsSpace, pid] = partialEnd.exec(found) ?? [];
    if (end === undefined || (stem !== undefined && found !== stem + end)) continue;
    const path = paths().join(folder, found);
    const ended = ownSpace().known && itsSpace === ownSpace().digest && isRunning(Number(pid)) === false;
    if (ended || Date.now() - await modified(path).catch(() => Infinity) > longestPause) {
      await removeFile(path).catch(() => undefined);
    }
  }
}

/** A file from which parts are read. */
export interface OpenFile {
  readonly bytes: number;
  /** Its bytes from a position. Rejects where it ends before. */
  read(from: number, count: number): Promise<Uint8Array<ArrayBuffer>>;
}

/**
 * Calls `body` with a file, which is closed afterwards. What is read is of one file, also when another replaces it meanwhile.
 * Rejects as the runtime does when it cannot be read, or may not be.
 */
export async function withFile<T>(path: string, body: (file: OpenFile) => Promise<T>): Promise<T> {
  if (!mayUseFolder(path, { write: false })) throw failure("EACCES", `${path} may not be read`);
  const handle = await fileSystem().promises.open(path, "r");
  try {
    const status = await handle.stat();
    if (status.isFile()) {
      return await body({
        bytes: status.size,
        read: (from, count) => readPart(handle, from, count),
      });
    }
    // A pipe has no size and no positions.
    const whole = await handle.readFile();
    const read = (from: number, count: number) => Promise.resolve(new Uint8Array(whole.subarray(from, from + count)));
    return await body({ bytes: whole.length, read });
  } finally {
    await handle.close();
  }
}

async function readPart(handle: FileHandle, from: number, count: number): Promise<Uint8Array<ArrayBuffer>> {
  const into = new Uint8Array(count);
  for (let done = 0; done < count;) {
    const { bytesRead } = await handle.read(into, done, Math.min(mostAtOnce, count - done), from + done);
    if (bytesRead === 0) throw new Error(`the file became shorter than ${from + count} bytes while it was read`);
    done += bytesRead;
  }
  return into;
}

/**
 * Makes a folder and those above it, with a mode; one that is there stays as it is. Throws as the runtime does. Node's own
 * recursive `mkdir` does not return below a folder in which none can be made, such as /proc.
 */
export function makeFolder(path: string, mode = 0o777): void {
  if (makeOne(path, mode)) return;
  const above = paths().dirname(path);
  if (above !== path) makeFolder(above, mode);
  if (!makeOne(path, mode)) {
    throw failure("ENOENT", `the folder ${path} cannot be made`);
  }
}

/** Whether the folder is there now; false where one above it is missing. */
function makeOne(path: string, mode: number): boolean {
  if (!mayWrite(path)) {
    if (isFolder(path)) return true;
    throw failure("EACCES", `${path} may not be made`);
  }
  try {
    fileSystem().mkdirSync(path, { mode });
    return true;
  } catch (error) {
    const { code } = error as { readonly code?: unknown };
    if (code === "ENOENT") return false;
    if (code === "EEXIST" || isFolder(path)) return true;
    throw error;
  }
}

function isFolder(path: string): boolean {
  try {
    return mayUseFolder(path, { write: false }) && fileSystem().statSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** Makes a folder that only this user may enter, and those above it; one that is there stays as it is. */
export function makePrivateFolder(path: string): void {
  makeFolder(path, 0o700);
}

/** A text for a file, after its digest, by which a damaged file shows. */
export function withDigest(body: string): string {
  return `${digest(body)}\n${body}`;
}

/** The text that `withDigest` was given for a file; undefined where it is not there, cannot be read or is damaged. */
export function readWithDigest(path: string): string | undefined {
  let text: string;
  try {
    text = fileSystem().readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
  const end = text.indexOf("\n");
  const body = text.slice(end + 1);
  return end >= 0 && text.slice(0, end) === digest(body) ? body : undefined;
}

/** Names in a folder. */
export function listFolder(path: string): Promise<string[]> {
  return fileSystem().promises.readdir(path);
}

/** When a file was last written, in milliseconds since 1970. */
export async function modified(path: string): Promise<number> {
  return (await fileSystem().promises.stat(path)).mtimeMs;
}

/** Removes a file or a folder with all that is in it; does nothing where there is none. */
export async function removeFile(path: string): Promise<void> {
  await fileSystem().promises.rm(path, { recursive: true, force: true });
}

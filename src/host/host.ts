/** What differs between Node, Deno and the browser. Everything else in the library is the same in all three. */

/** Where the library runs. */
export type Runtime = "node" | "deno" | "browser";

/** The part of `node:fs` (Deno has it too) that the library uses. */
interface FileSystem {
  readonly promises: {
    readFile(path: string): Promise<Uint8Array<ArrayBuffer>>;
    writeFile(path: string, data: string | Uint8Array): Promise<void>;
    rename(from: string, to: string): Promise<void>;
    mkdir(path: string, options: { recursive: true; mode?: number }): Promise<unknown>;
    rm(path: string, options: { recursive: true; force: true }): Promise<void>;
    readdir(path: string): Promise<string[]>;
    stat(path: string): Promise<{ readonly mtimeMs: number }>;
  };
  readFileSync(path: string, encoding: "utf8"): string;
  appendFileSync(path: string, data: string): void;
  writeFileSync(path: string, data: string): void;
  mkdirSync(path: string, options: { recursive: true }): unknown;
  readdirSync(path: string): string[];
}

interface OperatingSystem {
  totalmem(): number;
}

interface HostProcess {
  readonly env: Record<string, string | undefined>;
  readonly platform: string;
  readonly pid: number;
  readonly versions: Record<string, string | undefined>;
  readonly stderr: { write(text: string): unknown; readonly isTTY?: boolean };
  getBuiltinModule?(name: string): unknown;
  constrainedMemory?(): number;
  once(event: "exit", listener: () => void): unknown;
}

interface HostGlobals {
  readonly Deno?: {
    readonly permissions: {
      querySync(
        query: { name: "env"; variable: string } | { name: "read" | "write"; path: string },
      ): { readonly state: string };
    };
  };
  readonly process?: HostProcess;
  readonly setImmediate?: (callback: () => void) => unknown;
  readonly gc?: () => void;
}

const host = globalThis as unknown as HostGlobals;
const hostProcess = host.Deno !== undefined || host.process?.versions?.["node"] !== undefined
  ? host.process
  : undefined;

/** The runtime of this process. */
export const runtime: Runtime = host.Deno !== undefined ? "deno" : hostProcess !== undefined ? "node" : "browser";

/** `linux`, `darwin`, `win32`, …; `browser` in a browser. */
export const platform: string = hostProcess?.platform ?? "browser";

/** The process's id, 0 in a browser. */
export const processId: number = hostProcess?.pid ?? 0;

/** An environment variable; undefined when unset, empty, or not allowed to be read (Deno without `--allow-env`). */
export function environment(name: string): string | undefined {
  if (hostProcess === undefined || !mayUseEnvironment(name)) return undefined;
  const value = hostProcess.env[name];
  return value === "" ? undefined : value;
}

/**
 * Runs `body` with environment variables changed for this process and its native libraries, and puts the old values
 * back when it is done. Calls run one after the other, so that no two see each other's changes.
 */
export function withEnvironment<T>(
  changes: Readonly<Record<string, string>>,
  body: () => Promise<T>,
): Promise<T> {
  const turn = environmentTurn.then(async () => {
    const variables = hostProcess?.env;
    const names = variables === undefined ? [] : Object.keys(changes).filter(mayUseEnvironment);
    const before = new Map(names.map((name) => [name, variables?.[name]]));
    try {
      for (const name of names) if (variables !== undefined) variables[name] = changes[name];
      return await body();
    } finally {
      for (const [name, value] of before) {
        if (variables === undefined) continue;
        if (value === undefined) delete variables[name];
        else variables[name] = value;
      }
    }
  });
  environmentTurn = turn.then(() => undefined, () => undefined);
  return turn;
}

let environmentTurn: Promise<void> = Promise.resolve();

function mayUseEnvironment(variable: string): boolean {
  // Asking first keeps Deno from stopping the program with a permission prompt.
  return host.Deno === undefined ||
    host.Deno.permissions.querySync({ name: "env", variable }).state === "granted";
}

/** Writes one line to the standard error stream (the console in a browser). */
export function stderrLine(text: string): void {
  if (hostProcess === undefined) console.warn(text);
  else hostProcess.stderr.write(`${text}\n`);
}

/** Whether the standard error stream is a terminal, where a line can be written over. */
export function stderrIsTerminal(): boolean {
  return hostProcess?.stderr.isTTY === true;
}

/** Calls `listener` when the process ends by itself; it must be synchronous. Does nothing in a browser. */
export function onExit(listener: () => void): void {
  hostProcess?.once("exit", listener);
}

/** Collects garbage now where the runtime lets us (Node, Deno; elsewhere with `--expose-gc`); tells whether it did. */
export function collectGarbage(): boolean {
  collector ??= host.gc ?? exposedCollector() ?? null;
  collector?.();
  return collector !== null;
}

/** V8's collector; null where it cannot be had. */
let collector: (() => void) | null | undefined;

/** The collector of a context made while V8 exposes it; the flag is put back at once. */
function exposedCollector(): (() => void) | undefined {
  try {
    const v8 = builtin<{ setFlagsFromString(flags: string): void }>("node:v8");
    const vm = builtin<{ runInNewContext(code: string): unknown }>("node:vm");
    v8?.setFlagsFromString("--expose-gc");
    const collect = vm?.runInNewContext("typeof gc === 'function' ? gc : undefined");
    v8?.setFlagsFromString("--no-expose-gc");
    return typeof collect === "function" ? () => void collect() : undefined;
  } catch {
    return undefined;
  }
}

/** Resolves in a later turn of the event loop, so that timers, input and signals get theirs. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => laterTurn(host.setImmediate, resolve));
}

/** The runtime's own, also where something stands in for it later. */
const { setImmediate: immediate } = host;

/** Calls back in a later turn of the event loop. Nobody waits for that: it is no work of the program's. */
export function inLaterTurn(callback: () => void): void {
  laterTurn(immediate, callback);
}

function laterTurn(setImmediate: HostGlobals["setImmediate"], callback: () => void): void {
  if (setImmediate !== undefined) {
    setImmediate(() => callback());
    return;
  }
  const channel = new MessageChannel();
  channel.port1.onmessage = () => {
    channel.port1.close();
    callback();
  };
  channel.port2.postMessage(0);
}

/** Bytes of memory that this process may use: the machine's, or its container's; undefined in a browser. */
export function memoryBytes(): number | undefined {
  const os = builtin<OperatingSystem>("node:os");
  if (os === undefined) return undefined;
  const machine = os.totalmem();
  const container = hostProcess?.constrainedMemory?.() ?? 0;
  return container > 0 && container < machine ? container : machine;
}

/** The bytes of a file. Rejects as the runtime does when it cannot be read. */
export function readFile(path: string): Promise<Uint8Array<ArrayBuffer>> {
  return files("readFile").promises.readFile(path);
}

/** Replaces a file, and makes its folder where needed. A reader sees the old content or the new, never a part. */
export async function writeFile(path: string, data: string | Uint8Array): Promise<void> {
  const { promises } = files("writeFile");
  const folder = path.replace(/[^/\\]*$/, "");
  if (folder !== "") await promises.mkdir(folder, { recursive: true });
  const partial = `${path}.${processId}.partial`;
  try {
    await promises.writeFile(partial, data);
    await promises.rename(partial, path);
  } catch (error) {
    await promises.rm(partial, { recursive: true, force: true });
    throw error;
  }
}

/** Makes a folder and those above it. */
export async function makeFolder(path: string): Promise<void> {
  await files("makeFolder").promises.mkdir(path, { recursive: true });
}

/** Makes a folder that only this user may enter, and those above it; one that is there stays as it is. */
export async function makePrivateFolder(path: string): Promise<void> {
  await files("makePrivateFolder").promises.mkdir(path, { recursive: true, mode: 0o700 });
}

/** The path of a `file:` URL; undefined for any other. */
export function pathOfUrl(url: string): string | undefined {
  if (!url.startsWith("file://")) return undefined;
  const path = decodeURIComponent(url.slice("file://".length));
  return platform === "win32" ? path.replace(/^\//, "") : path;
}

/** Names in a folder. */
export function listFolder(path: string): Promise<string[]> {
  return files("listFolder").promises.readdir(path);
}

/** When a file was last written, in milliseconds since 1970. */
export async function modified(path: string): Promise<number> {
  return (await files("modified").promises.stat(path)).mtimeMs;
}

/** Removes a file or a folder with all that is in it; does nothing where there is none. */
export async function removeFile(path: string): Promise<void> {
  await files("removeFile").promises.rm(path, { recursive: true, force: true });
}

/**
 * The folder of this user for what programs can make again, with no slash at its end; undefined where there is none, as in a
 * browser.
 */
export function cacheFolder(): string | undefined {
  const home = environment(platform === "win32" ? "LOCALAPPDATA" : "HOME");
  return environment("XDG_CACHE_HOME") ??
    (home === undefined ? undefined : platform === "win32" ? home : `${home}/${platform === "darwin" ? "Library/Caches" : ".cache"}`);
}

/** Whether files in a folder can be read (and written), without asking anybody. */
export function mayUseFolder(path: string, options: { readonly write: boolean }): boolean {
  if (builtin("node:fs") === undefined) return false;
  const names = options.write ? ["read", "write"] as const : ["read"] as const;
  return host.Deno === undefined || names.every((name) => host.Deno?.permissions.querySync({ name, path }).state === "granted");
}

/** SHA-256 of a text, in hexadecimal digits; undefined in a browser. */
export function digest(text: string): string | undefined {
  interface Hash {
    update(text: string): Hash;
    digest(encoding: "hex"): string;
  }
  return builtin<{ createHash(name: "sha256"): Hash }>("node:crypto")?.createHash("sha256").update(text).digest("hex");
}

/** Files while the program waits, for debug output and for facts of the system. Undefined in a browser. */
export function syncFiles():
  | Pick<FileSystem, "readFileSync" | "readdirSync" | "writeFileSync" | "appendFileSync" | "mkdirSync">
  | undefined {
  return builtin<FileSystem>("node:fs");
}

function files(op: string): FileSystem {
  const fs = builtin<FileSystem>("node:fs");
  if (fs === undefined) throw new Error(`${op}: this runtime has no file system`);
  return fs;
}

function builtin<T>(name: string): T | undefined {
  return hostProcess?.getBuiltinModule?.(name) as T | undefined;
}

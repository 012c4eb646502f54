/** What differs between Node, Deno and the browser. Everything else in the library is the same in all three. */

/** Where the library runs. */
export type Runtime = "node" | "deno" | "browser";

/** A file that is open, of `node:fs`. */
export interface FileHandle {
  read(into: Uint8Array, offset: number, length: number, position: number): Promise<{ readonly bytesRead: number }>;
  write(data: Uint8Array, offset: number, length: number): Promise<{ readonly bytesWritten: number }>;
  readFile(): Promise<Uint8Array<ArrayBuffer>>;
  stat(): Promise<FileStatus>;
  chmod(mode: number): Promise<void>;
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface FileStatus {
  readonly size: number;
  readonly mode: number;
  readonly mtimeMs: number;
  isFile(): boolean;
  isDirectory(): boolean;
}

/** The part of `node:fs` (Deno has it too) that the library uses. */
export interface FileSystem {
  readonly promises: {
    open(path: string, flags: string, mode?: number): Promise<FileHandle>;
    rename(from: string, to: string): Promise<void>;
    rm(path: string, options: { recursive: true; force: true }): Promise<void>;
    readdir(path: string): Promise<string[]>;
    stat(path: string): Promise<FileStatus>;
  };
  readFileSync(path: string, encoding: "utf8"): string;
  appendFileSync(path: string, data: string): void;
  writeFileSync(path: string, data: string): void;
  mkdirSync(path: string, options: { mode?: number }): unknown;
  readdirSync(path: string, options?: { readonly recursive: boolean }): string[];
  readlinkSync(path: string): string;
  realpathSync(path: string): string;
  statSync(path: string): FileStatus;
}

/** The part of `node:path` that the library uses. */
interface Paths {
  basename(path: string): string;
  dirname(path: string): string;
  join(...parts: string[]): string;
  resolve(...parts: string[]): string;
}

interface OperatingSystem {
  totalmem(): number;
  hostname(): string;
}

interface HostProcess {
  readonly env: Record<string, string | undefined>;
  readonly platform: string;
  readonly arch: string;
  readonly pid: number;
  readonly versions: Record<string, string | undefined>;
  readonly stderr: { write(text: string): unknown; readonly isTTY?: boolean };
  getBuiltinModule?(name: string): unknown;
  constrainedMemory?(): number;
  once(event: "exit" | "beforeExit", listener: () => void): unknown;
  on(event: "beforeExit", listener: () => void): unknown;
  off(event: "beforeExit", listener: () => void): unknown;
  exit(): unknown;
  kill(pid: number, signal: 0): unknown;
}

type Permission =
  | { readonly name: "env"; readonly variable: string }
  | { readonly name: "read" | "write"; readonly path: string }
  | { readonly name: "run" }
  | { readonly name: "ffi"; readonly path?: string }
  | { readonly name: "sys"; readonly kind: "hostname" | "systemMemoryInfo" };

interface HostGlobals {
  readonly Deno?: {
    readonly permissions: { querySync(query: Permission): { readonly state: string } };
    unrefTimer(id: number): void;
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

/** `x64`, `arm64`, …; empty in a browser. */
export const architecture: string = hostProcess?.arch ?? "";

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

/** Whether an environment variable can be read and set, without asking anybody. */
export function mayUseEnvironment(variable: string): boolean {
  return isGranted({ name: "env", variable });
}

function isGranted(permission: Permission): boolean {
  // Asking first keeps Deno from stopping the program with a permission prompt.
  return host.Deno === undefined || host.Deno.permissions.querySync(permission).state === "granted";
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

/**
 * Lets the program, once it has come to its end, end without the runtime's clean-up, in which a driver may wait for ever; until
 * the function that is returned is called. Its exit code and what listens for `exit` stay as they are.
 */
export function endWithoutCleanUp(): () => void {
  // Called by the last listener, this only ends; without a code, it takes that of the program.
  const last = () => hostProcess?.once("exit", () => hostProcess.exit());
  hostProcess?.on("beforeExit", last);
  return () => void hostProcess?.off("beforeExit", last);
}

/** Lets a timer or an immediate not keep the process from ending. */
export function dontWaitFor(handle: unknown): void {
  if (typeof handle === "number") host.Deno?.unrefTimer(handle);
  else (handle as { unref?(): void } | undefined)?.unref?.();
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

/**
 * Bytes of memory that this process may use: the machine's, or its container's; undefined in a browser, and where it may not
 * be asked (Deno without `--allow-sys`).
 */
export function memoryBytes(): number | undefined {
  const os = isGranted({ name: "sys", kind: "systemMemoryInfo" }) ? builtin<OperatingSystem>("node:os") : undefined;
  if (os === undefined) return undefined;
  const machine = os.totalmem();
  const container = hostProcess?.constrainedMemory?.() ?? 0;
  return container > 0 && container < machine ? container : machine;
}

/** The path of a `file:` URL; undefined for any other. */
export function pathOfUrl(url: string): string | undefined {
  if (!url.startsWith("file://")) return undefined;
  const path = decodeURIComponent(url.slice("file://".length));
  return platform === "win32" ? path.replace(/^\//, "") : path;
}

/**
 * The folder of this user for what programs can make again, with no slash at its end; undefined where there is none, as in a
 * browser.
 */
export function cacheFolder(): string | undefined {
  const home = environment(platform === "win32" ? "LOCALAPPDATA" : "HOME");
  return environment("XDG_CACHE_HOME") ??
    (home === undefined
      ? undefined
      : platform === "win32"
      ? home
      : `${home}/${platform === "darwin" ? "Library/Caches" : ".cache"}`);
}

/** Whether files in a folder can be read (and written), without asking anybody. */
export function mayUseFolder(path: string, options: { readonly write: boolean }): boolean {
  if (builtin("node:fs") === undefined) return false;
  return isGranted({ name: "read", path }) && (!options.write || isGranted({ name: "write", path }));
}

/** Whether a file or a folder can be written, without asking anybody. */
export function mayWrite(path: string): boolean {
  return builtin("node:fs") !== undefined && isGranted({ name: "write", path });
}

/** Whether a native library can be loaded, without asking anybody; with no path, whether any can. */
export function mayLoadLibrary(path: string | undefined): boolean {
  return isGranted(path === undefined ? { name: "ffi" } : { name: "ffi", path });
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
  | Pick<FileSystem, "readFileSync" | "readdirSync" | "writeFileSync" | "appendFileSync">
  | undefined {
  return builtin<FileSystem>("node:fs");
}

/** All of the above. Throws where the runtime has no file system, as a browser. */
export function fileSystem(): FileSystem {
  return required<FileSystem>("node:fs");
}

export function paths(): Paths {
  return required<Paths>("node:path");
}

function required<T>(name: string): T {
  const found = builtin<T>(name);
  if (found === undefined) throw new Error("this runtime has no file system");
  return found;
}

/** Whether a process of this machine is running; undefined where that may not be asked (Deno without `--allow-run`). */
export function isRunning(pid: number): boolean | undefined {
  if (hostProcess === undefined || !isGranted({ name: "run" })) return undefined;
  try {
    hostProcess.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as { readonly code?: unknown }).code !== "ESRCH";
  }
}

/**
 * Tells processes that share their ids with this one from those of other machines and containers; undefined where that cannot
 * be known (Deno without `--allow-sys`, or on Linux without `--allow-all`).
 */
export function processSpace(): string | undefined {
  const os = isGranted({ name: "sys", kind: "hostname" }) ? builtin<OperatingSystem>("node:os") : undefined;
  if (os === undefined || platform !== "linux") return os?.hostname();
  const [boot, ids] = ["/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"] as const;
  if (!mayUseFolder(boot, { write: false }) || !mayUseFolder(ids, { write: false })) return undefined;
  try {
    // Names of machines may be equal, and each has the first namespace under the same number.
    return [os.hostname(), fileSystem().readFileSync(boot, "utf8").trim(), fileSystem().readlinkSync(ids)].join("|");
  } catch {
    // Deno gives such links only to those who may do anything.
    return undefined;
  }
}

/** A module of the runtime; undefined in a browser. */
export function builtin<T>(name: string): T | undefined {
  return hostProcess?.getBuiltinModule?.(name) as T | undefined;
}

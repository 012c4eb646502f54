import { ArgumentError } from "../errors.ts";
import { environment } from "../host/host.ts";

/** The environment variables that steer a run, each with the prefix `SHARDWISE_`. */
export interface Flags {
  /**
   * DEBUG=0…5: 1 devices and kernel counts; 2 a line per kernel with time, GFLOP/s and GB/s; 3 schedule and kernel
   * IR; 4 kernel sources; 5 every pass.
   */
  readonly debug: 0 | 1 | 2 | 3 | 4 | 5;
  /** DEVICE: the default device: `cpu`, `gpu`, or part of an adapter's name. */
  readonly device: string | undefined;
  /** DUMP: a folder for graphs (DOT) and kernels (text). */
  readonly dump: string | undefined;
  /** TRACE: a file for a Chrome trace. */
  readonly trace: string | undefined;
  /** VALIDATE=1: every kernel runs again in JS and is compared. */
  readonly validate: boolean;
  /** NOFUSE=1: one kernel per op. */
  readonly noFuse: boolean;
  /** WASM=0: the cpu device computes in JavaScript, as where there is no WebAssembly with SIMD. */
  readonly wasm: boolean;
  /** THREADS: how many threads a cpu device computes on; by default as many as there are processors, 8 at most. */
  readonly threads: number | undefined;
  /** RELAXED=1: kernels in WebAssembly multiply and add in one instruction where the runtime has one: other bits on other machines. */
  readonly relaxed: boolean;
  /** NOTUNE=1: schedules that were tuned are not used. */
  readonly noTune: boolean;
  /** MEMORY: the budget of each device, in MiB. */
  readonly memoryBytes: number | undefined;
  /** CACHE: a folder for compiled plans, by default one in the user's cache folder; 0 (false): none are kept on disk. */
  readonly cache: string | false | undefined;
}

/** Threads that one device may be asked to compute on. */
export const mostThreads = 256;

let current: Flags | undefined;

/** The flags of this process, read from the environment at the first call. Throws ArgumentError for a bad value. */
export function flags(): Flags {
  return current ??= readFlags(environment);
}

/** Uses other flags from now on; undefined reads the environment again. For tests. */
export function setFlags(replacement: Flags | undefined): void {
  current = replacement;
}

/** Reads flags from variables. Throws ArgumentError, with the legal values, for a bad one. */
export function readFlags(variable: (name: string) => string | undefined): Flags {
  const read = <T>(name: string, parse: (value: string) => T | undefined, legal: string, otherwise: T): T => {
    const value = variable(`SHARDWISE_${name}`);
    if (value === undefined || value === "") return otherwise;
    const parsed = parse(value);
    if (parsed === undefined) throw new ArgumentError(`SHARDWISE_${name}`, { got: value, need: legal });
    return parsed;
  };
  const text = (name: string) => read<string | undefined>(name, (value) => value, "text", undefined);
  const yesNo = (name: string, otherwise = false) =>
    read(name, (value) => (value === "1" ? true : value === "0" ? false : undefined), "0 or 1", otherwise);
  const levels = [0, 1, 2, 3, 4, 5] as const;
  return {
    debug: read("DEBUG", (value) => levels.find((level) => String(level) === value), "0, 1, 2, 3, 4 or 5", 0),
    device: text("DEVICE"),
    dump: text("DUMP"),
    trace: text("TRACE"),
    validate: yesNo("VALIDATE"),
    noFuse: yesNo("NOFUSE"),
    wasm: yesNo("WASM", true),
    threads: read<number | undefined>(
      "THREADS",
      (value) => (/^[1-9]\d*$/.test(value) && Number(value) <= mostThreads ? Number(value) : undefined),
      `a whole number from 1 to ${mostThreads}`,
      undefined,
    ),
    relaxed: yesNo("RELAXED"),
    noTune: yesNo("NOTUNE"),
    memoryBytes: read<number | undefined>(
      "MEMORY",
      (value) => (/^[1-9]\d*$/.test(value) ? Number(value) * 2 ** 20 : undefined),
      "a positive whole number of MiB",
      undefined,
    ),
    cache: read<string | false | undefined>(
      "CACHE",
      (value) => (value === "0" ? false : value),
      "a folder, or 0",
      undefined,
    ),
  };
}

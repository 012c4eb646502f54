/**
 * What a thread of the crew does. These functions are sent to it as text, so that no file has to be found, by whatever bundler or
 * registry the library came: they must not use anything from outside of themselves.
 */
import type { HostFunction } from "../../graph/lanes.ts";

/** A kernel of a module; see compiler/wasm/module.ts. */
export type WasmFunction = (begin: number, end: number, from: number, to: number, scratch: number) => void;

/**
 * Where the words lie that threads share. Those that are written while kernels run have a cache line each. A job is described by the
 * words behind `device`, which change only while no job is open and nobody is in one.
 */
export const layout = {
  /** Grows with each job and each message; who sleeps waits for that. */
  wake: 0,
  /** The number of the job that is open; 0 while there is none. */
  open: 16,
  /** How many are in a job, beside the caller. */
  active: 32,
  /** The next chunk of the job. */
  next: 48,
  /** How many sleep. */
  sleeping: 64,
  /** How many messages were sent to everybody. */
  mail: 80,
  /** Whether somebody's kernel threw. */
  failed: 81,
  /** How many chunks others than the callers took so far. */
  helped: 82,
  device: 96,
  module: 97,
  kernel: 98,
  /** How many members may come. */
  limit: 99,
  chunks: 100,
  /** Chunks side by side along the fastest counter. */
  across: 101,
  outer: 102,
  outerStep: 103,
  inner: 104,
  innerStep: 105,
  /** The scratch memory of the caller, and what lies between that of one thread and that of the next. */
  scratch: 106,
  scratchStride: 107,
  /** Words in all. */
  length: 112,
} as const;

export type Layout = typeof layout;

/** What is sent to a member. All but the first message go to everybody, and are counted. */
export type CrewMessage =
  | { readonly kind: "begin"; readonly words: Int32Array; readonly index: number; readonly mail: number }
  | { readonly kind: "memory"; readonly device: number; readonly memory: WebAssembly.Memory }
  | {
    readonly kind: "module";
    readonly device: number;
    readonly id: number;
    readonly module: WebAssembly.Module;
    readonly kernels: number;
  }
  /** Without an id: all of the device. */
  | { readonly kind: "forget"; readonly device: number; readonly id: number | undefined };

/** Runs chunks of the open job until none is left; gives how many. */
export function takeChunks(words: Int32Array, at: Layout, run: WasmFunction, scratch: number): number {
  const chunks = words[at.chunks]!;
  const across = words[at.across]!;
  const outer = words[at.outer]!;
  const outerStep = words[at.outerStep]!;
  const inner = words[at.inner]!;
  const innerStep = words[at.innerStep]!;
  let taken = 0;
  for (let chunk = Atomics.add(words, at.next, 1); chunk < chunks; chunk = Atomics.add(words, at.next, 1)) {
    const column = chunk % across;
    const begin = (chunk - column) / across * outerStep;
    const from = column * innerStep;
    run(begin, Math.min(outer, begin + outerStep), from, Math.min(inner, from + innerStep), scratch);
    taken++;
  }
  return taken;
}

/** What there is in a thread, of Node's and Deno's kind or of the web's. */
interface MemberScope {
  readonly process?: { getBuiltinModule?(name: string): unknown };
  onmessage: ((event: { readonly data: CrewMessage }) => void) | null;
}

interface ParentPort {
  on(event: "message", listener: (message: CrewMessage) => void): void;
}

/** The body of a thread, for as long as the process lives. */
export function crewMember(take: typeof takeChunks, at: Layout): void {
  /** Milliseconds that a member stays awake after a job: the next one comes soon, or not soon. */
  const awake = 0.05;
  const devices = new Map<number, { memory: WebAssembly.Memory; modules: Map<number, WasmFunction[]> }>();
  let index = 0;
  /** Messages that have come. */
  let mail = 0;
  let words: Int32Array | undefined;
  let last = 0;

  const join = (words: Int32Array): void => {
    Atomics.add(words, at.active, 1);
    // Only now nobody changes what describes the job, if it still is open.
    const job = Atomics.load(words, at.open);
    if (job !== 0) {
      last = job;
      const run = devices.get(words[at.device]!)?.modules.get(words[at.module]!)?.[words[at.kernel]!];
      if (run !== undefined && index < words[at.limit]!) {
        try {
          const scratch = words[at.scratch]! + (index + 1) * words[at.scratchStride]!;
          Atomics.add(words, at.helped, take(words, at, run, scratch));
        } catch {
          Atomics.store(words, at.failed, 1);
        }
      }
    }
    if (Atomics.sub(words, at.active, 1) === 1) Atomics.notify(words, at.active);
  };

  /** Serves until there is a message, which only comes when this returns. */
  const serve = (words: Int32Array): void => {
    let idle = performance.now();
    for (;;) {
      const wake = Atomics.load(words, at.wake);
      if (Atomics.load(words, at.mail) !== mail) return;
      const job = Atomics.load(words, at.open);
      if (job !== 0 && job !== last) {
        join(words);
        idle = performance.now();
      } else if (performance.now() - idle > awake) {
        Atomics.add(words, at.sleeping, 1);
        Atomics.wait(words, at.wake, wake);
        Atomics.sub(words, at.sleeping, 1);
        idle = performance.now();
      }
    }
  };

  const instance = (module: WebAssembly.Module, memory: WebAssembly.Memory, kernels: number): WasmFunction[] => {
    const host: Record<HostFunction, (a: number, b: number) => number> = {
      sin: Math.sin,
      cos: Math.cos,
      tan: Math.tan,
      rem: (a, b) => a % b,
    };
    const { exports } = new WebAssembly.Instance(module, { host: { memory, ...host } });
    return Array.from({ length: kernels }, (_, i) => exports[`k${i}`] as WasmFunction);
  };

  const receive = (message: CrewMessage): void => {
    mail++;
    switch (message.kind) {
      case "begin":
        ({ index, mail, words } = message);
        break;
      case "memory":
        devices.set(message.device, { memory: message.memory, modules: new Map() });
        break;
      case "module": {
        const device = devices.get(message.device);
        if (device === undefined) break;
        try {
          device.modules.set(message.id, instance(message.module, device.memory, message.kernels));
        } catch {
          // The others do without this one.
        }
        break;
      }
      case "forget":
        if (message.id === undefined) devices.delete(message.device);
        else devices.get(message.device)?.modules.delete(message.id);
    }
    if (words !== undefined && Atomics.load(words, at.mail) === mail) serve(words);
  };

  const scope = globalThis as unknown as MemberScope;
  const threads = scope.process?.getBuiltinModule?.("node:worker_threads") as { parentPort?: ParentPort } | undefined;
  const port = threads?.parentPort;
  if (port !== undefined && port !== null) port.on("message", receive);
  else scope.onmessage = ({ data }) => receive(data);
}

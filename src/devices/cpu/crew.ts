/**
 * Threads that help the one that calls: they take chunks of a kernel while there are some, and nobody waits for one that did not
 * come. What a chunk is does not depend on who takes it, so that results are the same for any number of threads.
 */
import { debugLine } from "../../debug/log.ts";
import { InternalError } from "../../errors.ts";
import { processors, startThread, type Thread } from "../../host/threads.ts";
import { crewMember, type CrewMessage, layout, takeChunks, type WasmFunction } from "./crew-member.ts";

/** A module whose kernels members can run, too. */
export interface CrewModule {
  readonly id: number;
  readonly module: WebAssembly.Module;
  readonly kernels: number;
}

/** A kernel cut into chunks: of combinations of its outer counters, and of the range of the fastest one. */
export interface Chunks {
  readonly chunks: number;
  readonly across: number;
  readonly outer: number;
  readonly outerStep: number;
  readonly inner: number;
  readonly innerStep: number;
}

/** Threads by default, where there are more processors: those of a container are often fewer than the machine's. */
const mostByDefault = 8;
/** Modules of one device that members know: the oldest are forgotten. */
const mostModules = 512;
/** How often who waits for the last member looks before it sleeps. */
const patience = 2000;

/** How many threads compute where nothing else is asked for. */
export function defaultThreads(): number {
  return Math.min(processors(), mostByDefault);
}

/** Whether memory can be shared between threads here, and threads be started; a page has to be isolated from others for that. */
export function canShare(): boolean {
  return typeof SharedArrayBuffer === "function";
}

/** The crew of this process; there is one for all devices, as one kernel runs at a time. */
export function crewOfProcess(): Crew {
  return crew ??= new Crew();
}

let crew: Crew | undefined;

export class Crew {
  readonly #words = new Int32Array(new SharedArrayBuffer(4 * layout.length));
  readonly #members: Thread[] = [];
  readonly #memories = new Map<number, WebAssembly.Memory>();
  /** The modules of each device that all members were sent, the oldest first. */
  readonly #sent = new Map<number, Set<number>>();
  readonly #canSleep = mayWait(this.#words);
  #works = true;
  #job = 0;

  /** Chunks that members took so far. */
  get helped(): number {
    return Atomics.load(this.#words, layout.helped);
  }

  /** How many threads there are, beside the one that calls. */
  get size(): number {
    return this.#members.length;
  }

  /** Makes the memory of a device known. */
  attach(device: number, memory: WebAssembly.Memory): void {
    this.#memories.set(device, memory);
    this.#send({ kind: "memory", device, memory });
  }

  /** Forgets a device, and all of its kernels. */
  detach(device: number): void {
    if (!this.#memories.delete(device)) return;
    this.#sent.delete(device);
    this.#send({ kind: "forget", device, id: undefined });
  }

  /** Starts a member where there are fewer than these: one at a call, as that takes a while. */
  grow(members: number): void {
    if (!this.#works || this.#members.length >= members) return;
    // As text these need a function by which a bundler may have wrapped theirs.
    const text = `const __name = (f) => f; (${crewMember})(${takeChunks}, ${JSON.stringify(layout)});`;
    const member = startThread(text, "shardwise", (reason) => {
      this.#works = false;
      debugLine(1, () => `shardwise: a thread of the cpu device ended: ${reason}`);
    });
    if (member === undefined) {
      this.#works = false;
      return debugLine(1, () => "shardwise: the cpu device computes on one thread: no other can be started");
    }
    // What was sent before goes to the new one, too; modules when they are used again.
    const mail = Atomics.load(this.#words, layout.mail);
    const begin: CrewMessage = { kind: "begin", words: this.#words, index: this.#members.length, mail };
    this.#members.push(member);
    member.post(begin);
    this.#sent.clear();
    for (const [device, memory] of this.#memories) this.#send({ kind: "memory", device, memory });
  }

  /**
   * Runs a kernel whose buffers' addresses are in memory already, on this thread and as many members as there are and `limit`
   * allows. `run` is its function here. Scratch memory of member i is `scratchStride` bytes times i + 1 behind `scratch`. Those who
   * sleep are woken for it with `wake`. Throws what the kernel throws.
   */
  run(
    device: number,
    module: CrewModule,
    kernel: number,
    run: WasmFunction,
    { chunks, across, outer, outerStep, inner, innerStep }: Chunks,
    { limit, scratch, scratchStride, wake }: {
      readonly limit: number;
      readonly scratch: number;
      readonly scratchStride: number;
      readonly wake: boolean;
    },
  ): void {
    this.#share(device, module);
    const words = this.#words;
    words[layout.device] = device;
    words[layout.module] = module.id;
    words[layout.kernel] = kernel;
    words[layout.limit] = limit;
    words[layout.chunks] = chunks;
    words[layout.across] = across;
    words[layout.outer] = outer;
    words[layout.outerStep] = outerStep;
    words[layout.inner] = inner;
    words[layout.innerStep] = innerStep;
    words[layout.scratch] = scratch;
    words[layout.scratchStride] = scratchStride;
    words[layout.failed] = 0;
    Atomics.store(words, layout.next, 0);
    this.#job = (this.#job + 1 & 0x7fffffff) || 1;
    Atomics.store(words, layout.open, this.#job);
    Atomics.add(words, layout.wake, 1);
    if (wake && Atomics.load(words, layout.sleeping) > 0) Atomics.notify(words, layout.wake);
    try {
      takeChunks(words, layout, run, scratch);
    } finally {
      Atomics.store(words, layout.open, 0);
      this.#join();
    }
    if (words[layout.failed] !== 0) {
      throw new InternalError("run", { got: "a kernel that failed in a thread", need: "one that runs" });
    }
  }

  /** Waits until no member is in the job any more. */
  #join(): void {
    const words = this.#words;
    for (let looked = 0;; looked++) {
      const active = Atomics.load(words, layout.active);
      if (active === 0) return;
      if (looked >= patience && this.#canSleep) Atomics.wait(words, layout.active, active, 10);
    }
  }

  /** Sends a module to all members that do not know it. */
  #share(device: number, { id, module, kernels }: CrewModule): void {
    let sent = this.#sent.get(device);
    if (sent === undefined) this.#sent.set(device, sent = new Set());
    if (sent.has(id)) return;
    sent.add(id);
    this.#send({ kind: "module", device, id, module, kernels });
    if (sent.size <= mostModules) return;
    for (const oldest of sent) {
      sent.delete(oldest);
      return this.#send({ kind: "forget", device, id: oldest });
    }
  }

  #send(message: CrewMessage): void {
    if (this.#members.length === 0) return;
    for (const member of this.#members) member.post(message);
    Atomics.add(this.#words, layout.mail, 1);
    Atomics.add(this.#words, layout.wake, 1);
    Atomics.notify(this.#words, layout.wake);
  }
}

/** Whether this thread may sleep: a page's own may not. */
function mayWait(words: Int32Array): boolean {
  try {
    Atomics.wait(words, layout.wake, 1, 0);
    return true;
  } catch {
    return false;
  }
}

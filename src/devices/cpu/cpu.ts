import type { Plan, PlanStep, Program, Target } from "../../compiler/plan/plan.ts";
import { spareBytes } from "../../compiler/wasm/render.ts";
import { flags } from "../../debug/flags.ts";
import { debugLine } from "../../debug/log.ts";
import { traceSpan, tracing } from "../../debug/trace.ts";
import { DeviceError, InternalError } from "../../errors.ts";
import type { Words } from "../../graph/words.ts";
import { nextTurn } from "../../host/host.ts";
import { guard } from "../../signature/takes.ts";
import type {
  Device,
  DeviceBuffer,
  DeviceInfo,
  DeviceLoss,
  DeviceStats,
  Executable,
  OutputRead,
} from "../device/device.ts";
import { ofUsers } from "../device/kinds.ts";
import { kernelRan, timingKernels } from "../device/profile.ts";
import { type Identity, register } from "../device/registry.ts";
import { checkReads, handled, partOffset, partOfItem } from "../memory/bind.ts";
import { type BoundRun, DeviceCore, LoadedExecutable } from "../memory/core.ts";
import { References } from "../memory/references.ts";
import type { Lease } from "../memory/scratch.ts";
import { alignment, type Arena, type Piece } from "./arena.ts";
import { canShare, type Chunks, type Crew, crewOfProcess, defaultThreads } from "./crew.ts";
import { ArenaMemory, ArrayMemory, type HostMemory } from "./host-memory.ts";
import { hasRelaxedWasm, hasWasm, type Kernel, Kernels, type WasmKernel } from "./kernels.ts";

/** Milliseconds that awaited calls may follow each other before timers, input and signals get a turn. */
const longestTurn = 12;

/**
 * Operations and bytes of a chunk of a kernel, some 5 to 20 microseconds: threads take them in turns, and V8 has better code for the
 * next call than for one that runs.
 */
const chunkWork = 2 ** 18;
/** Chunks of a kernel at most. */
const mostChunks = 4096;
/** Operations and bytes that are worth the help of threads that are awake, and those that are worth waking them. */
const [sharedWork, wakingWork] = [4 * chunkWork, 8 * chunkWork] as const;
/** Operations and bytes after which threads are started, some 50 milliseconds: what takes less does not get back what a start takes. */
const startWork = 2 ** 30;

const jsTarget: Target = {
  language: "js",
  class: "js",
  subgroupSize: 0,
  f16: "native",
  maxStorageBuffersPerKernel: 256,
  maxInvocationsPerWorkgroup: 1,
  maxWorkgroupsPerDimension: 2 ** 31 - 1,
  maxBindingBytes: 2 ** 32,
};

/** Memory that 32 bits address, less what belongs to no block. */
const wasmTarget: Target = { ...jsTarget, language: "wasm", class: "wasm", maxBindingBytes: 2 ** 31 };

/** A kernel of a plan with what it needs to be run. */
interface DispatchStep {
  readonly kind: "dispatch";
  readonly program: Program;
  readonly kernel: Kernel;
  readonly slots: readonly number[];
  readonly chunks: Chunks;
  /** Operations and bytes. */
  readonly work: number;
}

type Step = Extract<PlanStep, { readonly kind: "copy" }> | DispatchStep;

class CpuExecutable extends LoadedExecutable<Piece> {
  readonly steps: readonly Step[];

  constructor(core: DeviceCore<Piece>, plan: Plan, items: number, lease: Lease<Piece>, kernels: readonly Kernel[]) {
    super(core, plan, items, lease);
    this.steps = plan.steps.map((step): Step => {
      if (step.kind === "copy") return step;
      const program = plan.programs[step.program];
      const kernel = kernels[step.program];
      if (program === undefined || kernel === undefined) throw missingProgram(step.program);
      const work = program.flops + program.bytes;
      return { kind: "dispatch", program, kernel, slots: step.slots, chunks: chunksOf(program, work), work };
    });
  }
}

/** Cuts a kernel: into chunks of combinations of its outer counters, and where these are few, of the fastest one, too. */
function chunksOf({ code }: Program, work: number): Chunks {
  const { outer, inner, width } = code ?? { outer: 1, inner: 1, width: 1 };
  const wanted = Math.max(1, Math.min(Math.ceil(work / chunkWork), mostChunks));
  const outerStep = Math.ceil(outer / wanted);
  const rows = Math.ceil(outer / outerStep);
  const innerStep = Math.ceil(inner / Math.ceil(wanted / rows) / width) * width;
  const across = Math.ceil(inner / innerStep);
  return { chunks: rows * across, across, outer, outerStep, inner, innerStep };
}

/**
 * The device that is always there: kernels are functions in WebAssembly, or in JavaScript where that is not to be had, and are run
 * as soon as they are asked for.
 */
export class CpuDevice implements Device {
  readonly id: number;
  readonly name: string;
  readonly kind = "cpu";
  readonly target: Target;
  readonly #core: DeviceCore<Piece>;
  readonly #memory: HostMemory<Piece>;
  readonly #arena: Arena | undefined;
  readonly #kernels: Kernels;
  /** With the flag VALIDATE, for kernels in WebAssembly. */
  readonly #references: References | undefined;
  /** Threads that help this device, where there can be any. */
  readonly #crew: Crew | undefined;
  #threads: number;
  /** Operations and bytes of kernels that threads could have helped with. */
  #sharable = 0;
  #kernelScratch: Piece = { offset: 0, bytes: 0 };
  #turnBegan = performance.now();

  /** `budget` is in bytes. `language` is that of its kernels: WebAssembly where there is some, else JavaScript. */
  constructor(identity: Identity, budget: number, language: "wasm" | "js" = flags().wasm && hasWasm() ? "wasm" : "js") {
    this.id = identity.id;
    this.name = identity.name;
    const relaxed = language === "wasm" && flags().relaxed && hasRelaxedWasm();
    this.target = language === "js" ? jsTarget : relaxed ? { ...wasmTarget, relaxed } : wasmTarget;
    const shared = canShare();
    const memory = language === "wasm" ? new ArenaMemory(spareBytes, shared) : undefined;
    this.#arena = memory?.arena;
    this.#memory = memory ?? new ArrayMemory();
    this.#kernels = new Kernels(memory?.arena.memory, shared);
    if (memory !== undefined && shared) {
      this.#crew = crewOfProcess();
      this.#crew.attach(this.id, memory.arena.memory);
    }
    this.#threads = flags().threads ?? defaultThreads();
    this.#references = flags().validate ? new References() : undefined;
    this.#core = new DeviceCore<Piece>(identity, this.#memory, { budget, largest: this.target.maxBindingBytes });
    register(this);
    debugLine(1, () => `shardwise: ${this.name} is ${this.info.description}`);
    if (language === "wasm" && flags().relaxed && !relaxed) {
      debugLine(1, () => `shardwise: ${this.name} has no relaxed SIMD: SHARDWISE_RELAXED does nothing`);
    }
  }

  get lost(): Promise<DeviceLoss> {
    return this.#core.lifetime.lost;
  }

  get isLost(): boolean {
    return this.#core.lifetime.isLost;
  }

  get info(): DeviceInfo {
    const { language } = this.target;
    const on = this.threads === 1 ? "the CPU" : `${this.threads} threads of the CPU`;
    const description = `${language === "wasm" ? "WebAssembly" : "JavaScript"} on ${on}`;
    return { vendor: "", architecture: language, description, software: true, runtime: "none" };
  }

  /** Threads that compute, the caller's among them; one where memory cannot be shared. */
  get threads(): number {
    return this.#crew === undefined ? 1 : this.#threads;
  }

  set threads(count: number) {
    this.#threads = count;
  }

  set budget(bytes: number) {
    this.#core.pool.budget = bytes;
  }

  alloc(bytes: number): DeviceBuffer {
    return this.#core.alloc(bytes);
  }

  free(buffer: DeviceBuffer): void {
    this.#core.pool.free(buffer);
  }

  write(buffer: DeviceBuffer, data: ArrayBufferView, offset = 0): void {
    const bytes = this.#memory.bytes(this.#core.toWrite(buffer, offset, data.byteLength));
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), offset);
  }

  async read(buffer: DeviceBuffer, offset = 0, bytes: number = buffer.bytes - offset): Promise<ArrayBuffer> {
    this.#core.toRead(buffer, offset, bytes); // Before there is an array of so many bytes.
    const copy = new ArrayBuffer(bytes);
    await this.#readInto(new Uint8Array(copy), buffer, offset);
    return copy;
  }

  async #readInto(into: Uint8Array, buffer: DeviceBuffer, offset: number): Promise<void> {
    const { lifetime } = this.#core;
    const bytes = into.byteLength;
    // Copied before the first await: later calls must not show in it.
    into.set(this.#memory.bytes(this.#core.toRead(buffer, offset, bytes)).subarray(offset, offset + bytes));
    lifetime.rethrow();
    this.#core.bytesRead += bytes;
    await this.#turn();
    lifetime.require("read"); // What comes late from a device that was lost meanwhile is not wanted any more.
  }

  runAndRead(
    executable: Executable,
    inputs: readonly (DeviceBuffer | undefined)[],
    outputs: readonly DeviceBuffer[],
    reads: readonly OutputRead[],
    items = 1,
  ): Promise<void>[] {
    checkReads(outputs, reads);
    this.run(executable, inputs, outputs, items);
    return handled(reads.map(({ output, into, offset = 0 }) => {
      const bytes = new Uint8Array(into.buffer, into.byteOffset, into.byteLength);
      return this.#readInto(bytes, outputs[output]!, offset);
    }));
  }

  async sync(): Promise<void> {
    this.#core.lifetime.require("sync");
    this.#core.lifetime.rethrow();
    await this.#turn();
  }

  load(plan: Plan, items = 1): Promise<Executable> {
    // Everything happens now; a promise carries the outcome, errors too.
    return new Promise((resolve) => {
      this.#core.requireLoadable(plan, items);
      const before = this.#kernels.compiled;
      const kernels = this.#kernels.of(plan.programs);
      const lease = this.#core.lease(plan, items, this.#kernels.compiled - before);
      resolve(new CpuExecutable(this.#core, plan, items, lease, kernels));
    });
  }

  run(
    executable: Executable,
    inputs: readonly (DeviceBuffer | undefined)[],
    outputs: readonly DeviceBuffer[],
    items = 1,
  ): void {
    const { executable: { plan, steps }, slots } = this.#core.bind(CpuExecutable, executable, inputs, outputs, items);
    const start = performance.now();
    for (const step of steps) {
      if (step.kind === "copy") {
        for (let item = 0; item < items; item++) {
          const start = partOffset(plan, step.from, item);
          const from = this.#memory.bytes(required(slots, step.from).memory).subarray(start, start + step.bytes);
          this.#memory.bytes(required(slots, step.to).memory).set(from, partOffset(plan, step.to, item));
        }
        continue;
      }
      this.#dispatch(step, slots, items);
    }
    this.#core.submissions++;
    if (tracing()) {
      traceSpan(this.name, plan.programs[0]?.name ?? "copy", start, performance.now(), { steps: plan.steps.length });
    }
  }

  stats(): DeviceStats {
    return this.#core.stats(this.#kernels.compiled);
  }

  abandon(message: string): void {
    this.lose(message);
  }

  close(): void {
    this.#core.close((reason, message) => this.#end(reason, message));
  }

  /** Behaves from now on as a device that was lost. For tests of what is done about it. */
  lose(message: string): void {
    this.#end("lost", message);
  }

  #end(reason: DeviceLoss["reason"], message: string): void {
    if (!this.#core.lifetime.end(reason, message)) return;
    this.#core.pool.clear();
    this.#kernels.clear();
    this.#crew?.detach(this.id);
  }

  #dispatch(step: DispatchStep, slots: BoundRun<Piece, unknown>["slots"], items: number): void {
    const { program, kernel } = step;
    this.#core.dispatches++;
    const timing = timingKernels();
    const start = timing ? performance.now() : 0;
    const validated = this.#references !== undefined && program.reference !== undefined;
    const before = validated ? this.#contentOf(step, slots).map((words) => words.slice()) : undefined;
    try {
      for (let item = 0; item < items; item++) {
        if (kernel.kind === "wasm") {
          const { addresses } = this.#arena!;
          for (let i = 0; i < step.slots.length; i++) {
            const { offset } = required(slots, step.slots[i]!).memory;
            addresses[i] = offset + (program.strides === undefined ? 0 : program.strides[i]! * item);
          }
          this.#runWasm(kernel, step);
        } else {
          const parts = program.bindings.map(({ dtype }, i) => {
            const words = this.#memory.words(required(slots, step.slots[i]!).memory, dtype, 0);
            return partOfItem(words, program.strides?.[i], item);
          });
          kernel.run(parts, 0, program.invocations);
        }
      }
    } catch (cause) {
      this.#core.lifetime.fail(
        new DeviceError("run", {
          got: `${String(cause)} in kernel ${program.name}`,
          need: "a kernel that runs",
          cause,
        }),
      );
    }
    if (before !== undefined) {
      const after = this.#contentOf(step, slots).map((words, i) =>
        program.bindings[i]!.access === "readWrite" ? words : undefined
      );
      const disagreement = this.#references!.compare({ program, device: this.name, items, before, after });
      if (disagreement !== undefined) this.#core.lifetime.fail(disagreement.error);
    }
    if (timing) kernelRan({ device: this.name, program, start, milliseconds: performance.now() - start });
  }

  /** What the blocks hold that a kernel binds. */
  #contentOf({ program, slots: bound }: DispatchStep, slots: BoundRun<Piece, unknown>["slots"]): Words[] {
    return program.bindings.map(({ dtype }, i) => this.#memory.words(required(slots, bound[i]!).memory, dtype, 0));
  }

  #runWasm({ run, code, module, index }: WasmKernel, { chunks, work }: DispatchStep): void {
    const { outer, inner, scratch } = code;
    if (chunks.chunks === 1) return run(0, outer, 0, inner, scratch === 0 ? 0 : this.#scratchOf(scratch));
    const helpers = work >= sharedWork ? this.#helpers(work) : 0;
    if (helpers > 0) {
      const whole = Math.ceil(scratch / alignment) * alignment;
      return this.#crew!.run(this.id, module, index, run, chunks, {
        limit: helpers,
        scratch: scratch === 0 ? 0 : this.#scratchOf(whole * (helpers + 1)),
        scratchStride: whole,
        wake: work >= wakingWork,
      });
    }
    const own = scratch === 0 ? 0 : this.#scratchOf(scratch);
    const { outerStep, innerStep } = chunks;
    for (let begin = 0; begin < outer; begin += outerStep) {
      const end = Math.min(outer, begin + outerStep);
      for (let from = 0; from < inner; from += innerStep) run(begin, end, from, Math.min(inner, from + innerStep), own);
    }
  }

  /** How many threads may help with a kernel of so much work; they are started when there was enough of it. */
  #helpers(work: number): number {
    const wanted = this.#threads - 1;
    if (this.#crew === undefined || wanted === 0) return 0;
    if (this.#sharable < startWork) this.#sharable += work;
    else this.#crew.grow(wanted);
    return Math.min(wanted, this.#crew.size);
  }

  /** Memory that kernels use while they run. */
  #scratchOf(bytes: number): number {
    if (this.#kernelScratch.bytes < bytes) {
      if (this.#kernelScratch.bytes > 0) this.#memory.destroy(this.#kernelScratch);
      this.#kernelScratch = this.#memory.create(bytes);
    }
    return this.#kernelScratch.offset;
  }

  /**
   * Awaiting a device whose work is done would never leave the microtask queue; lets timers and signals in at
   * times.
   */
  async #turn(): Promise<void> {
    if (performance.now() - this.#turnBegan < longestTurn) return;
    await nextTurn();
    this.#turnBegan = performance.now();
  }
}

guard("device.", CpuDevice.prototype, ofUsers);

function required<T>(items: readonly (T | undefined)[], index: number): T {
  const item = items[index];
  if (item === undefined) {
    throw new InternalError("run", { got: `nothing in slot ${index}`, need: "a buffer for each slot used" });
  }
  return item;
}

function missingProgram(index: number): InternalError {
  return new InternalError("run", { got: `program ${index}`, need: "an index into the plan's programs" });
}

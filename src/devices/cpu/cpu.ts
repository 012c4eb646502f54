import type { Plan, Program, Target } from "../../compiler/plan/plan.ts";
import { spareBytes } from "../../compiler/wasm/render.ts";
import { flags } from "../../debug/flags.ts";
import { debugLine } from "../../debug/log.ts";
import { traceSpan, tracing } from "../../debug/trace.ts";
import { DeviceError, InternalError } from "../../errors.ts";
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
import { DeviceCore, LoadedExecutable } from "../memory/core.ts";
import type { Lease } from "../memory/scratch.ts";
import type { Piece } from "./arena.ts";
import { ArenaMemory, ArrayMemory, type HostMemory } from "./host-memory.ts";
import { hasWasm, type Kernel, Kernels } from "./kernels.ts";

/** Milliseconds that awaited calls may follow each other before timers, input and signals get a turn. */
const longestTurn = 12;

/** Operations and bytes of a part of a kernel: V8 has better code for the next call than for one that runs, so it is called often. */
const partWork = 2 ** 19;

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

const infos = {
  wasm: "WebAssembly on the CPU",
  js: "JavaScript on the CPU",
} as const;

class CpuExecutable extends LoadedExecutable<Piece> {
  readonly kernels: readonly Kernel[];

  constructor(core: DeviceCore<Piece>, plan: Plan, items: number, lease: Lease<Piece>, kernels: readonly Kernel[]) {
    super(core, plan, items, lease);
    this.kernels = kernels;
  }
}

/**
 * The device that is always there: kernels are functions in WebAssembly, or in JavaScript where that is not to be had, and are run
 * as soon as they are asked for.
 */
export class CpuDevice implements Device {
  readonly id: number;
  readonly name: string;
  readonly kind = "cpu";
  readonly info: DeviceInfo;
  readonly target: Target;
  readonly #core: DeviceCore<Piece>;
  readonly #memory: HostMemory<Piece>;
  readonly #kernels: Kernels;
  #kernelScratch: Piece = { offset: 0, bytes: 0 };
  #turnBegan = performance.now();

  /** `budget` is in bytes. `language` is that of its kernels: WebAssembly where there is some, else JavaScript. */
  constructor(identity: Identity, budget: number, language: "wasm" | "js" = flags().wasm && hasWasm() ? "wasm" : "js") {
    this.id = identity.id;
    this.name = identity.name;
    this.target = language === "wasm" ? wasmTarget : jsTarget;
    this.info = { vendor: "", architecture: language, description: infos[language], software: true, runtime: "none" };
    const arena = language === "wasm" ? new ArenaMemory(spareBytes) : undefined;
    this.#memory = arena ?? new ArrayMemory();
    this.#kernels = new Kernels(arena?.arena.memory);
    this.#core = new DeviceCore<Piece>(identity, this.#memory, { budget, largest: this.target.maxBindingBytes });
    register(this);
    debugLine(1, () => `shardwise: ${this.name} is ${this.info.description}`);
  }

  get lost(): Promise<DeviceLoss> {
    return this.#core.lifetime.lost;
  }

  get isLost(): boolean {
    return this.#core.lifetime.isLost;
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
    const { lifetime } = this.#core;
    // Copied before the first await: later calls must not show in it.
    const copy = this.#memory.bytes(this.#core.toRead(buffer, offset, bytes)).slice(offset, offset + bytes).buffer;
    lifetime.rethrow();
    this.#core.bytesRead += bytes;
    await this.#turn();
    lifetime.require("read"); // What comes late from a device that was lost meanwhile is not wanted any more.
    return copy;
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
    return handled(reads.map(async ({ output, into, offset }) => {
      new Uint8Array(into.buffer, into.byteOffset, into.byteLength).set(
        new Uint8Array(await this.read(outputs[output]!, offset, into.byteLength)),
      );
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
    const { executable: { plan, kernels }, slots } = this.#core.bind(CpuExecutable, executable, inputs, outputs, items);
    const start = performance.now();
    for (const step of plan.steps) {
      if (step.kind === "copy") {
        for (let item = 0; item < items; item++) {
          const start = partOffset(plan, step.from, item);
          const from = this.#memory.bytes(required(slots, step.from).memory).subarray(start, start + step.bytes);
          this.#memory.bytes(required(slots, step.to).memory).set(from, partOffset(plan, step.to, item));
        }
        continue;
      }
      const program = plan.programs[step.program];
      const kernel = kernels[step.program];
      if (program === undefined || kernel === undefined) throw missingProgram(step.program);
      this.#dispatch(program, kernel, step.slots.map((slot) => required(slots, slot).memory), items);
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
  }

  #dispatch(program: Program, kernel: Kernel, pieces: readonly Piece[], items: number): void {
    this.#core.dispatches++;
    const timing = timingKernels();
    const start = timing ? performance.now() : 0;
    try {
      for (let item = 0; item < items; item++) {
        if (kernel.kind === "wasm") this.#runWasm(program, kernel, pieces, item);
        else {
          const words = program.bindings.map(({ dtype }, i) => this.#memory.words(pieces[i]!, dtype, 0));
          const parts = words.map((own, i) => partOfItem(own, program.strides?.[i], item));
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
    if (timing) kernelRan({ device: this.name, program, start, milliseconds: performance.now() - start });
  }

  #runWasm(program: Program, { run, code }: Kernel & { kind: "wasm" }, pieces: readonly Piece[], item: number): void {
    const { outer, inner, width, scratch } = code;
    const addresses = pieces.map(({ offset }, i) => offset + (program.strides?.[i] ?? 0) * item);
    const own = scratch === 0 ? 0 : this.#scratchOf(scratch);
    const parts = Math.ceil((program.flops + program.bytes) / partWork);
    if (parts <= 1) return run(0, outer, 0, inner, own, ...addresses);
    if (outer > 1) {
      const step = Math.ceil(outer / parts);
      for (let begin = 0; begin < outer; begin += step) {
        run(begin, Math.min(outer, begin + step), 0, inner, own, ...addresses);
      }
      return;
    }
    const step = Math.ceil(inner / parts / width) * width;
    for (let from = 0; from < inner; from += step) run(0, 1, from, Math.min(inner, from + step), own, ...addresses);
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

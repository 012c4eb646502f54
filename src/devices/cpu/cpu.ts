import type { Plan, Program, Target } from "../../compiler/plan/plan.ts";
import { numberedSource } from "../../debug/listing.ts";
import { debugLine } from "../../debug/log.ts";
import { traceSpan, tracing } from "../../debug/trace.ts";
import { ArgumentError, DeviceError, InternalError, KernelCompileError } from "../../errors.ts";
import type { DType } from "../../graph/dtype.ts";
import { asWords, type Words } from "../../graph/words.ts";
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
import type { Block } from "../memory/pool.ts";
import type { Lease } from "../memory/scratch.ts";

type Kernel = (buffers: readonly Words[], begin: number, end: number) => void;

/** Host memory with the views of it that kernels use. */
interface Memory {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly views: { readonly [K in DType]: Words };
}

/** Milliseconds that awaited calls may follow each other before timers, input and signals get a turn. */
const longestTurn = 12;

/** Programs that are kept compiled beyond the executables that use them. */
const keptKernels = 4096;

const target: Target = {
  language: "js",
  class: "js",
  subgroupSize: 0,
  f16: "native",
  maxStorageBuffersPerKernel: 256,
  maxInvocationsPerWorkgroup: 1,
  maxWorkgroupsPerDimension: 2 ** 31 - 1,
  maxBindingBytes: 2 ** 32,
};

const info: DeviceInfo = {
  vendor: "",
  architecture: "js",
  description: "JavaScript on the CPU",
  software: true,
  runtime: "none",
};

class CpuExecutable extends LoadedExecutable<Memory> {
  readonly kernels: readonly Kernel[];

  constructor(core: DeviceCore<Memory>, plan: Plan, items: number, lease: Lease<Memory>, kernels: readonly Kernel[]) {
    super(core, plan, items, lease);
    this.kernels = kernels;
  }
}

/** The device that is always there: kernels are JavaScript functions, run as soon as they are asked for. */
export class CpuDevice implements Device {
  readonly id: number;
  readonly name: string;
  readonly kind = "cpu";
  readonly info: DeviceInfo = info;
  readonly target: Target = target;
  readonly #core: DeviceCore<Memory>;
  readonly #kernels = new Map<string, Kernel>();
  #turnBegan = performance.now();
  #compiled = 0;

  /** `budget` is in bytes. */
  constructor(identity: Identity, budget: number) {
    this.id = identity.id;
    this.name = identity.name;
    const limits = { budget, largest: target.maxBindingBytes };
    this.#core = new DeviceCore<Memory>(identity, { create: hostMemory, destroy: () => {} }, limits);
    register(this);
    debugLine(1, () => `shardwise: ${this.name} is ${info.description}`);
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
    const { bytes } = this.#core.toWrite(buffer, offset, data.byteLength);
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), offset);
  }

  async read(buffer: DeviceBuffer, offset = 0, bytes: number = buffer.bytes - offset): Promise<ArrayBuffer> {
    const { lifetime } = this.#core;
    // Copied before the first await: later calls must not show in it.
    const copy = this.#core.toRead(buffer, offset, bytes).bytes.slice(offset, offset + bytes).buffer;
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
      const before = this.#compiled;
      const kernels = plan.programs.map((program) => this.#compile(program));
      const lease = this.#core.lease(plan, items, this.#compiled - before);
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
          const from = required(slots, step.from).memory.bytes.subarray(start, start + step.bytes);
          required(slots, step.to).memory.bytes.set(from, partOffset(plan, step.to, item));
        }
        continue;
      }
      const program = plan.programs[step.program];
      const kernel = kernels[step.program];
      if (program === undefined || kernel === undefined) throw missingProgram(step.program);
      this.#dispatch(program, kernel, step.slots.map((slot) => required(slots, slot)), items);
    }
    this.#core.submissions++;
    if (tracing()) {
      traceSpan(this.name, plan.programs[0]?.name ?? "copy", start, performance.now(), { steps: plan.steps.length });
    }
  }

  stats(): DeviceStats {
    return this.#core.stats(this.#compiled);
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

  #dispatch(program: Program, kernel: Kernel, blocks: readonly Block<Memory>[], items: number): void {
    const views = (item: number) =>
      program.bindings.map(({ dtype }, index) => {
        const { memory } = required(blocks, index);
        return partOfItem(memory.views[dtype], program.strides?.[index], item);
      });
    this.#core.dispatches++;
    const timing = timingKernels();
    const start = timing ? performance.now() : 0;
    try {
      for (let item = 0; item < items; item++) kernel(views(item), 0, program.invocations);
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

  #compile(program: Program): Kernel {
    const known = this.#kernels.get(program.key);
    if (known !== undefined) return known;
    if (program.language !== "js") {
      throw new ArgumentError("load", {
        got: `kernel ${program.name} in ${program.language}`,
        need: "js, for the cpu device",
      });
    }
    debugLine(4, () => `shardwise: ${program.name}\n${numberedSource(program.source)}`);
    let kernel: Kernel;
    try {
      kernel = new Function("buffers", "begin", "end", program.source) as Kernel;
    } catch (cause) {
      throw new KernelCompileError("load", {
        got: `kernel ${program.name}: ${String(cause)}\n${numberedSource(program.source)}`,
        need: "JavaScript that compiles",
        cause,
      });
    }
    this.#kernels.set(program.key, kernel);
    this.#compiled++;
    if (this.#kernels.size > keptKernels) {
      for (const oldest of this.#kernels.keys()) {
        this.#kernels.delete(oldest);
        break;
      }
    }
    return kernel;
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

function hostMemory(bytes: number): Memory {
  const buffer = new ArrayBuffer(bytes);
  return {
    bytes: new Uint8Array(buffer),
    views: {
      f32: asWords("f32", buffer),
      f16: asWords("f16", buffer),
      i32: asWords("i32", buffer),
      u32: asWords("u32", buffer),
      bool: asWords("bool", buffer),
    },
  };
}

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

import type { Plan, Program, Target } from "../compiler/plan.ts";
import { flags } from "../debug/flags.ts";
import { debugLine } from "../debug/log.ts";
import { traceSpan, tracing } from "../debug/trace.ts";
import { DeviceError, InternalError, OutOfMemoryError } from "../errors.ts";
import { BindGroups } from "./bind-groups.ts";
import { bindSlots } from "./bind.ts";
import { describe } from "./describe.ts";
import type { Device, DeviceBuffer, DeviceInfo, DeviceLoss, DeviceStats, Executable } from "./device.ts";
import { DispatchTimer } from "./dispatch-timer.ts";
import { Lifetime } from "./lifetime.ts";
import { type CompiledProgram, Pipelines } from "./pipelines.ts";
import { markSubmission } from "./polling.ts";
import { type Block, mebibytes, MemoryPool, requireRange } from "./pool.ts";
import { Recorder } from "./recorder.ts";
import { forget, type Identity, register } from "./registry.ts";
import { type Lease, Scratch } from "./scratch.ts";
import { mapForReading, usage } from "./usage.ts";
import { type ValidatedRun, Validator } from "./validate.ts";

/** A GPUDevice and what was learned when it was opened. */
export interface OpenedGpu {
  readonly device: GPUDevice;
  readonly info: DeviceInfo;
  readonly target: Target;
  /** Largest buffer in bytes. */
  readonly maxBufferBytes: number;
  /** Called once when the device is closed or lost. */
  readonly ended: () => void;
}

/** Allocations from this size on are checked for success on their own: the check costs a few microseconds. */
const checkedFrom = 2 ** 20;
/** Kernel names in the message of an error. */
const namedKernels = 8;

type Step =
  | {
    readonly kind: "dispatch";
    readonly compiled: CompiledProgram;
    readonly groups: BindGroups;
    /** The plan's own: an equal one that was compiled before may lack the reference. */
    readonly program: Program;
    readonly slots: readonly number[];
  }
  | { readonly kind: "copy"; readonly from: number; readonly to: number; readonly bytes: number };

class GpuExecutable implements Executable {
  readonly plan: Plan;
  readonly owner: WebGpuDevice;
  readonly steps: readonly Step[];
  readonly lease: Lease<GPUBuffer>;
  released = false;

  constructor(plan: Plan, owner: WebGpuDevice, steps: readonly Step[], lease: Lease<GPUBuffer>) {
    this.plan = plan;
    this.owner = owner;
    this.steps = steps;
    this.lease = lease;
  }

  release(): void {
    this.released = true;
    this.lease.release();
  }
}

/** A device of WebGPU: Dawn's in Node, Deno's or the browser's own. */
export class WebGpuDevice implements Device {
  readonly id: number;
  readonly name: string;
  readonly kind = "gpu";
  readonly info: DeviceInfo;
  readonly target: Target;
  readonly #identity: Identity;
  readonly #gpu: OpenedGpu;
  readonly #lifetime: Lifetime;
  readonly #recorder: Recorder;
  readonly #pipelines: Pipelines;
  readonly #pool: MemoryPool<GPUBuffer>;
  readonly #staging: MemoryPool<GPUBuffer>;
  readonly #scratch: Scratch<GPUBuffer>;
  readonly #timer: DispatchTimer | undefined;
  readonly #validator: Validator | undefined;
  readonly #failed = new WeakSet<GPUBuffer>();
  #submittedLast: readonly string[] = [];
  #dispatches = 0;
  #submissions = 0;
  #bytesWritten = 0;
  #bytesRead = 0;

  /** `budget` is in bytes. */
  constructor(identity: Identity, gpu: OpenedGpu, budget: number) {
    const { device, info, target, maxBufferBytes: largest } = gpu;
    this.#identity = identity;
    this.id = identity.id;
    this.name = identity.name;
    this.info = info;
    this.target = target;
    this.#gpu = gpu;
    this.#lifetime = new Lifetime(this.name);
    this.#recorder = new Recorder(device, (kernels) => this.#submitted(kernels));
    this.#pipelines = new Pipelines(this.name, device, target.maxStorageBuffersPerKernel);
    this.#pool = new MemoryPool<GPUBuffer>(this.name, {
      create: (bytes) => this.#create(bytes),
      destroy: (memory) => {
        this.#recorder.flush(); // Recorded commands may still name it.
        memory.destroy();
      },
      usable: (memory) => !this.#failed.has(memory),
    }, { budget, largest });
    this.#staging = new MemoryPool<GPUBuffer>(this.name, {
      create: (size) => device.createBuffer({ label: "staging", size, usage: usage.mapRead | usage.copyDestination }),
      destroy: (memory) => memory.destroy(),
    }, { budget: Infinity, largest });
    this.#scratch = new Scratch(this.#pool);
    if (flags().debug >= 2 && device.features.has("timestamp-query")) {
      this.#timer = new DispatchTimer(device, this.name);
    }
    if (flags().validate) {
      this.#validator = new Validator({
        name: this.name,
        recorder: this.#recorder,
        staging: this.#staging,
        lifetime: this.#lifetime,
      });
    }
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#lifetime.fail(this.#typed((event as GPUUncapturedErrorEvent).error));
    });
    void device.lost.then(({ message }) => this.#end("lost", message));
    register(this);
    debugLine(
      1,
      () =>
        `shardwise: ${this.name} is ${info.description} (${info.runtime}, ${target.class}, subgroups of ${target.subgroupSize})`,
    );
  }

  get lost(): Promise<DeviceLoss> {
    return this.#lifetime.lost;
  }

  get isLost(): boolean {
    return this.#lifetime.isLost;
  }

  set budget(bytes: number) {
    this.#pool.budget = bytes;
  }

  alloc(bytes: number): DeviceBuffer {
    this.#lifetime.require("alloc");
    return this.#pool.alloc(bytes);
  }

  free(buffer: DeviceBuffer): void {
    this.#pool.free(buffer);
  }

  write(buffer: DeviceBuffer, data: ArrayBufferView, offset = 0): void {
    this.#lifetime.require("write");
    requireRange("write", buffer, offset, data.byteLength);
    const { memory } = this.#pool.block("write", buffer);
    if (data.byteLength === 0) return;
    this.#recorder.flush();
    this.#gpu.device.queue.writeBuffer(memory, offset, unshared(data));
    this.#bytesWritten += data.byteLength;
  }

  async read(buffer: DeviceBuffer, offset = 0, bytes: number = buffer.bytes - offset): Promise<ArrayBuffer> {
    this.#lifetime.require("read");
    requireRange("read", buffer, offset, bytes);
    const source = this.#pool.block("read", buffer).memory;
    if (bytes === 0) {
      await this.sync();
      return new ArrayBuffer(0);
    }
    const staging = this.#staging.take(bytes);
    const { memory } = staging;
    this.#recorder.encoder().copyBufferToBuffer(source, offset, memory, 0, bytes);
    this.#recorder.flush();
    try {
      await memory.mapAsync(mapForReading, 0, bytes);
    } catch (cause) {
      this.#lifetime.require("read");
      this.#lifetime.rethrow();
      throw new DeviceError("read", { got: String(cause), need: "a buffer that can be mapped", cause });
    }
    this.#lifetime.require("read"); // Some runtimes resolve the maps of a device that is gone.
    const copy = memory.getMappedRange(0, bytes).slice(0);
    memory.unmap();
    this.#staging.give(staging);
    if (this.#validator !== undefined) await this.#validated(this.#validator, "read");
    this.#lifetime.rethrow();
    this.#bytesRead += bytes;
    return copy;
  }

  async sync(): Promise<void> {
    this.#lifetime.require("sync");
    this.#recorder.flush();
    await this.#gpu.device.queue.onSubmittedWorkDone().catch(() => undefined); // Rejects when the device ends.
    this.#lifetime.require("sync");
    if (this.#validator !== undefined) {
      await this.#validated(this.#validator, "sync");
      this.#validator.report();
    }
    this.#lifetime.rethrow();
  }

  async load(plan: Plan): Promise<Executable> {
    this.#lifetime.require("load");
    const before = this.#pipelines.compiled;
    markSubmission(); // Compiling waits too; the first moments of it are worth polling for.
    const outcomes = await Promise.allSettled(plan.programs.map((program) => this.#pipelines.get(program)));
    this.#lifetime.require("load");
    const programs = outcomes.map((outcome) => {
      if (outcome.status === "rejected") throw outcome.reason;
      return outcome.value;
    });
    const steps = plan.steps.map((step): Step => {
      if (step.kind === "copy") return step;
      const compiled = programs[step.program];
      const program = plan.programs[step.program];
      if (compiled === undefined || program === undefined) {
        throw new InternalError("load", { got: `program ${step.program}`, need: "an index into the plan's programs" });
      }
      const groups = new BindGroups(this.#gpu.device, compiled, step);
      return { kind: "dispatch", compiled, groups, program, slots: step.slots };
    });
    const lease = this.#scratch.lease(plan.temporaries.map((slot) => plan.slots[slot]?.bytes ?? 0));
    debugLine(1, () => `shardwise: ${this.name} loads ${describe(plan, this.#pipelines.compiled - before)}`);
    return new GpuExecutable(plan, this, steps, lease);
  }

  run(
    executable: Executable,
    inputs: readonly (DeviceBuffer | undefined)[],
    outputs: readonly DeviceBuffer[],
  ): void {
    this.#lifetime.require("run");
    if (!(executable instanceof GpuExecutable) || executable.owner !== this || executable.released) {
      throw new DeviceError("run", {
        got: "a released executable or one of another device",
        need: `one of ${this.name}`,
      });
    }
    const { plan, steps, lease } = executable;
    const slots = bindSlots(plan, lease.blocks, inputs, outputs, (buffer) => this.#pool.block("run", buffer));
    if (this.#validator === undefined) {
      for (const step of steps) this.#step(step, slots);
    } else {
      this.#runValidated(this.#validator.begin(), steps, slots);
    }
    this.#timer?.report(this.#recorder);
  }

  stats(): DeviceStats {
    return {
      liveBytes: this.#pool.liveBytes,
      peakBytes: this.#pool.peakBytes,
      pooledBytes: this.#pool.pooledBytes + this.#staging.pooledBytes,
      allocations: this.#pool.allocations + this.#staging.allocations,
      kernels: this.#pipelines.compiled,
      dispatches: this.#dispatches,
      submissions: this.#submissions,
      bytesWritten: this.#bytesWritten,
      bytesRead: this.#bytesRead,
    };
  }

  close(): void {
    this.#end("closed", "close() was called");
    forget(this.#identity);
  }

  /** Behaves from now on as a device that was lost. For tests of what is done about it. */
  lose(message: string): void {
    this.#end("lost", message);
  }

  #step(step: Step, slots: readonly (Block<GPUBuffer> | undefined)[]): void {
    if (step.kind === "dispatch") this.#dispatch(step.compiled, step.groups, slots);
    else this.#copy(slots[step.from], slots[step.to], step.bytes);
  }

  #runValidated(run: ValidatedRun, steps: readonly Step[], slots: readonly (Block<GPUBuffer> | undefined)[]): void {
    try {
      for (const step of steps) {
        const record = () => this.#step(step, slots);
        if (step.kind === "dispatch") {
          run.dispatch(step.program, step.slots.map((slot) => slots[slot]), record);
        } else {
          record();
          run.changed(slots[step.to]);
        }
      }
    } finally {
      run.end();
    }
  }

  /** Waits until the kernels so far are compared. */
  async #validated(validator: Validator, op: string): Promise<void> {
    await validator.checked;
    this.#lifetime.require(op);
  }

  #dispatch(
    { program, pipeline }: CompiledProgram,
    groups: BindGroups,
    slots: readonly (Block<GPUBuffer> | undefined)[],
  ): void {
    const group = groups.get(slots, this.target.maxBindingBytes);
    const timed = this.#timer?.pass(this.#recorder, program);
    const pass = timed ?? this.#recorder.pass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...program.workgroups);
    timed?.end();
    this.#recorder.note(program.name);
    this.#dispatches++;
  }

  #copy(from: Block<GPUBuffer> | undefined, to: Block<GPUBuffer> | undefined, bytes: number): void {
    if (from === undefined || to === undefined) {
      throw new InternalError("run", { got: "nothing in a slot that is copied", need: "a buffer for each slot used" });
    }
    if (bytes > 0 && from !== to) this.#recorder.encoder().copyBufferToBuffer(from.memory, 0, to.memory, 0, bytes);
  }

  #create(bytes: number): GPUBuffer {
    const { device } = this.#gpu;
    const checked = bytes >= checkedFrom;
    if (checked) device.pushErrorScope("out-of-memory");
    const buffer = device.createBuffer({
      label: `${this.name} ${bytes} bytes`,
      size: bytes,
      usage: usage.storage | usage.copySource | usage.copyDestination,
    });
    if (checked) {
      device.popErrorScope().then((error) => {
        if (error === null) return;
        this.#failed.add(buffer);
        this.#lifetime.fail(this.#outOfMemory(`${mebibytes(bytes)}: ${error.message}`));
      }, () => {}); // Rejects when the device ends.
    }
    return buffer;
  }

  #submitted(kernels: readonly string[]): void {
    markSubmission();
    this.#submissions++;
    this.#submittedLast = kernels;
    if (!tracing()) return;
    const start = performance.now();
    const name = kernels.length === 0
      ? "copy"
      : `${kernels[0]}${kernels.length > 1 ? ` and ${kernels.length - 1} more` : ""}`;
    this.#gpu.device.queue.onSubmittedWorkDone().then(
      () => traceSpan(this.name, name, start, performance.now(), { kernels }),
      () => {}, // Rejects when the device ends.
    );
  }

  #typed(error: GPUError): Error {
    const kernels = this.#submittedLast.slice(0, namedKernels).join(", ") || "no kernels";
    const more = this.#submittedLast.length > namedKernels
      ? `, and ${this.#submittedLast.length - namedKernels} more`
      : "";
    const message = `${error.message.trim()} (submitted last: ${kernels}${more})`;
    if (error.constructor.name === "GPUOutOfMemoryError") return this.#outOfMemory(message);
    return new DeviceError(this.name, { got: message, need: "commands that WebGPU accepts" });
  }

  #outOfMemory(got: string): OutOfMemoryError {
    return new OutOfMemoryError("alloc", {
      got,
      need: `memory on ${this.name}: dispose of tensors, or use smaller batches`,
    });
  }

  #end(reason: DeviceLoss["reason"], message: string): void {
    if (!this.#lifetime.end(reason, message)) return;
    this.#validator?.report();
    this.#recorder.drop();
    this.#gpu.device.destroy();
    this.#gpu.ended();
  }
}

/** WebGPU takes no view of shared memory. */
function unshared(data: ArrayBufferView): ArrayBufferView<ArrayBuffer> {
  if (data.buffer instanceof ArrayBuffer) return data as ArrayBufferView<ArrayBuffer>;
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
}

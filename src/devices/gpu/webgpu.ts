import type { Plan, Program, Target } from "../../compiler/plan/plan.ts";
import { flags } from "../../debug/flags.ts";
import { debugLine } from "../../debug/log.ts";
import { traceSpan, tracing } from "../../debug/trace.ts";
import { DeviceError, InternalError, OutOfMemoryError } from "../../errors.ts";
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
import type { PlanFamily } from "../device/family.ts";
import { ofUsers } from "../device/kinds.ts";
import { markSubmission } from "../device/polling.ts";
import { timingKernels } from "../device/profile.ts";
import { type Identity, register } from "../device/registry.ts";
import { withTuned } from "../device/tuned.ts";
import { checkReads, handled, partOffset } from "../memory/bind.ts";
import { DeviceCore, LoadedExecutable } from "../memory/core.ts";
import { type Block, mebibytes, MemoryPool } from "../memory/pool.ts";
import type { Lease } from "../memory/scratch.ts";
import { leaveBehind } from "./abandoned.ts";
import { BindGroups } from "./bind-groups.ts";
import { DispatchTimer } from "./dispatch-timer.ts";
import { Native } from "./native.ts";
import { type CompiledProgram, Pipelines } from "./pipelines.ts";
import { Recorder } from "./recorder.ts";
import { mapForReading, usage } from "./usage.ts";
import { type ValidatedRun, Validator } from "./validate.ts";

/** A GPUDevice and what was learned when it was opened. */
export interface OpenedGpu {
  readonly device: GPUDevice;
  readonly info: DeviceInfo;
  readonly target: Target;
  /** Equal for adapters of one model and driver, for which the same schedules are the fastest. */
  readonly tuningKey: string;
  /** Largest buffer in bytes. */
  readonly maxBufferBytes: number;
  /** Called once when the device is closed, lost or abandoned. What an abandoned one gives, when it is done after all. */
  readonly ended: (how: "closed" | "lost" | "abandoned") => (() => void) | undefined;
}

/** Allocations from this size on are checked for success on their own: the check costs a few microseconds. */
const checkedFrom = 2 ** 20;
/** Reads from this size on leave before the plan's other kernels have run. */
const earlyBytes = 256 * 2 ** 10;
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

class GpuExecutable extends LoadedExecutable<GPUBuffer> {
  /** For each output the last step that writes it; -1 where none does. */
  readonly lastWrites: readonly number[];

  constructor(
    core: DeviceCore<GPUBuffer>,
    plan: Plan,
    items: number,
    lease: Lease<GPUBuffer>,
    steps: readonly Step[],
  ) {
    super(core, plan, items, lease);
    this.lastWrites = plan.outputs.map((slot) =>
      steps.findLastIndex((step) =>
        step.kind === "copy"
          ? step.to === slot
          : step.slots.some((of, i) => of === slot && step.program.bindings[i]!.access === "readWrite")
      )
    );
  }
}

/** A device of WebGPU: Dawn's in Node, Deno's or the browser's own. */
export class WebGpuDevice implements Device {
  readonly id: number;
  readonly name: string;
  readonly kind = "gpu";
  readonly info: DeviceInfo;
  readonly #core: DeviceCore<GPUBuffer>;
  readonly #native: Native;
  readonly #gpu: Omit<OpenedGpu, "device">;
  readonly #recorder: Recorder;
  readonly #pipelines: Pipelines;
  readonly #staging: MemoryPool<GPUBuffer>;
  readonly #timer: DispatchTimer;
  readonly #validator: Validator | undefined;
  readonly #failed = new WeakSet<GPUBuffer>();
  /** Of executables: held here, so that whoever keeps one of a device that has ended keeps nothing of the driver's. */
  #steps = new WeakMap<GpuExecutable, readonly Step[]>();
  #submittedLast: readonly string[] = [];

  /** `budget` is in bytes. */
  constructor(identity: Identity, gpu: OpenedGpu, budget: number) {
    const { device, ...rest } = gpu;
    const { info, target, maxBufferBytes: largest } = rest;
    this.id = identity.id;
    this.name = identity.name;
    this.info = info;
    const native = this.#native = new Native(this.name, device);
    this.#gpu = rest;
    this.#recorder = new Recorder(native, (kernels) => this.#submitted(kernels));
    // The driver of a software adapter compiles for seconds, and what it compiled once serves all its devices.
    const scope = info.software ? gpu.tuningKey : this.name;
    this.#pipelines = new Pipelines(this.name, native, scope, target.maxStorageBuffersPerKernel);
    const core = this.#core = new DeviceCore<GPUBuffer>(identity, {
      create: (bytes) => this.#create(bytes),
      destroy: (memory) => {
        this.#recorder.flush(); // Recorded commands may still name it.
        memory.destroy();
      },
      usable: (memory) => !this.#failed.has(memory),
    }, { budget, largest });
    this.#staging = new MemoryPool<GPUBuffer>(this.name, {
      create: (size) =>
        native.device.createBuffer({ label: "staging", size, usage: usage.mapRead | usage.copyDestination }),
      destroy: (memory) => memory.destroy(),
    }, { budget: Infinity, largest });
    this.#timer = new DispatchTimer(native, core.lifetime, this.name);
    if (flags().validate) {
      this.#validator = new Validator({
        name: this.name,
        recorder: this.#recorder,
        staging: this.#staging,
        lifetime: core.lifetime,
      });
    }
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      core.lifetime.fail(this.#typed((event as GPUUncapturedErrorEvent).error));
    });
    void device.lost.then(({ message }) => this.#end("lost", message));
    register(this);
    debugLine(
      1,
      () =>
        `shardwise: ${this.name} is ${info.description} (${info.runtime}, ${target.class}, subgroups of ${target.subgroupSize})`,
    );
  }

  /** With the tuned schedules of the adapter, as they are known now. */
  get target(): Target {
    return withTuned(this.#gpu.target, this.#gpu.tuningKey);
  }

  /** Equal for devices of one model and driver. */
  get tuningKey(): string {
    return this.#gpu.tuningKey;
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
    const memory = this.#core.toWrite(buffer, offset, data.byteLength);
    if (data.byteLength === 0) return;
    this.#recorder.flush();
    this.#native.device.queue.writeBuffer(memory, offset, unshared(data));
  }

  async read(buffer: DeviceBuffer, offset = 0, bytes: number = buffer.bytes - offset): Promise<ArrayBuffer> {
    const source = this.#core.toRead(buffer, offset, bytes);
    if (bytes === 0) {
      await this.sync();
      return new ArrayBuffer(0);
    }
    let copy: ArrayBuffer | undefined;
    await this.#fetch([{ source, offset, bytes }], (mapped) => copy = mapped.slice(0));
    return copy!;
  }

  runAndRead(
    executable: Executable,
    inputs: readonly (DeviceBuffer | undefined)[],
    outputs: readonly DeviceBuffer[],
    reads: readonly OutputRead[],
    items = 1,
  ): Promise<void>[] {
    checkReads(outputs, reads);
    const fetched = new Array<Promise<void>>(reads.length);
    const fetch = (wanted: readonly number[]) => {
      const parts = wanted.map((i) => {
        const { output, into, offset = 0 } = reads[i]!;
        return { source: this.#core.pool.block("read", outputs[output]!).memory, offset, bytes: into.byteLength };
      });
      const done = this.#fetch(parts, (mapped) => {
        let from = 0;
        for (const i of wanted) {
          const { into } = reads[i]!;
          new Uint8Array(into.buffer, into.byteOffset, into.byteLength).set(
            new Uint8Array(mapped, from, into.byteLength),
          );
          from += into.byteLength;
        }
      });
      for (const i of wanted) fetched[i] = done;
    };
    let waiting = [...reads.keys()];
    this.#run(executable, inputs, outputs, items, (written, isLast) => {
      const ready = waiting.filter((i) => written(reads[i]!.output));
      const bytes = ready.reduce((sum, i) => sum + reads[i]!.into.byteLength, 0);
      // Another submission costs more than a small copy gains.
      if (ready.length === 0 || (bytes < earlyBytes && !isLast)) return;
      waiting = waiting.filter((i) => !ready.includes(i));
      fetch(ready);
    });
    if (waiting.length > 0) fetch(waiting);
    return handled(fetched);
  }

  async sync(): Promise<void> {
    this.#core.lifetime.require("sync");
    this.#recorder.flush();
    const done = this.#native.device.queue.onSubmittedWorkDone().catch(() => undefined); // Rejects when the device ends.
    await this.#core.lifetime.whileThere("sync", done);
    if (this.#validator !== undefined) {
      await this.#validated(this.#validator, "sync");
      this.#validator.report();
    }
    this.#core.lifetime.rethrow();
  }

  async load(plan: Plan, items = 1, family?: PlanFamily): Promise<Executable> {
    this.#core.requireLoadable(plan, items);
    const before = this.#pipelines.compiled;
    markSubmission(); // Compiling waits too; the first moments of it are worth polling for.
    const outcomes = await this.#core.lifetime.whileThere(
      "load",
      Promise.allSettled(this.#pipelines.load(plan.programs, family)),
    );
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
      const groups = new BindGroups(this.#native, compiled, step);
      return { kind: "dispatch", compiled, groups, program, slots: step.slots };
    });
    const lease = this.#core.lease(plan, items, this.#pipelines.compiled - before);
    const executable = new GpuExecutable(this.#core, plan, items, lease, steps);
    this.#steps.set(executable, steps);
    return executable;
  }

  run(
    executable: Executable,
    inputs: readonly (DeviceBuffer | undefined)[],
    outputs: readonly DeviceBuffer[],
    items = 1,
  ): void {
    this.#run(executable, inputs, outputs, items, () => {});
  }

  stats(): DeviceStats {
    return this.#core.stats(this.#pipelines.compiled, this.#staging);
  }

  close(): void {
    this.#core.close((reason, message) => this.#end(reason, message));
  }

  abandon(message: string): void {
    if (!this.#core.lifetime.end("lost", message)) return;
    const done = this.#gpu.ended("abandoned");
    this.#validator?.report();
    this.#recorder.drop();
    leaveBehind(this, this.#native.device, this.info.runtime, () => {
      this.#release();
      done?.();
    });
  }

  /** Behaves from now on as a device that was lost. For tests of what is done about it. */
  lose(message: string): void {
    this.#end("lost", message);
  }

  /**
   * Runs a plan. After each step, `after` is told which outputs are written for good, and whether it was the last one.
   */
  #run(
    given: Executable,
    inputs: readonly (DeviceBuffer | undefined)[],
    outputs: readonly DeviceBuffer[],
    items: number,
    after: (written: (output: number) => boolean, isLast: boolean) => void,
  ): void {
    const { executable, slots } = this.#core.bind(GpuExecutable, given, inputs, outputs, items);
    const { plan, lastWrites } = executable;
    const steps = this.#steps.get(executable)!;
    const run = this.#validator?.begin();
    try {
      steps.forEach((step, i) => {
        this.#step(plan, step, slots, items, run);
        after((output) => lastWrites[output]! <= i, i === steps.length - 1);
      });
    } finally {
      run?.end();
      this.#recorder.ran();
    }
    this.#timer.report(this.#recorder);
  }

  /**
   * Copies parts of buffers to the host, side by side, once what was recorded so far is done; `take` is given the bytes,
   * which it may only read.
   */
  async #fetch(
    parts: readonly { readonly source: GPUBuffer; readonly offset: number; readonly bytes: number }[],
    take: (mapped: ArrayBuffer) => void,
  ): Promise<void> {
    const bytes = parts.reduce((sum, part) => sum + part.bytes, 0);
    if (bytes === 0) return await this.sync();
    const staging = this.#staging.take(bytes);
    const { memory } = staging;
    let to = 0;
    for (const { source, offset, bytes: count } of parts) {
      if (count > 0) this.#recorder.encoder().copyBufferToBuffer(source, offset, memory, to, count);
      to += count;
    }
    this.#recorder.flush();
    const start = performance.now();
    const mapped = memory.mapAsync(mapForReading, 0, bytes);
    mapped.catch(() => {}); // When the device is gone, nobody waits for it any more.
    try {
      await this.#core.lifetime.whileThere("read", mapped);
    } catch (cause) {
      this.#core.lifetime.require("read");
      this.#core.lifetime.rethrow();
      throw new DeviceError("read", { got: String(cause), need: "a buffer that can be mapped", cause });
    }
    take(memory.getMappedRange(0, bytes));
    memory.unmap();
    this.#staging.give(staging);
    traceSpan(`${this.name} link`, `read ${mebibytes(bytes)}`, start, performance.now(), { bytes });
    if (this.#validator !== undefined) await this.#validated(this.#validator, "read");
    this.#core.lifetime.rethrow();
    this.#core.bytesRead += bytes;
  }

  #step(
    plan: Plan,
    step: Step,
    slots: readonly (Block<GPUBuffer> | undefined)[],
    items: number,
    run: ValidatedRun | undefined,
  ): void {
    if (step.kind === "copy") {
      for (let item = 0; item < items; item++) {
        const [start, target] = [partOffset(plan, step.from, item), partOffset(plan, step.to, item)];
        this.#copy(slots[step.from], start, slots[step.to], target, step.bytes);
      }
      run?.changed(slots[step.to]);
      return;
    }
    const record = () => this.#dispatch(step.compiled, step.groups, slots, items);
    if (run === undefined) record();
    else run.dispatch(step.program, step.slots.map((slot) => slots[slot]), items, record);
  }

  /** Waits until the kernels so far are compared. */
  async #validated(validator: Validator, op: string): Promise<void> {
    await this.#core.lifetime.whileThere(op, validator.checked);
  }

  #dispatch(
    { program, pipeline }: CompiledProgram,
    groups: BindGroups,
    slots: readonly (Block<GPUBuffer> | undefined)[],
    items: number,
  ): void {
    const group = groups.get(slots, this.#gpu.target.maxBindingBytes);
    const timed = timingKernels() ? this.#timer.pass(this.#recorder, program) : undefined;
    const pass = timed ?? this.#recorder.pass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    const [x, y] = program.workgroups;
    pass.dispatchWorkgroups(x, y, items);
    timed?.end();
    this.#recorder.note(program, items);
    if (timed !== undefined) this.#timer.ended(this.#recorder, program);
    this.#core.dispatches++;
  }

  #copy(
    from: Block<GPUBuffer> | undefined,
    start: number,
    to: Block<GPUBuffer> | undefined,
    target: number,
    bytes: number,
  ): void {
    if (from === undefined || to === undefined) {
      throw new InternalError("run", { got: "nothing in a slot that is copied", need: "a buffer for each slot used" });
    }
    if (bytes === 0 || from === to) return;
    this.#recorder.encoder().copyBufferToBuffer(from.memory, start, to.memory, target, bytes);
    this.#recorder.copied(bytes);
  }

  #create(bytes: number): GPUBuffer {
    const { device } = this.#native;
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
        this.#core.lifetime.fail(this.#outOfMemory(`${mebibytes(bytes)}: ${error.message}`));
      }, () => {}); // Rejects when the device ends.
    }
    return buffer;
  }

  #submitted(kernels: readonly string[]): void {
    markSubmission();
    this.#core.submissions++;
    this.#submittedLast = kernels;
    if (!tracing()) return;
    const start = performance.now();
    const name = kernels.length === 0
      ? "copy"
      : `${kernels[0]}${kernels.length > 1 ? ` and ${kernels.length - 1} more` : ""}`;
    this.#native.device.queue.onSubmittedWorkDone().then(
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
    if (!this.#core.lifetime.end(reason, message)) return;
    this.#validator?.report();
    this.#recorder.drop();
    this.#release();
    this.#gpu.ended(reason);
  }

  /** Ends the driver's device. Threads of it go when none of its objects is held any more. */
  #release(): void {
    this.#native.end();
    this.#pipelines.drop();
    this.#core.pool.drop();
    this.#staging.drop();
    this.#timer.drop();
    this.#steps = new WeakMap();
  }
}

guard("device.", WebGpuDevice.prototype, ofUsers);

/** WebGPU takes no view of shared memory. */
function unshared(data: ArrayBufferView): ArrayBufferView<ArrayBuffer> {
  if (data.buffer instanceof ArrayBuffer) return data as ArrayBufferView<ArrayBuffer>;
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
}

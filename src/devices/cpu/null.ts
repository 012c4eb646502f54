import type { Plan, Target } from "../../compiler/plan/plan.ts";
import { DeviceError } from "../../errors.ts";
import type {
  Device,
  DeviceBuffer,
  DeviceInfo,
  DeviceLoss,
  DeviceStats,
  Executable,
  OutputRead,
} from "../device/device.ts";
import { kernelRan, timingKernels } from "../device/profile.ts";
import { claimIdentity, type Identity, register } from "../device/registry.ts";
import { handled } from "../memory/bind.ts";
import { DeviceCore } from "../memory/core.ts";

const info: DeviceInfo = { vendor: "", architecture: "", description: "nothing", software: true, runtime: "none" };

/** The limits that every WebGPU device has. */
const plainTarget: Target = {
  language: "wgsl",
  class: "discrete",
  subgroupSize: 0,
  maxStorageBuffersPerKernel: 8,
  maxInvocationsPerWorkgroup: 256,
  maxWorkgroupsPerDimension: 65535,
  f16: "native",
  maxBindingBytes: 128 * 2 ** 20,
};

/**
 * A device for which plans are compiled, and that counts what it is asked for and does nothing. For tests of plans.
 * `target` changes what the compiler is told; `budget` is in bytes. A read of it rejects with DeviceError.
 */
export function nullDevice(options: { target?: Partial<Target>; budget?: number } = {}): Device {
  return new NullDevice(claimIdentity("null"), { ...plainTarget, ...options.target }, options.budget ?? Infinity);
}

class NullDevice implements Device {
  readonly id: number;
  readonly name: string;
  readonly kind = "null";
  readonly info: DeviceInfo = info;
  readonly target: Target;
  readonly #core: DeviceCore<undefined>;
  readonly #kernels = new Set<string>();

  constructor(identity: Identity, target: Target, budget: number) {
    this.id = identity.id;
    this.name = identity.name;
    this.target = target;
    const limits = { budget, largest: Infinity };
    this.#core = new DeviceCore<undefined>(identity, { create: () => undefined, destroy: () => {} }, limits);
    register(this);
  }

  get lost(): Promise<DeviceLoss> {
    return this.#core.lifetime.lost;
  }

  get isLost(): boolean {
    return this.#core.lifetime.isLost;
  }

  alloc(bytes: number): DeviceBuffer {
    return this.#core.alloc(bytes);
  }

  free(buffer: DeviceBuffer): void {
    this.#core.pool.free(buffer);
  }

  write(buffer: DeviceBuffer, data: ArrayBufferView, offset = 0): void {
    this.#core.toWrite(buffer, offset, data.byteLength);
  }

  read(): Promise<ArrayBuffer> {
    return Promise.reject(new DeviceError("read", { got: this.name, need: "a device that computes" }));
  }

  load(plan: Plan, items = 1): Promise<Executable> {
    for (const program of plan.programs) this.#kernels.add(program.key);
    return Promise.resolve({ plan, items, release: () => {} });
  }

  run(executable: Executable): void {
    this.#core.lifetime.require("run");
    this.#core.submissions++;
    for (const step of executable.plan.steps) {
      if (step.kind !== "dispatch") continue;
      this.#core.dispatches++;
      const program = executable.plan.programs[step.program];
      if (program === undefined || !timingKernels()) continue;
      kernelRan({ device: this.name, program, start: performance.now(), milliseconds: 0 });
    }
  }

  runAndRead(
    executable: Executable,
    _inputs: readonly (DeviceBuffer | undefined)[],
    _outputs: readonly DeviceBuffer[],
    reads: readonly OutputRead[],
  ): Promise<void>[] {
    this.run(executable);
    return handled(reads.map(() => this.read().then(() => {})));
  }

  sync(): Promise<void> {
    return Promise.resolve();
  }

  stats(): DeviceStats {
    return this.#core.stats(this.#kernels.size);
  }

  abandon(message: string): void {
    this.#core.lifetime.end("lost", message);
  }

  close(): void {
    this.#core.close((reason, message) => this.#core.lifetime.end(reason, message));
  }
}

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
import { Lifetime } from "../device/lifetime.ts";
import { kernelRan, timingKernels } from "../device/profile.ts";
import { claimIdentity, forget, type Identity, register } from "../device/registry.ts";
import { handled } from "../memory/bind.ts";
import { MemoryPool, requireRange } from "../memory/pool.ts";

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
  readonly #identity: Identity;
  readonly #lifetime: Lifetime;
  readonly #pool: MemoryPool<undefined>;
  readonly #kernels = new Set<string>();
  #dispatches = 0;
  #submissions = 0;
  #bytesWritten = 0;

  constructor(identity: Identity, target: Target, budget: number) {
    this.#identity = identity;
    this.id = identity.id;
    this.name = identity.name;
    this.target = target;
    this.#lifetime = new Lifetime(this.name);
    this.#pool = new MemoryPool<undefined>(this.name, { create: () => undefined, destroy: () => {} }, {
      budget,
      largest: Infinity,
    });
    register(this);
  }

  get lost(): Promise<DeviceLoss> {
    return this.#lifetime.lost;
  }

  get isLost(): boolean {
    return this.#lifetime.isLost;
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
    this.#bytesWritten += data.byteLength;
  }

  read(): Promise<ArrayBuffer> {
    return Promise.reject(new DeviceError("read", { got: this.name, need: "a device that computes" }));
  }

  load(plan: Plan, items = 1): Promise<Executable> {
    for (const program of plan.programs) this.#kernels.add(program.key);
    return Promise.resolve({ plan, items, release: () => {} });
  }

  run(executable: Executable): void {
    this.#lifetime.require("run");
    this.#submissions++;
    for (const step of executable.plan.steps) {
      if (step.kind !== "dispatch") continue;
      this.#dispatches++;
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
    return {
      liveBytes: this.#pool.liveBytes,
      peakBytes: this.#pool.peakBytes,
      pooledBytes: this.#pool.pooledBytes,
      allocations: this.#pool.allocations,
      kernels: this.#kernels.size,
      dispatches: this.#dispatches,
      submissions: this.#submissions,
      bytesWritten: this.#bytesWritten,
      bytesRead: 0,
    };
  }

  abandon(message: string): void {
    this.#lifetime.end("lost", message);
  }

  close(): void {
    this.#lifetime.end("closed", "close() was called");
    forget(this.#identity);
  }
}

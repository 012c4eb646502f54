/** What all devices have in common: a name, a lifetime, memory from a pool, and counts of what they were asked for. */
import type { Plan } from "../../compiler/plan/plan.ts";
import { debugLine } from "../../debug/log.ts";
import { DeviceError } from "../../errors.ts";
import { describe } from "../device/describe.ts";
import type { DeviceBuffer, DeviceLoss, DeviceStats, Executable } from "../device/device.ts";
import { Lifetime } from "../device/lifetime.ts";
import { forget, type Identity } from "../device/registry.ts";
import { bindSlots, requireItems, slotBytes } from "./bind.ts";
import { type Allocator, type Block, MemoryPool, type PoolLimits, requireRange } from "./pool.ts";
import { type Lease, Scratch } from "./scratch.ts";

/** A plan with its temporaries on the device that loaded it. */
export abstract class LoadedExecutable<M> implements Executable {
  readonly plan: Plan;
  readonly items: number;
  readonly owner: DeviceCore<M>;
  readonly lease: Lease<M>;
  #released = false;

  constructor(owner: DeviceCore<M>, plan: Plan, items: number, lease: Lease<M>) {
    this.owner = owner;
    this.plan = plan;
    this.items = items;
    this.lease = lease;
  }

  get released(): boolean {
    return this.#released;
  }

  release(): void {
    this.#released = true;
    this.lease.release();
  }
}

/** A run of a plan: the executable as its device knows it, and the memory of each slot. */
export interface BoundRun<M, E> {
  readonly executable: E;
  readonly slots: readonly (Block<M> | undefined)[];
}

export class DeviceCore<M> {
  readonly name: string;
  readonly lifetime: Lifetime;
  readonly pool: MemoryPool<M>;
  dispatches = 0;
  submissions = 0;
  bytesRead = 0;
  #bytesWritten = 0;
  readonly #identity: Identity;
  readonly #scratch: Scratch<M>;

  constructor(identity: Identity, allocator: Allocator<M>, limits: PoolLimits) {
    this.#identity = identity;
    this.name = identity.name;
    this.lifetime = new Lifetime(this.name);
    this.pool = new MemoryPool(this.name, allocator, limits);
    this.#scratch = new Scratch(this.pool);
  }

  alloc(bytes: number): DeviceBuffer {
    this.lifetime.require("alloc");
    return this.pool.alloc(bytes);
  }

  /** The memory that bytes are to be written to. Throws for a device that is gone, and for bytes that the buffer does not have. */
  toWrite(buffer: DeviceBuffer, offset: number, bytes: number): M {
    const memory = this.#part("write", buffer, offset, bytes);
    this.#bytesWritten += bytes;
    return memory;
  }

  /** The memory that bytes are to be read from. Throws as `toWrite`. */
  toRead(buffer: DeviceBuffer, offset: number, bytes: number): M {
    return this.#part("read", buffer, offset, bytes);
  }

  /** Throws unless a plan may be loaded now for so many items. */
  requireLoadable(plan: Plan, items: number): void {
    this.lifetime.require("load");
    requireItems("load", plan, items, Infinity);
  }

  /** Temporaries of a plan of which so many kernels were compiled for it. */
  lease(plan: Plan, items: number, compiled: number): Lease<M> {
    const lease = this.#scratch.lease(plan.temporaries.map((slot) => slotBytes(plan, slot, items) ?? 0));
    debugLine(1, () => `shardwise: ${this.name} loads ${describe(plan, compiled)}`);
    return lease;
  }

  /**
   * What a run has to do with. Throws DeviceLostError for a device that is gone, DeviceError for an executable that is not one
   * of its own, and as `bindSlots`.
   */
  bind<E extends LoadedExecutable<M>>(
    kind: abstract new (...args: never[]) => E,
    executable: Executable,
    inputs: readonly (DeviceBuffer | undefined)[],
    outputs: readonly DeviceBuffer[],
    items: number,
  ): BoundRun<M, E> {
    this.lifetime.require("run");
    if (!(executable instanceof kind) || executable.owner !== this || executable.released) {
      throw new DeviceError("run", {
        got: "a released executable or one of another device",
        need: `one of ${this.name}`,
      });
    }
    const { plan, lease } = executable;
    requireItems("run", plan, items, executable.items);
    const blockOf = (buffer: DeviceBuffer) => this.pool.block("run", buffer);
    return { executable, slots: bindSlots(plan, lease.blocks, inputs, outputs, blockOf, items) };
  }

  /** `kernels` are those that were compiled; `beside` is a pool that the device has besides its own. */
  stats(kernels: number, beside?: MemoryPool<M>): DeviceStats {
    return {
      liveBytes: this.pool.liveBytes,
      peakBytes: this.pool.peakBytes,
      pooledBytes: this.pool.pooledBytes + (beside?.pooledBytes ?? 0),
      allocations: this.pool.allocations + (beside?.allocations ?? 0),
      kernels,
      dispatches: this.dispatches,
      submissions: this.submissions,
      bytesWritten: this.#bytesWritten,
      bytesRead: this.bytesRead,
    };
  }

  /** Closes the device by its own `end`. */
  close(end: (reason: DeviceLoss["reason"], message: string) => void): void {
    end("closed", "close() was called");
    forget(this.#identity);
  }

  #part(op: string, buffer: DeviceBuffer, offset: number, bytes: number): M {
    this.lifetime.require(op);
    requireRange(op, buffer, offset, bytes);
    return this.pool.block(op, buffer).memory;
  }
}

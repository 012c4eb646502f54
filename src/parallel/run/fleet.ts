/** The devices in use: what is run on them goes on on the others when one fails. */
import type { Device } from "../../devices/device/device.ts";
import { PlanFamily } from "../../devices/device/family.ts";
import { abandonDevice } from "../../devices/loss.ts";
import {
  AllDevicesLostError,
  ArgumentError,
  DeviceError,
  DeviceLostError,
  KernelCompileError,
  OutOfMemoryError,
  ShardwiseError,
} from "../../errors.ts";

/** What a device was doing when it failed. */
export type Phase = "upload" | "compute" | "update" | "between steps";

/** A device that failed and is not used any more. */
export interface DeviceLost {
  /** What happened. */
  readonly kind: "deviceLost";
  /** The step in progress, or the one that was to begin; 0 outside of training. */
  readonly step: number;
  /** The name of the device. */
  readonly device: string;
  /** `timeout`: it did not deliver within `stepTimeout`. `failed`: a command or a read was refused. */
  readonly reason: "lost" | "out of memory" | "timeout" | "failed";
  /** What the device said. */
  readonly message: string;
  /** What it was doing. */
  readonly phase: Phase;
  /** Shards that it had not delivered, and that other devices computed instead. */
  readonly shardsMoved: number;
  /** From the failure to the delivery of those shards. */
  readonly milliseconds: number;
}

/** A device that takes part from this step on. */
export interface DeviceJoined {
  /** What happened. */
  readonly kind: "deviceJoined";
  /** The first step in which it takes part. */
  readonly step: number;
  /** The name of the device. */
  readonly device: string;
}

/** What happened to the devices of a trainer. */
export type DeviceEvent = DeviceLost | DeviceJoined;

/** A piece of work and the device that is to do it. */
export interface Placed<J> {
  readonly device: Device;
  readonly job: J;
}

export interface FleetOptions {
  /** Distinct, at least one. */
  readonly devices: readonly Device[];
  /** Milliseconds that a device may take to deliver one job; then it counts as lost. Default: no limit. */
  readonly stepTimeout?: number | undefined;
  /** A device is not used any more: what is kept on it is to be forgotten. Called at once. */
  readonly onRemoved?: (device: Device) => void;
  /** Called when the work of a lost device is done. */
  readonly onEvent?: (event: DeviceEvent) => void;
}

/** Jobs of one device that are under way at the same time, so that it need not wait for the host. */
const jobsAtOnce = 4;

interface Failure {
  readonly device: Device;
  readonly reason: DeviceLost["reason"];
  readonly message: string;
  readonly phase: Phase;
  readonly at: number;
}

export class Fleet {
  /** Of all plans that its devices run: training, evaluation and prediction share kernels. */
  readonly family = new PlanFamily({ gathers: true });
  readonly #op: string;
  readonly #options: FleetOptions;
  #devices: readonly Device[];
  readonly #phases = new Map<Device, Phase>();
  readonly #timedOut = new Set<Device>();

  /** Throws ArgumentError for no devices or a time that will not do, DeviceError for a device listed twice. */
  constructor(op: string, options: FleetOptions) {
    const { devices, stepTimeout } = options;
    requireDistinct(op, devices);
    // Timers take longer times for none.
    if (stepTimeout !== undefined && !(stepTimeout > 0 && stepTimeout < 2 ** 31)) {
      throw new ArgumentError(op, {
        got: `stepTimeout ${stepTimeout}`,
        need: "milliseconds, more than 0 and less than 2^31",
      });
    }
    this.#op = op;
    this.#options = options;
    this.#devices = [...devices];
  }

  /** The devices in use, in order. */
  get devices(): readonly Device[] {
    return this.#devices;
  }

  /**
   * Those of the devices in use that are still there; all of them where none is: what is run on them then says so. Throws
   * AllDevicesLostError when none is in use.
   */
  get present(): readonly Device[] {
    this.#requireSome(undefined);
    const there = this.#devices.filter((device) => !device.isLost);
    return there.length > 0 ? there : this.#devices;
  }

  /** Throws DeviceError for a device that is in use already, DeviceLostError for one that is lost. */
  requireNew(op: string, device: Device): void {
    requireDistinct(op, [...this.#devices, device]);
    if (!device.isLost) return;
    throw new DeviceLostError(op, { got: `${device.name}, which is lost`, need: "a device that works" });
  }

  /** Takes a device in. Throws DeviceError for one that is in use already or lost. */
  add(device: Device, step: number): void {
    this.requireNew(this.#op, device);
    this.#devices = [...this.#devices, device];
    this.#options.onEvent?.({ kind: "deviceJoined", step, device: device.name });
  }

  /** Notes what a device does from now on, for the event should it fail. */
  enter(device: Device, phase: Phase): void {
    this.#phases.set(device, phase);
  }

  /** Leaves out devices that were lost meanwhile. Throws AllDevicesLostError when none is left. */
  async prune(step: number): Promise<void> {
    let last: string | undefined;
    for (const device of this.#devices) {
      if (!device.isLost) continue;
      const { message } = await device.lost;
      if (!this.#devices.includes(device)) continue; // Left out meanwhile.
      this.#phases.set(device, "between steps");
      const failure = this.#remove(device, new DeviceLostError(this.#op, { got: message, need: "a device" }));
      last = failure.message;
      this.#report(failure, step, 0);
    }
    this.#requireSome(last);
  }

  /**
   * Does every job on its device: `prepare`, then `run`, for as many jobs together as `together` says: it parts the jobs of
   * a device, in order; by default each is on its own. The jobs that a failing device has not delivered are done by
   * the others. Jobs of a device are begun in order, a few at a time. Rejects with what a job throws that is no fault
   * of a device, with AllDevicesLostError when no device is left, and with the fault itself where it is not that of a
   * lost device and no other device is left.
   */
  async deliver<J, P>(
    placed: readonly Placed<J>[],
    step: number,
    prepare: (device: Device, jobs: readonly J[]) => Promise<P>,
    run: (device: Device, jobs: readonly J[], prepared: P) => Promise<void>,
    together: (device: Device, jobs: readonly J[]) => readonly (readonly J[])[] = (_, jobs) => jobs.map((job) => [job]),
  ): Promise<void> {
    // A device that was lost since the jobs were placed is left out already.
    let todo = placed.map((job, i) =>
      this.#devices.includes(job.device) ? job : { ...job, device: this.#devices[i % this.#devices.length]! }
    );
    const failures: { readonly failure: Failure; readonly jobs: number }[] = [];
    let last: string | undefined;
    let delivered = false;
    try {
      while (todo.length > 0) {
        const lists = new Map<Device, J[]>();
        for (const { device, job } of todo) lists.set(device, [...lists.get(device) ?? [], job]);
        // All of them, so that a device that fails beside what is no fault of one is noted.
        const settled = await Promise.allSettled(
          [...lists].map(async ([device, list]) => {
            const { undelivered, error } = await this.#work(device, together(device, list), prepare, run);
            if (undelivered.length === 0) return [];
            const failure = this.#fault(device, error);
            if (failure !== undefined) failures.push({ failure, jobs: undelivered.length });
            last = failure?.message ?? messageOf(error);
            return undelivered;
          }),
        );
        const moved = settled.flatMap((left) => {
          if (left.status === "rejected") throw left.reason;
          return left.value;
        });
        this.#requireSome(last);
        // Neighbours stay neighbours.
        const each = Math.ceil(moved.length / this.#devices.length);
        todo = moved.map((job, i) => ({ job, device: this.#devices[Math.floor(i / each)]! }));
      }
      delivered = true;
    } finally {
      for (const { failure, jobs } of failures) this.#report(failure, step, delivered ? jobs : 0);
    }
  }

  /**
   * Calls `body` for every device; one for which it throws a fault of the device is left out from then on. Throws
   * AllDevicesLostError when none is left.
   */
  each(step: number, phase: Phase, body: (device: Device) => void): void {
    let last: string | undefined;
    for (const device of this.#devices) {
      this.enter(device, phase);
      try {
        body(device);
      } catch (error) {
        const failure = this.#fault(device, error);
        last = failure?.message ?? messageOf(error);
        if (failure !== undefined) this.#report(failure, step, 0);
      }
    }
    this.#requireSome(last);
  }

  /** `each` for what must be waited for; the calls run at the same time. */
  async eachAsync(step: number, phase: Phase, body: (device: Device) => Promise<void>): Promise<void> {
    await Promise.all(this.#devices.map((device) => this.attempt(device, step, phase, () => body(device))));
  }

  /** Calls `body` for one device, which is left out from then on where it throws a fault of it. */
  async attempt(device: Device, step: number, phase: Phase, body: () => Promise<void>): Promise<void> {
    this.enter(device, phase);
    try {
      return await this.timed(device, body());
    } catch (error) {
      const failure = this.#fault(device, error);
      if (failure !== undefined) this.#report(failure, step, 0);
      this.#requireSome(failure?.message ?? messageOf(error));
    }
  }

  async #work<J, P>(
    device: Device,
    lists: readonly (readonly J[])[],
    prepare: (device: Device, jobs: readonly J[]) => Promise<P>,
    run: (device: Device, jobs: readonly J[], prepared: P) => Promise<void>,
  ): Promise<{ undelivered: J[]; error: unknown }> {
    const undelivered: J[] = [];
    const underWay = new Set<Promise<void>>();
    let error: unknown;
    const some = async (jobs: readonly J[]): Promise<void> => {
      this.enter(device, "upload");
      const prepared = await prepare(device, jobs).catch((cause: unknown) => {
        throw new Unprepared(cause);
      });
      await run(device, jobs, prepared);
    };
    for (const jobs of lists) {
      if (undelivered.length > 0) {
        undelivered.push(...jobs);
        continue;
      }
      const done: Promise<void> = this.timed(device, some(jobs)).catch((reason: unknown) => {
        // What is no fault of the device says more than what follows from it.
        if (undelivered.length === 0 || !isFault(reason, device)) error = reason;
        undelivered.push(...jobs);
      }).finally(() => underWay.delete(done));
      underWay.add(done);
      if (underWay.size >= jobsAtOnce) await Promise.race(underWay);
    }
    await Promise.all(underWay);
    return { undelivered, error };
  }

  /** `work`, during which a device that exceeds the time it has counts as lost: then `work` rejects. */
  async timed(device: Device, work: Promise<unknown>): Promise<void> {
    const { stepTimeout } = this.#options;
    if (stepTimeout === undefined) return void await work;
    const timer = setTimeout(() => {
      this.#timedOut.add(device);
      abandonDevice(device, `it delivered nothing for ${stepTimeout} ms`);
    }, stepTimeout);
    try {
      await work;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Leaves the device out; undefined where what ran beside this has done so, and tells of it. Throws an error that is no
   * fault of it, and one after which it is still the best there is.
   */
  #fault(device: Device, error: unknown): Failure | undefined {
    const reason = error instanceof Unprepared ? error.reason : error;
    const used = this.#devices.includes(device);
    if (!isFault(error, device) || (used && this.#devices.length === 1 && !device.isLost)) throw reason;
    return used ? this.#remove(device, reason) : undefined;
  }

  #remove(device: Device, error: unknown): Failure {
    this.#devices = this.#devices.filter((other) => other !== device);
    this.#options.onRemoved?.(device);
    return {
      device,
      reason: this.#timedOut.has(device)
        ? "timeout"
        : error instanceof OutOfMemoryError
        ? "out of memory"
        : device.isLost
        ? "lost"
        : "failed",
      message: messageOf(error),
      phase: this.#phases.get(device) ?? "between steps",
      at: performance.now(),
    };
  }

  #report({ device, reason, message, phase, at }: Failure, step: number, shardsMoved: number): void {
    this.#options.onEvent?.({
      kind: "deviceLost",
      step,
      device: device.name,
      reason,
      message,
      phase,
      shardsMoved,
      milliseconds: performance.now() - at,
    });
  }

  #requireSome(message: string | undefined): void {
    if (this.#devices.length > 0) return;
    throw new AllDevicesLostError(this.#op, {
      got: `no device that works any more${message === undefined ? "" : ` (the last: ${message})`}`,
      need: "at least one device",
    });
  }
}

/** An error of a job that was not begun. */
class Unprepared {
  readonly reason: unknown;

  constructor(reason: unknown) {
    this.reason = reason;
  }
}

function messageOf(error: unknown): string {
  if (error instanceof Unprepared) return messageOf(error.reason);
  return error instanceof ShardwiseError ? error.got : error instanceof Error ? error.message : String(error);
}

function isFault(error: unknown, device: Device): boolean {
  if (device.isLost) return true;
  // What is bound to a run may be of another device, and lost with that one.
  const reason = error instanceof Unprepared ? error.reason : error;
  if (reason instanceof OutOfMemoryError) return true;
  return !(error instanceof Unprepared) && error instanceof DeviceError && !(error instanceof KernelCompileError);
}

/** Throws ArgumentError for no devices, DeviceError for one listed twice. */
export function requireDistinct(op: string, devices: readonly Device[]): void {
  if (devices.length === 0) {
    throw new ArgumentError(op, { got: "no devices", need: "at least one, as from await devices()" });
  }
  const twice = devices.find((device, i) => devices.indexOf(device) !== i);
  if (twice !== undefined) {
    throw new DeviceError(op, {
      got: `${twice.name} twice in [${devices.map((device) => device.name).join(", ")}]`,
      need: "each device once; devices({ virtual: n }) makes several of one adapter",
    });
  }
}

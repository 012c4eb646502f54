/** A device that fails when it is told to, in front of a real one. */
import type { Plan, Target } from "../src/compiler/plan/plan.ts";
import type {
  Device,
  DeviceBuffer,
  DeviceInfo,
  DeviceLoss,
  DeviceStats,
  Executable,
  OutputRead,
} from "../src/devices/device/device.ts";
import type { PlanFamily } from "../src/devices/device/family.ts";
import { simulateLoss } from "../src/devices/loss.ts";
import { DeviceLostError, OutOfMemoryError } from "../src/errors.ts";

export type Call = "alloc" | "write" | "load" | "run" | "read" | "runAndRead";

export interface Fault {
  readonly call: Call;
  /** Which of the calls from now on, 1 for the next. */
  readonly nth: number;
  /**
   * lose: the device is gone (a real `destroy()` of a GPU), before the call or, with `late`, while it is under way;
   * reject: this call fails as a map does that is aborted; outOfMemory: it throws OutOfMemoryError; hang: what it would
   * give never comes.
   */
  readonly kind: "lose" | "late" | "reject" | "outOfMemory" | "hang";
}

export class FaultyDevice implements Device {
  readonly inner: Device;
  readonly #faults: { call: Call; left: number; kind: Fault["kind"] }[] = [];
  /** Milliseconds that reads wait before they are told, in turn. */
  readonly #delays: readonly number[];
  #reads = 0;

  constructor(inner: Device, delays: readonly number[] = []) {
    this.inner = inner;
    this.#delays = delays;
  }

  /** Plans a fault. */
  plan({ call, nth, kind }: Fault): void {
    this.#faults.push({ call, left: nth, kind });
  }

  get id(): number {
    return this.inner.id;
  }

  get name(): string {
    return this.inner.name;
  }

  get kind(): Device["kind"] {
    return this.inner.kind;
  }

  get info(): DeviceInfo {
    return this.inner.info;
  }

  get target(): Target {
    return this.inner.target;
  }

  get lost(): Promise<DeviceLoss> {
    return this.inner.lost;
  }

  get isLost(): boolean {
    return this.inner.isLost;
  }

  alloc(bytes: number): DeviceBuffer {
    this.#fault("alloc");
    return this.inner.alloc(bytes);
  }

  free(buffer: DeviceBuffer): void {
    this.inner.free(buffer);
  }

  write(buffer: DeviceBuffer, data: ArrayBufferView, offset?: number): void {
    this.#fault("write");
    this.inner.write(buffer, data, offset);
  }

  async read(buffer: DeviceBuffer, offset?: number, bytes?: number): Promise<ArrayBuffer> {
    const then = this.#fault("read");
    const [result] = await Promise.all([this.inner.read(buffer, offset, bytes), then?.()]);
    await this.#delay();
    return result;
  }

  async load(plan: Plan, items?: number, family?: PlanFamily): Promise<Executable> {
    await this.#fault("load")?.();
    return await this.inner.load(plan, items, family);
  }

  run(
    executable: Executable,
    inputs: readonly (DeviceBuffer | undefined)[],
    outputs: readonly DeviceBuffer[],
    items?: number,
  ): void {
    void this.#fault("run")?.();
    this.inner.run(executable, inputs, outputs, items);
  }

  runAndRead(
    executable: Executable,
    inputs: readonly (DeviceBuffer | undefined)[],
    outputs: readonly DeviceBuffer[],
    reads: readonly OutputRead[],
    items?: number,
  ): Promise<void>[] {
    const then = this.#fault("runAndRead");
    const done = this.inner.runAndRead(executable, inputs, outputs, reads, items);
    const after = then?.();
    after?.catch(() => {});
    return done.map((promise) => {
      const told = promise.then(() => Promise.all([after, this.#delay()])).then(() => {});
      const gone = this.lost.then(() => {
        throw new DeviceLostError("read", { got: `${this.name}, which was lost`, need: "a device" });
      });
      const either = Promise.race([told, gone]);
      either.catch(() => {});
      return either;
    });
  }

  sync(): Promise<void> {
    return this.inner.sync();
  }

  stats(): DeviceStats {
    return this.inner.stats();
  }

  abandon(message: string): void {
    this.inner.abandon(message);
  }

  close(): void {
    this.inner.close();
  }

  /** What is to happen at this call: thrown at once, or what its results wait for. */
  #fault(call: Call): (() => Promise<void>) | undefined {
    for (const fault of this.#faults) {
      if (fault.call !== call || --fault.left !== 0) continue;
      switch (fault.kind) {
        case "lose":
          simulateLoss(this.inner, "planned");
          return undefined;
        case "late":
          return () => Promise.resolve(simulateLoss(this.inner, "planned"));
        case "reject":
          if (call === "read" || call === "runAndRead" || call === "load") {
            return () => Promise.reject(aborted(call, this.name));
          }
          throw aborted(call, this.name);
        case "outOfMemory":
          throw new OutOfMemoryError(call, { got: `no memory on ${this.name}`, need: "some" });
        case "hang":
          return () => new Promise(() => {});
      }
    }
    return undefined;
  }

  async #delay(): Promise<void> {
    const milliseconds = this.#delays[this.#reads++ % Math.max(1, this.#delays.length)];
    if (milliseconds !== undefined) await new Promise((resolve) => setTimeout(resolve, milliseconds));
  }
}

function aborted(call: string, name: string): DeviceLostError {
  return new DeviceLostError(call, { got: `${name}, whose map was aborted`, need: "a device that works" });
}

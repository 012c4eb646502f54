import type { Plan, Target } from "../../compiler/plan/plan.ts";
import type { Words } from "../../graph/words.ts";
import type { PlanFamily } from "./family.ts";

/** Memory on a device. Its bytes are undefined until written. */
export interface DeviceBuffer {
  /** Unique in the process. */
  readonly id: number;
  /** Usable bytes; a multiple of 4. */
  readonly bytes: number;
}

/** A plan that a device is ready to run: pipelines made, temporaries taken from the pool. */
export interface Executable {
  readonly plan: Plan;
  /** The most items that it can be run for. */
  readonly items: number;
  /** Gives the temporaries back to the pool. Idempotent. */
  release(): void;
}

/** A part of a plan's output that is wanted on the host. */
export interface OutputRead {
  /** Position among the outputs. */
  readonly output: number;
  /** Where it goes: as many bytes are read as it holds. */
  readonly into: Words;
  /** First byte in the output's buffer, a multiple of 4. Default 0. */
  readonly offset?: number;
}

/** Why a device is gone. */
export interface DeviceLoss {
  /** "closed" by `close`, or "lost": gone, or given up. */
  readonly reason: "closed" | "lost";
  /** What the driver or the caller said. */
  readonly message: string;
}

/** What a device did since it was opened. */
export interface DeviceStats {
  /** Bytes of buffers in use. */
  readonly liveBytes: number;
  /** The most bytes that were in use at one time. */
  readonly peakBytes: number;
  /** Bytes kept in the pool for reuse. */
  readonly pooledBytes: number;
  /** Buffers made by the driver, that is, not served by the pool. */
  readonly allocations: number;
  /** Distinct kernels compiled. */
  readonly kernels: number;
  /** Kernels that were run. */
  readonly dispatches: number;
  /** Lists of commands that were handed to the driver. */
  readonly submissions: number;
  /** Bytes copied from the host. */
  readonly bytesWritten: number;
  /** Bytes copied to the host. */
  readonly bytesRead: number;
}

/** What serves a device. */
export interface DeviceInfo {
  /** Who made it, as the driver says. */
  readonly vendor: string;
  /** Its family, as the driver says. */
  readonly architecture: string;
  /** Its name, as the driver says. */
  readonly description: string;
  /** A software adapter: the GPU API served by the CPU. */
  readonly software: boolean;
  /** Which WebGPU serves it: Dawn's npm package, Deno's own, the browser's; or none. */
  readonly runtime: "dawn" | "deno" | "browser" | "none";
}

/**
 * A device: memory, and plans run on it in the order of the calls. Calls that only enqueue return at once; an error of
 * the device surfaces at the next `read` or `sync`, and in `lost`.
 */
export interface Device {
  /** Unique in the process; nodes carry it. */
  readonly id: number;
  /** `gpu:0`, `cpu:1`, …: distinct among open devices. */
  readonly name: string;
  /** What it is; "null" computes nothing. */
  readonly kind: "gpu" | "cpu" | "null";
  /** What serves it. */
  readonly info: DeviceInfo;
  /** @internal What kernels are made for. */
  readonly target: Target;
  /** Resolves when the device is closed or lost; never rejects. */
  readonly lost: Promise<DeviceLoss>;
  /** Whether it was closed or lost. */
  readonly isLost: boolean;
  /** @internal Throws OutOfMemoryError above the device's budget, DeviceLostError when it is gone. */
  alloc(bytes: number): DeviceBuffer;
  /** @internal Back to the pool; idempotent. */
  free(buffer: DeviceBuffer): void;
  /** @internal Copies host bytes in, at `offset` bytes (a multiple of 4). The array may be changed as soon as the call returns. */
  write(buffer: DeviceBuffer, data: ArrayBufferView, offset?: number): void;
  /** @internal A copy of bytes once all earlier work is done. `offset` and `bytes` are multiples of 4; bytes is the rest by default. */
  read(buffer: DeviceBuffer, offset?: number, bytes?: number): Promise<ArrayBuffer>;
  /**
   * @internal Compiles a plan's kernels; a plan for items is made ready for as many as `items` of them at once, 1 by default. Where
   * compiling is costly, plans of one family share kernels. Rejects with KernelCompileError, which carries the numbered source.
   */
  load(plan: Plan, items?: number, family?: PlanFamily): Promise<Executable>;
  /**
   * @internal Runs a plan: `inputs` and `outputs` in the order of the plan's (a slot named twice is given the same buffer twice; unread
   * inputs may be undefined). A plan for items does so for the first `items` of them, 1 by default.
   */
  run(
    executable: Executable,
    inputs: readonly (DeviceBuffer | undefined)[],
    outputs: readonly DeviceBuffer[],
    items?: number,
  ): void;
  /**
   * @internal Runs a plan and copies parts of its outputs to the host, each as soon as the last kernel that writes it is done:
   * while large ones travel, the kernels that follow run. A promise for each, in order; one that rejects, as `read`
   * does, leaves its array as it was. Throws ArgumentError for a part that is not in its output.
   */
  runAndRead(
    executable: Executable,
    inputs: readonly (DeviceBuffer | undefined)[],
    outputs: readonly DeviceBuffer[],
    reads: readonly OutputRead[],
    items?: number,
  ): Promise<void>[];
  /** Resolves when all earlier work is done. */
  sync(): Promise<void>;
  /** What it did since it was opened. */
  stats(): DeviceStats;
  /**
   * @internal Gives the device up without a word to its driver, which would wait for a kernel that never ends. It counts as lost
   * from now on; what waits for it rejects at once.
   */
  abandon(message: string): void;
  /** Ends the device; buffers are gone. Idempotent. */
  close(): void;
}

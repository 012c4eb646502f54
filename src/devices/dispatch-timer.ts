import type { Program } from "../compiler/plan.ts";
import { stderrLine } from "../host/host.ts";
import { profileLine } from "./profile.ts";
import type { Recorder } from "./recorder.ts";
import { mapForReading, usage } from "./usage.ts";

/** Dispatches that are timed in one run of a plan; those beyond are not. */
const mostTimed = 1024;
const bytesPerTime = 8;

/** Times each dispatch with timestamp queries and prints a line for it, for `SHARDWISE_DEBUG=2`. */
export class DispatchTimer {
  readonly #device: GPUDevice;
  readonly #owner: string;
  readonly #queries: GPUQuerySet;
  #programs: Program[] = [];

  constructor(device: GPUDevice, owner: string) {
    this.#device = device;
    this.#owner = owner;
    this.#queries = device.createQuerySet({ type: "timestamp", count: 2 * mostTimed });
  }

  /** A pass for one dispatch of `program`, to be ended by the caller; undefined when no more can be timed. */
  pass(recorder: Recorder, program: Program): GPUComputePassEncoder | undefined {
    const index = this.#programs.length;
    if (index >= mostTimed) return undefined;
    this.#programs.push(program);
    return recorder.separatePass({
      timestampWrites: {
        querySet: this.#queries,
        beginningOfPassWriteIndex: 2 * index,
        endOfPassWriteIndex: 2 * index + 1,
      },
    });
  }

  /** Ends a run: its lines are printed when it is done. */
  report(recorder: Recorder): void {
    const programs = this.#programs;
    this.#programs = [];
    if (programs.length === 0) return;
    const size = programs.length * 2 * bytesPerTime;
    const resolved = this.#device.createBuffer({ size, usage: usage.queryResolve | usage.copySource });
    const staging = this.#device.createBuffer({ size, usage: usage.mapRead | usage.copyDestination });
    const encoder = recorder.encoder();
    encoder.resolveQuerySet(this.#queries, 0, programs.length * 2, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, size);
    recorder.flush();
    staging.mapAsync(mapForReading).then(() => {
      const times = new BigUint64Array(staging.getMappedRange());
      programs.forEach((program, index) => {
        const nanoseconds = Number((times[2 * index + 1] ?? 0n) - (times[2 * index] ?? 0n));
        stderrLine(profileLine(this.#owner, program, nanoseconds / 1e6));
      });
      staging.destroy();
      resolved.destroy();
    }, () => {}); // Rejects when the device ends.
  }
}

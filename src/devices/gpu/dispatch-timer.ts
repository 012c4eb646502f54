import type { Program } from "../../compiler/plan/plan.ts";
import type { Lifetime } from "../device/lifetime.ts";
import { kernelClock, kernelRan, timesUnderWay } from "../device/profile.ts";
import type { Native } from "./native.ts";
import type { Recorder } from "./recorder.ts";
import { mapForReading, usage } from "./usage.ts";

/** Dispatches between two reads of the timestamps. */
const batch = 1024;
const bytesPerTime = 8;

/**
 * Times each dispatch of a device: with timestamp queries, each kernel in a pass of its own; where there are none, or
 * where wall times are asked for, by the ends of submissions of one kernel each.
 */
export class DispatchTimer {
  readonly #native: Native;
  readonly #lifetime: Lifetime;
  readonly #owner: string;
  readonly #hasTimestamps: boolean;
  #queries: GPUQuerySet | undefined;
  #programs: Program[] = [];
  /** What is added to the GPU's clock to get the host's: as little as lets no kernel begin before it was submitted. */
  #ahead = -Infinity;
  /** When the last kernel ended, by the host's clock. */
  #ended = -Infinity;

  constructor(native: Native, lifetime: Lifetime, owner: string) {
    this.#native = native;
    this.#lifetime = lifetime;
    this.#owner = owner;
    this.#hasTimestamps = native.device.features.has("timestamp-query");
  }

  /** A pass for one dispatch of `program`, to be ended by the caller, who then calls `ended`. */
  pass(recorder: Recorder, program: Program): GPUComputePassEncoder {
    if (!this.#hasTimestamps || kernelClock() === "wall") {
      recorder.flush(); // What came before is not part of this kernel's time.
      return recorder.separatePass({});
    }
    if (this.#programs.length >= batch) this.report(recorder);
    const index = this.#programs.length;
    this.#programs.push(program);
    return recorder.separatePass({
      timestampWrites: {
        querySet: this.#queries ??= this.#native.device.createQuerySet({ type: "timestamp", count: 2 * batch }),
        beginningOfPassWriteIndex: 2 * index,
        endOfPassWriteIndex: 2 * index + 1,
      },
    });
  }

  /** Lets go of everything, when the device has ended. */
  drop(): void {
    this.#queries = undefined;
    this.#programs = [];
  }

  /** The pass of `program` is ended. */
  ended(recorder: Recorder, program: Program): void {
    if (this.#programs.length > 0) return;
    recorder.flush();
    const submitted = performance.now();
    timesUnderWay(
      this.#lifetime.whileThere("profile", this.#native.device.queue.onSubmittedWorkDone()).then(() => {
        const end = performance.now();
        const start = Math.max(submitted, this.#ended);
        this.#ended = end;
        kernelRan({ device: this.#owner, program, start, milliseconds: end - start });
      }, () => {}),
    ); // Rejects when the device ends.
  }

  /** Ends a run: its times are reported when it is done. */
  report(recorder: Recorder): void {
    const programs = this.#programs;
    if (programs.length === 0) return;
    this.#programs = [];
    const size = programs.length * 2 * bytesPerTime;
    const resolved = this.#native.device.createBuffer({ size, usage: usage.queryResolve | usage.copySource });
    const staging = this.#native.device.createBuffer({ size, usage: usage.mapRead | usage.copyDestination });
    const encoder = recorder.encoder();
    encoder.resolveQuerySet(this.#queries!, 0, programs.length * 2, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, size);
    recorder.flush();
    const submitted = performance.now();
    timesUnderWay(
      this.#lifetime.whileThere("profile", staging.mapAsync(mapForReading)).then(() => {
        const times = [...new BigUint64Array(staging.getMappedRange())].map((nanoseconds) => Number(nanoseconds) / 1e6);
        this.#ahead = Math.max(this.#ahead, submitted - times[0]!);
        programs.forEach((program, index) => {
          const begin = times[2 * index]!;
          const milliseconds = Math.max(0, times[2 * index + 1]! - begin);
          kernelRan({ device: this.#owner, program, start: begin + this.#ahead, milliseconds });
        });
        staging.destroy();
        resolved.destroy();
      }, () => {}),
    ); // Rejects when the device ends.
  }
}

/**
 * A training step in shards: gradients of each from the devices, added and divided on the host bucket by bucket, and one
 * update for all replicas.
 */
import { traceSpan } from "../../debug/trace.ts";
import type { Device } from "../../devices/device/device.ts";
import { InternalError } from "../../errors.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { scoreLength } from "../decompose/scores.ts";
import type { Fleet } from "../run/fleet.ts";
import type { Placement } from "../run/placement.ts";
import { ShardRuns } from "../run/shard-runs.ts";
import { allocAll, freeAll, type LoadedPlan, outputStride } from "../run/shared-plan.ts";
import { writeControl } from "../run/uploads.ts";
import type { Statistics } from "./assigned-tensors.ts";
import type { Bucket } from "./buckets.ts";
import { GradientCheck } from "./faults.ts";
import type { Replicas } from "./replicas.ts";
import { ShardPlans } from "./shard-plans.ts";
import { sumOf, sumOfFew, sumShards } from "./shard-sums.ts";
import type { Snapshot } from "./snapshot.ts";
import type { Step } from "./step.ts";
import { totalsLength, type TrainingPlans } from "./training-plans.ts";
import { inPlace } from "./update.ts";
import { Vectors } from "./vectors.ts";

/** Milliseconds of the host in a step. */
export interface Phases {
  /** Writing the batch's rows to the devices, and their work to the queues (a cpu device computes there). */
  readonly scatter: number;
  /** Waiting for the devices. */
  readonly wait: number;
  /** Adding and dividing gradients. */
  readonly reduce: number;
  /** Writing the gradient to the devices, and their updates to the queues. */
  readonly broadcast: number;
}

/** What a step in shards came to. */
export interface ShardedResult {
  /** Rows that each device computed, in the order of the devices at the start. */
  readonly rows: ReadonlyMap<Device, number>;
  readonly phases: Phases;
  /** Resolves when the host has a copy of the new parameters; undefined where none is made. */
  readonly copied: Promise<void> | undefined;
}

/** What is read of a shard. */
interface Landing {
  readonly scores: Float32Array;
  readonly buckets: readonly Float32Array[];
}

interface ShardedRun {
  readonly judge: (scores: readonly number[]) => boolean;
  readonly refuse: (parameter: number) => never;
  readonly copy: boolean;
}

interface HostMemory {
  /** What the sizes depend on, besides the number of shards. */
  readonly key: string;
  readonly vectors: Vectors;
  readonly landings: readonly Landing[];
}

export interface ShardedOptions {
  readonly fleet: Fleet;
  readonly placement: Placement;
  readonly plans: TrainingPlans;
  readonly replicas: Replicas;
  readonly statistics: Statistics;
  readonly snapshot: Snapshot;
  /** Brings all replicas to what the user assigned to a parameter meanwhile. */
  readonly ready: () => Promise<void>;
}

export class ShardedSteps {
  readonly #options: ShardedOptions;
  #memory: HostMemory | undefined;

  constructor(options: ShardedOptions) {
    this.#options = options;
  }

  /**
   * Runs a step of at least one row until its update is enqueued on all devices. `judge` is told the scores as soon as
   * they are known and says whether the weights are to be updated. `refuse` is told the position of the first parameter
   * whose gradient is not finite, before anything is updated. What they throw ends the step. With `copy`, the host gets a
   * copy of the new parameters.
   */
  async run(step: Step, { judge, refuse, copy }: ShardedRun): Promise<ShardedResult> {
    const { fleet, placement, plans, replicas, statistics } = this.#options;
    const clock = new Clock();
    const own = (tensor: Tensor, device: Device) => replicas.own(tensor, device) ?? statistics.own(tensor, device);
    const shardPlans = new ShardPlans(step, { plans, placement, replicas, own });
    const { buckets } = shardPlans;
    const rows = new Map(fleet.devices.map((device) => [device, 0]));
    const updates = new Map<Device, LoadedPlan>();
    await fleet.eachAsync(step.number, "upload", async (device) => {
      updates.set(device, await plans.update({ ...step.layout, penalty: step.penalty }).plan.on(device));
    });
    const placed = placement.place(step.fields.rows, fleet.devices);
    const shards = placed.map(({ job }) => job);
    await shardPlans.settle(shards);

    const { vectors, landings: all } = this.#host(step, shards.length, buckets);
    const landings = all.slice(0, shards.length);
    const arrived = buckets.map(() => new Set<number>());
    const scored = new Set<number>();
    let judged = false;
    let updating = false;
    let counts: readonly number[] = [];
    const check = new GradientCheck(replicas);
    const reduceWhenThere = (b: number) => {
      if (!updating || arrived[b]!.size < shards.length) return;
      const { start, end } = buckets[b]!;
      const size = end - start;
      const { groups } = step.layout;
      const parts = landings.map((landing) => landing.buckets[b]!);
      clock.time("reduce", () => {
        check.note(sumShards(vectors, parts, groups * size));
        // Of the penalty there is one gradient, with nothing to be added to it.
        if (parts[0]!.length > groups * size) check.note(vectors.largest(parts[0]!, groups * size, parts[0]!.length - groups * size));
      });
      clock.time("broadcast", () =>
        fleet.each(step.number, "update", (device) => {
          const sums = updates.get(device)!.written[1]!;
          for (let row = 0; row * size < parts[0]!.length; row++) {
            device.write(sums, parts[0]!.subarray(row * size, (row + 1) * size), 4 * (row * replicas.length + start));
          }
        }));
    };
    const scoresArrived = (index: number) => {
      scored.add(index);
      if (judged || scored.size < shards.length) return;
      const all = landings.map((landing) => landing.scores);
      const totals = sumOfFew(all, totalsLength(step.layout.groups));
      // Metrics may count more than f32 holds exactly.
      updating = judge([...totals, ...sumOf(all).slice(totals.length)]);
      judged = true;
      if (!updating) return;
      counts = [...totals.subarray(0, step.layout.groups)];
      fleet.each(step.number, "update", (device) => device.write(updates.get(device)!.written[2]!, totals));
      buckets.forEach((_, b) => reduceWhenThere(b));
    };
    const spans = new Map<Device, { readonly start: number; end: number; rows: number }>();
    let assigned: readonly Tensor[] = [];

    const prepare = shardPlans.prepare.bind(shardPlans);
    const together = shardPlans.together.bind(shardPlans);
    const runs = new ShardRuns(step.fields, { ...step, step: step.number });
    const ready = await runs.collect(fleet, placed, shardPlans.of(shards[0]!).plan.stages.length, prepare, together);
    await fleet.deliver(ready, step.number, prepare, async (device, group, bound) => {
      const first = group[0]!.index === 0;
      const start = performance.now();
      const { executable } = bound.loaded[bound.loaded.length - 1]!;
      const strides = executable.plan.outputs.map((_, output) => outputStride(executable, output));
      const outputs = allocAll(device, strides.map((bytes) => group.length * bytes));
      const state = first ? bound.assigned.map(({ tensor }) => statistics.memory(tensor)) : [];
      // A shard of a loss that is a penalty alone has no gradient of its own.
      const withSums = bound.lengths.length > 1;
      if (!withSums) { for (const shards of arrived) group.forEach(({ index }) => shards.add(index)); }
      const wanted = group.flatMap(({ index }, item) => {
        const { scores, buckets: sums } = landings[index]!;
        return [scores, ...withSums ? sums : []].map((into, output) => ({ index, output, into, offset: item * strides[output]! }));
        // What came from a device that failed afterwards may be part of a sum already: it is not read again.
      }).filter(({ index, output }) => !(output === 0 ? scored : arrived[output - 1]!).has(index));
      fleet.enter(device, "compute");
      const reads = clock.time("scatter", () => {
        try {
          return runs.finish(device, group, bound, outputs, [
            ...wanted,
            ...state.map((into, i) => ({ output: bound.lengths.length + i, into })),
          ]);
        } catch (error) {
          freeAll(device, outputs);
          throw error;
        }
      });
      if (first) assigned = bound.assigned.map(({ tensor }) => tensor);
      // All of them, so that nothing comes late when others do the work of a device that failed.
      const settled = await Promise.allSettled(reads.map((done, i) =>
        done.then(() => {
          const read = wanted[i];
          if (read === undefined) return;
          if (read.output === 0) return scoresArrived(read.index);
          arrived[read.output - 1]!.add(read.index);
          reduceWhenThere(read.output - 1);
        })
      ));
      freeAll(device, outputs);
      for (const read of settled) if (read.status === "rejected") throw read.reason;
      const count = group.reduce((sum, shard) => sum + shard.rows, 0);
      rows.set(device, (rows.get(device) ?? 0) + count);
      const span = spans.get(device);
      if (span === undefined) spans.set(device, { start, end: performance.now(), rows: count });
      else {
        span.end = performance.now();
        span.rows += count;
      }
    }, together).finally(() => runs.release());
    for (const [device, span] of spans) placement.measured(device, span.rows, span.end - span.start);
    let copied: Promise<void> | undefined;
    if (updating) {
      const sums = buckets.map((bucket, b) => ({ ...bucket, sums: landings[0]!.buckets[b]! }));
      const faulty = check.faulty(sums, counts, step.penalty);
      if (faulty !== undefined) refuse(faulty);
      while (replicas.claim() === undefined) {
        await this.#options.ready();
        await fleet.attempt(fleet.devices[0]!, step.number, "update", () => replicas.makeWritable());
      }
      copied = clock.time("broadcast", () => this.#update(step, updates, assigned, copy));
      for (const tensor of assigned) statistics.show(tensor);
    }
    return { rows, phases: clock.phases(), copied };
  }

  /** One update on every device. Nothing waits in here, so that all replicas make the same updates. */
  #update(
    step: Step,
    updates: ReadonlyMap<Device, LoadedPlan>,
    assigned: readonly Tensor[],
    copy: boolean,
  ): Promise<void> | undefined {
    const { fleet, replicas, snapshot, statistics } = this.#options;
    let copied: Promise<void> | undefined;
    fleet.each(step.number, "update", (device) => {
      const { executable, written: [control, sums, totals] } = updates.get(device)!;
      writeControl(device, control!, { ...step, step: step.number, offset: 0 });
      const first = device === fleet.devices[0];
      const own = first ? replicas.claim() : replicas.state(device);
      if (own === undefined) {
        throw new InternalError("train", { got: "parameters in use elsewhere", need: "ones to be written in place" });
      }
      const buffers = inPlace(own);
      if (first && copy) {
        const into = snapshot.memory(replicas.length);
        const [done] = device.runAndRead(executable, [control!, sums!, totals!, ...buffers], buffers, [
          { output: buffers.length - 1, into },
        ]);
        replicas.wrote();
        const { version } = replicas;
        const keep = done!.then(() => {
          snapshot.keep(into, step.number);
          replicas.keptOnHost(version, into);
        });
        keep.catch(() => snapshot.giveBack(into));
        copied = keep;
      } else {
        device.run(executable, [control!, sums!, totals!, ...buffers], buffers);
        if (first) replicas.wrote();
      }
      for (const tensor of assigned) statistics.write(tensor, device);
    });
    return copied;
  }

  /** Host memory for what is read of the shards of a step; kept as long as steps are alike. */
  #host(step: Step, shards: number, buckets: readonly Bucket[]): HostMemory {
    const { groups } = step.layout;
    const key = [scoreLength(step.layout), groups, step.penalty, ...buckets.map(({ end }) => end)].join();
    const known = this.#memory;
    if (known !== undefined && known.key === key && known.landings.length >= shards) return known;
    const sizes = buckets.map(({ start, end }) => end - start);
    const ofShard = (index: number) => {
      const copies = groups + (index === 0 && step.penalty ? 1 : 0);
      return [scoreLength(step.layout), ...sizes.map((size) => copies * size)];
    };
    const lengths = Array.from({ length: shards }, (_, index) => ofShard(index));
    const vectors = new Vectors(lengths.flat());
    const landings = lengths.map((of, index): Landing => {
      const [scores, ...sums] = vectors.all.slice(index * of.length, (index + 1) * of.length);
      return { scores: scores!, buckets: sums };
    });
    return this.#memory = { key, vectors, landings };
  }
}

/** Adds up what the host does in a step. */
class Clock {
  readonly #start = performance.now();
  readonly #spent = { scatter: 0, reduce: 0, broadcast: 0 };

  time<T>(phase: "scatter" | "reduce" | "broadcast", body: () => T): T {
    const start = performance.now();
    try {
      return body();
    } finally {
      const end = performance.now();
      this.#spent[phase] += end - start;
      traceSpan("host", phase, start, end);
    }
  }

  phases(): Phases {
    const { scatter, reduce, broadcast } = this.#spent;
    const whole = performance.now() - this.#start;
    return { scatter, wait: Math.max(0, whole - scatter - reduce - broadcast), reduce, broadcast };
  }
}

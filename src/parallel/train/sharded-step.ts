/** A training step in shards: each is computed on a device, the host adds what they give, and one update is made on all replicas. */
import type { Device } from "../../devices/device/device.ts";
import { InternalError } from "../../errors.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Fleet } from "../run/fleet.ts";
import type { Placement } from "../run/placement.ts";
import { BatchRun } from "../run/batch-run.ts";
import { allocAll, freeAll, type LoadedPlan, outputStride } from "../run/shared-graph.ts";
import { writeControl } from "../run/uploads.ts";
import type { Statistics } from "./assigned-tensors.ts";
import { Clock, type Phases } from "./phases.ts";
import { LandingMemory, Reduction } from "./reduction.ts";
import type { Replicas } from "./replicas.ts";
import { StepShards } from "./step-shards.ts";
import type { Snapshot } from "./snapshot.ts";
import type { Step } from "./step.ts";
import type { TrainingGraphs } from "./training-graphs.ts";
import { inPlace } from "./update.ts";

/** What a step in shards came to. */
export interface ShardedResult {
  /** Rows that each device computed, in the order of the devices at the start. */
  readonly rows: ReadonlyMap<Device, number>;
  readonly phases: Phases;
  /** Resolves when the host has a copy of the new parameters; undefined where none is made. */
  readonly copied: Promise<void> | undefined;
}

interface ShardedRun {
  readonly judge: (scores: readonly number[]) => boolean;
  readonly refuse: (parameter: number) => never;
  readonly copy: boolean;
}

interface Finish extends Pick<ShardedRun, "refuse" | "copy"> {
  readonly updates: ReadonlyMap<Device, LoadedPlan>;
  readonly assigned: readonly Tensor[];
  readonly clock: Clock;
}

export interface ShardedOptions {
  readonly fleet: Fleet;
  readonly placement: Placement;
  readonly graphs: TrainingGraphs;
  readonly replicas: Replicas;
  readonly statistics: Statistics;
  readonly snapshot: Snapshot;
  /** Brings all replicas to what the user assigned to a parameter meanwhile. */
  readonly ready: () => Promise<void>;
}

export class ShardedSteps {
  readonly #options: ShardedOptions;
  readonly #memory = new LandingMemory();

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
    const { fleet, placement, graphs, replicas, statistics } = this.#options;
    const clock = new Clock();
    const own = (tensor: Tensor, device: Device) => replicas.own(tensor, device) ?? statistics.own(tensor, device);
    const updates = new Map<Device, LoadedPlan>();
    await fleet.eachAsync(step.number, "upload", async (device) => {
      updates.set(device, await graphs.update({ ...step.layout, penalty: step.penalty }).graph.on(device));
    });
    const shards = new StepShards(step, fleet.devices, { graphs, placement, replicas, own });
    await shards.settle();
    const reduction = new Reduction({
      step,
      shards: shards.all.length,
      buckets: shards.buckets,
      memory: this.#memory,
      fleet,
      replicas,
      updates,
      clock,
      judge,
    });
    const work = new Work(fleet.devices);
    const assigned = await this.#compute(step, shards, reduction, work, clock);
    for (const { device, rows, milliseconds } of work.spans()) placement.measured(device, rows, milliseconds);
    const copied = reduction.updating
      ? await this.#finish(step, reduction, { updates, assigned, refuse, copy, clock })
      : undefined;
    return { rows: work.rows, phases: clock.phases(), copied: copied?.done };
  }

  /** Runs all shards and reads what they give. Gives the tensors that the model assigns to. */
  async #compute(
    step: Step,
    shards: StepShards,
    reduction: Reduction,
    work: Work,
    clock: Clock,
  ): Promise<readonly Tensor[]> {
    const { fleet, statistics } = this.#options;
    const prepare = shards.prepare.bind(shards);
    const together = shards.together.bind(shards);
    const run = new BatchRun(step.fields, { ...step, step: step.number });
    let assigned: readonly Tensor[] = [];
    const ready = await run.collect(
      fleet,
      shards.placed,
      shards.of(shards.all[0]!).graph.stages.length,
      prepare,
      together,
    );
    await fleet.deliver(ready, step.number, prepare, async (device, group, bound) => {
      const start = performance.now();
      const { executable } = bound.loaded[bound.loaded.length - 1]!;
      const strides = executable.plan.outputs.map((_, output) => outputStride(executable, output));
      const outputs = allocAll(device, strides.map((bytes) => group.length * bytes));
      // What the model assigns to, such as running statistics, is the first shard's.
      const own = group[0]!.index === 0 ? bound.assigned.map(({ tensor }) => tensor) : [];
      const wanted = group.flatMap(({ index }, item) =>
        reduction.missing(index, bound.lengths.length > 1).map((read) => ({
          ...read,
          offset: item * strides[read.output]!,
        }))
      );
      fleet.enter(device, "compute");
      const reads = clock.time("scatter", () => {
        try {
          return run.finish(device, group, bound, outputs, [
            ...wanted,
            ...own.map((tensor, i) => ({ output: bound.lengths.length + i, into: statistics.memory(tensor) })),
          ]);
        } catch (error) {
          freeAll(device, outputs);
          throw error;
        }
      });
      if (own.length > 0) assigned = own;
      // All of them, so that nothing comes late when others do the work of a device that failed.
      const settled = await Promise.allSettled(
        reads.map((done, i) => done.then(() => wanted[i] && reduction.arrived(wanted[i]))),
      );
      freeAll(device, outputs);
      for (const read of settled) if (read.status === "rejected") throw read.reason;
      work.add(device, group.reduce((sum, shard) => sum + shard.rows, 0), start);
    }, together).finally(() => run.release());
    return assigned;
  }

  /** Updates all replicas, or refuses the gradient; gives when the host has its copy, if it is to have one. */
  async #finish(
    step: Step,
    reduction: Reduction,
    { updates, assigned, refuse, copy, clock }: Finish,
  ): Promise<{ readonly done: Promise<void> | undefined }> {
    const { fleet, replicas, statistics, ready } = this.#options;
    const faulty = reduction.faulty();
    if (faulty !== undefined) refuse(faulty);
    while (replicas.claim() === undefined) {
      await ready();
      await fleet.attempt(fleet.devices[0]!, step.number, "update", () => replicas.makeWritable());
    }
    const done = clock.time("broadcast", () => this.#update(step, updates, assigned, copy));
    for (const tensor of assigned) statistics.show(tensor);
    return { done };
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
        const into = snapshot.memory(replicas.layout.length);
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
}

/** What each device has computed of a step. */
class Work {
  /** Rows by device, in the order of the devices at the start. */
  readonly rows: Map<Device, number>;
  readonly #spans = new Map<Device, { readonly start: number; end: number }>();

  constructor(devices: readonly Device[]) {
    this.rows = new Map(devices.map((device) => [device, 0]));
  }

  /** Adds rows that were begun at `start`, and are done now. */
  add(device: Device, rows: number, start: number): void {
    this.rows.set(device, (this.rows.get(device) ?? 0) + rows);
    const span = this.#spans.get(device);
    if (span === undefined) this.#spans.set(device, { start, end: performance.now() });
    else span.end = performance.now();
  }

  /** The devices that have computed something, with the time from the first beginning to the last end. */
  spans(): { readonly device: Device; readonly rows: number; readonly milliseconds: number }[] {
    return [...this.#spans].map(([device, { start, end }]) => ({
      device,
      rows: this.rows.get(device)!,
      milliseconds: end - start,
    }));
  }
}

/** A training step in shards: each is computed on a device, the host adds what they give, and one update is made on all replicas. */
import type { Device } from "../../devices/device/device.ts";
import { InternalError } from "../../errors.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Fleet } from "../run/fleet.ts";
import type { Placement } from "../run/placement.ts";
import { BatchRun, type BoundShards, type Group } from "../run/batch-run.ts";
import { allocAll, freeAll, outputStrides } from "../run/shared-graph.ts";
import { writeControl } from "../run/uploads.ts";
import type { Statistics } from "./assigned-tensors.ts";
import type { Judge, Judged } from "./judge.ts";
import { Clock, type Phases } from "./phases.ts";
import { LandingMemory, Reduction } from "./reduction.ts";
import type { Replicas } from "./replicas.ts";
import { StepShards } from "./step-shards.ts";
import type { Snapshot } from "./snapshot.ts";
import type { Step } from "./step.ts";
import type { GradientGraph, LoadedUpdate, TrainingGraphs } from "./training-graphs.ts";
import { inPlace } from "./update.ts";

/** What a step in shards came to. */
export interface ShardedResult {
  readonly judged: Judged;
  /** Rows that each device computed, in the order of the devices at the start. */
  readonly rows: ReadonlyMap<Device, number>;
  readonly phases: Phases;
  /** Resolves when the host has a copy of the new parameters; undefined where none is made. */
  readonly copied: Promise<void> | undefined;
}

/** A step while it is made. */
interface UnderWay {
  readonly step: Step;
  readonly shards: StepShards;
  readonly run: BatchRun;
  readonly reduction: Reduction;
  /** The update on each device. */
  readonly updates: ReadonlyMap<Device, LoadedUpdate>;
  readonly work: Work;
  readonly clock: Clock;
}

export interface ShardedOptions {
  readonly fleet: Fleet;
  readonly placement: Placement;
  readonly graphs: TrainingGraphs;
  readonly replicas: Replicas;
  readonly statistics: Statistics;
  readonly snapshot: Snapshot;
  /** Told the scores of a step as soon as they are known, and of a gradient that is not finite. */
  readonly judge: Judge;
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
   * Runs a step of at least one row until its update is enqueued on all devices; what it is judged for ends it before anything
   * is updated. With `copy`, the host gets a copy of the new parameters.
   */
  async run(step: Step, copy: boolean): Promise<ShardedResult> {
    const { placement, judge } = this.#options;
    const made = await this.#begin(step);
    const { reduction, work, clock } = made;
    const assigned = await this.#compute(made);
    for (const { device, rows, milliseconds } of work.spans()) placement.measured(device, rows, milliseconds);
    const { judged } = reduction;
    if (judged === undefined) throw new InternalError("train", { got: "shards without scores", need: "those of all" });
    if (!judged.updated) return { judged, rows: work.rows, phases: clock.phases(), copied: undefined };
    const faulty = reduction.faulty();
    if (faulty !== undefined) judge.refuseGradient(step, judged.scores, faulty);
    await this.#makeWritable(step);
    const copied = clock.time("broadcast", () => this.#update(made, assigned, copy));
    for (const tensor of assigned) this.#options.statistics.show(tensor);
    return { judged, rows: work.rows, phases: clock.phases(), copied };
  }

  /** Loads the update on all devices, and places the shards. */
  async #begin(step: Step): Promise<UnderWay> {
    const { fleet, placement, graphs, replicas, statistics, judge } = this.#options;
    const clock = new Clock();
    const own = (tensor: Tensor, device: Device) => replicas.own(tensor, device) ?? statistics.own(tensor, device);
    const updates = new Map<Device, LoadedUpdate>();
    await fleet.eachAsync(step.number, "upload", async (device) => {
      updates.set(device, await graphs.updateOn(device, { ...step.layout, penalty: step.penalty }));
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
      judge: (scores) => judge.judge(step, scores),
    });
    const run = new BatchRun(step.fields, { ...step, step: step.number });
    return { step, shards, run, reduction, updates, work: new Work(fleet.devices), clock };
  }

  /** Runs all shards and reads what they give. Gives the tensors that the model assigns to. */
  async #compute(made: UnderWay): Promise<readonly Tensor[]> {
    const { fleet } = this.#options;
    const { step: { number }, shards, run } = made;
    const prepare = shards.prepare.bind(shards);
    const together = shards.together.bind(shards);
    const { stages } = shards.of(shards.first).graph;
    let assigned: readonly Tensor[] = [];
    const ready = await run.collect(fleet, shards.placed, stages.length, prepare, together);
    await fleet.deliver(ready, number, prepare, async (device, group, bound) => {
      const own = await this.#finish(made, device, group, bound);
      if (own.length > 0) assigned = own;
    }, together).finally(() => run.release());
    return assigned;
  }

  /**
   * Runs the last stage of a group of shards on a device, until all is read. Gives the tensors that the model assigns to, such
   * as running statistics, where the first shard is among them: they are that one's.
   */
  async #finish(
    { reduction, run, work, clock }: UnderWay,
    device: Device,
    group: Group,
    bound: GradientGraph & BoundShards,
  ): Promise<readonly Tensor[]> {
    const { fleet, statistics } = this.#options;
    const start = performance.now();
    const strides = outputStrides(bound.loaded);
    const outputs = allocAll(device, strides.map((bytes) => group.length * bytes));
    const own = group[0]?.index === 0 ? bound.assigned.map(({ tensor }) => tensor) : [];
    const wanted = group.flatMap(({ index }, item) =>
      reduction.missing(index, bound.lengths.length > 1).map((read) => ({
        ...read,
        offset: item * (strides[read.output] ?? 0),
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
    // All of them, so that nothing comes late when others do the work of a device that failed.
    const settled = await Promise.allSettled(
      reads.map((done, i) => done.then(() => wanted[i] && reduction.arrived(wanted[i]))),
    );
    freeAll(device, outputs);
    for (const read of settled) if (read.status === "rejected") throw read.reason;
    work.add(device, group.reduce((sum, shard) => sum + shard.rows, 0), start);
    return own;
  }

  /** Brings the first device's parameters to where they can be updated in place. */
  async #makeWritable({ number }: Step): Promise<void> {
    const { fleet, replicas, ready } = this.#options;
    while (replicas.claim() === undefined) {
      await ready();
      await fleet.attempt(fleet.devices[0]!, number, "update", () => replicas.makeWritable());
    }
  }

  /** One update on every device. Nothing waits in here, so that all replicas make the same updates. */
  #update(
    { step, updates }: UnderWay,
    assigned: readonly Tensor[],
    copy: boolean,
  ): Promise<void> | undefined {
    const { fleet, replicas, snapshot, statistics } = this.#options;
    let copied: Promise<void> | undefined;
    fleet.each(step.number, "update", (device) => {
      const { executable, control, sums, totals } = updates.get(device)!;
      writeControl(device, control, { ...step, step: step.number, offset: 0 });
      const first = device === fleet.devices[0];
      const own = first ? replicas.claim() : replicas.state(device);
      if (own === undefined) {
        throw new InternalError("train", { got: "parameters in use elsewhere", need: "ones to be written in place" });
      }
      const buffers = inPlace(own);
      if (first && copy) {
        const into = snapshot.memory(replicas.layout.length);
        const [done] = device.runAndRead(executable, [control, sums, totals, ...buffers], buffers, [
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
        device.run(executable, [control, sums, totals, ...buffers], buffers);
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

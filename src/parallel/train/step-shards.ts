/** The shards of one step, and the graphs that compute them: the same ones on one device as on several. */
import type { Device, DeviceBuffer } from "../../devices/device/device.ts";
import { InternalError } from "../../errors.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { type BoundShards, type Group, runsTogether } from "../run/batch-run.ts";
import type { Placed } from "../run/fleet.ts";
import type { Placement } from "../run/placement.ts";
import { areUneven, bindCaptures, type Shard } from "../run/uploads.ts";
import { type Bucket, bucketsOf } from "./buckets.ts";
import type { Replicas } from "./replicas.ts";
import type { Step } from "./step.ts";
import type { GradientGraph, TrainingGraphs } from "./training-graphs.ts";

export interface StepShardsParts {
  readonly graphs: TrainingGraphs;
  readonly placement: Placement;
  readonly replicas: Replicas;
  /** The buffer that a device keeps of a captured tensor, if it does. */
  readonly own: (tensor: Tensor, device: Device) => DeviceBuffer | undefined;
}

export class StepShards {
  /** All of them, in the order of their rows. */
  readonly placed: readonly Placed<Shard>[];
  readonly buckets: readonly Bucket[];
  readonly #step: Step;
  readonly #parts: StepShardsParts;
  readonly #uneven: boolean;

  /** Places a step of at least one row on devices. */
  constructor(step: Step, devices: readonly Device[], parts: StepShardsParts) {
    this.#step = step;
    this.#parts = parts;
    const { offsets, length } = parts.replicas.layout;
    this.buckets = bucketsOf(offsets, length, 4 * step.layout.groups);
    this.placed = parts.placement.place(step.fields.rows, devices);
    this.#uneven = areUneven(this.all);
  }

  get all(): readonly Shard[] {
    return this.placed.map(({ job }) => job);
  }

  get first(): Shard {
    const [first] = this.placed;
    if (first === undefined) throw new InternalError("train", { got: "no shards", need: "a step of at least one row" });
    return first.job;
  }

  of(shard: Shard): GradientGraph {
    const { fields, dependsOnTotal, penalty } = this.#step;
    const { graphs, placement } = this.#parts;
    return graphs.shard(fields, {
      rows: shard.rows,
      total: dependsOnTotal ? fields.rows : undefined,
      first: shard.index === 0 && penalty,
      buckets: this.buckets,
      together: placement.together,
      uneven: this.#uneven,
    });
  }

  /** To be called when none of an earlier step is about to be run: gives back what graphs have outgrown. */
  async settle(): Promise<void> {
    for (const graph of new Set(this.all.map((shard) => this.of(shard).graph))) await graph.settle();
  }

  /** Which shards of a list a device runs together. */
  together(device: Device, shards: readonly Shard[]): readonly Group[] {
    return runsTogether(device, shards, (shard) => this.of(shard));
  }

  /** What a group of shards needs on a device. */
  async prepare(device: Device, group: Group): Promise<GradientGraph & BoundShards> {
    const prepared = this.of(group[0]!);
    const loaded = await prepared.graph.on(device, group.length);
    const captured = await bindCaptures(prepared.captures, device, (tensor) => this.#parts.own(tensor, device));
    return { ...prepared, loaded, captured };
  }
}

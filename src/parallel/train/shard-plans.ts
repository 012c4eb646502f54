/** The plans with which the shards of one step are run: the same ones on one device as on several. */
import type { Device, DeviceBuffer } from "../../devices/device/device.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Placement } from "../run/placement.ts";
import { type BoundShards, type Group, runsTogether } from "../run/shard-runs.ts";
import { areUneven, bindCaptures, type Shard } from "../run/uploads.ts";
import { type Bucket, bucketsOf } from "./buckets.ts";
import type { Replicas } from "./replicas.ts";
import type { Step } from "./step.ts";
import type { ShardPlan, TrainingPlans } from "./training-plans.ts";

export interface ShardPlansParts {
  readonly plans: TrainingPlans;
  readonly placement: Placement;
  readonly replicas: Replicas;
  /** The buffer that a device keeps of a captured tensor, if it does. */
  readonly own: (tensor: Tensor, device: Device) => DeviceBuffer | undefined;
}

export class ShardPlans {
  readonly buckets: readonly Bucket[];
  readonly #step: Step;
  readonly #parts: ShardPlansParts;
  #uneven = false;

  constructor(step: Step, parts: ShardPlansParts) {
    this.#step = step;
    this.#parts = parts;
    this.buckets = bucketsOf(parts.replicas.offsets, parts.replicas.length, 4 * step.layout.groups);
  }

  of(shard: Shard): ShardPlan {
    const { fields, dependsOnTotal, penalty } = this.#step;
    const { plans, placement } = this.#parts;
    return plans.shard(fields, {
      rows: shard.rows,
      total: dependsOnTotal ? fields.rows : undefined,
      first: shard.index === 0 && penalty,
      buckets: this.buckets,
      together: placement.together,
      uneven: this.#uneven,
    });
  }

  /** To be called with all shards when none of an earlier step is about to be run: gives back what plans have outgrown. */
  async settle(shards: readonly Shard[]): Promise<void> {
    this.#uneven = areUneven(shards);
    for (const plan of new Set(shards.map((shard) => this.of(shard).plan))) await plan.settle();
  }

  /** Which shards of a list a device runs together. */
  together(device: Device, shards: readonly Shard[]): readonly Group[] {
    return runsTogether(device, shards, (shard) => this.of(shard));
  }

  /** What a group of shards needs on a device. */
  async prepare(device: Device, group: Group): Promise<ShardPlan & BoundShards> {
    const prepared = this.of(group[0]!);
    const loaded = await prepared.plan.on(device, group.length);
    const captured = await bindCaptures(prepared.captures, device, (tensor) => this.#parts.own(tensor, device));
    return { ...prepared, loaded, captured };
  }
}

/**
 * A step in logical shards on a single device: their gradients are added up there, in the tree in which the host adds those
 * of several devices, so that the next step can follow without waiting for the host.
 */
import type { Device, DeviceBuffer, OutputRead } from "../devices/device.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bucketsOf } from "./buckets.ts";
import type { Placement } from "./placement.ts";
import type { Replicas } from "./replicas.ts";
import { scoreLength } from "./scores.ts";
import { sumOf, sumOfFew } from "./shard-sums.ts";
import { outputStride } from "./shared-plan.ts";
import type { Step } from "./sharded-step.ts";
import { type BoundShards, type Group, groupsOf, ShardRuns } from "./staged-plan.ts";
import { totalsLength, type TrainingPlans } from "./training-plans.ts";
import type { State } from "./update.ts";
import { bindCaptures, type Shard, writeControl } from "./uploads.ts";

/** A step that is ready to be enqueued. */
export interface FoldedStep {
  /**
   * Enqueues all of it; `state` is the first device's, claimed, and is updated in place. Reads the new parameters into `copy`.
   * Resolves to the scores of the whole batch.
   */
  run(state: State<DeviceBuffer>, copy: Float32Array | undefined): Promise<readonly number[]>;
}

interface Parts {
  readonly device: Device;
  readonly placement: Placement;
  readonly plans: TrainingPlans;
  readonly replicas: Replicas;
  /** The buffer that the device keeps of a captured tensor, if it does. */
  readonly own: (tensor: Tensor, device: Device) => DeviceBuffer | undefined;
}

/** Undefined where the host has a part in the step: for collectives, and for tensors that the model assigns to. */
export async function foldedStep(step: Step, { device, placement, plans, replicas, own }: Parts): Promise<FoldedStep | undefined> {
  const buckets = bucketsOf(replicas.offsets, replicas.length, 4 * step.layout.groups);
  const shards = placement.place(step.fields.rows, [device]).map(({ job }) => job);
  const planOf = (shard: Shard) =>
    plans.shard(step.fields, {
      rows: shard.rows,
      total: step.dependsOnTotal ? step.fields.rows : undefined,
      first: shard.index === 0 && step.penalty,
      buckets,
      together: placement.together,
    });
  const { plan, assigned, lengths } = planOf(shards[0]!);
  if (plan.stages.length > 1 || assigned.length > 0 || lengths.length === 1) return undefined;
  const groups: { readonly group: Group; readonly bound: BoundShards }[] = [];
  for (const group of groupsOf(device, shards, planOf)) {
    const prepared = planOf(group[0]!);
    const loaded = await prepared.plan.on(device, group.length);
    groups.push({ group, bound: { plan: prepared.plan, loaded, captured: await bindCaptures(prepared.captures, device, (tensor) => own(tensor, device)) } });
  }
  const ofGroups = groups.map(({ group, bound: { loaded: [only] } }) => {
    const { executable } = only!;
    return { shards: group.length, strides: executable.plan.outputs.map((_, output) => outputStride(executable, output)) };
  });
  const summed = { groups: step.layout.groups, penalty: step.penalty };
  const fold = await plans.fold(ofGroups, buckets, summed).plan.on(device);
  const update = await plans.update(summed).plan.on(device);

  const run = async (state: State<DeviceBuffer>, copy: Float32Array | undefined): Promise<readonly number[]> => {
    const runs = new ShardRuns(step.fields, { ...step, step: step.number });
    const length = scoreLength(step.layout);
    const scores = shards.map(() => new Float32Array(length));
    const outputs: DeviceBuffer[] = [];
    const reads: Promise<void>[] = [];
    // First, as a write ends what is being recorded.
    const [control] = update.written;
    writeControl(device, control!, { ...step, step: step.number, offset: 0 });
    groups.forEach(({ group, bound }, i) => {
      const { strides } = ofGroups[i]!;
      const own = strides.map((bytes) => device.alloc(group.length * bytes));
      outputs.push(...own);
      const wanted = group.map(({ index }, item): OutputRead => ({ output: 0, into: scores[index]!, offset: item * strides[0]! }));
      reads.push(...runs.finish(device, group, bound, own, wanted));
    });
    const [sums, totals] = fold.executable.plan.outputs.map((slot) => device.alloc(fold.executable.plan.slots[slot]!.bytes));
    device.run(fold.executable, outputs, [sums!, totals!]);
    const buffers = [...state.slots, state.scalars, state.parameters];
    const copied = copy === undefined ? [] : [{ output: buffers.length - 1, into: copy }];
    reads.push(...device.runAndRead(update.executable, [control!, sums!, totals!, ...buffers], buffers, copied));
    for (const buffer of [...outputs, sums!, totals!]) device.free(buffer);
    replicas.wrote();
    await Promise.all(reads);
    const whole = sumOfFew(scores, totalsLength(step.layout.groups));
    return [...whole, ...sumOf(scores).slice(whole.length)];
  };
  return { run };
}

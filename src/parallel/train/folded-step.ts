/**
 * A step in logical shards on a single device: their gradients are added up there, in the tree in which the host adds those
 * of several devices, so that the next step can follow without waiting for the host.
 */
import type { Device, DeviceBuffer, OutputRead } from "../../devices/device/device.ts";
import { scoreLength } from "../decompose/scores.ts";
import { BatchRun, type BoundShards, type Group } from "../run/batch-run.ts";
import { allocAll, freeAll, outputStride } from "../run/shared-graph.ts";
import { writeControl } from "../run/uploads.ts";
import { StepShards, type StepShardsParts } from "./step-shards.ts";
import { sumOf, sumOfFew } from "./shard-sums.ts";
import type { Step } from "./step.ts";
import { totalsLength } from "./training-graphs.ts";
import { inPlace, type State } from "./update.ts";

/** A step that is ready to be enqueued. */
export interface FoldedStep {
  /**
   * Enqueues all of it; `state` is the first device's, claimed, and is updated in place. Reads the new parameters into `copy`.
   * Reads the state's faults into `faults`. Resolves to the scores of the whole batch.
   */
  run(state: State<DeviceBuffer>, faults: Uint32Array, copy: Float32Array | undefined): Promise<readonly number[]>;
}

/** Undefined where the host has a part in the step: for collectives, and for tensors that the model assigns to. */
export async function foldedStep(step: Step, device: Device, parts: StepShardsParts): Promise<FoldedStep | undefined> {
  const { graphs, replicas } = parts;
  const shards = new StepShards(step, [device], parts);
  await shards.settle();
  const { graph, assigned, lengths } = shards.of(shards.all[0]!);
  if (graph.stages.length > 1 || assigned.length > 0 || lengths.length === 1) return undefined;
  const groups: { readonly group: Group; readonly bound: BoundShards; readonly parameters: number }[] = [];
  for (const group of shards.together(device, shards.all)) {
    const bound = await shards.prepare(device, group);
    groups.push({ group, bound, parameters: bound.captures.findIndex(({ tensor }) => tensor === replicas.flat) });
  }
  const ofGroups = groups.map(({ group, bound: { loaded: [only] } }) => {
    const { executable } = only!;
    return {
      shards: group.length,
      strides: executable.plan.outputs.map((_, output) => outputStride(executable, output)),
    };
  });
  const summed = { groups: step.layout.groups, penalty: step.penalty };
  const fold = await graphs.fold(ofGroups, shards.buckets, summed).graph.on(device);
  const update = await graphs.update(summed).graph.on(device);

  const enqueue: FoldedStep["run"] = async (state, faults, copy) => {
    const run = new BatchRun(step.fields, { ...step, step: step.number });
    const length = scoreLength(step.layout);
    const scores = shards.all.map(() => new Float32Array(length));
    const held: DeviceBuffer[] = [];
    const hold = (bytes: readonly number[]) => {
      const buffers = allocAll(device, bytes);
      held.push(...buffers);
      return buffers;
    };
    const reads: Promise<void>[] = [];
    try {
      // First, as a write ends what is being recorded.
      const [control] = update.written;
      writeControl(device, control!, { ...step, step: step.number, offset: 0 });
      const outputs = groups.flatMap(({ group, bound, parameters }, i) => {
        const { strides } = ofGroups[i]!;
        const own = hold(strides.map((bytes) => group.length * bytes));
        const wanted = group.map(({ index }, item): OutputRead => ({
          output: 0,
          into: scores[index]!,
          offset: item * strides[0]!,
        }));
        // They may lie elsewhere now than when all was prepared.
        const captured = bound.captured.map((buffer, capture) => capture === parameters ? state.parameters : buffer);
        reads.push(...run.finish(device, group, { ...bound, captured }, own, wanted));
        return own;
      });
      const { plan } = fold.executable;
      const [sums, totals] = hold(plan.outputs.slice(0, 2).map((slot) => plan.slots[slot]!.bytes));
      device.run(fold.executable, [...outputs, state.faults], [sums!, totals!, state.faults]);
      const buffers = inPlace(state);
      const copied = [
        { output: buffers.indexOf(state.faults), into: faults },
        ...copy === undefined ? [] : [{ output: buffers.length - 1, into: copy }],
      ];
      reads.push(...device.runAndRead(update.executable, [control!, sums!, totals!, ...buffers], buffers, copied));
      replicas.wrote();
    } finally {
      freeAll(device, held);
    }
    await Promise.all(reads);
    const whole = sumOfFew(scores, totalsLength(step.layout.groups));
    return [...whole, ...sumOf(scores).slice(whole.length)];
  };
  return { run: enqueue };
}

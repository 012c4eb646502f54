/**
 * A step in logical shards on a single device: their gradients are added up there, in the tree in which the host adds those
 * of several devices, so that the next step can follow without waiting for the host.
 */
import type { Device, DeviceBuffer, OutputRead } from "../../devices/device/device.ts";
import { scoreLength } from "../decompose/scores.ts";
import { BatchRun, type BoundShards, type Group } from "../run/batch-run.ts";
import { allocAll, freeAll, type LoadedPlan, outputStrides } from "../run/shared-graph.ts";
import { writeControl } from "../run/uploads.ts";
import type { PreparedStep, StepReads } from "./one-device.ts";
import { sumOf, sumOfFew } from "./shard-sums.ts";
import type { Step } from "./step.ts";
import { StepShards, type StepShardsParts } from "./step-shards.ts";
import { type LoadedUpdate, totalsLength } from "./training-graphs.ts";
import { inPlace, type State } from "./update.ts";

/** Shards that run together, ready to. */
interface PreparedGroup {
  readonly group: Group;
  readonly bound: BoundShards;
  /** Position of the parameters among what it captures; -1 where they are not. */
  readonly parameters: number;
  /** Bytes of each output of a shard. */
  readonly strides: readonly number[];
}

/** What the update is made from. */
interface Sums {
  readonly sums: DeviceBuffer;
  readonly totals: DeviceBuffer;
}

/** Undefined where the host has a part in the step: for collectives, and for tensors that the model assigns to. */
export async function foldedStep(
  step: Step,
  device: Device,
  parts: StepShardsParts,
): Promise<PreparedStep | undefined> {
  const { graphs, replicas } = parts;
  const shards = new StepShards(step, [device], parts);
  await shards.settle();
  const { graph, assigned, lengths } = shards.of(shards.first);
  if (graph.stages.length > 1 || assigned.length > 0 || lengths.length === 1) return undefined;
  const groups: PreparedGroup[] = [];
  for (const group of shards.together(device, shards.all)) {
    const bound = await shards.prepare(device, group);
    const parameters = bound.captures.findIndex(({ tensor }) => tensor === replicas.flat);
    groups.push({ group, bound, parameters, strides: outputStrides(bound.loaded) });
  }
  const ofGroups = groups.map(({ group, strides }) => ({ shards: group.length, strides }));
  const summed = { groups: step.layout.groups, penalty: step.penalty };
  const fold = await graphs.fold(ofGroups, shards.buckets, summed).graph.on(device);
  const update = await graphs.updateOn(device, summed);
  const folded = new FoldedStep(step, device, { groups, fold, update, wrote: () => replicas.wrote() });
  return { enqueue: folded.enqueue.bind(folded) };
}

interface Loaded {
  readonly groups: readonly PreparedGroup[];
  readonly fold: LoadedPlan;
  readonly update: LoadedUpdate;
  /** To be called when the state was updated. */
  readonly wrote: () => void;
}

class FoldedStep {
  readonly #step: Step;
  readonly #device: Device;
  readonly #loaded: Loaded;
  /** Buffers to be given back when all is enqueued. */
  readonly #held: DeviceBuffer[] = [];
  readonly #reads: Promise<void>[] = [];

  constructor(step: Step, device: Device, loaded: Loaded) {
    this.#step = step;
    this.#device = device;
    this.#loaded = loaded;
  }

  enqueue(state: State<DeviceBuffer>, copy: Float32Array | undefined): StepReads {
    const start = performance.now();
    const faults = new Uint32Array(2);
    const scores = this.#run(state, faults, copy);
    return { scores, faults, statistics: [], start, enqueued: performance.now() };
  }

  async #run(
    state: State<DeviceBuffer>,
    faults: Uint32Array,
    copy: Float32Array | undefined,
  ): Promise<readonly number[]> {
    const { layout } = this.#step;
    let scores: readonly Float32Array[];
    try {
      // First, as a write ends what is being recorded.
      writeControl(this.#device, this.#loaded.update.control, { ...this.#step, step: this.#step.number, offset: 0 });
      const shards = this.#runShards(state);
      const sums = this.#fold(shards.outputs, state);
      this.#update(sums, state, faults, copy);
      scores = shards.scores;
    } finally {
      freeAll(this.#device, this.#held);
    }
    await Promise.all(this.#reads);
    const whole = sumOfFew(scores, totalsLength(layout.groups));
    return [...whole, ...sumOf(scores).slice(whole.length)];
  }

  /** Gives the outputs of all groups, and the scores of each shard, once they are read. */
  #runShards(state: State<DeviceBuffer>): { outputs: DeviceBuffer[]; scores: readonly Float32Array[] } {
    const step = this.#step;
    const run = new BatchRun(step.fields, { ...step, step: step.number });
    const length = scoreLength(step.layout);
    const scores: Float32Array[] = [];
    const outputs = this.#loaded.groups.flatMap(({ group, bound, parameters, strides: [apart = 0, ...others] }) => {
      const own = this.#hold([apart, ...others].map((bytes) => group.length * bytes));
      const wanted = group.map(({ index }, item): OutputRead => {
        const into = scores[index] = new Float32Array(length);
        return { output: 0, into, offset: item * apart };
      });
      // They may lie elsewhere now than when all was prepared.
      const captured = bound.captured.map((buffer, capture) => capture === parameters ? state.parameters : buffer);
      this.#reads.push(...run.finish(this.#device, group, { ...bound, captured }, own, wanted));
      return own;
    });
    return { outputs, scores };
  }

  #fold(outputs: readonly DeviceBuffer[], { faults }: State<DeviceBuffer>): Sums {
    const { executable } = this.#loaded.fold;
    const [sums, totals] = this.#hold(outputStrides([this.#loaded.fold]).slice(0, 2)) as [DeviceBuffer, DeviceBuffer];
    this.#device.run(executable, [...outputs, faults], [sums, totals, faults]);
    return { sums, totals };
  }

  #update(
    { sums, totals }: Sums,
    state: State<DeviceBuffer>,
    faults: Uint32Array,
    copy: Float32Array | undefined,
  ): void {
    const buffers = inPlace(state);
    const copied = [
      { output: buffers.indexOf(state.faults), into: faults },
      ...copy === undefined ? [] : [{ output: buffers.length - 1, into: copy }],
    ];
    const { executable, control } = this.#loaded.update;
    this.#reads.push(...this.#device.runAndRead(executable, [control, sums, totals, ...buffers], buffers, copied));
    this.#loaded.wrote();
  }

  #hold(bytes: readonly number[]): DeviceBuffer[] {
    const buffers = allocAll(this.#device, bytes);
    this.#held.push(...buffers);
    return buffers;
  }
}

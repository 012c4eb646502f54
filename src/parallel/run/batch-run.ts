/** The shards of a batch on their way through the stages of their graphs, in step with each other. */
import type { Device, DeviceBuffer, Executable, OutputRead } from "../../devices/device/device.ts";
import { InternalError } from "../../errors.ts";
import type { Node } from "../../graph/node.ts";
import { size } from "../../graph/shape.ts";
import { type Words, wordsFor } from "../../graph/words.ts";
import type { Stage } from "../decompose/stages.ts";
import { combine } from "./combine.ts";
import type { Fleet, Placed } from "./fleet.ts";
import { allocAll, freeAll, inputStride, type LoadedPlan, outputStride } from "./shared-graph.ts";
import { type HostFields, type Shard, type StepNumbers, writeControl, writeFields } from "./uploads.ts";
import type { StagedGraph, StageGraph } from "./staged-graph.ts";

/** The graph of shards that run together on a device, with all that is bound to it. */
export interface BoundShards {
  readonly graph: StagedGraph;
  readonly loaded: readonly LoadedPlan[];
  readonly captured: readonly DeviceBuffer[];
}

/** Neighbouring shards of as many rows each that run together. */
export type Group = readonly Shard[];

/** How far a group of shards is. */
interface Progress {
  readonly device: Device;
  /** Stages that were run. */
  done: number;
  /** Of each of them. */
  readonly kept: DeviceBuffer[][];
}

/** The shards of one batch, on their way through the stages. */
export class BatchRun {
  readonly #fields: HostFields;
  readonly #numbers: Omit<StepNumbers, "offset">;
  /** By the group's first and last shard. */
  readonly #progress = new Map<string, Progress>();
  /** What the collectives gave: for each stage, collective and shard. */
  readonly #results: (readonly (readonly Words[])[])[] = [];

  constructor(fields: HostFields, numbers: Omit<StepNumbers, "offset">) {
    this.#fields = fields;
    this.#numbers = numbers;
  }

  /**
   * Runs all of `stages` but the last one, for all shards, and combines what they put into the collectives. Gives the
   * devices where the shards are then.
   */
  async collect(
    fleet: Fleet,
    placed: readonly Placed<Shard>[],
    stages: number,
    prepare: (device: Device, group: Group) => Promise<BoundShards>,
    together?: (device: Device, shards: readonly Shard[]) => readonly Group[],
  ): Promise<readonly Placed<Shard>[]> {
    try {
      return await this.#collect(fleet, placed, stages, prepare, together);
    } catch (error) {
      this.release();
      throw error;
    }
  }

  async #collect(
    fleet: Fleet,
    placed: readonly Placed<Shard>[],
    stages: number,
    prepare: (device: Device, group: Group) => Promise<BoundShards>,
    together: ((device: Device, shards: readonly Shard[]) => readonly Group[]) | undefined,
  ): Promise<readonly Placed<Shard>[]> {
    let there = placed;
    for (let number = 0; number < stages - 1; number++) {
      const parts = new Map<Shard, { device: Device; stage: Stage; words: readonly Words[] }>();
      await fleet.deliver(there, this.#numbers.step, prepare, async (device, group, bound) => {
        const { stage } = stageOf(bound, number);
        const words = group.map(() => stage.collectives.map(({ node }) => wordsOf(node.src[0]!)));
        fleet.enter(device, "compute");
        await Promise.all(this.#advance(device, group, bound, number, words));
        group.forEach((shard, item) => parts.set(shard, { device, stage, words: words[item]! }));
      }, together);
      const shards = there.map(({ job }) => parts.get(job)!);
      const { collectives } = shards[0]!.stage;
      this.#results.push(collectives.map(({ node }, i) => {
        const nodes = shards.map(({ stage }) => stage.collectives[i]?.node);
        if (nodes.some((other) => other?.op !== node.op)) {
          throw new InternalError("collectives", { got: "other ones in another shard", need: "the same in all" });
        }
        return combine(node, shards.map(({ words }) => words[i]!), nodes.map((other) => other!.shape[0] ?? 1));
      }));
      there = there.map(({ job }) => ({ job, device: parts.get(job)!.device }));
    }
    return there;
  }

  /**
   * Runs the last stage of a group of shards, and those before it where the group is new on the device. Outputs hold the
   * shards' parts one after the other.
   */
  finish(
    device: Device,
    group: Group,
    bound: BoundShards,
    outputs: readonly DeviceBuffer[],
    reads: readonly OutputRead[],
  ): Promise<void>[] {
    const last = bound.graph.stages.length - 1;
    const progress = this.#upTo(device, group, bound, last);
    const done = device.runAndRead(
      stageOf(bound, last).loaded.executable,
      this.#inputs(device, group, bound, last, progress),
      outputs,
      reads,
      group.length,
    );
    this.#giveBack(keyOf(group));
    return done;
  }

  /** Gives back what is kept on the devices. */
  release(): void {
    for (const key of [...this.#progress.keys()]) this.#giveBack(key);
  }

  /** Runs a stage that is not the last, and reads what goes into its collectives, for each shard. */
  #advance(
    device: Device,
    group: Group,
    bound: BoundShards,
    number: number,
    words: readonly (readonly Words[])[],
  ): Promise<void>[] {
    const progress = this.#upTo(device, group, bound, number);
    const { stage, loaded: { executable } } = stageOf(bound, number);
    const inputs = this.#inputs(device, group, bound, number, progress);
    const wanted = words.flatMap((ofShard, item) =>
      ofShard.map((into, output) => ({ output, into, offset: item * outputStride(executable, output) }))
    );
    return withOutputs(device, executable, group, (outputs) => {
      const reads = device.runAndRead(executable, inputs, outputs, wanted, group.length);
      this.#ran(device, stage, progress, outputs);
      return reads;
    });
  }

  #upTo(device: Device, group: Group, bound: BoundShards, number: number): Progress {
    const key = keyOf(group);
    let progress = this.#progress.get(key);
    if (progress === undefined || progress.device !== device) {
      this.#giveBack(key);
      this.#progress.set(key, progress = { device, done: 0, kept: [] });
    }
    for (let before = progress.done; before < number; before++) {
      const { stage, loaded: { executable } } = stageOf(bound, before);
      const inputs = this.#inputs(device, group, bound, before, progress);
      const there = progress;
      withOutputs(device, executable, group, (outputs) => {
        device.run(executable, inputs, outputs, group.length);
        this.#ran(device, stage, there, outputs);
      });
    }
    return progress;
  }

  #ran(device: Device, { collectives }: Stage, progress: Progress, outputs: readonly DeviceBuffer[]): void {
    for (const buffer of outputs.slice(0, collectives.length)) device.free(buffer);
    progress.kept.push(outputs.slice(collectives.length));
    progress.done++;
  }

  #inputs(
    device: Device,
    group: Group,
    bound: BoundShards,
    number: number,
    progress: Progress,
  ): (DeviceBuffer | undefined)[] {
    const { origins, loaded: { executable, written } } = stageOf(bound, number);
    return origins.map((origin, i) => {
      const buffer = written[i];
      const stride = inputStride(executable, i);
      switch (origin.kind) {
        case "own":
          if (origin.index < this.#fields.leaves.length) {
            writeFields(device, buffer!, this.#fields.leaves[origin.index]!, group, stride);
          } else {
            group.forEach(({ offset }, item) =>
              writeControl(device, buffer!, { ...this.#numbers, offset }, item * stride)
            );
          }
          return buffer;
        case "captured":
          return bound.captured[origin.index];
        case "collective": {
          const words = this.#results[origin.stage]![origin.index]!;
          group.forEach(({ index }, item) => {
            if (words[index]!.byteLength > 0) device.write(buffer!, words[index]!, item * stride);
          });
          return buffer;
        }
        case "kept":
          return progress.kept[origin.stage]![origin.index];
      }
    });
  }

  #giveBack(key: string): void {
    const progress = this.#progress.get(key);
    if (progress === undefined) return;
    this.#progress.delete(key);
    if (progress.device.isLost) return;
    for (const buffer of progress.kept.flat()) progress.device.free(buffer);
  }
}

/** A stage of a graph, and its plan on the device. */
function stageOf({ graph, loaded }: BoundShards, number: number): StageGraph & { readonly loaded: LoadedPlan } {
  const [stage, plan] = [graph.stages[number], loaded[number]];
  if (stage !== undefined && plan !== undefined) return { ...stage, loaded: plan };
  throw new InternalError("run", { got: `stage ${number}`, need: `one of ${graph.stages.length}, all of them loaded` });
}

/**
 * Neighbouring shards of one list that have as many rows and the same graph run together, as many as the device takes at
 * once.
 */
export function runsTogether(
  device: Device,
  shards: readonly Shard[],
  of: (shard: Shard) => { readonly graph: StagedGraph },
): Group[] {
  const groups: Shard[][] = [];
  for (const shard of shards) {
    const last = groups[groups.length - 1];
    const [first] = last ?? [];
    const { graph } = of(shard);
    const follows = last !== undefined && of(first!).graph === graph &&
      shard.index === last[last.length - 1]!.index + 1;
    if (follows && last.length < graph.most(device, shards.length)) last.push(shard);
    else groups.push([shard]);
  }
  return groups;
}

function keyOf(group: Group): string {
  return `${group[0]!.index} ${group.length}`;
}

/** Calls `body` with buffers for the outputs of a group, which are given back should it throw. */
function withOutputs<T>(device: Device, executable: Executable, group: Group, body: (outputs: DeviceBuffer[]) => T): T {
  const bytes = executable.plan.outputs.map((_, output) => group.length * outputStride(executable, output));
  const outputs = allocAll(device, bytes);
  try {
    return body(outputs);
  } catch (error) {
    freeAll(device, outputs);
    throw error;
  }
}

function wordsOf(node: Node): Words {
  return wordsFor(node.dtype, size(node.shape));
}

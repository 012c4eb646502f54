/** The plans of a shard, one for each stage between collectives, and running them in step with other shards. */
import type { Device, DeviceBuffer, OutputRead } from "../devices/device.ts";
import { InternalError } from "../errors.ts";
import { byteLength } from "../graph/build.ts";
import { dtypes } from "../graph/dtype.ts";
import type { Node } from "../graph/node.ts";
import { size } from "../graph/shape.ts";
import { combine, type Words } from "./combine.ts";
import type { Fleet, Placed } from "./fleet.ts";
import { type LoadedPlan, SharedPlan } from "./shared-plan.ts";
import { cutStages, type Stage } from "./stages.ts";
import { type HostFields, type Shard, type StepNumbers, writeControl, writeField } from "./uploads.ts";

/** Where an input of a stage comes from. */
type Origin =
  | { readonly kind: "own" | "captured"; readonly index: number }
  | { readonly kind: "collective" | "kept"; readonly stage: number; readonly index: number };

interface PlannedStage {
  readonly stage: Stage;
  readonly plan: SharedPlan;
  /** In the order of the plan's inputs. */
  readonly origins: readonly Origin[];
}

/** What a shard computes: a graph whose inputs are written for each run (`own`) or bound (`captured`). */
export class StagedPlan {
  readonly stages: readonly PlannedStage[];

  constructor(roots: readonly Node[], own: readonly Node[], captured: readonly Node[]) {
    const origins = new Map<Node, Origin>();
    own.forEach((node, index) => origins.set(node, { kind: "own", index }));
    captured.forEach((node, index) => origins.set(node, { kind: "captured", index }));
    const stages = cutStages(roots, (node) => node.op === "input");
    this.stages = stages.map((stage, number): PlannedStage => {
      stage.collectives.forEach(({ placeholder }, index) => {
        origins.set(placeholder, { kind: "collective", stage: number, index });
      });
      stage.kept.forEach(({ placeholder }, index) => {
        origins.set(placeholder, { kind: "kept", stage: number, index });
      });
      const inputs = stage.inputs;
      const of = inputs.map((node) => origins.get(node)!);
      const written = of.flatMap(({ kind }, i) => kind === "own" || kind === "collective" ? [i] : []);
      return { stage, plan: new SharedPlan({ roots: stage.roots, inputs }, written), origins: of };
    });
  }

  /** The plans of all stages on a device, loaded at the first call. */
  on(device: Device): Promise<LoadedPlan[]> {
    return Promise.all(this.stages.map(({ plan }) => plan.on(device)));
  }

  async release(): Promise<void> {
    await Promise.all(this.stages.map(({ plan }) => plan.release()));
  }
}

/** A shard's plan on a device, with all that is bound to it. */
export interface BoundShard {
  readonly plan: StagedPlan;
  readonly loaded: readonly LoadedPlan[];
  readonly captured: readonly DeviceBuffer[];
}

/** How far a shard is. */
interface Progress {
  readonly device: Device;
  /** Stages that were run. */
  done: number;
  /** Of each of them. */
  readonly kept: DeviceBuffer[][];
}

/** The shards of one batch, on their way through the stages. */
export class ShardRuns {
  readonly #fields: HostFields;
  readonly #numbers: Omit<StepNumbers, "offset">;
  readonly #progress = new Map<number, Progress>();
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
    prepare: (device: Device, shard: Shard) => Promise<BoundShard>,
  ): Promise<readonly Placed<Shard>[]> {
    try {
      return await this.#collect(fleet, placed, stages, prepare);
    } catch (error) {
      this.release();
      throw error;
    }
  }

  async #collect(
    fleet: Fleet,
    placed: readonly Placed<Shard>[],
    stages: number,
    prepare: (device: Device, shard: Shard) => Promise<BoundShard>,
  ): Promise<readonly Placed<Shard>[]> {
    let there = placed;
    for (let number = 0; number < stages - 1; number++) {
      const parts = new Map<Shard, { device: Device; stage: Stage; words: readonly Words[] }>();
      await fleet.deliver(there, this.#numbers.step, prepare, async (device, shard, bound) => {
        const { stage } = bound.plan.stages[number]!;
        const words = stage.collectives.map(({ node }) => wordsOf(node.src[0]!));
        fleet.enter(device, "compute");
        await Promise.all(this.#advance(device, shard, bound, number, words));
        parts.set(shard, { device, stage, words });
      });
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

  /** Runs the last stage of a shard, and those before it where the shard is new on the device. */
  finish(
    device: Device,
    shard: Shard,
    bound: BoundShard,
    outputs: readonly DeviceBuffer[],
    reads: readonly OutputRead[],
  ): Promise<void>[] {
    const last = bound.plan.stages.length - 1;
    const progress = this.#upTo(device, shard, bound, last);
    const done = device.runAndRead(
      bound.loaded[last]!.executable,
      this.#inputs(device, shard, bound, last, progress),
      outputs,
      reads,
    );
    this.#giveBack(shard);
    return done;
  }

  /** Gives back what is kept on the devices. */
  release(): void {
    for (const index of [...this.#progress.keys()]) this.#giveBack({ index });
  }

  /** Runs a stage that is not the last, and reads what goes into its collectives. */
  #advance(
    device: Device,
    shard: Shard,
    bound: BoundShard,
    number: number,
    words: readonly Words[],
  ): Promise<void>[] {
    const progress = this.#upTo(device, shard, bound, number);
    const { stage } = bound.plan.stages[number]!;
    const inputs = this.#inputs(device, shard, bound, number, progress);
    const outputs = stage.roots.map((root) => device.alloc(Math.max(4, byteLength(root))));
    const reads = device.runAndRead(
      bound.loaded[number]!.executable,
      inputs,
      outputs,
      words.map((into, output) => ({ output, into })),
    );
    this.#ran(device, stage, progress, outputs);
    return reads;
  }

  #upTo(device: Device, shard: Shard, bound: BoundShard, number: number): Progress {
    let progress = this.#progress.get(shard.index);
    if (progress === undefined || progress.device !== device) {
      this.#giveBack(shard);
      this.#progress.set(shard.index, progress = { device, done: 0, kept: [] });
    }
    for (let before = progress.done; before < number; before++) {
      const { stage } = bound.plan.stages[before]!;
      const inputs = this.#inputs(device, shard, bound, before, progress);
      const outputs = stage.roots.map((root) => device.alloc(Math.max(4, byteLength(root))));
      device.run(bound.loaded[before]!.executable, inputs, outputs);
      this.#ran(device, stage, progress, outputs);
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
    shard: Shard,
    { plan, loaded, captured }: BoundShard,
    number: number,
    progress: Progress,
  ): (DeviceBuffer | undefined)[] {
    const { written } = loaded[number]!;
    return plan.stages[number]!.origins.map((origin, i) => {
      const buffer = written[i];
      switch (origin.kind) {
        case "own":
          if (origin.index < this.#fields.leaves.length) {
            writeField(device, buffer!, this.#fields.leaves[origin.index]!, shard);
          } else writeControl(device, buffer!, { ...this.#numbers, offset: shard.offset });
          return buffer;
        case "captured":
          return captured[origin.index];
        case "collective": {
          const words = this.#results[origin.stage]![origin.index]![shard.index]!;
          if (words.byteLength > 0) device.write(buffer!, words);
          return buffer;
        }
        case "kept":
          return progress.kept[origin.stage]![origin.index];
      }
    });
  }

  #giveBack({ index }: { readonly index: number }): void {
    const progress = this.#progress.get(index);
    if (progress === undefined) return;
    this.#progress.delete(index);
    if (progress.device.isLost) return;
    for (const buffer of progress.kept.flat()) progress.device.free(buffer);
  }
}

function wordsOf(node: Node): Words {
  return new dtypes[node.dtype].array(size(node.shape)) as Words;
}

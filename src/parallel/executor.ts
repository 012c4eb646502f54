/**
 * Trains one model on many devices: every step is cut into shards, run on all devices at once, and reduced on
 * the host.
 */
import { ArgumentError, NonFiniteLossError } from "../errors.ts";
import type { Device, DeviceBuffer } from "../devices/device.ts";
import { stderrLine } from "../host/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type Batch, type Fields, fieldsOf } from "./host-batch.ts";
import { checkProgram, type Program } from "./program.ts";
import { reduceGradients, sumOf } from "./reduce-host.ts";
import { Replicas } from "./replicas.ts";
import { requireDistinct } from "./distinct.ts";
import {
  counted,
  isFiniteLoss,
  lossOf,
  readScores,
  type ScoreLayout,
  scoreLength,
  type Scores,
} from "./scores.ts";
import { shardOffsets, shardSizes } from "./shard-sizes.ts";
import { judgeShards, traceShard } from "./shard-trace.ts";
import type { LoadedPlan } from "./shared-plan.ts";
import { type ShardPlan, TrainingPlans } from "./training-plans.ts";
import type { UpdateRule } from "./update.ts";
import {
  bindCaptures,
  type HostFields,
  requireSeed,
  type Shard,
  toHost,
  writeControl,
  writeRows,
} from "./uploads.ts";

export interface ExecutorOptions {
  /** Distinct, at least one. */
  readonly devices: readonly Device[];
  /** What is trained: distinct f32 tensors. They become views of the first device's copy. */
  readonly parameters: readonly Tensor[];
  readonly rule: UpdateRule;
  /** The learning rate of an update, the first being 1. A number when it is always the same. */
  readonly learningRate: number | ((update: number) => number);
  /** Loss and metrics of a batch; traced, so it runs only a few times. */
  readonly program: Program;
  /** Seed of random ops in the program. */
  readonly seed: number;
  /** Steps between checks that all replicas hold the same bits; 0 for never. */
  readonly checkEvery: number;
}

/** What became of a step. */
export interface StepOutcome {
  /** 1 for the first step. */
  readonly step: number;
  readonly scores: Scores;
  readonly rows: number;
  /** Rows of each device. */
  readonly sizes: readonly number[];
  readonly learningRate: number;
  /** False where the batch counted nothing, so that nothing was updated. */
  readonly updated: boolean;
}

/** A step whose work is on the devices. */
export interface EnqueuedStep {
  readonly outcome: Promise<StepOutcome>;
}

/** A step that is being made. */
interface Step {
  readonly number: number;
  readonly fields: HostFields;
  readonly layout: ScoreLayout;
  readonly sizes: readonly number[];
  readonly learningRate: number;
}

/** A shard with its plan loaded and everything bound. */
interface BoundShard {
  readonly shard: Shard;
  readonly prepared: ShardPlan;
  readonly device: Device;
  readonly loaded: LoadedPlan;
  readonly captured: readonly DeviceBuffer[];
}

const op = "train";

export class Executor {
  readonly replicas: Replicas;
  readonly #options: ExecutorOptions;
  readonly #plans: TrainingPlans;
  readonly #layouts = new Map<string, ScoreLayout>();
  /** Resolves when the next step may be enqueued. */
  #turn: Promise<void> = Promise.resolve();
  /** Settles with the last step that was enqueued. */
  #last: Promise<void> = Promise.resolve();
  #steps = 0;
  #updates = 0;
  #failure: NonFiniteLossError | undefined;
  #saidNothingCounted = false;

  /** Throws DeviceError or ArgumentError for devices, parameters or numbers that will not do. */
  constructor(options: ExecutorOptions) {
    requireDistinct(op, options.devices);
    const { checkEvery, seed } = options;
    if (!Number.isSafeInteger(checkEvery) || checkEvery < 0) {
      throw new ArgumentError(op, { got: `checkEvery ${checkEvery}`, need: "an integer of at least 0" });
    }
    requireSeed(op, seed);
    this.#options = options;
    this.replicas = new Replicas(op, options.devices, options.parameters, options.rule);
    this.#plans = new TrainingPlans(options.program, options.rule, this.replicas);
  }

  /**
   * Enqueues one training step, after those before it. Its outcome rejects with NonFiniteLossError when the
   * loss is NaN or infinite; then this step and those enqueued after it change nothing and reject in the same
   * way, until `recover` is called. Rejects with ShapeError for a batch whose tensors differ in their rows,
   * DecompositionError for a loss that is no sum over rows.
   */
  enqueue(batch: Batch): Promise<EnqueuedStep> {
    const enqueued = this.#turn.then(() => this.#enqueue(batch));
    // On several devices the host reduces between steps. On one, the next step can follow at once, unless its
    // learning rate depends on whether this one counted anything.
    const waits = this.#options.devices.length > 1 || typeof this.#options.learningRate === "function";
    this.#turn = enqueued.then(({ outcome }) => waits ? outcome.then(() => {}) : undefined).catch(() => {});
    return enqueued;
  }

  /** Lets training go on after a loss that was not finite, from the weights of before it. */
  async recover(): Promise<void> {
    if (this.#failure === undefined) return;
    await this.settled();
    this.#failure = undefined;
    this.replicas.heal();
  }

  /** One training step, to its end. It recovers from a failure of the steps before it. */
  async step(batch: Batch): Promise<StepOutcome> {
    await this.recover();
    const { outcome } = await this.enqueue(batch);
    return await outcome;
  }

  /** Resolves when every step that was enqueued is done, well or not. */
  async settled(): Promise<void> {
    await this.#turn;
    await this.#last;
  }

  /** Gives back all memory on the devices but that of the parameters themselves. */
  async release(): Promise<void> {
    await this.settled();
    await this.#plans.release();
    await this.replicas.release();
  }

  async #enqueue(batch: Batch): Promise<EnqueuedStep> {
    const { devices, learningRate } = this.#options;
    if (this.#failure !== undefined) throw this.#failure;
    const given = fieldsOf(op, batch);
    await this.replicas.ready();
    const step: Step = {
      layout: this.#layoutOf(given),
      fields: await toHost(given),
      number: this.#steps + 1,
      sizes: shardSizes(given.rows, devices.length),
      learningRate: typeof learningRate === "number" ? learningRate : learningRate(this.#updates + 1),
    };
    const { outcome } = given.rows === 0
      ? {
        outcome: this.#last.then(() =>
          this.#outcome(step, new Array<number>(scoreLength(step.layout)).fill(0))
        ),
      }
      : devices.length === 1
      ? await this.#onOne(step)
      : { outcome: this.#onSeveral(step, await this.#prepare(step)) };
    this.#steps++;
    this.#last = Promise.all([this.#last, outcome.catch(() => {})]).then(() => {});
    return { outcome };
  }

  /** Judges a kind of batch once: whether its loss adds up over shards, and what its scores are. */
  #layoutOf(fields: Fields): ScoreLayout {
    let layout = this.#layouts.get(fields.signature);
    if (layout === undefined) {
      const { program } = this.#options;
      // The real number of rows first, so that a plain mistake in the program is reported as it is.
      traceShard(fields, Math.max(1, fields.rows), program);
      const judgement = judgeShards(op, fields, program);
      layout = checkProgram(op, judgement);
      this.#layouts.set(fields.signature, layout);
    }
    return layout;
  }

  /**
   * One device: forward, backward and update are one plan, which leaves the state as it was where the loss is
   * not finite.
   */
  async #onOne(step: Step): Promise<EnqueuedStep> {
    const device = this.#options.devices[0]!;
    const { replicas } = this;
    const shard: Shard = { replica: 0, offset: 0, rows: step.fields.rows };
    const prepared = this.#plans.whole(step.fields);
    const loaded = await prepared.plan.on(device);
    const captured = await bindCaptures(prepared.captures, device, (tensor) => replicas.own(tensor, 0));
    let state = replicas.claim();
    for (; state === undefined; state = replicas.claim()) await replicas.makeWritable();

    const written = this.#write(device, loaded.written, step, shard);
    const scores = device.alloc(prepared.scoreBytes);
    const assigned = prepared.assigned.map(({ bytes }) => device.alloc(bytes));
    const stateBuffers = [...state.slots, state.scalars, state.parameters];
    device.run(loaded.executable, [...written, ...stateBuffers, ...captured], [
      ...stateBuffers,
      scores,
      ...assigned,
    ]);
    replicas.wrote();
    prepared.assign(device, assigned);
    const read = device.read(scores, 0, prepared.scoreBytes).finally(() => device.free(scores));
    return {
      outcome: this.#last.then(async () => this.#outcome(step, Array.from(new Float32Array(await read)))),
    };
  }

  /** The shards of a step, with their plans loaded and everything bound. */
  async #prepare(step: Step): Promise<BoundShard[]> {
    const { devices } = this.#options;
    const offsets = shardOffsets(step.sizes);
    const shards = step.sizes.flatMap((rows, replica): Shard[] =>
      rows > 0 ? [{ replica, offset: offsets[replica]!, rows }] : []
    );
    return await Promise.all(shards.map(async (shard, i) => {
      const prepared = this.#plans.shard(step.fields, shard.rows, i === 0);
      const device = devices[shard.replica]!;
      const loaded = await prepared.plan.on(device);
      const captured = await bindCaptures(
        prepared.captures,
        device,
        (tensor) => this.replicas.own(tensor, shard.replica),
      );
      return { shard, prepared, device, loaded, captured };
    }));
  }

  /** Several devices: sums of gradients from each, added and divided on the host, and one update for all. */
  async #onSeveral(step: Step, shards: readonly BoundShard[]): Promise<StepOutcome> {
    const { replicas } = this;
    // Everything is enqueued before anything is awaited, so that the devices work at the same time.
    const reads = shards.map(({ shard, prepared, device, loaded, captured }, i) => {
      const written = this.#write(device, loaded.written, step, shard);
      const output = device.alloc(prepared.packedBytes);
      const assigned = prepared.assigned.map(({ bytes }) => device.alloc(bytes));
      device.run(loaded.executable, [...written, ...captured], [output, ...assigned]);
      if (i === 0 && shard.replica === 0) prepared.assign(device, assigned);
      else for (const buffer of assigned) device.free(buffer);
      return device.read(output, 0, prepared.packedBytes).finally(() => device.free(output));
    });
    const parts = (await Promise.all(reads)).map((bytes) => new Float32Array(bytes));
    const { length } = replicas;
    const first = shards[0]!.prepared;
    const gradients = step.layout.groups * length;
    const penalty = first.penalty ? parts[0]!.subarray(gradients, gradients + length) : undefined;
    const scores = sumOf(
      parts.map((part, i) => part.subarray(gradients + (shards[i]!.prepared.penalty ? length : 0))),
    );
    const outcome = this.#outcome(step, scores);
    if (!outcome.updated) return outcome;
    const gradient = reduceGradients(
      parts,
      outcome.scores.groups.map((group) => group.count),
      length,
      penalty,
    );
    await this.#update(step, gradient);
    const { checkEvery } = this.#options;
    if (checkEvery > 0 && step.number % checkEvery === 0) await replicas.check(step.number);
    return outcome;
  }

  async #update(step: Step, gradient: Float32Array): Promise<void> {
    const { devices } = this.#options;
    const { replicas } = this;
    const prepared = this.#plans.update();
    const loaded = await Promise.all(devices.map((device) => prepared.plan.on(device)));
    let state = replicas.claim();
    for (; state === undefined; state = replicas.claim()) await replicas.makeWritable();
    const first = state;
    devices.forEach((device, replica) => {
      const { executable, written: [control, total] } = loaded[replica]!;
      this.#writeNumbers(device, control!, step, 0);
      device.write(total!, gradient);
      const own = replica === 0 ? first : replicas.state(replica);
      const buffers = [...own.slots, own.scalars, own.parameters];
      device.run(executable, [control!, total!, ...buffers], buffers);
    });
    replicas.wrote();
  }

  #write(
    device: Device,
    buffers: readonly (DeviceBuffer | undefined)[],
    step: Step,
    shard: Shard,
  ): DeviceBuffer[] {
    const fields = step.fields.leaves.length;
    writeRows(device, buffers, step.fields, shard);
    this.#writeNumbers(device, buffers[fields]!, step, shard.offset);
    return buffers.slice(0, fields + 1) as DeviceBuffer[];
  }

  #writeNumbers(device: Device, buffer: DeviceBuffer, step: Step, offset: number): void {
    writeControl(device, buffer, {
      seed: this.#options.seed,
      step: step.number,
      offset,
      learningRate: step.learningRate,
    });
  }

  /** Judges the scores of a step. Throws NonFiniteLossError. */
  #outcome(step: Step, numbers: readonly number[]): StepOutcome {
    if (this.#failure !== undefined) throw this.#failure;
    const scores = readScores(step.layout, numbers);
    if (!isFiniteLoss(scores)) {
      this.#failure = new NonFiniteLossError(op, {
        got: `a loss of ${lossOf(scores)} at step ${step.number}, with ${
          scores.groups.map(({ sum, count }) => `sum ${sum} and count ${count}`).join(", ")
        }`,
        need:
          "a finite loss (the weights are those of before the step): look at the batch and the learning rate",
      });
      throw this.#failure;
    }
    const updated = step.fields.rows > 0 && counted(scores);
    if (updated) this.#updates++;
    else this.#sayNothingCounted(step);
    const { number, sizes, learningRate, fields: { rows } } = step;
    return { step: number, scores, rows, sizes, learningRate, updated };
  }

  #sayNothingCounted(step: Step): void {
    if (this.#saidNothingCounted) return;
    this.#saidNothingCounted = true;
    stderrLine(
      `shardwise: the ${step.fields.rows} rows of step ${step.number} count nothing, so nothing is updated (said once)`,
    );
  }
}

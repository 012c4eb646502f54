/**
 * Trains one model on many devices: every step is cut into shards, run on all devices at once, and added up on the host
 * (on the device, where there is only one); the shards of a device that fails are computed by the others.
 */
import type { Device, DeviceBuffer } from "../../devices/device/device.ts";
import { AllDevicesLostError, ArgumentError, ShardwiseError, StateError } from "../../errors.ts";
import { stderrLine } from "../../host/host.ts";
import type { Modes } from "../../tensor/eager/mode.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { BatchKinds } from "../decompose/batch-kinds.ts";
import { type Checked, judgeProgram, type Program } from "../decompose/program.ts";
import { lossOf, meansOf, scoreLength } from "../decompose/scores.ts";
import { type DeviceEvent, Fleet } from "../run/fleet.ts";
import { wrongLabel } from "../run/label-ranges.ts";
import { Placement, type PlacementOptions } from "../run/placement.ts";
import { type Turn, Turns } from "../run/turns.ts";
import { GivenBatch, requireSeed } from "../run/uploads.ts";
import { Held } from "../split/held.ts";
import type { Batch } from "../split/host-batch.ts";
import { Statistics } from "./assigned-tensors.ts";
import { foldedStep } from "./folded-step.ts";
import { Judge, type Judged } from "./judge.ts";
import type { StepReads } from "./one-device.ts";
import type { Phases } from "./phases.ts";
import { Replicas } from "./replicas.ts";
import { ShardedSteps } from "./sharded-step.ts";
import { Snapshot } from "./snapshot.ts";
import type { Step, StepOutcome, StepRecord } from "./step.ts";
import { TrainingGraphs } from "./training-graphs.ts";
import type { State, StateUpdate } from "./update.ts";
import { wholeStep } from "./whole-step.ts";

export interface ExecutorOptions extends PlacementOptions {
  /** Distinct, at least one. */
  readonly devices: readonly Device[];
  /** What is trained: distinct f32 tensors. They become views of the first device's copy. */
  readonly parameters: readonly Tensor[];
  /** Their names, for messages. */
  readonly names?: readonly string[] | undefined;
  readonly rule: StateUpdate;
  /** The learning rate of an update, the first being 1. A number when it is always the same. */
  readonly learningRate: number | ((update: number) => number);
  /** Loss and metrics of a batch; traced, so it runs only a few times. */
  readonly program: Program;
  /** Modes in which it is traced, whatever they are outside. */
  readonly modes?: () => Modes;
  /** Seed of random ops in the program. */
  readonly seed: number;
  /** Steps between checks that all replicas hold the same bits; 0 for never. */
  readonly checkEvery: number;
  /** The gradient of the whole batch is scaled down to this norm where it is longer. Default: no limit. */
  readonly clipNorm?: number | undefined;
  /** Milliseconds that a device may take to deliver a shard; then it counts as lost. Default: no limit. */
  readonly stepTimeout?: number | undefined;
  /**
   * Steps between copies of the parameters to the host, which remain when every device is lost; 0 for never. Default 1,
   * and 10 for more than 16 MiB of parameters on one device.
   */
  readonly snapshotEvery?: number | undefined;
  /** Devices that were lost or have joined. */
  readonly onEvent?: (event: DeviceEvent) => void;
}

/** A step whose work is on the devices. */
export interface EnqueuedStep {
  readonly outcome: Promise<StepOutcome>;
}

/** What a step leaves to be waited for. */
interface Begun extends EnqueuedStep {
  /** Resolves when the next step may be enqueued. */
  readonly next: Promise<unknown>;
}

const op = "train";
/** Parameters of one device from this size on are copied to the host now and then only. */
const largeBytes = 16 * 2 ** 20;
const noPhases: Phases = { scatter: 0, wait: 0, reduce: 0, broadcast: 0 };

export class Executor {
  readonly replicas: Replicas;
  readonly fleet: Fleet;
  readonly statistics: Statistics = new Statistics();
  readonly #options: ExecutorOptions;
  readonly placement: Placement;
  readonly #graphs: TrainingGraphs;
  readonly #sharded: ShardedSteps;
  readonly #snapshot = new Snapshot();
  readonly #judge: Judge;
  readonly #layouts: BatchKinds<Checked>;
  readonly #joining: Device[] = [];
  readonly #turns = new Turns();
  /** What runs beside the steps. */
  readonly #beside = new Set<Promise<unknown>>();
  /** Settles with the last step that was enqueued. */
  #last: Promise<void> = Promise.resolve();
  #steps = 0;
  #updates = 0;
  #gone: AllDevicesLostError | undefined;
  #saidNothingCounted = false;
  #released = false;

  /** Throws DeviceError or ArgumentError for devices, parameters or numbers that will not do. */
  constructor(options: ExecutorOptions) {
    const { checkEvery, seed, devices, stepTimeout, snapshotEvery = 0, clipNorm } = options;
    requireWhole("checkEvery", checkEvery);
    requireWhole("snapshotEvery", snapshotEvery);
    if (clipNorm !== undefined && !(clipNorm > 0 && clipNorm < Infinity)) {
      throw new ArgumentError(op, { got: `clipNorm ${clipNorm}`, need: "a finite number above 0" });
    }
    requireSeed(op, seed);
    this.#options = options;
    this.#layouts = new BatchKinds((fields) => judgeProgram(op, fields, options.program), options.modes);
    this.fleet = new Fleet(op, {
      devices,
      stepTimeout,
      onRemoved: (device) => {
        this.replicas.remove(device);
        this.statistics.remove(device);
      },
      onEvent: (event) => options.onEvent?.(event),
    });
    this.replicas = new Replicas(op, devices, options.parameters, options.rule);
    this.#judge = new Judge(
      op,
      this.replicas.layout,
      options.names,
      (step) => wrongLabel(step.fields, options.program, { ...step, step: step.number }),
    );
    this.#graphs = new TrainingGraphs(options.program, options.rule, this.replicas, this.fleet.family, clipNorm);
    this.placement = new Placement(op, devices, options);
    this.#sharded = new ShardedSteps({
      fleet: this.fleet,
      placement: this.placement,
      graphs: this.#graphs,
      replicas: this.replicas,
      statistics: this.statistics,
      snapshot: this.#snapshot,
      judge: this.#judge,
      ready: () => this.#ready(),
    });
  }

  /**
   * Enqueues one training step, after those before it. Its outcome rejects with NonFiniteLossError when the loss is NaN or
   * infinite, with NonFiniteGradientError when the loss is finite and the gradient is not; then this step and those enqueued
   * after it change nothing and reject in the same way, until `recover` or `step` is called. Rejects with ShapeError for a
   * batch whose tensors differ in their rows, DecompositionError for a loss that is no sum over rows, AllDevicesLostError
   * when no device is left.
   */
  enqueue(batch: Batch | GivenBatch): Promise<EnqueuedStep> {
    return this.#take(batch, () => Promise.resolve());
  }

  /** Takes in a device at the next step. Throws DeviceError for one that is in use or will not do, or is lost. */
  addDevice(device: Device): void {
    this.fleet.requireNew("addDevice", device);
    if (this.#joining.includes(device)) return;
    const [first] = this.fleet.devices;
    if (first !== undefined) this.placement.requireAlike(first, device);
    this.#joining.push(device);
  }

  /** Lets training go on after a loss or a gradient that was not finite, from the weights of before it. */
  recover(): Promise<void> {
    return this.#turns.take(() => this.#recover().catch((error: unknown) => this.#ended(error)));
  }

  /** One training step, to its end. It begins when those before it are judged, and recovers from a failure of theirs. */
  async step(batch: Batch | GivenBatch): Promise<StepOutcome> {
    const { outcome } = await this.#take(batch, () => this.#recover());
    return await outcome;
  }

  /**
   * Runs something else on the devices, with the parameters on all of them: after the steps enqueued so far, and before those
   * enqueued later, which wait for it. Rejects as `body` does, with AllDevicesLostError, or with StateError after `release`.
   */
  between<R>(body: (turn: Turn) => Promise<R>): Promise<R> {
    return this.#turns.take(async (turn) => {
      await this.#last;
      this.#requireOpen();
      if (this.#gone !== undefined) throw this.#gone;
      try {
        await this.fleet.prune(this.#steps + 1);
        await this.#ready();
        return await body(turn);
      } catch (error) {
        this.#ended(error);
      }
    });
  }

  /** The parameters and other tensors as they are now, for what is to see one version of them. */
  hold(tensors: readonly Tensor[]): Held {
    const held = new Held();
    for (const tensor of [this.replicas.flat, ...tensors]) held.take(tensor);
    return held;
  }

  /** Runs a part of what may have given its turn on: `release` waits for it. Throws StateError after that. */
  async beside<R>(body: () => Promise<R>): Promise<R> {
    this.#requireOpen();
    const running = body();
    this.#beside.add(running);
    try {
      return await running;
    } finally {
      this.#beside.delete(running);
    }
  }

  /** A checksum of the parameters and of the optimizer's state. */
  checksum(): Promise<string> {
    return this.between(async () => {
      for (;;) {
        const device = this.fleet.devices[0]!;
        let sums: string[] | undefined;
        await this.fleet.attempt(device, this.#steps + 1, "between steps", async () => {
          sums = await this.replicas.checksums(device);
        });
        if (sums !== undefined) return sums.join("");
      }
    });
  }

  /** The buffer that a device keeps of a captured tensor, if it is trained or a statistic. */
  own(tensor: Tensor, device: Device): DeviceBuffer | undefined {
    return this.replicas.own(tensor, device) ?? this.statistics.own(tensor, device);
  }

  /** Gives back all memory on the devices but that of the parameters themselves, after all that was enqueued. */
  release(): Promise<void> {
    return this.#turns.take(async () => {
      await this.#last;
      if (this.#released) return;
      this.#released = true;
      await Promise.allSettled(this.#beside);
      await this.#graphs.release();
      this.statistics.release();
      await this.replicas.release();
    });
  }

  async #take(batch: Batch | GivenBatch, first: () => Promise<void>): Promise<Begun> {
    const given = GivenBatch.of(op, batch);
    const enqueue = () => first().then(() => this.#enqueue(given)).catch((error: unknown) => this.#ended(error));
    return await this.#turns.take(enqueue, ({ next }) => next);
  }

  async #recover(): Promise<void> {
    await this.#last;
    if (!this.#judge.hasRefused) return;
    const step = this.#steps + 1;
    await this.fleet.prune(step);
    this.fleet.each(step, "between steps", (device) => this.replicas.heal(device));
    this.#judge.recovered();
  }

  #requireOpen(): void {
    if (!this.#released) return;
    throw new StateError(op, { got: "a trainer that was released", need: "a new one: the model keeps its weights" });
  }

  async #enqueue(given: GivenBatch): Promise<Begun> {
    const { learningRate, seed } = this.#options;
    this.#requireOpen();
    if (this.#gone !== undefined) throw this.#gone;
    this.#judge.requireNone();
    const number = this.#steps + 1;
    await this.fleet.prune(number);
    await this.#ready();
    if (this.#joining.length > 0) {
      await this.#last;
      for (const device of this.#joining.splice(0)) await this.#join(device, number);
      this.#judge.requireNone();
    }
    const { value: { layout, penalty, dependsOnTotal }, fields } = this.#layouts.of(given.fields);
    const step: Step = {
      layout,
      penalty,
      dependsOnTotal,
      number,
      seed,
      fields: await given.onHost(fields),
      learningRate: typeof learningRate === "number" ? learningRate : learningRate(this.#updates + 1),
    };
    const begun = fields.rows === 0
      ? this.#onNone(step)
      : this.fleet.devices.length > 1
      ? this.#throughHost(step)
      : await this.#onOne(step) ?? this.#throughHost(step);
    this.#steps++;
    const outcome = begun.outcome.catch((error: unknown) => this.#ended(error));
    this.#last = Promise.all([this.#last, outcome.catch(() => {})]).then(() => {});
    return { outcome, next: begun.next };
  }

  /** A device that fails at once does not join. */
  async #join(device: Device, step: number): Promise<void> {
    for (;;) {
      try {
        await this.replicas.add(device);
        return this.fleet.add(device, step);
      } catch (error) {
        this.replicas.remove(device);
        if (device.isLost) return;
        if (!this.fleet.devices[0]!.isLost) throw error;
        await this.fleet.prune(step);
      }
    }
  }

  /** Brings all replicas to the same parameters, which the host then knows too. */
  async #ready(): Promise<void> {
    const values = await this.replicas.ready((body) => this.fleet.each(this.#steps + 1, "upload", body));
    if (values === undefined) return;
    this.#snapshot.keep(values, this.#steps);
    this.replicas.keptOnHost(this.replicas.version, values);
  }

  /** Rethrows an error; when no device is left, after the model was given the last weights that the host knows. */
  #ended(error: unknown): never {
    const { devices } = this.fleet;
    const dead = devices.every((device) => device.isLost);
    if (!dead && !(error instanceof AllDevicesLostError)) throw error;
    if (this.#gone === undefined) {
      const { values, step, statistics } = this.#snapshot;
      if (values !== undefined) this.replicas.restore(values);
      this.statistics.restore(statistics);
      const why = error instanceof ShardwiseError ? error.got : String(error);
      this.#gone = new AllDevicesLostError(op, {
        step,
        got: `${why}; the model has the weights of step ${step}, the last that is on the host`,
        need: "a device to train on: save the model, open devices again, and make a new trainer",
        cause: error,
      });
    }
    throw this.#gone;
  }

  /** A batch without rows. */
  #onNone(step: Step): Begun {
    const scores = new Array<number>(scoreLength(step.layout)).fill(0);
    return {
      next: Promise.resolve(),
      outcome: this.#last.then(() => this.#outcome(step, this.#counted(step, this.#judge.judge(step, scores)))),
    };
  }

  /** One device, by itself; undefined where the host must have a part in the step. */
  async #onOne(step: Step): Promise<Begun | undefined> {
    const { replicas, statistics, placement } = this;
    const device = this.fleet.devices[0]!;
    const parts = { placement, graphs: this.#graphs, replicas, statistics, own: this.own.bind(this) };
    const prepared = placement.inOnePiece
      ? await wholeStep(step, device, parts)
      : placement.together
      ? await foldedStep(step, device, parts)
      : undefined;
    if (prepared === undefined) return undefined;
    const state = await this.#claim();
    const copy = this.#memoryForCopy(step);
    return this.#enqueuedOnOne(step, device, copy, prepared.enqueue(state, copy));
  }

  /** What a step that one device has written its state in comes to, once that is read. */
  #enqueuedOnOne(
    step: Step,
    device: Device,
    copy: Float32Array | undefined,
    { scores, faults, statistics, start, enqueued }: StepReads,
  ): Begun {
    const { replicas, fleet } = this;
    const { version } = replicas;
    const done = fleet.timed(device, scores);
    done.catch(() => {}); // It is waited for when the step before it is done.
    const outcome = this.#last.then(async () => {
      await done;
      if (copy !== undefined) {
        // Of a step that is refused they are a version too, of the bits of before it.
        replicas.keptOnHost(version, copy);
        this.statistics.arrived(statistics);
      }
      const judged = this.#counted(step, this.#judge.judge(step, await scores, faults));
      if (copy !== undefined) this.#snapshot.keep(copy, step.number, statistics);
      const phases = { ...noPhases, scatter: enqueued - start, wait: performance.now() - enqueued };
      return this.#outcome(step, judged, new Map([[device, step.fields.rows]]), phases);
    });
    return { outcome, next: this.#nextAfter(outcome) };
  }

  /** The first device's state, to be updated in place before anything else happens. */
  async #claim(): Promise<State<DeviceBuffer>> {
    for (;;) {
      const state = this.replicas.claim();
      if (state !== undefined) return state;
      await this.#ready();
      await this.replicas.makeWritable();
    }
  }

  /** Where the parameters after a step on one device are copied to, if they are. */
  #memoryForCopy(step: Step): Float32Array | undefined {
    const { length } = this.replicas.layout;
    return this.#copies(step, 4 * length > largeBytes ? 10 : 1) ? this.#snapshot.memory(length) : undefined;
  }

  /** The next step can follow at once, unless its learning rate depends on whether this one counted anything. */
  #nextAfter(outcome: Promise<StepOutcome>): Promise<unknown> {
    return typeof this.#options.learningRate === "function" ? outcome : Promise.resolve();
  }

  /** Sums of gradients of each shard, added on the host, and the same update on all devices. */
  #throughHost(step: Step): Begun {
    const enqueued = this.#sharded.run(step, this.#copies(step, 1)).then(async (result) => {
      this.#counted(step, result.judged);
      const { checkEvery } = this.#options;
      if (checkEvery > 0 && step.number % checkEvery === 0) await this.#compareReplicas(step.number);
      return result;
    });
    const outcome = enqueued.then(async ({ judged, rows, phases, copied }) => {
      if (copied !== undefined) await this.#copied(copied);
      return this.#outcome(step, judged, rows, phases);
    });
    return { outcome, next: enqueued };
  }

  /** Throws ReplicaMismatchError unless all replicas hold the same bits. */
  async #compareReplicas(step: number): Promise<void> {
    const sums = new Map<Device, string[]>();
    await this.fleet.eachAsync(step, "update", async (device) => {
      sums.set(device, await this.replicas.checksums(device));
    });
    this.replicas.compare(step, new Map(this.fleet.devices.map((device) => [device, sums.get(device)!])));
  }

  /** Waits for the host's copy of the parameters; where its device was lost meanwhile, another one gives it. */
  async #copied(copied: Promise<void>): Promise<void> {
    try {
      return await copied;
    } catch (error) {
      for (;;) {
        await this.fleet.prune(this.#steps + 1);
        const [device] = this.fleet.devices;
        if (device === undefined) throw error;
        const step = this.#steps;
        const { version } = this.replicas;
        const values = await this.replicas.flat.data().catch(() => undefined) as Float32Array | undefined;
        if (values !== undefined) {
          this.#snapshot.keep(values, step);
          return this.replicas.keptOnHost(version, values);
        }
        if (!device.isLost) throw error;
      }
    }
  }

  #copies(step: Step, byDefault: number): boolean {
    const { snapshotEvery = byDefault } = this.#options;
    return snapshotEvery > 0 && step.number % snapshotEvery === 0;
  }

  /** Takes account of a step that is not refused. */
  #counted(step: Step, judged: Judged): Judged {
    if (judged.updated) this.#updates++;
    else this.#sayNothingCounted(step);
    return judged;
  }

  #outcome(
    step: Step,
    { scores, updated }: Judged,
    rows: ReadonlyMap<Device, number> = new Map(this.fleet.devices.map((device) => [device, 0])),
    phases: Phases = noPhases,
  ): StepOutcome {
    const record: StepRecord = {
      step: step.number,
      loss: lossOf(scores),
      metrics: meansOf(scores),
      rows: step.fields.rows,
      devices: [...rows.keys()].map((device) => device.name),
      sizes: [...rows.values()],
      learningRate: step.learningRate,
      updated,
      phases,
    };
    return { record, scores };
  }

  #sayNothingCounted(step: Step): void {
    if (this.#saidNothingCounted) return;
    this.#saidNothingCounted = true;
    stderrLine(
      `shardwise: the ${step.fields.rows} rows of step ${step.number} count nothing, so nothing is updated (said once)`,
    );
  }
}

function requireWhole(name: string, value: number): void {
  if (Number.isSafeInteger(value) && value >= 0) return;
  throw new ArgumentError(op, { got: `${name} ${value}`, need: "an integer of at least 0" });
}

/** Trains, evaluates and runs a model on one device or many, which makes no difference to the result. */
import { defaultDevice } from "../../devices/default.ts";
import type { Device } from "../../devices/device/device.ts";
import { ArgumentError, DecompositionError, StateError } from "../../errors.ts";
import type { Program } from "../../parallel/decompose/program.ts";
import type { Ratio } from "../../parallel/decompose/ratio.ts";
import { lossOf, meansOf, ScoreTotals } from "../../parallel/decompose/scores.ts";
import { Evaluation } from "../../parallel/predict/evaluation.ts";
import { Inference, requireRowsAtOnce } from "../../parallel/predict/inference.ts";
import type { Merged } from "../../parallel/predict/replicate.ts";
import { errorOf, Listeners } from "../../parallel/run/callbacks.ts";
import { requireDistinct } from "../../parallel/run/fleet.ts";
import { GivenBatch } from "../../parallel/run/uploads.ts";
import { type Batch, type HostTensor, isHostTensor } from "../../parallel/split/host-batch.ts";
import { Executor } from "../../parallel/train/executor.ts";
import { show } from "../../signature/show.ts";
import { tensor } from "../../tensor/create.ts";
import { currentSeed } from "../../tensor/random.ts";
import { isTensor, type Tensor } from "../../tensor/tensor.ts";
import { refusePromise } from "../../tensor/transform/trace.ts";
import type { Module } from "../layers/module.ts";
import { checkCounts, Loss, Metric } from "../losses/loss.ts";
import { learningRateAt } from "../optim/rule.ts";
import type { Batched, DefaultBatch, Fits, InputOf, TensorFields, TensorRecord } from "./batch-types.ts";
import { batchesOf, describeEpoch, type FitOptions, refuseEmpty, trainEpoch } from "./fit.ts";
import type {
  DeviceEvent,
  DeviceJoined,
  DeviceLost,
  EpochRecord,
  Evaluation as EvaluationRecord,
  History,
  StepRecord,
} from "./history.ts";
import { foreignParameters, refuseForeignModules, refusePlainFields, refuseUntrained } from "./own-parts.ts";
import { progress } from "./progress.ts";
import { isSource, requireBatches, type RowsOptions, signatures, type TrainerOptions } from "./trainer-options.ts";

export type { BatchOf } from "../../parallel/split/host-batch.ts";
export type { BatchSource, DefaultBatch, TensorFields, TensorRecord, TensorTree } from "./batch-types.ts";
export type { BatchEvent, FitOptions } from "./fit.ts";
export type { DeterministicOptions, RowsOptions, TrainerOptions } from "./trainer-options.ts";

/** What a device holds, in bytes. */
export interface DeviceMemory {
  /** The name of the device. */
  readonly device: string;
  /** Bytes of parameters. */
  readonly parameters: number;
  /** The optimizer's state. */
  readonly optimizer: number;
  /** All buffers in use, with those above and those of other work; and the most there ever were. */
  readonly live: number;
  /** The most bytes in use at one time. */
  readonly peak: number;
  /** Kept for reuse. */
  readonly pooled: number;
}

/** Listeners of a trainer, by event. */
export interface EventListeners {
  /** A device was left out. */
  readonly deviceLost: Set<(event: DeviceLost) => void>;
  /** A device was added. */
  readonly deviceJoined: Set<(event: DeviceJoined) => void>;
}

const defaultRowsAtOnce = 4096;

/** What runs a trainer's work once its devices are known. */
interface Engine {
  readonly executor: Executor;
  readonly evaluation: Evaluation;
  readonly inference: Inference;
}

/** Trains a model, and evaluates it, on one device or many: see `nn.trainer`. */
export class Trainer<M extends Module, B extends TensorFields<B>, O> {
  /** The model, whose tensors read as the weights after the last step. */
  readonly model: M;
  readonly #options: TrainerOptions<M, B, O>;
  readonly #forward: (batch: B) => O;
  readonly #history = {
    steps: [] as StepRecord[],
    epochs: [] as EpochRecord[],
    events: [] as DeviceEvent[],
  };
  readonly #listeners: EventListeners = { deviceLost: new Set(), deviceJoined: new Set() };
  /** What listeners threw. */
  readonly #heard = new Listeners("nn.trainer");
  #engine: Promise<Engine> | undefined;
  #fitting = false;
  #released = false;

  constructor(model: M, options: TrainerOptions<M, B, O>) {
    signatures["nn.trainer"].check(arguments);
    if (options.devices !== undefined) requireDistinct("nn.trainer", options.devices);
    if (options.forward === undefined && typeof (model as Partial<Module>).forward !== "function") {
      throw new ArgumentError("nn.trainer", {
        got: `${show(model)} without forward`,
        need: "a method forward(x) of the model, or the option forward",
      });
    }
    model.modules(); // Refuses parts of the model that have no name.
    this.model = model;
    this.#options = options;
    const { forward } = options;
    // A model's own forward is called with what the batch holds; its types are the caller's to match.
    const own = (batch: B) => (model.forward as (x: Tensor) => O).call(model, fieldX(batch as TensorRecord));
    const run = forward === undefined ? own : (batch: B) => forward(model, batch);
    this.#forward = (batch) => {
      const output = requireOutput(run(batch));
      refuseForeignModules();
      refusePlainFields(model);
      return output;
    };
  }

  /** All steps and epochs of `fit` so far, and all devices that were lost or have joined. */
  get history(): History {
    return this.#history;
  }

  /**
   * Calls `listener` for every device that is lost (its work is done by the others then), or that joins: once for each.
   * What it throws ends no step: the call during which it did rejects with it when it is done, as a CallbackError whose
   * `result` is what the call would have given; `fit` ends after the step. Returns a function that ends this.
   */
  on<K extends keyof EventListeners>(
    kind: K,
    listener: (event: Extract<DeviceEvent, { kind: K }>) => void,
  ): () => void {
    this.#check("on", arguments);
    const listeners = this.#listeners[kind] as Set<typeof listener>;
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  /** The devices in use: those that were given and added, without those that were lost. */
  async devices(): Promise<readonly Device[]> {
    this.#check("devices", arguments);
    return (await this.#start("devices")).executor.fleet.devices;
  }

  /**
   * Takes in a device at the next step, with a copy of the state. Rejects with DeviceError for one that is in use, or,
   * in deterministic mode, of another model; with DeviceLostError for one that is lost.
   */
  async addDevice(device: Device): Promise<void> {
    this.#check("addDevice", arguments);
    (await this.#start("addDevice")).executor.addDevice(device);
  }

  /** What each device in use holds. */
  async memory(): Promise<DeviceMemory[]> {
    this.#check("memory", arguments);
    const { executor } = await this.#start("memory");
    return executor.fleet.devices.map((device) => {
      const { liveBytes, peakBytes, pooledBytes } = device.stats();
      return {
        device: device.name,
        ...executor.replicas.bytesOn(device),
        live: liveBytes,
        peak: peakBytes,
        pooled: pooledBytes,
      };
    });
  }

  /**
   * A checksum of the weights and of the optimizer's state, as hexadecimal digits: equal where all bits are, and
   * different whenever a single element differs. Of the version that `evaluate` would see.
   */
  async checksum(): Promise<string> {
    this.#check("checksum", arguments);
    const { executor } = await this.#start("checksum");
    return this.#told(await executor.checksum());
  }

  /**
   * One training step, in training mode whatever `train()` and `eval()` have set, of the batch as it is at the call (a host
   * tensor's `data` is not copied: it is not to be written to before the call is done), after all steps asked for before,
   * whatever became of them; afterwards the model's tensors read as the new weights. Rejects with
   * ShapeError for a batch whose fields differ in their rows, DecompositionError for a loss that is not a sum
   * over rows, ArgumentError for a function that fails for a field that is not in the batch and for parameters that the forward
   * pass uses and that are not found in the model, NonFiniteLossError for a loss that is NaN or infinite (with the label that makes it so, where one is
   * outside the classes) and NonFiniteGradientError for such a gradient (the
   * weights and the optimizer's state stay as they were before the step), ReplicaMismatchError
   * when devices disagree, AllDevicesLostError when no device is left (the model then has the last weights that the
   * host knows). This and all other calls reject with StateError after `release`.
   */
  async step(batch: InputOf<B>): Promise<StepRecord> {
    this.#check("step", arguments);
    const data: unknown = batch; // The type of a batch of any nesting is too deep to be narrowed.
    const given = new GivenBatch("train", data as Batch);
    const { executor } = await this.#start("step");
    const { record } = await executor.step(given);
    return this.#told(record);
  }

  /**
   * Trains for some epochs, and returns their record. Rejects as `step` does, also with what a `step` was refused with that
   * another call has put between its own, or with the reason of the signal; with a
   * CallbackError for what `onBatch`, `onEpoch`, a listener or a source of batches throws (an error of shardwise stays as it
   * is). Whatever ends it, the steps that are done are in `history`, those under way included. Rejects with StateError while
   * another `fit` of this trainer runs.
   */
  async fit<G, V = InputOf<B>>(
    source: Batched<G> & Fits<G, InputOf<B>>,
    options: FitOptions<B, InputOf<B> | (Batched<V> & Fits<V, InputOf<B>>)> = {},
  ): Promise<History> {
    this.#check("fit", arguments);
    const given: FitOptions<unknown, unknown> = options;
    const { epochs = 1, validation } = given;
    if (!Number.isSafeInteger(epochs) || epochs < 0) {
      throw new ArgumentError("fit", { got: `epochs ${epochs}`, need: "an integer of at least 0" });
    }
    if (validation !== undefined) requireBatches("fit", validation);
    if (this.#fitting) {
      throw new StateError("fit", {
        got: "a second fit of a trainer while one runs",
        need: "await the first, or another trainer",
      });
    }
    this.#fitting = true;
    try {
      return await this.#fit(source, epochs, given);
    } finally {
      this.#fitting = false;
    }
  }

  async #fit(source: Batched<unknown>, epochs: number, options: FitOptions<unknown, unknown>): Promise<History> {
    const { signal, onBatch, onEpoch, validation } = options;
    const { executor } = await this.#start("fit");
    const view = await progress(options.progress);
    const history = this.#history;
    const before = { steps: history.steps.length, epochs: history.epochs.length, events: history.events.length };
    const record = (step: StepRecord) => history.steps.push(step);
    const raise = () => this.#heard.raise();
    try {
      for (let epoch = 1; epoch <= epochs; epoch++) {
        await executor.recover();
        const trained = await trainEpoch({ executor, source, epoch, epochs, signal, onBatch, view, record, raise });
        let validated: EvaluationRecord | undefined;
        try {
          if (validation !== undefined) validated = await this.#evaluate("fit", validation);
        } finally {
          history.epochs.push({ ...trained, validation: validated });
        }
        const done = history.epochs.at(-1)!;
        view.end(describeEpoch(done, epochs));
        try {
          await onEpoch?.(done);
        } catch (error) {
          throw errorOf("fit", "onEpoch", error);
        }
        raise();
      }
    } finally {
      view.stop();
    }
    return {
      steps: history.steps.slice(before.steps),
      epochs: history.epochs.slice(before.epochs),
      events: history.events.slice(before.events),
    };
  }

  /**
   * Loss and metrics over batches or one batch of any number of rows, in evaluation mode whatever `train()` and `eval()` have
   * set, weighted by what counts in each. All of it sees one version of weights and buffers: that after the steps asked for
   * before the call, those that `fit` has enqueued included (in `onBatch`, the step after the one that is told of may be one
   * of them). Steps asked for later wait; where the source keeps them waiting, they go on, and the version stays on the host.
   * A loss that is NaN is given as it is, but for one that a label outside the classes makes so: then this rejects with
   * NonFiniteLossError.
   */
  async evaluate<G = InputOf<B>>(
    data: InputOf<B> | (Batched<G> & Fits<G, InputOf<B>>),
    options: RowsOptions = {},
  ): Promise<EvaluationRecord> {
    this.#check("evaluate", arguments);
    return this.#told(await this.#evaluate("evaluate", data, rowsAtOnceOf("evaluate", options)));
  }

  async #evaluate(op: string, data: unknown, rowsAtOnce = defaultRowsAtOnce): Promise<EvaluationRecord> {
    const source = isSource(data) ? data : [new GivenBatch(op, data as Batch)];
    const { executor, evaluation } = await this.#start(op);
    return await executor.between(async (turn) => {
      const held = executor.hold([...this.model.parameters(), ...this.model.buffers()]);
      try {
        const totals = new ScoreTotals();
        let batches = 0;
        for await (const batch of batchesOf(op, source, (coming) => turn.wait(coming, () => held.toHost()))) {
          const { scores, rows } = await executor.beside(() =>
            evaluation.run(batch as Batch | GivenBatch, { rowsAtOnce, held })
          );
          totals.add(scores, rows);
          batches++;
        }
        if (batches === 0) refuseEmpty(op);
        return { loss: lossOf(totals.scores), metrics: meansOf(totals.scores), rows: totals.rows };
      } finally {
        held.release();
      }
    });
  }

  /**
   * The model's outputs for any number of rows, in order, in evaluation mode and of one version of the weights, as in
   * `evaluate`. `data` is a batch, or its field `x` alone; only the fields that `forward` uses are needed.
   */
  async predict(
    data: Tensor | HostTensor | Partial<InputOf<B>>,
    options: RowsOptions = {},
  ): Promise<Merged<O>> {
    this.#check("predict", arguments);
    const rowsAtOnce = rowsAtOnceOf("predict", options);
    const given: unknown = data;
    const batch = new GivenBatch("predict", (isTensor(given) || isHostTensor(given) ? { x: given } : given) as Batch);
    const { executor, inference } = await this.#start("predict");
    return this.#told(
      await executor.between(async () => {
        return await inference.run(batch, ({ values, shape, dtype }) => tensor(values, { shape, dtype }), {
          rowsAtOnce,
        }) as Merged<O>;
      }),
    );
  }

  /**
   * Gives back the memory on the devices, after the steps asked for before; the model keeps its weights. The trainer cannot be
   * used any more: all calls reject with StateError, and a `fit` that runs ends with one at its next batch. Idempotent.
   */
  async release(): Promise<void> {
    signatures.release.check(arguments);
    this.#released = true;
    const engine = await this.#engine?.catch(() => undefined);
    if (engine === undefined) return;
    await engine.executor.release();
    await Promise.all([engine.evaluation.release(), engine.inference.release()]);
  }

  /** What a call gives, or what a listener threw meanwhile. */
  #told<R>(result: R): R {
    this.#heard.raise(result);
    return result;
  }

  /** Throws StateError after `release`, whatever else there is to be said of a call. */
  #requireOpen(op: string): void {
    if (!this.#released) return;
    throw new StateError(op, { got: "a trainer that was released", need: "a new one: the model keeps its weights" });
  }

  #check(op: Exclude<keyof typeof signatures, "nn.trainer">, args: ArrayLike<unknown>): void {
    this.#requireOpen(op);
    signatures[op].check(args);
  }

  async #start(op: string): Promise<Engine> {
    this.#requireOpen(op);
    if (this.#engine === undefined) {
      this.#engine = this.#open();
      // A failure is reported to this caller; the next one tries again.
      this.#engine.catch(() => this.#engine = undefined);
    }
    return await this.#engine;
  }

  async #open(): Promise<Engine> {
    const { optimizer, seed = currentSeed() } = this.#options;
    const named = this.model.namedParameters();
    const parameters = Object.values(named);
    const program: Program = (batch) => this.#score(batch as B, parameters);
    const { devices = [await defaultDevice()], checkEvery = 100, ...options } = this.#options;
    const executor = new Executor({
      ...options,
      devices,
      parameters,
      names: Object.keys(named),
      rule: optimizer,
      learningRate: typeof optimizer.learningRate === "function"
        ? (step) => learningRateAt(optimizer, step)
        : learningRateAt(optimizer, 1),
      program,
      modes: () => this.model.modes(true),
      seed,
      checkEvery,
      onEvent: (event) => this.#tell(event),
    });
    const { fleet, placement } = executor;
    const modes = () => this.model.modes(false);
    const shared = { fleet, placement, own: executor.own.bind(executor), seed, modes };
    return {
      executor,
      evaluation: new Evaluation("evaluate", program, shared),
      inference: new Inference("predict", (batch) => this.#forward(batch as B), shared),
    };
  }

  #score(batch: B, parameters: readonly Tensor[]) {
    const { loss, metrics = {} } = this.#options;
    const output = this.#forward(batch);
    const foreign = foreignParameters(parameters);
    const value: unknown = loss(output, batch);
    refusePromise("nn.trainer", value);
    if (!(value instanceof Loss)) {
      throw notDecomposable("a loss", value, "nn.crossEntropy, nn.mse or nn.loss({ sum, count })");
    }
    checkCounts(value, parameters);
    const scored = Object.entries(metrics).map(([name, metric]) => {
      const ratio: unknown = metric(output, batch);
      refusePromise("nn.trainer", ratio);
      if (ratio instanceof Metric) return [name, ratio] as const;
      if (isRatio(ratio)) return [name, new Metric({ sum: ratio.sum, count: ratio.count })] as const;
      throw notDecomposable(`a metric ${name}`, ratio, "nn.accuracy or nn.metric({ sum, count })");
    });
    refuseUntrained(value, foreign);
    return { loss: value, metrics: Object.fromEntries(scored) };
  }

  #tell(event: DeviceEvent): void {
    this.#history.events.push(event);
    const { deviceLost, deviceJoined } = this.#listeners;
    if (event.kind === "deviceLost") this.#heard.tell("a listener of deviceLost", deviceLost, event);
    else this.#heard.tell("a listener of deviceJoined", deviceJoined, event);
  }
}

/**
 * Something that trains `model`: in each step the batch is cut into a shard for each device, and the weights
 * become what they would be on one device. `loss` gives a sum and a count, as all losses of nn do, so that
 * this is exact for masks, weights and any number of rows.
 *
 * Throws DeviceError for a device listed twice, ArgumentError for an empty list of devices and for a model with parts in a Map,
 * a Set or an object of another class.
 */
export function trainer<
  M extends Module,
  B extends TensorFields<B> = DefaultBatch,
  O = ReturnType<M["forward"]>,
>(
  model: M,
  options: TrainerOptions<M, B, O>,
): Trainer<M, B, O> {
  signatures["nn.trainer"].check(arguments);
  return new Trainer(model, options);
}

function fieldX(batch: TensorRecord): Tensor {
  const { x } = batch;
  if (isTensor(x)) return x;
  throw new ArgumentError("nn.trainer", {
    got: isTensor(batch) ? "a Tensor as the batch" : `a batch with the fields ${Object.keys(batch).join(", ")}`,
    need:
      "a field x, or a forward that says what the model takes: forward: (model, batch) => model.forward(batch.name)",
  });
}

/** A loss of one term too; one of several says so itself. */
function isRatio(value: unknown): value is Ratio {
  if (value instanceof Loss) return true;
  if (typeof value !== "object" || value === null) return false;
  const { sum, count } = value as Partial<Ratio>;
  return isTensor(sum) && isTensor(count);
}

/** Throws for what cannot be the output of a model: nothing, say, as of a forward without a return. */
function requireOutput<O>(output: O): O {
  refusePromise("nn.trainer", output);
  if (typeof output === "object" && output !== null) return output;
  throw new ArgumentError("nn.trainer", {
    got: `a forward that returns ${show(output)}`,
    need: "a Tensor, or Tensors in records and lists",
  });
}

function notDecomposable(what: string, value: unknown, example: string): DecompositionError {
  return new DecompositionError("nn.trainer", {
    got: `${what} that is ${isTensor(value) ? `a tensor ${value.dtype}[${value.shape.join(", ")}]` : show(value)}`,
    need: `the sum over rows and the count it is divided by, so that shards add up: ${example}${
      isTensor(value) ? " itself, without .mean" : ""
    }`,
  });
}

function rowsAtOnceOf(op: string, { rowsAtOnce = defaultRowsAtOnce }: RowsOptions): number {
  requireRowsAtOnce(op, rowsAtOnce);
  return rowsAtOnce;
}

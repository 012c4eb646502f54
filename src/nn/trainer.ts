/** Trains, evaluates and runs a model on one device or many, which makes no difference to the result. */
import { ArgumentError, DecompositionError, StateError } from "../errors.ts";
import type { Device } from "../devices/device.ts";
import { defaultDevice } from "../devices/default.ts";
import { errorOf, Listeners } from "../parallel/callbacks.ts";
import { Evaluation } from "../parallel/evaluation.ts";
import { Executor } from "../parallel/executor.ts";
import { type Batch, type BatchOf, type HostTensor, isHostTensor } from "../parallel/host-batch.ts";
import { Inference, requireRowsAtOnce } from "../parallel/inference.ts";
import type { Program } from "../parallel/program.ts";
import { requireDistinct } from "../parallel/distinct.ts";
import type { Merged } from "../parallel/replicate.ts";
import { lossOf, meansOf, ScoreTotals } from "../parallel/scores.ts";
import { GivenBatch } from "../parallel/uploads.ts";
import { tensor } from "../tensor/create.ts";
import { currentSeed } from "../tensor/random.ts";
import { isTensor, type Tensor } from "../tensor/tensor.ts";
import { type BatchSource, batchesOf, describeEpoch, type FitOptions, recordOf, trainEpoch } from "./fit.ts";
import type {
  DeviceEvent,
  DeviceJoined,
  DeviceLost,
  EpochRecord,
  Evaluation as EvaluationRecord,
  History,
  StepRecord,
} from "./history.ts";
import { checkCounts, Loss, Metric, type Ratio } from "./loss.ts";
import type { Module } from "./module.ts";
import type { Optimizer } from "./optim/optimizer.ts";
import { learningRateAt } from "./optim/rule.ts";
import { progress } from "./progress.ts";

export type { BatchOf } from "../parallel/host-batch.ts";
export type { BatchEvent, BatchSource, FitOptions } from "./fit.ts";

/** Tensors in records and lists, nested in any way. */
export type TensorTree = Tensor | readonly TensorTree[] | { readonly [name: string]: TensorTree };

/** A batch as the functions of a trainer see it. */
export type TensorRecord = { readonly [name: string]: TensorTree };

/** The fields that a trainer's functions find in a batch unless they say otherwise. */
export type DefaultBatch = { readonly x: Tensor; readonly y: Tensor } & Readonly<Record<string, Tensor>>;

export interface TrainerOptions<M extends Module, B extends TensorRecord, O> {
  /** Default: `model.forward(batch.x)`. */
  readonly forward?: (model: M, batch: B) => O;
  readonly loss: (output: NoInfer<O>, batch: B) => Loss;
  /** Reported beside the loss, by name. */
  readonly metrics?: Readonly<Record<string, (output: NoInfer<O>, batch: B) => Ratio>>;
  readonly optimizer: Optimizer;
  /** Distinct devices; a batch is cut into a shard for each. Default: the default device. */
  readonly devices?: readonly Device[];
  /**
   * Seed of everything random in the model, such as dropout, from 0 to 2^32 - 1. Default: that of
   * `random.seed`.
   */
  readonly seed?: number;
  /** Steps between checks that all devices hold the same bits; 0 for never. Default 100. */
  readonly checkEvery?: number;
  /**
   * Cuts every batch into so many logical shards, whatever the devices, so that the weights have the same bits after
   * training on any number of devices of one model and driver.
   */
  readonly deterministic?: { readonly shards: number };
  /**
   * How much of a batch each device gets: equal shares by default, in proportion to numbers above 0, or as measured.
   * In deterministic mode whole logical shards are moved.
   */
  readonly capacities?: "auto" | readonly number[];
  /** Parts that each device's rows are computed in, one after another, to save memory. Default 1. */
  readonly microBatches?: number;
  /** The gradient is scaled down to this global norm where it is longer. Default: no limit. */
  readonly clipNorm?: number;
  /** Milliseconds that a device may take to deliver a shard; then it counts as lost. Default: no limit. */
  readonly stepTimeout?: number;
  /**
   * Steps between copies of the weights to the host, which remain when every device is lost; 0 for never. Default 1,
   * and 10 for more than 16 MiB of weights on one device.
   */
  readonly snapshotEvery?: number;
}

/** What a device holds, in bytes. */
export interface DeviceMemory {
  readonly device: string;
  readonly parameters: number;
  /** The optimizer's state. */
  readonly optimizer: number;
  /** All buffers in use, with those above and those of other work; and the most there ever were. */
  readonly live: number;
  readonly peak: number;
  /** Kept for reuse. */
  readonly pooled: number;
}

export interface EventListeners {
  readonly deviceLost: Set<(event: DeviceLost) => void>;
  readonly deviceJoined: Set<(event: DeviceJoined) => void>;
}

export interface RowsOptions {
  /** At most so many rows are on the devices at one time. Default 4096. */
  readonly rowsAtOnce?: number;
}

const defaultRowsAtOnce = 4096;

/** What runs a trainer's work once its devices are known. */
interface Engine {
  readonly executor: Executor;
  readonly evaluation: Evaluation;
  readonly inference: Inference;
}

export class Trainer<M extends Module, B extends TensorRecord, O> {
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
    if (options.devices !== undefined) requireDistinct("nn.trainer", options.devices);
    if (typeof options.loss !== "function") {
      throw new ArgumentError("nn.trainer", {
        got: `loss ${String(options.loss)}`,
        need: "a function of output and batch",
      });
    }
    this.model = model;
    this.#options = options;
    const { forward } = options;
    // A model's own forward is called with what the batch holds; its types are the caller's to match.
    const own = (batch: B) => (model.forward as (x: Tensor) => O).call(model, fieldX(batch));
    this.#forward = forward === undefined ? own : (batch) => forward(model, batch);
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
    const listeners = this.#listeners[kind] as Set<typeof listener>;
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  /** The devices in use: those that were given and added, without those that were lost. */
  async devices(): Promise<readonly Device[]> {
    return (await this.#start("devices")).executor.fleet.devices;
  }

  /**
   * Takes in a device at the next step, with a copy of the state. Rejects with DeviceError for one that is in use, or,
   * in deterministic mode, of another model; with DeviceLostError for one that is lost.
   */
  async addDevice(device: Device): Promise<void> {
    (await this.#start("addDevice")).executor.addDevice(device);
  }

  /** What each device in use holds. */
  async memory(): Promise<DeviceMemory[]> {
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
    const { executor } = await this.#start("checksum");
    return this.#told(await executor.checksum());
  }

  /**
   * One training step, in training mode whatever `train()` and `eval()` have set, of the batch as it is at the call (a host
   * tensor's `data` is not copied: it is not to be written to before the call is done), after all steps asked for before,
   * whatever became of them; afterwards the model's tensors read as the new weights. Rejects with
   * ShapeError for a batch whose fields differ in their rows, DecompositionError for a loss that is not a sum
   * over rows, NonFiniteLossError for a loss that is NaN or infinite and NonFiniteGradientError for such a gradient (the
   * weights and the optimizer's state stay as they were before the step), ReplicaMismatchError
   * when devices disagree, AllDevicesLostError when no device is left (the model then has the last weights that the
   * host knows). This and all other calls reject with StateError after `release`.
   */
  async step(batch: BatchOf<B>): Promise<StepRecord> {
    const given = new GivenBatch("train", batch as Batch);
    const { executor } = await this.#start("step");
    return this.#told(recordOf(await executor.step(given)));
  }

  /**
   * Trains for some epochs, and returns their record. Rejects as `step` does, also with what a `step` was refused with that
   * another call has put between its own, or with the reason of the signal; with a
   * CallbackError for what `onBatch`, `onEpoch`, a listener or a source of batches throws (an error of shardwise stays as it
   * is). Whatever ends it, the steps that are done are in `history`, those under way included. Rejects with StateError while
   * another `fit` of this trainer runs.
   */
  async fit(source: BatchSource<B>, options: FitOptions<B> = {}): Promise<History> {
    const { epochs = 1 } = options;
    if (!Number.isSafeInteger(epochs) || epochs < 0) {
      throw new ArgumentError("fit", { got: `epochs ${epochs}`, need: "an integer of at least 0" });
    }
    if (!isSource(source)) {
      throw new ArgumentError("fit", {
        got: String(source),
        need: "batches to iterate over, as of data.batches",
      });
    }
    if (this.#fitting) {
      throw new StateError("fit", { got: "a second fit of a trainer while one runs", need: "await the first, or another trainer" });
    }
    this.#fitting = true;
    try {
      return await this.#fit(source, epochs, options);
    } finally {
      this.#fitting = false;
    }
  }

  async #fit(source: BatchSource<B>, epochs: number, options: FitOptions<B>): Promise<History> {
    const { signal, onBatch, onEpoch } = options;
    const validation: unknown = options.validation;
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
   */
  async evaluate(data: BatchSource<B> | BatchOf<B>, options: RowsOptions = {}): Promise<EvaluationRecord> {
    return this.#told(await this.#evaluate("evaluate", data, readRowsAtOnce("evaluate", options)));
  }

  async #evaluate(op: string, data: unknown, rowsAtOnce = defaultRowsAtOnce): Promise<EvaluationRecord> {
    const source = isSource(data) ? data : [new GivenBatch(op, data as Batch)];
    const { executor, evaluation } = await this.#start(op);
    return await executor.between(async (turn) => {
      const held = executor.hold([...this.model.parameters(), ...this.model.buffers()]);
      try {
        const totals = new ScoreTotals();
        for await (const batch of batchesOf(op, source, (coming) => turn.wait(coming, () => held.toHost()))) {
          const { scores, rows } = await executor.beside(() => evaluation.run(batch as Batch | GivenBatch, { rowsAtOnce, held }));
          totals.add(scores, rows);
        }
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
    data: Tensor | HostTensor | Partial<BatchOf<B>>,
    options: RowsOptions = {},
  ): Promise<Merged<O>> {
    const rowsAtOnce = readRowsAtOnce("predict", options);
    const given: unknown = data; // The type of a batch of any nesting is too deep to be narrowed.
    const batch = new GivenBatch("predict", (isTensor(given) || isHostTensor(given) ? { x: given } : given) as Batch);
    const { executor, inference } = await this.#start("predict");
    return this.#told(await executor.between(async () => {
      return await inference.run(batch, ({ values, shape, dtype }) => tensor(values, { shape, dtype }), { rowsAtOnce }) as Merged<O>;
    }));
  }

  /**
   * Gives back the memory on the devices, after the steps asked for before; the model keeps its weights. The trainer cannot be
   * used any more: all calls reject with StateError, and a `fit` that runs ends with one at its next batch. Idempotent.
   */
  async release(): Promise<void> {
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

  async #start(op: string): Promise<Engine> {
    if (this.#released) {
      throw new StateError(op, { got: "a trainer that was released", need: "a new one: the model keeps its weights" });
    }
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
    const value: unknown = loss(output, batch);
    if (!(value instanceof Loss)) {
      throw notDecomposable("a loss", value, "nn.crossEntropy, nn.mse or nn.loss({ sum, count })");
    }
    checkCounts(value, parameters);
    const scored = Object.entries(metrics).map(([name, metric]) => {
      const ratio: unknown = metric(output, batch);
      if (ratio instanceof Metric) return [name, ratio] as const;
      if (ratio instanceof Loss) return [name, new Metric(ratio)] as const;
      throw notDecomposable(`a metric ${name}`, ratio, "nn.accuracy or nn.metric({ sum, count })");
    });
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
 * Throws DeviceError for a device listed twice, ArgumentError for an empty list of devices.
 */
export function trainer<
  M extends Module,
  B extends TensorRecord = DefaultBatch,
  O = ReturnType<M["forward"]>,
>(
  model: M,
  options: TrainerOptions<M, B, O>,
): Trainer<M, B, O> {
  return new Trainer(model, options);
}

function fieldX(batch: TensorRecord): Tensor {
  const { x } = batch;
  if (isTensor(x)) return x;
  throw new ArgumentError("nn.trainer", {
    got: `a batch with the fields ${Object.keys(batch).join(", ")}`,
    need:
      "a field x, or a forward that says what the model takes: forward: (model, batch) => model.forward(batch.name)",
  });
}

function notDecomposable(what: string, value: unknown, example: string): DecompositionError {
  return new DecompositionError("nn.trainer", {
    got: `${what} that is ${
      isTensor(value) ? `a tensor ${value.dtype}[${value.shape.join(", ")}]` : String(value)
    }`,
    need: `the sum over rows and the count it is divided by, so that shards add up: ${example}`,
  });
}

function isSource(data: unknown): data is Iterable<unknown> | AsyncIterable<unknown> {
  if (typeof data !== "object" || data === null) return false;
  return Symbol.iterator in data || Symbol.asyncIterator in data;
}

function readRowsAtOnce(op: string, { rowsAtOnce = defaultRowsAtOnce }: RowsOptions): number {
  requireRowsAtOnce(op, rowsAtOnce);
  return rowsAtOnce;
}


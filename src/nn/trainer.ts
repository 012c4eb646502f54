/** Trains, evaluates and runs a model on one device or many, which makes no difference to the result. */
import { ArgumentError, DecompositionError } from "../errors.ts";
import type { Device } from "../devices/device.ts";
import { defaultDevice } from "../devices/default.ts";
import { Evaluation } from "../parallel/evaluation.ts";
import { type EnqueuedStep, Executor, type StepOutcome } from "../parallel/executor.ts";
import { type Batch, type BatchOf, type HostTensor, isHostTensor } from "../parallel/host-batch.ts";
import { Inference, requireRowsAtOnce } from "../parallel/inference.ts";
import type { Program } from "../parallel/program.ts";
import { requireDistinct } from "../parallel/distinct.ts";
import type { Merged } from "../parallel/replicate.ts";
import { lossOf, meansOf, ScoreTotals } from "../parallel/scores.ts";
import { tensor } from "../tensor/create.ts";
import { currentSeed } from "../tensor/random.ts";
import { isTensor, type Tensor } from "../tensor/tensor.ts";
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
import { prefetched } from "./prefetch.ts";
import { formatMeans, formatSeconds, progress, type ProgressStyle } from "./progress.ts";

export type { BatchOf } from "../parallel/host-batch.ts";

/** Tensors in records and lists, nested in any way. */
export type TensorTree = Tensor | readonly TensorTree[] | { readonly [name: string]: TensorTree };

/** A batch as the functions of a trainer see it. */
export type TensorRecord = { readonly [name: string]: TensorTree };

/** The fields that a trainer's functions find in a batch unless they say otherwise. */
export type DefaultBatch = { readonly x: Tensor; readonly y: Tensor } & Readonly<Record<string, Tensor>>;

/** Batches of an epoch, such as `data.batches`: iterated once for each epoch. */
export type BatchSource<B> = (Iterable<BatchOf<B>> | AsyncIterable<BatchOf<B>>) & {
  /** Batches in an epoch, for the progress shown. */
  readonly length?: number;
  /** Rows in an epoch, for the time left. */
  readonly rows?: number;
};

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

interface Listeners {
  readonly deviceLost: Set<(event: DeviceLost) => void>;
  readonly deviceJoined: Set<(event: DeviceJoined) => void>;
}

/** A step as `onBatch` is told of it. */
export interface BatchEvent extends StepRecord {
  readonly epoch: number;
  readonly epochs: number;
  /** 1 for the first batch of the epoch. */
  readonly batch: number;
  /** Batches of the epoch; undefined where the source does not tell. */
  readonly batches: number | undefined;
  readonly rowsPerSecond: number;
  /** Of the epoch, at this speed; undefined where the source does not tell how long it is. */
  readonly secondsLeft: number | undefined;
}

export interface FitOptions<B> {
  /** An integer of at least 0. Default 1. */
  readonly epochs?: number;
  /** Evaluated after each epoch. */
  readonly validation?: BatchSource<B> | BatchOf<B>;
  /** Ends the run after the step in progress; `fit` then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Default `auto`: a bar where standard error is a terminal, else lines on it. */
  readonly progress?: ProgressStyle;
  readonly onBatch?: (event: BatchEvent) => void | Promise<void>;
  readonly onEpoch?: (record: EpochRecord) => void | Promise<void>;
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
  readonly #listeners: Listeners = { deviceLost: new Set(), deviceJoined: new Set() };
  #engine: Promise<Engine> | undefined;

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
   * Calls `listener` for every device that is lost (its work is done by the others then), or that joins. Returns a
   * function that ends this.
   */
  on<K extends keyof Listeners>(
    kind: K,
    listener: (event: Extract<DeviceEvent, { kind: K }>) => void,
  ): () => void {
    const listeners = this.#listeners[kind] as Set<typeof listener>;
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  /** The devices in use: those that were given and added, without those that were lost. */
  async devices(): Promise<readonly Device[]> {
    return (await this.#start()).executor.fleet.devices;
  }

  /**
   * Takes in a device at the next step, with a copy of the state. Rejects with DeviceError for one that is in use, or,
   * in deterministic mode, of another model; with DeviceLostError for one that is lost.
   */
  async addDevice(device: Device): Promise<void> {
    (await this.#start()).executor.addDevice(device);
  }

  /** What each device in use holds. */
  async memory(): Promise<DeviceMemory[]> {
    const { executor } = await this.#start();
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
   * different whenever a single element differs.
   */
  async checksum(): Promise<string> {
    const { executor } = await this.#start();
    return await executor.checksum();
  }

  /**
   * One training step, in training mode; afterwards the model's tensors read as the new weights. Rejects with
   * ShapeError for a batch whose fields differ in their rows, DecompositionError for a loss that is not a sum
   * over rows, NonFiniteLossError for a loss that is NaN or infinite and NonFiniteGradientError for such a gradient (the
   * weights and the optimizer's state stay as they were before the step), ReplicaMismatchError
   * when devices disagree, AllDevicesLostError when no device is left (the model then has the last weights that the
   * host knows).
   */
  async step(batch: BatchOf<B>): Promise<StepRecord> {
    const { executor } = await this.#start();
    this.model.train();
    return recordOf(await executor.step(batch as Batch));
  }

  /**
   * Trains for some epochs, and returns their record. Rejects as `step` does, or with the reason of the
   * signal.
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
    const view = await progress(options.progress);
    const { length: stepsBefore } = this.#history.steps;
    const { length: epochsBefore } = this.#history.epochs;
    const { length: eventsBefore } = this.#history.events;
    try {
      for (let epoch = 1; epoch <= epochs; epoch++) {
        const record = await this.#epoch(source, epoch, epochs, options, view);
        this.#history.epochs.push(record);
        view.end(describeEpoch(record, epochs));
        await options.onEpoch?.(record);
      }
    } finally {
      view.stop();
    }
    return {
      steps: this.#history.steps.slice(stepsBefore),
      epochs: this.#history.epochs.slice(epochsBefore),
      events: this.#history.events.slice(eventsBefore),
    };
  }

  /**
   * Loss and metrics over batches or one batch of any number of rows, in evaluation mode, weighted by what
   * counts in each.
   */
  async evaluate(data: BatchSource<B> | BatchOf<B>, options: RowsOptions = {}): Promise<EvaluationRecord> {
    return await this.#evaluate(data, readRowsAtOnce("evaluate", options));
  }

  async #evaluate(data: unknown, rowsAtOnce = defaultRowsAtOnce): Promise<EvaluationRecord> {
    const { executor, evaluation } = await this.#start();
    return await this.#inEvaluation(executor, async () => {
      const totals = new ScoreTotals();
      for await (const batch of prefetched(isSource(data) ? data : [data])) {
        const { scores, rows } = await evaluation.run(batch as Batch, rowsAtOnce);
        totals.add(scores, rows);
      }
      return { loss: lossOf(totals.scores), metrics: meansOf(totals.scores), rows: totals.rows };
    });
  }

  /**
   * The model's outputs for any number of rows, in order, in evaluation mode. `data` is a batch, or its field
   * `x` alone; only the fields that `forward` uses are needed.
   */
  async predict(
    data: Tensor | HostTensor | Partial<BatchOf<B>>,
    options: RowsOptions = {},
  ): Promise<Merged<O>> {
    const rowsAtOnce = readRowsAtOnce("predict", options);
    const given: unknown = data; // The type of a batch of any nesting is too deep to be narrowed.
    const batch = isTensor(given) || isHostTensor(given) ? { x: given } : given;
    const { executor, inference } = await this.#start();
    return await this.#inEvaluation(executor, async () => {
      return await inference.run(
        batch as Batch,
        ({ values, shape, dtype }) => tensor(values, { shape, dtype }),
        rowsAtOnce,
      ) as Merged<O>;
    });
  }

  /**
   * Gives back the memory on the devices; the model keeps its weights. The trainer cannot be used any more.
   */
  async release(): Promise<void> {
    const engine = await this.#engine;
    await Promise.all([
      engine?.executor.release(),
      engine?.evaluation.release(),
      engine?.inference.release(),
    ]);
  }

  #start(): Promise<Engine> {
    if (this.#engine === undefined) {
      this.#engine = this.#open();
      // A failure is reported to this caller; the next one tries again.
      this.#engine.catch(() => this.#engine = undefined);
    }
    return this.#engine;
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
      seed,
      checkEvery,
      onEvent: (event) => this.#heard(event),
    });
    const { fleet, placement } = executor;
    const shared = { fleet, placement, own: executor.own.bind(executor), seed };
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

  async #epoch(
    source: BatchSource<B>,
    epoch: number,
    epochs: number,
    options: FitOptions<B>,
    view: Awaited<ReturnType<typeof progress>>,
  ): Promise<EpochRecord> {
    const { executor } = await this.#start();
    await executor.recover();
    const { signal, onBatch } = options;
    const validation: unknown = options.validation;
    const totals = new ScoreTotals();
    const start = performance.now();
    let done = 0;
    const finish = async (enqueued: EnqueuedStep | undefined) => {
      if (enqueued === undefined) return;
      const outcome = await enqueued.outcome;
      const record = recordOf(outcome);
      this.#history.steps.push(record);
      totals.add(outcome.scores, outcome.rows);
      done++;
      const rowsPerSecond = 1000 * totals.rows / (performance.now() - start);
      const secondsLeft = source.rows === undefined
        ? undefined
        : Math.max(0, source.rows - totals.rows) / rowsPerSecond;
      view.update({
        epoch,
        epochs,
        batch: done,
        batches: source.length,
        loss: lossOf(totals.scores),
        metrics: meansOf(totals.scores),
        rowsPerSecond,
        secondsLeft,
      });
      await onBatch?.({
        ...record,
        epoch,
        epochs,
        batch: done,
        batches: source.length,
        rowsPerSecond,
        secondsLeft,
      });
    };
    // A step is judged when the next one is on the device already, so that the device need not wait for the
    // host.
    let pending: EnqueuedStep | undefined;
    for await (const batch of prefetched<unknown>(source)) {
      if (signal?.aborted === true) {
        await finish(pending);
        throw signal.reason;
      }
      this.model.train();
      // When this batch will not do, the step before it is still reported.
      const enqueued = await executor.enqueue(batch as Batch).catch(async (error: unknown) => {
        await finish(pending);
        throw error;
      });
      await finish(pending);
      pending = enqueued;
    }
    await finish(pending);
    signal?.throwIfAborted();
    const seconds = (performance.now() - start) / 1000;
    const { scores, rows } = totals;
    return {
      epoch,
      loss: lossOf(scores),
      metrics: meansOf(scores),
      rows,
      seconds,
      rowsPerSecond: rows / seconds,
      validation: validation === undefined ? undefined : await this.#evaluate(validation),
    };
  }

  /** Runs `body` in evaluation mode and puts training mode back where it was on. */
  #inEvaluation<R>(executor: Executor, body: () => Promise<R>): Promise<R> {
    return executor.between(async () => {
      const { training } = this.model;
      this.model.eval();
      try {
        return await body();
      } finally {
        if (training) this.model.train();
      }
    });
  }

  #heard(event: DeviceEvent): void {
    this.#history.events.push(event);
    if (event.kind === "deviceLost") { for (const listener of this.#listeners.deviceLost) listener(event); }
    else for (const listener of this.#listeners.deviceJoined) listener(event);
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

function recordOf({ scores, ...rest }: StepOutcome): StepRecord {
  return { ...rest, loss: lossOf(scores), metrics: meansOf(scores) };
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

function describeEpoch(
  { epoch, loss, metrics, rows, seconds, rowsPerSecond, validation }: EpochRecord,
  epochs: number,
): string {
  const speed = `${rows} rows in ${formatSeconds(seconds)}, ${
    Math.round(rowsPerSecond).toLocaleString("en-US")
  } rows/s`;
  const checked = validation === undefined
    ? ""
    : `  validation: ${formatMeans(validation.loss, validation.metrics)}`;
  return `epoch ${epoch}/${epochs}  ${formatMeans(loss, metrics)}  (${speed})${checked}`;
}

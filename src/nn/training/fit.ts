/** Training for an epoch: a step for each batch of a source, and what is told of it. */
import { ArgumentError, type ShardwiseError, StateError } from "../../errors.ts";
import { lossOf, meansOf, ScoreTotals } from "../../parallel/decompose/scores.ts";
import { errorOf } from "../../parallel/run/callbacks.ts";
import type { Batch } from "../../parallel/split/host-batch.ts";
import type { EnqueuedStep, Executor } from "../../parallel/train/executor.ts";
import { prefetched } from "../data/prefetch.ts";
import type { Batched, BatchSource, DefaultBatch, InputOf } from "./batch-types.ts";
import type { EpochRecord, StepRecord } from "./history.ts";
import { formatMeans, formatSeconds, type Progress, type ProgressStyle } from "./progress.ts";

/** A step as `onBatch` is told of it. */
export interface BatchEvent extends StepRecord {
  /** The epoch, from 1. */
  readonly epoch: number;
  /** Epochs in all. */
  readonly epochs: number;
  /** 1 for the first batch of the epoch. */
  readonly batch: number;
  /** Batches of the epoch; undefined where the source does not tell. */
  readonly batches: number | undefined;
  /** Rows of this epoch by its seconds so far. */
  readonly rowsPerSecond: number;
  /** Of the epoch, at this speed; undefined where the source does not tell how long it is. */
  readonly secondsLeft: number | undefined;
}

/** `B` is what the functions of the trainer take. */
export interface FitOptions<B = DefaultBatch, V = InputOf<B> | BatchSource<B>> {
  /** How often all batches are gone through: an integer of at least 0. Default 1. */
  readonly epochs?: number | undefined;
  /** A batch or batches that are evaluated after each epoch. Default: none. */
  readonly validation?: V | undefined;
  /** Ends the run after the step in progress; `fit` then rejects with the signal's reason. Default: none. */
  readonly signal?: AbortSignal | undefined;
  /** Default `auto`: a bar where standard error is a terminal, else lines on it. */
  readonly progress?: ProgressStyle | undefined;
  /** Told of every step. Default: nothing is. */
  readonly onBatch?: ((event: BatchEvent) => void | Promise<void>) | undefined;
  /** Told of every epoch. Default: nothing is. */
  readonly onEpoch?: ((record: EpochRecord) => void | Promise<void>) | undefined;
}

/** What an epoch of a trainer is made of. */
export interface EpochParts {
  readonly executor: Executor;
  readonly source: Batched<unknown>;
  readonly epoch: number;
  readonly epochs: number;
  readonly signal: AbortSignal | undefined;
  readonly onBatch: FitOptions["onBatch"];
  readonly view: Progress;
  /** Keeps the record of a step that is done. */
  readonly record: (step: StepRecord) => void;
  /** Throws what a listener threw meanwhile. */
  readonly raise: () => void;
}

/**
 * Trains for an epoch. Rejects as steps do, with the reason of the signal, and with what a callback or the source throws,
 * typed: after the steps that were enqueued by then are done and recorded.
 */
export async function trainEpoch(parts: EpochParts): Promise<Omit<EpochRecord, "validation">> {
  const { executor, source, epoch, epochs, signal, onBatch, view, record, raise } = parts;
  const totals = new ScoreTotals();
  const start = performance.now();
  const enqueued: EnqueuedStep[] = [];
  let done = 0;
  let untold: ShardwiseError | undefined;
  /** Waits for the step that was enqueued first, and tells of it. */
  const finish = async () => {
    const { record: step, scores } = await enqueued.shift()!.outcome;
    record(step);
    totals.add(scores, step.rows);
    done++;
    const rowsPerSecond = 1000 * totals.rows / (performance.now() - start);
    const secondsLeft = source.rows === undefined ? undefined : Math.max(0, source.rows - totals.rows) / rowsPerSecond;
    const place = { epoch, epochs, batch: done, batches: source.length, rowsPerSecond, secondsLeft };
    view.update({ ...place, loss: lossOf(totals.scores), metrics: meansOf(totals.scores) });
    if (untold !== undefined) return;
    try {
      await onBatch?.({ ...step, ...place });
    } catch (error) {
      throw untold = errorOf("fit", "onBatch", error);
    }
    raise();
  };
  try {
    // A step is judged when the next one is on the device already, so that the device need not wait for the host.
    for await (const batch of batchesOf("fit", source)) {
      if (signal?.aborted === true) throw signal.reason;
      enqueued.push(await executor.enqueue(batch as Batch));
      if (enqueued.length > 1) await finish();
    }
    while (enqueued.length > 0) await finish();
    signal?.throwIfAborted();
    if (done === 0) refuseEmpty("fit", epoch);
  } catch (error) {
    // What is under way is done all the same, and recorded; the first error says most.
    while (enqueued.length > 0) await finish().catch(() => {});
    throw error;
  }
  const seconds = (performance.now() - start) / 1000;
  const { scores, rows } = totals;
  return { epoch, loss: lossOf(scores), metrics: meansOf(scores), rows, seconds, rowsPerSecond: rows / seconds };
}

/** The batches of a source; what it throws is typed. `wait` waits for those that are made asynchronously. */
export async function* batchesOf(
  op: string,
  source: Iterable<unknown> | AsyncIterable<unknown>,
  wait?: <R>(coming: Promise<R>) => Promise<R>,
): AsyncGenerator<unknown, void, undefined> {
  try {
    yield* prefetched(source, wait);
  } catch (error) {
    throw errorOf(op, "the source of batches", error);
  }
}

/** Throws for a source that has given no batch, which would look like a perfect loss: ArgumentError, StateError after epochs that had some. */
export function refuseEmpty(op: string, epoch = 1): never {
  if (epoch === 1) {
    throw new ArgumentError(op, {
      got: "a source of no batches",
      need: "one that is not empty, nor used up by an earlier loop",
    });
  }
  throw new StateError(op, {
    got: `a source that gave batches in epoch 1 and none in epoch ${epoch}, as a generator does`,
    need: "one that can be gone through again: data.batches, a list, or { [Symbol.asyncIterator]: () => generator() }",
  });
}

/** An epoch in one line. */
export function describeEpoch(
  { epoch, loss, metrics, rows, seconds, rowsPerSecond, validation }: EpochRecord,
  epochs: number,
): string {
  const speed = `${rows} rows in ${formatSeconds(seconds)}, ${
    Math.round(rowsPerSecond).toLocaleString("en-US")
  } rows/s`;
  const checked = validation === undefined ? "" : `  validation: ${formatMeans(validation.loss, validation.metrics)}`;
  return `epoch ${epoch}/${epochs}  ${formatMeans(loss, metrics)}  (${speed})${checked}`;
}

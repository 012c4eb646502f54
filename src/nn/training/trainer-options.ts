/** What a trainer and its calls take. */
import type { Device } from "../../devices/device/device.ts";
import type { Ratio } from "../../parallel/decompose/ratio.ts";
import { type Batch, fieldsOf } from "../../parallel/split/host-batch.ts";
import { callable, either, type Kind, listOf, number, oneOf, options, required } from "../../signature/kinds.ts";
import { nearest } from "../../signature/nearest.ts";
import { show } from "../../signature/show.ts";
import { type Signature, takes } from "../../signature/takes.ts";
import { device } from "../../tensor/kinds.ts";
import { isTensor } from "../../tensor/tensor.ts";
import { isRecord, recordOf } from "../layers/kinds.ts";
import { type Module, moduleKind } from "../layers/module.ts";
import type { Loss } from "../losses/loss.ts";
import * as losses from "../losses/losses.ts";
import * as metrics from "../losses/metrics.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import type { DefaultBatch, TensorFields } from "./batch-types.ts";
import type { FitOptions } from "./fit.ts";

/** The same bits on any number of devices. */
export interface DeterministicOptions {
  /** An integer of at least 1. */
  readonly shards: number;
}

/** What a trainer trains with. */
export interface TrainerOptions<M extends Module, B extends TensorFields<B>, O> {
  /** Default: `model.forward(batch.x)`. */
  readonly forward?: ((model: M, batch: B) => O) | undefined;
  /** What is made small, of what `forward` returns and of the batch. */
  readonly loss: (output: NoInfer<O>, batch: B) => Loss;
  /** Reported beside the loss, by name. Default: none. */
  readonly metrics?: Readonly<Record<string, (output: NoInfer<O>, batch: B) => Ratio>> | undefined;
  /** How weights follow from gradients, such as `optim.adam()`. */
  readonly optimizer: Optimizer;
  /** Distinct devices; a batch is cut into a shard for each. Default: the default device. */
  readonly devices?: readonly Device[] | undefined;
  /**
   * Seed of everything random in the model, such as dropout, from 0 to 2^32 - 1. Default: that of
   * `random.seed`.
   */
  readonly seed?: number | undefined;
  /** Steps between checks that all devices hold the same bits; 0 for never. Default 100. */
  readonly checkEvery?: number | undefined;
  /**
   * Cuts every batch into so many logical shards, whatever the devices, so that the weights have the same bits after
   * training on any number of devices of one model and driver. Default: a shard for each device.
   */
  readonly deterministic?: DeterministicOptions | undefined;
  /**
   * How much of a batch each device gets: equal shares by default, in proportion to numbers above 0, or as measured.
   * In deterministic mode whole logical shards are moved.
   */
  readonly capacities?: "auto" | readonly number[] | undefined;
  /** Parts that each device's rows are computed in, one after another, to save memory. Default 1. */
  readonly microBatches?: number | undefined;
  /** The gradient is scaled down to this global norm where it is longer. Default: no limit. */
  readonly clipNorm?: number | undefined;
  /** Milliseconds that a device may take to deliver a shard; then it counts as lost. Default: no limit. */
  readonly stepTimeout?: number | undefined;
  /**
   * Steps between copies of the weights to the host, which remain when every device is lost; 0 for never. Default 1,
   * and 10 for more than 16 MiB of weights on one device.
   */
  readonly snapshotEvery?: number | undefined;
}

/** How many rows are computed together. */
export interface RowsOptions {
  /** At most so many rows are on the devices at one time. Default 4096. */
  readonly rowsAtOnce?: number | undefined;
}

const optimizer: Kind<Optimizer> = {
  need: "an optimizer, such as optim.adam()",
  accepts: (x) =>
    typeof x === "object" && x !== null && typeof (x as Optimizer).update === "function" && "learningRate" in x,
  refuse(name, x) {
    const isBound = typeof (x as { readonly step?: unknown } | null)?.step === "function";
    const need = typeof x === "function" && x.name !== ""
      ? `: did you mean optim.${x.name}(…)?`
      : isBound
      ? ", not bound to parameters"
      : "";
    return { got: `${name} ${show(x)}`, need: `an optimizer, such as optim.adam()${need}` };
  },
};

const signal: Kind<AbortSignal> = {
  need: "an AbortSignal",
  accepts: (x) => typeof x === "object" && x !== null && typeof (x as AbortSignal).throwIfAborted === "function",
};

const ofTensors: ReadonlyMap<unknown, string> = new Map<unknown, string>(
  Object.entries({ ...losses, ...metrics }).filter(([, value]) => typeof value === "function").map((
    [name, value],
  ) => [value, name]),
);

/** A function of the output and the batch: those of nn take tensors. */
const ofBatch: Kind<never> = {
  need: "a function (output, batch) => …",
  accepts: (x) => typeof x === "function" && !ofTensors.has(x),
  refuse(name, x) {
    const of = ofTensors.get(x) ??
      (typeof x === "string"
        ? [...ofTensors.values()].find((one) => one === nearest(x, [...ofTensors.values()]))
        : undefined);
    const meant = of === undefined ? "" : `: (output, batch) => nn.${of}(output, batch.y)`;
    return { got: `${show(x)} as ${name}`, need: `a function of the output and the batch${meant}` };
  },
};

/** Whether batches can be had of it, one after the other. */
export function isSource(x: unknown): x is Iterable<unknown> | AsyncIterable<unknown> {
  if (typeof x !== "object" || x === null || ArrayBuffer.isView(x)) return false;
  return Symbol.iterator in x || Symbol.asyncIterator in x;
}

const source: Kind<never> = {
  need: "batches to iterate over, as of data.batches",
  accepts: isSource,
  refuse(name, x) {
    const single = isTensor(x)
      ? ": data.batches({ x, y }, { batchSize: 32 })"
      : isRecord(x)
      ? ": for a single batch a list of it, [batch]"
      : "";
    return { got: `${show(x)} as ${name}`, need: `batches to iterate over, as of data.batches${single}` };
  },
};

/** A batch, which is looked at when it is taken apart. */
const batch: Kind<never> = { need: "a batch, such as { x, y }", accepts: (x) => typeof x === "object" && x !== null };
const batches: Kind<never> = {
  need: "a batch, such as { x, y }, or batches to iterate over",
  accepts: (x) => typeof x === "object" && x !== null,
};
const rows = options<RowsOptions>({ rowsAtOnce: number });

/** By the names of the trainer's methods; of itself, `nn.trainer`. */
export const signatures = {
  "nn.trainer": takes("nn.trainer", {
    model: moduleKind,
    options: required<TrainerOptions<Module, DefaultBatch, unknown>>(["loss", "optimizer"], {
      forward: callable,
      loss: ofBatch,
      metrics: recordOf(ofBatch, "a plain object of functions (output, batch) => …"),
      optimizer,
      devices: listOf(device, "a list of devices"),
      seed: number,
      checkEvery: number,
      deterministic: required<DeterministicOptions>(["shards"], { shards: number }),
      capacities: either(oneOf("auto"), listOf(number, "a list of numbers")),
      microBatches: number,
      clipNorm: number,
      stepTimeout: number,
      snapshotEvery: number,
    }),
  }),
  on: takes("on", { kind: oneOf("deviceLost", "deviceJoined"), listener: callable }),
  devices: takes("devices", {}),
  addDevice: takes("addDevice", { device }),
  memory: takes("memory", {}),
  checksum: takes("checksum", {}),
  step: takes("step", { batch }),
  fit: takes("fit", {
    source,
    options: options<FitOptions<unknown, unknown>>({
      epochs: number,
      validation: batches,
      signal,
      progress: oneOf("auto", "bar", "lines", "none"),
      onBatch: callable,
      onEpoch: callable,
    }),
  }),
  evaluate: takes("evaluate", { data: batches, options: rows }),
  predict: takes("predict", { data: batch, options: rows }),
  release: takes("release", {}),
} satisfies Record<string, Signature>;

/** Throws as `fieldsOf` for what is neither a batch nor batches to iterate over. */
export function requireBatches(op: string, data: unknown): void {
  if (!isSource(data)) fieldsOf(op, data as Batch);
}

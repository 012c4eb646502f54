/** Data sets on the host, cut into batches. */
import { ArgumentError, DTypeError, ShapeError } from "../../errors.ts";
import { formatShape, strides } from "../../graph/shape.ts";
import { type HostData, type HostTensor, isHostData } from "../../parallel/split/host-batch.ts";
import { boolean, type Kind, number, options as optionsOf, required } from "../../signature/kinds.ts";
import { show } from "../../signature/show.ts";
import { guard, type Methods, rejects, takes } from "../../signature/takes.ts";
import { type DeviceOption, tensor } from "../../tensor/create.ts";
import { device } from "../../tensor/kinds.ts";
import { isTensor, type Tensor } from "../../tensor/tensor.ts";
import { isRecord, recordOf } from "../layers/kinds.ts";
import { elements, hostTensor, hostTensorKind, pickRows, sliceRows } from "./host-tensor.ts";
import { shuffledRows } from "./order.ts";

export { elements, hostTensor as array, sliceRows } from "./host-tensor.ts";
export type { HostData, HostTensor } from "../../parallel/split/host-batch.ts";
export type { HostTensorOptions } from "./host-tensor.ts";
export { shuffledRows } from "./order.ts";

/** Nested lists, all of one length on each level. */
export type NestedList = readonly (number | boolean | NestedList)[];

/**
 * A field of a data set; its first axis are the rows. A typed array alone has one axis (see `data.array` for more), a list of typed
 * arrays of one length is one of rows.
 */
export type Field = HostData | HostTensor | Tensor | NestedList | readonly HostData[];

/** A batch by the names of its fields, still on the host. */
export type HostBatch<K extends string = string> = { readonly [Name in K]: HostTensor };

/** A batch as the functions of a model see it. */
export type TensorBatch<K extends string = string> = { readonly [Name in K]: Tensor };

/** How rows are cut into batches. */
export interface BatchOptions {
  /** Rows in a batch; the last one may be shorter. An integer of at least 1. */
  readonly batchSize: number;
  /** Seed of the order of rows, which is another one each epoch. Default false: rows in order. */
  readonly shuffle?: number | false | undefined;
  /** Leaves out a last batch that is short. Default false: every row is seen. */
  readonly drop?: boolean | undefined;
}

const record: Kind<never> = { need: "a plain object of fields, such as { x, y }", accepts: isRecord };
const seed: Kind<number | false> = {
  need: "a seed (an integer of at least 0), or false",
  accepts: (x) => typeof x === "number" || x === false,
};
const cutting = {
  fields: record,
  options: required<BatchOptions>(["batchSize"], { batchSize: number, shuffle: seed, drop: boolean }),
};
const signatures = {
  Batches: takes("data.Batches", cutting),
  batches: takes("data.batches", cutting),
  tensors: takes("data.tensors", {
    batch: recordOf(hostTensorKind, "a host batch, a plain object of host tensors"),
    options: optionsOf<DeviceOption>({ device }),
  }),
};

/**
 * The batches of a data set. Iterating gives an epoch of host batches, and can be done again and again: each time is
 * the
 * next epoch, with an order of its own when shuffled. Where a field is a Tensor, iterate with `for await`.
 */
export class Batches<K extends string = string> implements Iterable<HostBatch<K>>, AsyncIterable<HostBatch<K>> {
  /** Rows in all. */
  readonly rows: number;
  /** Rows of a batch; the last one may have fewer. */
  readonly batchSize: number;
  /** Number of batches in an epoch. */
  readonly length: number;
  /** The seed of the order, or false for that of the rows. */
  readonly shuffle: number | false;
  /** Whether a last batch with fewer rows is left out. */
  readonly drop: boolean;
  /** Names of the fields, in order. */
  readonly names: readonly K[];
  readonly #fields: Map<K, HostTensor>;
  /** Fields that are still tensors; they are read at the first asynchronous use. */
  readonly #unread: Map<K, Tensor>;
  #nextEpoch = 0;

  constructor(fields: Readonly<Record<K, Field>>, options: BatchOptions) {
    signatures.Batches.check(arguments);
    const { batchSize, shuffle = false, drop = false } = options;
    if (!Number.isSafeInteger(batchSize) || batchSize < 1) {
      throw new ArgumentError("data.batches", { got: `batchSize ${batchSize}`, need: "an integer of at least 1" });
    }
    if (shuffle !== false && (!Number.isSafeInteger(shuffle) || shuffle < 0)) {
      throw new ArgumentError("data.batches", {
        got: `shuffle ${shuffle}`,
        need: "a seed (an integer of at least 0), or false",
      });
    }
    this.names = Object.keys(fields) as K[];
    this.#fields = new Map();
    this.#unread = new Map();
    const counts = this.names.map((name) => {
      const field: Field = fields[name];
      const source = isTensor(field) ? field : readField(name, field);
      if (isTensor(source)) this.#unread.set(name, source);
      else this.#fields.set(name, source);
      const [rows] = source.shape;
      if (rows === undefined) {
        throw new ShapeError("data.batches", { got: `${name} ${formatShape(source.shape)}`, need: "an axis of rows" });
      }
      return rows;
    });
    const [rows] = counts;
    if (rows === undefined) throw new ArgumentError("data.batches", { got: "no fields", need: "at least one" });
    if (counts.some((count) => count !== rows)) {
      throw new ShapeError("data.batches", {
        got: this.names.map((name, i) => `${name}: ${counts[i]} rows`).join(", "),
        need: "the same number of rows in every field",
      });
    }
    this.rows = rows;
    this.batchSize = batchSize;
    this.shuffle = shuffle;
    this.drop = drop;
    this.length = drop ? Math.floor(rows / batchSize) : Math.ceil(rows / batchSize);
  }

  /** The next epoch. Throws ArgumentError when a field is a Tensor that was not read yet. */
  [Symbol.iterator](): Iterator<HostBatch<K>> {
    return this.epoch(this.#nextEpoch++)[Symbol.iterator]();
  }

  /** The next epoch; fields that are Tensors are read first. */
  [Symbol.asyncIterator](): AsyncIterator<HostBatch<K>> {
    return this.#epochOnceRead(this.#nextEpoch++);
  }

  /** Epoch number `index` (from 0), whatever was iterated before: the same batches each time. */
  epoch(index: number): Iterable<HostBatch<K>> {
    if (!Number.isSafeInteger(index) || index < 0) {
      throw new ArgumentError("Batches.epoch", { got: String(index), need: "an integer of at least 0" });
    }
    if (this.#unread.size > 0) {
      throw new ArgumentError("data.batches", {
        got: `tensors in the fields ${[...this.#unread.keys()].join(", ")}`,
        need: "for await, or host arrays: await x.data()",
      });
    }
    return { [Symbol.iterator]: () => this.#batchesOf(index) };
  }

  /** Reads the fields that are Tensors, once, so that the batches can be iterated synchronously. */
  async read(): Promise<this> {
    for (const [name, field] of [...this.#unread]) {
      this.#fields.set(name, { data: await field.data(), shape: field.shape, dtype: field.dtype });
      this.#unread.delete(name);
    }
    return this;
  }

  async *#epochOnceRead(epoch: number): AsyncGenerator<HostBatch<K>> {
    await this.read();
    yield* this.epoch(epoch);
  }

  *#batchesOf(epoch: number): Generator<HostBatch<K>> {
    const order = this.shuffle === false ? undefined : shuffledRows(this.rows, this.shuffle, epoch);
    for (let i = 0; i < this.length; i++) {
      const begin = i * this.batchSize;
      const end = Math.min(this.rows, begin + this.batchSize);
      const rowsOf = (name: K) => {
        const field = this.#fields.get(name)!;
        return order === undefined ? sliceRows(field, begin, end) : pickRows(field, order, begin, end);
      };
      yield Object.fromEntries(this.names.map((name) => [name, rowsOf(name)])) as HostBatch<K>;
    }
  }
}

const methods: Methods<Batches> = { epoch: { index: number }, read: rejects({}) };
guard("Batches.", Batches.prototype, methods);

/**
 * Cuts a record of fields into batches of rows; nothing is copied until a batch is made.
 * Throws ShapeError when the fields differ in their number of rows, ArgumentError for a batch size below 1 or no
 * fields.
 */
export function batches<F extends Readonly<Record<string, Field>>>(
  fields: F,
  options: BatchOptions,
): Batches<Extract<keyof F, string>> {
  signatures.batches.check(arguments);
  return new Batches(fields as Readonly<Record<Extract<keyof F, string>, Field>>, options);
}

/** A host batch as tensors, on `device` where one is given. */
export function tensors<K extends string>(
  batch: HostBatch<K>,
  options: DeviceOption = {},
): TensorBatch<K> {
  signatures.tensors.check(arguments);
  const entries = (Object.keys(batch) as K[]).map((name) => {
    const host: HostTensor = batch[name];
    return [name, tensor(elements(host), { shape: host.shape, dtype: host.dtype, ...options })];
  });
  return Object.fromEntries(entries) as TensorBatch<K>;
}

function readField(name: string, field: HostData | HostTensor | NestedList | readonly HostData[]): HostTensor {
  if (Array.isArray(field)) return fromLists(name, field as NestedList);
  if (isHostData(field)) return hostTensor(field);
  const host = field as HostTensor;
  if (typeof host !== "object" || host === null || !isHostData(host.data) || !Array.isArray(host.shape)) {
    throw new DTypeError("data.batches", {
      got: `${name}: ${show(field)}`,
      need: "a typed array, nested lists, data.array(…) or a tensor",
    });
  }
  return hostTensor(host.data, { shape: host.shape, dtype: host.dtype, scale: host.scale });
}

/** Nested lists of numbers as f32, of booleans as bool; a list of typed arrays of one length as they are. */
function fromLists(name: string, lists: NestedList | readonly HostData[]): HostTensor {
  const [first] = lists;
  if (isHostData(first)) return ofRows(name, lists as readonly HostData[]);
  const shape: number[] = [];
  for (let level: unknown = lists; Array.isArray(level); level = level[0]) shape.push(level.length);
  let flat: readonly unknown[] = lists;
  shape.slice(1).forEach((length, axis) => {
    if (!flat.every((list) => Array.isArray(list) && list.length === length)) {
      throw new ShapeError("data.batches", {
        got: `${name}: lists of unequal length`,
        need: `${length} elements at depth ${axis + 1}`,
      });
    }
    flat = flat.flat();
  });
  const kind = typeof flat[0];
  const isLegal = kind === "boolean"
    ? (value: unknown) => typeof value === "boolean"
    : (value: unknown) => typeof value === "number";
  const wrong = flat.findIndex((value) => !isLegal(value));
  if (wrong >= 0) {
    const at = strides(shape).map((step, axis) => Math.floor(wrong / step) % shape[axis]!);
    throw new DTypeError("data.batches", {
      got: `${name}: ${show(flat[wrong])} at [${at.join(", ")}]`,
      need: "all numbers or all booleans, or a list of typed arrays",
    });
  }
  if (kind === "boolean") return { data: Uint8Array.from(flat, (value) => Number(value)), shape, dtype: "bool" };
  return { data: Float32Array.from(flat, (value) => Number(value)), shape, dtype: "f32" };
}

/** Rows as typed arrays: one array of that type. */
function ofRows(name: string, rows: readonly HostData[]): HostTensor {
  const [first] = rows as readonly [HostData];
  const odd = rows.findIndex((row) =>
    !isHostData(row) || row.constructor !== first.constructor || row.length !== first.length
  );
  if (odd >= 0) {
    const row = rows[odd]!;
    throw new ShapeError("data.batches", {
      got: `${name}: ${isHostData(row) ? `${show(row)} of ${row.length}` : show(row)} at [${odd}]`,
      need: `${show(first)} of ${first.length}, as at [0]`,
    });
  }
  const ArrayOfKind = first.constructor as new (length: number) => HostData;
  const values = new ArrayOfKind(rows.length * first.length);
  rows.forEach((row, i) => values.set(row, i * first.length));
  return hostTensor(values, { shape: [rows.length, first.length] });
}

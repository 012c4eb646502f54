/**
 * Putting what a plan needs on a device: rows of a batch, captured tensors, and the vector of step numbers.
 */
import type { Device, DeviceBuffer } from "../../devices/device/device.ts";
import { ArgumentError } from "../../errors.ts";
import { dtypes } from "../../graph/dtype.ts";
import { size } from "../../graph/shape.ts";
import { bufferOf } from "../../tensor/runtime.ts";
import { isTensor, type Tensor } from "../../tensor/tensor.ts";
import { control } from "../decompose/shard-trace.ts";
import type { Held } from "../split/held.ts";
import { type Batch, type Fields, fieldsOf, type HostTensor, isBatched, rowsForUpload } from "../split/host-batch.ts";

/** A batch that is in host memory throughout. */
export interface HostFields extends Fields {
  readonly leaves: readonly HostTensor[];
}

/** A batch as it was given: its tensors are read from then on, whatever is assigned to them later. */
export class GivenBatch {
  readonly fields: Fields;
  readonly #leaves: Promise<readonly HostTensor[]>;

  /** Throws as `fieldsOf`. */
  constructor(op: string, batch: Batch) {
    this.fields = fieldsOf(op, batch);
    this.#leaves = Promise.all(this.fields.leaves.map(async (leaf): Promise<HostTensor> => {
      return isTensor(leaf) ? { data: await leaf.data(), shape: leaf.shape, dtype: leaf.dtype } : leaf;
    }));
    this.#leaves.catch(() => {}); // It is waited for when the batch is used.
  }

  static of(op: string, batch: Batch | GivenBatch): GivenBatch {
    return batch instanceof GivenBatch ? batch : new GivenBatch(op, batch);
  }

  /** Its values, in `fields`, which are its own as they were judged. */
  async onHost(fields: Fields): Promise<HostFields> {
    return { ...fields, leaves: await this.#leaves };
  }
}

/** A cut of a batch: which rows go where. */
export interface Shard {
  /** Position among the shards of the batch. */
  readonly index: number;
  /** First row in the whole batch. */
  readonly offset: number;
  readonly rows: number;
}

/** Whether shards are of different numbers of rows. */
export function areUneven(shards: readonly Shard[]): boolean {
  return shards.some((shard) => shard.rows !== shards[0]!.rows);
}

/** Writes a shard's rows of one field of a batch. */
export function writeField(
  device: Device,
  buffer: DeviceBuffer,
  leaf: HostTensor,
  shard: Pick<Shard, "offset" | "rows">,
  at = 0,
): void {
  const rows = rowsForUpload(leaf, isBatched(leaf) ? shard.offset : 0, shard.rows);
  if (rows.byteLength > 0) device.write(buffer, rows, at);
}

/** Writes one field of neighbouring shards of as many rows each: their parts are `stride` bytes apart. */
export function writeFields(
  device: Device,
  buffer: DeviceBuffer,
  leaf: HostTensor,
  shards: readonly Shard[],
  stride: number,
): void {
  const [first] = shards;
  const { offset, rows } = first!;
  const together = !isBatched(leaf) || shards.length === 1 ||
    stride === dtypes[leaf.dtype].bytes * rows * size(leaf.shape.slice(1));
  if (together) return writeField(device, buffer, leaf, { offset, rows: rows * shards.length });
  shards.forEach((shard, item) => writeField(device, buffer, leaf, shard, item * stride));
}

/** Writes the shard's rows into a plan's own buffers. */
export function writeRows(
  device: Device,
  buffers: readonly (DeviceBuffer | undefined)[],
  fields: HostFields,
  shard: Shard,
): void {
  fields.leaves.forEach((leaf, i) => writeField(device, buffers[i]!, leaf, shard));
}

export interface StepNumbers {
  readonly seed: number;
  readonly step: number;
  /** First row of the shard in the whole batch. */
  readonly offset: number;
  readonly learningRate: number;
}

/** Throws ArgumentError unless a seed fits the control vector. */
export function requireSeed(op: string, seed: number): void {
  if (Number.isInteger(seed) && seed >= 0 && seed <= 0xffffffff) return;
  throw new ArgumentError(op, { got: `seed ${seed}`, need: "an integer from 0 to 4294967295" });
}

/** The control vector. */
export function controlWords(numbers: StepNumbers): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(control.length);
  words[control.seed] = numbers.seed;
  words[control.step] = numbers.step;
  words[control.offset] = numbers.offset;
  new Float32Array(words.buffer)[control.learningRate] = numbers.learningRate;
  return words;
}

/** Writes the control vector. */
export function writeControl(device: Device, buffer: DeviceBuffer, numbers: StepNumbers, at = 0): void {
  device.write(buffer, controlWords(numbers), at);
}

/** The buffers of captured tensors on a device, as `held` has them; `own` gives those that a replica keeps itself. */
export function bindCaptures(
  captures: readonly { readonly tensor: Tensor }[],
  device: Device,
  own: (tensor: Tensor) => DeviceBuffer | undefined,
  held?: Held,
): Promise<DeviceBuffer[]> {
  return Promise.all(captures.map(({ tensor }) => {
    const kept = own(tensor);
    if (held === undefined) return kept ?? bufferOf(tensor, device);
    return kept !== undefined && held.isNow(tensor) ? kept : bufferOf(held.of(tensor), device);
  }));
}

/**
 * Tensors that a model assigns to while it runs, such as running statistics: the same on all devices, as they come of
 * the whole batch.
 */
import type { Device, DeviceBuffer } from "../../devices/device/device.ts";
import type { Node } from "../../graph/node.ts";
import { fromWords, type Words, wordsFor } from "../../graph/words.ts";
import { fromHost } from "../../tensor/create.ts";
import { storageOf } from "../../tensor/eager/record.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/** The value of a tensor, read to the host. */
export interface HostCopy {
  readonly tensor: Tensor;
  readonly words: Words;
  /** What the tensor was bound to when the copy was asked for. */
  version?: Node;
}

interface Entry {
  /** What the tensor was when it was last written here: anything else was assigned by the user. */
  written: Node | undefined;
  readonly words: Words;
  readonly buffers: Map<Device, DeviceBuffer>;
}

const collected = new FinalizationRegistry<Map<Tensor, Entry>>((entries) => {
  for (const { buffers } of entries.values()) giveBack(buffers);
});

export class Statistics {
  readonly #entries = new Map<Tensor, Entry>();
  /** What a step on one device made of tensors, whose values are on that device only. */
  readonly #onDevice = new WeakMap<Tensor, Node>();

  constructor() {
    collected.register(this, this.#entries, this);
  }

  /** Where the next value of a tensor is to be read into. */
  memory(tensor: Tensor): Words {
    let entry = this.#entries.get(tensor);
    if (entry === undefined) {
      entry = { written: undefined, words: wordsFor(tensor.dtype, Math.max(1, tensor.size)), buffers: new Map() };
      this.#entries.set(tensor, entry);
    }
    return entry.words;
  }

  /** Writes what was read into `memory` to a device, where the next step finds it. */
  write(tensor: Tensor, device: Device): void {
    const { words, buffers } = this.#entries.get(tensor)!;
    let buffer = buffers.get(device);
    if (buffer === undefined) buffers.set(device, buffer = device.alloc(words.byteLength));
    device.write(buffer, words);
  }

  /** The tensor shows what was read into `memory`. */
  show(tensor: Tensor): void {
    const entry = this.#entries.get(tensor)!;
    assignWords(tensor, entry.words);
    entry.written = tensor.node;
  }

  /** Memory for a copy of a tensor. */
  copyOf(tensor: Tensor): HostCopy {
    return { tensor, words: wordsFor(tensor.dtype, Math.max(1, tensor.size)) };
  }

  /** To be called when a step on one device has written a tensor there, of which a copy may be on its way. */
  wroteOnDevice(tensor: Tensor, copy: HostCopy | undefined): void {
    this.#onDevice.set(tensor, tensor.node);
    if (copy !== undefined) copy.version = tensor.node;
  }

  /** Copies have arrived: should the device be lost, the tensors are read from them. */
  arrived(copies: readonly HostCopy[]): void {
    for (const { tensor: { dtype, size }, words, version } of copies) {
      if (version?.op === "storage") storageOf(version).adoptHost(fromWords(dtype, words, size));
    }
  }

  /** The device is lost: tensors whose newest values were there read as these copies. What the user assigned stays. */
  restore(copies: readonly HostCopy[]): void {
    for (const { tensor, words } of copies) if (this.#onDevice.get(tensor) === tensor.node) assignWords(tensor, words);
  }

  /** The buffer of a tensor on a device, if what was written here is still its value. */
  own(tensor: Tensor, device: Device): DeviceBuffer | undefined {
    const entry = this.#entries.get(tensor);
    return entry?.written === tensor.node ? entry?.buffers.get(device) : undefined;
  }

  remove(device: Device): void {
    for (const { buffers } of this.#entries.values()) {
      const buffer = buffers.get(device);
      if (buffer !== undefined && !device.isLost) device.free(buffer);
      buffers.delete(device);
    }
  }

  release(): void {
    for (const { buffers } of this.#entries.values()) giveBack(buffers);
    this.#entries.clear();
    collected.unregister(this);
  }
}

function assignWords(tensor: Tensor, words: Words): void {
  const value = fromHost(fromWords(tensor.dtype, words.slice(), tensor.size), tensor.shape, tensor.dtype);
  const bound = tensor.device;
  tensor.assign(bound === undefined || bound.isLost ? value : value.to(bound));
}

function giveBack(buffers: Map<Device, DeviceBuffer>): void {
  for (const [device, buffer] of buffers) if (!device.isLost) device.free(buffer);
  buffers.clear();
}

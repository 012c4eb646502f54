/** Data that exists: on the host, on devices, or both. */
import type { Device, DeviceBuffer } from "../../devices/device/device.ts";
import { DeviceError, InternalError } from "../../errors.ts";
import { Finalizer, Young } from "../../graph/collected.ts";
import { type DType, dtypes, type HostArray } from "../../graph/dtype.ts";
import type { StorageToken } from "../../graph/node.ts";
import { asWords, bytesOf, fromWords, toWords, type Words } from "../../graph/words.ts";

/** The content of storages: equal bytes in several places. */
interface Memory {
  host: HostArray | undefined;
  readonly buffers: DeviceBuffers;
  /** Storages that show this content. */
  owners: number;
  spare?: FindSpare;
}

/** A buffer on each of some devices, of which there mostly is one: a map for each tensor would be most of what a small one takes. */
class DeviceBuffers {
  #device: Device | undefined;
  #buffer: DeviceBuffer | undefined;
  #more: Map<Device, DeviceBuffer> | undefined;

  get size(): number {
    return (this.#device === undefined ? 0 : 1) + (this.#more?.size ?? 0);
  }

  get(device: Device): DeviceBuffer | undefined {
    return this.#device === device ? this.#buffer : this.#more?.get(device);
  }

  set(device: Device, buffer: DeviceBuffer): this {
    if (this.#device === device || (this.#device === undefined && this.#more?.has(device) !== true)) {
      this.#device = device;
      this.#buffer = buffer;
    } else (this.#more ??= new Map()).set(device, buffer);
    return this;
  }

  delete(device: Device): void {
    if (this.#device === device) this.#device = this.#buffer = undefined;
    else this.#more?.delete(device);
  }

  clear(): void {
    this.#device = this.#buffer = this.#more = undefined;
  }

  /** The first that is there. */
  find(wanted: (device: Device) => boolean): Device | undefined {
    if (this.#device !== undefined && wanted(this.#device)) return this.#device;
    for (const device of this.#more?.keys() ?? []) if (wanted(device)) return device;
    return undefined;
  }

  freeAll(): void {
    if (this.#device !== undefined && !this.#device.isLost) this.#device.free(this.#buffer!);
    for (const [device, buffer] of this.#more ?? []) if (!device.isLost) device.free(buffer);
    this.clear();
  }
}

/** Equal bytes that somebody else keeps. */
export type Spare = { readonly host: HostArray } | { readonly device: Device; readonly buffer: DeviceBuffer };
/** Where they are, but not on one of these devices. */
type FindSpare = (failed: ReadonlySet<Device>) => Spare | undefined;

const none: ReadonlySet<Device> = new Set();
const isThere = (device: Device) => !device.isLost;

let nextId = 0;
const collected = new FinalizationRegistry<Memory>(drop);

function drop(memory: Memory): void {
  if (--memory.owners > 0) return;
  memory.buffers.freeAll();
  memory.host = undefined;
}

/**
 * One version of some data, which never changes while it exists. What is written in place is, from then on, another
 * storage with the same memory. The memory goes back to its devices when the storage is garbage-collected, or freed.
 */
export class Storage implements StorageToken {
  readonly id: number = nextId++;
  readers = 0;
  readonly dtype: DType;
  /** Number of elements. */
  readonly count: number;
  #memory: Memory | undefined;
  #finalizer: Finalizer<Storage, Memory> | undefined;
  /** Whether it was freed when there was nothing yet. */
  #unwanted = false;

  private constructor(dtype: DType, count: number, memory: Memory | undefined) {
    this.dtype = dtype;
    this.count = count;
    this.#memory = memory;
    if (memory !== undefined) this.#finalizer = this.#finalizerOf(memory);
  }

  #finalizerOf(memory: Memory): Finalizer<Storage, Memory> {
    Young.weigh(this.bytes);
    return new Finalizer(collected, this, memory);
  }

  /** Of data that is still to be computed. */
  static promised(dtype: DType, count: number): Storage {
    return new Storage(dtype, count, undefined);
  }

  /** Takes over the data of another storage, as what was promised; frees it where it was freed before. */
  fulfil(storage: Storage): void {
    if (this.#unwanted) return storage.free();
    const memory = storage.#content("fulfil");
    memory.owners++;
    storage.free();
    this.#memory = memory;
    this.#finalizer = this.#finalizerOf(memory);
  }

  /** Takes over a host array. */
  static ofHost(data: HostArray, dtype: DType): Storage {
    return new Storage(dtype, data.length, { host: data, buffers: new DeviceBuffers(), owners: 1 });
  }

  /** Takes over a buffer. */
  static ofBuffer(device: Device, buffer: DeviceBuffer, dtype: DType, count: number): Storage {
    return new Storage(dtype, count, {
      host: undefined,
      buffers: new DeviceBuffers().set(device, buffer),
      owners: 1,
    });
  }

  get bytes(): number {
    return bytesOf(this.dtype, this.count);
  }

  /** Whether the data is still there: it was neither freed nor overwritten, nor did it go with its device. */
  get exists(): boolean {
    const memory = this.#memory;
    if (memory === undefined) return false;
    return memory.host !== undefined || memory.buffers.find(isThere) !== undefined ||
      memory.spare?.(none) !== undefined;
  }

  /** Whether no other storage shows the same memory. */
  get exclusive(): boolean {
    return this.#memory?.owners === 1;
  }

  /** The data on the host, where it is there already. Not to be changed. */
  get host(): HostArray | undefined {
    return this.#memory?.host;
  }

  /** The buffer on a device, where it is there already. */
  present(device: Device): DeviceBuffer | undefined {
    return this.#memory?.buffers.get(device);
  }

  /** A device that holds the data. */
  get home(): Device | undefined {
    return this.#content("read").buffers.find((device) => !device.isLost);
  }

  /**
   * Where else the same bytes are, for as long as they are there: asked when no device of its own has them any more, or gives
   * them. What it tells of is read at once.
   */
  set spare(find: FindSpare) {
    this.#content("spare").spare = find;
  }

  /** Takes over a buffer of the same bytes on another device. */
  adopt(device: Device, buffer: DeviceBuffer): void {
    this.#content("adopt").buffers.set(device, buffer);
  }

  /** Takes over a host array of the same values, where the data is still there. */
  adoptHost(data: HostArray): void {
    if (this.#memory !== undefined) this.#memory.host = data;
  }

  /** Another storage of the same memory. */
  share(): Storage {
    const memory = this.#content("share");
    memory.owners++;
    return new Storage(this.dtype, this.count, memory);
  }

  /** The buffer on a device: the one there, or a new one of these words, for which there is to be room. */
  place(device: Device, words: Words): DeviceBuffer {
    const { buffers } = this.#content("place");
    const known = buffers.get(device);
    if (known !== undefined) return known;
    const buffer = device.alloc(Math.max(4, this.bytes));
    if (this.count > 0) device.write(buffer, words);
    buffers.set(device, buffer);
    return buffer;
  }

  /** Forgets the host's copy of data that a device holds. */
  dropHost(): void {
    const memory = this.#content("dropHost");
    if (memory.buffers.size > 0) memory.host = undefined;
  }

  /**
   * A copy of `count` elements from `offset`. The data is what it is now, even if it is overwritten before the
   * promise resolves.
   */
  read(offset = 0, count: number = this.count): Promise<HostArray> {
    const { host } = this.#content("read");
    if (host !== undefined) return Promise.resolve(host.slice(offset, offset + count));
    return this.words(offset, count).then((words) => fromWords(this.dtype, words, count));
  }

  /**
   * Gives the memory up for a storage that will show what is written over it on `device`; copies elsewhere are freed.
   */
  overwrite(device: Device): Storage {
    const memory = this.#content("overwrite");
    const buffer = memory.buffers.get(device);
    if (buffer === undefined || memory.owners !== 1) {
      throw new InternalError("overwrite", {
        got: `a storage of ${memory.owners} owners`,
        need: `one owner, and a buffer on ${device.name}`,
      });
    }
    memory.buffers.delete(device);
    this.free();
    return Storage.ofBuffer(device, buffer, this.dtype, this.count);
  }

  /** Frees the memory unless another storage shows it. Idempotent. */
  free(): void {
    if (this.#memory === undefined) {
      this.#unwanted = true;
      return;
    }
    this.#finalizer?.callOff();
    drop(this.#memory);
    this.#memory = undefined;
  }

  /** Where the bytes are: on the host, on a device that is there and has not failed, or kept by somebody else. */
  #source(failed: ReadonlySet<Device> = none): Spare | undefined {
    const { host, buffers, spare } = this.#content("read");
    if (host !== undefined) return { host };
    const device = buffers.find((device) => !device.isLost && !failed.has(device));
    return device === undefined ? spare?.(failed) : { device, buffer: buffers.get(device)! };
  }

  #content(op: string): Memory {
    if (this.#memory === undefined) {
      throw new InternalError(op, {
        got: `storage ${this.id}, which was freed or overwritten`,
        need: "data that exists",
      });
    }
    return this.#memory;
  }

  /** At least `count` elements from `offset`, as a device holds them. */
  async words(offset = 0, count: number = this.count): Promise<Words> {
    if (count === 0) return asWords(this.dtype, new ArrayBuffer(0));
    const failed = new Set<Device>();
    for (;;) {
      const source = this.#source(failed);
      if (source === undefined) {
        throw new DeviceError("read", { got: "data on a device that was closed or lost", need: "an open device" });
      }
      if ("host" in source) return toWords(this.dtype, source.host.slice(offset, offset + count));
      const { device, buffer } = source;
      // Reads are of whole words of four bytes.
      const { bytes } = dtypes[this.dtype];
      const first = Math.floor(offset * bytes / 4) * 4;
      const end = bytesOf(this.dtype, offset + count);
      try {
        return asWords(this.dtype, await device.read(buffer, first, end - first)).subarray(offset - first / bytes);
      } catch (error) {
        // Another device may have the same bytes still.
        failed.add(device);
        if (this.#memory === undefined || this.#source(failed) === undefined) throw error;
      }
    }
  }
}

/** Memory of devices for tensors, and what is given up for it: dropped tensors, and histories that nobody needs. */
import type { Device, DeviceBuffer } from "../../devices/device/device.ts";
import { OutOfMemoryError } from "../../errors.ts";
import { Young } from "../../graph/collected.ts";
import { toWords } from "../../graph/words.ts";
import { collectGarbage, nextTurn } from "../../host/host.ts";
import { prune } from "./history.ts";
import type { Storage } from "./storage.ts";

/** The buffer of a storage on a device: the one there, or a new one written from the host or from another device. */
export async function bring(storage: Storage, device: Device): Promise<DeviceBuffer> {
  const known = storage.present(device);
  if (known !== undefined) return known;
  const { host } = storage;
  const words = host === undefined ? await storage.words() : toWords(storage.dtype, host);
  await reserve(device, storage.bytes);
  return storage.place(device, words); // Another call may have brought it meanwhile.
}

/**
 * Bytes in use above which garbage is collected before more is taken: the data of dropped tensors is freed only then.
 */
const softLimits = new WeakMap<Device, number>();
const leastSoftLimit = 64 * 2 ** 20;

/**
 * Makes room for `bytes` on a device: above its soft limit, asks for a garbage collection and lets the event loop
 * turn, so that the buffers of dropped tensors come back. The limit is then half as much again as what is still in
 * use.
 */
export async function reserve(device: Device, bytes: number): Promise<void> {
  if (!isShort(device, bytes)) return;
  const needed = () => device.stats().liveBytes + bytes;
  await reclaim();
  if (needed() > softLimit(device) / 2) {
    prune();
    await reclaim();
  }
  softLimits.set(device, Math.max(leastSoftLimit, 1.5 * needed()));
}

/** Whether garbage is to be collected before so many bytes are taken. */
function isShort(device: Device, bytes: number): boolean {
  return bytes > 0 && !device.isLost && device.stats().liveBytes + bytes > softLimit(device);
}

function softLimit(device: Device): number {
  return softLimits.get(device) ?? leastSoftLimit;
}

/** `allocate` where there is memory now; else undefined. */
export function allocateAtOnce(device: Device, bytes: number): DeviceBuffer | undefined {
  if (isShort(device, bytes)) return undefined;
  try {
    return device.alloc(Math.max(4, bytes));
  } catch (error) {
    if (error instanceof OutOfMemoryError) return undefined;
    throw error;
  }
}

/** Allocates after reserving; when memory is short, once more after a garbage collection. Throws OutOfMemoryError. */
export async function allocate(device: Device, bytes: number): Promise<DeviceBuffer> {
  await reserve(device, bytes);
  try {
    return device.alloc(Math.max(4, bytes));
  } catch (error) {
    if (!(error instanceof OutOfMemoryError)) throw error;
    await reclaim();
    return device.alloc(Math.max(4, bytes));
  }
}

/** Memory outside the JS heap that hurries the collector where it cannot be called. */
const ballastBytes = 32 * 2 ** 20;
const ballastPieces = 4;

/**
 * A garbage collection, between turns of the event loop: the targets of weak references live to the end of a turn,
 * and what was collected is finalized in later ones.
 */
async function reclaim(): Promise<void> {
  Young.ageAll();
  await nextTurn();
  if (!collectGarbage()) {
    // V8 counts array buffers towards its next collection.
    for (let piece = 0; piece < ballastPieces; piece++) {
      void new ArrayBuffer(ballastBytes);
      await nextTurn();
    }
  }
  for (let turn = 0; turn < 2; turn++) await nextTurn();
}

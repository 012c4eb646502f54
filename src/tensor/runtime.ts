/** Tensors and device memory, for those who run plans of their own. */
import type { Device, DeviceBuffer } from "../devices/device/device.ts";
import { DeviceError, InternalError } from "../errors.ts";
import { storage as leafOf } from "../graph/build.ts";
import type { DType } from "../graph/dtype.ts";
import type { Node } from "../graph/node.ts";
import { type Shape, size } from "../graph/shape.ts";
import { bytesOf } from "../graph/words.ts";
import { realizeNow } from "./eager/evaluate.ts";
import { refuseInTrace } from "./eager/frame.ts";
import { bring } from "./eager/memory.ts";
import { compute, exclusively } from "./eager/realize.ts";
import { isDue, storageOf, valueOf } from "./eager/record.ts";
import { Storage } from "./eager/storage.ts";
import { Tensor } from "./tensor.ts";

/**
 * The buffer of a tensor's value on a device: computed, and brought there once, where needed. It belongs to the
 * tensor: hold the tensor as long as the buffer is used, and do not write to it without calling `overwritten`.
 */
export function bufferOf(tensor: Tensor, device: Device): Promise<DeviceBuffer> {
  refuseInTrace("bufferOf");
  return exclusively(() => bufferNow(tensor, device));
}

const partOf = new WeakMap<Tensor, Node>();

/** `bufferOf`, to be called inside `exclusively`. */
export async function bufferNow(tensor: Tensor, device: Device): Promise<DeviceBuffer> {
  const { node } = tensor;
  if (valueOf(node) === undefined || isDue(node)) {
    if (tensor.alias === undefined) await realizeNow([tensor]);
    else await compute([node]);
  }
  const leaf = valueOf(node);
  // The part of an alias was copied out: its buffer lives as long as its node.
  if (tensor.alias !== undefined) partOf.set(tensor, node);
  if (leaf === undefined) {
    throw new InternalError("bufferOf", { got: "a node without a value", need: "a computed one" });
  }
  return await bring(storageOf(leaf), device);
}

/** A tensor that owns a buffer, bound to its device. Throws DeviceError when the buffer is too small. */
export function adopt(device: Device, buffer: DeviceBuffer, shape: Shape, dtype: DType): Tensor {
  return new Tensor(leafOfBuffer(device, buffer, shape, dtype, device.id), true);
}

function leafOfBuffer(device: Device, buffer: DeviceBuffer, shape: Shape, dtype: DType, id: number | undefined): Node {
  const bytes = bytesOf(dtype, size(shape));
  if (buffer.bytes < bytes) {
    throw new DeviceError("adopt", { got: `a buffer of ${buffer.bytes} bytes`, need: `${bytes} bytes` });
  }
  return leafOf(Storage.ofBuffer(device, buffer, dtype, size(shape)), shape, dtype, id);
}

/**
 * The tensor shows this buffer from now on, and owns it; it stays bound to the device that it was bound to, or to
 * none.
 */
export function replaceBuffer(tensor: Tensor, device: Device, buffer: DeviceBuffer): void {
  const bound = tensor.device;
  if (bound !== undefined && bound !== device) {
    throw new DeviceError("replaceBuffer", {
      got: `a buffer on ${device.name}`,
      need: `one on ${bound.name}, where the tensor is`,
    });
  }
  tensor.bind(leafOfBuffer(device, buffer, tensor.shape, tensor.dtype, bound?.id));
}

/** Whether a plan may write over the tensor's buffer on `device`: nothing else needs the old value. */
export function mayOverwrite(tensor: Tensor, device: Device): boolean {
  if (tensor.alias !== undefined || !tensor.isOnlyHandle) return false;
  const { node } = tensor;
  if (node.op !== "storage") return false;
  const storage = storageOf(node);
  return storage.readers === 0 && storage.exists && storage.exclusive && storage.present(device) !== undefined;
}

/**
 * A plan wrote over the tensor's buffer on `device` (by default the one that holds it): the handle shows the new
 * version, copies elsewhere are dropped.
 */
export function overwritten(tensor: Tensor, device?: Device): void {
  const { node } = tensor;
  const place = device ?? (node.op === "storage" ? storageOf(node).home : undefined);
  if (node.op !== "storage" || place === undefined) {
    throw new InternalError("overwritten", { got: `a ${node.op} node`, need: "data that exists on a device" });
  }
  tensor.bind(leafOf(storageOf(node).overwrite(place), tensor.shape, tensor.dtype, node.device));
}

/**
 * Which tensors of a module are trained and which are only kept: marks, not classes, so that both stay plain tensors.
 */
import { DTypeError } from "../errors.ts";
import { type DType, dtypes, type HostArray } from "../graph/dtype.ts";
import type { Node } from "../graph/node.ts";
import { size } from "../graph/shape.ts";
import { fromHost } from "../tensor/create.ts";
import { storageOf, valueOf } from "../tensor/record.ts";
import type { Tensor } from "../tensor/tensor.ts";

const roles = new WeakMap<Tensor, "parameter" | "buffer">();

/**
 * Marks a tensor as a parameter: `Module.parameters()` finds it, optimizers train it, `stateDict` keeps it. What is
 * returned starts with the value of `value` and is a leaf of its own, with no history.
 * Throws DTypeError unless it is f32.
 */
export function parameter(value: Tensor): Tensor<"f32"> {
  if (value.dtype !== "f32") {
    throw new DTypeError("nn.parameter", { got: value.dtype, need: "f32, in which weights are kept: cast them where they are used" });
  }
  return mark(ownLeaf(value) as Tensor<"f32">, "parameter");
}

/**
 * Marks a tensor as a buffer: state that is saved and moved with the module, but not trained (running statistics,
 * tables).
 */
export function buffer<D extends DType>(value: Tensor<D>): Tensor<D> {
  return mark(ownLeaf(value), "buffer");
}

export function isParameter(value: Tensor): boolean {
  return roles.get(value) === "parameter";
}

export function isBuffer(value: Tensor): boolean {
  return roles.get(value) === "buffer";
}

function mark<D extends DType>(tensor: Tensor<D>, role: "parameter" | "buffer"): Tensor<D> {
  roles.set(tensor, role);
  return tensor;
}

/** A tensor of the same value with no history. */
function ownLeaf<D extends DType>(value: Tensor<D>): Tensor<D> {
  const host = hostValue(value.node);
  return host === undefined ? value.detach() : fromHost(host, value.shape, value.dtype, value.device);
}

/** A copy of the value where the host has it already, or knows it as a constant. */
function hostValue(node: Node): HostArray | undefined {
  let source = node;
  while (source.op === "expand" || source.op === "reshape") source = source.src[0]!;
  if (source.op === "const") return new dtypes[node.dtype].array(size(node.shape)).fill(source.attrs.value);
  const leaf = valueOf(node);
  return leaf === undefined ? undefined : storageOf(leaf).host?.slice();
}

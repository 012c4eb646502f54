/** Which tensors of a module are trained and which are only kept: marks, not classes, so that both stay plain tensors. */
import { DTypeError } from "../errors.ts";
import type { Tensor } from "../tensor/tensor.ts";

const roles = new WeakMap<Tensor, "parameter" | "buffer">();

/**
 * Marks a tensor as a parameter: `Module.parameters()` finds it, optimizers train it, `stateDict` keeps it.
 * The tensor becomes a leaf of its own, so that its gradient is not mixed up with that of an equal one.
 * Throws DTypeError unless it is f32.
 */
export function parameter(value: Tensor): Tensor {
  if (value.dtype !== "f32") throw new DTypeError("nn.parameter", { got: value.dtype, need: "f32, as only that has gradients" });
  const own = value.detach();
  roles.set(own, "parameter");
  return own;
}

/** Marks a tensor as a buffer: state that is saved and moved with the module, but not trained (running statistics, tables). */
export function buffer(value: Tensor): Tensor {
  const own = value.detach();
  roles.set(own, "buffer");
  return own;
}

export function isParameter(value: Tensor): boolean {
  return roles.get(value) === "parameter";
}

export function isBuffer(value: Tensor): boolean {
  return roles.get(value) === "buffer";
}

/**
 * Which tensors of a module are trained and which are only kept: marks, not classes, so that both stay plain tensors.
 */
import { ArgumentError, DTypeError, ShapeError } from "../../errors.ts";
import { type DType, dtypes, type HostArray } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import { formatShape, sameShape, type Shape, size } from "../../graph/shape.ts";
import { show } from "../../signature/show.ts";
import { takes } from "../../signature/takes.ts";
import { fromHost } from "../../tensor/create.ts";
import { storageOf, valueOf } from "../../tensor/eager/record.ts";
import { isTensor, type Tensor, tensorKind } from "../../tensor/tensor.ts";
import type { Fan, Initializer } from "./init.ts";

/** What is frozen counts as a buffer, until it is a parameter again. */
const roles = new WeakMap<Tensor, "parameter" | "buffer" | "frozen">();

const signatures = {
  parameter: takes("nn.parameter", { value: tensorKind }),
  buffer: takes("nn.buffer", { value: tensorKind }),
  isParameter: takes("nn.isParameter", { value: tensorKind }),
  isBuffer: takes("nn.isBuffer", { value: tensorKind }),
};

/**
 * Marks a tensor as a parameter: `Module.parameters()` finds it, optimizers train it, `stateDict` keeps it. What is
 * returned starts with the value of `value` and is a leaf of its own, with no history.
 * Throws DTypeError unless it is f32.
 */
export function parameter(value: Tensor): Tensor<"f32"> {
  signatures.parameter.check(arguments);
  if (value.dtype !== "f32") {
    throw new DTypeError("nn.parameter", {
      got: value.dtype,
      need: "f32, in which weights are kept: cast them where they are used",
    });
  }
  return mark(ownLeaf(value) as Tensor<"f32">, "parameter");
}

/**
 * A parameter of a layer, with the first value that `init` makes. Throws ArgumentError where that is no Tensor, ShapeError where
 * it has another shape.
 */
export function initialized(op: string, init: Initializer, shape: Shape, fan: Fan): Tensor<"f32"> {
  const value: unknown = init(shape, fan);
  if (!isTensor(value)) {
    throw new ArgumentError(op, { got: `an init that returns ${show(value)}`, need: "one that returns a Tensor" });
  }
  if (sameShape(value.shape, shape)) return parameter(value);
  throw new ShapeError(op, { got: `an init that returns ${formatShape(value.shape)}`, need: formatShape(shape) });
}

/**
 * Marks a tensor as a buffer: state that is saved and moved with the module, but not trained (running statistics,
 * tables).
 */
export function buffer<D extends DType>(value: Tensor<D>): Tensor<D> {
  signatures.buffer.check(arguments);
  return mark(ownLeaf(value), "buffer");
}

/** Whether a tensor is a parameter: trained with the module that it is in. */
export function isParameter(value: Tensor): boolean {
  signatures.isParameter.check(arguments);
  return roles.get(value) === "parameter";
}

/** Whether a tensor is a buffer: saved and moved with its module, not trained. */
export function isBuffer(value: Tensor): boolean {
  signatures.isBuffer.check(arguments);
  const role = roles.get(value);
  return role === "buffer" || role === "frozen";
}

/** Makes a parameter a buffer. */
export function freeze(value: Tensor): void {
  if (!isParameter(value)) return;
  roles.set(value, "frozen");
  // Not a part of what is trained any more.
  if (value.alias !== undefined) value.assign(value.detach());
}

/** Makes what was frozen a parameter again. */
export function unfreeze(value: Tensor): void {
  if (roles.get(value) === "frozen") roles.set(value, "parameter");
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

/** Many parameters in one flat tensor, so that an update of all of them is one kernel. */
import { ArgumentError, DTypeError } from "../../errors.ts";
import { flats } from "../../parallel/run/flats.ts";
import { concat } from "../../tensor/create.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/** Parameters that are views of one flat tensor: each starts at its offset, in elements. */
export interface Packed {
  readonly base: Tensor;
  readonly offsets: readonly number[];
}

/**
 * Lays parameters end to end in a flat f32 tensor of which they become views. Parameters that lie so already stay.
 * Throws DTypeError for one that is not f32, ArgumentError when there is none or one stands twice.
 */
export function pack(op: string, parameters: readonly Tensor[]): Packed {
  if (parameters.length === 0) throw new ArgumentError(op, { got: "no parameters", need: "at least one" });
  if (new Set(parameters).size !== parameters.length) {
    throw new ArgumentError(op, { got: "a parameter twice", need: "each once" });
  }
  for (const parameter of parameters) {
    if (parameter.dtype !== "f32") throw new DTypeError(op, { got: `a parameter of ${parameter.dtype}`, need: "f32" });
  }
  const offsets: number[] = [];
  let length = 0;
  for (const parameter of parameters) {
    offsets.push(length);
    length += parameter.size;
  }
  const known = parameters[0]!.alias?.base;
  if (known !== undefined && known.size === length && isPacked({ base: known, offsets }, parameters)) {
    return { base: known, offsets };
  }
  const base = concat(parameters.map((parameter) => parameter.flatten()));
  flats.add(base);
  parameters.forEach((parameter, i) => parameter.aliasOf(base, offsets[i]!));
  return { base, offsets };
}

/** Whether the parameters are still the views that `pack` made of them. */
export function isPacked(packed: Packed, parameters: readonly Tensor[]): boolean {
  return parameters.every((parameter, i) =>
    parameter.alias?.base === packed.base && parameter.alias.offset === packed.offsets[i]
  );
}

/** Assigns values to tensors; those that are views of a flat tensor stay so, and the flat tensor is assigned once. */
export function assignAll(pairs: readonly (readonly [tensor: Tensor, value: Tensor])[]): void {
  const views = new Map<Tensor, { offset: number; value: Tensor }[]>();
  for (const [tensor, value] of pairs) {
    const { alias } = tensor;
    if (alias === undefined) tensor.assign(value);
    else views.set(alias.base, [...views.get(alias.base) ?? [], { offset: alias.offset, value }]);
  }
  for (const [base, pieces] of views) {
    const parts: Tensor[] = [];
    let end = 0;
    const keepUntil = (offset: number) => {
      if (offset > end) parts.push(base.slice({ start: end, end: offset }));
    };
    for (const { offset, value } of pieces.sort((a, b) => a.offset - b.offset)) {
      keepUntil(offset);
      parts.push(value.flatten());
      end = offset + value.size;
    }
    keepUntil(base.size);
    base.assign(concat(parts));
  }
}

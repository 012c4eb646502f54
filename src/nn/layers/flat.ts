/** Parameters as views of one flat tensor, for updates without the trainer. */
import { FlatParameters } from "../../parallel/train/flat-parameters.ts";
import { concat } from "../../tensor/create.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/** Parameters and the flat tensor that they are views of. */
export interface Packed {
  readonly base: Tensor;
  readonly layout: FlatParameters;
}

/**
 * Lays parameters end to end in a flat f32 tensor of which they become views. Parameters that lie so already stay.
 * Throws as `FlatParameters`.
 */
export function pack(op: string, parameters: readonly Tensor[]): Packed {
  const layout = new FlatParameters(op, parameters, { aligned: false });
  const known = parameters[0]?.alias?.base;
  if (known !== undefined && known.size === layout.length && layout.areViewsOf(known)) return { base: known, layout };
  const base = concat(parameters.map((parameter) => parameter.flatten()));
  layout.showIn(base);
  return { base, layout };
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

/** Kinds of arguments that tensors have to do with. */
import type { Device } from "../devices/device/device.ts";
import { device } from "../devices/device/kinds.ts";
import { DTypeError } from "../errors.ts";
import { type DType, dtypeNames, isDType } from "../graph/dtype.ts";
import { anything, either, type Kind, listOf, number, oneOf, rest } from "../signature/kinds.ts";
import { nearest } from "../signature/nearest.ts";
import { show } from "../signature/show.ts";
import type { Padding, PerAxis } from "./ops/windows.ts";

export { device };
export const shape: Kind<readonly number[]> = listOf(number, "a shape, a list of lengths such as [2, 3]");
/** A shape, or its lengths as arguments of their own. */
export const lengths: Kind<number | readonly number[]> = rest(either(shape, number));
export const axis: Kind<number> = { ...number, need: "the number of an axis" };
export const axes: Kind<number | readonly number[]> = either(axis, listOf(number, "a list of such"));
export const perAxis: Kind<PerAxis> = either(number, listOf(number, "a number for each axis"));
export const padding: Kind<Padding> = either(perAxis, oneOf("same", "valid"));

export const dtype: Kind<DType> = {
  need: dtypeNames.join(", "),
  accepts: isDType,
  error: DTypeError,
  refuse(name, x) {
    const meant = typeof x === "string" ? nearest(x, dtypeNames) : undefined;
    return {
      got: `${name} ${show(x)}`,
      need: `one of ${dtypeNames.join(", ")}${meant === undefined ? "" : `: did you mean ${meant}?`}`,
    };
  },
};

export const devices: Kind<readonly Device[]> = listOf(device, "a list of devices, as from await devices()");

/** What is no tree is told where it is taken apart, with its place. */
export const tree: Kind<never> = { ...anything, need: "a Tensor, or lists and records of them" };
export const trees: Kind<readonly never[]> = listOf(tree, "a list of trees of Tensors, one for each shard");

/** Kinds of arguments that tensors have to do with. */
import type { Device } from "../devices/device.ts";
import { DTypeError } from "../errors.ts";
import { type DType, dtypeNames, isDType } from "../graph/dtype.ts";
import { either, type Kind, listOf, number, oneOf, rest } from "../signature/kinds.ts";
import { nearest } from "../signature/nearest.ts";
import { show } from "../signature/show.ts";
import type { Padding, PerAxis } from "./windows.ts";

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
    return { got: `${name} ${show(x)}`, need: `one of ${dtypeNames.join(", ")}${meant === undefined ? "" : `: did you mean ${meant}?`}` };
  },
};

/** By what is asked of one, as there are several classes of them, and wrapped ones. */
export const device: Kind<Device> = {
  need: "a device, one of devices()",
  accepts: (x) => typeof x === "object" && x !== null && typeof (x as Device).id === "number" && typeof (x as Device).alloc === "function",
};

/** Powers of two to scale by, so that squares stay in f32's range. */
import { bitcast, elementwise, full } from "./build.ts";
import type { Node } from "./node.ts";

/** The bits of 2^exponent. */
const power = (exponent: number) => (127 + exponent) * 2 ** 23;

/**
 * A power of two within a factor of two below |x|, and its inverse; at least 2^-100 and at most 2^100, so that a few of
 * them can be multiplied. x over it has a square in f32's range, however large or small x is. Products with them are exact.
 * No gradient flows into them.
 */
export function powersOfTwo(x: Node): { readonly power: Node; readonly inverse: Node } {
  const constant = (value: number) => full(x.shape, value, "u32");
  const exponent = elementwise("and", bitcast(x, "u32"), constant(0x7f800000));
  const bits = elementwise("min", elementwise("max", exponent, constant(power(-100))), constant(power(100)));
  return { power: bitcast(bits, "f32"), inverse: bitcast(elementwise("sub", constant(2 * power(0)), bits), "f32") };
}

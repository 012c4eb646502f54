/** Addition as all devices can make it. */

/** f32 numbers nearer to 0 are subnormal. */
export const smallestNormal: number = 2 ** -126;

/** The sum of two f32, rounded to f32; operands and results that are subnormal count as 0, of which the sign is lost. */
export function flushedAdd(a: number, b: number): number {
  return flushed(Math.fround(flushed(a) + flushed(b)));
}

function flushed(x: number): number {
  return Math.abs(x) < smallestNormal ? 0 : x;
}

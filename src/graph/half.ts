/** IEEE 754 binary16 on the host: 1 sign, 5 exponent and 10 fraction bits. */

const word = new DataView(new ArrayBuffer(8));

/** The least magnitude that rounds to infinity: half a step above the largest half, 65504. */
const overflow = 65520;
/** The exponents of the smallest normal half and of the step between subnormal ones. */
const leastExponent = -14;
const fractionBits = 10;

/** The nearest value that a half can hold, halfway cases to the even one; beyond ±65504 an infinity. NaN stays NaN. */
export function roundToHalf(value: number): number {
  if (!(Math.abs(value) < overflow)) return Number.isNaN(value) ? NaN : value > 0 ? Infinity : -Infinity;
  word.setFloat64(0, value);
  const exponent = Math.max(leastExponent, (word.getUint16(0) >> 4 & 0x7ff) - 1023);
  // Added to a number whose last bit is worth one step of the halves here, the value is rounded to such steps.
  const large = 1.5 * 2 ** (52 - fractionBits + exponent);
  const rounded = value + large - large;
  return rounded === 0 ? value * 0 : rounded;
}

/** The bits of the half that is nearest to a value. */
export function toHalfBits(value: number): number {
  const rounded = roundToHalf(value);
  if (Number.isNaN(rounded)) return 0x7e00;
  const sign = rounded < 0 || Object.is(rounded, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(rounded);
  if (magnitude === Infinity) return sign | 0x7c00;
  if (magnitude < 2 ** leastExponent) return sign | magnitude * 2 ** (fractionBits - leastExponent);
  word.setFloat32(0, magnitude);
  return sign | (word.getUint32(0) - (127 - 15 << 23)) >> 23 - fractionBits;
}

/** `toHalfBits` of many: f32 are rounded by their bits, which is ten times as fast. */
export function allToHalfBits(values: ArrayLike<number>, into: Uint16Array): void {
  if (!(values instanceof Float32Array)) {
    for (let i = 0; i < values.length; i++) into[i] = toHalfBits(values[i]!);
    return;
  }
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const bits = words[i]!;
    const sign = bits >>> 16 & 0x8000;
    const size = bits & 0x7fffffff;
    if (size >= 0x38800000 && size < 0x477ff000) {
      into[i] = sign | size + 0x0fff + (size >> 13 & 1) - 0x38000000 >> 13;
    } else {
      into[i] = size === 0 ? sign : toHalfBits(values[i]!);
    }
  }
}

/** The values of many halves. */
export function allToValues(bits: ArrayLike<number>, into: Float32Array): void {
  const known = halfValues();
  for (let i = 0; i < into.length; i++) into[i] = known[bits[i]!]!;
}

let values: Float32Array | undefined;

/** The values of all halves, by their bits. */
export function halfValues(): Float32Array {
  if (values !== undefined) return values;
  values = new Float32Array(2 ** 16);
  for (let bits = 0; bits < values.length; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = bits >> fractionBits & 0x1f;
    const fraction = bits & 0x3ff;
    values[bits] = exponent === 0x1f
      ? fraction === 0 ? sign * Infinity : NaN
      : sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
  }
  return values;
}

/** Source of functions that kernels call and that belong to no function of f32 in functions.ts, in WGSL and in JavaScript. */

// x * 0 and x - x, of which drivers make 0 before they know x.
export const nothing: string = `fn sw_nothing(x: f32) -> f32 {
  var nan_bits = 0x7fc00000u;
  return select(0.0, bitcast<f32>(nan_bits), (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u);
}`;

// 0 / x, of which they make 0 as well.
export const zeroOver: string = `fn sw_zero_over(x: f32) -> f32 {
  var nan_bits = 0x7fc00000u;
  return select(0.0, bitcast<f32>(nan_bits), (bitcast<u32>(x) & 0x7fffffffu) - 1u >= 0x7f800000u);
}`;

export const f32ToI32: string = `fn sw_f32_to_i32(x: f32) -> i32 {
  let bits = bitcast<u32>(x) & 0x7fffffffu;
  let inside = i32(clamp(x, -2147483648.0, 2147483520.0));
  return select(select(inside, 2147483647, x >= 2147483648.0), 0, bits > 0x7f800000u);
}`;

export const f32ToU32: string = `fn sw_f32_to_u32(x: f32) -> u32 {
  let bits = bitcast<u32>(x) & 0x7fffffffu;
  let inside = u32(clamp(x, 0.0, 4294967040.0));
  return select(select(inside, 4294967295u, x >= 4294967296.0), 0u, bits > 0x7f800000u);
}`;

// An f32 that a half can hold, by integers: WGSL does not say how a conversion to f16 rounds, nor how sums do. Subnormal
// halves are multiples of 2^-24: products with a power of two are exact, and round goes to the even one of two.
export const roundToHalf: string = `fn sw_round_to_half(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  let nearest = (size + 0x0fffu + ((size >> 13u) & 1u)) & 0xffffe000u;
  let small = bitcast<u32>(round(bitcast<f32>(size) * 16777216.0) * 0.000000059604644775390625);
  let finite = select(nearest, small, size < 0x38800000u);
  let rounded = select(finite, select(0x7f800000u, 0x7fc00000u, size > 0x7f800000u), finite > 0x477fe000u);
  return bitcast<f32>(rounded | (bits & 0x80000000u));
}`;

// The same as the half's own bits.
export const halfBits: string = `fn sw_half_bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  let nearest = (size + 0x0fffu + ((size >> 13u) & 1u) - 0x38000000u) >> 13u;
  let small = u32(round(bitcast<f32>(size) * 16777216.0));
  let finite = select(nearest, small, size < 0x38800000u);
  let rounded = select(finite, select(0x7c00u, 0x7e00u, size > 0x7f800000u), size >= 0x477ff000u);
  return rounded | ((bits >> 16u) & 0x8000u);
}`;

export const jsBitcast: string = `const sw_word = new DataView(new ArrayBuffer(4));
function sw_f32_bits(x) { sw_word.setFloat32(0, x); return sw_word.getInt32(0); }
function sw_bits_f32(x) { sw_word.setInt32(0, x); return sw_word.getFloat32(0); }`;

export const jsHalf: string = `const sw_f32 = new Float32Array(1), sw_u32 = new Uint32Array(sw_f32.buffer);
function sw_half(x) {
  sw_f32[0] = x;
  const bits = sw_u32[0], sign = bits >>> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7e00;
  if (size >= 0x477ff000) return sign | 0x7c00;
  if (size >= 0x38800000) return sign | size + 0x0fff + (size >> 13 & 1) - 0x38000000 >> 13;
  return sign | Math.abs(x) * 16777216 + 6755399441055744 - 6755399441055744;
}
function sw_float(half) {
  const size = half & 0x7fff;
  if (size >= 0x7c00) return size > 0x7c00 ? NaN : half === size ? Infinity : -Infinity;
  sw_u32[0] = (half & 0x8000) << 16 | size << 13;
  return sw_f32[0] * 5.192296858534828e33;
}`;

/** By how many bits the rounds of Threefry-2x32 turn the second word. */
export const rotations: readonly number[] = [13, 15, 26, 6, 17, 29, 16, 24];

export const threefry: string = `fn sw_threefry(k0: u32, k1: u32, c0: u32, c1: u32) -> u32 {
  let k2 = 0x1bd11bdau ^ k0 ^ k1;
  var x0 = c0 + k0;
  var x1 = c1 + k1;
${threefryRounds("u").join("\n")}
  return x0;
}`;

export const jsThreefry: string = `function sw_threefry(k0, k1, c0, c1) {
  const k2 = 0x1bd11bda ^ k0 ^ k1;
  let x0 = (c0 + k0) | 0, x1 = (c1 + k1) | 0;
${threefryRounds("").join("\n")}
  return x0 >>> 0;
}`;

/** The twenty rounds of Threefry-2x32, spelled out; `suffix` marks an unsigned literal. */
function threefryRounds(suffix: "u" | ""): string[] {
  const wrap = (x: string) => suffix === "u" ? x : `(${x}) | 0`;
  const right = suffix === "u" ? ">>" : ">>>";
  return Array.from({ length: 20 }, (_, round) => {
    const r = rotations[round % 8]!;
    const step = (round + 1) / 4;
    const inject = round % 4 === 3
      ? ` x0 = ${wrap(`x0 + k${step % 3}`)}; x1 = ${wrap(`x1 + k${(step + 1) % 3} + ${step}${suffix}`)};`
      : "";
    return `  x0 = ${wrap("x0 + x1")}; x1 = ((x1 << ${r}${suffix}) | (x1 ${right} ${32 - r}${suffix})) ^ x0;${inject}`;
  });
}

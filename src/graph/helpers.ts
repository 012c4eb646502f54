export type WgslHelperName =
  | "tanh"
  | "sinh"
  | "asin"
  | "acos"
  | "erf"
  | "log1p"
  | "expm1"
  | "pow"
  | "f32ToI32"
  | "f32ToU32"
  | "roundToHalf"
  | "halfBits"
  | "threefry";
export type JsHelperName = "erf" | "round" | "bitcast" | "half" | "threefry";

/** Functions that op spellings call, in WGSL. Each is emitted into a kernel that names it. */
export const wgslHelpers: Readonly<Record<WgslHelperName, string>> = {
  // Below 0.25 the odd Taylor polynomial (relative error under 1e-7); above, exp's argument is kept in range.
  tanh: `fn sw_tanh(x: f32) -> f32 {
  let z = x * x;
  let small = x * (1.0 + z * (-0.33333334 + z * (0.13333334 + z * (-0.053968254 + z * 0.021869488))));
  let large = sign(x) * (1.0 - 2.0 / (exp(2.0 * min(abs(x), 15.0)) + 1.0));
  return select(large, small, abs(x) < 0.25);
}`,
  // Taylor series below 1 (relative error under 3e-8).
  sinh: `fn sw_sinh(x: f32) -> f32 {
  let z = x * x;
  let small = x + x * z * (0.16666667 + z * (0.0083333338 + z * (0.0001984127 + z * 0.0000027557319)));
  return select(sinh(x), small, abs(x) < 1.0);
}`,
  // Cephes' asinf (Moshier): a polynomial to 0.5, beyond it π/2 - 2 asin(√((1 - |x|) / 2)).
  asin: `fn sw_asin(x: f32) -> f32 {
  let a = abs(x);
  let outer = a > 0.5;
  let z = select(x * x, 0.5 * (1.0 - a), outer);
  let s = select(a, sqrt(z), outer);
  let p = s + s * z * (0.16666752 + z * (0.074953003 + z * (0.045470026 + z * (0.024181311 + z * 0.0421632))));
  return sign(x) * select(p, 1.5707963 - 2.0 * p, outer);
}`,
  // The same polynomial; π/2 - asin(x) would lose what is small near 1.
  acos: `fn sw_acos(x: f32) -> f32 {
  let a = abs(x);
  let outer = a > 0.5;
  let z = select(x * x, 0.5 * (1.0 - a), outer);
  let s = select(x, sqrt(z), outer);
  let p = s + s * z * (0.16666752 + z * (0.074953003 + z * (0.045470026 + z * (0.024181311 + z * 0.0421632))));
  return select(1.5707963 - p, select(2.0 * p, 3.1415927 - 2.0 * p, x < 0.0), outer);
}`,
  // Taylor series below 0.5; beyond, Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
  erf: `fn sw_erf(x: f32) -> f32 {
  let a = abs(x);
  let z = x * x;
  let small = x * (1.1283792 + z * (-0.37612638 + z * (0.112837918 + z * (-0.026866171 + z * (0.0052239776 - z * 0.00085483269)))));
  let t = 1.0 / (1.0 + 0.3275911 * a);
  let p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  let large = sign(x) * (1.0 - p * exp(-min(z, 80.0)));
  return select(large, small, a < 0.5);
}`,
  // Kahan's formulas: exact where 1 + x or exp(x) rounds to 1.
  log1p: `fn sw_log1p(x: f32) -> f32 {
  let z = x * x;
  let small = x * (1.0 + x * (-0.5 + x * (0.33333334 + x * (-0.25 + x * (0.2 - x * 0.16666667)))));
  return select(log(1.0 + x), small, abs(x) < 0.0625 && z == z);
}`,
  expm1: `fn sw_expm1(x: f32) -> f32 {
  let small = x * (1.0 + x * (0.5 + x * (0.16666667 + x * (0.041666668 + x * (0.0083333338 + x * 0.0013888889)))));
  return select(exp(x) - 1.0, small, abs(x) < 0.25);
}`,
  // WGSL's pow is undefined for a negative base; here an integer exponent gives the signed power, any other NaN.
  pow: `fn sw_pow(x: f32, y: f32) -> f32 {
  var nan_bits = 0x7fc00000u;
  let r = pow(abs(x), y);
  let odd = abs(y - 2.0 * floor(y * 0.5)) == 1.0;
  let negative = select(select(bitcast<f32>(nan_bits), r, floor(y) == y), -r, odd);
  return select(select(r, negative, x < 0.0), 1.0, y == 0.0);
}`,
  f32ToI32: `fn sw_f32_to_i32(x: f32) -> i32 {
  let bits = bitcast<u32>(x) & 0x7fffffffu;
  let inside = i32(clamp(x, -2147483648.0, 2147483520.0));
  return select(select(inside, 2147483647, x >= 2147483648.0), 0, bits > 0x7f800000u);
}`,
  f32ToU32: `fn sw_f32_to_u32(x: f32) -> u32 {
  let bits = bitcast<u32>(x) & 0x7fffffffu;
  let inside = u32(clamp(x, 0.0, 4294967040.0));
  return select(select(inside, 4294967295u, x >= 4294967296.0), 0u, bits > 0x7f800000u);
}`,
  // An f32 that a half can hold, by integers: WGSL does not say how a conversion to f16 rounds, nor how sums do. Subnormal
  // halves are multiples of 2^-24: products with a power of two are exact, and round goes to the even one of two.
  roundToHalf: `fn sw_round_to_half(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  let nearest = (size + 0x0fffu + ((size >> 13u) & 1u)) & 0xffffe000u;
  let small = bitcast<u32>(round(bitcast<f32>(size) * 16777216.0) * 0.000000059604644775390625);
  let finite = select(nearest, small, size < 0x38800000u);
  let rounded = select(finite, select(0x7f800000u, 0x7fc00000u, size > 0x7f800000u), finite > 0x477fe000u);
  return bitcast<f32>(rounded | (bits & 0x80000000u));
}`,
  // The same as the half's own bits.
  halfBits: `fn sw_half_bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  let nearest = (size + 0x0fffu + ((size >> 13u) & 1u) - 0x38000000u) >> 13u;
  let small = u32(round(bitcast<f32>(size) * 16777216.0));
  let finite = select(nearest, small, size < 0x38800000u);
  let rounded = select(finite, select(0x7c00u, 0x7e00u, size > 0x7f800000u), size >= 0x477ff000u);
  return rounded | ((bits >> 16u) & 0x8000u);
}`,
  threefry: `fn sw_threefry(k0: u32, k1: u32, c0: u32, c1: u32) -> u32 {
  let k2 = 0x1bd11bdau ^ k0 ^ k1;
  var x0 = c0 + k0;
  var x1 = c1 + k1;
${threefryRounds("u").join("\n")}
  return x0;
}`,
};

/** Functions that op spellings call, in JavaScript. */
export const jsHelpers: Readonly<Record<JsHelperName, string>> = {
  erf: `function sw_erf(x) {
  const a = Math.abs(x), z = x * x;
  if (a < 0.5) return x * (1.1283791670955126 + z * (-0.37612638903183754 + z * (0.11283791670955126 + z * (-0.026866170645131252 + z * (0.005223977625442188 - z * 0.0008548327023450852)))));
  const t = 1 / (1 + 0.3275911 * a);
  const p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - p * Math.exp(-z));
}`,
  round: `function sw_round(x) {
  const f = Math.floor(x), r = x - f;
  return r !== 0.5 ? Math.round(x) : f % 2 === 0 ? f : f + 1;
}`,
  bitcast: `const sw_word = new DataView(new ArrayBuffer(4));
function sw_f32_bits(x) { sw_word.setFloat32(0, x); return sw_word.getInt32(0); }
function sw_bits_f32(x) { sw_word.setInt32(0, x); return sw_word.getFloat32(0); }`,
  half: `const sw_f32 = new Float32Array(1), sw_u32 = new Uint32Array(sw_f32.buffer);
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
}`,
  threefry: `function sw_threefry(k0, k1, c0, c1) {
  const k2 = 0x1bd11bda ^ k0 ^ k1;
  let x0 = (c0 + k0) | 0, x1 = (c1 + k1) | 0;
${threefryRounds("").join("\n")}
  return x0 >>> 0;
}`,
};

/** The twenty rounds of Threefry-2x32, spelled out; `suffix` marks an unsigned literal. */
function threefryRounds(suffix: "u" | ""): string[] {
  const rotations = [13, 15, 26, 6, 17, 29, 16, 24];
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

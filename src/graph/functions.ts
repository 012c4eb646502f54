/**
 * Functions of f32 that cost many instructions. WGSL gets our own where drivers are not to be trusted: near 0, far out, for NaN
 * and infinities. What a record's spelling calls stands in the record; vector code in lane-functions.ts and wide-functions.ts.
 */
import { call, type ElementwiseOp, float } from "./elementwise-op.ts";
import * as lanes from "./lane-functions.ts";
import { applied, applied2, type LaneOps, type Lanes } from "./lanes.ts";
import * as wide from "./wide-functions.ts";

// x less a multiple of 2π, between -π and π, where x is beyond 64; drivers go wrong somewhere beyond that. Payne and Hanek
// (1983): of 2/π only those 96 bits count whose products with x's 24 are neither multiples of 4 nor too small to matter.
// The 64 bits of the product that stay are quarters of a turn, in units of 2^-62.
const turn = `fn sw_high(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let lh = al * bh;
  let hl = ah * bl;
  let carry = ((al * bl) >> 16u) + (lh & 0xffffu) + (hl & 0xffffu);
  return ah * bh + (lh >> 16u) + (hl >> 16u) + (carry >> 16u);
}
fn sw_turn(x: f32) -> f32 {
  let bits = bitcast<u32>(x) & 0x7fffffffu;
  if (bits <= 0x42800000u) { return x; }
  if (bits >= 0x7f800000u) {
    var nan_bits = 0x7fc00000u;
    return bitcast<f32>(nan_bits);
  }
  var words = array<u32, 7>(0u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u);
  let m = (bits << 8u) | 0x80000000u;
  let s = (bits >> 23u) - 128u;
  let at = s >> 5u;
  let left = s & 31u;
  let right = 31u - left;
  let a = (words[at] << left) | ((words[at + 1u] >> 1u) >> right);
  let b = (words[at + 1u] << left) | ((words[at + 2u] >> 1u) >> right);
  let c = (words[at + 2u] << left) | ((words[at + 3u] >> 1u) >> right);
  var low = m * b + sw_high(m, c);
  var high = m * a + sw_high(m, b) + select(0u, 1u, low < m * b);
  let back = high >= 0x80000000u;
  if (back) {
    low = ~low + 1u;
    high = ~high + select(0u, 1u, low == 0u);
  }
  let angle = (f32(high) * 0.00000000093132257 + f32(low) * 2.1684043e-19) * 1.5707964;
  return select(angle, -angle, back != (x < 0.0));
}`;

/** Vector code of a function. */
type Vector = (v: LaneOps, x: Lanes) => Lanes;

/** A function that both JavaScript and WGSL have. */
function native(f64: (x: number) => number, name: string, wasm: Vector): ElementwiseOp {
  return {
    arity: 1,
    takes: float,
    gives: "same",
    f64,
    js: call(`Math.${name}`),
    wgsl: call(name),
    wasm: applied(wasm),
    heavy: true,
  };
}

/** One for which WGSL has `helper`, the function sw_name. */
function own(f64: (x: number) => number, name: string, wasm: Vector, helper: string): ElementwiseOp {
  return { ...native(f64, name, wasm), wgsl: call(`sw_${name}`), wgslHelper: helper };
}

/** One of `turn`ed arguments. */
function circular(f64: (x: number) => number, name: string, wasm: Vector): ElementwiseOp {
  return { ...native(f64, name, wasm), wgsl: (x) => `${name}(sw_turn(${x[0]}))`, wgslHelper: turn };
}

/** Names of these functions: spelled out, so that the types of the public API need no inference. */
export type FunctionName =
  | "cbrt"
  | "exp"
  | "expUnder"
  | "expm1"
  | "log"
  | "log1p"
  | "sin"
  | "cos"
  | "tan"
  | "asin"
  | "acos"
  | "atan"
  | "sinh"
  | "cosh"
  | "tanh"
  | "erf"
  | "pow"
  | "atan2"
  | "frem";

export const functions: Readonly<Record<FunctionName, ElementwiseOp>> = {
  // 1 / ∛x from a third of the exponent, right to 3.5 %, by two steps of Newton's method without a division; then one for ∛x,
  // in which no power of it leaves the range. A subnormal, which a device may take for 0, is as many times 2^-149.
  cbrt: own(
    Math.cbrt,
    "cbrt",
    wide.cbrt,
    `fn sw_cbrt(x: f32) -> f32 {
  let size = bitcast<u32>(x) & 0x7fffffffu;
  let tiny = size < 0x00800000u;
  let a = select(bitcast<f32>(size), f32(size) * 2.0, tiny);
  var r = bitcast<f32>(0x54a21d2au - bitcast<u32>(a) / 3u);
  r *= 1.3333334 - a * r * r * r * 0.33333334;
  r *= 1.3333334 - a * r * r * r * 0.33333334;
  let y = a * r * r;
  let root = (y - (y - a / (y * y)) * 0.33333334) * select(1.0, 8.8817842e-16, tiny);
  return select(bitcast<f32>(bitcast<u32>(root) | (bitcast<u32>(x) & 0x80000000u)), x, size - 1u >= 0x7f7fffffu);
}`,
  ),
  exp: native(Math.exp, "exp", lanes.exp),
  /** exp(x) of an x that the compiler knows to be at most 0, or infinite: what is between 71 and 89 may give infinity. */
  expUnder: {
    ...native(Math.exp, "exp", lanes.expUnder),
    js: ([x]) => `(${x} > 71 ? Infinity : Math.exp(${x}))`,
  },
  expm1: own(
    Math.expm1,
    "expm1",
    wide.expm1,
    `fn sw_expm1(x: f32) -> f32 {
  let small = x * (1.0 + x * (0.5 + x * (0.16666667 + x * (0.041666668 + x * (0.0083333338 + x * 0.0013888889)))));
  return select(select(exp(x) - 1.0, small, abs(x) < 0.25), x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}`,
  ),
  // -∞ at 0, and not a number where x is none or negative, whatever the driver has there.
  log: own(
    Math.log,
    "log",
    lanes.log,
    `fn sw_log(x: f32) -> f32 {
  var beyond = 0xff800000u;
  let bits = bitcast<u32>(x);
  let zero = (bits & 0x7fffffffu) == 0u;
  beyond |= select(0x400000u, 0u, zero);
  return select(log(x), bitcast<f32>(beyond), zero || bits > 0x7f800000u);
}`,
  ),
  // Kahan's formulas: exact where 1 + x or exp(x) rounds to 1.
  log1p: own(
    Math.log1p,
    "log1p",
    wide.log1p,
    `fn sw_log1p(x: f32) -> f32 {
  var beyond = 0xff800000u;
  let bits = bitcast<u32>(x);
  beyond |= select(0x400000u, 0u, bits == 0xbf800000u);
  let z = x * x;
  let small = x * (1.0 + x * (-0.5 + x * (0.33333334 + x * (-0.25 + x * (0.2 - x * 0.16666667)))));
  let r = select(log(1.0 + x), small, abs(x) < 0.0625 && z == z);
  return select(r, bitcast<f32>(beyond), (bits & 0x7fffffffu) > 0x7f800000u || bits >= 0xbf800000u);
}`,
  ),
  sin: circular(Math.sin, "sin", lanes.sin),
  cos: circular(Math.cos, "cos", lanes.cos),
  tan: circular(Math.tan, "tan", wide.tan),
  // Cephes' asinf (Moshier): a polynomial to 0.5, beyond it π/2 - 2 asin(√((1 - |x|) / 2)).
  asin: own(
    Math.asin,
    "asin",
    wide.asin,
    `fn sw_asin(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let a = abs(x);
  let outer = a > 0.5;
  let z = select(x * x, 0.5 * (1.0 - a), outer);
  let s = select(a, sqrt(z), outer);
  let p = s + s * z * (0.16666752 + z * (0.074953003 + z * (0.045470026 + z * (0.024181311 + z * 0.0421632))));
  let r = select(p, 1.5707963 - 2.0 * p, outer);
  return select(bitcast<f32>(bitcast<u32>(r) | (bits & 0x80000000u)), x, (bits & 0x7fffffffu) > 0x7f800000u);
}`,
  ),
  // The same polynomial; π/2 - asin(x) would lose what is small near 1.
  acos: own(
    Math.acos,
    "acos",
    wide.acos,
    `fn sw_acos(x: f32) -> f32 {
  let a = abs(x);
  let outer = a > 0.5;
  let z = select(x * x, 0.5 * (1.0 - a), outer);
  let s = select(x, sqrt(z), outer);
  let p = s + s * z * (0.16666752 + z * (0.074953003 + z * (0.045470026 + z * (0.024181311 + z * 0.0421632))));
  return select(1.5707963 - p, select(2.0 * p, 3.1415927 - 2.0 * p, x < 0.0), outer);
}`,
  ),
  atan: native(Math.atan, "atan", wide.atan),
  // Taylor series below 1 (relative error under 3e-8). Beyond, e^|x| / 2 as the product of √e^|x| and its half, which a smaller
  // exponent makes: neither exceeds the range before the result does.
  sinh: own(
    Math.sinh,
    "sinh",
    wide.sinh,
    `fn sw_sinh(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let z = x * x;
  let small = x + x * z * (0.16666667 + z * (0.0083333338 + z * (0.0001984127 + z * 0.0000027557319)));
  let root = exp(0.5 * abs(x));
  let half = root * bitcast<f32>(bitcast<u32>(root) - 0x00800000u);
  let r = select(bitcast<f32>(bitcast<u32>(half - 0.25 / half) | (bits & 0x80000000u)), small, abs(x) < 1.0);
  return select(r, x, (bits & 0x7fffffffu) > 0x7f800000u);
}`,
  ),
  cosh: own(
    Math.cosh,
    "cosh",
    wide.cosh,
    `fn sw_cosh(x: f32) -> f32 {
  let root = exp(0.5 * abs(x));
  let half = root * bitcast<f32>(bitcast<u32>(root) - 0x00800000u);
  return select(half + 0.25 / half, x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}`,
  ),
  // Below 0.25 the odd Taylor polynomial (relative error under 1e-7); above, exp's argument is kept in range.
  tanh: own(
    Math.tanh,
    "tanh",
    lanes.tanh,
    `fn sw_tanh(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let z = x * x;
  let small = x * (1.0 + z * (-0.33333334 + z * (0.13333334 + z * (-0.053968254 + z * 0.021869488))));
  let large = 1.0 - 2.0 / (exp(2.0 * min(abs(x), 15.0)) + 1.0);
  let r = select(bitcast<f32>(bitcast<u32>(large) | (bits & 0x80000000u)), small, abs(x) < 0.25);
  return select(r, x, (bits & 0x7fffffffu) > 0x7f800000u);
}`,
  ),
  // Taylor series below 0.5; beyond, Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
  erf: {
    ...own(
      (x) => erf(x),
      "erf",
      lanes.erf,
      `fn sw_erf(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let a = abs(x);
  let z = x * x;
  let small = x * (1.1283792 + z * (-0.37612638 + z * (0.112837918 + z * (-0.026866171 + z * (0.0052239776 - z * 0.00085483269)))));
  let t = 1.0 / (1.0 + 0.3275911 * a);
  let p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  let large = bitcast<f32>(bitcast<u32>(1.0 - p * exp(-min(z, 80.0))) | (bits & 0x80000000u));
  return select(select(large, small, a < 0.5), x, (bits & 0x7fffffffu) > 0x7f800000u);
}`,
    ),
    js: call("sw_erf"),
    jsHelper: `function sw_erf(x) {
  const a = Math.abs(x), z = x * x;
  if (a < 0.5) return x * (1.1283791670955126 + z * (-0.37612638903183754 + z * (0.11283791670955126 + z * (-0.026866170645131252 + z * (0.005223977625442188 - z * 0.0008548327023450852)))));
  const t = 1 / (1 + 0.3275911 * a);
  const p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - p * Math.exp(-z));
}`,
  },
  // WGSL's pow is undefined for a negative base; here an integer exponent gives the signed power, any other NaN.
  pow: {
    arity: 2,
    takes: float,
    gives: "same",
    f64: Math.pow,
    js: call("Math.pow"),
    wgsl: call("sw_pow"),
    wasm: applied2(wide.pow),
    wgslHelper: `fn sw_pow(x: f32, y: f32) -> f32 {
  var nan_bits = 0x7fc00000u;
  let r = pow(abs(x), y);
  let odd = abs(y - 2.0 * floor(y * 0.5)) == 1.0;
  let negative = select(select(bitcast<f32>(nan_bits), r, floor(y) == y), -r, odd);
  let none = max(bitcast<u32>(x) & 0x7fffffffu, bitcast<u32>(y) & 0x7fffffffu) > 0x7f800000u;
  return select(select(select(r, negative, x < 0.0), bitcast<f32>(nan_bits), none), 1.0, y == 0.0);
}`,
    heavy: true,
  },
  atan2: {
    arity: 2,
    takes: float,
    gives: "same",
    f64: Math.atan2,
    js: call("Math.atan2"),
    wgsl: call("atan2"),
    wasm: applied2(wide.atan2),
    heavy: true,
  },
  /** The exact remainder of a / b truncated, with the sign of the dividend, as C's fmod; NaN where b is 0 or a infinite. */
  frem: {
    arity: 2,
    takes: float,
    gives: "same",
    f64: (a, b) => a % b,
    js: (x) => `(${x[0]} % ${x[1]})`,
    wgsl: call("sw_frem"),
    wasm: applied2(wide.frem),
    // The exact remainder, of integers: of x's mantissa times a power of two, eight of its zeros a time, by that of y.
    wgslHelper: `fn sw_frem(x: f32, y: f32) -> f32 {
  let a = bitcast<u32>(x) & 0x7fffffffu;
  let b = bitcast<u32>(y) & 0x7fffffffu;
  if (a >= 0x7f800000u || b > 0x7f800000u || b == 0u) {
    var nan_bits = 0x7fc00000u;
    return bitcast<f32>(nan_bits);
  }
  if (a < b) { return x; }
  let ea = max(a >> 23u, 1u);
  let eb = max(b >> 23u, 1u);
  let divisor = (b & 0x7fffffu) | select(0u, 0x800000u, b >= 0x800000u);
  var rest = ((a & 0x7fffffu) | select(0u, 0x800000u, a >= 0x800000u)) % divisor;
  var zeros = ea - eb;
  while (zeros > 0u && rest > 0u) {
    let some = min(zeros, 8u);
    rest = (rest << some) % divisor;
    zeros -= some;
  }
  if (rest == 0u) { return bitcast<f32>(bitcast<u32>(x) & 0x80000000u); }
  // rest * 2^(eb - 150), whose leading bit goes where that of a normal number is, if there is room below eb.
  let shift = min(countLeadingZeros(rest) - 8u, eb - 1u);
  let shifted = rest << shift;
  let size = select(shifted, (shifted & 0x7fffffu) | ((eb - shift) << 23u), shifted >= 0x800000u);
  return bitcast<f32>(size | (bitcast<u32>(x) & 0x80000000u));
}`,
    heavy: true,
  },
};

/** erf to double precision: its Taylor series to 3, the continued fraction of erfc beyond (Abramowitz and Stegun 7.1.5, 7.1.14). */
function erf(x: number): number {
  const z = Math.abs(x);
  if (Number.isNaN(x)) return x;
  if (z < 3) {
    let term = z;
    let sum = z;
    for (let n = 1; n < 100; n++) {
      term *= -z * z / n;
      sum += term / (2 * n + 1);
    }
    return Math.sign(x) * sum * 2 / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 60; n >= 1; n--) fraction = (n / 2) / (z + fraction);
  return Math.sign(x) * (1 - Math.exp(-z * z) / ((z + fraction) * Math.sqrt(Math.PI)));
}

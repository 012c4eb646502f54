/**
 * Functions of f32 as vector code in f32, four lanes at a time and without branches. Those that f32 is not enough for are in
 * wide-functions.ts. The worst errors found, in units of the last place: exp 0.98, expUnder 1.02, log 0.86, tanh 1.34, sin and cos 1.62, erf 1.25.
 */
import { Floats } from "./lane-arithmetic.ts";
import type { LaneOps, Lanes } from "./lanes.ts";

/** Added to a number that is far smaller, it leaves the nearest integer in the last bits. */
const magic = 1.5 * 2 ** 23;

/** The bits of a power of two are its exponent and this, shifted. */
const bias = 127;

/** ln 2 in two parts (Cody and Waite), the first of few bits: products with small integers are exact. */
const ln2 = [0.693359375, -2.12194440e-4] as const;

/** q of e^r = 1 + r + r² q(r) for |r| ≤ ln 2 / 2, fitted so that the relative error is at most 3.1e-9. */
const expCoefficients = [
  1.3814540579915047e-3,
  8.36874544620514e-3,
  4.166838899254799e-2,
  1.666652113199234e-1,
  4.999999403953552e-1,
] as const;

/** x less the nearest multiple n of ln 2, and a number that has n + `offset` in its last bits. `x` is kept. */
function reduced(f: Floats, x: Lanes, offset: number): readonly [r: Lanes, last: Lanes] {
  const { v } = f;
  const last = v.keep(f.add(f.mul(x, f.number(Math.LOG2E)), f.number(magic + offset)));
  const n = v.keep(f.sub(last, f.number(magic + offset)));
  return [v.keep(f.sub(f.sub(x, f.mul(n, f.number(ln2[0]))), f.mul(n, f.number(ln2[1])))), last];
}

/** e^ of what is left of x by `reduced`, times a power of two, and its other result. */
function expParts(f: Floats, x: Lanes, offset: number, times = 1): readonly [y: Lanes, last: Lanes] {
  const [r, last] = reduced(f, x, offset);
  const square = f.v.keep(f.mul(r, r));
  const q = f.estrin(r, expCoefficients.map((c) => c * times));
  const linear = times === 1 ? r : f.mul(r, f.number(times));
  return [f.add(f.add(f.mul(q, square), linear), f.number(times)), last];
}

/** e^x of what is between -87 and 88: neither subnormal nor infinite. NaN stays. */
function expInside(f: Floats, x: Lanes): Lanes {
  const [y, last] = expParts(f, x, bias);
  return f.mul(y, f.v.shift("i32x4.shl", last, 23));
}

/** e^x, multiplied by its power of two in two steps, so that what is subnormal or infinite comes out so. NaN stays. */
export function exp(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const x = v.keep(f.max(f.min(of, f.number(89)), f.number(-104)));
  const [y, twice] = expParts(f, x, 2 * bias);
  // Bits that are no exponent's are shifted out.
  const half = v.keep(v.shift("i32x4.shr_u", twice, 1));
  const power = (exponent: Lanes) => v.shift("i32x4.shl", exponent, 23);
  return f.mul(f.mul(y, power(half)), power(v.op("i32x4.sub", twice, half)));
}

/**
 * e^x of x up to 71; from there on infinity. So 2^24 times the power of two is neither subnormal nor infinite, and the polynomial has
 * the rest: what is subnormal comes out so.
 */
export function expUnder(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  // Of the largest the exponent is that of infinity, of the smallest 1.
  const x = v.keep(f.max(f.min(of, f.number(72.125)), f.number(-104)));
  const [y, last] = expParts(f, x, bias + 24, 2 ** -24);
  return f.mul(y, v.shift("i32x4.shl", last, 23));
}

/** Cephes' logf (Moshier): a polynomial of the mantissa between √½ and √2, and the exponent times ln 2. */
export function log(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const x = v.keep(of);
  // A subnormal has its exponent where it is multiplied by 2^23.
  const tiny = v.keep(f.lt(x, f.number(2 ** -126)));
  const scaled = v.select(tiny, f.mul(x, f.number(2 ** 23)), x);
  // Less the bits of √½, the exponent is above bit 23.
  const root = 0x3f3504f3;
  const shifted = v.keep(v.op("i32x4.sub", scaled, v.bits(root)));
  const e = v.keep(f.sub(
    v.op("f32x4.convert_i32x4_s", v.shift("i32x4.shr_s", shifted, 23)),
    f.and(tiny, f.number(23)),
  ));
  const mantissa = v.op("i32x4.add", f.and(shifted, v.bits(0x007fffff)), v.bits(root));
  const z = v.keep(f.sub(mantissa, f.number(1)));
  const square = v.keep(f.mul(z, z));
  const p = f.estrin(z, [
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
  ]);
  const y = f.sub(
    f.add(f.mul(f.mul(p, z), square), f.mul(e, f.number(ln2[1]))),
    f.mul(square, f.number(0.5)),
  );
  const inside = f.add(f.add(z, y), f.mul(e, f.number(ln2[0])));
  // ∞ and NaN are themselves; -∞ at 0; below it all ones, which are NaN.
  const beyond = f.or(v.select(f.eq(x, f.number(0)), f.number(-Infinity), x), f.lt(x, f.number(0)));
  // All positive numbers but ∞, as integers from 1 on.
  const normal = v.op("i32x4.lt_u", v.op("i32x4.sub", x, v.bits(1)), v.bits(0x7f7fffff));
  return v.select(normal, inside, beyond);
}

/** Cephes' tanhf (Moshier): a polynomial below 0.625, beyond it 1 - 2 / (e^2x + 1). */
export function tanh(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const x = v.keep(of);
  const a = v.keep(f.abs(x));
  const z = v.keep(f.mul(x, x));
  const p = f.poly(z, [
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
  ]);
  const small = f.add(f.mul(f.mul(p, z), a), a);
  const doubled = v.keep(f.min(f.add(a, a), f.number(20)));
  const large = f.sub(f.number(1), f.div(f.number(2), f.add(expInside(f, doubled), f.number(1))));
  return f.or(v.select(f.lt(a, f.number(0.625)), small, large), f.sign(x));
}

/**
 * π/2 in four parts, of so few bits that products of the first three with quarter turns up to 8192 are exact. The last is taken off
 * what is small of a sine: taken off the rest, that would be rounded twice.
 */
const quarterTurn = [1.5703125, 4.837512969970703125e-4, 7.549533620476723e-8] as const;
const quarterTurnLow = 2.5633441515971907e-12;

/**
 * sin(x + quarter π/2): Cody and Waite's reduction, the polynomials of Cephes' sinf and cosf (Moshier). Beyond 8192 as the host
 * computes it.
 */
function circular(v: LaneOps, of: Lanes, quarter: 0 | 1): Lanes {
  const f = new Floats(v, "f32x4");
  const x = v.keep(of);
  const last = v.keep(f.add(f.mul(x, f.number(2 / Math.PI)), f.number(magic)));
  const n = v.keep(f.sub(last, f.number(magic)));
  const near = v.keep(quarterTurn.reduce((rest, part) => f.sub(rest, f.mul(n, f.number(part))), x));
  const low = v.keep(f.mul(n, f.number(quarterTurnLow)));
  const r = v.keep(f.sub(near, low));
  const q = quarter === 0 ? last : v.keep(v.op("i32x4.add", last, v.bits(1)));
  const z = v.keep(f.mul(r, r));
  // 0 is added so that of a negative zero the product is one, too.
  const p = f.mul(f.poly(z, [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1]), z);
  const sine = f.add(f.sub(f.mul(f.add(p, f.number(0)), r), low), near);
  const c = f.poly(z, [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2]);
  const cosine = f.add(f.sub(f.mul(f.mul(c, z), z), f.mul(z, f.number(0.5))), f.number(1));
  const odd = v.op("i32x4.eq", f.and(q, v.bits(1)), v.bits(1));
  const result = f.xor(v.select(odd, cosine, sine), v.shift("i32x4.shl", f.and(q, v.bits(2)), 30));
  return v.rarely(f.lt(f.number(8192), f.abs(x)), quarter === 0 ? "sin" : "cos", [x], result);
}

export function sin(v: LaneOps, x: Lanes): Lanes {
  return circular(v, x, 0);
}

export function cos(v: LaneOps, x: Lanes): Lanes {
  return circular(v, x, 1);
}

/** Two polynomials of N. Juffa's: odd in x to 0.921875, 1 - e^p(|x|) beyond, which is 1 from 4 on. */
export function erf(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const x = v.keep(of);
  const a = v.keep(f.min(f.abs(x), f.number(4.125)));
  const z = v.keep(f.mul(a, a));
  const small = f.add(
    f.mul(
      f.poly(z, [-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1]),
      a,
    ),
    a,
  );
  const p = v.keep(f.sub(
    f.mul(
      f.estrin(a, [
        -1.72853470e-5,
        3.83197126e-4,
        -3.88396438e-3,
        2.42546219e-2,
        -1.06777877e-1,
        -6.34846687e-1,
        -1.28717512e-1,
      ]),
      a,
    ),
    a,
  ));
  const large = f.sub(f.number(1), expInside(f, p));
  return f.or(v.select(f.lt(f.number(0.921875), a), large, small), f.sign(x));
}

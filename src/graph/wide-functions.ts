/**
 * Functions of f32 computed in f64, two lanes at a time: polynomials of modest degree give more digits than f32 has, what is
 * subnormal as an f32 is not as an f64, and the last rounding, to f32, makes what is too large infinite. The worst error found is
 * 0.56 units in the last place. The coefficients are those of the least relative error (Remez), which their comments give.
 */
import { Floats } from "./lane-arithmetic.ts";
import type { LaneOps, Lanes } from "./lanes.ts";

/** Added to a number that is far smaller, it leaves the nearest integer in the last bits. */
const magic = 1.5 * 2 ** 52;

/** The bits of a power of two are its exponent and this, shifted by 52. */
const bias = 1023;

/** x as n times `unit` and a rest; and a number that has n + `offset` in its last bits. `x` is kept. */
function split(d: Floats, x: Lanes, unit: number, offset: number): { readonly last: Lanes; readonly rest: Lanes } {
  const last = d.v.keep(d.add(d.mul(x, d.number(1 / unit)), d.number(magic + offset)));
  const n = d.sub(last, d.number(magic + offset));
  return { last, rest: d.v.keep(d.sub(x, d.mul(n, d.number(unit)))) };
}

/** As the exponent of a power of two. */
function power(d: Floats, exponent: Lanes): Lanes {
  return d.v.shift64("i64x2.shl", exponent, 52);
}

/** x between the two bounds; NaN stays. */
function between(d: Floats, x: Lanes, least: number, most: number): Lanes {
  return d.max(d.min(x, d.number(most)), d.number(least));
}

/** e^x - 1 = 2^n (e^r - 1) + (2^n - 1), where x = n ln 2 + r. */
export function expm1(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const d = new Floats(v, "f64x2");
  const x = v.keep(of);
  const result = v.wide(([a]) => {
    const { last, rest } = split(d, v.keep(between(d, a!, -104, 89)), Math.LN2, bias);
    // (e^r - 1) / r, to 2^-32.
    const p = d.estrin(rest, [
      0.00019841244709838335,
      0.0013941015607232762,
      0.008333402951020141,
      0.04166635432217874,
      0.16666666249149723,
      0.5000000046680187,
      1.0000000000312501,
    ]);
    const scale = v.keep(power(d, last));
    return d.add(d.mul(d.mul(p, rest), scale), d.sub(scale, d.number(1)));
  }, x);
  return f.or(result, f.sign(x));
}

/** sinh and cosh of n ln 2 and of the rest, for x = n ln 2 + r: of both their sums are made. */
function hyperbolic(
  d: Floats,
  x: Lanes,
): { readonly ofPower: readonly [Lanes, Lanes]; readonly ofRest: readonly [Lanes, Lanes] } {
  const { v } = d;
  const { last, rest } = split(d, v.keep(between(d, x, -91, 91)), Math.LN2, bias - 1);
  const half = v.keep(power(d, last));
  const inverse = v.keep(power(d, v.op("i64x2.sub", v.bits64(0, 2 * (bias - 1)), last)));
  const z = v.keep(d.mul(rest, rest));
  // sinh(r) / r to 2^-37, cosh(r) to 2^-34.
  const sinh = d.mul(
    d.poly(z, [0.0001990750436554442, 0.00833328365969859, 0.16666666785745807, 0.9999999999955478]),
    rest,
  );
  const cosh = d.poly(z, [0.0013948375184734518, 0.04166622201064939, 0.5000000106053961, 0.9999999999606887]);
  return { ofPower: [d.sub(half, inverse), d.add(half, inverse)], ofRest: [sinh, cosh] };
}

export function sinh(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const d = new Floats(v, "f64x2");
  const x = v.keep(of);
  const result = v.wide(([a]) => {
    const { ofPower, ofRest } = hyperbolic(d, a!);
    return d.add(d.mul(ofPower[0], ofRest[1]), d.mul(ofPower[1], ofRest[0]));
  }, x);
  return f.or(result, f.sign(x));
}

export function cosh(v: LaneOps, x: Lanes): Lanes {
  const d = new Floats(v, "f64x2");
  return v.wide(([a]) => {
    const { ofPower, ofRest } = hyperbolic(d, a!);
    return d.add(d.mul(ofPower[1], ofRest[1]), d.mul(ofPower[0], ofRest[0]));
  }, x);
}

/** The bits of √½ are the least mantissa; those of a number, less them, have its exponent in front. */
const root = [0x3fe6a09e, 0x667f3bcd] as const;

/** The exponent n and the mantissa m, between √½ and √2, of a positive number. `x` is kept. */
function mantissa(d: Floats, x: Lanes): { readonly exponent: Lanes; readonly m: Lanes } {
  const { v } = d;
  const shifted = v.keep(v.op("i64x2.sub", x, v.bits64(root[0] - bias * 2 ** 20, root[1])));
  // As the last bits of 2^52.
  const exponent = d.sub(
    d.or(v.shift64("i64x2.shr_u", shifted, 52), d.number(2 ** 52)),
    d.number(2 ** 52 + bias),
  );
  const m = v.op("i64x2.add", d.and(shifted, v.bits64(0x000fffff, 0xffffffff)), v.bits64(...root));
  return { exponent: v.keep(exponent), m };
}

/** log(1 + x) = n ln 2 + 2 artanh(f / (2 + f)), where 1 + x = 2^n (1 + f); where n is 0, f is x, though 1 + x may be rounded. */
export function log1p(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const d = new Floats(v, "f64x2");
  const x = v.keep(of);
  const inside = v.wide(([a]) => {
    const { exponent, m } = mantissa(d, v.keep(d.add(a!, d.number(1))));
    const f = v.keep(v.select(d.eq(exponent, d.number(0)), a!, d.sub(m, d.number(1))));
    const s = v.keep(d.div(f, d.add(f, d.number(2))));
    // 2 artanh(s) / s, to 2^-30.
    const p = d.poly(v.keep(d.mul(s, s)), [
      0.2992579084987137,
      0.3997478978327067,
      0.6666681599593282,
      1.9999999986207886,
    ]);
    return d.add(d.mul(p, s), d.mul(exponent, d.number(Math.LN2)));
  }, x);
  // ∞ and NaN are themselves; -∞ at -1; below it all ones, which are NaN.
  const beyond = f.or(v.select(f.eq(x, f.number(-1)), f.number(-Infinity), x), f.lt(x, f.number(-1)));
  const normal = f.and(f.lt(f.number(-1), x), f.lt(x, f.number(Infinity)));
  return v.select(normal, f.or(inside, f.sign(x)), beyond);
}

/** |x|^y = 2^(y log2 |x|), and what IEEE 754 and JavaScript have of zeros, infinities, NaN and signs. */
export function pow(v: LaneOps, base: Lanes, exponent: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const d = new Floats(v, "f64x2");
  const x = v.keep(base);
  const y = v.keep(exponent);
  const a = v.keep(f.abs(x));
  const finite = v.wide(
    ([a, y]) => {
      const { exponent, m } = mantissa(d, a!);
      const kept = v.keep(m);
      const s = v.keep(d.div(d.sub(kept, d.number(1)), d.add(kept, d.number(1))));
      // 2 artanh(s) / s / ln 2, to 2^-37: times 150 there are enough left.
      const p = d.poly(v.keep(d.mul(s, s)), [
        0.34073010658534336,
        0.4116727189977767,
        0.5770835849651513,
        0.9617966733417975,
        2.8853900817900864,
      ]);
      const log2 = d.add(d.mul(p, s), exponent);
      const { last, rest } = split(d, v.keep(between(d, d.mul(log2, y!), -200, 200)), 1, bias);
      // 2^r, to 2^-29.
      const q = d.estrin(rest, [
        0.00015345783838141677,
        0.0013399933813808352,
        0.009618489091209766,
        0.05550328770936708,
        0.2402264688916675,
        0.6931472057396849,
        1.0000000005543,
      ]);
      return d.mul(q, power(d, last));
    },
    a,
    y,
  );
  // 0, ∞ and NaN are themselves to a positive power, and to a negative one, of 0 and ∞ the other.
  const special = v.keep(v.op("i32x4.ge_u", v.op("i32x4.sub", a, v.bits(1)), v.bits(0x7f7fffff)));
  const ofSpecial = f.xor(a, f.and(f.lt(y, f.number(0)), v.bits(0x7f800000)));
  const whole = v.keep(f.eq(f.trunc(y), y));
  const half = v.keep(f.mul(y, f.number(0.5)));
  const odd = f.and(whole, f.ne(f.trunc(half), half));
  const none = f.or(
    f.or(f.ne(x, x), f.ne(y, y)),
    f.andnot(f.lt(x, f.number(0)), f.or(whole, special)),
  );
  const signed = f.or(v.select(special, ofSpecial, finite), f.and(f.sign(x), odd));
  return v.select(f.eq(y, f.number(0)), f.number(1), f.or(signed, none));
}

/** 1 / ∛|x| from a third of the exponent, right to 3.5 %; e = 1 - |x| r³ improves it by a series, and again. */
export function cbrt(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const d = new Floats(v, "f64x2");
  const x = v.keep(of);
  const size = v.keep(f.abs(x));
  const root = v.wide(([a]) => {
    // The upper word as a number: a third of it is taken off that of the constant, in the last bits of a sum.
    const upper = d.or(v.shift64("i64x2.shr_u", a!, 32), d.number(2 ** 52));
    const third = d.sub(d.number(2 ** 52 * 4 / 3 + (bias * 4 / 3 - 0.066818) * 2 ** 20), d.mul(upper, d.number(1 / 3)));
    const r = v.keep(v.shift64("i64x2.shl", third, 32));
    const off = (r: Lanes) => v.keep(d.sub(d.number(1), d.mul(d.mul(a!, r), d.mul(r, r))));
    const e = off(r);
    const near = v.keep(d.add(r, d.mul(d.mul(r, e), d.poly(e, [14 / 81, 2 / 9, 1 / 3]))));
    const best = v.keep(d.add(near, d.mul(d.mul(near, off(near)), d.number(1 / 3))));
    return d.mul(d.mul(a!, best), best);
  }, size);
  return v.select(f.lt(size, f.number(Infinity)), f.or(root, f.sign(x)), x);
}

/**
 * asin(s) of a = |x|, to 2^-31: of a itself to 0.5, beyond of s = √((1 - a) / 2), of which twice is taken off π/2 (Cephes, Moshier).
 * √ of what is negative is NaN. `a` is kept.
 */
function arc(d: Floats, a: Lanes): { readonly outer: Lanes; readonly p: Lanes } {
  const { v } = d;
  const outer = v.keep(d.lt(d.number(0.5), a));
  const z = v.keep(v.select(outer, d.sub(d.number(0.5), d.mul(a, d.number(0.5))), d.mul(a, a)));
  const s = v.select(outer, d.sqrt(z), a);
  const p = d.estrin(z, [
    0.037885590153408324,
    0.014139487117028497,
    0.031900805446091016,
    0.044503086377805416,
    0.07500604100503717,
    0.16666656944857375,
    1.0000000002545755,
  ]);
  return { outer, p: v.keep(d.mul(p, s)) };
}

export function asin(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const d = new Floats(v, "f64x2");
  const x = v.keep(of);
  const result = v.wide(([a]) => {
    const { outer, p } = arc(d, a!);
    return v.select(outer, d.sub(d.number(Math.PI / 2), d.add(p, p)), p);
  }, f.abs(x));
  return f.or(result, f.sign(x));
}

export function acos(v: LaneOps, of: Lanes): Lanes {
  const d = new Floats(v, "f64x2");
  return v.wide(([x]) => {
    const { outer, p } = arc(d, v.keep(d.abs(x!)));
    const sign = v.keep(d.sign(x!));
    const signed = v.keep(d.xor(p, sign));
    const base = d.sub(d.number(Math.PI / 2), d.or(d.number(Math.PI / 2), sign));
    return v.select(outer, d.add(base, d.add(signed, signed)), d.sub(d.number(Math.PI / 2), signed));
  }, of);
}

/** atan(a / b), where both are positive: of the smaller by the larger, to 2^-31; the other way round it is what π/2 lacks. */
function angle(d: Floats, a: Lanes, b: Lanes): Lanes {
  const { v } = d;
  const t = v.keep(d.div(d.min(a, b), d.max(b, a)));
  const p = d.estrin(v.keep(d.mul(t, t)), [
    0.001091119205133856,
    -0.007199422986160516,
    0.022274430365069105,
    -0.04435757340770497,
    0.06716112185075798,
    -0.0879877367390146,
    0.11054501549273144,
    -0.14279159677159675,
    0.1999960464071967,
    -0.3333332393552473,
    0.9999999996282528,
  ]);
  const r = v.keep(d.mul(p, t));
  return v.select(d.lt(b, a), d.sub(d.number(Math.PI / 2), r), r);
}

export function atan(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const d = new Floats(v, "f64x2");
  const x = v.keep(of);
  return f.or(v.wide(([a]) => angle(d, a!, d.number(1)), f.abs(x)), f.sign(x));
}

export function atan2(v: LaneOps, ofY: Lanes, ofX: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const d = new Floats(v, "f64x2");
  const y = v.keep(ofY);
  const result = v.wide(
    ([a, x]) => {
      // Neither 0 by 0 nor ∞ by ∞: the quotients of all others are far from these.
      const up = v.keep(d.min(a!, d.number(2 ** 1000)));
      const along = v.keep(between(d, d.abs(x!), 2 ** -1000, 2 ** 1000));
      const sign = v.keep(d.sign(x!));
      const base = d.sub(d.number(Math.PI / 2), d.or(d.number(Math.PI / 2), sign));
      return d.add(base, d.xor(angle(d, up, along), sign));
    },
    f.abs(y),
    ofX,
  );
  return f.or(result, f.sign(y));
}

/** π/2 in two parts, the first of 33 bits: products with quarter turns up to 2^20 are exact (fdlibm). */
const quarterTurn = [1.57079632673412561417, 6.07710050650619224932e-11] as const;

/** sin(r) / cos(r) of the rest of quarter turns, and -cos(r) / sin(r) where they are odd. Beyond 2^20 as the host computes it. */
export function tan(v: LaneOps, of: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const d = new Floats(v, "f64x2");
  const x = v.keep(of);
  const result = v.wide(([x]) => {
    const last = v.keep(d.add(d.mul(x!, d.number(2 / Math.PI)), d.number(magic)));
    const n = v.keep(d.sub(last, d.number(magic)));
    const r = v.keep(quarterTurn.reduce((rest, part) => d.sub(rest, d.mul(n, d.number(part))), x!));
    const z = v.keep(d.mul(r, r));
    // sin(r) / r to 2^-28, cos(r) to 2^-34.
    const sine = v.keep(
      d.mul(d.poly(z, [-0.00019501788143437887, 0.008332016190243801, -0.16666650219344836, 0.9999999967605515]), r),
    );
    const cosine = v.keep(d.poly(z, [
      2.4372636615577518e-05,
      -0.0013886528679282124,
      0.04166661321766864,
      -0.4999999957139068,
      0.999999999943912,
    ]));
    // The last bit as that of the sign: of 1 it makes -1.
    const flip = v.keep(v.shift64("i64x2.shl", last, 63));
    const odd = v.keep(d.lt(d.or(flip, d.number(1)), d.number(0)));
    return d.xor(d.div(v.select(odd, cosine, sine), v.select(odd, sine, cosine)), flip);
  }, x);
  return v.rarely(f.lt(f.number(2 ** 20), f.abs(x)), "tan", [x], result);
}

/**
 * The exact remainder: with quotients below 2^28 the quotient in f64 is truncated to the right integer, and neither the product with
 * the divisor nor the difference is rounded. Larger ones as the host computes them.
 */
export function frem(v: LaneOps, dividend: Lanes, divisor: Lanes): Lanes {
  const f = new Floats(v, "f32x4");
  const d = new Floats(v, "f64x2");
  const x = v.keep(dividend);
  const a = v.keep(f.abs(x));
  const b = v.keep(f.abs(divisor));
  const rest = v.wide(([a, b]) => d.sub(a!, d.mul(d.trunc(d.div(a!, b!)), b!)), a, b);
  const result = v.select(f.lt(a, b), x, f.or(rest, f.sign(x)));
  return v.rarely(f.le(f.mul(b, f.number(2 ** 27)), a), "rem", [x, b], result);
}

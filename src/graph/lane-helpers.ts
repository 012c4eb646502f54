/** Vector code of ops, of casts and of threefry that is more than an instruction, and of no function of f32. */
import type { DType } from "./dtype.ts";
import { rotations } from "./helpers.ts";
import type { LaneOps, Lanes } from "./lanes.ts";

/** ±1, or x itself where it is ±0 or NaN. */
export function signLanes(v: LaneOps, of: Lanes, dtype: DType): Lanes {
  const x = v.keep(of);
  if (dtype === "i32") {
    return v.op("v128.or", v.shift("i32x4.shr_s", x, 31), v.shift("i32x4.shr_u", v.op("i32x4.neg", x), 31));
  }
  const one = v.op("v128.or", v.op("v128.and", x, v.bits(0x80000000)), v.f32(1));
  return v.select(v.op("f32x4.lt", v.f32(0), v.op("f32x4.abs", x)), one, x);
}

/** w x, and 0 where w is `hidden`. */
export function gatedLanes(v: LaneOps, of: Lanes, x: Lanes, hidden: number): Lanes {
  const w = v.keep(of);
  return v.op("v128.andnot", v.op("f32x4.mul", w, x), v.op("f32x4.eq", w, v.f32(hidden)));
}

/** See `threefry` in ops.ts. */
export function threefryLanes(v: LaneOps, x: readonly Lanes[]): Lanes {
  const add = (a: Lanes, b: Lanes) => v.keep(v.op("i32x4.add", a, b));
  const xor = (a: Lanes, b: Lanes) => v.op("v128.xor", a, b);
  const [k0, k1] = [v.keep(x[0]!), v.keep(x[1]!)];
  const keys = [k0, k1, v.keep(xor(xor(k0, k1), v.bits(0x1bd11bda)))];
  let x0 = add(x[2]!, k0);
  let x1 = add(x[3]!, k1);
  for (let round = 0; round < 20; round++) {
    const by = rotations[round % 8]!;
    x0 = add(x0, x1);
    x1 = v.keep(xor(v.op("v128.or", v.shift("i32x4.shl", x1, by), v.shift("i32x4.shr_u", x1, 32 - by)), x0));
    if (round % 4 === 3) {
      const step = (round + 1) / 4;
      x0 = add(x0, keys[step % 3]!);
      x1 = add(x1, v.op("i32x4.add", keys[(step + 1) % 3]!, v.bits(step)));
    }
  }
  return x0;
}

/** See `cast` in ops.ts; an f16 is cast by way of f32. */
export function castLanes(v: LaneOps, x: Lanes, from: DType, to: DType): Lanes {
  if (from === to) return x;
  if (from === "f16") return castLanes(v, fromHalf(v, x), "f32", to);
  if (to === "f16") return toHalf(v, castLanes(v, x, from, "f32"));
  if (to === "bool") return v.op(from === "f32" ? "f32x4.ne" : "i32x4.ne", x, v.bits(0));
  if (from === "bool") return v.op("v128.and", x, to === "f32" ? v.f32(1) : v.bits(1));
  if (from === "f32") return v.op(to === "i32" ? "i32x4.trunc_sat_f32x4_s" : "i32x4.trunc_sat_f32x4_u", x);
  if (to === "f32") return v.op(from === "i32" ? "f32x4.convert_i32x4_s" : "f32x4.convert_i32x4_u", x);
  return x;
}

/**
 * The bits of the nearest half, as `sw_half` has them (helpers.ts). Of a normal half the last bit that is kept is added to a half
 * less one of what it is worth; a subnormal one is in the last bits of a number whose last bit is worth 2^-24.
 */
function toHalf(v: LaneOps, of: Lanes): Lanes {
  const add = (a: Lanes, b: Lanes) => v.op("i32x4.add", a, b);
  const and = (a: Lanes, b: Lanes) => v.op("v128.and", a, b);
  const x = v.keep(of);
  const size = v.keep(and(x, v.bits(0x7fffffff)));
  const even = and(v.shift("i32x4.shr_u", size, 13), v.bits(1));
  const normal = v.shift("i32x4.shr_u", add(add(size, even), v.bits(0x0fff - 0x38000000)), 13);
  const small = v.op("i32x4.sub", v.op("f32x4.add", size, v.f32(0.5)), v.f32(0.5));
  const finite = v.select(v.op("i32x4.lt_u", size, v.bits(0x38800000)), small, normal);
  const none = v.shift("i32x4.shl", and(v.op("i32x4.gt_u", size, v.bits(0x7f800000)), v.bits(1)), 9);
  const beyond = v.op("v128.or", none, v.bits(0x7c00));
  const rounded = v.select(v.op("i32x4.ge_u", size, v.bits(0x477ff000)), beyond, finite);
  return v.op("v128.or", rounded, and(v.shift("i32x4.shr_u", x, 16), v.bits(0x8000)));
}

/** The number that a half's bits are: shifted to where those of an f32 are they are it times 2^-112, infinities and NaN apart. */
function fromHalf(v: LaneOps, of: Lanes): Lanes {
  const half = v.keep(of);
  const size = v.keep(v.shift("i32x4.shl", v.op("v128.and", half, v.bits(0x7fff)), 13));
  const finite = v.op("f32x4.mul", size, v.f32(2 ** 112));
  const beyond = v.op("i32x4.gt_u", size, v.bits(0x0f7fffff));
  const number = v.op("v128.or", finite, v.op("v128.and", beyond, v.bits(0x7f800000)));
  return v.op("v128.or", number, v.shift("i32x4.shl", v.op("v128.and", half, v.bits(0x8000)), 16));
}

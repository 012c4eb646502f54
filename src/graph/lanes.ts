/**
 * Four lanes of a value in WebAssembly's SIMD, and what can be done with them: the language in which the records of ops spell
 * themselves for the cpu device. The compiler gives the object that emits the code (`LaneOps`).
 */
import type { DType } from "./dtype.ts";

/** Pushes four lanes of 32 bits, each time it is called; `keep` names what is to be computed once. A bool is all ones or 0. */
export type Lanes = () => void;

/** What spellings may use. Every method gives what pushes its result; none computes before that. */
export interface LaneOps {
  /** Computes it once, here: what is given pushes the result. */
  keep(x: Lanes): Lanes;
  /** The same f32 in all lanes. */
  f32(value: number): Lanes;
  /** The same 32 bits in all lanes. */
  bits(value: number): Lanes;
  /** An instruction of one operand, or of several, by its name in the specification: `f32x4.add`. */
  op(name: LaneOp, ...x: readonly Lanes[]): Lanes;
  /** All lanes shifted by the same number of bits. */
  shift(name: "i32x4.shl" | "i32x4.shr_s" | "i32x4.shr_u", x: Lanes, by: number): Lanes;
  /** `a` where the mask is all ones, `b` where it is 0. */
  select(mask: Lanes, a: Lanes, b: Lanes): Lanes;
  /** Four lanes computed as f64, two at a time: `f` gets two f64 of each operand, and its result is rounded to f32. */
  wide(f: (x: readonly Lanes[]) => Lanes, ...x: readonly Lanes[]): Lanes;
  /** The same f64 in both lanes. */
  f64(value: number): Lanes;
  /** The same 64 bits in both lanes, of two words. */
  bits64(high: number, low: number): Lanes;
  /** All lanes of 64 bits shifted by the same number of bits. */
  shift64(name: "i64x2.shl" | "i64x2.shr_s" | "i64x2.shr_u", x: Lanes, by: number): Lanes;
  /** Lane by lane a function of JavaScript's numbers, where any lane of the mask is set, in those lanes; else `x`. */
  rarely(mask: Lanes, name: HostFunction, operands: readonly Lanes[], x: Lanes): Lanes;
  /** The operands are divided lane by lane, as integers; 0 where the divisor is 0. */
  divide(name: "div_s" | "div_u" | "rem_s" | "rem_u", a: Lanes, b: Lanes): Lanes;
  /** Shifts each lane by its own number of bits, modulo 32. */
  shiftEach(name: "shl" | "shr_s" | "shr_u", x: Lanes, by: Lanes): Lanes;
}

/** Functions of `Math`, and `%`, that kernels may call where no vector code is right. */
export type HostFunction = "sin" | "cos" | "tan" | "rem";

/** How an op spells itself: four lanes of the result, from those of the operands, and the dtype of the last. */
export type LaneSpelling = (v: LaneOps, x: readonly Lanes[], dtype: DType) => Lanes;

/** One instruction, whatever the dtype. */
export function instruction(name: LaneOp): LaneSpelling {
  return (v, x) => v.op(name, ...x);
}

/** One instruction for each dtype; that of i32 is also that of u32 and of bool, where it is not given. */
export function instructions(f32: LaneOp, i32: LaneOp, u32: LaneOp = i32): LaneSpelling {
  return (v, x, dtype) => v.op(dtype === "f32" ? f32 : dtype === "u32" ? u32 : i32, ...x);
}

/** The spelling of a function of one operand, or of two. */
export function applied(f: (v: LaneOps, x: Lanes) => Lanes): LaneSpelling {
  return (v, x) => f(v, x[0]!);
}
export function applied2(f: (v: LaneOps, x: Lanes, y: Lanes) => Lanes): LaneSpelling {
  return (v, x) => f(v, x[0]!, x[1]!);
}

/** Instructions of vectors, without immediates, and their second opcode. */
export const laneOps = {
  "v128.not": 0x4d,
  "v128.and": 0x4e,
  "v128.andnot": 0x4f,
  "v128.or": 0x50,
  "v128.xor": 0x51,
  "i32x4.eq": 0x37,
  "i32x4.ne": 0x38,
  "i32x4.lt_s": 0x39,
  "i32x4.lt_u": 0x3a,
  "i32x4.gt_s": 0x3b,
  "i32x4.gt_u": 0x3c,
  "i32x4.le_s": 0x3d,
  "i32x4.le_u": 0x3e,
  "i32x4.ge_s": 0x3f,
  "i32x4.ge_u": 0x40,
  "f32x4.eq": 0x41,
  "f32x4.ne": 0x42,
  "f32x4.lt": 0x43,
  "f32x4.gt": 0x44,
  "f32x4.le": 0x45,
  "f32x4.ge": 0x46,
  "f64x2.eq": 0x47,
  "f64x2.ne": 0x48,
  "f64x2.lt": 0x49,
  "f64x2.gt": 0x4a,
  "f64x2.le": 0x4b,
  "f64x2.ge": 0x4c,
  "f32x4.ceil": 0x67,
  "f32x4.floor": 0x68,
  "f32x4.trunc": 0x69,
  "f32x4.nearest": 0x6a,
  "f64x2.ceil": 0x74,
  "f64x2.floor": 0x75,
  "f64x2.trunc": 0x7a,
  "f64x2.nearest": 0x94,
  "i32x4.abs": 0xa0,
  "i32x4.neg": 0xa1,
  "i32x4.add": 0xae,
  "i32x4.sub": 0xb1,
  "i32x4.mul": 0xb5,
  "i32x4.min_s": 0xb6,
  "i32x4.min_u": 0xb7,
  "i32x4.max_s": 0xb8,
  "i32x4.max_u": 0xb9,
  "i64x2.add": 0xce,
  "i64x2.sub": 0xd1,
  "i64x2.mul": 0xd5,
  "f32x4.abs": 0xe0,
  "f32x4.neg": 0xe1,
  "f32x4.sqrt": 0xe3,
  "f32x4.add": 0xe4,
  "f32x4.sub": 0xe5,
  "f32x4.mul": 0xe6,
  "f32x4.div": 0xe7,
  "f32x4.min": 0xe8,
  "f32x4.max": 0xe9,
  "f32x4.pmin": 0xea,
  "f32x4.pmax": 0xeb,
  "f64x2.abs": 0xec,
  "f64x2.neg": 0xed,
  "f64x2.sqrt": 0xef,
  "f64x2.add": 0xf0,
  "f64x2.sub": 0xf1,
  "f64x2.mul": 0xf2,
  "f64x2.div": 0xf3,
  "f64x2.min": 0xf4,
  "f64x2.max": 0xf5,
  "f64x2.pmin": 0xf6,
  "f64x2.pmax": 0xf7,
  "i32x4.trunc_sat_f32x4_s": 0xf8,
  "i32x4.trunc_sat_f32x4_u": 0xf9,
  "f32x4.convert_i32x4_s": 0xfa,
  "f32x4.convert_i32x4_u": 0xfb,
} as const;

export type LaneOp = keyof typeof laneOps;

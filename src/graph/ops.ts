import { type DType, dtypeNames, dtypes, isFloat, toElement } from "./dtype.ts";
import { call, type ElementwiseOp, float } from "./elementwise-op.ts";
import { type FunctionName, functions } from "./functions.ts";
import { f32ToI32, f32ToU32, jsBitcast, jsHalf, jsThreefry, rotations, threefry } from "./helpers.ts";
import { castLanes, gatedLanes, signLanes, threefryLanes } from "./lane-helpers.ts";
import { instruction, instructions, type LaneOps, type Lanes } from "./lanes.ts";

export type { ElementwiseOp };

const signed: readonly DType[] = ["f32", "i32"];
const number: readonly DType[] = ["f32", "i32", "u32"];
const integer: readonly DType[] = ["i32", "u32"];
const bits: readonly DType[] = ["i32", "u32", "bool"];
const any: readonly DType[] = ["f32", "i32", "u32", "bool"];

function infix(operator: string): (x: readonly string[]) => string {
  return (x) => `(${x[0]} ${operator} ${x[1]})`;
}

/** Stands for a weight of what is hidden, as an operand of `gated`: the least f32, which no weight is. */
export const hidden = -3.4028234663852886e38;

/** Names of the elementwise ops: spelled out, so that the types of the public API need no inference. */
export type ElementwiseName =
  | FunctionName
  | "neg"
  | "abs"
  | "sign"
  | "sqrt"
  | "floor"
  | "ceil"
  | "trunc"
  | "round"
  | "relu"
  | "not"
  | "bitNot"
  | "add"
  | "sub"
  | "mul"
  | "div"
  | "idiv"
  | "irem"
  | "max"
  | "min"
  | "and"
  | "or"
  | "xor"
  | "shl"
  | "shr"
  | "lt"
  | "le"
  | "eq"
  | "ne"
  | "where"
  | "heed"
  | "weigh"
  | "gated"
  | "threefry";

export const elementwise: Readonly<Record<ElementwiseName, ElementwiseOp>> = {
  ...functions,
  neg: {
    arity: 1,
    takes: signed,
    gives: "same",
    f64: (x) => -x,
    js: (x) => `(-${x[0]})`,
    wgsl: (x) => `(-${x[0]})`,
    wasm: instructions("f32x4.neg", "i32x4.neg"),
    exact: true,
    partial: "terms",
  },
  abs: {
    arity: 1,
    takes: signed,
    gives: "same",
    f64: Math.abs,
    js: call("Math.abs"),
    wgsl: call("abs"),
    wasm: instructions("f32x4.abs", "i32x4.abs"),
    exact: true,
  },
  sign: {
    arity: 1,
    takes: signed,
    gives: "same",
    f64: Math.sign,
    js: call("Math.sign"),
    wgsl: (x, dtype) => dtype === "f32" ? `sw_sign(${x[0]})` : `sign(${x[0]})`,
    wasm: (v, x, dtype) => signLanes(v, x[0]!, dtype),
    // Not a number where x is none, which drivers' sign makes 0.
    wgslHelper: `fn sw_sign(x: f32) -> f32 {
  return select(sign(x), x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}`,
    exact: true,
  },
  sqrt: {
    arity: 1,
    takes: float,
    gives: "same",
    f64: Math.sqrt,
    js: call("Math.sqrt"),
    wgsl: call("sqrt"),
    wasm: instruction("f32x4.sqrt"),
  },
  floor: {
    arity: 1,
    takes: float,
    gives: "same",
    f64: Math.floor,
    js: call("Math.floor"),
    wgsl: call("floor"),
    wasm: instruction("f32x4.floor"),
    exact: true,
  },
  ceil: {
    arity: 1,
    takes: float,
    gives: "same",
    f64: Math.ceil,
    js: call("Math.ceil"),
    wgsl: call("ceil"),
    wasm: instruction("f32x4.ceil"),
    exact: true,
  },
  trunc: {
    arity: 1,
    takes: float,
    gives: "same",
    f64: Math.trunc,
    js: call("Math.trunc"),
    wgsl: call("trunc"),
    wasm: instruction("f32x4.trunc"),
    exact: true,
  },
  /** To the nearest integer, halves to the even one. */
  round: {
    arity: 1,
    takes: float,
    gives: "same",
    f64: (x) => roundHalfEven(x),
    js: call("sw_round"),
    jsHelper: `function sw_round(x) {
  const f = Math.floor(x), r = x - f;
  return r !== 0.5 ? Math.round(x) : f % 2 === 0 ? f : f + 1;
}`,
    wgsl: call("round"),
    wasm: instruction("f32x4.nearest"),
    exact: true,
  },
  /** max(x, 0) as an op of its own, so that its derivative needs the result alone. NaN gives 0 or NaN. */
  relu: {
    arity: 1,
    takes: number,
    gives: "same",
    f64: (x) => x > 0 ? x : 0,
    js: (x) => `Math.max(${x[0]}, 0)`,
    wgsl: (x, dtype) => `max(${x[0]}, ${dtype}(0))`,
    wasm: (v, x, dtype) => instructions("f32x4.pmax", "i32x4.max_s", "i32x4.max_u")(v, [v.bits(0), ...x], dtype),
    exact: true,
  },
  not: {
    arity: 1,
    takes: ["bool"],
    gives: "same",
    f64: (x) => 1 - x,
    js: (x) => `(!${x[0]})`,
    wgsl: (x) => `(!${x[0]})`,
    wasm: instruction("v128.not"),
  },
  bitNot: {
    arity: 1,
    takes: integer,
    gives: "same",
    f64: (x) => ~x,
    js: (x) => `(~${x[0]})`,
    wgsl: (x) => `(~${x[0]})`,
    wasm: instruction("v128.not"),
  },

  add: {
    arity: 2,
    takes: number,
    gives: "same",
    f64: (a, b) => a + b,
    js: infix("+"),
    wgsl: infix("+"),
    wasm: instructions("f32x4.add", "i32x4.add"),
    commutes: true,
    partial: "terms",
  },
  sub: {
    arity: 2,
    takes: number,
    gives: "same",
    f64: (a, b) => a - b,
    js: infix("-"),
    wgsl: infix("-"),
    wasm: instructions("f32x4.sub", "i32x4.sub"),
    partial: "terms",
  },
  mul: {
    arity: 2,
    takes: number,
    gives: "same",
    f64: (a, b) => a * b,
    js: (x, dtype) => dtype === "f32" ? `(${x[0]} * ${x[1]})` : `Math.imul(${x[0]}, ${x[1]})`,
    wgsl: infix("*"),
    wasm: instructions("f32x4.mul", "i32x4.mul"),
    commutes: true,
    partial: "factor",
  },
  div: {
    arity: 2,
    takes: float,
    gives: "same",
    f64: (a, b) => a / b,
    js: infix("/"),
    wgsl: infix("/"),
    wasm: instruction("f32x4.div"),
    partial: "dividend",
  },
  /** Integer quotient, truncated toward 0; 0 where the divisor is 0. */
  idiv: {
    arity: 2,
    takes: integer,
    gives: "same",
    f64: (a, b) => b === 0 ? 0 : Math.trunc(a / b),
    js: (x) => `(${x[1]} === 0 ? 0 : ${x[0]} / ${x[1]})`,
    wgsl: (x, dtype) => `select(${x[0]} / select(${x[1]}, ${dtype}(1), ${x[1]} == 0), ${dtype}(0), ${x[1]} == 0)`,
    wasm: (v, x, dtype) => v.divide(dtype === "u32" ? "div_u" : "div_s", x[0]!, x[1]!),
  },
  /** Remainder of idiv, with the sign of the dividend; 0 where the divisor is 0. */
  irem: {
    arity: 2,
    takes: integer,
    gives: "same",
    f64: (a, b) => b === 0 ? 0 : a % b,
    js: (x) => `(${x[1]} === 0 ? 0 : ${x[0]} % ${x[1]})`,
    wgsl: (x, dtype) => `select(${x[0]} % select(${x[1]}, ${dtype}(1), ${x[1]} == 0), ${dtype}(0), ${x[1]} == 0)`,
    wasm: (v, x, dtype) => v.divide(dtype === "u32" ? "rem_u" : "rem_s", x[0]!, x[1]!),
  },
  /** The larger; where an operand is NaN, either one. */
  max: {
    arity: 2,
    takes: number,
    gives: "same",
    f64: Math.max,
    js: call("Math.max"),
    wgsl: call("max"),
    wasm: instructions("f32x4.pmax", "i32x4.max_s", "i32x4.max_u"),
    commutes: true,
    exact: true,
  },
  /** The smaller; where an operand is NaN, either one. */
  min: {
    arity: 2,
    takes: number,
    gives: "same",
    f64: Math.min,
    js: call("Math.min"),
    wgsl: call("min"),
    wasm: instructions("f32x4.pmin", "i32x4.min_s", "i32x4.min_u"),
    commutes: true,
    exact: true,
  },
  and: {
    arity: 2,
    takes: bits,
    gives: "same",
    f64: (a, b) => a & b,
    js: logical("&&", "&"),
    wgsl: infix("&"),
    wasm: instruction("v128.and"),
    commutes: true,
  },
  or: {
    arity: 2,
    takes: bits,
    gives: "same",
    f64: (a, b) => a | b,
    js: logical("||", "|"),
    wgsl: infix("|"),
    wasm: instruction("v128.or"),
    commutes: true,
  },
  xor: {
    arity: 2,
    takes: bits,
    gives: "same",
    f64: (a, b) => a ^ b,
    js: logical("!==", "^"),
    wgsl: logical("!=", "^"),
    wasm: instruction("v128.xor"),
    commutes: true,
  },
  /** Shift by b modulo 32. */
  shl: {
    arity: 2,
    takes: integer,
    gives: "same",
    f64: (a, b) => a << b,
    js: infix("<<"),
    wgsl: (x) => `(${x[0]} << (u32(${x[1]}) & 31u))`,
    wasm: (v, x) => v.shiftEach("shl", x[0]!, x[1]!),
  },
  /** Shift by b modulo 32; keeps the sign of an i32. */
  shr: {
    arity: 2,
    takes: integer,
    gives: "same",
    f64: (a, b) => a < 0 || a <= 0x7fffffff ? a >> b : a >>> b,
    js: (x, dtype) => dtype === "i32" ? `(${x[0]} >> ${x[1]})` : `(${x[0]} >>> ${x[1]})`,
    wgsl: (x) => `(${x[0]} >> (u32(${x[1]}) & 31u))`,
    wasm: (v, x, dtype) => v.shiftEach(dtype === "u32" ? "shr_u" : "shr_s", x[0]!, x[1]!),
  },
  lt: {
    arity: 2,
    takes: number,
    gives: "bool",
    f64: (a, b) => +(a < b),
    js: infix("<"),
    wgsl: infix("<"),
    wasm: instructions("f32x4.lt", "i32x4.lt_s", "i32x4.lt_u"),
  },
  le: {
    arity: 2,
    takes: number,
    gives: "bool",
    f64: (a, b) => +(a <= b),
    js: infix("<="),
    wgsl: infix("<="),
    wasm: instructions("f32x4.le", "i32x4.le_s", "i32x4.le_u"),
  },
  eq: {
    arity: 2,
    takes: any,
    gives: "bool",
    f64: (a, b) => +(a === b),
    js: infix("==="),
    wgsl: infix("=="),
    wasm: instructions("f32x4.eq", "i32x4.eq"),
    commutes: true,
  },
  ne: {
    arity: 2,
    takes: any,
    gives: "bool",
    f64: (a, b) => +(a !== b),
    js: infix("!=="),
    wgsl: different,
    wasm: instructions("f32x4.ne", "i32x4.ne"),
    commutes: true,
  },

  /** where(condition, a, b). */
  where: {
    arity: 3,
    takes: dtypeNames,
    gives: "same",
    f64: (condition, a, b) => condition !== 0 ? a : b,
    js: (x) => `(${x[0]} ? ${x[1]} : ${x[2]})`,
    wgsl: (x) => `select(${x[2]}, ${x[1]}, ${x[0]})`,
    wasm: (v, x) => v.select(x[0]!, x[1]!, x[2]!),
    conditional: true,
    exact: true,
    partial: "chosen",
  },
  /**
   * heed(seen, a, b): a b; of no meaning where not seen, where its reader takes another value. It differs from `mul` in its
   * gradients, to which what is not seen adds nothing, be it NaN: each is a `weigh`. Both spell themselves as other ops:
   * no kernel holds them.
   */
  heed: {
    arity: 3,
    takes: float,
    gives: "same",
    f64: (_seen, a, b) => a * b,
    js: (x) => `(${x[1]} * ${x[2]})`,
    wgsl: (x) => `(${x[1]} * ${x[2]})`,
    wasm: (v, x) => v.op("f32x4.mul", x[1]!, x[2]!),
    conditional: true,
  },
  /** weigh(seen, w, x): w x where seen, and 0 where not, whatever w and x hold. */
  weigh: {
    arity: 3,
    takes: float,
    gives: "same",
    f64: (seen, w, x) => seen !== 0 ? w * x : 0,
    js: (x) => `(${x[0]} ? ${x[1]} * ${x[2]} : 0)`,
    wgsl: (x) => `(select(0.0, ${x[1]}, ${x[0]}) * select(0.0, ${x[2]}, ${x[0]}))`,
    wasm: (v, x) => v.op("v128.and", v.op("f32x4.mul", x[1]!, x[2]!), x[0]!),
    conditional: true,
  },
  /** gated(w, x): w x, and 0 where w is `hidden`: what a contraction of `weigh` is computed as. */
  gated: {
    arity: 2,
    takes: float,
    gives: "same",
    f64: (w, x) => w === hidden ? 0 : w * x,
    js: (x) => `(${x[0]} === ${hidden} ? 0 : ${x[0]} * ${x[1]})`,
    wgsl: (x) => `(${x[0]} * select(${x[1]}, 0.0, ${x[0]} == ${hidden}))`,
    wasm: (v, x) => gatedLanes(v, x[0]!, x[1]!, hidden),
  },
  /**
   * threefry(key0, key1, counter0, counter1), all u32: the first word of Threefry-2x32 with 20 rounds.
   * Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011).
   */
  threefry: {
    arity: 4,
    takes: ["u32"],
    gives: "same",
    f64: (k0, k1, c0, c1) => threefry2x32(k0, k1, c0, c1),
    js: call("sw_threefry"),
    jsHelper: jsThreefry,
    wgsl: call("sw_threefry"),
    wasm: threefryLanes,
    wgslHelper: threefry,
    heavy: true,
  },
};

/**
 * A reduction: the elementwise op that combines, the identity it starts from, and whether an element that comes again changes
 * nothing.
 */
export const reductions = {
  sum: { combine: "add", takes: number, identity: () => 0, idempotent: false },
  prod: { combine: "mul", takes: number, identity: () => 1, idempotent: false },
  /** Largest element; where one is NaN, any. -Infinity (the least integer) over no elements. */
  amax: { combine: "max", takes: number, identity: (d: DType) => dtypes[d].least, idempotent: true },
  /** Smallest element; where one is NaN, any. Infinity (the largest integer) over no elements. */
  amin: { combine: "min", takes: number, identity: (d: DType) => dtypes[d].most, idempotent: true },
} as const satisfies Record<
  string,
  { combine: ElementwiseName; takes: readonly DType[]; identity: (dtype: DType) => number; idempotent: boolean }
>;

export type ReductionName = keyof typeof reductions;

/**
 * Conversion: f32 to an integer truncates and saturates (NaN gives 0); integers wrap; anything but 0 is true. Of f16 there
 * are only those from and to f32: to the nearest half, halfway cases to the even one. All languages hold an f16 as
 * buffers do (JavaScript as its bits, WebAssembly as these in lanes of 32 bits), and how WGSL does depends on the device: see
 * half-storage.ts.
 */
export const cast = {
  f64: castF64,
  js: (x: string, from: DType, to: DType): string => {
    if (to === "f16") return `sw_half(${x})`;
    if (from === "f16") return `sw_float(${x})`;
    if (to === "bool") return `(${x} !== 0)`;
    if (from === "bool") return `(${x} ? 1 : 0)`;
    if (from === "f32" && to === "i32") {
      return `(${x} >= 2147483648 ? 2147483647 : ${x} < -2147483648 ? -2147483648 : ${x})`;
    }
    if (from === "f32" && to === "u32") return `(${x} >= 4294967296 ? 4294967295 : ${x} > 0 ? ${x} : 0)`;
    return x;
  },
  wgsl: (x: string, from: DType, to: DType): string => {
    if (to === "bool") return different([x, `${from}(0)`]);
    if (from === "bool") return `select(${to}(0), ${to}(1), ${x})`;
    if (from === "f32" && to === "i32") return `sw_f32_to_i32(${x})`;
    if (from === "f32" && to === "u32") return `sw_f32_to_u32(${x})`;
    return `${to}(${x})`;
  },
  wasm: castLanes,
  jsHelper: (from: DType, to: DType): string | undefined => from === "f16" || to === "f16" ? jsHalf : undefined,
  wgslHelper: (from: DType, to: DType): string | undefined =>
    from === "f32" && to === "i32" ? f32ToI32 : from === "f32" && to === "u32" ? f32ToU32 : undefined,
} as const;

/** The same 32 bits read as another dtype (f32, i32 or u32). */
export const bitcast = {
  f64: (x: number, from: DType, to: DType): number => {
    const word = new DataView(new ArrayBuffer(4));
    if (from === "f32") word.setFloat32(0, x);
    else word.setUint32(0, x >>> 0);
    return to === "f32" ? word.getFloat32(0) : to === "i32" ? word.getInt32(0) : word.getUint32(0);
  },
  js: (x: string, from: DType, to: DType): string => {
    if (from !== "f32" && to !== "f32") return x;
    return from === "f32" ? `sw_f32_bits(${x})` : `sw_bits_f32(${x})`;
  },
  jsHelper: jsBitcast,
  wgsl: (x: string, _from: DType, to: DType): string => `bitcast<${to}>(${x})`,
  wasm: (_v: LaneOps, x: Lanes, _from: DType, _to: DType): Lanes => x,
} as const;

export function isElementwise(op: string): op is ElementwiseName {
  return Object.hasOwn(elementwise, op);
}

export function isReduction(op: string): op is ReductionName {
  return Object.hasOwn(reductions, op);
}

/** WGSL's != is false on some drivers where an operand is NaN, its == is not true. */
function different(x: readonly string[]): string {
  return `(!(${x[0]} == ${x[1]}))`;
}

function logical(forBool: string, forBits: string): (x: readonly string[], dtype: DType) => string {
  return (x, dtype) => `(${x[0]} ${dtype === "bool" ? forBool : forBits} ${x[1]})`;
}

function castF64(x: number, from: DType, to: DType): number {
  if (to === "f32") return x;
  if (isFloat(from) && dtypes[to].kind === "int") {
    return Number.isNaN(x) ? 0 : Math.min(Math.max(Math.trunc(x), dtypes[to].least), dtypes[to].most);
  }
  return toElement(to, x);
}

function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

export function threefry2x32(key0: number, key1: number, counter0: number, counter1: number): number {
  const keys = [key0 >>> 0, key1 >>> 0, (0x1bd11bda ^ key0 ^ key1) >>> 0];
  let x0 = (counter0 + key0) >>> 0;
  let x1 = (counter1 + key1) >>> 0;
  for (let round = 0; round < 20; round++) {
    const r = rotations[round % 8]!;
    x0 = (x0 + x1) >>> 0;
    x1 = ((x1 << r) | (x1 >>> (32 - r))) >>> 0;
    x1 = (x1 ^ x0) >>> 0;
    if (round % 4 === 3) {
      const step = (round + 1) / 4;
      x0 = (x0 + keys[step % 3]!) >>> 0;
      x1 = (x1 + keys[(step + 1) % 3]! + step) >>> 0;
    }
  }
  return x0;
}

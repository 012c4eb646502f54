/**
 * Elementwise ops on nodes, with NumPy broadcasting and promotion.  Two tensors: bool < u32 < i32 < f16 < f32, the higher
 * dtype wins. A JS number or boolean takes the tensor's dtype where that holds its value (so `i32.add(1)` is i32),
 * else the tensor becomes f32 (`i32.add(0.5)` is f32). Where an op is arithmetic, a bool counts as an i32 and an f16 as an
 * f32. An op of floats (exp, div, pow) makes integers f32 first. How an integer compares with a number outside its dtype is
 * decided exactly, and so are the larger and the smaller of an integer and a whole number: see bounds.ts.
 */
import { ArgumentError, DTypeError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import { computed, type DType, holds, isFloat, promote } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import { elementwise as table, type ElementwiseName, type ElementwiseOp } from "../../graph/ops.ts";
import { broadcastShapes, type Shape } from "../../graph/shape.ts";
import { isWithinAll, wholeComparison } from "./bounds.ts";

/** An operand of an elementwise op. */
export type NodeOperand = Node | number | boolean;

/** A constant of a node's shape and dtype. */
export function like(x: Node, value: number): Node {
  return build.full(x.shape, value, x.dtype);
}

/** The dtype in which operands meet. */
export function commonDType(operands: readonly NodeOperand[]): DType {
  let dtype: DType | undefined;
  for (const x of operands) if (typeof x === "object") dtype = dtype === undefined ? x.dtype : promote(dtype, x.dtype);
  dtype ??= operands.every((x) => typeof x === "boolean") ? "bool" : "f32";
  for (const x of operands) {
    if (typeof x === "number" && !holds(dtype, x)) dtype = dtype === "bool" && holds("i32", x) ? "i32" : "f32";
  }
  return dtype;
}

/** Operands of one shape and of `dtype`, by default the one in which they meet. */
export function meet(op: string, operands: readonly NodeOperand[], dtype: DType = commonDType(operands)): Node[] {
  const shape = broadcastShapes(op, ...operands.map((x) => typeof x === "object" ? x.shape : []));
  return operands.map((x) => spread(x, shape, dtype));
}

function spread(x: NodeOperand, shape: Shape, dtype: DType): Node {
  if (typeof x === "object") return build.broadcastTo(build.cast(x, dtype), shape);
  return build.number(shape, Number(x), dtype);
}

/** An elementwise op on operands that meet, in a dtype that the op takes. Throws DTypeError, ShapeError. */
export function apply(op: ElementwiseName, ...operands: NodeOperand[]): Node {
  return exactly(op, operands) ?? build.elementwise(op, ...meet(op, operands, legal(op, commonDType(operands))));
}

/** What a comparison of integers with a number that they do not hold comes to, or the larger or smaller of the two. */
function exactly(op: ElementwiseName, [a, b]: readonly NodeOperand[]): Node | undefined {
  const [x, value, turned] = typeof b === "number" ? [a, b, false] : [b, a, true];
  if (typeof x !== "object" || typeof value !== "number" || isFloat(x.dtype)) return undefined;
  const dtype = computed(x.dtype);
  if (dtype === "f32" || holds(dtype, value)) return undefined;
  if (op === "max" || op === "min") return isWithinAll(op, value, dtype) ? build.cast(x, dtype) : undefined;
  if (op !== "lt" && op !== "le" && op !== "eq" && op !== "ne") return undefined;
  const comparison = wholeComparison(op, value, dtype, turned);
  if (typeof comparison === "boolean") return build.full(x.shape, Number(comparison), "bool");
  return apply(comparison.op, ...turned ? [comparison.value, x] : [x, comparison.value]);
}

/** The dtype in which `op` can take operands of `dtype`: bool may become i32, all others may become f32. */
function legal(op: ElementwiseName, dtype: DType): DType {
  const { takes }: ElementwiseOp = table[op];
  if (takes.includes(dtype)) return dtype;
  if (takes.includes(computed(dtype))) return computed(dtype);
  if (dtype !== "f32" && takes.includes("f32")) return "f32";
  throw new DTypeError(op, { got: dtype, need: takes.join(" or ") });
}

/** Division; integers give f32. */
export const div = (a: NodeOperand, b: NodeOperand): Node => apply("div", a, b);
export const add = (a: NodeOperand, b: NodeOperand): Node => apply("add", a, b);
export const sub = (a: NodeOperand, b: NodeOperand): Node => apply("sub", a, b);
export const mul = (a: NodeOperand, b: NodeOperand): Node => apply("mul", a, b);
export const less = (a: NodeOperand, b: NodeOperand): Node => apply("lt", a, b);
export const lessEqual = (a: NodeOperand, b: NodeOperand): Node => apply("le", a, b);
export const equal = (a: NodeOperand, b: NodeOperand): Node => apply("eq", a, b);
export const notEqual = (a: NodeOperand, b: NodeOperand): Node => apply("ne", a, b);

export function where(condition: NodeOperand, a: NodeOperand, b: NodeOperand): Node {
  const dtype = commonDType([a, b]);
  const test = typeof condition === "object" ? truth(condition) : build.constant(Number(condition), "bool");
  const shape = broadcastShapes("where", test.shape, ...[a, b].map((x) => typeof x === "object" ? x.shape : []));
  return build.elementwise("where", spread(test, shape, "bool"), spread(a, shape, dtype), spread(b, shape, dtype));
}

/** Whether each element is not 0, as a bool. */
export function truth(x: Node): Node {
  return build.cast(x, "bool");
}

/**
 * The quotient rounded toward minus infinity, as Python's `//`: the n of which a - n b is the remainder that `mod` gives, also
 * where a / b rounds up to the next whole number. Integer division by 0 gives 0; of floats, a / 0 is what `div` makes of it.
 */
export function floorDiv(a: NodeOperand, b: NodeOperand): Node {
  const [x, y] = arithmetic("floorDiv", a, b);
  if (x.dtype === "f32") {
    const remainder = build.elementwise("frem", x, y);
    const truncated = build.elementwise("round", div(sub(x, remainder), y));
    return where(equal(y, 0), div(x, y), sub(truncated, build.cast(signsDiffer(remainder, y), "f32")));
  }
  const quotient = build.elementwise("idiv", x, y);
  if (x.dtype === "u32") return quotient;
  return build.elementwise("sub", quotient, build.cast(signsDiffer(build.elementwise("irem", x, y), y), "i32"));
}

/**
 * The remainder with the sign of the divisor, as Python's `%`: a - floor(a / b) * b, exactly. An integer divisor 0 gives 0, one
 * of floats NaN, and so does an infinite a. Of floats it stays below a finite b in magnitude: -1e-10 mod 1 is the number next
 * to 1. Where b is infinite it is a, or b where their signs differ.
 */
export function mod(a: NodeOperand, b: NodeOperand): Node {
  const [x, y] = arithmetic("mod", a, b);
  const remainder = build.elementwise(x.dtype === "f32" ? "frem" : "irem", x, y);
  if (x.dtype === "u32") return remainder;
  const raised = where(signsDiffer(remainder, y), add(remainder, y), remainder);
  // What rounds to b is made the next number: b less half of its last place.
  return x.dtype === "f32" ? mul(raised, where(equal(raised, y), 1 - 2 ** -24, 1)) : raised;
}

/** Where the remainder of truncated division is not 0 and its sign not that of the divisor. */
function signsDiffer(remainder: Node, y: Node): Node {
  return logical("and", notEqual(remainder, 0), logical("xor", less(remainder, 0), less(y, 0)));
}

function arithmetic(op: string, a: NodeOperand, b: NodeOperand): [Node, Node] {
  const dtype = commonDType([a, b]);
  const [x, y] = meet(op, [a, b], computed(dtype));
  return [x!, y!];
}

/**
 * Powers of a tensor by a small whole JS number are products, exact for integers; others are f32. Negative ones are products of
 * 1 / x, which like their gradients stay in range where x^n would not.
 */
export function pow(x: NodeOperand, exponent: NodeOperand): Node {
  if (typeof x === "object" && typeof exponent === "number" && Number.isInteger(exponent) && Math.abs(exponent) <= 8) {
    if (exponent >= 0) return wholePower(x, exponent);
    return wholePower(div(1, build.cast(x, "f32")), -exponent);
  }
  return apply("pow", x, exponent);
}

function wholePower(base: Node, exponent: number): Node {
  const x = build.cast(base, computed(base.dtype));
  let result: Node | undefined;
  let square = x;
  for (let rest = exponent; rest > 0; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) result = result === undefined ? square : build.elementwise("mul", result, square);
    if (rest > 1) square = build.elementwise("mul", square, square);
  }
  return result ?? like(x, 1);
}

/** -x; a u32 wraps. */
export function neg(x: Node): Node {
  return x.dtype === "u32" ? build.elementwise("sub", like(x, 0), x) : apply("neg", x);
}
export function abs(x: Node): Node {
  return x.dtype === "u32" || x.dtype === "bool" ? x : apply("abs", x);
}
export function sign(x: Node): Node {
  return x.dtype === "u32" ? build.cast(truth(x), "u32") : apply("sign", x);
}
export function square(x: Node): Node {
  return apply("mul", x, x);
}
export function reciprocal(x: Node): Node {
  return div(1, x);
}
export function rsqrt(x: Node): Node {
  return div(1, apply("sqrt", x));
}

/** floor, ceil, trunc and round leave integers as they are. */
export function rounded(op: "floor" | "ceil" | "trunc" | "round", x: Node): Node {
  return isFloat(x.dtype) ? apply(op, x) : x;
}

/** Limits to min and max; either may be left out. Throws ArgumentError when both are, or when min > max. */
export function clamp(x: Node, min: NodeOperand | undefined, max: NodeOperand | undefined): Node {
  if (min === undefined && max === undefined) {
    throw new ArgumentError("clamp", { got: "neither min nor max", need: "clamp({ min }), clamp({ max }) or both" });
  }
  if (typeof min === "number" && typeof max === "number" && !(min <= max)) {
    throw new ArgumentError("clamp", { got: `min ${min}, max ${max}`, need: "min <= max, neither NaN" });
  }
  const raised = min === undefined ? x : apply("max", x, min);
  return max === undefined ? raised : apply("min", raised, max);
}

/** NaN told by its bits, as a device's compiler may assume that there is none. */
export function isNaN(x: Node): Node {
  if (!isFloat(x.dtype)) return build.full(x.shape, 0, "bool");
  return less(build.full(x.shape, 0x7f800000, "u32"), magnitudeBits(x));
}

/** Neither NaN nor infinite, told by the bits. */
export function isFinite(x: Node): Node {
  if (!isFloat(x.dtype)) return build.full(x.shape, 1, "bool");
  return less(magnitudeBits(x), build.full(x.shape, 0x7f800000, "u32"));
}

/** Infinite, told by the bits. */
export function isInfinite(x: Node): Node {
  if (!isFloat(x.dtype)) return build.full(x.shape, 0, "bool");
  return equal(magnitudeBits(x), build.full(x.shape, 0x7f800000, "u32"));
}

function magnitudeBits(x: Node): Node {
  return apply("and", build.bitcast(build.cast(x, "f32"), "u32"), 0x7fffffff);
}

/** and, or, xor of truth values. */
export function logical(op: "and" | "or" | "xor", a: NodeOperand, b: NodeOperand): Node {
  const [x, y] = meet(op, [a, b].map((n) => typeof n === "object" ? truth(n) : Boolean(n)), "bool");
  return build.elementwise(op, x!, y!);
}
export function not(x: Node): Node {
  return build.elementwise("not", truth(x));
}

/** and, or, xor and shifts of the bits of integers. Throws DTypeError for floats. */
export function bitwise(op: "and" | "or" | "xor" | "shl" | "shr", a: NodeOperand, b: NodeOperand): Node {
  const dtype = commonDType([a, b]);
  const integer = computed(dtype);
  if (integer === "f32") throw new DTypeError(op, { got: dtype, need: "i32 or u32 (bitcast reads a float's bits)" });
  const [x, y] = meet(op, [a, b], integer);
  return build.elementwise(op, x!, y!);
}
export function bitNot(x: Node): Node {
  return build.elementwise("bitNot", x);
}

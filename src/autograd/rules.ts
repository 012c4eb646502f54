/**
 * The vector-Jacobian product of every op. A rule gets the cotangent g of the result y and the operands, and builds the
 * cotangent of an operand, one function for each operand, so that only what is asked for is built.
 *
 * Subgradients where a function has no derivative:
 *  - abs and sign at 0: 0. relu at 0: 0. floor, ceil, trunc, round and sign: 0 everywhere.
 *  - max, min: equal operands share equally. amax, amin, scatterMax: equal largest (smallest) elements share equally.
 *    Where a NaN takes part, the cotangent may vanish.
 *  - sqrt at 0: 0, so that the gradient of a vector's norm at the zero vector is 0.
 *  - pow: d/dx of x^0 is 0, also at x = 0; d/dy of 0^y is 0.
 *  - atan2 at the origin: 0. Remainders where they jump: as beside it.
 *  - where: the operand not selected gets exactly 0, whatever its value.
 */
import {
  allGather,
  allReduce,
  cast,
  copy,
  gather,
  permute,
  reduce,
  reduceScatter,
  reshape,
  scan,
  scatterAdd,
  slice,
  unwindow,
} from "../graph/build.ts";
import { isFloat } from "../graph/dtype.ts";
import type { Node, NodeOf, Op, ReductionNode, StructuralName } from "../graph/node.ts";
import { powersOfTwo } from "../graph/powers.ts";
import { attentionAdjoint, attentionGradientAdjoint } from "./attention.ts";
import { runningProductAdjoint } from "./running.ts";
import { alongAxes, placesOfWindows, productAdjoint, reversed, sumToShape, unslice } from "./adjoints.ts";
import {
  abs,
  add,
  and,
  cos,
  cosh,
  div,
  equal,
  exp,
  heed,
  less,
  log,
  max,
  min,
  mul,
  neg,
  pow,
  round,
  sign,
  sin,
  sinh,
  sqrt,
  square,
  sub,
  weigh,
  where,
} from "./arithmetic.ts";

/** Structural ops have typed attributes; elementwise ops have none. */
type Result<K extends Op> = K extends StructuralName ? NodeOf<K> : Node;

type OperandRule<Y> = (g: Node, y: Y, ...x: Node[]) => Node;

/** "none": no gradient flows. A function alone serves all operands of a variadic op. */
type Rule<Y> = "none" | readonly ("none" | OperandRule<Y>)[] | ((g: Node, y: Y, operand: number) => Node);

/** Which of two operands wins: all of g to it, half of g to each of two that are equal. */
function share(g: Node, wins: Node, ties: Node): Node {
  return where(wins, g, where(ties, mul(g, 0.5), 0));
}

/** Equal extreme elements share g equally. */
function toExtremes(g: Node, y: ReductionNode, x: Node): Node {
  const { axes } = y.attrs;
  const extreme = equal(x, alongAxes(y, axes, x.shape));
  const count = reduce("sum", cast(extreme, "f32"), axes);
  return where(extreme, alongAxes(div(g, count), axes, x.shape), 0);
}

/** The share in g of each of those that are the largest for an element of y. */
function amongEqual(g: Node, y: NodeOf<"scatterMax">, x: Node, index: Node, values: Node): Node {
  const { axis } = y.attrs;
  const largest = cast(equal(values, gather(y, index, axis)), "f32");
  return div(g, add(cast(equal(x, y), "f32"), scatterAdd(index, largest, axis, y.shape[axis]!)));
}

export const rules: { readonly [K in Op]: Rule<Result<K>> } = {
  // y = -x: dx = -g
  neg: [(g) => neg(g)],
  // y = |x|: dx = g sign(x)
  abs: [(g, _, x) => mul(g, sign(x))],
  sign: "none",
  // y = √x: dx = g / 2y. The divisor is kept from 0, as the gradient of an unselected 1/0 would be 0·∞.
  sqrt: [(g, y) => {
    const zero = equal(y, 0);
    return div(where(zero, 0, g), where(zero, 1, mul(y, 2)));
  }],
  // y = ∛x: dx = g / 3y²
  cbrt: [(g, y) => div(g, mul(square(y), 3))],
  // y = eˣ: dx = g y
  exp: [(g, y) => mul(g, y)],
  // Comes about in the compiler.
  expUnder: "none",
  // y = eˣ - 1: dx = g (y + 1)
  expm1: [(g, y) => mul(g, add(y, 1))],
  // y = ln x: dx = g / x
  log: [(g, _, x) => div(g, x)],
  // y = ln(1 + x): dx = g / (1 + x)
  log1p: [(g, _, x) => div(g, add(x, 1))],
  // y = sin x: dx = g cos x
  sin: [(g, _, x) => mul(g, cos(x))],
  // y = cos x: dx = -g sin x
  cos: [(g, _, x) => neg(mul(g, sin(x)))],
  // y = tan x: dx = g (1 + y²)
  tan: [(g, y) => mul(g, add(square(y), 1))],
  // y = asin x: dx = g / √(1 - x²), as (1 - x)(1 + x), which near ±1 loses nothing
  asin: [(g, _, x) => div(g, sqrt(mul(sub(1, x), add(x, 1))))],
  // y = acos x: dx = -g / √(1 - x²)
  acos: [(g, _, x) => neg(div(g, sqrt(mul(sub(1, x), add(x, 1)))))],
  // y = atan x: dx = g / (1 + x²); beyond 1, with u = 1/x, g u u / (1 + u²), as x² exceeds the range before g / x² is nothing
  atan: [(g, _, x) => {
    const outer = less(1, abs(x));
    const u = where(outer, div(1, where(outer, x, 1)), x);
    const inner = div(where(outer, mul(g, u), g), add(square(u), 1));
    return where(outer, mul(inner, u), inner);
  }],
  // y = sinh x: dx = g cosh x
  sinh: [(g, _, x) => mul(g, cosh(x))],
  // y = cosh x: dx = g sinh x
  cosh: [(g, _, x) => mul(g, sinh(x))],
  // y = tanh x: dx = g (1 - y²)
  tanh: [(g, y) => mul(g, sub(1, square(y)))],
  // y = erf x: dx = g 2/√π exp(-x²), from 16 on 0; there x is not in it, as the next derivative would be 0·∞
  erf: [(g, _, x) => {
    const far = less(16, abs(x));
    const density = mul(exp(neg(square(where(far, 0, x)))), 2 / Math.sqrt(Math.PI));
    return mul(g, where(far, 0, density));
  }],
  floor: "none",
  ceil: "none",
  trunc: "none",
  round: "none",
  // y = max(x, 0): dx = g where y > 0
  relu: [(g, y) => where(less(0, y), g, 0)],
  not: "none",
  bitNot: "none",

  // y = a + b: da = g, db = g
  add: [(g) => g, (g) => g],
  // y = a - b: da = g, db = -g
  sub: [(g) => g, (g) => neg(g)],
  // y = a b: da = g b, db = g a
  mul: [(g, _, _a, b) => mul(g, b), (g, _, a) => mul(g, a)],
  // y = a / b: da = g / b, db = -(g / b) y
  div: [(g, _, _a, b) => div(g, b), (g, y, _a, b) => neg(mul(div(g, b), y))],
  idiv: "none",
  irem: "none",
  // y = a - b n with n = trunc(a / b): da = g, db = -g n. Whatever a / b rounds to, (a - y) / b is next to n.
  frem: [(g) => g, (g, y, a, b) => neg(mul(g, round(div(sub(a, y), b))))],
  pow: [
    // y = aᵇ: da = g b aᵇ⁻¹. At a = b = 0 the exponent is 0 instead of -1, which gives 0·1 and not 0·∞.
    (g, _, a, b) => {
      const indeterminate = and(equal(a, 0), equal(b, 0));
      return mul(g, mul(b, pow(a, where(indeterminate, 0, sub(b, 1)))));
    },
    // y = aᵇ: db = g aᵇ ln a. The base 1 in place of 0 gives ln 1 = 0.
    (g, _, a, b) => {
      const base = where(equal(a, 0), 1, a);
      return mul(g, mul(pow(base, b), log(base)));
    },
  ],
  // y = max(a, b): da = g where a > b, g/2 where a = b
  max: [(g, _, a, b) => share(g, less(b, a), equal(a, b)), (g, _, a, b) => share(g, less(a, b), equal(a, b))],
  // y = min(a, b): da = g where a < b, g/2 where a = b
  min: [(g, _, a, b) => share(g, less(a, b), equal(a, b)), (g, _, a, b) => share(g, less(b, a), equal(a, b))],
  // y = atan2(a, b): da = g b / (a² + b²), db = -g a / (a² + b²)
  atan2: [
    (g, _, a, b) => overSquaredRadius(g, b, a, b),
    (g, _, a, b) => neg(overSquaredRadius(g, a, a, b)),
  ],
  and: "none",
  or: "none",
  xor: "none",
  shl: "none",
  shr: "none",
  lt: "none",
  le: "none",
  eq: "none",
  ne: "none",
  // y = c ? a : b: da = c ? g : 0, db = c ? 0 : g
  where: ["none", (g, _, c) => where(c, g, 0), (g, _, c) => where(c, 0, g)],
  // y = a b where c: da = g b, db = g a, where c
  heed: ["none", (g, _, c, _a, b) => weigh(c, g, b), (g, _, c, a) => weigh(c, g, a)],
  // y = c ? w x : 0: dw = g x, which is wanted only where c; dx = c ? w g : 0
  weigh: ["none", (g, _, c, _w, x) => heed(c, g, x), (g, _, c, w) => weigh(c, w, g)],
  // Comes about in the compiler.
  gated: "none",
  threefry: "none",

  const: "none",
  iota: "none",
  input: "none",
  storage: "none",
  // y = x as another float: dx = g
  cast: [(g) => g],
  bitcast: "none",
  reshape: [(g, _, x) => reshape(g, x.shape)],
  // y = x permuted: dx = g permuted back
  permute: [(g, y) => permute(g, y.attrs.axes.map((_, axis) => y.attrs.axes.indexOf(axis)))],
  // y repeats x: dx = the sum of g over the repeats
  expand: [(g, _, x) => sumToShape(g, x.shape)],
  // y = x in a frame of constants: dx = g without the frame
  pad: [(g, y, x) => slice(g, y.attrs.low, x.shape, x.shape.map(() => 1))],
  // y = a part of x: dx = g at the places of that part, zeros elsewhere
  slice: [(g, y, x) => unslice(g, y.attrs.start, y.attrs.step, x.shape)],
  // y = windows of x: dx = what windows hold, added up where they overlap
  window: [(g, y, x) => {
    const { axis, stride, dilation } = y.attrs;
    return reduce("sum", unwindow(g, { axis, length: x.shape[axis]!, stride, dilation }), [y.shape.length - 1]);
  }],
  // y = x where its windows lie: dx = g there, of each window's place k what lies in the k-th part of g
  unwindow: [(g, y, x) => placesOfWindows(g, y.attrs, x.shape)],
  // y = Σ xᵢ: dxᵢ = g
  sum: [(g, y, x) => alongAxes(g, y.attrs.axes, x.shape)],
  // y = Π xᵢ: dxᵢ = g Π xⱼ over j ≠ i
  prod: [(g, y, x) => productAdjoint(g, x, y.attrs.axes)],
  // y = max xᵢ: dxᵢ = g / (number of i with xᵢ = y) where xᵢ = y
  amax: [(g, y, x) => toExtremes(g, y, x)],
  amin: [(g, y, x) => toExtremes(g, y, x)],
  // yᵢ = x[indexᵢ]: dx = Σ gᵢ added at indexᵢ; what was out of range read nothing of x
  gather: [(g, y, x, index) => scatterAdd(index, g, y.attrs.axis, x.shape[y.attrs.axis]!), "none"],
  // y = Σ valuesᵢ added at indexᵢ: dvaluesᵢ = g[indexᵢ]
  scatterAdd: ["none", (g, y, index) => gather(g, index, y.attrs.axis)],
  // y = the larger of x and the valuesᵢ at indexᵢ: dx = g / (number of those that are y) where x = y, and dvaluesᵢ likewise
  scatterMax: [
    (g, y, x, index, values) => where(equal(x, y), amongEqual(g, y, x, index, values), 0),
    "none",
    (g, y, x, index, values) => {
      const { axis } = y.attrs;
      return where(equal(values, gather(y, index, axis)), gather(amongEqual(g, y, x, index, values), index, axis), 0);
    },
  ],
  // Softmax of scores, applied: see attention.ts.
  attention: attentionAdjoint,
  attentionGradient: attentionGradientAdjoint,
  // yᵢ = Σ xⱼ over j ≤ i: dxⱼ = Σ gᵢ over i ≥ j, the running sums from the other end. Of products see running.ts.
  scan: [(g, y, x) => {
    const { axis, how } = y.attrs;
    return how === "prod" ? runningProductAdjoint(g, x, axis) : reversed(scan("sum", reversed(g, axis), axis), axis);
  }],
  argsort: "none",
  // y = parts joined: the cotangent of a part is that part of g
  concat: (g, y, operand) => {
    const { axis } = y.attrs;
    const before = y.src.slice(0, operand).reduce((sum, x) => sum + x.shape[axis]!, 0);
    const { shape } = y.src[operand]!;
    return slice(g, shape.map((_, i) => i === axis ? before : 0), shape, shape.map(() => 1));
  },
  contiguous: [(g) => g],
  stopGradient: "none",
  // What the region between checkpoints does to a cotangent is grad.ts's.
  checkpoint: [(g) => g],
  after: [(g) => g],
  // Every shard uses y, so its cotangent is the sum of all of theirs.
  allReduce: [(g, y, x) => {
    const all = allReduce(g, "sum");
    if (y.attrs.how === "sum") return all;
    // As for max: equal extremes share equally, in whichever shards they are.
    const extreme = equal(x, y);
    const count = allReduce(cast(extreme, "f32"), "sum");
    return where(extreme, div(all, count), 0);
  }],
  allGather: [(g, _, x) => reduceScatter(g, x.shape[0]!)],
  reduceScatter: [(g, _, x) => allGather(g, x.shape[0]!)],
  // The cotangent goes back to where the operand lives.
  copy: [(g, _, x) => x.device === undefined ? g : copy(g, x.device)],
};

/**
 * g x / (a² + b²), where x is a or b; 0 at the origin. Computed of operands that are scaled to about 1: for any s it is
 * g s (s x) / ((s a)² + (s b)²), so that no gradient need flow through s. Infinite ones count as 2^40, beside which all else
 * is nothing.
 */
function overSquaredRadius(g: Node, x: Node, a: Node, b: Node): Node {
  const { inverse } = powersOfTwo(max(abs(a), abs(b)));
  const scaled = (n: Node) => max(min(mul(n, inverse), 2 ** 40), -(2 ** 40));
  const radius = add(square(scaled(a)), square(scaled(b)));
  return mul(mul(g, inverse), div(scaled(x), where(equal(radius, 0), 1, radius)));
}

// Parameters of type never make every rule fit one type, without a cast of the table.
const untyped: { readonly [K in Op]: Rule<never> } = rules;

/** Whether a gradient can flow from `y` to its operand of that index. */
export function flows(y: Node, operand: number): boolean {
  const rule = untyped[y.op];
  if (!isFloat(y.dtype) || !isFloat(y.src[operand]!.dtype) || rule === "none") return false;
  return typeof rule === "function" || (rule[operand] ?? "none") !== "none";
}

/**
 * The cotangent of an operand of `y` to which a gradient `flows`, from the cotangent `g` of `y`. Cotangents are f32, those of
 * f16 too: what is small is not lost on the way.
 */
export function pullback(g: Node, y: Node, operand: number): Node {
  const rule = untyped[y.op];
  if (typeof rule === "function") return rule(g, y as never, operand);
  return (rule[operand] as OperandRule<never>)(g, y as never, ...y.src);
}

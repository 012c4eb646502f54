/** Rules of elementwise ops, cast and bitcast: constants, identities, inverses, and one order of operands. */
import { bitcast, cast, elementwise, expand, full, iota } from "../../graph/build.ts";
import { type DType, dtypes, isFloat } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import {
  bitcast as bitcastOp,
  cast as castOp,
  elementwise as table,
  type ElementwiseName,
  type ElementwiseOp,
  hidden,
  isElementwise,
} from "../../graph/ops.ts";
import { constantLike, type Rewriting } from "./rewriting.ts";

export function elementwiseRule(node: Node, graph: Rewriting): Node | undefined {
  const folded = fold(node, graph);
  if (folded !== undefined) return folded;
  if (node.op === "cast") return castRule(node, graph);
  if (node.op === "bitcast") return bitcastRule(node, graph);
  if (!isElementwise(node.op)) return undefined;
  if (node.op === "where") return whereRule(node, graph);
  if (node.op === "heed") return graph.simple(elementwise("mul", node.src[1]!, node.src[2]!));
  if (node.op === "weigh") return gatedProduct(node, graph);
  const record: ElementwiseOp = table[node.op];
  const [a, b] = node.src as readonly [Node, Node];
  if (node.src.length === 1) return unaryRule(node.op, a, graph);
  if (node.src.length !== 2) return undefined;
  if (record.commutes && graph.rank(a) > graph.rank(b)) return graph.simple(elementwise(node.op, b, a));
  return constantRule(node.op, a, b, graph) ?? equalRule(node, a, b) ?? signRule(node.op, a, b, graph);
}

/** An op of broadcast constants is a broadcast constant, rounded as a device would. */
function fold(node: Node, graph: Rewriting): Node | undefined {
  const values: number[] = [];
  for (const source of node.src) {
    const value = graph.constantOf(source);
    if (value === undefined) return undefined;
    values.push(value);
  }
  return full(node.shape, apply(node, values), node.dtype);
}

function apply(node: Node, values: readonly number[]): number {
  const [a, b] = values as readonly [number, number];
  if (node.op === "cast") return castOp.f64(a, node.src[0].dtype, node.dtype);
  if (node.op === "bitcast") return bitcastOp.f64(a, node.src[0].dtype, node.dtype);
  if (node.op === "mul" && !isFloat(node.dtype)) return Math.imul(a, b);
  const { f64 }: { f64: (...x: number[]) => number } = table[node.op as ElementwiseName];
  return f64(...values);
}

/** Values c with x ∘ c = x. */
function isIdentity(op: ElementwiseName, c: number, dtype: DType): boolean {
  switch (op) {
    case "add":
    case "sub":
    case "or":
    case "xor":
    case "shl":
    case "shr":
      return c === 0;
    case "mul":
    case "div":
    case "idiv":
      return c === 1;
    case "and":
      return c === allOnes(dtype);
    case "max":
      return c === dtypes[dtype].least;
    case "min":
      return c === dtypes[dtype].most;
    default:
      return false;
  }
}

/** Values c with x ∘ c = c, for every x; not 0 in a product of f32, as NaN * 0 is NaN. */
function isAbsorbing(op: ElementwiseName, c: number, dtype: DType): boolean {
  if (op === "mul") return !isFloat(dtype) && c === 0;
  return (op === "and" && c === 0) || (op === "or" && c === allOnes(dtype));
}

function allOnes(dtype: DType): number {
  return dtype === "bool" ? 1 : dtype === "i32" ? -1 : 4294967295;
}

/** The second operand is a constant, or the first of an op that does not commute. */
function constantRule(op: ElementwiseName, a: Node, b: Node, graph: Rewriting): Node | undefined {
  const c = graph.constantOf(b);
  if (c === undefined) {
    return op === "sub" && graph.constantOf(a) === 0 && a.dtype !== "u32"
      ? graph.simple(elementwise("neg", b))
      : undefined;
  }
  const { dtype } = a;
  if (isIdentity(op, c, dtype)) return a;
  if (isAbsorbing(op, c, dtype)) return b;
  if (op === "irem" && c === 1) return constantLike(a, 0);
  if (op === "mul" && c === -1 && dtype !== "u32") return graph.simple(elementwise("neg", a));
  if (dtype === "bool") {
    // x = true and x ≠ false are x, the other two and x ⊻ true are its negation.
    if ((op === "eq" && c === 1) || (op === "ne" && c === 0)) return a;
    if ((op === "eq" && c === 0) || (op === "ne" && c === 1) || (op === "xor" && c === 1)) {
      return graph.simple(elementwise("not", a));
    }
  }
  if (op === "pow") return powerRule(a, c, graph);
  return undefined;
}

/** Small integer powers are products, which are exact where a device's pow is not. */
function powerRule(x: Node, exponent: number, graph: Rewriting): Node | undefined {
  const product = (left: Node, right: Node) => graph.simple(elementwise("mul", left, right));
  switch (exponent) {
    case 0:
      return constantLike(x, 1);
    case 1:
      return x;
    case 2:
      return product(x, x);
    case 3:
      return product(product(x, x), x);
    case 4: {
      const square = product(x, x);
      return product(square, square);
    }
    case -1:
      return graph.simple(elementwise("div", constantLike(x, 1), x));
    default:
      return undefined;
  }
}

/** Both operands are one node. Comparisons of f32 are left alone: x = x asks whether x is a number. */
function equalRule(node: Node, a: Node, b: Node): Node | undefined {
  if (a !== b) return undefined;
  switch (node.op) {
    case "max":
    case "min":
    case "and":
    case "or":
      return a;
    case "xor":
      return constantLike(a, 0);
    case "sub":
      return isFloat(a.dtype) ? undefined : constantLike(a, 0);
    case "lt":
      return full(node.shape, 0, "bool");
    case "eq":
    case "le":
      return isFloat(a.dtype) ? undefined : full(node.shape, 1, "bool");
    case "ne":
      return isFloat(a.dtype) ? undefined : full(node.shape, 0, "bool");
    default:
      return undefined;
  }
}

/** Negations move into the op that reads them. */
function signRule(op: ElementwiseName, a: Node, b: Node, graph: Rewriting): Node | undefined {
  const [minusA] = graph.operands(a, "neg") ?? [];
  const [minusB] = graph.operands(b, "neg") ?? [];
  switch (op) {
    case "add":
      if (minusB !== undefined) return graph.simple(elementwise("sub", a, minusB));
      return minusA === undefined ? undefined : graph.simple(elementwise("sub", b, minusA));
    case "sub":
      return minusB === undefined ? undefined : graph.simple(elementwise("add", a, minusB));
    case "mul":
    case "div": {
      if (minusA !== undefined && minusB !== undefined) return graph.simple(elementwise(op, minusA, minusB));
      const c = graph.constantOf(b);
      return minusA === undefined || c === undefined
        ? undefined
        : graph.simple(elementwise(op, minusA, constantLike(b, -c)));
    }
    default:
      return undefined;
  }
}

const integral: readonly ElementwiseName[] = ["floor", "ceil", "trunc", "round"];

function unaryRule(op: ElementwiseName, x: Node, graph: Rewriting): Node | undefined {
  const [twice] = graph.operands(x, op) ?? [];
  if (twice !== undefined) {
    if (op === "neg" || op === "not" || op === "bitNot") return twice;
    if (op === "abs" || op === "sign" || op === "relu" || integral.includes(op)) return x;
  }
  switch (op) {
    case "neg": {
      const [left, right] = graph.operands(x, "mul") ?? [];
      const c = right === undefined ? undefined : graph.constantOf(right);
      return c === undefined ? undefined : graph.simple(elementwise("mul", left!, constantLike(right!, -c)));
    }
    case "abs": {
      const [minus] = graph.operands(x, "neg") ?? [];
      return minus === undefined ? undefined : graph.simple(elementwise("abs", minus));
    }
    case "not": {
      const equal = graph.operands(x, "eq");
      if (equal !== undefined) return graph.simple(elementwise("ne", ...equal));
      const different = graph.operands(x, "ne");
      return different === undefined ? undefined : graph.simple(elementwise("eq", ...different));
    }
    case "floor":
    case "ceil":
    case "trunc":
    case "round":
      return integral.some((other) => graph.operands(x, other) !== undefined) ? x : undefined;
    default:
      return undefined;
  }
}

function whereRule(node: Node, graph: Rewriting): Node | undefined {
  const [condition, a, b] = node.src as readonly [Node, Node, Node];
  const known = graph.constantOf(condition);
  if (known !== undefined) return known !== 0 ? a : b;
  if (a === b) return a;
  const [negated] = graph.operands(condition, "not") ?? [];
  if (negated !== undefined) return graph.simple(elementwise("where", negated, b, a));
  // One condition twice: where(c, where(c, x, y), z) = where(c, x, z).
  const inA = graph.operands(a, "where");
  if (inA !== undefined && inA[0] === condition) return graph.simple(elementwise("where", condition, inA[1]!, b));
  const inB = graph.operands(b, "where");
  if (inB !== undefined && inB[0] === condition) return graph.simple(elementwise("where", condition, a, inB[2]!));
  if (node.dtype !== "bool") return undefined;
  const [yes, no] = [graph.constantOf(a), graph.constantOf(b)];
  if (yes === 1 && no === 0) return condition;
  return yes === 0 && no === 1 ? graph.simple(elementwise("not", condition)) : undefined;
}

/** seen ? w x : 0, with what is not seen told by the weight: the product of a contraction has two operands. */
function gatedProduct(node: Node, graph: Rewriting): Node {
  const [seen, w, x] = node.src as readonly [Node, Node, Node];
  const known = graph.constantOf(seen);
  if (known !== undefined) {
    return known !== 0 ? graph.simple(elementwise("mul", w, x)) : full(node.shape, 0, node.dtype);
  }
  // Axes along which both only repeat stay outermost.
  const [test, weight] = [seen, w].map((source) => graph.look(source, "expand")?.src[0] ?? source) as [Node, Node];
  const shape = test.shape.map((n, axis) => Math.max(n, weight.shape[axis]!));
  const [a, b] = [test, weight].map((source) => graph.simple(expand(source, shape))) as [Node, Node];
  // Weights of which those that are not seen are another value already: without that value, which others may not want stored.
  const [own, chosen] = graph.operands(graph.look(b, "reshape")?.src[0] ?? b, "where") ?? [];
  const weights = own !== undefined && graph.reshape(own, shape) === a ? graph.reshape(chosen!, shape) : b;
  const marked = graph.simple(elementwise("where", a, weights, full(shape, hidden, "f32")));
  return graph.simple(elementwise("gated", graph.simple(expand(marked, node.shape)), x));
}

function castRule(node: Node, graph: Rewriting): Node | undefined {
  const [x] = node.src as readonly [Node];
  const counted = graph.look(x, "iota");
  // An f32 holds every integer up to 2^24.
  if (counted !== undefined && node.dtype !== "bool" && node.dtype !== "f16" && node.shape[0]! <= 2 ** 24) {
    return iota(node.shape[0]!, node.dtype);
  }
  const [source] = graph.look(x, "cast")?.src ?? [];
  if (source === undefined) return undefined;
  const [from, middle, to] = [source.dtype, x.dtype, node.dtype];
  const integers = (...list: DType[]) => list.every((dtype) => dtype === "i32" || dtype === "u32");
  // What f32 holds of an f16 comes back as it was.
  if (from === "f16" && to === "f16") return source;
  // 0 and 1 pass through every dtype; integers wrap, and into f32 round, but are never 0 for it.
  const skips = (from === "bool" && to !== "f16") || integers(from, middle, to) ||
    (to === "bool" && middle !== "bool" && integers(from));
  return skips ? graph.simple(cast(source, to)) : undefined;
}

function bitcastRule(node: Node, graph: Rewriting): Node | undefined {
  const [source] = graph.look(node.src[0]!, "bitcast")?.src ?? [];
  return source === undefined ? undefined : graph.simple(bitcast(source, node.dtype));
}

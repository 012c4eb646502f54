/** Spellings of elementwise nodes, so that a rule reads like its formula. A number stands for a constant of that shape. */
import { elementwise, number } from "../graph/build.ts";
import type { Node } from "../graph/node.ts";
import type { ElementwiseName } from "../graph/ops.ts";

type Operand = Node | number;

function binary(op: ElementwiseName): (a: Operand, b: Operand) => Node {
  return (a, b) => {
    const like = typeof a === "number" ? b : a;
    if (typeof like === "number") throw new TypeError(`${op} of two numbers is no node`);
    return elementwise(op, operand(a, like), operand(b, like));
  };
}

function unary(op: ElementwiseName): (x: Node) => Node {
  return (x) => elementwise(op, x);
}

function operand(x: Operand, like: Node): Node {
  return typeof x === "number" ? number(like.shape, x, like.dtype) : x;
}

export const add = binary("add");
export const sub = binary("sub");
export const mul = binary("mul");
export const div = binary("div");
export const pow = binary("pow");
export const max = binary("max");
export const min = binary("min");
export const less = binary("lt");
export const equal = binary("eq");
export const and = binary("and");
export const neg = unary("neg");
export const abs = unary("abs");
export const round = unary("round");
export const sign = unary("sign");
export const sqrt = unary("sqrt");
export const exp = unary("exp");
export const log = unary("log");
export const sin = unary("sin");
export const cos = unary("cos");
export const sinh = unary("sinh");
export const cosh = unary("cosh");

export function square(x: Node): Node {
  return mul(x, x);
}

/** See the table of ops. */
export const heed = (seen: Node, a: Node, b: Node): Node => elementwise("heed", seen, a, b);
export const weigh = (seen: Node, w: Node, x: Node): Node => elementwise("weigh", seen, w, x);

/** where(condition, a, b); one of a and b may be a number. */
export function where(condition: Node, a: Operand, b: Operand): Node {
  const like = typeof a === "number" ? b : a;
  if (typeof like === "number") throw new TypeError("where of two numbers has no dtype");
  return elementwise("where", condition, operand(a, like), operand(b, like));
}

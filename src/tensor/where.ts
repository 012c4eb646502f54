import { takes } from "../signature/takes.ts";
import type { MeetOperands } from "./dtypes.ts";
import { where as whereNode } from "./ops/elementwise.ts";
import { type Operand, operand, operandKind, Tensor } from "./tensor.ts";

const signature = takes("where", { condition: operandKind, a: operandKind, b: operandKind });

/** `a` where `condition` is true (not 0), else `b`; all broadcast. A NaN in what is not chosen does no harm. */
export function where<A extends Operand, B extends Operand>(condition: Operand, a: A, b: B): Tensor<MeetOperands<A, B>> {
  signature.check(arguments);
  return new Tensor(whereNode(operand(condition), operand(a), operand(b)));
}

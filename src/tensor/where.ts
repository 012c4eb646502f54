import type { MeetOperands } from "./dtypes.ts";
import { where as whereNode } from "./elementwise.ts";
import { type Operand, operand, Tensor } from "./tensor.ts";

/** `a` where `condition` is true (not 0), else `b`; all broadcast. A NaN in what is not chosen does no harm. */
export function where<A extends Operand, B extends Operand>(condition: Operand, a: A, b: B): Tensor<MeetOperands<A, B>> {
  return new Tensor(whereNode(operand("where", condition), operand("where", a), operand("where", b)));
}

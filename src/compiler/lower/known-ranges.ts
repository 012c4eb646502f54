/** Values of which a kernel may know more than what numbers are like: exponentials of a row less its largest element. */
import type { Node, ReductionNode } from "../../graph/node.ts";
import { isReduction } from "../../graph/ops.ts";
import { isMovement } from "../../graph/structural.ts";
import { type Index, variableIndex, zeroIndex } from "../kernel/index-arithmetic.ts";
import { sourceIndices } from "../kernel/source-indices.ts";

/** A node's element, by the element of another one that it is the same for. */
interface Element {
  readonly node: Node;
  readonly indices: readonly Index[];
}

/**
 * Whether it is exp(x - m) of the largest m of x along some axes, 0 standing for an m that is not finite, or too low. So it is of what
 * is at most 0, but in rows in which there is an infinity.
 */
export function isUnderMost(node: Node): boolean {
  return axesOfMost(node) !== undefined;
}

/** Whether it is an element of such a row, divided by the sum of the row: at least 1, if it is a number. */
export function isShareOfRow(node: Node): boolean {
  const [dividend, divisor] = node.src;
  if (node.op !== "div") return false;
  const axes = axesOfMost(dividend!);
  if (axes === undefined) return false;
  const sum = alongRows(divisor!, dividend!);
  return sum?.op === "sum" && axes.every((axis) => sum.attrs.axes.includes(axis));
}

function axesOfMost(node: Node): readonly number[] | undefined {
  const [difference] = node.src;
  if (node.op !== "exp" || difference!.op !== "sub") return undefined;
  const [x, most] = difference!.src;
  const found = alongRows(most!, x!, shifted);
  return found?.op === "amax" ? found.attrs.axes : undefined;
}

/**
 * The reduction of `x` that `value` is at every element of x, which is moved there; `through` gives what is reduced of a node behind
 * movements.
 */
function alongRows(
  value: Node,
  x: Node,
  through: (node: Node) => Node = (node) => node,
): ReductionNode | undefined {
  const at = x.shape.map((extent, axis) => extent === 1 ? zeroIndex : variableIndex({ name: `x${axis}`, extent }));
  let element = unmoved({ node: value, indices: at });
  element = element && unmoved({ ...element, node: through(element.node) });
  if (element === undefined || !isReduction(element.node.op)) return undefined;
  const reduction = element.node as ReductionNode;
  const kept = at.filter((_, axis) => !reduction.attrs.axes.includes(axis));
  const same = kept.every((index, i) => index.key === element.indices[i]?.key);
  return reduction.src[0] === x && same ? reduction : undefined;
}

/** Where an element comes from; undefined where that may be padding. */
function unmoved({ node, indices }: Element): Element | undefined {
  let element: Element = { node, indices };
  while (isMovement(element.node)) {
    const { node } = element;
    const from = sourceIndices(node, element.indices);
    if (from.bounds.length > 0) return undefined;
    element = { node: node.src[0]!, indices: from.indices };
  }
  return element;
}

/** m of what is m where that is finite, else 0, or 0 where m is below a number that is at most 0, else m; any other node itself. */
function shifted(node: Node): Node {
  if (node.op !== "where") return node;
  const [test, first, second] = node.src;
  const [left, right] = test!.src;
  if (test!.op !== "lt") return node;
  if (left === second && isConstant(first, 0) && isConstant(right, (value) => value <= 0)) return second!;
  const [bits, mask] = left!.op === "and" ? left!.src : [];
  const finite = bits?.op === "bitcast" && bits.src[0] === first && isConstant(mask, 0x7fffffff) &&
    isConstant(right, 0x7f800000) && isConstant(second, 0);
  return finite ? first! : node;
}

function isConstant(node: Node | undefined, value: number | ((value: number) => boolean)): boolean {
  let constant = node;
  while (constant !== undefined && (constant.op === "expand" || constant.op === "reshape")) constant = constant.src[0];
  if (constant?.op !== "const") return false;
  return typeof value === "number" ? constant.attrs.value === value : value(constant.attrs.value);
}

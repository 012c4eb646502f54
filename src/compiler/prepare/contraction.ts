/** What contraction a node is: its lengths, and how its operands lie in memory. */
import { withSources } from "../../graph/build.ts";
import type { Node, NodeOf, ReductionNode } from "../../graph/node.ts";
import { isMovement } from "../../graph/structural.ts";
import { isMarking, isProduct } from "../kernel/patterns.ts";
import type { OperandLayout, Problem } from "../plan/contraction-schedules.ts";
import { type Look, viewOf } from "../simplify/affine-view.ts";

/** An operand of a product: which indices of the product it changes with, and along which its neighbours lie. */
interface Operand {
  readonly changes: readonly boolean[];
  /** The index with which the place in memory grows by 1; -1 where there is none. */
  readonly fast: number;
}

/**
 * The lengths and layouts of a sum of products, of operands in memory or views of them; undefined where the sum is of a view
 * of the product, or an operand is converted. `inMemory` are nodes that are not looked through.
 */
export function problemOf(node: ReductionNode, inMemory: (node: Node) => boolean): Problem | undefined {
  const [product] = node.src;
  if (!isProduct(product) || inMemory(product)) return undefined;
  const { shape } = product;
  const { axes } = node.attrs;
  const operands = product.src.map((operand) => operandOf(operand, inMemory));
  if (operands.includes(undefined)) return undefined;
  let [rows, columns] = operands as [Operand, Operand];
  const kept = [...shape.keys()].filter((axis) => !axes.includes(axis) && shape[axis]! > 1);
  // The columns are what changes along the last axis of the result that belongs to one operand alone.
  const last = kept.findLast((axis) => rows.changes[axis] !== columns.changes[axis]);
  if (last !== undefined && rows.changes[last]) [rows, columns] = [columns, rows];
  const length = (of: readonly number[]) => of.reduce((product, axis) => product * shape[axis]!, 1);
  const ofRows = kept.filter((axis) => rows.changes[axis] && !columns.changes[axis]);
  const ofColumns = kept.filter((axis) => columns.changes[axis] && !rows.changes[axis]);
  const layout = ({ fast }: Operand, own: readonly number[]): OperandLayout =>
    own.includes(fast) ? "own" : axes.includes(fast) ? "k" : "neither";
  return {
    dtype: node.dtype,
    batch: length(kept) / (length(ofRows) * length(ofColumns)),
    m: length(ofRows),
    n: length(ofColumns),
    k: length(axes),
    rows: layout(rows, ofRows),
    columns: layout(columns, ofColumns),
  };
}

/** The weights behind marked ones, by the same views: what is loaded. */
function unmarked(operand: Node, inMemory: (node: Node) => boolean): Node {
  const above: Node[] = [];
  let x = operand;
  for (; isMovement(x) && !inMemory(x); x = x.src[0]) above.push(x);
  return isMarking(x) && !inMemory(x)
    ? above.reduceRight((source, view) => withSources(view, [source]), x.src[1]!)
    : operand;
}

function operandOf(operand: Node, inMemory: (node: Node) => boolean): Operand | undefined {
  const look: Look = (x, op) => x.op === op && !inMemory(x) ? x as NodeOf<typeof op> : undefined;
  const { base, shape, rows } = viewOf(unmarked(operand, inMemory), look);
  if (base.op === "cast" && !inMemory(base)) return undefined;
  const last = base.shape.findLastIndex((length) => length > 1);
  return {
    changes: shape.map((length, axis) => length > 1 && rows.some(({ coefficients }) => coefficients[axis] !== 0)),
    fast: shape.findIndex((length, axis) =>
      length > 1 &&
      rows.every(({ coefficients }, of) => base.shape[of] === 1 || coefficients[axis] === (of === last ? 1 : 0))
    ),
  };
}

/**
 * Operands of large contractions that are better copied first, as each element is read many times: those with padding, so
 * that the loop has no tests of bounds, and those whose neighbours along the last axis of the result are no neighbours in
 * memory, so that they are loaded as vectors. An f16 is copied as it is, and converted where it is read.
 */
import { cast, contiguous, permute, withSources } from "../../graph/build.ts";
import { toElement } from "../../graph/dtype.ts";
import { makeNode, type Node, type NodeOf, type ReductionNode, toposort } from "../../graph/node.ts";
import { type Shape, size, withoutAxes } from "../../graph/shape.ts";
import { isMovement, isStored } from "../../graph/structural.ts";
import { isContraction, isProduct } from "../kernel/patterns.ts";
import { type Look, viewOf } from "../simplify/affine-view.ts";

/** Smaller contractions are not worth a further kernel, nor are operands that are read less often. */
const manyTerms = 2 ** 20;
const manyReads = 64;

/** Rewrites the graph above `given`. */
export function storeOperands(roots: readonly Node[], given: ReadonlySet<Node>): Node[] {
  const replaced = new Map<Node, Node>();
  const now = (node: Node) => replaced.get(node) ?? node;
  for (const node of toposort(roots, (node) => !given.has(node))) {
    if (given.has(node)) continue;
    const rebuilt = withSources(node, node.src.map(now));
    const result = isContraction(rebuilt) ? withStoredOperands(rebuilt as ReductionNode, given) : rebuilt;
    if (result !== node) replaced.set(node, result);
  }
  return roots.map(now);
}

function withStoredOperands(node: ReductionNode, given: ReadonlySet<Node>): Node {
  const [product] = node.src;
  const terms = size(product.shape);
  if (!isProduct(product) || given.has(product) || terms < manyTerms) return node;
  const most = terms / manyReads;
  const column = withoutAxes([...product.shape.keys()], node.attrs.axes).findLast((axis) => product.shape[axis] !== 1);
  const operands = product.src.map((operand) => {
    const wanted = withoutConversion(operand, given) ?? operand;
    const padded = storePadding(wanted, given, most);
    const stored = column === undefined ? padded : storeColumns(padded, column, given, most);
    return stored === wanted ? operand : cast(stored, operand.dtype);
  });
  return withSources(node, [withSources(product, operands)]);
}

/** The f16 that views of an operand show in f32, with the same views of it; undefined where there is none. */
function withoutConversion(operand: Node, given: ReadonlySet<Node>): Node | undefined {
  const above: Node[] = [];
  let x = operand;
  const moves = (node: Node) =>
    isMovement(node) && (node.op !== "pad" || toElement("f16", node.attrs.value) === node.attrs.value);
  for (; moves(x) && !given.has(x); x = x.src[0]!) above.push(x);
  const [half] = x.src;
  if (x.op !== "cast" || half?.dtype !== "f16" || given.has(x)) return undefined;
  return above.reduceRight(
    (source, view) => makeNode(view.op, [source], view.attrs, view.shape, "f16", view.device),
    half,
  );
}

/** The operand with its outermost padding stored, if there is any. */
function storePadding(operand: Node, given: ReadonlySet<Node>, most: number): Node {
  const above: Node[] = [];
  let x = operand;
  for (; isMovement(x) && x.op !== "pad" && !isStored(x) && !given.has(x); x = x.src[0]) above.push(x);
  if (x.op !== "pad" || given.has(x) || size(x.shape) > most) return operand;
  return above.reduceRight((source, view) => withSources(view, [source]), contiguous(x));
}

/** The operand stored such that its elements along axis `column` are neighbours, if it has such elements and they are not. */
function storeColumns(operand: Node, column: number, given: ReadonlySet<Node>, most: number): Node {
  if (operand.op !== "expand" || given.has(operand)) return operand;
  const [source] = operand.src;
  if (source.shape[column] === 1 || size(source.shape) > most) return operand;
  const look: Look = (x, op) => x.op === op && !given.has(x) ? x as NodeOf<typeof op> : undefined;
  const { base, rows } = viewOf(source, look);
  const along = rows.map(({ coefficients }) => coefficients[column]!);
  const last = base.shape.findLastIndex((n) => n !== 1);
  if (along.every((c, axis) => c === (axis === last ? 1 : 0))) return operand;
  const order = [...source.shape.keys()].filter((axis) => axis !== column).concat(column);
  const stored = contiguous(permute(source, order));
  return withSources(operand, [permute(stored, inverse(order))]);
}

function inverse(order: Shape): number[] {
  return order.map((_, axis) => order.indexOf(axis));
}

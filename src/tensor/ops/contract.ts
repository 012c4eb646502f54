/** Contractions of nodes: sums of products of views, a form that the compiler recognises. */
import { ArgumentError, ShapeError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import { computed, promote } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import { broadcastShapes, formatShape } from "../../graph/shape.ts";
import { mul, where } from "./elementwise.ts";
import { permute, unsqueeze } from "./movement.ts";

/**
 * The matrix product of the last two axes; leading axes broadcast. A vector on the left is a row, one on the right a
 * column, as in NumPy. Throws ShapeError for scalars and for inner axes that differ.
 */
export function matmul(a: Node, b: Node): Node {
  const inner = b.shape.at(b.shape.length === 1 ? -1 : -2);
  if (a.shape.length === 0 || b.shape.length === 0 || a.shape.at(-1) !== inner) {
    throw new ShapeError("matmul", {
      got: `${formatShape(a.shape)} @ ${formatShape(b.shape)}`,
      need: a.shape.length === 0 || b.shape.length === 0
        ? "at least one axis each"
        : `last axis of left (${a.shape.at(-1)}) = ${
          b.shape.length === 1 ? "the axis" : "second-to-last"
        } of right (${inner})`,
    });
  }
  const dtype = computed(promote(a.dtype, b.dtype));
  const left = build.cast(a.shape.length === 1 ? unsqueeze(a, 0) : a, dtype);
  const right = build.cast(b.shape.length === 1 ? unsqueeze(b, 1) : b, dtype);
  const batch = broadcastShapes("matmul", left.shape.slice(0, -2), right.shape.slice(0, -2));
  const [m, k, n] = [left.shape.at(-2)!, inner!, right.shape.at(-1)!];
  // [..., m, k, 1] * [..., 1, k, n], summed over k.
  const shape = [...batch, m, k, n];
  const product = build.elementwise(
    "mul",
    build.broadcastTo(unsqueeze(left, -1), shape),
    build.broadcastTo(unsqueeze(right, -3), shape),
  );
  const full = build.reduce("sum", product, [shape.length - 2]);
  return build.reshape(full, [...batch, ...(a.shape.length === 1 ? [] : [m]), ...(b.shape.length === 1 ? [] : [n])]);
}

/** The inner product of two vectors; for more axes, matmul. */
export function dot(a: Node, b: Node): Node {
  return matmul(a, b);
}

/** An operand whose axes are named by letters. */
interface Labelled {
  readonly node: Node;
  readonly labels: string;
}

/**
 * Einstein summation, as NumPy's: `ij,jk->ik`. A letter that is missing on the right is summed; without `->` the
 * letters that occur once stay, in alphabetical order; a letter twice in one operand takes the diagonal; `...` stands
 * for leading axes that broadcast. Several operands are contracted from left to right.
 */
export function einsum(spec: string, nodes: readonly Node[]): Node {
  const { operands, output, lengths } = readSpec(spec, nodes);
  let [result, ...rest] = operands.map((operand) => diagonal(operand));
  result = sumOut(result!, keptAfter(rest, output));
  while (rest.length > 0) {
    const next = rest[0]!;
    rest = rest.slice(1);
    const kept = keptAfter(rest, output);
    // A letter of one operand alone is summed before the product.
    const left = sumOut(result, kept + next.labels);
    result = product(left, sumOut(next, kept + left.labels), kept, lengths);
  }
  return permute(result.node, [...output].map((label) => result.labels.indexOf(label)));
}

function keptAfter(rest: readonly Labelled[], output: string): string {
  return output + rest.map((operand) => operand.labels).join("");
}

function readSpec(
  spec: string,
  nodes: readonly Node[],
): { operands: Labelled[]; output: string; lengths: Map<string, number> } {
  const fail = (need: string): never => {
    throw new ArgumentError("einsum", {
      got: `"${spec}" with ${nodes.map((n) => formatShape(n.shape)).join(", ")}`,
      need,
    });
  };
  const [left, right, more] = spec.replaceAll(" ", "").split("->");
  const terms = left!.split(",");
  if (more !== undefined || terms.length !== nodes.length || nodes.length === 0) {
    fail(`one term for each of the ${nodes.length} operands, at most one "->"`);
  }
  for (const term of [...terms, right ?? ""]) {
    if (!/^[A-Za-z]*(\.\.\.)?[A-Za-z]*$/.test(term)) fail('letters, and at most one "..." a term');
  }
  // The axes of `...` get digits as letters, aligned from the last.
  const hidden = terms.map((term, i) => term.includes("...") ? nodes[i]!.shape.length - (term.length - 3) : 0);
  if (hidden.some((count) => count < 0)) fail("no more letters than axes");
  const widest = Math.max(0, ...hidden);
  const digits = Array.from({ length: widest }, (_, i) => String.fromCharCode(0x100 + i)).join("");
  const spelled = terms.map((term, i) => term.replace("...", digits.slice(widest - hidden[i]!)));
  const lengths = new Map<string, number>();
  const operands = spelled.map((labels, i) => {
    const node = nodes[i]!;
    if (labels.length !== node.shape.length) fail(`${node.shape.length} letters for ${formatShape(node.shape)}`);
    [...labels].forEach((label, axis) => {
      const length = node.shape[axis]!;
      const known = lengths.get(label) ?? 1;
      if (known !== 1 && length !== 1 && known !== length) {
        fail(`one length for "${label}", not ${known} and ${length}`);
      }
      lengths.set(label, known === 1 ? length : known);
    });
    return { node, labels };
  });
  const letters = [...new Set(spelled.join(""))].filter((label) => !digits.includes(label)).sort();
  const once = letters.filter((label) => spelled.join("").split(label).length === 2).join("");
  const output = right === undefined ? digits + once : right.replace("...", digits);
  if (new Set(output).size !== output.length || [...output].some((label) => !lengths.has(label))) {
    fail("an output of letters that occur on the left, each once");
  }
  const dtype = nodes.reduce((common, node) => promote(common, node.dtype), nodes[0]!.dtype);
  const number = computed(dtype);
  return {
    operands: operands.map(({ node, labels }) => ({ node: build.cast(node, number), labels })),
    output,
    lengths,
  };
}

/** A letter that names several axes names one: the sum over the others of what lies on the diagonal. */
function diagonal({ node, labels }: Labelled): Labelled {
  let [x, names] = [node, labels];
  for (let axis = 0; axis < names.length; axis++) {
    for (let other = names.lastIndexOf(names[axis]!); other > axis; other = names.lastIndexOf(names[axis]!)) {
      const along = (i: number) =>
        build.broadcastTo(build.reshape(build.iota(x.shape[i]!), x.shape.map((n, a) => a === i ? n : 1)), x.shape);
      x = build.reduce("sum", where(build.elementwise("eq", along(axis), along(other)), x, 0), [other]);
      names = names.slice(0, other) + names.slice(other + 1);
    }
  }
  return { node: x, labels: names };
}

function sumOut({ node, labels }: Labelled, kept: string): Labelled {
  const gone = [...labels].map((label, axis) => kept.includes(label) ? -1 : axis).filter((axis) => axis >= 0);
  return {
    node: build.reduce("sum", node, gone),
    labels: [...labels].filter((label) => kept.includes(label)).join(""),
  };
}

/** The product of two operands, summed over the letters that are not kept. */
function product(a: Labelled, b: Labelled, kept: string, lengths: ReadonlyMap<string, number>): Labelled {
  const labels = [...new Set(a.labels + b.labels)].join("");
  const shape = [...labels].map((label) => lengths.get(label)!);
  const aligned = ({ node, labels: own }: Labelled) => {
    const ordered = permute(
      node,
      [...labels].filter((label) => own.includes(label)).map((label) => own.indexOf(label)),
    );
    let axis = 0;
    const spaced = build.reshape(ordered, [...labels].map((label) => own.includes(label) ? ordered.shape[axis++]! : 1));
    return build.broadcastTo(spaced, shape);
  };
  return sumOut({ node: mul(aligned(a), aligned(b)), labels }, kept);
}

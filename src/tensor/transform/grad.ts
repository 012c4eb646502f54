/** Derivatives of tensors. */
import { gradients } from "../../autograd/grad.ts";
import { ArgumentError, GradientError, ShapeError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import { isFloat } from "../../graph/dtype.ts";
import { type Node, toposort } from "../../graph/node.ts";
import { formatShape, sameShape } from "../../graph/shape.ts";
import { callable, type Kind } from "../../signature/kinds.ts";
import { show } from "../../signature/show.ts";
import { takes } from "../../signature/takes.ts";
import { unroll } from "../eager/history.ts";
import { tree } from "../kinds.ts";
import { isTensor, Tensor } from "../tensor.ts";
import { flattenTree, type FlatTree, type TensorsOf, type Tree, type TreeOf } from "./tree.ts";

const loss: Kind<Tensor> = {
  accepts: isTensor,
  need: "a Tensor, a scalar (of a Loss, its mean; of a function, what valueAndGrad(fn) gives)",
};
const signatures = {
  grad: takes("grad", { loss, inputs: tree }),
  valueAndGrad: takes("valueAndGrad", { fn: callable }),
  vjp: takes("vjp", { fn: callable, primals: tree, cotangent: tree }),
  jvp: takes("jvp", { fn: callable, primals: tree, tangents: tree }),
};

function pullBack(op: string, outputs: readonly Node[], inputs: readonly Node[], cotangents?: readonly Node[]): Node[] {
  if (inputs.length === 0) return [];
  const unrolled = unroll(op, outputs, inputs);
  return gradients(unrolled.outputs, unrolled.wanted, cotangents);
}

/** Tensors of nodes, each of which is a variable of its own: one cotangent may be that of several. */
function siblings(nodes: readonly Node[]): Tensor[] {
  const seen = new Set<Node>();
  const repeated = new Set(nodes.filter((node) => seen.size === seen.add(node).size));
  return nodes.map((node) => new Tensor(repeated.has(node) ? build.another(node) : node));
}

/**
 * The gradient of a scalar by every tensor of a tree, as a tree of the same form; zeros for those on which it does
 * not depend. The inputs may be any tensors that it was computed from, also by way of values that were read since.
 * A gradient has the dtype of its tensor; that of an f16 is computed in f32 and rounded at the end.
 * Throws GradientError unless the loss and all inputs are floats and the loss is a scalar.
 */
export function grad<T extends Tree>(loss: Tensor, inputs: T): TensorsOf<T> {
  signatures.grad.check(arguments);
  return gradientTree("grad", loss, flattenTree("grad", inputs)) as TensorsOf<T>;
}

function gradientTree(op: string, loss: Tensor, flat: FlatTree): unknown {
  const nodes = pullBack(op, [loss.node], flat.leaves.map((leaf) => leaf.node));
  return flat.rebuild(siblings(nodes));
}

/**
 * A function of a tree of tensors, and of anything else, that gives its scalar value and the gradient by the tree. It throws
 * as `grad` does, and ArgumentError where `fn` gives no tensor.
 */
export function valueAndGrad<T extends Tree, Rest extends unknown[], V extends Tensor>(
  fn: (inputs: T, ...rest: Rest) => V,
): (inputs: T, ...rest: Rest) => [value: V, gradient: TensorsOf<T>] {
  signatures.valueAndGrad.check(arguments);
  return (inputs, ...rest) => {
    const flat = flattenTree("valueAndGrad", inputs);
    const value = fn(inputs, ...rest);
    if (!isTensor(value)) {
      throw new ArgumentError("valueAndGrad", {
        got: `${show(value)} as what the function gives`,
        need: "a Tensor (of a Loss, its mean)",
      });
    }
    return [value, gradientTree("valueAndGrad", value, flat) as TensorsOf<T>];
  };
}

/**
 * The value of `fn` at `primals`, and the product of `cotangent` (of the value's form) with its Jacobian, of the form
 * of `primals`.
 * Throws ShapeError when the cotangent does not have the value's shapes.
 */
export function vjp<P extends Tree, R extends Tree>(
  fn: (primals: P) => R,
  primals: P,
  cotangent: TreeOf<R, Tensor>,
): [value: R, cotangents: TensorsOf<P>];
export function vjp(fn: (primals: unknown) => unknown, primals: unknown, cotangent: unknown): [unknown, unknown] {
  signatures.vjp.check(arguments);
  const inputs = flattenTree("vjp", primals);
  const value = fn(primals);
  const outputs = flattenTree("vjp", value);
  const cotangents = matching("vjp", "cotangent", cotangent, outputs.leaves);
  const nodes = pullBack("vjp", outputs.leaves.map((x) => x.node), inputs.leaves.map((x) => x.node), cotangents);
  return [value, inputs.rebuild(siblings(nodes))];
}

/**
 * The value of `fn` at `primals`, and the product of its Jacobian with `tangents` (of the form of `primals`): the
 * gradient of the vjp, which is linear in its cotangent, by that cotangent.
 */
export function jvp<P extends Tree, R extends Tree>(
  fn: (primals: P) => R,
  primals: P,
  tangents: TreeOf<P, Tensor>,
): [value: R, tangents: TensorsOf<R>];
export function jvp(fn: (primals: unknown) => unknown, primals: unknown, tangents: unknown): [unknown, unknown] {
  signatures.jvp.check(arguments);
  const inputs = flattenTree("jvp", primals);
  const value = fn(primals);
  const outputs = flattenTree("jvp", value);
  const directions = matching("jvp", "tangent", tangents, inputs.leaves);
  const unrolled = unroll("jvp", outputs.leaves.map((x) => x.node), inputs.leaves.map((x) => x.node));
  const dummies = unrolled.outputs.map((node) => build.input(node.shape, "f32"));
  const back = gradients(unrolled.outputs, unrolled.wanted, dummies);
  const forward = back.length === 0
    ? dummies.map((node) => build.full(node.shape, 0, "f32"))
    : gradients(back, dummies, directions).map((node) => withoutDummies(node, dummies));
  return [value, outputs.rebuild(siblings(forward.map((node, i) => build.cast(node, outputs.leaves[i]!.dtype))))];
}

/** The nodes of a tree that has a tensor like each of `leaves`. */
function matching(op: string, what: string, tree: unknown, leaves: readonly Tensor[]): Node[] {
  const flat = flattenTree(op, tree);
  const fits = flat.leaves.length === leaves.length &&
    flat.leaves.every((leaf, i) => sameShape(leaf.shape, leaves[i]!.shape));
  if (!fits) {
    throw new ShapeError(op, {
      got: `${what}s of shapes ${flat.leaves.map((x) => formatShape(x.shape)).join(", ") || "none"}`,
      need: leaves.map((x) => formatShape(x.shape)).join(", ") || "none",
    });
  }
  const other = flat.leaves.find((leaf) => !isFloat(leaf.dtype));
  if (other !== undefined) throw new GradientError(op, { got: `a ${what} of ${other.dtype}`, need: "f32 or f16" });
  return flat.leaves.map((leaf) => leaf.node);
}

/**
 * What is linear in the dummies does not depend on them once differentiated; any trace of them that is left counts as
 * zero.
 */
function withoutDummies(node: Node, dummies: readonly Node[]): Node {
  const now = new Map<Node, Node>(dummies.map((dummy) => [dummy, build.full(dummy.shape, 0, "f32")]));
  const order = toposort([node]);
  if (!order.some((each) => now.has(each))) return node;
  for (const each of order) {
    if (!now.has(each)) now.set(each, build.withSources(each, each.src.map((source) => now.get(source)!)));
  }
  return now.get(node)!;
}

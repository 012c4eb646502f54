/** What rewrite rules are, and what they may ask of the graph. */
import { full } from "../../graph/build.ts";
import type { Node, NodeOf, Op, StructuralName } from "../../graph/node.ts";
import type { Shape } from "../../graph/shape.ts";

/** What the rules see of the graph. Sources of a node that a rule is asked about are simplified already. */
export interface Rewriting {
  /** `x` if it is of that op, and undefined if it is not or is an input, above which nothing may be seen. */
  look<K extends StructuralName>(x: Node, op: K): NodeOf<K> | undefined;
  /** The sources of `x` if it is of that elementwise op, and undefined if it is not or is an input. */
  operands(x: Node, op: Op): readonly Node[] | undefined;
  /** The value of a constant that was only broadcast. */
  constantOf(x: Node): number | undefined;
  /** The simplest form of a node whose sources are simple. */
  simple(node: Node): Node;
  /** As the constructor of that name, without looking above an input. */
  reshape(x: Node, shape: Shape): Node;
  /** A number that says which of two operands comes first; constants come last. */
  rank(x: Node): number;
}

/** A simpler node of the same value, or undefined where the rule sees nothing to do. */
export type RewriteRule = (node: Node, graph: Rewriting) => Node | undefined;

/** A constant of x's shape and dtype. */
export function constantLike(x: Node, value: number): Node {
  return full(x.shape, value, x.dtype);
}

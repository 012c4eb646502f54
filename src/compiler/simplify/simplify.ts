/**
 * Graph to graph: the same values from fewer and plainer nodes. Values are the same up to the rounding of sums, and to
 * the sign of zeros, which WGSL does not keep either (x + 0 becomes x, though -0 + 0 is 0). NaN and infinities stay:
 * x * 0, x - x and x / x are what they were.
 *
 * Views come out in one order: expands outermost, moves of axes of length 1 as reshapes, and one of a kind in a row.
 */
import { InternalError } from "../../errors.ts";
import { full, withSources } from "../../graph/build.ts";
import {
  isKind,
  makeFor,
  makeNode,
  mergingEqual,
  type Node,
  type NodeOf,
  type Op,
  type StructuralName,
  toposort,
} from "../../graph/node.ts";
import { isElementwise, isReduction } from "../../graph/ops.ts";
import { formatShape, sameShape, type Shape, size } from "../../graph/shape.ts";
import { elementwiseRule } from "./elementwise.ts";
import { mergeEqual } from "./merge-equal.ts";
import { movementRule } from "./movement.ts";
import { Readers } from "./read-counts.ts";
import { mergeReductions, reductionRule } from "./reductions.ts";
import type { RewriteRule, Rewriting } from "./rewriting.ts";
import { mergeWindows } from "./windows.ts";

/**
 * Simplifies `roots`, in their order. Equal nodes become one. Never looks above `inputs`; a root that is an input stays.
 * stopGradient disappears, as do tensors of no elements, which become constants. The result is the same for equal graphs.
 */
export function simplify(roots: readonly Node[], inputs: ReadonlySet<Node>): Node[] {
  return mergingEqual(() => simplified(mergeEqual(roots, inputs), inputs));
}

function simplified(roots: readonly Node[], inputs: ReadonlySet<Node>): Node[] {
  const once = rewrite(roots, inputs, localRule);
  // Whether a reduction has one reader is known only when all else is done.
  if (!mayMerge(once, inputs)) return once;
  const readers = new Readers(once, inputs);
  const rules = [mergeReductions(readers), mergeWindows(readers), localRule];
  return rewrite(once, inputs, (node, graph) => {
    for (const rule of rules) {
      const result = rule(node, graph);
      if (result !== undefined) return result;
    }
    return undefined;
  }, readers);
}

/** Whether there is a reduction of a reduction, or of windows put where they lie. */
function mayMerge(roots: readonly Node[], inputs: ReadonlySet<Node>): boolean {
  return toposort(roots, (node) => !inputs.has(node)).some((node) =>
    !inputs.has(node) && (node.op === "unwindow" || (isKind(node, "reduction") && node.src[0].op === node.op))
  );
}

function localRule(node: Node, graph: Rewriting): Node | undefined {
  if (size(node.shape) === 0) return full(node.shape, 0, node.dtype);
  if (isElementwise(node.op)) return elementwiseRule(node, graph);
  if (isReduction(node.op)) return reductionRule(node, graph);
  switch (node.op) {
    case "stopGradient":
    case "checkpoint":
      return node.src[0];
    case "allReduce":
    case "allGather":
    case "reduceScatter":
      return ofOneShard(node);
    case "iota":
      return node.shape[0] === 1 ? full(node.shape, 0, node.dtype) : undefined;
    case "cast":
    case "bitcast":
      return elementwiseRule(node, graph);
    default:
      return movementRule(node, graph);
  }
}

function rewrite(roots: readonly Node[], inputs: ReadonlySet<Node>, rule: RewriteRule, readers?: Readers): Node[] {
  const graph = new Graph(inputs, rule);
  const simple = new Map<Node, Node>();
  for (const node of toposort(roots, (node) => !inputs.has(node))) {
    makeFor(node);
    const renewed = inputs.has(node) ? node : withSources(node, node.src.map((source) => simple.get(source)!));
    readers?.replace(node, renewed);
    const result = graph.simple(renewed);
    readers?.replace(node, result);
    simple.set(node, result);
    graph.rank(result);
  }
  makeFor(undefined);
  return roots.map((root) => simple.get(root)!);
}

class Graph implements Rewriting {
  readonly #inputs: ReadonlySet<Node>;
  readonly #rule: RewriteRule;
  readonly #simple = new Map<Node, Node>();
  readonly #ranks = new Map<Node, number>();

  constructor(inputs: ReadonlySet<Node>, rule: RewriteRule) {
    this.#inputs = inputs;
    this.#rule = rule;
  }

  look<K extends StructuralName>(x: Node, op: K): NodeOf<K> | undefined {
    return x.op === op && !this.#inputs.has(x) ? x as NodeOf<K> : undefined;
  }

  operands(x: Node, op: Op): readonly Node[] | undefined {
    return x.op === op && !this.#inputs.has(x) ? x.src : undefined;
  }

  constantOf(x: Node): number | undefined {
    const unexpanded = this.look(x, "expand")?.src[0] ?? x;
    const scalar = this.look(unexpanded, "reshape")?.src[0] ?? unexpanded;
    return this.look(scalar, "const")?.attrs.value;
  }

  simple(node: Node): Node {
    const known = this.#simple.get(node);
    if (known !== undefined) return known;
    // Each rule takes a node away or moves an expand outwards, so that this ends.
    let result = node;
    while (!this.#inputs.has(result)) {
      const next = this.#simple.get(result) ?? this.#rule(result, this);
      if (next === undefined || next === result) break;
      result = next;
    }
    this.#simple.set(node, result);
    this.#simple.set(result, result);
    return result;
  }

  reshape(x: Node, shape: Shape): Node {
    if (sameShape(x.shape, shape)) return x;
    const value = this.constantOf(x);
    if (value !== undefined) return full(shape, value, x.dtype);
    const source = this.look(x, "reshape")?.src[0] ?? x;
    if (sameShape(source.shape, shape)) return source;
    return this.simple(makeNode("reshape", [source], {}, shape, x.dtype, x.device));
  }

  rank(x: Node): number {
    if (this.constantOf(x) !== undefined) return Infinity;
    let rank = this.#ranks.get(x);
    if (rank === undefined) this.#ranks.set(x, rank = this.#ranks.size);
    return rank;
  }
}

/** A plan computes one shard: what is left of collectives, where nothing was cut at them, is for a whole batch. */
function ofOneShard(node: NodeOf<"allReduce" | "allGather" | "reduceScatter">): Node {
  const [x] = node.src;
  if (sameShape(x.shape, node.shape)) return x;
  throw new InternalError("compileGraph", {
    got: `${node.op} of ${formatShape(x.shape)} to ${formatShape(node.shape)}`,
    need: "a graph that was cut into stages at its collectives",
  });
}

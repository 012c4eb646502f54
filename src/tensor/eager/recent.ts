/**
 * Small graphs that were computed lately, found again by looking at their nodes: a key of the whole graph would take longer to
 * write than an op of a few elements to compute.
 */
import { type Node, type NodeOf } from "../../graph/node.ts";
import { sameShape } from "../../graph/shape.ts";

/** What a node must be like. */
interface Pattern {
  readonly given: boolean;
  readonly op: Node["op"];
  readonly dtype: Node["dtype"];
  readonly shape: Node["shape"];
  readonly attrs: Node["attrs"];
  readonly src: readonly number[];
  /** Whether any number will do in its place. */
  readonly anyNumber: boolean;
}

/** A graph without its identity, and what was found for it. */
interface Known<T> {
  readonly nodes: readonly Pattern[];
  readonly roots: readonly number[];
  readonly found: T;
}

/** What a graph that was found gives to the plan. */
export interface Recent<T> {
  readonly found: T;
  readonly given: readonly Node[];
  readonly constants: readonly NodeOf<"const">[];
}

/** Graphs of one last op. */
const mostAlike = 4;
const mostNodes = 8;

export class RecentGraphs<T> {
  /** By the op of their last node; those that were found last are in front. */
  readonly #known = new Map<Node["op"], Known<T>[]>();

  /** Remembers a graph, with `order` as its nodes, sources first; `lifted` tells of its constants which may be any number. */
  remember(
    roots: readonly Node[],
    order: readonly Node[],
    isGiven: (node: Node) => boolean,
    lifted: readonly boolean[],
    found: T,
  ): void {
    if (order.length > mostNodes || order.some((node) => node.op === "copy")) return;
    let constants = 0;
    const nodes = order.map((node): Pattern => {
      const { op, dtype, shape, attrs } = node;
      const given = isGiven(node);
      const src = given ? [] : node.src.map((source) => order.indexOf(source));
      const isNumber = !given && op === "const";
      // What is given is named by its place alone: its data is not to be held.
      return {
        given,
        op,
        dtype,
        shape,
        attrs: given ? {} : attrs,
        src,
        anyNumber: isNumber && lifted[constants++] === true,
      };
    });
    const { op } = order.at(-1)!;
    let alike = this.#known.get(op);
    if (alike === undefined) this.#known.set(op, alike = []);
    alike.unshift({ nodes, roots: roots.map((root) => order.indexOf(root)), found });
    if (alike.length > mostAlike) alike.pop();
  }

  /** A graph like this one, if there was one lately. */
  find(roots: readonly Node[], order: readonly Node[], isGiven: (node: Node) => boolean): Recent<T> | undefined {
    const alike = this.#known.get(order[order.length - 1]!.op) ?? [];
    for (let i = 0; i < alike.length; i++) {
      const known = alike[i]!;
      if (!isLike(known, roots, order, isGiven)) continue;
      if (i > 0) {
        alike[i] = alike[i - 1]!;
        alike[i - 1] = known;
      }
      const given: Node[] = [];
      const constants: NodeOf<"const">[] = [];
      for (let n = 0; n < order.length; n++) {
        const node = order[n]!;
        if (known.nodes[n]!.given) given.push(node);
        else if (node.op === "const") constants.push(node);
      }
      return { found: known.found, given, constants };
    }
    return undefined;
  }

  /** Forgets what was found and is no more. */
  forget(found: T): void {
    for (const [op, alike] of this.#known) this.#known.set(op, alike.filter((known) => known.found !== found));
  }
}

function isLike<T>(
  known: Known<T>,
  roots: readonly Node[],
  order: readonly Node[],
  isGiven: (node: Node) => boolean,
): boolean {
  const { nodes } = known;
  if (nodes.length !== order.length || known.roots.length !== roots.length) return false;
  // Backwards, as what is computed differs more than what it is computed from.
  for (let i = order.length - 1; i >= 0; i--) {
    const node = order[i]!;
    const like = nodes[i]!;
    if (node.dtype !== like.dtype || isGiven(node) !== like.given || !sameShape(node.shape, like.shape)) return false;
    if (like.given) continue;
    if (node.op !== like.op || node.src.length !== like.src.length) return false;
    for (let k = 0; k < like.src.length; k++) if (order[like.src[k]!] !== node.src[k]) return false;
    if (!like.anyNumber && !sameAttributes(node.attrs, like.attrs)) return false;
  }
  for (let i = 0; i < roots.length; i++) if (order[known.roots[i]!] !== roots[i]) return false;
  return true;
}

function sameAttributes(a: object, b: object): boolean {
  if (a === b) return true;
  for (const name in b) {
    const [x, y] = [(a as Record<string, unknown>)[name], (b as Record<string, unknown>)[name]];
    if (Object.is(x, y)) continue;
    if (!Array.isArray(x) || !Array.isArray(y) || x.length !== y.length) return false;
    if (!x.every((value, i) => Object.is(value, (y as unknown[])[i]))) return false;
  }
  return true;
}

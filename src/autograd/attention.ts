/**
 * The adjoints of attention and of its gradients. Dao, Fu, Ermon, Rudra, Ré: FlashAttention (2022), appendix B, in the names
 * of node.ts: p_ij are the weights, w_ij = p_ij (g_i · v_j - delta_i) the cotangents of the scores. The gradients of attention
 * hold no scores; what is differentiated once more holds them all: it is composed of products of [t, s].
 */
import {
  attentionGradient,
  broadcastTo,
  elementwise,
  expand,
  permute,
  reduce,
  reshape,
  slice,
} from "../graph/build.ts";
import type { Node, NodeOf } from "../graph/node.ts";
import { hidden } from "../graph/ops.ts";
import { add, exp, heed, less, mul, neg, sub, weigh, where } from "./arithmetic.ts";

/** `count` rows of the second-to-last axis, from `start` on. */
function rows(x: Node, start: number, count: number): Node {
  const axis = x.shape.length - 2;
  const on = (value: number, others: readonly number[]) => others.map((n, i) => i === axis ? value : n);
  return slice(x, on(start, x.shape.map(() => 0)), on(count, x.shape), x.shape.map(() => 1));
}

/** Σ over features f of a_fi b_fj, for a [..., f, t] and b [..., f, s]: [..., t, s]; of use where `seen`, if not everywhere. */
function products(a: Node, b: Node, seen: Node | undefined): Node {
  const [f, t] = a.shape.slice(-2) as [number, number];
  const s = b.shape.at(-1)!;
  const batch = a.shape.slice(0, -2);
  const shape = [...batch, f, t, s];
  const left = broadcastTo(reshape(a, [...batch, f, t, 1]), shape);
  const right = broadcastTo(reshape(b, [...batch, f, 1, s]), shape);
  const product = seen === undefined
    ? mul(left, right)
    : heed(broadcastTo(reshape(seen, [...batch, 1, t, s]), shape), left, right);
  return reduce("sum", product, [batch.length]);
}

/** Σ over j of w_ij x_fj, for w [..., t, s] and x [..., f, s]: [..., f, t]; over those that are seen. */
function weighted(w: Node, x: Node, seen: Node | undefined): Node {
  const [t, s] = w.shape.slice(-2) as [number, number];
  const f = x.shape.at(-2)!;
  const batch = w.shape.slice(0, -2);
  const shape = [...batch, f, t, s];
  const each = (own: Node) => broadcastTo(reshape(own, [...batch, 1, t, s]), shape);
  const right = broadcastTo(reshape(x, [...batch, f, 1, s]), shape);
  const product = seen === undefined ? mul(each(w), right) : weigh(each(seen), each(w), right);
  return reduce("sum", product, [shape.length - 1]);
}

function transposed(x: Node): Node {
  const last = x.shape.length - 1;
  return permute(x, x.shape.map((_, axis) => axis === last ? last - 1 : axis === last - 1 ? last : axis));
}

/** A row [..., 1, t] repeated for each of s keys: [..., t, s]. */
function perKey(row: Node, s: number): Node {
  const batch = row.shape.slice(0, -2);
  const t = row.shape.at(-1)!;
  return broadcastTo(reshape(row, [...batch, t, 1]), [...batch, t, s]);
}

/** Σ over j of x_ij, for x [..., t, s]: [..., 1, t]. */
function perQuery(x: Node): Node {
  const [t] = x.shape.slice(-2) as [number, number];
  return reshape(reduce("sum", x, [x.shape.length - 1]), [...x.shape.slice(0, -2), 1, t]);
}

/** Which keys a bias does not hide from each query. */
function seenOf(bias: Node | undefined): Node | undefined {
  return bias === undefined ? undefined : elementwise("not", less(bias, hidden));
}

function weights(q: Node, k: Node, bias: Node | undefined, norm: Node): Node {
  const s = k.shape.at(-1)!;
  const seen = seenOf(bias);
  const scores = products(q, k, seen);
  // The largest score first: what is left is small.
  const relative = sub(
    sub(bias === undefined ? scores : add(scores, bias), perKey(rows(norm, 0, 1), s)),
    perKey(rows(norm, 1, 1), s),
  );
  // Exponents of what is hidden are any number: none has a gradient.
  return seen === undefined ? exp(relative) : where(seen, exp(where(seen, relative, 0)), 0);
}

/**
 * Of y = attention(q, k, v, bias), the sum of whose last two rows is norm: dnorm_i/dscore_ij = p_ij, so that delta_i =
 * g_i · y_i less the cotangent of norm_i, which is that of either row.
 */
export function attentionAdjoint(cotangent: Node, y: NodeOf<"attention">, operand: number): Node {
  const [q, k, v, bias] = y.src as readonly [Node, Node, Node, Node?];
  const e = v.shape.at(-2)!;
  const g = rows(cotangent, 0, e);
  const along = reduce("sum", mul(g, rows(y, 0, e)), [y.shape.length - 2]);
  const norm = rows(y, e, 2);
  const logs = rows(cotangent, e + 1, 1);
  const delta = sub(reshape(along, logs.shape), logs);
  if (operand === 3) return scoreCotangents(weights(q, k, bias, norm), g, v, delta, seenOf(bias));
  const operands = { q, k, v, norm, g, delta, bias };
  const d = q.shape.at(-2)!;
  const { diagonal } = y.attrs;
  if (operand === 0) return attentionGradient("queries", operands, diagonal);
  const both = attentionGradient("keys", operands, diagonal);
  return operand === 1 ? rows(both, 0, d) : rows(both, d, e);
}

/** w_ij = p_ij (g_i · v_j - delta_i). */
function scoreCotangents(p: Node, g: Node, v: Node, delta: Node, seen: Node | undefined): Node {
  return ifSeen(seen, mul(p, sub(products(g, v, seen), perKey(delta, v.shape.at(-1)!))));
}

function ifSeen(seen: Node | undefined, x: Node): Node {
  return seen === undefined ? x : where(seen, x, 0);
}

/**
 * Of the gradients y, with cotangent h: what y's sums read directly, and what they read through the weights p and the
 * products a_ij = g_i · v_j. With W and U the cotangents of w and p (of queries W_ij = h_i · k_j; of keys W_ij = q_i · h_j, and
 * U_ij = g_i · h'_j for the rows h' behind), a has W p, delta -Σ_j W p, and the scores have z = p (W (a - delta) + U).
 */
export function attentionGradientAdjoint(h: Node, y: NodeOf<"attentionGradient">, operand: number): Node {
  const [q, k, v, norm, g, delta, bias] = y.src as readonly [Node, Node, Node, Node, Node, Node, Node?];
  const s = k.shape.at(-1)!;
  const [d, e] = [q.shape.at(-2)!, v.shape.at(-2)!];
  const ofQueries = y.attrs.of === "queries";
  const seen = seenOf(bias);
  const p = weights(q, k, bias, norm);
  const upper = ofQueries ? h : rows(h, 0, d);
  const lower = ofQueries ? undefined : rows(h, d, e);
  const onW = ofQueries ? products(h, k, seen) : products(q, upper, seen);
  const onA = ifSeen(seen, mul(onW, p));
  const distances = () => sub(products(g, v, seen), perKey(delta, s));
  const onScores = () => {
    const throughW = mul(onA, distances());
    return ifSeen(seen, lower === undefined ? throughW : add(throughW, mul(p, products(g, lower, seen))));
  };
  const across = seen && transposed(seen);
  const w = () => ifSeen(seen, mul(p, distances()));
  switch (operand) {
    case 0: {
      const throughScores = weighted(onScores(), k, seen);
      return ofQueries ? throughScores : add(throughScores, weighted(w(), upper, seen));
    }
    case 1: {
      const throughScores = weighted(transposed(onScores()), q, across);
      return ofQueries ? add(throughScores, weighted(transposed(w()), upper, across)) : throughScores;
    }
    case 2:
      return weighted(transposed(onA), g, across);
    case 3:
      return expand(neg(perQuery(onScores())), norm.shape);
    case 4: {
      const throughA = weighted(onA, v, seen);
      return lower === undefined ? throughA : add(throughA, weighted(p, lower, seen));
    }
    case 5:
      return neg(perQuery(onA));
    default:
      return onScores();
  }
}

/**
 * The adjoints of attention and of its gradients. Dao, Fu, Ermon, Rudra, Ré: FlashAttention (2022), appendix B, in the names
 * of node.ts: p_ij are the weights, w_ij = p_ij (g_i · v_j - delta_i) the cotangents of the scores. The gradients of attention
 * hold no scores; what is differentiated once more holds them all: it is composed of products of [t, s].
 */
import { attentionGradient, broadcastTo, permute, reduce, reshape, slice } from "../graph/build.ts";
import type { Node, NodeOf } from "../graph/node.ts";
import { add, exp, mul, neg, sub } from "./arithmetic.ts";

/** `count` rows of the second-to-last axis, from `start` on. */
function rows(x: Node, start: number, count: number): Node {
  const axis = x.shape.length - 2;
  const on = (value: number, others: readonly number[]) => others.map((n, i) => i === axis ? value : n);
  return slice(x, on(start, x.shape.map(() => 0)), on(count, x.shape), x.shape.map(() => 1));
}

/** Σ over features f of a_fi b_fj, for a [..., f, t] and b [..., f, s]: [..., t, s]. */
function products(a: Node, b: Node): Node {
  const [f, t] = a.shape.slice(-2) as [number, number];
  const s = b.shape.at(-1)!;
  const batch = a.shape.slice(0, -2);
  const shape = [...batch, f, t, s];
  const product = mul(
    broadcastTo(reshape(a, [...batch, f, t, 1]), shape),
    broadcastTo(reshape(b, [...batch, f, 1, s]), shape),
  );
  return reduce("sum", product, [batch.length]);
}

/** Σ over j of w_ij x_fj, for w [..., t, s] and x [..., f, s]: [..., f, t]. */
function weighted(w: Node, x: Node): Node {
  const [t, s] = w.shape.slice(-2) as [number, number];
  const f = x.shape.at(-2)!;
  const batch = w.shape.slice(0, -2);
  const shape = [...batch, f, t, s];
  const product = mul(
    broadcastTo(reshape(w, [...batch, 1, t, s]), shape),
    broadcastTo(reshape(x, [...batch, f, 1, s]), shape),
  );
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

function weights(q: Node, k: Node, bias: Node | undefined, norm: Node): Node {
  const scores = products(q, k);
  return exp(sub(bias === undefined ? scores : add(scores, bias), perKey(norm, k.shape.at(-1)!)));
}

/**
 * Of y = attention(q, k, v, bias), whose last row is norm: dnorm_i/dscore_ij = p_ij, so that delta_i = g_i · y_i less the
 * cotangent of norm_i.
 */
export function attentionAdjoint(cotangent: Node, y: NodeOf<"attention">, operand: number): Node {
  const [q, k, v, bias] = y.src as readonly [Node, Node, Node, Node?];
  const e = v.shape.at(-2)!;
  const g = rows(cotangent, 0, e);
  const along = reduce("sum", mul(g, rows(y, 0, e)), [y.shape.length - 2]);
  const norm = rows(y, e, 1);
  const delta = sub(reshape(along, norm.shape), rows(cotangent, e, 1));
  if (operand === 3) return scoreCotangents(weights(q, k, bias, norm), g, v, delta);
  const operands = { q, k, v, norm, g, delta, bias };
  const d = q.shape.at(-2)!;
  const { diagonal } = y.attrs;
  if (operand === 0) return attentionGradient("queries", operands, diagonal);
  const both = attentionGradient("keys", operands, diagonal);
  return operand === 1 ? rows(both, 0, d) : rows(both, d, e);
}

/** w_ij = p_ij (g_i · v_j - delta_i). */
function scoreCotangents(p: Node, g: Node, v: Node, delta: Node): Node {
  return mul(p, sub(products(g, v), perKey(delta, v.shape.at(-1)!)));
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
  const p = weights(q, k, bias, norm);
  const upper = ofQueries ? h : rows(h, 0, d);
  const lower = ofQueries ? undefined : rows(h, d, e);
  const onW = ofQueries ? products(h, k) : products(q, upper);
  const onA = mul(onW, p);
  const distances = () => sub(products(g, v), perKey(delta, s));
  const onScores = () => {
    const throughW = mul(onA, distances());
    return lower === undefined ? throughW : add(throughW, mul(p, products(g, lower)));
  };
  const w = () => mul(p, distances());
  switch (operand) {
    case 0: {
      const throughScores = weighted(onScores(), k);
      return ofQueries ? throughScores : add(throughScores, weighted(w(), upper));
    }
    case 1: {
      const throughScores = weighted(transposed(onScores()), q);
      return ofQueries ? add(throughScores, weighted(transposed(w()), upper)) : throughScores;
    }
    case 2:
      return weighted(transposed(onA), g);
    case 3:
      return neg(perQuery(onScores()));
    case 4: {
      const throughA = weighted(onA, v);
      return lower === undefined ? throughA : add(throughA, weighted(p, lower));
    }
    case 5:
      return neg(perQuery(onA));
    default:
      return onScores();
  }
}

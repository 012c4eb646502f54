/** What attention and its gradients mean, in float64: the sums as node.ts has them, over all scores that are not hidden. */
import type { NodeOf } from "./node.ts";
import { size } from "./shape.ts";

type Values = Float64Array;

/** Element (row, column) of a matrix [rows, columns] of a batch. */
function at(
  x: Values,
  matrix: number,
  [rows, columns]: readonly [number, number],
  row: number,
  column: number,
): number {
  return x[(matrix * rows + row) * columns + column]!;
}

interface Form {
  readonly matrices: number;
  readonly d: number;
  readonly e: number;
  readonly t: number;
  readonly s: number;
}

function formOf(node: NodeOf<"attention" | "attentionGradient">): Form {
  const [q, , v] = node.src;
  const [d, t] = q!.shape.slice(-2) as [number, number];
  const [e, s] = v!.shape.slice(-2) as [number, number];
  return { matrices: size(q!.shape.slice(0, -2)), d, e, t, s };
}

/** Σ over features of column i of `a` and column j of `b`. */
function product(
  a: Values,
  b: Values,
  matrix: number,
  features: number,
  [t, s]: readonly [number, number],
  i: number,
  j: number,
): number {
  let sum = 0;
  for (let f = 0; f < features; f++) sum += at(a, matrix, [features, t], f, i) * at(b, matrix, [features, s], f, j);
  return sum;
}

/** Whether query i does not see key j. */
function hides(
  bias: Values | undefined,
  matrix: number,
  [t, s]: readonly [number, number],
  i: number,
  j: number,
): boolean {
  return bias !== undefined && at(bias, matrix, [t, s], i, j) === -Infinity;
}

export function attention(node: NodeOf<"attention">, src: readonly Values[]): Values {
  const { matrices, d, e, t, s } = formOf(node);
  const [q, k, v, bias] = src as readonly [Values, Values, Values, Values?];
  const out = new Float64Array(size(node.shape));
  for (let matrix = 0; matrix < matrices; matrix++) {
    for (let i = 0; i < t; i++) {
      const seen = Array.from({ length: s }, (_, j) => j).filter((j) => !hides(bias, matrix, [t, s], i, j));
      const scores = seen.map((j) =>
        product(q, k, matrix, d, [t, s], i, j) + (bias === undefined ? 0 : at(bias, matrix, [t, s], i, j))
      );
      const most = Math.max(...scores);
      if (most === -Infinity) continue;
      const powers = scores.map((score) => Math.exp(score - most));
      const total = powers.reduce((a, b) => a + b, 0);
      const place = (row: number) => (matrix * (e + 2) + row) * t + i;
      for (let f = 0; f < e; f++) {
        out[place(f)] = powers.reduce((sum, p, n) => sum + p * at(v, matrix, [e, s], f, seen[n]!), 0) / total;
      }
      out[place(e)] = most;
      out[place(e + 1)] = Math.log(total);
    }
  }
  return out;
}

export function attentionGradient(node: NodeOf<"attentionGradient">, src: readonly Values[]): Values {
  const { matrices, d, e, t, s } = formOf(node);
  const [q, k, v, norm, g, delta, bias] = src as readonly [Values, Values, Values, Values, Values, Values, Values?];
  const out = new Float64Array(size(node.shape));
  const ofQueries = node.attrs.of === "queries";
  for (let matrix = 0; matrix < matrices; matrix++) {
    for (let i = 0; i < t; i++) {
      for (let j = 0; j < s; j++) {
        if (hides(bias, matrix, [t, s], i, j)) continue;
        const score = product(q, k, matrix, d, [t, s], i, j) +
          (bias === undefined ? 0 : at(bias, matrix, [t, s], i, j));
        const p = Math.exp(score - at(norm, matrix, [2, t], 0, i) - at(norm, matrix, [2, t], 1, i));
        const w = p * (product(g, v, matrix, e, [t, s], i, j) - at(delta, matrix, [1, t], 0, i));
        if (ofQueries) {
          for (let f = 0; f < d; f++) out[(matrix * d + f) * t + i]! += w * at(k, matrix, [d, s], f, j);
          continue;
        }
        for (let f = 0; f < d; f++) out[(matrix * (d + e) + f) * s + j]! += w * at(q, matrix, [d, t], f, i);
        for (let f = 0; f < e; f++) out[(matrix * (d + e) + d + f) * s + j]! += p * at(g, matrix, [e, t], f, i);
      }
    }
  }
  return out;
}

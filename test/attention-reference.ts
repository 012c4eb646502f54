/** What attention means, in float64 and by closed forms: the reference that every way to compute it is held to. */

/** Row by row. */
export type Matrix = readonly (readonly number[])[];

export interface Attended {
  /** [t, d], [s, d] and [s, e]. */
  readonly q: Matrix;
  readonly k: Matrix;
  readonly v: Matrix;
  /** The cotangent of the result: [t, e]. */
  readonly g: Matrix;
  /** [t, s]: whether a query sees a key, or what is added to its score. */
  readonly mask?: readonly (readonly boolean[])[] | Matrix | undefined;
  readonly causal?: boolean | undefined;
  /** Factor of the scores. */
  readonly scale: number;
  /** How scores are rounded: they are numbers of single precision, however large. */
  readonly round: (x: number) => number;
}

export interface Gradients {
  readonly y: number[][];
  readonly dq: number[][];
  readonly dk: number[][];
  readonly dv: number[][];
  /** Of a mask of numbers. */
  readonly dMask: number[][];
}

const zeros = (rows: number, columns: number): number[][] =>
  Array.from({ length: rows }, () => new Array<number>(columns).fill(0));
const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((sum, x, f) => sum + x * b[f]!, 0);

/** Which keys query i sees, of `t` and `s`. */
function seenBy({ mask, causal = false }: Attended, i: number, t: number, s: number): number[] {
  const hides = (j: number) => {
    const own = mask?.[i]?.[j];
    return own === false || own === -Infinity || (causal && j > i + s - t);
  };
  return Array.from({ length: s }, (_, j) => j).filter((j) => !hides(j));
}

/**
 * Attention and its gradients. Every sum is over what is seen alone. With weights p_ij and a_ij = g_i · v_j, the cotangent of
 * score ij is p_ij (a_ij - Σ_l p_il a_il).
 */
export function attention(operands: Attended): Gradients {
  const { q, k, v, g, mask, scale, round } = operands;
  const [t, s, d, e] = [q.length, k.length, k[0]!.length, v[0]!.length];
  const result = { y: zeros(t, e), dq: zeros(t, d), dk: zeros(s, d), dv: zeros(s, e), dMask: zeros(t, s) };
  for (let i = 0; i < t; i++) {
    const seen = seenBy(operands, i, t, s);
    const scores = seen.map((j) => {
      const added = mask?.[i]?.[j];
      const score = round(dot(q[i]!, k[j]!) * scale);
      return typeof added === "number" ? round(score + added) : score;
    });
    // NaN, if one is.
    const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
    // A score of -Infinity has weight 0, even if there is no other.
    const powers = scores.map((score) => most === -Infinity ? 0 : Math.exp(score - most));
    const total = most === -Infinity ? 1 : powers.reduce((a, b) => a + b, 0);
    const p = powers.map((power) => power / total);
    seen.forEach((j, n) => v[j]!.forEach((value, f) => result.y[i]![f]! += p[n]! * value));
    const a = seen.map((j) => dot(g[i]!, v[j]!));
    const mean = dot(p, a);
    seen.forEach((j, n) => {
      const cotangent = p[n]! * (a[n]! - mean);
      result.dMask[i]![j] = cotangent;
      k[j]!.forEach((value, f) => result.dq[i]![f]! += cotangent * value * scale);
      q[i]!.forEach((value, f) => result.dk[j]![f]! += cotangent * value * scale);
      g[i]!.forEach((value, f) => result.dv[j]![f]! += p[n]! * value);
    });
  }
  return result;
}

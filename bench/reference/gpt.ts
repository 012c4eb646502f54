/** A transformer block in float64: its mean square difference from a target, and the gradients by input and weights. */
import { type GptWeight, layerNormEpsilon } from "../workloads/workload.ts";
import { columnSums, type Doubles, linear, linearGradients, product, transpose } from "./dense.ts";

export interface GptForm {
  readonly width: number;
  readonly heads: number;
  readonly tokens: number;
  readonly batch: number;
}

/** x and target [batch, tokens, width]; every head is causal. Pre-norm; the layers are 4 widths with gelu by tanh. */
export function gptBlock(
  w: Readonly<Record<GptWeight, Doubles>>,
  x: Doubles,
  target: Doubles,
  form: GptForm,
): { readonly loss: number; readonly gradients: Readonly<Record<GptWeight | "x", Doubles>> } {
  const rows = form.batch * form.tokens;
  const norm1 = layerNorm(x, w.gain1, w.bias1);
  const qkv = linear(norm1.y, w.wqkv, w.bqkv, rows);
  const mixed = attention(qkv, form);
  const middle = add(x, linear(mixed.y, w.wo, w.bo, rows));
  const norm2 = layerNorm(middle, w.gain2, w.bias2);
  const wide = linear(norm2.y, w.w1, w.b1, rows);
  const active = wide.map(gelu);
  const difference = add(middle, linear(active, w.w2, w.b2, rows)).map((value, i) => value - target[i]!);
  const loss = difference.reduce((total, d) => total + d * d, 0) / difference.length;

  const dy = difference.map((d) => (2 * d) / difference.length);
  const second = linearGradients(active, w.w2, dy, rows);
  const first = linearGradients(norm2.y, w.w1, second.dx.map((d, i) => d * geluSlope(wide[i]!)), rows);
  const after = norm2.gradients(first.dx);
  const dmiddle = add(dy, after.dx);
  const end = linearGradients(mixed.y, w.wo, dmiddle, rows);
  const begin = linearGradients(norm1.y, w.wqkv, mixed.gradient(end.dx), rows);
  const before = norm1.gradients(begin.dx);
  return {
    loss,
    gradients: {
      ...{ x: add(dmiddle, before.dx), gain1: before.dgain, bias1: before.dbias, wqkv: begin.dw, bqkv: begin.db },
      ...{ wo: end.dw, bo: end.db, gain2: after.dgain, bias2: after.dbias },
      ...{ w1: first.dw, b1: first.db, w2: second.dw, b2: second.db },
    },
  };
}

function add(a: Doubles, b: Doubles): Doubles {
  return a.map((value, i) => value + b[i]!);
}

function layerNorm(x: Doubles, gain: Doubles, bias: Doubles) {
  const width = gain.length;
  const normal = new Float64Array(x.length);
  const scales = new Float64Array(x.length / width);
  for (let row = 0; row < scales.length; row++) {
    const values = x.subarray(row * width, (row + 1) * width);
    const mean = values.reduce((a, b) => a + b, 0) / width;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / width;
    scales[row] = 1 / Math.sqrt(variance + layerNormEpsilon);
    for (let j = 0; j < width; j++) normal[row * width + j] = (values[j]! - mean) * scales[row]!;
  }
  return {
    y: normal.map((value, i) => value * gain[i % width]! + bias[i % width]!),
    gradients(dy: Doubles) {
      const dx = new Float64Array(x.length);
      for (let row = 0; row < scales.length; row++) {
        let [mean, along] = [0, 0]; // of the gradient by `normal`, and of its product with `normal`
        for (let j = 0; j < width; j++) {
          const d = dy[row * width + j]! * gain[j]!;
          mean += d / width;
          along += (d * normal[row * width + j]!) / width;
        }
        for (let j = 0; j < width; j++) {
          const at = row * width + j;
          dx[at] = scales[row]! * (dy[at]! * gain[j]! - mean - normal[at]! * along);
        }
      }
      const dgain = columnSums(dy.map((d, i) => d * normal[i]!), width);
      return { dx, dgain, dbias: columnSums(dy, width) };
    },
  };
}

/** softmax(q kᵀ / sqrt(head width), causal) v, of q, k and v beside each other in qkv [batch * tokens, 3 * width]. */
function attention(qkv: Doubles, { width, heads, tokens, batch }: GptForm) {
  const depth = width / heads;
  const scale = 1 / Math.sqrt(depth);
  const y = new Float64Array(batch * tokens * width);
  /** Head `head` of part q, k or v of a row of the batch, [tokens, depth]. */
  const part = (b: number, which: number, head: number): Doubles => {
    const out = new Float64Array(tokens * depth);
    for (let t = 0; t < tokens; t++) {
      const from = (b * tokens + t) * 3 * width + which * width + head * depth;
      out.set(qkv.subarray(from, from + depth), t * depth);
    }
    return out;
  };
  const of = Array.from({ length: batch * heads }, (_, i) => {
    const [b, head] = [Math.floor(i / heads), i % heads];
    const [q, k, v] = [part(b, 0, head), part(b, 1, head), part(b, 2, head)];
    const weights = product(q, transpose(k, tokens, depth), tokens, depth, tokens);
    for (let t = 0; t < tokens; t++) {
      const seen = weights.subarray(t * tokens, t * tokens + t + 1).map((score) => score * scale);
      const peak = seen.reduce((a, c) => Math.max(a, c));
      const total = seen.reduce((sum, score) => sum + Math.exp(score - peak), 0);
      for (let s = 0; s < tokens; s++) weights[t * tokens + s] = s <= t ? Math.exp(seen[s]! - peak) / total : 0;
    }
    const own = product(weights, v, tokens, tokens, depth);
    for (let t = 0; t < tokens; t++) {
      y.set(own.subarray(t * depth, (t + 1) * depth), (b * tokens + t) * width + head * depth);
    }
    return { b, head, q, k, v, weights };
  });
  return {
    y,
    /** By qkv, from the gradient by y. */
    gradient(dy: Doubles): Doubles {
      const dqkv = new Float64Array(qkv.length);
      for (const { b, head, q, k, v, weights } of of) {
        const d = new Float64Array(tokens * depth);
        for (let t = 0; t < tokens; t++) {
          const from = (b * tokens + t) * width + head * depth;
          d.set(dy.subarray(from, from + depth), t * depth);
        }
        const dv = product(transpose(weights, tokens, tokens), d, tokens, tokens, depth);
        const dscores = product(d, transpose(v, tokens, depth), tokens, depth, tokens);
        for (let t = 0; t < tokens; t++) {
          let along = 0;
          for (let s = 0; s < tokens; s++) along += weights[t * tokens + s]! * dscores[t * tokens + s]!;
          for (let s = 0; s < tokens; s++) {
            const at = t * tokens + s;
            dscores[at] = weights[at]! * (dscores[at]! - along) * scale;
          }
        }
        const dq = product(dscores, k, tokens, tokens, depth);
        const dk = product(transpose(dscores, tokens, tokens), q, tokens, tokens, depth);
        [dq, dk, dv].forEach((gradient, which) => {
          for (let t = 0; t < tokens; t++) {
            const to = (b * tokens + t) * 3 * width + which * width + head * depth;
            dqkv.set(gradient.subarray(t * depth, (t + 1) * depth), to);
          }
        });
      }
      return dqkv;
    },
  };
}

const root = Math.sqrt(2 / Math.PI);

/** x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))). */
function gelu(x: number): number {
  return 0.5 * x * (1 + Math.tanh(root * (x + 0.044715 * x ** 3)));
}

function geluSlope(x: number): number {
  const t = Math.tanh(root * (x + 0.044715 * x ** 3));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x);
}

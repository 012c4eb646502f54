/** Matrix products, softmax cross-entropy and updates in float64: what the references are made of. */

export type Doubles = Float64Array;

/** a [m, k] @ b [k, n]. */
export function product(a: Doubles, b: Doubles, m: number, k: number, n: number): Doubles {
  const out = new Float64Array(m * n);
  for (let row = 0; row < m; row++) {
    const to = row * n;
    let i = 0;
    for (; i + 4 <= k; i += 4) { // four rows of b to one pass over the row of the result
      const at = row * k + i;
      const [a0, a1, a2, a3] = [a[at]!, a[at + 1]!, a[at + 2]!, a[at + 3]!];
      const [b0, b1, b2, b3] = [i * n, (i + 1) * n, (i + 2) * n, (i + 3) * n];
      for (let j = 0; j < n; j++) {
        out[to + j]! += a0 * b[b0 + j]! + a1 * b[b1 + j]! + a2 * b[b2 + j]! + a3 * b[b3 + j]!;
      }
    }
    for (; i < k; i++) {
      const x = a[row * k + i]!;
      for (let j = 0; j < n; j++) out[to + j]! += x * b[i * n + j]!;
    }
  }
  return out;
}

/** Of a matrix [rows, columns]. */
export function transpose(a: Doubles, rows: number, columns: number): Doubles {
  const out = new Float64Array(a.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = a[i * columns + j]!;
  return out;
}

/** x [rows, in] @ w [in, out] + b. */
export function linear(x: Doubles, w: Doubles, b: Doubles, rows: number): Doubles {
  const out = b.length;
  const y = product(x, w, rows, x.length / rows, out);
  for (let i = 0; i < y.length; i++) y[i]! += b[i % out]!;
  return y;
}

/** The gradients of `linear` by its arguments, from that of its value. */
export function linearGradients(
  x: Doubles,
  w: Doubles,
  dy: Doubles,
  rows: number,
): { readonly dx: Doubles; readonly dw: Doubles; readonly db: Doubles } {
  const [inputs, outputs] = [x.length / rows, dy.length / rows];
  return {
    dx: product(dy, transpose(w, inputs, outputs), rows, outputs, inputs),
    dw: product(transpose(x, rows, inputs), dy, inputs, rows, outputs),
    db: columnSums(dy, outputs),
  };
}

export function columnSums(x: Doubles, columns: number): Doubles {
  const out = new Float64Array(columns);
  for (let i = 0; i < x.length; i++) out[i % columns]! += x[i]!;
  return out;
}

export function relu(x: Doubles): Doubles {
  return x.map((value) => Math.max(value, 0));
}

/** The gradient by relu's argument, from its value `y` and the gradient by that. */
export function reluGradient(y: Doubles, dy: Doubles): Doubles {
  return dy.map((value, i) => (y[i]! > 0 ? value : 0));
}

/** The mean over rows of -sum(y log softmax(logits)), and its gradient by the logits. Each row of y sums to 1. */
export function softmaxCrossEntropy(
  logits: Doubles,
  y: ArrayLike<number>,
  rows: number,
): { readonly loss: number; readonly gradient: Doubles } {
  const classes = logits.length / rows;
  const gradient = new Float64Array(logits.length);
  let loss = 0;
  for (let row = 0; row < rows; row++) {
    const own = logits.subarray(row * classes, (row + 1) * classes);
    const peak = Math.max(...own);
    const total = own.reduce((sum, logit) => sum + Math.exp(logit - peak), 0);
    for (let c = 0; c < classes; c++) {
      const logProbability = own[c]! - peak - Math.log(total);
      const target = y[row * classes + c]!;
      loss -= (target * logProbability) / rows;
      gradient[row * classes + c] = (Math.exp(logProbability) - target) / rows;
    }
  }
  return { loss, gradient };
}

/** Changes a weight in place, given its gradient. */
export type Update = (name: string, weight: Doubles, gradient: Doubles) => void;

export function sgd(learningRate: number): Update {
  return (_, weight, gradient) => {
    for (let i = 0; i < weight.length; i++) weight[i]! -= learningRate * gradient[i]!;
  };
}

/** Kingma and Ba (2014), algorithm 1. */
export function adam(
  options: { readonly learningRate: number; readonly beta1: number; readonly beta2: number; readonly epsilon: number },
): Update {
  const { learningRate, beta1, beta2, epsilon } = options;
  const moments = new Map<string, { m: Doubles; v: Doubles; t: number }>();
  return (name, weight, gradient) => {
    const own = moments.get(name) ??
      { m: new Float64Array(weight.length), v: new Float64Array(weight.length), t: 0 };
    moments.set(name, own);
    own.t++;
    for (let i = 0; i < weight.length; i++) {
      const g = gradient[i]!;
      own.m[i] = beta1 * own.m[i]! + (1 - beta1) * g;
      own.v[i] = beta2 * own.v[i]! + (1 - beta2) * g * g;
      const [mean, square] = [own.m[i]! / (1 - beta1 ** own.t), own.v[i]! / (1 - beta2 ** own.t)];
      weight[i]! -= (learningRate * mean) / (Math.sqrt(square) + epsilon);
    }
  };
}

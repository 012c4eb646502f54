/**
 * What is measured. Every workload carries several sets of inputs, which the repetitions take in turn, and a reference
 * in float64 for what each repetition must give.
 */

export interface HostInput {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

export type Kind = "matmul" | "softmax" | "layerNorm" | "chain" | "sum" | "mlpStep";

export interface Workload {
  readonly name: string;
  readonly kind: Kind;
  /** Repetition i takes `sets[i % sets.length]`. */
  readonly sets: readonly Readonly<Record<string, HostInput>>[];
  /** What is the same in every repetition: weights that start a training, gain and bias of a norm. */
  readonly constants: Readonly<Record<string, HostInput>>;
  /** Arithmetic operations of one repetition, and the least bytes that it must load and store. */
  readonly flops: number;
  readonly bytes: number;
  /** Length of a repetition's output. */
  readonly length: number;
  /** Elements of repetition i's output, in float64: all of them, or rows spread over the output where all are too many. */
  reference(repetition: number): Iterable<readonly [index: number, value: number]>;
  /** Largest error allowed, relative to the largest reference value. */
  readonly tolerance: number;
}

export const sgdLearningRate = 0.1;
const setsEach = 3;

/** Each workload is made when asked for: the big ones hold 48 MiB of inputs. */
export const workloads: readonly { readonly name: string; readonly make: () => Workload }[] = [
  ...[256, 512, 1024].map((n) => ({ name: `matmul ${n}`, make: () => matmul(n) })),
  { name: "softmax 1024x1024", make: () => softmax(1024) },
  { name: "layernorm 1024x1024", make: () => layerNorm(1024) },
  { name: "8-op chain 4M", make: () => chain(4 << 20) },
  { name: "sum 4M", make: () => sum(4 << 20) },
  { name: "MLP step 784-64-10", make: () => mlpStep(128, [784, 64, 10]) },
];

function matmul(n: number): Workload {
  const sets = times(setsEach, (set) => ({ a: uniform([n, n], 2 * set + 1), b: uniform([n, n], 2 * set + 2) }));
  return {
    name: `matmul ${n}`,
    kind: "matmul",
    sets,
    constants: {},
    flops: 2 * n ** 3,
    bytes: 3 * 4 * n * n,
    length: n * n,
    tolerance: 1e-5,
    *reference(repetition) {
      const { a, b } = sets[repetition % setsEach]!;
      for (const row of spread(n, 24)) {
        const out = new Float64Array(n);
        for (let k = 0; k < n; k++) {
          const x = a.data[row * n + k]!;
          for (let j = 0; j < n; j++) out[j]! += x * b.data[k * n + j]!;
        }
        for (let j = 0; j < n; j++) yield [row * n + j, out[j]!];
      }
    },
  };
}

function softmax(n: number): Workload {
  const sets = times(setsEach, (set) => ({ x: uniform([n, n], 20 + set, -8, 8) }));
  return {
    name: `softmax ${n}x${n}`,
    kind: "softmax",
    sets,
    constants: {},
    flops: 5 * n * n,
    bytes: 2 * 4 * n * n,
    length: n * n,
    tolerance: 1e-5,
    *reference(repetition) {
      const { x } = sets[repetition % setsEach]!;
      for (let row = 0; row < n; row++) {
        const values = Float64Array.from(x.data.subarray(row * n, (row + 1) * n));
        const peak = values.reduce((a, b) => Math.max(a, b));
        let total = 0;
        for (const value of values) total += Math.exp(value - peak);
        for (let j = 0; j < n; j++) yield [row * n + j, Math.exp(values[j]! - peak) / total];
      }
    },
  };
}

export const layerNormEpsilon = 1e-5;

function layerNorm(n: number): Workload {
  const sets = times(setsEach, (set) => ({ x: uniform([n, n], 30 + set, -1, 3) }));
  const constants = { gain: uniform([n], 38, 0.5, 1.5), bias: uniform([n], 39, -1, 1) };
  return {
    name: `layernorm ${n}x${n}`,
    kind: "layerNorm",
    sets,
    constants,
    flops: 8 * n * n,
    bytes: 2 * 4 * n * n,
    length: n * n,
    tolerance: 1e-5,
    *reference(repetition) {
      const { x } = sets[repetition % setsEach]!;
      for (let row = 0; row < n; row++) {
        const values = Float64Array.from(x.data.subarray(row * n, (row + 1) * n));
        const mean = values.reduce((a, b) => a + b) / n;
        const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / n;
        const scale = 1 / Math.sqrt(variance + layerNormEpsilon);
        for (let j = 0; j < n; j++) {
          yield [row * n + j, (values[j]! - mean) * scale * constants.gain.data[j]! + constants.bias.data[j]!];
        }
      }
    },
  };
}

/** mul, add, abs, sqrt, neg, exp, add, reciprocal: 1 / (exp(-sqrt(|1.5 x + 0.5|)) + 1). */
function chain(length: number): Workload {
  const sets = times(setsEach, (set) => ({ x: uniform([length], 40 + set, -4, 4) }));
  return {
    name: "8-op chain 4M",
    kind: "chain",
    sets,
    constants: {},
    flops: 8 * length,
    bytes: 2 * 4 * length,
    length,
    tolerance: 1e-5,
    *reference(repetition) {
      const { x } = sets[repetition % setsEach]!;
      // A step that is prime to every power of two visits each lane, vector and workgroup position.
      for (let i = 0; i < length; i += 7) {
        yield [i, 1 / (Math.exp(-Math.sqrt(Math.abs(1.5 * x.data[i]! + 0.5))) + 1)];
      }
      yield [length - 1, 1 / (Math.exp(-Math.sqrt(Math.abs(1.5 * x.data[length - 1]! + 0.5))) + 1)];
    },
  };
}

function sum(length: number): Workload {
  const sets = times(setsEach, (set) => ({ x: uniform([length], 50 + set, 0, 1) }));
  return {
    name: "sum 4M",
    kind: "sum",
    sets,
    constants: {},
    flops: length,
    bytes: 4 * length,
    length: 1,
    tolerance: 1e-4,
    *reference(repetition) {
      let total = 0;
      for (const value of sets[repetition % setsEach]!.x.data) total += value;
      yield [0, total];
    },
  };
}

/** Forward, backward and SGD update of a two-layer perceptron under softmax cross-entropy; the output is the loss. */
function mlpStep(batch: number, widths: readonly [number, number, number]): Workload {
  const [inputs, hidden, classes] = widths;
  const sets = times(
    4,
    (set) => ({ x: uniform([batch, inputs], 60 + set, 0, 1), y: oneHot(batch, classes, 70 + set) }),
  );
  const constants = {
    w1: uniform([inputs, hidden], 80, -0.08, 0.08),
    b1: uniform([hidden], 81, 0, 0),
    w2: uniform([hidden, classes], 82, -0.28, 0.28),
    b2: uniform([classes], 83, 0, 0),
  };
  const losses: number[] = [];
  return {
    name: "MLP step 784-64-10",
    kind: "mlpStep",
    sets,
    constants,
    flops: 2 * batch * (2 * inputs * hidden + 3 * hidden * classes),
    bytes: 4 * (batch * inputs + 3 * (inputs * hidden + hidden * classes)),
    length: 1,
    tolerance: 1e-4,
    *reference(repetition) {
      const checked = 8;
      if (losses.length === 0) losses.push(...trainReference(sets, constants, batch, widths, checked));
      // Later losses depend on every rounding so far; only the first steps have one right answer.
      if (repetition < checked) yield [0, losses[repetition]!];
    },
  };
}

/** The losses of the first `steps` steps, in float64. */
function trainReference(
  sets: readonly { readonly x: HostInput; readonly y: HostInput }[],
  start: Readonly<Record<"w1" | "b1" | "w2" | "b2", HostInput>>,
  batch: number,
  [inputs, hidden, classes]: readonly [number, number, number],
  steps: number,
): number[] {
  const [w1, b1, w2, b2] = [start.w1, start.b1, start.w2, start.b2].map((w) => Float64Array.from(w.data)) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const losses: number[] = [];
  for (let step = 0; step < steps; step++) {
    const { x, y } = sets[step % sets.length]!;
    const activity = new Float64Array(batch * hidden);
    const error = new Float64Array(batch * classes); // dL/dlogits
    let loss = 0;
    for (let r = 0; r < batch; r++) {
      for (let h = 0; h < hidden; h++) {
        let value = b1[h]!;
        for (let i = 0; i < inputs; i++) value += x.data[r * inputs + i]! * w1[i * hidden + h]!;
        activity[r * hidden + h] = Math.max(value, 0);
      }
      const logits = Float64Array.from({ length: classes }, (_, c) => {
        let value = b2[c]!;
        for (let h = 0; h < hidden; h++) value += activity[r * hidden + h]! * w2[h * classes + c]!;
        return value;
      });
      const peak = Math.max(...logits);
      const total = logits.reduce((a, l) => a + Math.exp(l - peak), 0);
      for (let c = 0; c < classes; c++) {
        const logProbability = logits[c]! - peak - Math.log(total);
        const target = y.data[r * classes + c]!;
        loss -= (target * logProbability) / batch;
        error[r * classes + c] = (Math.exp(logProbability) - target) / batch;
      }
    }
    losses.push(loss);
    const rate = sgdLearningRate;
    const hiddenError = new Float64Array(batch * hidden);
    for (let r = 0; r < batch; r++) {
      for (let h = 0; h < hidden; h++) {
        if (activity[r * hidden + h]! <= 0) continue;
        for (let c = 0; c < classes; c++) {
          hiddenError[r * hidden + h]! += error[r * classes + c]! * w2[h * classes + c]!;
        }
      }
    }
    for (let r = 0; r < batch; r++) {
      for (let c = 0; c < classes; c++) {
        const e = rate * error[r * classes + c]!;
        b2[c]! -= e;
        for (let h = 0; h < hidden; h++) w2[h * classes + c]! -= e * activity[r * hidden + h]!;
      }
      for (let h = 0; h < hidden; h++) {
        const e = rate * hiddenError[r * hidden + h]!;
        b1[h]! -= e;
        for (let i = 0; i < inputs; i++) w1[i * hidden + h]! -= e * x.data[r * inputs + i]!;
      }
    }
  }
  return losses;
}

function times<T>(count: number, make: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => make(index));
}

/** `count` rows spread over `n`, first and last among them. */
function spread(n: number, count: number): number[] {
  return [...new Set(times(count, (i) => Math.round((i * (n - 1)) / (count - 1))))];
}

/** mulberry32: small, seeded, good enough for inputs. */
function generator(seed: number): () => number {
  let state = (seed * 0x9e3779b1) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function uniform(shape: readonly number[], seed: number, low = -1, high = 1): HostInput {
  const next = generator(seed);
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < data.length; i++) data[i] = low + (high - low) * next();
  return { data, shape };
}

function oneHot(rows: number, classes: number, seed: number): HostInput {
  const next = generator(seed);
  const data = new Float32Array(rows * classes);
  for (let r = 0; r < rows; r++) data[r * classes + Math.floor(next() * classes)] = 1;
  return { data, shape: [rows, classes] };
}

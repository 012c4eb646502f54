/** Loss and gradients of the two networks that are trained, in float64. */
import type { CnnWeight, HostInput, MlpWeight } from "../workloads/workload.ts";
import { conv, convGradients, type Images, maxPool, maxPoolGradient } from "./conv.ts";
import { columnSums, type Doubles, linear, linearGradients, relu, reluGradient, softmaxCrossEntropy } from "./dense.ts";

export interface LossAndGradients<Weight extends string> {
  readonly loss: number;
  readonly gradients: Readonly<Record<Weight, Doubles>>;
}

export interface LabelledBatch {
  readonly x: HostInput;
  readonly y: HostInput;
}

export function mlp(w: Readonly<Record<MlpWeight, Doubles>>, batch: LabelledBatch): LossAndGradients<MlpWeight> {
  const rows = batch.x.shape[0]!;
  const x = Float64Array.from(batch.x.data);
  const hidden = relu(linear(x, w.w1, w.b1, rows));
  const { loss, gradient } = softmaxCrossEntropy(linear(hidden, w.w2, w.b2, rows), batch.y.data, rows);
  const second = linearGradients(hidden, w.w2, gradient, rows);
  const first = linearGradients(x, w.w1, reluGradient(hidden, second.dx), rows);
  return { loss, gradients: { w1: first.dw, b1: first.db, w2: second.dw, b2: second.db } };
}

/** conv 3x3, relu, maxpool 2, conv 3x3, relu, maxpool 2, dense; x [rows, height, width, channels]. */
export function cnn(w: Readonly<Record<CnnWeight, Doubles>>, batch: LabelledBatch): LossAndGradients<CnnWeight> {
  const [rows, height, width, channels] = batch.x.shape as [number, number, number, number];
  const first: Images = { height, width, channels };
  const second: Images = { height: height / 2, width: width / 2, channels: w.b1.length };
  const length = height * width * channels;
  const images = Array.from({ length: rows }, (_, row) => {
    const x = Float64Array.from(batch.x.data.subarray(row * length, (row + 1) * length));
    const one = stage(x, first, w.k1, w.b1);
    return { x, one, two: stage(one.pooled.y, second, w.k2, w.b2) };
  });
  const features = images[0]!.two.pooled.y.length;
  const flat = new Float64Array(rows * features);
  images.forEach(({ two }, row) => flat.set(two.pooled.y, row * features));
  const { loss, gradient } = softmaxCrossEntropy(linear(flat, w.w3, w.b3, rows), batch.y.data, rows);
  const dense = linearGradients(flat, w.w3, gradient, rows);
  const [k1, b1, k2, b2] = [w.k1, w.b1, w.k2, w.b2].map((weight) => new Float64Array(weight.length)) as [
    Doubles,
    Doubles,
    Doubles,
    Doubles,
  ];
  images.forEach(({ x, one, two }, row) => {
    const dpooled = dense.dx.subarray(row * features, (row + 1) * features);
    const d2 = reluGradient(two.active, maxPoolGradient(dpooled, two.pooled.from, two.active.length));
    addTo(b2, columnSums(d2, b2.length));
    const dx2 = convGradients(one.pooled.y, second, w.k2, 3, d2, k2);
    const d1 = reluGradient(one.active, maxPoolGradient(dx2, one.pooled.from, one.active.length));
    addTo(b1, columnSums(d1, b1.length));
    convGradients(x, first, w.k1, 3, d1, k1);
  });
  return { loss, gradients: { k1, b1, k2, b2, w3: dense.dw, b3: dense.db } };
}

function stage(x: Doubles, form: Images, kernel: Doubles, bias: Doubles) {
  const y = conv(x, form, kernel, 3, bias.length);
  for (let i = 0; i < y.length; i++) y[i]! += bias[i % bias.length]!;
  const active = relu(y);
  return { active, pooled: maxPool(active, { ...form, channels: bias.length }) };
}

function addTo(sum: Doubles, x: Doubles): void {
  for (let i = 0; i < sum.length; i++) sum[i]! += x[i]!;
}

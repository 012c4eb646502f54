/** Softmax and layer norm: work on the rows of a matrix. */
import { setsEach, spread, times, uniform } from "./inputs.ts";
import { layerNormEpsilon, softmaxDepth, type Workload } from "./workload.ts";

export function softmax(n: number, name: string): Workload<"softmax"> {
  const sets = times(setsEach, (set) => ({ x: uniform([n, n], 20 + set, -8, 8) }));
  return {
    name,
    kind: "softmax",
    sets,
    constants: {},
    flops: 5 * n * n,
    bytes: 2 * 4 * n * n,
    lengths: { y: n * n },
    tolerance: 1e-5,
    *reference(repetition) {
      const { x } = sets[repetition % setsEach]!;
      for (let row = 0; row < n; row++) {
        const values = Float64Array.from(x.data.subarray(row * n, (row + 1) * n));
        softmaxInPlace(values);
        for (let j = 0; j < n; j++) yield ["y", row * n + j, values[j]!];
      }
    },
  };
}

export function softmaxChain(n: number, name: string): Workload<"softmaxChain"> {
  const x = uniform([n, n], 25, -8, 8);
  return {
    name,
    kind: "softmaxChain",
    sets: [{ x }],
    constants: {},
    flops: softmaxDepth * 5 * n * n,
    bytes: softmaxDepth * 2 * 4 * n * n,
    lengths: { y: n * n },
    tolerance: 1e-5,
    *reference() {
      for (const row of spread(n, 24)) {
        const values = Float64Array.from(x.data.subarray(row * n, (row + 1) * n));
        for (let i = 0; i < softmaxDepth; i++) softmaxInPlace(values);
        for (let j = 0; j < n; j++) yield ["y", row * n + j, values[j]!];
      }
    },
  };
}

function softmaxInPlace(values: Float64Array): void {
  const peak = values.reduce((a, b) => Math.max(a, b));
  let total = 0;
  for (let j = 0; j < values.length; j++) total += values[j] = Math.exp(values[j]! - peak);
  for (let j = 0; j < values.length; j++) values[j]! /= total;
}

export function layerNorm(n: number, name: string): Workload<"layerNorm"> {
  const sets = times(setsEach, (set) => ({ x: uniform([n, n], 30 + set, -1, 3) }));
  const constants = { gain: uniform([n], 38, 0.5, 1.5), bias: uniform([n], 39, -1, 1) };
  return {
    name,
    kind: "layerNorm",
    sets,
    constants,
    flops: 8 * n * n,
    bytes: 2 * 4 * n * n,
    lengths: { y: n * n },
    tolerance: 1e-5,
    *reference(repetition) {
      const { x } = sets[repetition % setsEach]!;
      for (let row = 0; row < n; row++) {
        const values = Float64Array.from(x.data.subarray(row * n, (row + 1) * n));
        const mean = values.reduce((a, b) => a + b) / n;
        const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / n;
        const scale = 1 / Math.sqrt(variance + layerNormEpsilon);
        for (let j = 0; j < n; j++) {
          yield ["y", row * n + j, (values[j]! - mean) * scale * constants.gain.data[j]! + constants.bias.data[j]!];
        }
      }
    },
  };
}

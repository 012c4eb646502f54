/** The float64 references of the bench, whose gradients are written by hand, against finite differences. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Doubles } from "../bench/reference/dense.ts";
import { adam } from "../bench/reference/dense.ts";
import { conv } from "../bench/reference/conv.ts";
import { gptBlock } from "../bench/reference/gpt.ts";
import { cnn, mlp } from "../bench/reference/networks.ts";
import { oneHot, uniform, weights } from "../bench/workloads/inputs.ts";
import type { HostInput } from "../bench/workloads/workload.ts";

const doubles = <Name extends string>(inputs: Record<Name, HostInput>): Record<Name, Doubles> =>
  Object.fromEntries(
    Object.entries<HostInput>(inputs).map(([name, { data }]) => [name, Float64Array.from(data)]),
  ) as Record<Name, Doubles>;

/** Compares gradients with central differences of the loss, at some elements of each array. */
function checkGradients<Name extends string>(
  at: Readonly<Record<Name, Doubles>>,
  lossAndGradients: () => { readonly loss: number; readonly gradients: Readonly<Record<Name, Doubles>> },
): void {
  const { gradients } = lossAndGradients();
  const step = 1e-5;
  for (const name of Object.keys(at) as Name[]) {
    const values = at[name];
    assert.equal(gradients[name].length, values.length, name);
    for (const index of new Set([0, 1, values.length >> 1, values.length - 1])) {
      const value = values[index]!;
      values[index] = value + step;
      const above = lossAndGradients().loss;
      values[index] = value - step;
      const below = lossAndGradients().loss;
      values[index] = value;
      const expected = (above - below) / (2 * step);
      assert.ok(
        Math.abs(gradients[name][index]! - expected) < 1e-6 + 1e-4 * Math.abs(expected),
        `${name}[${index}]: ${gradients[name][index]}, by differences ${expected}`,
      );
    }
  }
}

describe("references of the bench", () => {
  test("gradients of the perceptron", () => {
    const w = doubles({
      w1: uniform([6, 5], 1),
      b1: uniform([5], 2),
      w2: uniform([5, 3], 3),
      b2: uniform([3], 4),
    });
    const batch = { x: uniform([4, 6], 5), y: oneHot(4, 3, 6) };
    checkGradients(w, () => mlp(w, batch));
  });

  test("gradients of the convolutional network", () => {
    const w = doubles({
      k1: weights([3, 3, 1, 3], 1, 9),
      b1: uniform([3], 2),
      k2: weights([3, 3, 3, 4], 3, 27),
      b2: uniform([4], 4),
      w3: uniform([16, 3], 5),
      b3: uniform([3], 6),
    });
    const batch = { x: uniform([2, 8, 8, 1], 7), y: oneHot(2, 3, 8) };
    checkGradients(w, () => cnn(w, batch));
  });

  test("gradients of the transformer block", () => {
    const form = { width: 8, heads: 2, tokens: 5, batch: 2 };
    const at = doubles({
      x: uniform([2, 5, 8], 1),
      gain1: uniform([8], 2, 0.5, 1.5),
      bias1: uniform([8], 3),
      wqkv: uniform([8, 24], 4),
      bqkv: uniform([24], 5),
      wo: uniform([8, 8], 6),
      bo: uniform([8], 7),
      gain2: uniform([8], 8, 0.5, 1.5),
      bias2: uniform([8], 9),
      w1: uniform([8, 32], 10),
      b1: uniform([32], 11),
      w2: uniform([32, 8], 12),
      b2: uniform([8], 13),
    });
    const target = Float64Array.from(uniform([2, 5, 8], 14).data);
    checkGradients(at, () => gptBlock(at, at.x, target, form));
  });

  test("a convolution is the sum over the taps that fall on the image", () => {
    const form = { height: 3, width: 4, channels: 2 };
    const x = Float64Array.from(uniform([3, 4, 2], 1).data);
    const kernel = Float64Array.from(uniform([3, 3, 2, 5], 2).data);
    const y = conv(x, form, kernel, 3, 5);
    for (let row = 0; row < 3; row++) {
      for (let column = 0; column < 4; column++) {
        for (let out = 0; out < 5; out++) {
          let expected = 0;
          for (let r = 0; r < 3; r++) {
            for (let c = 0; c < 3; c++) {
              const [from, left] = [row + r - 1, column + c - 1];
              if (from < 0 || from >= 3 || left < 0 || left >= 4) continue;
              for (let channel = 0; channel < 2; channel++) {
                expected += x[(from * 4 + left) * 2 + channel]! * kernel[((r * 3 + c) * 2 + channel) * 5 + out]!;
              }
            }
          }
          assert.ok(Math.abs(y[(row * 4 + column) * 5 + out]! - expected) < 1e-12);
        }
      }
    }
  });

  test("the first step of Adam goes by the learning rate against the sign of the gradient", () => {
    const w = Float64Array.of(1, 1, 1);
    adam({ learningRate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-12 })("w", w, Float64Array.of(2, -3e-3, 0));
    assert.deepEqual([...w].map((value) => Math.round(value * 1e6) / 1e6), [0.99, 1.01, 1]);
  });
});

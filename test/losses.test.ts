/** Losses and metrics: values and gradients against PyTorch, and the algebra of numerators and denominators. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { compileGraph } from "../src/compiler/compile.ts";
import { nullDevice } from "../src/devices/cpu/null.ts";
import { ArgumentError, DecompositionError, DTypeError, ShapeError } from "../src/errors.ts";
import { nn } from "../src/nn/index.ts";
import { checkCounts } from "../src/nn/losses/loss.ts";
import { tensor } from "../src/tensor/create.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { compile } from "../src/tensor/transform/compile.ts";
import { grad } from "../src/tensor/transform/grad.ts";
import { placeholder } from "../src/tensor/transform/trace.ts";
import { fixture, flat } from "./fixtures/nn.ts";
import { assertClose, onEachDevice, testDevice } from "./harness.ts";

const number = async (x: Tensor): Promise<number> => Number(await x.item());
const numbers = async (x: Tensor): Promise<number[]> => Array.from(await x.data());

for (const row of fixture.crossEntropy) {
  onEachDevice(`crossEntropy agrees with PyTorch: ${row.name}`, async (device) => {
    const logits = tensor(row.logits, { device });
    const labels = tensor(row.labels, { device, dtype: row.dense ? "f32" : "i32" });
    const weights = row.weights === null ? {} : { weights: tensor(row.weights, { device }) };
    const loss = nn.crossEntropy(logits, labels, { ...row.options, ...weights });
    const [gradient] = grad(loss.mean, [logits]);
    assertClose([await number(loss.sum), await number(loss.count)], [row.sum, row.count], { rtol: 1e-5 });
    assertClose([await number(loss.mean)], [row.sum / row.count], { rtol: 1e-5 });
    assertClose(await numbers(gradient!), flat(row.gradient), { atol: 2e-6, rtol: 1e-5 });
  });
}

onEachDevice("crossEntropy takes u32 labels, one-hot integers, and weights of whole sequences", async (device) => {
  const logits = tensor([[[1, 2], [3, 5]], [[0, 4], [2, 2]]], { device });
  const labels = tensor([[0, 1], [1, 0]], { device, dtype: "u32" });
  const oneHot = tensor([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], { device, dtype: "i32" });
  const rows = [Math.log(1 + Math.E), Math.log(1 + Math.exp(-2)), Math.log(1 + Math.exp(-4)), Math.log(2)];
  assertClose([await number(nn.crossEntropy(logits, labels).sum)], [rows.reduce((a, b) => a + b)]);
  assertClose([await number(nn.crossEntropy(logits, oneHot).mean)], [rows.reduce((a, b) => a + b) / 4]);
  const weighted = nn.crossEntropy(logits, labels, { weights: tensor([3, 1], { device }) });
  assertClose([await number(weighted.sum)], [3 * (rows[0]! + rows[1]!) + rows[2]! + rows[3]!]);
  assert.equal(await number(weighted.count), 8);
});

onEachDevice("a label outside the classes makes the loss NaN, unless it is ignored", async (device) => {
  const logits = tensor([[1, 2], [3, 4]], { device });
  for (const bad of [2, -1]) {
    const labels = tensor([0, bad], { device, dtype: "i32" });
    assert.ok(Number.isNaN(await number(nn.crossEntropy(logits, labels).mean)));
    assertClose([await number(nn.crossEntropy(logits, labels, { ignore: bad }).mean)], [Math.log(1 + Math.E)]);
  }
});

onEachDevice("a batch that counts nothing has loss 0 and gradient 0", async (device) => {
  const logits = tensor([[1, 2], [3, 4]], { device });
  const labels = tensor([-1, -1], { device, dtype: "i32" });
  const zero = tensor([0, 0], { device });
  const losses = [
    nn.crossEntropy(logits, labels, { ignore: -1 }),
    nn.crossEntropy(logits, labels.add(1), { weights: zero }),
    nn.mse(logits, logits.add(1), { weights: zero }),
  ];
  for (const loss of losses) {
    const [gradient] = grad(loss.mean, [logits]);
    assert.equal(await number(loss.count), 0);
    assert.equal(await number(loss.mean), 0);
    assert.deepEqual(await numbers(gradient!), [0, 0, 0, 0]);
  }
});

onEachDevice("a shard without rows has sum 0 and count 0", async (device) => {
  const logits = tensor([], { device, shape: [0, 3] });
  const loss = nn.crossEntropy(logits, tensor([], { device, shape: [0], dtype: "i32" }));
  assert.deepEqual([await number(loss.sum), await number(loss.count), await number(loss.mean)], [0, 0, 0]);
  const squared = nn.mse(logits, logits);
  assert.deepEqual([await number(squared.sum), await number(squared.count)], [0, 0]);
});

onEachDevice("a row of weight 0 contributes nothing, even when its loss is infinite", async (device) => {
  const prediction = tensor([[1], [3e30]], { device });
  const loss = nn.mse(prediction, tensor([[0], [0]], { device }), { weights: tensor([1, 0], { device }) });
  assert.equal(await number(loss.mean), 1);
});

/** What a row that does not count may hold; its targets hold the same, or a label that there is not. */
const poisons = [[NaN, NaN], [Infinity, -Infinity], [3e38, -3e38], [0, NaN]] as const;

/** Losses and metrics of [4, 2] values whose row 2 does not count, and the same of the other rows. */
const masked: readonly {
  readonly name: string;
  readonly of: (x: Tensor, y: Tensor, options: { weights?: Tensor; ignore?: number }) => nn.Loss | nn.Metric;
  /** Targets of the rows; by default values like the predictions. */
  readonly labels?: readonly number[];
}[] = [
  { name: "mse", of: nn.mse },
  { name: "binaryCrossEntropy", of: nn.binaryCrossEntropy },
  { name: "crossEntropy of probabilities", of: nn.crossEntropy },
  {
    name: "crossEntropy of smoothed probabilities",
    of: (x, y, o) => nn.crossEntropy(x, y, { ...o, labelSmoothing: 0.2 }),
  },
  { name: "crossEntropy", of: nn.crossEntropy, labels: [0, 1, 7, 1] },
  {
    name: "crossEntropy with smoothing",
    of: (x, y, o) => nn.crossEntropy(x, y, { ...o, labelSmoothing: 0.2 }),
    labels: [0, 1, -3, 1],
  },
  { name: "meanAbsoluteError", of: nn.meanAbsoluteError },
  { name: "binaryAccuracy", of: nn.binaryAccuracy },
  { name: "accuracy", of: nn.accuracy, labels: [0, 1, 7, 1] },
  { name: "accuracy of probabilities", of: nn.accuracy },
  { name: "topKAccuracy", of: (x, y, o) => nn.topKAccuracy(x, y, { ...o, k: 1 }), labels: [0, 1, 7, 1] },
];

onEachDevice(
  "a row that does not count contributes nothing, whatever it holds, forward and backward",
  async (device) => {
    const values = [[1, -2], [0.5, 3], [0, 0], [-1, 2]];
    const targets = [[0.25, 0.75], [1, 0], [0, 0], [0.5, 0.5]];
    const counting = (rows: readonly (readonly number[])[]) => rows.filter((_, row) => row !== 2);
    // What the other rows give alone, on the cpu device.
    const cpu = (await testDevice("cpu"))!;
    const counted = tensor([0, 1, 3], { device: cpu, dtype: "i32" });
    for (const { name, of, labels } of masked) {
      const weights = tensor([2, 1, 0, 3], { device });
      const options = labels === undefined
        ? [{ weights }]
        : [{ weights }, { ignore: labels[2]! }, { weights: weights.add(1), ignore: labels[2]! }];
      for (const option of options) {
        const z = tensor(counting(values), { device: cpu });
        const expected = of(
          z,
          labels === undefined
            ? tensor(counting(targets), { device: cpu })
            : tensor([0, 1, 1], { device: cpu, dtype: "i32" }),
          option.weights === undefined ? {} : { weights: option.weights.to(cpu).gather(counted, { axis: 0 }) },
        );
        const isLoss = expected instanceof nn.Loss;
        const wanted = [await number(expected.sum), await number(expected.count)];
        const rest = isLoss ? await numbers(grad(expected.sum, [z])[0]!) : [];
        const fn = (x: Tensor, y: Tensor) => {
          const { sum, count } = of(x, y, option);
          return [sum, count, ...isLoss ? grad(sum, [x]) : []] as const;
        };
        const compiled = compile(fn);
        for (const poison of poisons) {
          const x = tensor(values.map((row, i) => i === 2 ? [...poison] : row), { device });
          const y = labels === undefined
            ? tensor(targets.map((row, i) => i === 2 ? [...poison].reverse() : row), { device })
            : tensor(labels, { device, dtype: "i32" });
          const message = `${name} with ${poison} and ${Object.keys(option)}`;
          for (const [sum, count, gradient] of [fn(x, y), await compiled(x, y)]) {
            assertClose([await number(sum), await number(count)], wanted, { message });
            if (isLoss) {
              assertClose(await numbers(gradient!), [...rest.slice(0, 4), 0, 0, ...rest.slice(4)], {
                message,
              });
            }
          }
        }
      }
    }
  },
);

onEachDevice("tokens and elements of weight 0 contribute nothing either", async (device) => {
  const x = tensor([[1, NaN], [Infinity, 4]], { device });
  const weights = tensor([[1, 0], [0, 1]], { device });
  const squares = nn.mse(x, tensor([[0, 1], [NaN, 1]], { device }), { weights });
  assert.equal(await number(squares.mean), 5);
  assert.deepEqual(await numbers(grad(squares.sum, [x])[0]!), [2, 0, 0, 6]);
  const logits = tensor([[[0, 0], [NaN, NaN]], [[Infinity, NaN], [0, 0]]], { device });
  const labels = tensor([[0, 5], [-1, 1]], { device, dtype: "i32" });
  const loss = nn.crossEntropy(logits, labels, { weights });
  assertClose([await number(loss.mean)], [Math.LN2]);
  assertClose(await numbers(grad(loss.mean, [logits])[0]!), [-0.25, 0.25, 0, 0, 0, 0, 0.25, -0.25]);
  // The case.
  const prediction = tensor([0, 1, 1, 0], { device });
  const error = nn.mse(prediction, tensor([0, 1, NaN, 2], { device }), { weights: tensor([1, 1, 0, 1], { device }) });
  assertClose([await number(error.sum)], [4]);
  assertClose(await numbers(grad(error.mean, [prediction])[0]!), [0, 0, 0, -4 / 3]);
});

/** Cross-entropy of two classes in float64: log(1 + exp(z1 - z0)) for label 0. */
const twoClasses = (z0: number, z1: number) => {
  const d = z1 - z0;
  return d > 0 ? d + Math.log1p(Math.exp(-d)) : Math.log1p(Math.exp(d));
};
const logistic = (x: number) => 1 / (1 + Math.exp(-x));

onEachDevice(
  "losses keep their digits, far from 0 and where they are small, and so do their gradients",
  async (device) => {
    const relative = { rtol: 3e-6, atol: 0 };
    for (const offset of [0, 1000, -1e9, 1e9]) {
      for (const gap of Math.abs(offset) > 1e6 ? [0, 128] : [0, 1, 5, 12, 20, 60]) {
        for (const sign of [1, -1]) {
          const [z0, z1] = [offset + sign * gap, offset];
          const loss = twoClasses(z0, z1);
          // exp(-128) is 0 in f32.
          const expected = loss < 1e-38 ? 0 : loss;
          const slope = Math.abs(gap) > 100 && sign > 0 ? 0 : -logistic(z1 - z0);
          const message = `logits ${z0}, ${z1}`;
          const x = tensor([[z0, z1]], { device });
          const labels = nn.crossEntropy(x, tensor([0], { device, dtype: "i32" }));
          assertClose([await number(labels.mean)], [expected], { ...relative, message });
          assertClose(await numbers(grad(labels.mean, [x])[0]!), [slope, -slope], { ...relative, message });
          const dense = nn.crossEntropy(x, tensor([[1, 0]], { device }));
          assertClose([await number(dense.mean)], [expected], { ...relative, message });
          assertClose(await numbers(grad(dense.mean, [x])[0]!), [slope, -slope], { atol: 2e-7, message });
          const smooth = nn.crossEntropy(x, tensor([0], { device, dtype: "i32" }), { labelSmoothing: 0.1 });
          assertClose([await number(smooth.mean)], [0.95 * loss + 0.05 * twoClasses(z1, z0)], { ...relative, message });
          assertClose(
            await numbers(x.logSoftmax({ axis: -1 })),
            [-expected, -twoClasses(z1, z0)].map((v) => Math.abs(v) < 1e-38 ? 0 : v),
            { ...relative, message },
          );
          if (offset !== 0) continue;
          for (const yes of [true, false]) {
            const z = tensor([yes ? z0 : -z0], { device });
            const binary = nn.binaryCrossEntropy(z, tensor([yes], { device }));
            assertClose([await number(binary.mean)], [expected], { ...relative, message });
            assertClose(await numbers(grad(binary.mean, [z])[0]!), [yes ? slope : -slope], { ...relative, message });
          }
        }
      }
    }
    const many = tensor([Array.from({ length: 100 }, (_, i) => i === 3 ? 15 : 0)], { device });
    const small = nn.crossEntropy(many, tensor([3], { device, dtype: "i32" }));
    assertClose([await number(small.mean)], [Math.log1p(99 * Math.exp(-15))], relative);
    assertClose(await numbers(many.sub(15).logSumExp({ axis: -1 })), [Math.log1p(99 * Math.exp(-15))], relative);
  },
);

onEachDevice("an infinite logit is certainty", async (device) => {
  const one = async (logits: number[], label: number) => {
    const x = tensor([logits], { device });
    const labels = tensor([label], { device, dtype: "i32" });
    const hot = tensor([logits.map((_, i) => i === label ? 1 : 0)], { device });
    const losses = [nn.crossEntropy(x, labels), nn.crossEntropy(x, hot)];
    const results = await Promise.all(losses.map((loss) => number(loss.mean)));
    assert.deepEqual(results[0], results[1]);
    if (results[0] === 0) {
      for (const loss of losses) {
        assert.deepEqual((await numbers(grad(loss.mean, [x])[0]!)).map(Math.abs), logits.map(() => 0));
      }
    }
    return results[0];
  };
  assert.equal(await one([Infinity, 0], 0), 0);
  assert.equal(await one([Infinity, 100, -3], 0), 0);
  assert.equal(await one([Infinity, -Infinity], 0), 0);
  assert.equal(await one([-Infinity, 2], 1), 0);
  assert.equal(await one([Infinity, 0], 1), Infinity);
  assert.equal(await one([-Infinity, 2], 0), Infinity);
  assertClose([(await one([Infinity, 0, Infinity], 0))!], [Math.LN2]);
  assert.equal(await one([NaN, 0], 0), NaN);
  assert.equal(await one([-Infinity, -Infinity], 0), NaN);
  const binary = async (logit: number, target: number) => {
    const z = tensor([logit], { device });
    const loss = nn.binaryCrossEntropy(z, tensor([target], { device })).mean;
    return [await number(loss), Math.abs((await numbers(grad(loss, [z])[0]!))[0]!)];
  };
  assert.deepEqual(await binary(Infinity, 1), [0, 0]);
  assert.deepEqual(await binary(-Infinity, 0), [0, 0]);
  assert.deepEqual(await binary(Infinity, 0), [Infinity, 1]);
  assert.deepEqual(await binary(-Infinity, 1), [Infinity, 1]);
  assert.deepEqual(await binary(NaN, 1), [NaN, NaN]);
  // Of the targets: -z, also where the logit agrees with them.
  const y = tensor([1, 0, 0.25], { device });
  assertClose(await numbers(grad(nn.binaryCrossEntropy(tensor([2, -3, 1], { device }), y).sum, [y])[0]!), [-2, 3, -1]);
});

onEachDevice("a NaN is never right", async (device) => {
  const nan = tensor([[NaN, NaN], [0, NaN], [NaN, 0]], { device });
  for (const label of [0, 1]) {
    const labels = tensor([label, label, label], { device, dtype: "i32" });
    assert.equal(await number(nn.accuracy(nan, labels).sum), 0);
    assert.equal(await number(nn.topKAccuracy(nan, labels, { k: 1 }).sum), 0);
    // Of two, one that is known is the second at worst.
    assert.equal(await number(nn.topKAccuracy(nan, labels, { k: 2 }).sum), 1);
    assert.equal(await number(nn.topKAccuracy(nan, labels, { k: 9 }).sum), 1);
  }
  assert.equal(await number(nn.accuracy(nan, nan).sum), 0);
  assert.equal(await number(nn.accuracy(tensor([[1, 2]], { device }), tensor([[NaN, NaN]], { device })).sum), 0);
  for (const target of [0, 1, NaN]) {
    assert.equal(await number(nn.binaryAccuracy(tensor([NaN], { device }), tensor([target], { device })).sum), 0);
  }
  assert.equal(await number(nn.binaryAccuracy(tensor([-1], { device }), tensor([NaN], { device })).sum), 0);
  assert.equal(await number(nn.binaryAccuracy(tensor([NaN], { device }), tensor([false], { device })).sum), 0);
  assert.equal(await number(nn.meanAbsoluteError(tensor([NaN], { device }), tensor([0], { device })).mean), NaN);
});

onEachDevice("binaryCrossEntropy agrees with PyTorch, far out and at 0", async (device) => {
  const given = fixture.binaryCrossEntropy;
  const logits = tensor(given.logits, { device });
  const targets = tensor(given.targets, { device });
  const plain = nn.binaryCrossEntropy(logits, targets);
  assertClose([await number(plain.mean)], [given.mean], { rtol: 1e-5 });
  assertClose(await numbers(grad(plain.mean, [logits])[0]!), flat(given.gradient), { atol: 1e-6 });
  const weighted = nn.binaryCrossEntropy(logits, targets, { weights: tensor(given.weights, { device }) });
  assertClose([await number(weighted.mean)], [given.weighted], { rtol: 1e-5 });
  assertClose(await numbers(grad(weighted.mean, [logits])[0]!), flat(given.weightedGradient), { atol: 1e-6 });
});

onEachDevice("mse is the mean over elements, or over weighted rows or tokens", async (device) => {
  const prediction = tensor([[1, 2], [3, 4], [5, 6]], { device });
  const target = tensor([[1, 0], [0, 0], [5, 5]], { device });
  const plain = nn.mse(prediction, target);
  assertClose([await number(plain.mean)], [(4 + 9 + 16 + 1) / 6]);
  assert.equal(await number(plain.count), 3);
  const rows = nn.mse(prediction, target, { weights: tensor([1, 0, 3], { device }) });
  assertClose([await number(rows.mean)], [(2 + 3 * 0.5) / 4]);
  const tokens = nn.mse(prediction, target, { weights: tensor([[1, 1], [0, 0], [0, 2]], { device }) });
  assertClose([await number(tokens.mean)], [(4 + 2) / 4]);
  const [gradient] = grad(rows.mean, [prediction]);
  assertClose(await numbers(gradient!), [0, 0.5, 0, 0, 0, 0.75]);
});

onEachDevice("masked rows weigh as much as they count (x = 1..7, w = 1)", async (device) => {
  const x = tensor([1, 2, 3, 4, 5, 6, 7], { device });
  const w = tensor(1, { device });
  for (
    const [mask, gradient] of [[[1, 1, 1, 1, 1, 1, 1], 40], [[1, 1, 1, 1, 0, 0, 0], 15], [
      [1, 0, 0, 1, 1, 1, 1],
      50.8,
    ]] as const
  ) {
    const loss = nn.mse(x.mul(w), x.mul(0), { weights: tensor(mask, { device }) });
    assertClose([await number(grad(loss.mean, [w])[0]!)], [gradient]);
  }
});

onEachDevice("losses add up, scale, and take a penalty once", async (device) => {
  const x = tensor([1, 2, 3], { device });
  const w = tensor(2, { device });
  const squares = nn.loss({ sum: x.mul(w).square().sum(), count: 3 });
  const few = nn.loss({ sum: x.mul(w).sum(), count: tensor(2, { device }) });
  const total = squares.plus(few).scale(0.5).plus(nn.penalty(w.square()));
  assert.equal(total.terms.length, 2);
  // (56/3 + 12/2) / 2 + 4, and its derivative (2 * 56/2/3 + 6/2) / 2 + 2 * 2
  assertClose([await number(total.mean)], [56 / 6 + 3 + 4]);
  assertClose([await number(grad(total.mean, [w])[0]!)], [28 / 3 + 1.5 + 4]);
  assertClose([await number(nn.penalty(w).scale(3).mean)], [6]);
  assertClose([await number(squares.scale(2).sum)], [112]);
  assert.equal(await number(new nn.Loss([]).mean), 0);
});

onEachDevice("terms with one denominator become one", async (device) => {
  const x = tensor([1, 2, 3], { device });
  const labels = tensor([[1, 5], [2, 2], [3, 0]], { device });
  const a = nn.mse(x, x.mul(2)).scale(2);
  const b = nn.mse(labels, labels.mul(0));
  const both = a.plus(b);
  assert.equal(both.terms.length, 1);
  assertClose([await number(both.mean)], [2 * 14 / 3 + 43 / 6]);
  assert.equal(await number(both.count), 3);
});

onEachDevice("accuracy counts rows, tokens and weights as losses do", async (device) => {
  const logits = tensor([[1, 2], [3, 1], [0, 5], [2, 2]], { device });
  const labels = tensor([1, 1, 1, 0], { device, dtype: "i32" });
  const plain = nn.accuracy(logits, labels);
  assert.deepEqual([await number(plain.sum), await number(plain.count), await number(plain.mean)], [3, 4, 0.75]);
  assertClose([await number(nn.accuracy(logits, labels, { weights: tensor([1, 3, 0, 0], { device }) }).mean)], [0.25]);
  const ignoring = nn.accuracy(logits, labels, { ignore: 0 });
  assert.deepEqual([await number(ignoring.sum), await number(ignoring.count)], [2, 3]);
  const dense = nn.accuracy(logits, tensor([[0, 1], [0.9, 0.1], [1, 0], [1, 0]], { device }));
  assert.equal(await number(dense.mean), 0.75);
  const tokens = nn.accuracy(logits.reshape([2, 2, 2]), labels.reshape([2, 2]));
  assert.deepEqual([await number(tokens.sum), await number(tokens.count)], [3, 4]);
});

onEachDevice("the other metrics", async (device) => {
  const logits = tensor([[3, 2, 1], [1, 2, 3], [3, 1, 2]], { device });
  const labels = tensor([1, 0, 0], { device, dtype: "i32" });
  assertClose([await number(nn.topKAccuracy(logits, labels, { k: 1 }).mean)], [1 / 3]);
  assertClose([await number(nn.topKAccuracy(logits, labels, { k: 2 }).mean)], [2 / 3]);
  assertClose([await number(nn.topKAccuracy(logits, labels, { k: 3 }).mean)], [1]);
  const yes = tensor([[-1, 2], [0.5, -3]], { device });
  assert.equal(await number(nn.binaryAccuracy(yes, tensor([[0, 1], [0, 0]], { device })).mean), 0.75);
  assert.equal(await number(nn.binaryAccuracy(yes, tensor([[false, true], [true, false]], { device })).mean), 1);
  assert.equal(await number(nn.meanAbsoluteError(yes, yes.add(2)).mean), 2);
  assert.equal(await number(nn.lossMetric(nn.mse(yes, yes.add(2))).mean), 4);
  assert.equal(await number(nn.metric({ sum: yes.sum(), count: 0 }).mean), 0);
});

test("what does not fit is refused at the call", () => {
  const logits = tensor([[1, 2], [3, 4]]);
  const labels = tensor([0, 1], { dtype: "i32" });
  assert.throws(() => nn.crossEntropy(logits, tensor([0, 1, 0], { dtype: "i32" })), ShapeError);
  assert.throws(() => nn.crossEntropy(logits, tensor([0, 1])), DTypeError);
  assert.throws(() => nn.crossEntropy(logits.cast("i32"), labels), DTypeError);
  assert.throws(() => nn.crossEntropy(tensor(1), tensor(0)), ShapeError);
  assert.throws(() => nn.crossEntropy(logits, logits, { ignore: 1 }), ArgumentError);
  assert.throws(() => nn.crossEntropy(logits, labels, { ignore: 0.5 }), ArgumentError);
  for (const labelSmoothing of [-0.1, 1, NaN]) {
    assert.throws(() => nn.crossEntropy(logits, labels, { labelSmoothing }), ArgumentError);
  }
  assert.throws(() => nn.crossEntropy(logits, labels, { weights: tensor([1, 2, 3]) }), ShapeError);
  assert.throws(() => nn.crossEntropy(logits, labels, { weights: tensor(1) }), ShapeError);
  assert.throws(() => nn.mse(logits, tensor([1, 2])), ShapeError);
  assert.throws(() => nn.mse(tensor([[1], [2]]), tensor([1, 2])), ShapeError);
  assert.throws(() => nn.binaryCrossEntropy(logits, tensor([1, 2])), ShapeError);
  assert.throws(() => nn.accuracy(logits, tensor([1], { dtype: "i32" })), ShapeError);
  assert.throws(() => nn.topKAccuracy(logits, labels, { k: 0 }), ArgumentError);
  assert.throws(() => nn.loss({ sum: logits, count: 1 }), ShapeError);
  assert.throws(() => nn.loss({ sum: logits.sum(), count: -1 }), ArgumentError);
  assert.throws(() => nn.loss({ sum: labels.sum(), count: 1 }), DTypeError);
  assert.throws(() => nn.penalty(logits), ShapeError);
  assert.throws(() => nn.mse(logits, logits).scale(NaN), ArgumentError);
  assert.throws(() => nn.penalty(logits.sum()).sum, ArgumentError);
});

test("a count may not depend on parameters", () => {
  const w = nn.parameter(tensor([1, 2, 3]));
  const x = tensor([1, 1, 0]);
  const sum = w.mul(x).sum();
  assert.throws(() => checkCounts(nn.loss({ sum, count: w.sum() }), [w]), DecompositionError);
  checkCounts(nn.loss({ sum, count: x.sum() }), [w]);
  checkCounts(nn.loss({ sum, count: w.detach().sum() }), [w]);
  checkCounts(nn.loss({ sum, count: w.greater(0).cast("f32").sum() }), [w]);
});

test("crossEntropy is at most two kernels, its gradient included", () => {
  const logits = placeholder([128, 10], "f32");
  const labels = placeholder([128], "i32");
  const weights = placeholder([128], "f32");
  const probabilities = placeholder([128, 10], "f32");
  const inputs = [logits, labels, weights, probabilities].map((x) => x.node);
  const kernels = (...roots: Tensor[]) =>
    compileGraph({ roots: roots.map((x) => x.node), inputs }, nullDevice().target).steps.length;
  const losses = {
    labels: nn.crossEntropy(logits, labels),
    weights: nn.crossEntropy(logits, labels, { weights }),
    "ignore and smoothing": nn.crossEntropy(logits, labels, { ignore: -1, labelSmoothing: 0.1 }),
    probabilities: nn.crossEntropy(logits, probabilities),
  };
  for (const [name, loss] of Object.entries(losses)) {
    assert.ok(kernels(loss.mean) <= 2, `${name}: ${kernels(loss.mean)} kernels forward`);
    const both = kernels(loss.sum, loss.count, ...grad(loss.sum, [logits]));
    assert.ok(both <= 2, `${name}: ${both} kernels forward and backward`);
  }
});

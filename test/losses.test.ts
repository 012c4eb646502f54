/** Losses and metrics: values and gradients against PyTorch, and the algebra of numerators and denominators. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { compileGraph } from "../src/compiler/compile.ts";
import { nullDevice } from "../src/devices/null.ts";
import { ArgumentError, DecompositionError, DTypeError, ShapeError } from "../src/errors.ts";
import { nn } from "../src/nn/index.ts";
import { checkCounts } from "../src/nn/loss.ts";
import { tensor } from "../src/tensor/create.ts";
import { grad } from "../src/tensor/grad.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { placeholder } from "../src/tensor/trace.ts";
import { fixture, flat } from "./fixtures/nn.ts";
import { assertClose, onEachDevice } from "./harness.ts";

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

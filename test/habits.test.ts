/** What users of other libraries write first, in plain JavaScript: it works, or an error says what to write here. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as shardwise from "../src/index.ts";
import { foreignToTensor } from "../src/tensor/foreign.ts";
import { assertClose, virtualDevices } from "./harness.ts";

// deno-lint-ignore no-explicit-any
type Any = any;
const { arange, compile, data, nn, optim, random, tensor } = shardwise as Any;

const x = tensor([[1, 2], [3, 4]]);
const [device] = (await virtualDevices("cpu", 1))!;
const loss = (output: Any, batch: Any) => nn.mse(output, batch.y);
const optimizer = optim.sgd({ learningRate: 0.1 });
const trainer = (options: object = {}, model: Any = nn.linear(2, 1)) =>
  nn.trainer(model, { loss, optimizer, devices: [device], ...options });
const batch = { x, y: tensor([[1], [2]]) };

const habits: readonly (readonly [what: string, call: () => unknown, said: RegExp])[] = [
  // Tensors.
  ["x.view(4)", () => x.view(4), /\.view; need t\.reshape/],
  ["x.T", () => x.T, /\.T; need t\.transpose\(\)/],
  ["x[0]", () => x[0], /\[0\]; need t\.at\(i\)/],
  ["x.dataSync()", () => x.dataSync(), /await t\.array\(\)/],
  ["x.backward()", () => x.sum().backward(), /grad\(loss, tensors\)/],
  ["x.add_(1)", () => x.add_(1), /t\.assign\(value\)/],
  ["x.norm(2)", () => x.norm(2), /did you mean \{ ord: 2 \}\?/],
  ["x.sum(0, true)", () => x.sum(0, true), /did you mean \{ axis: 0, keepDims: true \}\?/],
  ["x.clamp(0, 2)", () => x.clamp(0, 2), /did you mean \{ min: 0, max: 2 \}\?/],
  ["x.at(0, 1)", () => x.at(0, 1), /need an object of axis$/],
  ["random.uniform([2], 0, 1)", () => random.uniform([2], 0, 1), /did you mean \{ low: 0, high: 1 \}\?/],
  ["random.normal([2], 0, 1)", () => random.normal([2], 0, 1), /did you mean \{ mean: 0, std: 1 \}\?/],
  ["tensor([promise])", () => tensor([Promise.resolve(1)]), /a Promise among the values; need what it gives: await it/],
  ["tensor(promise)", () => tensor(Promise.resolve([1])), /a Promise/],
  ["tensor([a, b])", () => tensor([x, x]), /at \[0\]; need numbers; stack\(\[a, b\]\)/],
  ['tensor([[1, 2], [3, "4"]])', () => tensor([[1, 2], [3, "4"]]), /"4" at \[1, 1\]/],
  ["x.matmul([[1]])", () => x.matmul([[1]]), /need a Tensor: tensor\(values\)/],
  ["a loss as a tensor", () => x.matmul(nn.mse(x, x)), /need a Tensor: its \.mean/],
  ["x.add(x.array())", () => x.add(x.array()), /a Promise as other; need a Tensor, a number or a boolean: await it/],
  [
    "a host batch as a tensor",
    () => nn.linear(2, 1).forward(data.array(new Float32Array(2))),
    /data\.tensors\(batch\)/,
  ],
  [
    "array() in a compiled function",
    () => compile((t: Any) => t.array())(x),
    /array: got a call while a function is traced; need no value yet/,
  ],
  // Losses.
  [
    "softmax and crossEntropy",
    () => nn.crossEntropy(x.softmax(), tensor([0, 1], { dtype: "i32" })),
    /result of a softmax as logits; need what the softmax was taken of/,
  ],
  [
    "sigmoid and binaryCrossEntropy",
    () => nn.binaryCrossEntropy(x.sigmoid().reshape([4]), x.flatten()),
    /result of a sigmoid as logits/,
  ],
  ["binaryAccuracy of a sigmoid", () => nn.binaryAccuracy(x.sigmoid(), x), /result of a sigmoid as logits/],
  [
    "crossEntropy(labels, logits)",
    () => nn.crossEntropy(tensor([0, 1], { dtype: "i32" }), x),
    /need the logits first, the labels second/,
  ],
  ["labels of floats", () => nn.crossEntropy(x, tensor([0, 1])), /an Int32Array in the data, or labels\.cast/],
  [
    "accuracy of one logit",
    () => nn.accuracy(x.sum({ axis: 1, keepDims: true }), tensor([0, 1], { dtype: "i32" })),
    /nn\.binaryAccuracy/,
  ],
  ["loss.item()", () => nn.mse(x, x).item(), /await loss\.mean\.item\(\)/],
  // Models, optimizers, trainers.
  ["model.zero_grad()", () => nn.linear(2, 1).zero_grad(), /nothing: grad and valueAndGrad/],
  ["model.fit()", () => nn.linear(2, 1).fit(), /nn\.trainer\(model/],
  ["optimizer.step() unbound", () => optimizer.step(), /optimizer\.bind\(model\.parameters\(\)\)/],
  [
    "bound.zero_grad()",
    () => optim.sgd({ learningRate: 0.1 }).bind(nn.linear(2, 1).parameters()).zero_grad(),
    /nothing: grad/,
  ],
  [
    "loss: nn.mse",
    () => trainer({ loss: nn.mse }),
    /the function mse as loss; need .*\(output, batch\) => nn\.mse\(output, batch\.y\)/,
  ],
  ['loss: "mse"', () => trainer({ loss: "mse" }), /\(output, batch\) => nn\.mse\(output, batch\.y\)/],
  ["metrics: { accuracy: nn.accuracy }", () => trainer({ metrics: { accuracy: nn.accuracy } }), /accuracy|function/],
  ["gradClip", () => trainer({ gradClip: 1 }), /did you mean clipNorm\?/],
  ["callbacks", () => trainer({ callbacks: [] }), /onBatch and onEpoch/],
  ["a model without forward", () => {
    class Call extends nn.Module {
      readonly inner = nn.linear(2, 1);
      call(t: Any) {
        return this["inner"].forward(t);
      }
    }
    return trainer({}, new Call());
  }, /a Call without forward; need a method forward\(x\)/],
  ["fit(x, y)", () => trainer().fit(x, batch.y), /data\.batches\(\{ x, y \}, \{ batchSize: 32 \}\)/],
  ["fit([])", () => trainer().fit([]), /a source of no batches/],
  ["evaluate([])", () => trainer().evaluate([]), /a source of no batches/],
  [
    "predict(one sample)",
    () => trainer().predict(tensor([1, 2])),
    /for the 2 rows of x \[2\] and fails for another number.*one sample alone is x\.unsqueeze\(0\)/,
  ],
  [
    "batch.labels read as batch.y",
    () => trainer().step({ x, labels: batch.y }),
    /batch\.y where batch has x, labels(?!.*did you mean)/,
  ],
  ["a plain tensor as a weight", () => {
    class Scaled extends nn.Module {
      readonly inner = nn.linear(2, 1);
      readonly scale = tensor([2]);
      forward(t: Any) {
        return this["inner"].forward(t).mul(this["scale"]);
      }
    }
    return trainer({}, new Scaled()).step(batch);
  }, /a Scaled with a plain tensor \[1\] as its field scale; need nn\.parameter/],
  ["mixed lists", () => data.batches({ x: [[1, 2], [3, null]] }, { batchSize: 1 }), /x: null at \[1, 1\]/],
  [
    "rows of unequal typed arrays",
    () => data.batches({ x: [new Float32Array(2), new Float32Array(3)] }, { batchSize: 1 }),
    /a Float32Array of 3 at \[1\]/,
  ],
];

for (const [what, call, said] of habits) {
  test(`told: ${what}`, async () => {
    await assert.rejects(async () => await call(), (error: unknown) => {
      assert.ok(error instanceof shardwise.ShardwiseError, String(error));
      assert.match(error.message, said);
      return true;
    });
  });
}

test("a word of another library is none that tensors have", () => {
  for (const word of Object.keys(foreignToTensor)) {
    assert.ok(!(word in shardwise.Tensor.prototype), word);
    assert.throws(() => x[word], shardwise.ArgumentError);
  }
});

test("what nobody has is undefined, as programs ask for it", async () => {
  for (const key of ["then", "foo", "length", Symbol.iterator, Symbol.toStringTag, "asymmetricMatch", "$$typeof"]) {
    assert.equal(x[key], undefined);
  }
  assert.equal(await x, x);
  assert.equal(Object.hasOwn(x, "shape"), true);
  assert.equal(x instanceof shardwise.Tensor, true);
});

test("a subclass of Module may have members of those names", () => {
  class Mine extends nn.Module {
    readonly summary = 1;
    constructor() {
      super();
      (this as Any).add = nn.linear(1, 1);
    }
    forward() {}
    predict() {
      return 2;
    }
  }
  const mine = new Mine() as Any;
  assert.equal(mine.summary, 1);
  assert.equal(mine.predict(), 2);
  assert.deepEqual(Object.keys(mine.namedParameters()), ["add.weight", "add.bias"]);
});

test("a bound optimizer takes no members: a learning rate that is set would do nothing", () => {
  const bound = optim.sgd({ learningRate: 0.1 }).bind(nn.linear(2, 1).parameters());
  assert.throws(() => bound.learningRate = 1, TypeError);
});

test("arange takes start, end and step as elsewhere", async () => {
  assert.deepEqual(await arange(2, 5).array(), [2, 3, 4]);
  assert.deepEqual(await arange(10, 0, -4).array(), [10, 6, 2]);
  assert.deepEqual(await arange(0, 1, 0.25).array(), [0, 0.25, 0.5, 0.75]);
  assert.equal(arange(2, 5).dtype, "i32");
  assert.throws(() => arange(0, 1, 2, 3), shardwise.ArgumentError);
});

test("random.normal of a mean and a deviation is the standard one, moved and scaled", async () => {
  random.seed(5);
  const standard = await random.normal([64]).data();
  random.seed(5);
  const other = await random.normal([64], { mean: 3, std: 2 }).data();
  assertClose(other, Array.from(standard, (z: number) => 3 + 2 * z), { rtol: 1e-6 });
  for (const options of [{ std: -1 }, { std: NaN }, { mean: Infinity }]) {
    assert.throws(() => random.normal([2], options), shardwise.ArgumentError);
  }
});

test("lists of typed arrays are rows, of their own dtype", async () => {
  const rows = tensor([Int32Array.of(1, 2), Int32Array.of(3, 4)]);
  assert.equal(rows.dtype, "i32");
  assert.deepEqual(await rows.array(), [[1, 2], [3, 4]]);
  assert.deepEqual(await tensor([[Float32Array.of(1), Float32Array.of(2)]]).array(), [[[1], [2]]]);
  assert.throws(() => tensor([Int32Array.of(1, 2), Float32Array.of(3, 4)]), /typed arrays of one type/);
  assert.throws(() => tensor([Int32Array.of(1, 2), [3, 4, 5]]), shardwise.ShapeError);
  const [first] = [...data.batches({ x: [Uint8Array.of(1, 2), Uint8Array.of(3, 4)] }, { batchSize: 2 })];
  assert.deepEqual(first.x, { data: Uint8Array.of(1, 2, 3, 4), shape: [2, 2], dtype: "i32" });
});

test("a generator is used up after an epoch, which is told", async () => {
  function* source() {
    yield batch;
  }
  const own = trainer();
  await assert.rejects(own.fit(source(), { epochs: 2, progress: "none" }), (error: unknown) => {
    assert.ok(error instanceof shardwise.StateError, String(error));
    assert.match(error.message, /gave batches in epoch 1 and none in epoch 2, as a generator does/);
    return true;
  });
  assert.equal(own.history.epochs.length, 1);
  assert.equal((await own.fit({ [Symbol.iterator]: source }, { epochs: 2, progress: "none" })).epochs.length, 2);
});

test("labels that begin at 1 are told so, and what one logit needs", async () => {
  const classes = (output: Any, { y }: Any) => nn.crossEntropy(output, y);
  const step = (outputs: number, labels: readonly number[]) =>
    nn.trainer(nn.linear(2, outputs), { loss: classes, optimizer, devices: [device] }).step({
      x: tensor([[1, 2], [3, 4], [5, 6]]),
      y: tensor(Int32Array.from(labels)),
    });
  await assert.rejects(step(3, [1, 2, 3]), /label 3 in row 2 .*need labels from 0 to 2: these begin at 1/);
  await assert.rejects(step(1, [0, 1, 0]), /nn\.binaryCrossEntropy for one logit/);
});

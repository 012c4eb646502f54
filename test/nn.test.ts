/** Modules: what their fields declare, their forward and backward values, their state. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ArgumentError, DTypeError, ShapeError } from "../src/errors.ts";
import { nn, optim } from "../src/nn/index.ts";
import { full, tensor, zeros } from "../src/tensor/create.ts";
import * as random from "../src/tensor/random.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { grad } from "../src/tensor/transform/grad.ts";
import { fixture, flat } from "./fixtures/nn.ts";
import { assertClose, onEachDevice } from "./harness.ts";

const numbers = async (x: Tensor): Promise<number[]> => Array.from(await x.data());

/** A model with everything that a field can hold. */
class Everything extends nn.Module {
  readonly first = nn.linear(2, 3);
  readonly blocks = [nn.linear(3, 3, { bias: false }), nn.relu(), nn.dropout(0.5)];
  readonly named = { head: nn.layerNorm(3) };
  readonly scale = nn.parameter(tensor([1, 2, 3]));
  readonly seen = nn.buffer(tensor([0], { dtype: "i32" }));
  readonly tied = this.blocks[0];
  readonly plain = tensor([5]);
  readonly parent = this as nn.Module;
  readonly title = "everything";

  override forward(x: Tensor): Tensor {
    return this.blocks.reduce((y, layer) => layer.forward(y), this.first.forward(x)).mul(this.scale);
  }
}

test("fields declare parameters, buffers and modules; a tied weight counts once", () => {
  const model = new Everything();
  assert.deepEqual(Object.keys(model.namedParameters()), [
    "first.weight",
    "first.bias",
    "blocks.0.weight",
    "named.head.weight",
    "named.head.bias",
    "scale",
  ]);
  assert.deepEqual(Object.keys(model.namedBuffers()), ["seen"]);
  assert.equal(model.parameters().length, 6);
  assert.deepEqual(model.buffers(), [model.seen]);
  assert.equal(model.modules().length, 6);
  assert.equal(model.modules()[0], model);
  assert.deepEqual(Object.keys(model.stateDict()).length, 7);
});

test("two names for two tensors at one path are refused", () => {
  class Ambiguous extends nn.Module {
    readonly a = { b: nn.parameter(tensor([1])) };
    readonly "a.b" = nn.parameter(tensor([2]));
    override forward(): void {}
  }
  assert.throws(() => new Ambiguous().parameters(), ArgumentError);
});

test("train and eval reach every module", () => {
  const model = new Everything();
  assert.ok(model.modules().every((module) => module.training));
  assert.equal(model.eval(), model);
  assert.ok(model.modules().every((module) => !module.training));
  model.train();
  assert.ok(model.modules().every((module) => module.training));
});

test("only f32 can be a parameter", () => {
  assert.throws(() => nn.parameter(tensor([1], { dtype: "i32" })), DTypeError);
});

test("parameters of equal initial values are different parameters", async () => {
  const [a, b] = [nn.parameter(zeros([2])), nn.parameter(zeros([2]))];
  const [da, db] = grad(a.mul(2).sum().add(b.mul(3).sum()), [a, b]);
  assert.deepEqual([await numbers(da!), await numbers(db!)], [[2, 2], [3, 3]]);
});

onEachDevice("an MLP has PyTorch's loss and gradients", async (device) => {
  const { x, labels, parameters, loss, gradients } = fixture.mlp;
  const model = nn.sequential(nn.linear(6, 5), nn.relu(), nn.linear(5, 3));
  model.parameters().forEach((parameter, i) => parameter.assign(tensor(parameters[i]!, { device })));
  const result = nn.crossEntropy(model.forward(tensor(x, { device })), tensor(labels, { device, dtype: "i32" }));
  assertClose([Number(await result.mean.item())], [loss], { rtol: 1e-5 });
  const ours = grad(result.mean, model.namedParameters());
  for (const [i, [path, gradient]] of Object.entries(ours).entries()) {
    assertClose(await numbers(gradient), flat(gradients[i]!), { atol: 1e-6, rtol: 1e-5, message: path });
  }
});

onEachDevice("linear takes vectors, rows and batches of rows", async (device) => {
  const layer = nn.linear(2, 3);
  layer.weight.assign(tensor([[1, 2, 3], [4, 5, 6]], { device }));
  layer.bias!.assign(tensor([10, 20, 30], { device }));
  assert.deepEqual(await layer.forward(tensor([1, 1], { device })).array(), [15, 27, 39]);
  assert.deepEqual(await layer.forward(tensor([[1, 0], [0, 1]], { device })).array(), [[11, 22, 33], [14, 25, 36]]);
  assert.deepEqual(await layer.forward(tensor([[[0, 0]]], { device })).array(), [[[10, 20, 30]]]);
  assert.throws(() => layer.forward(tensor([1, 2, 3], { device })), ShapeError);
  assert.throws(() => layer.forward(tensor(1, { device })), ShapeError);
});

onEachDevice("layerNorm agrees with PyTorch, backward too", async (device) => {
  const given = fixture.layerNorm;
  const layer = nn.layerNorm(5);
  layer.weight!.assign(tensor(given.weight, { device }));
  layer.bias!.assign(tensor(given.bias, { device }));
  const x = tensor(given.x, { device });
  const y = layer.forward(x);
  assertClose(await numbers(y), flat(given.y), { atol: 1e-5, rtol: 1e-5 });
  const [dx, dweight, dbias] = grad(y.mul(tensor(given.cotangent, { device })).sum(), [x, layer.weight!, layer.bias!]);
  assertClose(await numbers(dx!), flat(given.dx), { atol: 1e-5, rtol: 1e-4, message: "dx" });
  assertClose(await numbers(dweight!), flat(given.dweight), { atol: 1e-5, rtol: 1e-4, message: "dweight" });
  assertClose(await numbers(dbias!), flat(given.dbias), { atol: 1e-5, message: "dbias" });
  const wide = nn.layerNorm([2, 2], { affine: false });
  assertClose(await numbers(wide.forward(tensor([[[1, 2], [3, 4]]], { device }))), [
    -1.341636,
    -0.447212,
    0.447212,
    1.341636,
  ], { atol: 1e-5 });
  assert.throws(() => wide.forward(tensor([1, 2], { device })), ShapeError);
  // Where epsilon is all there is of a variance, and where it is as large.
  const [equal, near] = [tensor([[3, 3, 3, 3]], { device }), tensor([[1, 1 + 2 ** -8, 1, 1 + 2 ** -8]], { device })];
  const even = nn.layerNorm(4, { affine: false, epsilon: 2 ** -18 });
  assert.deepEqual(await numbers(even.forward(equal)), [0, 0, 0, 0]);
  assert.deepEqual((await numbers(grad(even.forward(equal).square().sum(), equal))).map((x) => x + 0), [0, 0, 0, 0]);
  assertClose(await numbers(even.forward(near)), [-1, 1, -1, 1].map((sign) => sign * Math.SQRT1_2), { atol: 1e-5 });
});

onEachDevice("gelu agrees with PyTorch's exact one", async (device) => {
  const { x, y, dy } = fixture.gelu;
  const input = tensor(x, { device });
  const output = nn.gelu().forward(input);
  assertClose(await numbers(output), y, { atol: 2e-6 });
  assertClose(await numbers(grad(output.sum(), [input])[0]!), dy, { atol: 2e-6 });
});

onEachDevice("activations are layers", async (device) => {
  const x = tensor([[-1, 0], [1, 2]], { device });
  const all = [
    nn.relu(),
    nn.tanh(),
    nn.sigmoid(),
    nn.silu(),
    nn.softplus(),
    nn.softmax(),
    nn.logSoftmax(),
    nn.softmax({ axis: 0 }),
  ];
  const each = (f: (x: number) => number) => [-1, 0, 1, 2].map(f);
  const rows = (f: (x: number, of: number[]) => number) =>
    [[-1, 0], [1, 2]].flatMap((row) => row.map((v) => f(v, row)));
  const total = (of: number[]) => of.reduce((sum, v) => sum + Math.exp(v), 0);
  const expected = [
    each((v) => Math.max(v, 0)),
    each(Math.tanh),
    each((v) => 1 / (1 + Math.exp(-v))),
    each((v) => v / (1 + Math.exp(-v))),
    each((v) => Math.log1p(Math.exp(v))),
    rows((v, of) => Math.exp(v) / total(of)),
    rows((v, of) => v - Math.log(total(of))),
    [[-1, 1], [0, 2], [1, -1], [2, 0]].map(([v, other]) => 1 / (1 + Math.exp(other! - v!))),
  ];
  for (const [i, layer] of all.entries()) {
    assertClose(await numbers(nn.sequential(layer).forward(x)), expected[i]!, { atol: 1e-6, message: layer.name });
  }
  assert.deepEqual(nn.flatten().forward(zeros([2, 3, 4])).shape, [2, 12]);
  assert.deepEqual(nn.flatten().forward(zeros([0, 3, 4])).shape, [0, 12]);
  assert.deepEqual(await nn.lambda((y) => y.add(1)).forward(x).array(), [[0, 1], [2, 3]]);
});

onEachDevice("dropout keeps about its share, scales it, and rests in evaluation", async (device) => {
  random.seed(5);
  const layer = nn.dropout(0.25);
  const x = tensor(new Float32Array(4000).fill(3), { device });
  const y = await numbers(layer.forward(x));
  const kept = y.filter((value) => value !== 0);
  assertClose(kept, kept.map(() => 4));
  assert.ok(Math.abs(kept.length - 3000) < 150, `${kept.length} of 4000 kept`);
  assert.notDeepEqual(await numbers(layer.forward(x)), y);
  random.seed(5);
  assert.deepEqual(await numbers(layer.forward(x)), y);
  const [gradient] = grad(layer.forward(x).sum(), [x]);
  assert.deepEqual([...new Set(await numbers(gradient!))].map((v) => Math.round(v * 3)).sort(), [0, 4]);
  assert.equal(layer.eval().forward(x), x);
  assert.equal(nn.dropout(0).forward(x), x);
  for (const rate of [-0.1, 1, NaN]) assert.throws(() => nn.dropout(rate), ArgumentError);
});

onEachDevice("embedding looks rows up, and gives each row the sum of its gradients", async (device) => {
  const layer = nn.embedding(3, 2);
  layer.weight.assign(tensor([[1, 2], [3, 4], [5, 6]], { device }));
  const indices = tensor([[2, 0], [2, 2]], { device, dtype: "i32" });
  const y = layer.forward(indices);
  assert.deepEqual(await y.array(), [[[5, 6], [1, 2]], [[5, 6], [5, 6]]]);
  const [gradient] = grad(y.sum(), [layer.weight]);
  assert.deepEqual(await gradient!.array(), [[1, 1], [0, 0], [3, 3]]);
  assert.throws(() => layer.forward(tensor([0.5], { device })), DTypeError);
});

test("layers refuse lengths that make no sense", () => {
  for (const bad of [0, -1, 1.5, NaN]) {
    assert.throws(() => nn.linear(bad, 1), ArgumentError);
    assert.throws(() => nn.linear(1, bad), ArgumentError);
    assert.throws(() => nn.embedding(bad, 1), ArgumentError);
    assert.throws(() => nn.layerNorm(bad), ArgumentError);
  }
  assert.throws(() => nn.layerNorm([]), ArgumentError);
  assert.throws(() => nn.layerNorm(2, { epsilon: 0 }), ArgumentError);
});

test("initial weights follow from the seed and have the spread that they should", async () => {
  const draw = async (init: nn.Initializer) => {
    random.seed(3);
    return await numbers(nn.linear(80, 50, { init }).weight);
  };
  const deviation = (values: number[]) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0) / values.length);
  const { init } = nn;
  for (
    const [make, expected, limit] of [
      [init.glorotUniform, Math.sqrt(2 / 130), Math.sqrt(6 / 130)],
      [init.glorotNormal, Math.sqrt(2 / 130), Infinity],
      [init.heUniform, Math.sqrt(2 / 80), Math.sqrt(6 / 80)],
      [init.heNormal, Math.sqrt(2 / 80), Infinity],
      [init.lecunUniform, Math.sqrt(1 / 80), Math.sqrt(3 / 80)],
      [init.lecunNormal, Math.sqrt(1 / 80), Infinity],
      [init.normal({ std: 0.02 }), 0.02, Infinity],
      [init.uniform({ min: -1, max: 1 }), Math.sqrt(1 / 3), 1],
    ] as const
  ) {
    const values = await draw(make);
    assertClose([deviation(values)], [expected], { rtol: 0.05 });
    assert.ok(values.every((v) => Math.abs(v) <= limit * 1.000001));
    assert.deepEqual(await draw(make), values);
  }
  assert.deepEqual([...new Set(await draw(init.zeros))], [0]);
  assert.deepEqual([...new Set(await draw(init.ones))], [1]);
  assert.deepEqual([...new Set(await draw(init.constant(0.5)))], [0.5]);
  random.seed(3);
  const [a, b] = [nn.linear(4, 4), nn.linear(4, 4)];
  assert.notDeepEqual(await numbers(a.weight), await numbers(b.weight));
  assert.throws(() => init.constant(NaN), ArgumentError);
  assert.throws(() => init.normal({ std: -1 }), ArgumentError);
  assert.throws(() => init.uniform({ min: 1, max: 0 }), ArgumentError);
});

onEachDevice("a state dict is a snapshot that can be loaded back, packed parameters included", async (device) => {
  const model = nn.linear(2, 1);
  model.weight.assign(tensor([[1], [2]], { device }));
  model.bias!.assign(tensor([3], { device }));
  const before = model.stateDict();
  const bound = optim.sgd({ learningRate: 1 }).bind(model.parameters());
  bound.step([tensor([[1], [1]], { device }), tensor([1], { device })]);
  assert.deepEqual([...await numbers(model.weight), ...await numbers(model.bias!)], [0, 1, 2]);
  assert.deepEqual([...await numbers(before["weight"]!), ...await numbers(before["bias"]!)], [1, 2, 3]);
  model.loadStateDict(before);
  assert.deepEqual([...await numbers(model.weight), ...await numbers(model.bias!)], [1, 2, 3]);
  bound.step([tensor([[1], [1]], { device }), tensor([1], { device })]);
  assert.deepEqual([...await numbers(model.weight), ...await numbers(model.bias!)], [0, 1, 2]);
});

test("a part of a packed model takes its state, and the rest stays as it is", async () => {
  for (const part of [0, 1, 2]) {
    const layers = [nn.linear(2, 1), nn.linear(1, 2), nn.linear(2, 1)];
    const model = nn.sequential(...layers);
    model.parameters().forEach((parameter, i) => parameter.assign(full(parameter.shape, i)));
    optim.sgd({ learningRate: 1 }).bind(model.parameters());
    const state = layers[part]!.stateDict();
    layers[part]!.loadStateDict(
      Object.fromEntries(Object.entries(state).map(([name, value]) => [name, value.add(10)])),
    );
    const all = await Promise.all(model.parameters().map(numbers));
    all.forEach((values, i) =>
      assert.deepEqual([...values], [...values].map(() => Math.floor(i / 2) === part ? i + 10 : i), `${part}: ${i}`)
    );
  }
});

test("a state that does not fit changes nothing", async () => {
  const model = nn.linear(2, 1, { init: nn.init.ones });
  const state = model.stateDict();
  assert.throws(() => model.loadStateDict({ weight: state["weight"]! }), /without \[bias\]/);
  assert.throws(() => model.loadStateDict({ ...state, more: zeros([1]) }), /unexpected \[more\]/);
  assert.throws(() => model.loadStateDict({ weight: zeros([2, 1]), bias: zeros([2]) }), ShapeError);
  assert.throws(() => model.loadStateDict({ weight: zeros([2, 1]), bias: zeros([1], { dtype: "i32" }) }), DTypeError);
  assert.deepEqual(await numbers(model.weight), [1, 1]);
});

onEachDevice("to moves a module", async (device) => {
  const model = nn.sequential(nn.linear(2, 2, { init: nn.init.ones }), nn.linear(2, 1, { init: nn.init.ones }));
  optim.adam().bind(model.parameters());
  assert.equal(model.to(device), model);
  assert.ok(model.parameters().every((parameter) => parameter.device === device));
  assert.deepEqual(await model.forward(tensor([[1, 2]], { device })).array(), [[6]]);
});

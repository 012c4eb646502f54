/** The tensor itself: data in and out, what it says of itself, trees, and the gradients of composed ops. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";
import { checkGradients } from "../src/autograd/check.ts";
import { toposort } from "../src/graph/node.ts";
import { size } from "../src/graph/shape.ts";
import * as s from "../src/index.ts";
import { nn, optim, type Tensor, tensor } from "../src/index.ts";
import { storageOf } from "../src/tensor/eager/record.ts";
import { placeholder } from "../src/tensor/transform/trace.ts";
import { assertClose, onEachDevice } from "./harness.ts";

test("data in: nested arrays, typed arrays, dtypes", async () => {
  const given = (x: Tensor) => [x.dtype, x.shape, "data"];
  assert.deepEqual(given(tensor(3)), ["f32", [], "data"]);
  assert.deepEqual(given(tensor([])), ["f32", [0], "data"]);
  assert.deepEqual(given(tensor([[], []])), ["f32", [2, 0], "data"]);
  assert.deepEqual(given(tensor([[true], [false]])), ["bool", [2, 1], "data"]);
  assert.deepEqual(given(tensor(new Int32Array(2))), ["i32", [2], "data"]);
  assert.deepEqual(given(tensor(new Uint32Array(2))), ["u32", [2], "data"]);
  assert.deepEqual(given(tensor(new Uint8Array(6), { shape: [2, 3] })), ["i32", [2, 3], "data"]);
  assert.deepEqual(given(tensor(new Float64Array(1))), ["f32", [1], "data"]);
  assert.deepEqual([...await tensor([1.9, -1.9, 3e9], { dtype: "i32" }).data()], [1, -1, 3e9 | 0]);
  assert.deepEqual([...await tensor([0, 2, NaN], { dtype: "bool" }).data()], [0, 1, 1]);
  assert.deepEqual([...await tensor(new Uint8Array([7, 255]), { dtype: "f32" }).data()], [7, 255]);
});

test("data is copied in and out", async () => {
  const source = Float32Array.of(1, 2);
  const x = tensor(source);
  source[0] = 9;
  const first = await x.data();
  assert.deepEqual([...first], [1, 2]);
  first[1] = 9;
  assert.deepEqual([...await x.data()], [1, 2]);
});

onEachDevice("values out: data, array and item, of every dtype", async (device) => {
  const x = tensor([[1.5, -2], [0, 4]], { device });
  const y = x.add(0);
  assert.deepEqual(await y.array(), [[1.5, -2], [0, 4]]);
  assert.ok(await y.data() instanceof Float32Array);
  assert.ok(await y.cast("i32").data() instanceof Int32Array);
  assert.ok(await y.abs().cast("u32").data() instanceof Uint32Array);
  const truth = await y.greater(0).data();
  assert.ok(truth instanceof Uint8Array);
  assert.deepEqual([...truth], [1, 0, 0, 1]);
  assert.deepEqual(await y.greater(0).array(), [[true, false], [false, true]]);
  assert.equal(await y.sum().item(), 3.5);
  assert.equal(await y.greater(0).any().array(), true);
  assert.deepEqual(await s.zeros([0, 2], { device }).array(), []);
  assert.deepEqual(await s.zeros([2, 0], { device }).mul(2).array(), [[], []]);
  assert.equal(y.device, device);
  assert.throws(() => x.item(), s.ShapeError);
});

onEachDevice("tensors travel, stay where they are sent, and do not mix", async (device) => {
  const [, other] = await s.devices({ kind: "cpu", virtual: 3 });
  const here = tensor([1, 2], { device });
  const free = tensor([10, 20]);
  assert.equal(free.device, undefined);
  assert.equal(here.add(free).device, device);
  assert.deepEqual(await here.add(free).data(), Float32Array.of(11, 22));
  const there = here.mul(2).to(other!);
  assert.equal(there.device, other);
  assert.deepEqual(await there.add(1).data(), Float32Array.of(3, 5));
  assert.deepEqual(await there.to(device).add(here).data(), Float32Array.of(3, 6));
  assert.throws(
    () => here.add(there),
    (error) => error instanceof s.DeviceError && /x\.to\(device\)/.test(error.message),
  );
  // Gradients flow through a move, back to where the operand lives.
  const [g] = s.grad(here.to(other!).square().sum().to(device), [here]);
  assert.deepEqual(await g.data(), Float32Array.of(2, 4));
  for (const [from, to] of [[device, other!], [other!, device]] as const) {
    const x = tensor([3, 4], { device: from });
    const moved = s.grad(x.to(to).square().sum(), x);
    assert.equal(moved.device, from);
    assert.deepEqual(await moved.data(), Float32Array.of(6, 8));
    assert.equal(s.grad(x.to(to).square().to(from).sum(), x).device, from);
  }
  // What is bound to no device may be sent to several: its gradient is the sum of what comes of each.
  const both = s.grad(free.to(device).square().sum().add(free.to(other!).mul(3).sum().to(device)), free);
  assert.deepEqual(await both.data(), Float32Array.of(23, 43));
  assert.deepEqual(await s.full([2], 3, { device: other! }).data(), Float32Array.of(3, 3));
});

onEachDevice("rows of what was computed are read from where they lie, without a kernel", async (device) => {
  const values = Array.from({ length: 4 }, (_, i) => [0, 1, 2].map((j) => 10 * i + j));
  const x = tensor(values.toReversed(), { device }).flip(0);
  await x.realize();
  for (let start = 0; start < 4; start++) {
    for (let end = start + 1; end <= 4; end++) {
      const before = device.stats().dispatches;
      const rows = x.slice({ axis: 0, start, end });
      assert.deepEqual(await rows.array(), values.slice(start, end));
      assert.deepEqual([...await rows.flatten().data()], values.slice(start, end).flat());
      assert.equal(device.stats().dispatches, before);
      // Other parts are not in one piece.
      assert.deepEqual(
        await x.slice({ axis: 1, start: 1 }).slice({ axis: 0, start, end }).array(),
        values.slice(start, end).map((row) => row.slice(1)),
      );
      assert.deepEqual(
        await rows.slice({ axis: 0, step: 2 }).array(),
        values.slice(start, end).filter((_, i) => i % 2 === 0),
      );
    }
  }
});

test("a tensor says what it is", () => {
  assert.equal(String(tensor([[1, 2], [3, 4.5]])), "Tensor f32[2, 2] [[1, 2], [3, 4.5]]");
  assert.equal(inspect(tensor([true, false])), "Tensor bool[2] [true, false]");
  assert.equal(inspect({ x: tensor(1) }), "{ x: Tensor f32[] 1 }");
  assert.equal(String(tensor([1, 2]).add(1)), "Tensor f32[2] (not computed)");
  assert.match(String(s.arange(10).add(tensor(0, { dtype: "i32" }))), /i32\[10\]/);
  assert.match(String(tensor(Float32Array.from({ length: 10 }, (_, i) => i))), /\[0, 1, 2, …, 7, 8, 9\]/);
  const x = tensor([1]);
  x.dispose();
  assert.equal(String(x), "Tensor f32[1] (disposed)");
});

onEachDevice("a tensor shows what was read of it, until it is another value", async (device) => {
  const x = tensor([[1, 2], [3, 4]], { device }).mul(2);
  const text = (of: Tensor) => String(of).replace(` on ${device.name}`, "");
  assert.equal(text(x), "Tensor f32[2, 2] (not computed)");
  const reading = x.array();
  await reading;
  assert.equal(text(x), "Tensor f32[2, 2] [[2, 4], [6, 8]]");
  assert.equal(inspect({ x }), `{ x: ${x} }`);
  await x.sum().item();
  const y = x.add(1);
  await y.realize();
  assert.equal(text(y), "Tensor f32[2, 2] (not read)");
  const late = y.data();
  y.assign(x);
  await late;
  assert.doesNotMatch(text(y), /\[\[3/, "that was its value before");
  // What the caller does with the numbers is no matter; of much, little is shown.
  const long = tensor(Float32Array.from({ length: 80 }, (_, i) => i), { shape: [8, 10], device }).add(0.5);
  (await long.data()).fill(0);
  const row = (i: number) =>
    `[${[0, 1, 2].map((j) => 10 * i + j + 0.5).join(", ")}, …, ${[7, 8, 9].map((j) => 10 * i + j + 0.5).join(", ")}]`;
  assert.equal(text(long), `Tensor f32[8, 10] [${[0, 1, 2].map(row).join(", ")}, …, ${[5, 6, 7].map(row).join(", ")}]`);
});

onEachDevice("so do parameters, also in training", async (device) => {
  const model = nn.sequential(nn.linear(2, 1, { bias: false }));
  const [weight] = model.parameters();
  const trainer = nn.trainer(model, {
    loss: (y, batch) => nn.mse(y, batch.y),
    optimizer: optim.sgd({ learningRate: 0.1 }),
    devices: [device],
  });
  const text = async () =>
    `[${
      (await weight!.array() as number[][]).map((row) => `[${row.map((x) => Number(x.toPrecision(6)))}]`).join(", ")
    }]`;
  for (let step = 0; step < 3; step++) {
    const now = await text();
    assert.ok(String(weight).endsWith(now), `${weight} ends with ${now}`);
    await trainer.step({ x: tensor([[1, 2]]), y: tensor([[step]]) });
    assert.ok(!String(weight).endsWith(now));
  }
});

test("nested arrays of any shape come back", async () => {
  const shapes = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(shapes, async (shape) => {
      const data = Float32Array.from({ length: size(shape) }, (_, i) => i);
      const x = tensor(data, { shape });
      const back = tensor(await x.array() as number[]);
      assert.deepEqual([...await back.data()], [...data]);
      // A length of 0 hides the lengths inside of it.
      const known = shape.indexOf(0) === -1 ? shape : shape.slice(0, shape.indexOf(0) + 1);
      assert.deepEqual(back.shape, known);
    }),
    { numRuns: 50 },
  );
});

test("view laws on random shapes", async () => {
  const shape = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(shape, fc.nat(), fc.nat(), async (lengths, axisSeed, cutSeed) => {
      const axis = axisSeed % lengths.length;
      const x = tensor(Float32Array.from({ length: size(lengths) }, (_, i) => i), { shape: lengths });
      const same = async (y: Tensor, law: string) => {
        assert.deepEqual(y.shape, x.shape, law);
        assert.deepEqual([...await y.data()], [...await x.data()], law);
      };
      const order = lengths.map((_, i) => (i + axis) % lengths.length);
      const inverse = lengths.map((_, i) => order.indexOf(i));
      await same(x.permute(order).permute(inverse), "permute and its inverse");
      await same(x.flip(axis).flip(axis), "flip twice");
      await same(x.reshape([-1]).reshape(lengths), "reshape there and back");
      await same(s.concat(x.split(cutSeed % lengths[axis]! + 1, { axis }), { axis }), "split and concat");
      await same(
        s.stack(lengths[axis]! > 0 ? Array.from({ length: lengths[axis]! }, (_, i) => x.at(i, { axis })) : [x], {
          axis,
        }),
        "at and stack",
      );
      await same(x.unsqueeze(axis).squeeze(axis), "unsqueeze and squeeze");
      await same(x.pad(1).slice(lengths.map((n) => ({ start: 1, end: 1 + n }))), "pad and slice");
      await same(x.sort({ axis }).gather(x.argsort({ axis }).argsort({ axis }), { axis }), "sort and its inverse");
    }),
    { numRuns: 15 },
  );
});

test("trees of tensors", () => {
  const [a, b, c] = [tensor(1), tensor(2), tensor(3)];
  const tree = { layers: [{ weight: a, bias: b }], scale: c };
  const flat = s.flattenTree("test", tree);
  assert.deepEqual(flat.paths, ["layers[0].weight", "layers[0].bias", "scale"]);
  assert.deepEqual(flat.leaves, [a, b, c]);
  assert.deepEqual(flat.rebuild([1, 2, 3]), { layers: [{ weight: 1, bias: 2 }], scale: 3 });
  assert.deepEqual(s.mapTree(tree, (_, path) => path), {
    layers: [{ weight: "layers[0].weight", bias: "layers[0].bias" }],
    scale: "scale",
  });
  assert.throws(() => s.flattenTree("test", { x: 1 }), s.ArgumentError);
  assert.throws(() => s.flattenTree("test", { x: new Map() }, { statics: true }), /an object of Map at x/);
  const key = (value: unknown) => s.flattenTree("test", value, { statics: true }).key;
  assert.notEqual(key({ x: 1 }), key({ x: "1" }));
  assert.notEqual(key([a, [b]]), key([[a], b]));
  assert.notEqual(key({ x: a }), key({ y: a }));
  assert.notEqual(key(0), key(-0));
  assert.equal(key({ x: a, n: 3 }), key({ x: b, n: 3 }));
});

test("gradients of trees", async () => {
  const parameters = { w: tensor([[1, 2]]), b: [tensor(3)] };
  const f = ({ w, b }: typeof parameters) => w.square().sum().mul(b[0]!).add(b[0]!);
  const gradient = s.grad(f(parameters), parameters);
  assert.deepEqual(await gradient.w.array(), [[6, 12]]);
  assert.equal(await gradient.b[0]!.item(), 6);
  const [value, again] = s.valueAndGrad(f)(parameters);
  assert.equal(await value.item(), 18);
  assert.deepEqual(await again.w.array(), [[6, 12]]);
  assert.deepEqual(s.grad(f(parameters), []), []);
  assert.deepEqual(await s.grad(f(parameters), tensor([1])).array(), [0]);
  assert.throws(() => s.grad(tensor([1, 2]), parameters), s.GradientError);
  assert.throws(() => s.grad(tensor(1), [tensor([1], { dtype: "i32" })]), s.GradientError);
  assert.throws(() => s.grad({} as Tensor, parameters), s.ArgumentError);
});

test("vjp, jvp and second derivatives", async () => {
  const x = tensor([0.5, -1.5, 2]);
  const f = (y: Tensor) => y.square().mul(y).sum().reshape([1]);
  const [value, [back]] = s.vjp(([y]: [Tensor]) => f(y), [x] as [Tensor], tensor([2]));
  assertClose(await value.data(), [0.125 - 3.375 + 8]);
  assertClose(await back.data(), [1.5, 13.5, 24]);
  const [, forward] = s.jvp((y: Tensor) => y.square(), x, tensor([1, 0, -1]));
  assertClose(await forward.data(), [1, 0, -4]);
  const [, constant] = s.jvp((_: Tensor) => tensor([1, 2]), x, tensor([1, 1, 1]));
  assertClose(await constant.data(), [0, 0]);
  const [first] = s.grad(f(x).sum(), [x]);
  const [second] = s.grad(first.sum(), [x]);
  assertClose(await second.data(), [3, -9, 12]);
  assert.throws(() => s.vjp((y: Tensor) => y, x, tensor([1])), s.ShapeError);
  assert.throws(() => s.jvp((y: Tensor) => y, x, tensor([1])), s.ShapeError);
});

/** Composed ops, each smooth at the points where it is checked. */
const smooth: Record<string, { shapes: number[][]; f: (...x: Tensor[]) => Tensor }> = {
  softmax: { shapes: [[2, 3]], f: (x) => x.softmax() },
  logSoftmax: { shapes: [[2, 3]], f: (x) => x.logSoftmax({ axis: 0 }) },
  logSumExp: { shapes: [[2, 3]], f: (x) => x.logSumExp({ axis: 1 }) },
  sigmoid: { shapes: [[5]], f: (x) => x.sigmoid() },
  softplus: { shapes: [[5]], f: (x) => x.softplus() },
  silu: { shapes: [[5]], f: (x) => x.silu() },
  gelu: { shapes: [[5]], f: (x) => x.gelu() },
  geluTanh: { shapes: [[5]], f: (x) => x.gelu({ approximate: "tanh" }) },
  matmul: { shapes: [[2, 1, 3, 2], [2, 2, 3]], f: (x, y) => x.matmul(y) },
  vectors: { shapes: [[3], [3]], f: (x, y) => x.dot(y) },
  einsum: { shapes: [[2, 3], [3, 3]], f: (x, y) => s.einsum("ij,jj->i", x, y) },
  variance: { shapes: [[2, 4]], f: (x) => x.variance({ axis: 1, correction: 1 }) },
  std: { shapes: [[2, 4]], f: (x) => x.std({ axis: 1 }) },
  norm: { shapes: [[2, 4]], f: (x) => x.norm({ axis: 0 }) },
  mean: { shapes: [[2, 4]], f: (x) => x.mean({ axis: 0 }) },
  pow: { shapes: [[4]], f: (x) => x.pow(3).add(x.square().add(1).pow(-2)) },
  clamp: { shapes: [[6]], f: (x) => x.clamp({ min: -0.5, max: 0.5 }) },
  cumsum: { shapes: [[2, 5]], f: (x) => x.cumsum() },
  cumprod: { shapes: [[5]], f: (x) => x.cumprod() },
  longCumsum: { shapes: [[140]], f: (x) => x.cumsum().slice({ step: 35 }) },
  longCumprod: { shapes: [[140]], f: (x) => x.mul(0.02).add(1).cumprod().slice({ step: 35 }) },
  sort: { shapes: [[2, 4]], f: (x) => x.sort({ descending: true }) },
  take: { shapes: [[4, 2]], f: (x) => x.take(tensor([3, 0, 3], { dtype: "i32" })) },
  scatterAdd: {
    shapes: [[3], [4]],
    f: (x, y) => x.square().scatterAdd(tensor([0, 2, 0, 5], { dtype: "i32" }), y, { axis: 0 }),
  },
  scatterMax: {
    shapes: [[3], [4]],
    f: (x, y) => x.square().scatterMax(tensor([0, 2, 0, 5], { dtype: "i32" }), y, { axis: 0 }).square(),
  },
  movement: {
    shapes: [[2, 3]],
    f: (x) => x.pad(1).flip(0).repeat(2).tile([2, 1]).slice([{ start: 1, step: 2 }, { end: -1 }]),
  },
  where: { shapes: [[4], [4]], f: (x, y) => s.where(x.greater(0), x.mul(y), y.square()) },
};
for (const [name, { shapes, f }] of Object.entries(smooth)) {
  test(`the gradient of ${name}, and its gradient, agree with finite differences`, () => {
    const inputs = shapes.map((shape) => placeholder(shape, "f32"));
    const given = new Map(
      inputs.map((x, k) => [x.node, Array.from({ length: x.size }, (_, i) => 0.1 + 1.1 * Math.sin(2.7 * i + k + 0.3))]),
    );
    const output = f(...inputs).node;
    // Constants that the op holds are on the host.
    for (const [leaf, values] of hostLeaves(output)) given.set(leaf, values);
    checkGradients(output, inputs.map((x) => x.node), given, { order: 2, tolerance: 2e-5 });
  });
}

function hostLeaves(root: Tensor["node"]): Map<Tensor["node"], number[]> {
  const leaves = new Map<Tensor["node"], number[]>();
  for (const node of toposort([root])) if (node.op === "storage") leaves.set(node, Array.from(storageOf(node).host!));
  return leaves;
}

onEachDevice("gradients at corners are those that are stated", async (device) => {
  const at = async (f: (x: Tensor) => Tensor, ...values: number[]) => {
    const x = tensor(values, { device });
    return [...await s.grad(f(x).sum(), x).data()];
  };
  assert.deepEqual(await at((x) => x.norm(), 0, 0), [0, 0]);
  assert.deepEqual(await at((x) => x.std(), 2, 2), [0, 0]);
  assertClose(await at((x) => x.sigmoid(), 0, -200, 200), [0.25, 0, 0]);
  assertClose(await at((x) => x.softplus(), 0, -200, 200), [0.5, 0, 1]);
  assert.deepEqual(await at((x) => x.relu(), 0, -1, 1), [0, 0, 1]);
  assert.deepEqual(await at((x) => x.detach().mul(x), 3), [3]);
  // Two equal ones and what was there; one alone; none; out of range.
  const bins = tensor([0, 0, 1, 2, 7, 0], { dtype: "i32", device });
  const largest = (x: Tensor) =>
    tensor([3, -1, 2], { device }).scatterMax(bins, x, { axis: 0 }).mul(tensor([6, 7, 8], { device }));
  const values = [3, 3, 0, 1, 9, 2];
  assertClose(await at(largest, ...values), [2, 2, 7, 0, 0, 0]);
  const compiled = s.compile((x: Tensor) => s.grad(largest(x).sum(), x));
  assertClose(await (await compiled(tensor(values, { device }))).data(), [2, 2, 7, 0, 0, 0]);
});

test("an alias follows its base until it is assigned to", async () => {
  const base = tensor([1, 2, 3, 4, 5]);
  const part = s.zeros([2, 2]);
  part.aliasOf(base, 1);
  assert.deepEqual(await part.array(), [[2, 3], [4, 5]]);
  assert.deepEqual(part.alias, { base, offset: 1 });
  const before = part.add(0);
  base.assign(base.mul(10));
  assert.deepEqual(await part.array(), [[20, 30], [40, 50]]);
  assert.deepEqual(await before.array(), [[2, 3], [4, 5]], "a value is fixed when it is made");
  assert.deepEqual(await s.grad(part.square().sum(), part).array(), [[40, 60], [80, 100]]);
  assert.deepEqual(await s.grad(part.square().sum(), base).array(), [0, 40, 60, 80, 100]);
  part.assign(7);
  assert.equal(part.alias, undefined);
  assert.deepEqual(await part.array(), [[7, 7], [7, 7]]);
  assert.deepEqual(await base.array(), [10, 20, 30, 40, 50]);
  assert.throws(() => part.aliasOf(base, 2), s.ShapeError);
});

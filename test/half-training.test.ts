/** f16 beyond single ops: gradients, state that is assigned, files, batches, and several devices. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DecompositionError, GradientError } from "../src/errors.ts";
import { toHalfBits } from "../src/graph/half.ts";
import {
  compile,
  data,
  explain,
  grad,
  io,
  jvp,
  nn,
  optim,
  parallel,
  random,
  type Tensor,
  tensor,
  vjp,
} from "../src/index.ts";
import { assertClose, onEachDevice, testKinds, virtualDevices } from "./harness.ts";

onEachDevice("a gradient has the dtype of its tensor, and is rounded once", async (device) => {
  const x = tensor([1.5, -2, 3], { dtype: "f16", device });
  const w = tensor([0.1, 0.2, 0.3], { device });
  const loss = x.mul(w).sum().add(x.transpose().square().sum());
  const [byX, byW] = grad(loss, [x, w]) as [Tensor, Tensor];
  assert.deepEqual([byX.dtype, byW.dtype], ["f16", "f32"]);
  assertClose(await byX.data(), [3.1, -3.8, 6.3], { rtol: 2 ** -11 });
  assert.deepEqual(await byW.array(), [1.5, -2, 3]);

  // A cotangent of 1e-9 is no half, but comes through one: only what a user holds is rounded.
  const small = grad(w.cast("f16").reshape([3, 1]).cast("f32").mul(1e-9).sum(), w);
  assert.equal(small.dtype, "f32");
  assertClose(await small.data(), [1e-9, 1e-9, 1e-9], { atol: 0 });
  // And it does not overflow on the way.
  const large = grad(w.cast("f16").mul(1e30).sum().mul(1e-30), w);
  assertClose(await large.data(), [1, 1, 1]);

  // Through every kind of movement, and twice.
  const moved = (t: Tensor) =>
    t.reshape([1, 3]).pad([[0, 0], [1, 0]]).flip().slice({ axis: 1, start: 1 }).broadcastTo([2, 3]).take(
      tensor([1, 0, 1], { dtype: "i32" }),
    );
  const [half] = grad(moved(x).cast("f32").pow(3).sum(), [x]) as [Tensor];
  const wide = x.cast("f32").detach();
  const [full] = grad(moved(wide).pow(3).sum(), [wide]) as [Tensor];
  assert.equal(half.dtype, "f16");
  assertClose(await half.data(), await full.data(), { rtol: 2 ** -11 });
  const second = grad(grad(x.pow(3).sum(), x).sum(), x);
  assert.equal(second.dtype, "f16");
  assert.deepEqual(await second.array(), [9, -12, 18]);
  assert.throws(() => grad(tensor([1], { dtype: "i32" }).sum(), x), GradientError);
});

onEachDevice("vjp and jvp take and give halves", async (device) => {
  const x = tensor([1, 2], { dtype: "f16", device });
  const square = (t: Tensor) => t.square().cast("f16");
  const [value, pulled] = vjp(square, x, tensor([1, 10], { device }));
  assert.deepEqual([value.dtype, pulled.dtype], ["f16", "f16"]);
  assert.deepEqual(await pulled.array(), [2, 40]);
  const [, pushed] = jvp(square, x, tensor([1, 10], { dtype: "f16", device }));
  assert.equal(pushed.dtype, "f16");
  assert.deepEqual(await pushed.array(), [2, 40]);
});

onEachDevice("halves are state of compiled functions, updated in place", async (device) => {
  const state = tensor([1, 2, 3], { dtype: "f16", device });
  const step = compile((x: Tensor) => {
    state.assign(state.mul(2).add(x).cast("f16"));
    return state.sum();
  });
  const totals: number[] = [];
  for (let i = 0; i < 4; i++) {
    totals.push(await (await step(tensor([0.5, 0.25, 0.125], { dtype: "f16", device }))).item());
  }
  assert.deepEqual(totals, [12.875, 26.625, 54.125, 109.125]);
  assert.equal(state.dtype, "f16");
  assert.deepEqual(await state.array(), [23.5, 35.75, 49.875]);
});

test("files hold halves as they are, and what a module keeps in f32 takes them", async () => {
  const values = [0, -0, 1, 65504, 2 ** -24, Infinity, -Infinity, NaN, 0.1];
  const tensors = {
    half: tensor(values, { dtype: "f16" }),
    flags: tensor([true]),
    odd: tensor([[1, 2, 3]], { dtype: "f16" }),
    whole: tensor([1, 2]),
    none: tensor([], { dtype: "f16" }),
  };
  const file = await io.encode(tensors);
  const header = new TextDecoder().decode(
    file.subarray(8, 8 + Number(new DataView(file.buffer).getBigUint64(0, true))),
  );
  assert.deepEqual(JSON.parse(header), {
    whole: { dtype: "F32", shape: [2], data_offsets: [0, 8] },
    half: { dtype: "F16", shape: [9], data_offsets: [8, 26] },
    none: { dtype: "F16", shape: [0], data_offsets: [26, 26] },
    odd: { dtype: "F16", shape: [1, 3], data_offsets: [26, 32] },
    flags: { dtype: "BOOL", shape: [1], data_offsets: [32, 33] },
  });
  const from = file.length - 33 + 8;
  assert.deepEqual(new Uint16Array(file.slice(from, from + 18).buffer), Uint16Array.from(values, toHalfBits));
  const loaded = io.decode(file);
  for (const [name, x] of Object.entries(tensors)) {
    assert.deepEqual([loaded[name]!.dtype, loaded[name]!.shape], [x.dtype, x.shape], name);
    assert.deepEqual(await loaded[name]!.data(), await x.data(), name);
  }

  const model = nn.linear(2, 3);
  const halves = Object.fromEntries(Object.entries(model.stateDict()).map(([path, x]) => [path, x.cast("f16")]));
  const other = nn.linear(2, 3).loadStateDict(io.decode(await io.encode(halves)));
  assert.equal(other.weight.dtype, "f32");
  assert.deepEqual(await other.weight.data(), await halves["weight"]!.data());
});

for (const kind of testKinds) {
  test(`halves are scattered, gathered, reduced and computed on several devices [${kind}]`, async (t) => {
    const three = await virtualDevices(kind, 3);
    if (three === undefined) return t.skip("no adapter");
    const values = Float32Array.from({ length: 35 }, (_, i) => i / 8 - 2);
    const x = tensor(values, { shape: [7, 5], dtype: "f16" });
    const shards = parallel.scatter(x, three, { axis: 0 });
    assert.deepEqual(shards.map(({ dtype, shape }) => [dtype, ...shape]), [["f16", 3, 5], ["f16", 2, 5], [
      "f16",
      2,
      5,
    ]]);
    const whole = parallel.gather(shards, { axis: 0 });
    assert.deepEqual([whole.dtype, ...await whole.data()], ["f16", ...values]);
    const mean = await parallel.reduce(shards.map((shard) => shard.sum({ axis: 0 }).cast("f16")), {
      weights: [3, 2, 2],
    });
    assert.equal(mean.dtype, "f16");

    // A sum of parts that are rounded is not the rounded sum.
    const sums = parallel.replicate((rows: Tensor) => rows.sum({ axis: 0 }).cast("f16"), three);
    await assert.rejects(sums(x), DecompositionError);

    const model = nn.linear(5, 3);
    const predict = parallel.replicate((rows: Tensor) => ({
      half: model.forward(rows).cast("f16"),
      one: rows.sum({ axis: 1 }).cast("f16"),
      full: model.forward(rows),
    }), three);
    for (const batch of [x, data.array(values, { shape: [7, 5], dtype: "f16" })]) {
      const { half, one, full } = await predict(batch as Tensor);
      assert.deepEqual([half.dtype, one.dtype, full.dtype], ["f16", "f16", "f32"]);
      assertClose(await full.data(), await model.forward(x.cast("f32")).data(), { rtol: 1e-5 });
      assertClose(await half.data(), await full.data(), { rtol: 2 ** -11, atol: 2 ** -24 });
      assertClose(await one.data(), await x.sum({ axis: 1 }).data(), { rtol: 2 ** -11 });
    }
  });

  test(`a model of f32 weights trains on halves, with activations that are stored as such [${kind}]`, async (t) => {
    const devices = await virtualDevices(kind, 2);
    if (devices === undefined) return t.skip("no adapter");
    const points = Float32Array.from({ length: 200 }, (_, i) => Math.sin(12.9898 * i));
    const labels = Int32Array.from({ length: 100 }, (_, i) => points[2 * i]! > points[2 * i + 1]! ? 1 : 0);
    const half = nn.cast("f16");
    random.seed(3);
    const trainer = nn.trainer(nn.sequential(nn.linear(2, 16), half, nn.relu(), half, nn.linear(16, 2), half), {
      loss: (output, batch) => nn.crossEntropy(output, batch.y),
      metrics: { accuracy: (output, batch) => nn.accuracy(output, batch.y) },
      optimizer: optim.adam({ learningRate: 0.02 }),
      devices,
      seed: 3,
    });
    const batches = data.batches({ x: data.array(points, { shape: [100, 2], dtype: "f16" }), y: labels }, {
      batchSize: 25,
      shuffle: 3,
    });
    await trainer.fit(batches, { epochs: 12, progress: "none" });
    const scores = await trainer.evaluate(batches);
    assert.ok(scores.metrics["accuracy"]! > 0.9, `accuracy ${scores.metrics["accuracy"]}`);
    for (const parameter of trainer.model.parameters()) assert.equal(parameter.dtype, "f32");
  });
}

onEachDevice(
  "what a training step keeps of a layer and its relu is f16, and that needs no further kernel",
  async (device) => {
    const half = nn.cast("f16");
    const layers = (
      activation: readonly nn.Layer[],
    ) => [nn.linear(32, 64), ...activation, nn.linear(64, 64), ...activation, nn.linear(64, 8)];
    const kernels = async (dtype: "f32" | "f16", activation: readonly nn.Layer[]) => {
      random.seed(1);
      const model = nn.sequential(...layers(activation)).to(device);
      const step = (x: Tensor) => {
        const loss = model.forward(x).square().mean();
        return [loss, ...grad(loss, model.parameters())];
      };
      const x = random.normal([128, 32]).to(device).cast(dtype);
      return {
        kernels: (await explain(step, x)).kernels,
        values: await Promise.all((await compile(step)(x)).map((y) => y.data())),
      };
    };
    const [full, halves] = [await kernels("f32", [nn.relu()]), await kernels("f16", [half, nn.relu(), half])];
    assert.equal(halves.kernels.length, full.kernels.length);
    const activations = halves.kernels.slice(0, 2).flatMap(({ writes }) => writes);
    assert.deepEqual(activations.map(({ dtype, shape }) => [dtype, ...shape]), [["f16", 128, 64], ["f16", 128, 64]]);
    // Rounding is all that differs, and now and then whether an activation near 0 is positive.
    const norm = (values: readonly number[]) => Math.hypot(...values);
    full.values.forEach((values, i) => {
      const error = norm(Array.from(values, (x, k) => x - halves.values[i]![k]!)) / norm(Array.from(values));
      assert.ok(error < 0.02, `result ${i}: a relative error of ${error}`);
    });
  },
);

onEachDevice("state in f16 that a model assigns is the same on all devices", async (device) => {
  class Counter extends nn.Module {
    readonly total = nn.buffer(tensor([0, 0, 0], { dtype: "f16" }));
    readonly weight = nn.parameter(tensor([1, 2, 3]));
    override forward(x: Tensor): Tensor {
      this.total.assign(this.total.add(1).cast("f16"));
      return x.mul(this.weight);
    }
  }
  const model = new Counter();
  const trainer = nn.trainer(model, {
    loss: (output, batch) => nn.mse(output, batch.y),
    optimizer: optim.sgd({ learningRate: 0.01 }),
    devices: [device],
  });
  const x = data.array(Float32Array.from({ length: 12 }, (_, i) => i / 4), { shape: [4, 3], dtype: "f16" });
  for (let i = 0; i < 3; i++) await trainer.step({ x, y: x });
  assert.deepEqual(await model.total.array(), [3, 3, 3]);
  assert.equal(model.total.dtype, "f16");
});

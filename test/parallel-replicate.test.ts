/** Inference on many devices: all rows back, in order. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { ArgumentError, DecompositionError, DeviceError, ShapeError } from "../src/errors.ts";
import * as nn from "../src/nn/nn.ts";
import { mean } from "../src/parallel/decompose/mean.ts";
import { replicate } from "../src/parallel/predict/replicate.ts";
import { arange, concat, tensor } from "../src/tensor/create.ts";
import * as random from "../src/tensor/random.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { assertClose, testKinds, virtualDevices } from "./harness.ts";

const cpus = async (count: number) => (await virtualDevices("cpu", count))!;

for (const kind of testKinds) {
  test(`128 rows over three devices come back in order, as the model gives them on one [${kind}]`, async (t) => {
    const devices = await virtualDevices(kind, 3);
    if (devices === undefined) return t.skip("no adapter");
    const model = nn.sequential(nn.linear(4, 8), nn.relu(), nn.linear(8, 3));
    const x = arange(128 * 4, { dtype: "f32" }).reshape([128, 4]).mul(0.01).sin();
    const y = await replicate((x) => model.forward(x), devices)(x);
    assert.deepEqual(y.shape, [128, 3]);
    assertClose(await y.data(), await model.forward(x).data(), { rtol: 1e-4 });
    // The parameters are read anew at each call.
    model.parameters()[3]!.assign(tensor([1, 2, 3]));
    const later = await replicate((x: Tensor) => model.forward(x), devices)(x);
    assertClose(await later.data(), await model.forward(x).data(), { rtol: 1e-4 });
  });
}

test("several inputs and outputs of all dtypes, in trees", async () => {
  for (const count of [1, 3, 8]) {
    const run = replicate(({ a, more: [b, factor] }: { a: Tensor; more: readonly [Tensor, Tensor] }) => ({
      scaled: a.mul(factor),
      flags: [b.greater(2), b.cast("u32")] as const,
      turned: a.transpose(),
    }), await cpus(count));
    const { scaled, flags, turned } = await run({
      a: tensor([[1, 2], [3, 4], [5, 6], [7, 8]]),
      more: [arange(4), tensor(10)],
    });
    assert.deepEqual(await scaled.array(), [[10, 20], [30, 40], [50, 60], [70, 80]]);
    assert.deepEqual(await flags[0].array(), [false, false, false, true]);
    assert.deepEqual([flags[1].dtype, await flags[1].array()], ["u32", [0, 1, 2, 3]]);
    assert.deepEqual(await turned.array(), [[1, 3, 5, 7], [2, 4, 6, 8]]);
  }
});

test("declared means are combined by weight, sums are added, and what has no rows is given as it is", async () => {
  for (const count of [1, 2, 3, 7]) {
    const w = tensor([2, 4]);
    const run = replicate(({ x, weights }: { x: Tensor; weights: Tensor }) => ({
      mean: mean(x),
      weighted: mean(x, { weights }),
      sum: x.sum(),
      table: w.add(1),
    }), await cpus(count));
    const { mean: plain, weighted, sum, table } = await run({
      x: tensor([1, 2, 3, 4, 10]),
      weights: tensor([1, 0, 0, 0, 3]),
    });
    assertClose([await plain.item(), await weighted.item(), await sum.item()], [4, 7.75, 20]);
    assert.deepEqual(await table.array(), [3, 5]);
  }
});

test("a row of weight 0 contributes nothing to a declared mean, whatever it holds", async () => {
  for (const kind of testKinds) {
    for (const count of [1, 2]) {
      const devices = await virtualDevices(kind, count);
      if (devices === undefined) continue;
      const run = replicate(({ x, weights }: { x: Tensor; weights: Tensor }) => mean(x, { weights }), devices);
      const x = tensor([[1, 2], [NaN, Infinity], [3, -Infinity], [5, 6]]);
      assertClose(await (await run({ x, weights: tensor([1, 0, 0, 3]) })).data(), [4, 5]);
    }
  }
});

test("tokens: rows inside a longer axis stay in order", async () => {
  for (const count of [1, 3]) {
    const run = replicate((x: Tensor) => x.reshape([x.shape[0]! * 2, 2]).mul(2), await cpus(count));
    assert.deepEqual(
      await (await run(arange(20).reshape([5, 4]))).data(),
      Int32Array.from({ length: 20 }, (_, i) => 2 * i),
    );
  }
});

test("fewer rows than devices, none at all, and more than are let on the devices at one time", async () => {
  for (const n of [0, 1, 2, 10]) {
    for (const rowsAtOnce of [1, 4, Infinity]) {
      const run = replicate(
        (x: Tensor) => ({ y: x.add(1), total: x.sum(), constant: tensor([5]) }),
        await cpus(3),
        { rowsAtOnce },
      );
      const { y, total, constant } = await run(arange(n, { dtype: "f32" }));
      assert.deepEqual(await y.data(), Float32Array.from({ length: n }, (_, i) => i + 1));
      assert.deepEqual([await total.item(), await constant.item()], [n === 0 ? 0 : n * (n - 1) / 2, 5]);
    }
  }
});

test("random tensors like a batch do not depend on the number of devices", async () => {
  const noisy = (x: Tensor) => x.add(random.normalLike(x));
  const x = arange(9, { dtype: "f32" });
  const one = await (await replicate(noisy, await cpus(1), { seed: 3 })(x)).data();
  for (const count of [2, 4]) {
    assertClose(await (await replicate(noisy, await cpus(count), { seed: 3 })(x)).data(), one);
  }
  await assert.rejects(
    replicate((x: Tensor) => x.add(random.normal(x.shape)), await cpus(2))(x),
    DecompositionError,
  );
});

test("law: rows come back in order, whatever their number, the devices and the rows at once", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.nat(20),
      fc.integer({ min: 1, max: 8 }),
      fc.integer({ min: 1, max: 25 }),
      async (n, count, rowsAtOnce) => {
        const run = replicate((x: Tensor) => concat([x, x.mul(10)], { axis: 1 }), await cpus(count), {
          rowsAtOnce,
        });
        const y = await run(arange(n).reshape([n, 1]));
        assert.deepEqual(
          await y.data(),
          Int32Array.from({ length: 2 * n }, (_, i) => (i >> 1) * (i % 2 === 1 ? 10 : 1)),
        );
      },
    ),
    { numRuns: 25 },
  );
});

test("what mixes rows, and bad arguments, are errors", async () => {
  const devices = await cpus(2);
  const x = arange(6, { dtype: "f32" });
  const mixing: [op: string, fn: (x: Tensor) => Tensor][] = [
    ["expand", (x) => x.sub(x.sum({ axis: 0, keepDims: true }))],
    ["parallel.replicate", (x) => x.max()],
    ["slice", (x) => x.slice({ start: 0, end: 2 })],
    ["argsort", (x) => x.argsort()],
  ];
  for (const [op, fn] of mixing) {
    await assert.rejects(replicate(fn, devices)(x), (error: unknown) => {
      assert.ok(error instanceof DecompositionError, String(error));
      assert.equal(error.op, op);
      return true;
    });
  }
  await assert.rejects(replicate((x: Tensor) => x.mean(), devices)(x), DecompositionError);
  await assert.rejects(
    replicate(({ x, y }: { x: Tensor; y: Tensor }) => x.add(y), devices)({ x, y: arange(5) }),
    ShapeError,
  );
  await assert.rejects(replicate((x: Tensor) => x.reshape([7]), devices)(x), ShapeError);
  assert.throws(() => replicate((x: Tensor) => x, [devices[0]!, devices[0]!]), DeviceError);
  assert.throws(() => replicate((x: Tensor) => x, []), ArgumentError);
  assert.throws(() => replicate((x: Tensor) => x, devices, { rowsAtOnce: 0 }), ArgumentError);
});

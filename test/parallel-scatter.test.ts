/** Scatter, gather and reduce. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { ArgumentError, DeviceError, DTypeError, ShapeError } from "../src/errors.ts";
import type { DType } from "../src/graph/dtype.ts";
import { gather } from "../src/parallel/collectives/gather.ts";
import { reduce } from "../src/parallel/collectives/reduce.ts";
import { scatter } from "../src/parallel/collectives/scatter.ts";
import { shardSizes } from "../src/parallel/split/shard-sizes.ts";
import { arange, tensor } from "../src/tensor/create.ts";
import { grad } from "../src/tensor/transform/grad.ts";
import { testKinds, virtualDevices } from "./harness.ts";

const cpus = async (count: number) => (await virtualDevices("cpu", count))!;

for (const kind of testKinds) {
  test(`a batch of 128 goes to three devices as 43, 43 and 42 rows, and comes back [${kind}]`, async (t) => {
    const devices = await virtualDevices(kind, 3);
    if (devices === undefined) return t.skip("no adapter");
    const x = arange(256, { dtype: "f32" }).reshape([128, 2]);
    const shards = scatter(x, devices);
    assert.deepEqual(shards.map((shard) => shard.shape), [[43, 2], [43, 2], [42, 2]]);
    assert.deepEqual(shards.map((shard) => shard.device), devices);
    const whole = gather(shards);
    assert.equal(whole.device, devices[0]);
    assert.deepEqual(await whole.data(), Float32Array.from({ length: 256 }, (_, i) => i));
    const last = gather(shards, { device: devices[2]! });
    assert.equal(last.device, devices[2]);
    assert.deepEqual(await last.data(), await whole.data());
  });
}

test("law: gather of scatter is the tensor, for every shape, axis, number of shards and dtype", async () => {
  const shape = fc.array(fc.nat(5), { minLength: 1, maxLength: 3 });
  const dtype = fc.constantFrom<DType>("f32", "i32", "u32", "bool");
  await fc.assert(
    fc.asyncProperty(
      shape,
      fc.nat(2),
      fc.integer({ min: 1, max: 8 }),
      dtype,
      async (shape, at, parts, dtype) => {
        const axis = at % shape.length;
        const length = shape.reduce((a, b) => a * b, 1);
        const values = Array.from({ length }, (_, i) => dtype === "bool" ? i % 3 % 2 : i * 7 % 11);
        const x = tensor(values, { shape, dtype });
        const shards = scatter(x, await cpus(parts), { axis });
        assert.deepEqual(shards.map((shard) => shard.shape[axis]), shardSizes(shape[axis]!, parts));
        const whole = gather(shards, { axis });
        assert.deepEqual([whole.shape, whole.dtype], [shape, dtype]);
        assert.deepEqual(await whole.data(), await x.data());
      },
    ),
    { numRuns: 40 },
  );
});

test("trees are cut leaf by leaf; scalars and what is named as replicated go whole to each device", async () => {
  const devices = await cpus(3);
  const tree = { x: arange(4), many: [arange(8).reshape([4, 2]), tensor(5)], table: arange(2) };
  const shards = scatter(tree, devices, { replicated: ["table"] });
  assert.deepEqual(
    shards.map(({ x, many, table }) => [x.shape, many[0]!.shape, many[1]!.shape, table.shape]),
    [
      [[2], [2, 2], [], [2]],
      [[1], [1, 2], [], [2]],
      [[1], [1, 2], [], [2]],
    ],
  );
  const whole = gather(shards, { replicated: ["table"] });
  assert.deepEqual(await whole.many[0]!.array(), [[0, 1], [2, 3], [4, 5], [6, 7]]);
  assert.deepEqual(await whole.many[1]!.array(), 5);
  assert.deepEqual(await whole.table.array(), [0, 1]);
});

test("capacities decide the sizes", async () => {
  const shards = scatter(arange(10), await cpus(2), { capacities: [3, 1] });
  assert.deepEqual(shards.map((shard) => shard.shape), [[8], [2]]);
  const devices = await cpus(2);
  assert.throws(() => scatter(arange(10), devices, { capacities: [1] }), ArgumentError);
});

test("a gradient flows through scatter and gather", async () => {
  const x = arange(5, { dtype: "f32" });
  const [g] = grad(gather(scatter(x, await cpus(2))).square().sum(), [x]);
  assert.deepEqual(await g!.array(), [0, 2, 4, 6, 8]);
});

test("what does not fit together is an error with what it got", async () => {
  const devices = await cpus(2);
  assert.throws(() => scatter({ x: arange(4), y: arange(3) }, devices), (error: unknown) => {
    assert.ok(error instanceof ShapeError);
    assert.match(error.got, /x \[4\], y \[3\]/);
    return true;
  });
  assert.throws(() => scatter(arange(4), devices, { axis: 1 }), ShapeError);
  assert.throws(() => scatter(arange(4), [devices[0]!, devices[0]!]), DeviceError);
  assert.throws(() => scatter(arange(4), []), ArgumentError);
  assert.throws(() => scatter({ x: arange(4) }, devices, { replicated: ["y"] }), ArgumentError);
  assert.throws(() => gather([]), ArgumentError);
  assert.throws(
    () => gather([{ x: arange(4) }, { y: arange(4) }] as { x: ReturnType<typeof arange> }[]),
    ArgumentError,
  );
  assert.throws(() => gather([arange(4), arange(4).reshape([2, 2])]), ShapeError);
  assert.throws(() => gather([arange(4), arange(4, { dtype: "f32" })]), DTypeError);
});

for (const kind of testKinds) {
  test(`reduce: the weighted mean of shards, and their sum [${kind}]`, async (t) => {
    const devices = await virtualDevices(kind, 3);
    if (devices === undefined) return t.skip("no adapter");
    // Gradients of the shards' means for x = 1..7, loss mean((w x)^2): 28/3, 41, 85.
    const on = (i: number, values: number[]) => tensor(values, { device: devices[i]! });
    const shards = [on(0, [28 / 3, 1]), on(1, [41, 1]), on(2, [85, 1])];
    const mean = await reduce(shards, { weights: [3, 2, 2] });
    assert.deepEqual(await mean.array(), [40, 1]);
    assert.deepEqual(await (await reduce(shards, { op: "sum" })).array(), [
      Math.fround(Math.fround(28 / 3) + 41 + 85),
      3,
    ]);
    const masked = await reduce([on(0, [10]), on(1, [NaN]), on(2, [4])], { weights: [1, 0, 2] });
    assert.deepEqual(await masked.array(), [6]);
    const trees = await reduce([{ a: on(0, [1]), b: [on(0, [2])] }, { a: on(1, [3]), b: [on(1, [4])] }], {
      weights: [1, 1],
    });
    assert.deepEqual([await trees.a.array(), await trees.b[0]!.array()], [[2], [3]]);
  });
}

test("reduce refuses what has no meaning", async () => {
  const shards = [tensor([1]), tensor([2])];
  for (const weights of [[1], [0, 0], [1, -1], [NaN, 1], [Infinity, 1]]) {
    await assert.rejects(reduce(shards, { weights }), ArgumentError);
  }
  await assert.rejects(reduce([], { op: "sum" }), ArgumentError);
  await assert.rejects(reduce([tensor([1]), tensor([1, 2])], { op: "sum" }), ShapeError);
  await assert.rejects(reduce([arange(2), arange(2)], { weights: [1, 1] }), DTypeError);
  assert.deepEqual(await (await reduce([arange(2), arange(2)], { op: "sum" })).data(), Int32Array.of(0, 2));
});

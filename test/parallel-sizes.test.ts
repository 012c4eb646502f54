/** How rows are cut into shards. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { ArgumentError } from "../src/errors.ts";
import { shardOffsets, shardSizes } from "../src/parallel/split/shard-sizes.ts";

const sum = (list: readonly number[]) => list.reduce((a, b) => a + b, 0);

test("the remainder goes to the first shards, one row each", () => {
  const cases: [n: number, parts: number, sizes: number[]][] = [
    [128, 3, [43, 43, 42]],
    [96, 3, [32, 32, 32]],
    [7, 3, [3, 2, 2]],
    [10, 4, [3, 3, 2, 2]],
    [9, 4, [3, 2, 2, 2]],
    [5, 4, [2, 1, 1, 1]],
    [3, 4, [1, 1, 1, 0]],
    [0, 3, [0, 0, 0]],
    [4, 1, [4]],
  ];
  for (const [n, parts, sizes] of cases) assert.deepEqual(shardSizes(n, parts), sizes, `${n} over ${parts}`);
});

test("with capacities, sizes follow the largest remainders", () => {
  assert.deepEqual(shardSizes(10, { capacities: [3, 1] }), [8, 2]);
  assert.deepEqual(shardSizes(10, { capacities: [1, 3] }), [3, 7]);
  assert.deepEqual(shardSizes(7, { capacities: [1, 1, 1] }), [3, 2, 2]);
  assert.deepEqual(shardSizes(1, { capacities: [0, 0, 5] }), [0, 0, 1]);
  assert.deepEqual(shardSizes(0, { capacities: [1, 2] }), [0, 0]);
  assert.deepEqual(shardSizes(100, { capacities: [1e308, 1e308] }), [50, 50]);
});

test("what cannot be cut is an error that says what it got", () => {
  for (const n of [-1, 1.5, NaN, Infinity]) assert.throws(() => shardSizes(n, 3), ArgumentError);
  for (const parts of [0, -1, 2.5, NaN]) assert.throws(() => shardSizes(7, parts), ArgumentError);
  for (const capacities of [[], [0, 0], [1, -1], [NaN, 1], [Infinity, 1]]) {
    assert.throws(() => shardSizes(7, { capacities }), (error: unknown) => {
      assert.ok(error instanceof ArgumentError);
      assert.equal(error.op, "parallel.shardSizes");
      assert.match(error.got, /capacities \[/);
      return true;
    });
  }
});

test("law: sizes add up, are balanced, and come larger ones first", () => {
  fc.assert(fc.property(fc.nat(10_000), fc.integer({ min: 1, max: 64 }), (n, parts) => {
    const sizes = shardSizes(n, parts);
    assert.equal(sizes.length, parts);
    assert.equal(sum(sizes), n);
    assert.ok(Math.max(...sizes) - Math.min(...sizes) <= 1);
    assert.deepEqual(sizes, [...sizes].sort((a, b) => b - a));
    const offsets = shardOffsets(sizes);
    assert.equal(offsets[0], 0);
    for (let i = 1; i < parts; i++) assert.equal(offsets[i], offsets[i - 1]! + sizes[i - 1]!);
  }));
});

test("law: sizes by capacity add up, are within one of the ideal share, and equal capacities are an even cut", () => {
  const capacity = fc.oneof(
    fc.constant(0),
    fc.integer({ min: 1, max: 100 }),
    fc.double({ min: 1e-9, max: 1e9, noNaN: true }),
  );
  fc.assert(
    fc.property(fc.nat(10_000), fc.array(capacity, { minLength: 1, maxLength: 16 }), (n, capacities) => {
      fc.pre(capacities.some((c) => c > 0));
      const sizes = shardSizes(n, { capacities });
      assert.equal(sum(sizes), n);
      capacities.forEach((c, i) => {
        assert.ok(Math.abs(sizes[i]! - (n * c) / sum(capacities)) < 1 + 1e-6, `${sizes} for ${capacities}`);
        if (c === 0) assert.equal(sizes[i], 0);
      });
      const even = capacities.map(() => capacities.find((c) => c > 0)!);
      assert.deepEqual(shardSizes(n, { capacities: even }), shardSizes(n, even.length));
    }),
  );
});

/** Every reduction on every device against the interpreter. */
import assert from "node:assert/strict";
import * as g from "../src/graph/build.ts";
import type { DType } from "../src/graph/dtype.ts";
import type { Node } from "../src/graph/node.ts";
import { type ReductionName, reductions } from "../src/graph/ops.ts";
import { type Shape, size } from "../src/graph/shape.ts";
import { Batch, type Comparison, ulp } from "./batch.ts";
import { onEachDevice } from "./harness.ts";

const names = Object.keys(reductions) as ReductionName[];

/** How far n terms of at most 2 may be off in f32, whatever their order; what finds an element finds it exactly. */
const tolerances: Record<ReductionName, (terms: number) => Comparison> = {
  sum: (n) => ({ atol: 2 * n * ulp, rtol: n * ulp }),
  prod: (n) => ({ atol: 1.2e-38, rtol: n * ulp }),
  amax: () => ({}),
  amin: () => ({}),
};

/** Values near ±1, so that a product neither vanishes nor explodes; integers that overflow both. */
function values(count: number, dtype: DType): number[] {
  return Array.from({ length: count }, (_, i) => {
    const x = Math.sin(12.9898 * i + 1);
    return dtype === "f32"
      ? Math.sign(x) * (1 + 0.3 * Math.sin(3.7 * i))
      : dtype === "i32"
      ? Math.floor(x * 2147483647)
      : Math.floor((x + 1) * 2147483647) + 2;
  });
}

/** All sets of axes but the empty one. */
function axisSets(rank: number): number[][] {
  return Array.from(
    { length: 2 ** rank - 1 },
    (_, i) => [...new Array(rank).keys()].filter((axis) => (i + 1) & (1 << axis)),
  );
}

function check(batch: Batch, op: ReductionName, x: Node, axes: readonly number[], what = "", own?: Comparison): void {
  const terms = size(axes.map((axis) => x.shape[axis]!));
  const comparison = own ?? (x.dtype === "f32" ? tolerances[op](terms) : {});
  batch.check(`${op} of ${x.dtype} [${x.shape}] over [${axes}]${what}`, g.reduce(op, x, axes), comparison);
}

// All reductions in one request: those that read the same share a kernel.
onEachDevice("reductions over every set of axes, of every dtype", async (device) => {
  const batch = new Batch();
  for (const op of names) assert.ok(tolerances[op] !== undefined, `no tolerance for ${op}`);
  const all: readonly [Shape, readonly DType[], readonly number[][]][] = [
    // Primes are read one by one, multiples of 4 in vectors, whose kernels drivers compile more slowly.
    [[5, 7, 11], ["f32"], axisSets(3)],
    [[5, 7, 11], ["i32", "u32"], [[0], [1, 2]]],
    [[5, 6, 8], ["f32"], [[0], [2]]],
    [[7, 1, 13], ["f32"], [[0, 1], [1]]],
    [[2, 3, 1, 5, 2], ["i32"], [[0, 2, 4], [1, 3], [0, 1, 2, 3, 4]]],
    [[2, 0, 3], ["f32", "i32", "u32"], axisSets(3)],
    [[1], ["f32", "i32", "u32"], [[0]]],
    [[257], ["f32"], [[0]]],
  ];
  for (const [shape, dtypes, sets] of all) {
    for (const dtype of dtypes) {
      const x = batch.leaf(shape, dtype, values(size(shape), dtype));
      for (const axes of sets) {
        for (const op of names) {
          if ((reductions[op].takes as readonly DType[]).includes(dtype)) check(batch, op, x, axes);
        }
      }
    }
  }
  await batch.run(device);
});

onEachDevice("reductions of views, of long axes, and of what is not finite", async (device) => {
  const batch = new Batch();
  const leaf = (shape: Shape, dtype: DType = "f32") => batch.leaf(shape, dtype, values(size(shape), dtype));
  const rows = (of: number[][], dtype: DType) => batch.leaf([of.length, of[0]!.length], dtype, of.flat());
  const x = leaf([6, 8, 5]);
  const cases: readonly [what: string, x: Node, axes: readonly number[]][] = [
    ["a transpose", g.permute(x, [2, 0, 1]), [0, 2]],
    ["a slice", g.slice(x, [5, 0, 4], [6, 4, 5], [-1, 2, -1]), [1]],
    ["a padded value", g.pad(x, [1, 0, 2], [0, 0, 1], 2), [0, 2]],
    ["repeats", g.expand(leaf([4, 1, 3]), [4, 3, 3]), [1]],
    ["repeated integers", g.expand(leaf([4, 1, 3], "i32"), [4, 3, 3]), [0, 1]],
    ["a reshaped transpose", g.reshape(g.permute(x, [1, 0, 2]), [16, 15]), [0]],
    ["a computed value", g.elementwise("neg", x), [0, 1, 2]],
    ["a long vector", leaf([1009]), [0]],
    ["long rows", leaf([5, 1009]), [1]],
    ["long columns", leaf([1009, 5]), [0]],
    ["very long rows", leaf([3, 20011], "i32"), [1]],
    ["infinities", rows([[Infinity, 1, 2], [-Infinity, 1, -2], [1, 2, Infinity], [-0, 0, -0]], "f32"), [1]],
    ["overflowing i32", rows([[2147483647, 1], [-2147483648, -1], [65536, 65536], [-1, -1]], "i32"), [1]],
    ["overflowing u32", rows([[4294967295, 1], [0, 4294967295], [65536, 65537], [2147483648, 2]], "u32"), [1]],
  ];
  for (const [what, x, axes] of cases) for (const op of names) check(batch, op, x, axes, ` of ${what}`);
  for (const op of names) check(batch, op, g.reduce(op, x, [1]), [0, 1], " of a reduction", tolerances[op](240));
  // A NaN comes through what adds and multiplies; what is largest beside one is not said.
  const odd = rows([[NaN, 1, 2], [1, 2, NaN], [Infinity, -Infinity, 1]], "f32");
  for (const op of ["sum", "prod"] as const) check(batch, op, odd, [1], " with NaN");
  await batch.run(device);
});

onEachDevice("what a long reduction is filled up with, to be cut into parts, changes no result", async (device) => {
  const batch = new Batch();
  // A prime, so that no number of parts divides it; each value on the far side of 0, or of what the others give.
  const prime = 8209;
  const of: Readonly<Record<ReductionName, readonly [value: number, other: number]>> = {
    sum: [1, -2],
    prod: [-1, 1],
    amax: [-3, -5],
    amin: [3, 5],
  };
  for (const op of names) {
    for (const [shape, axis] of [[[prime], 0], [[2, prime], 1], [[prime, 2], 0]] as const) {
      const x = batch.leaf(shape, "f32", Array.from({ length: size(shape) }, (_, i) => of[op][Number(i % 3 === 0)]!));
      check(batch, op, x, [axis]);
    }
  }
  await batch.run(device);
});

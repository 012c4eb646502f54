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
    return dtype === "f32" ? Math.sign(x) * (1 + 0.3 * Math.sin(3.7 * i)) : dtype === "i32" ? Math.floor(x * 2147483647) : Math.floor((x + 1) * 2147483647) + 2;
  });
}

/** All sets of axes but the empty one. */
function axisSets(rank: number): number[][] {
  return Array.from({ length: 2 ** rank - 1 }, (_, i) => [...new Array(rank).keys()].filter((axis) => (i + 1) & (1 << axis)));
}

function check(batch: Batch, op: ReductionName, x: Node, axes: readonly number[], what = "", own?: Comparison): void {
  const terms = size(axes.map((axis) => x.shape[axis]!));
  const comparison = own ?? (x.dtype === "f32" ? tolerances[op](terms) : {});
  batch.check(`${op} of ${x.dtype} [${x.shape}] over [${axes}]${what}`, g.reduce(op, x, axes), comparison);
}

for (const op of names) {
  onEachDevice(`${op} over every set of axes, of every dtype`, async (device) => {
    assert.ok(tolerances[op] !== undefined, `no tolerance for ${op}`);
    const batch = new Batch();
    const leaf = (shape: Shape, dtype: DType) => batch.leaf(shape, dtype, values(size(shape), dtype));
    const all: readonly [Shape, readonly DType[]][] = [
      [[3, 5, 4], reductions[op].takes],
      [[7, 1, 13], ["f32"]],
      [[2, 3, 1, 5, 2], ["i32"]],
      [[2, 0, 3], reductions[op].takes],
      [[1], reductions[op].takes],
      [[257], reductions[op].takes],
    ];
    for (const [shape, dtypes] of all) {
      for (const dtype of dtypes) {
        const x = leaf(shape, dtype);
        for (const axes of axisSets(shape.length)) if (shape.length < 5 || axes.length !== 2) check(batch, op, x, axes);
      }
    }
    await batch.run(device);
  });

  onEachDevice(`${op} of views, of long axes, and of what is not finite`, async (device) => {
    const batch = new Batch();
    const leaf = (shape: Shape, dtype: DType = "f32") => batch.leaf(shape, dtype, values(size(shape), dtype));
    const x = leaf([6, 8, 5]);
    check(batch, op, g.permute(x, [2, 0, 1]), [0, 2], " of a transpose");
    check(batch, op, g.slice(x, [5, 0, 4], [6, 4, 5], [-1, 2, -1]), [1], " of a slice");
    check(batch, op, g.pad(x, [1, 0, 2], [0, 0, 1], 2), [0, 2], " of a padded value");
    check(batch, op, g.expand(leaf([4, 1, 3]), [4, 3, 3]), [1], " of repeats");
    check(batch, op, g.expand(leaf([4, 1, 3], "i32"), [4, 3, 3]), [0, 1], " of repeated integers");
    check(batch, op, g.reshape(g.permute(x, [1, 0, 2]), [16, 15]), [0], " of a reshaped transpose");
    check(batch, op, g.elementwise("neg", x), [0, 1, 2], " of a computed value");
    check(batch, op, g.reduce(op, x, [1]), [0, 1], " of a reduction", tolerances[op](240));
    check(batch, op, leaf([1009]), [0], "");
    check(batch, op, leaf([5, 1009]), [1], "");
    check(batch, op, leaf([1009, 5]), [0], "");
    check(batch, op, leaf([3, 20011], "i32"), [1], "");
    const rows = (of: number[][], dtype: DType) => batch.leaf([of.length, of[0]!.length], dtype, of.flat());
    check(batch, op, rows([[Infinity, 1, 2], [-Infinity, 1, -2], [1, 2, Infinity], [-0, 0, -0]], "f32"), [1], " of infinities");
    check(batch, op, rows([[2147483647, 1], [-2147483648, -1], [65536, 65536], [-1, -1]], "i32"), [1], " of overflowing integers");
    check(batch, op, rows([[4294967295, 1], [0, 4294967295], [65536, 65537], [2147483648, 2]], "u32"), [1], " of overflowing integers");
    if (op === "sum" || op === "prod") {
      check(batch, op, rows([[NaN, 1, 2], [1, 2, NaN], [Infinity, op === "sum" ? -Infinity : 0, 1]], "f32"), [1], " with NaN");
    }
    await batch.run(device);
  });
}

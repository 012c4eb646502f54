/** Every op that moves, makes or finds elements, on every device against the interpreter. */
import assert from "node:assert/strict";
import type { Device } from "../src/devices/device/device.ts";
import * as g from "../src/graph/build.ts";
import { type DType, dtypeNames } from "../src/graph/dtype.ts";
import type { Node, StructuralName } from "../src/graph/node.ts";
import type { ReductionName } from "../src/graph/ops.ts";
import { type Shape, size } from "../src/graph/shape.ts";
import { Batch, counting } from "./batch.ts";
import { onEachDevice } from "./harness.ts";

const e = g.elementwise;
const numbers = ["f32", "i32", "u32"] as const;
const deep: Shape = [2, 3, 1, 5, 2];

/** A value that is computed, not stored, so that a view of it is a view inside a kernel. */
function computed(x: Node): Node {
  if (x.dtype === "f16") return g.cast(computed(g.cast(x, "f32")), "f16");
  return x.dtype === "bool" ? e("not", x) : e("add", x, g.full(x.shape, 1, x.dtype));
}

/** Checks a view of a leaf of each dtype, and of a computed value. */
function view(batch: Batch, name: string, shape: Shape, of: (x: Node) => Node): void {
  for (const dtype of dtypeNames) batch.check(`${name} of ${dtype}`, of(batch.leaf(shape, dtype)));
  batch.check(`${name} of a computed value`, of(computed(batch.leaf(shape, "f32"))));
}

function permutations(n: number): number[][] {
  if (n === 0) return [[]];
  return permutations(n - 1).flatMap((rest) =>
    Array.from({ length: n }, (_, at) => [...rest.slice(0, at), n - 1, ...rest.slice(at)])
  );
}

/** Per axis: the first index, the count, and the step. */
type Cut = readonly [start: number, count: number, step: number];
function cut(x: Node, cuts: readonly Cut[]): Node {
  return g.slice(x, cuts.map((c) => c[0]), cuts.map((c) => c[1]), cuts.map((c) => c[2]));
}

/** Positions within and beyond an axis, on both sides, with duplicates. */
function positions(count: number, length: number): number[] {
  const wild = [-1, length, -2147483648, 2147483647, length - 1, 0, 0];
  return Array.from(
    { length: count },
    (_, i) => i % 4 === 3 ? wild[(i >> 2) % wild.length]! : (i * 7) % Math.max(1, length),
  );
}

/** Numbers with ties. f32 ones have NaN, infinities and both zeros among them. */
function sortable(count: number, dtype: "f32" | "i32" | "u32"): number[] {
  const odd = dtype === "f32"
    ? [NaN, 0, -0, Infinity, -Infinity, NaN]
    : dtype === "i32"
    ? [-2147483648, 2147483647]
    : [4294967295, 2147483648];
  return Array.from({ length: count }, (_, i) => {
    const x = Math.floor(50 * Math.sin(12.9898 * i));
    return i % 5 === 2 ? odd[(i * 3) % odd.length]! : dtype === "u32" ? Math.abs(x) : x;
  });
}

/** Of windows: the axis, the length, the stride and the dilation. */
const windowings = [
  [0, 1, 1, 1],
  [0, 2, 1, 1],
  [0, 3, 1, 1],
  [1, 3, 1, 1],
  [2, 4, 1, 1],
  [1, 3, 2, 1],
  [1, 2, 3, 1],
  [1, 3, 1, 2],
  [1, 3, 2, 3],
  [1, 4, 3, 2],
  [2, 2, 2, 1],
] as const;

/** Operands of attention, of numbers between -1 and 1; of [batch, d, e, t, s]. */
function attended(batch: Batch, [n, d, width, t, s]: readonly [number, number, number, number, number]) {
  let seed = 0;
  const leaf = (...shape: number[]) => {
    seed++;
    return batch.leaf(
      shape,
      "f32",
      Array.from({ length: size(shape) }, (_, i) => Math.sin(12.9898 * i + 78.233 * seed)),
    );
  };
  const rows = { norm: leaf(n, 2, t), delta: leaf(n, 1, t), g: leaf(n, width, t) };
  return { q: leaf(n, d, t), k: leaf(n, d, s), v: leaf(n, width, s), bias: leaf(n, t, s), ...rows };
}

const cases: Record<Exclude<StructuralName, ReductionName>, (batch: Batch, device: Device) => void> = {
  const(batch) {
    const values: Record<DType, readonly number[]> = {
      f32: [0, -0, 1, -1, 0.1, 1e-30, 3.4028234663852886e38, -3.4028234663852886e38, Infinity, -Infinity, NaN],
      f16: [0, -0, 1, -1, 0.0999755859375, 2 ** -24, 65504, -65504, Infinity, -Infinity, NaN],
      i32: [0, 1, -1, 2147483647, -2147483648],
      u32: [0, 1, 2147483648, 4294967295],
      bool: [0, 1],
    };
    for (const dtype of dtypeNames) {
      const parts = values[dtype].map((value) => g.full([3], value, dtype));
      batch.check(`constants of ${dtype}`, g.concat(parts, 0), { zeroSigns: true });
      batch.check(`a scalar of ${dtype}`, g.constant(values[dtype][1]!, dtype));
      batch.check(`nothing of ${dtype}`, g.full([2, 0], 1, dtype));
      if (dtype === "bool") continue;
      // Inside a kernel, too.
      const beside = (x: Node, value: Node) =>
        dtype === "f16" ? e("where", e("lt", g.cast(x, "f32"), g.full([5], 2, "f32")), value, x) : e("max", x, value);
      const each = values[dtype].map((value) => beside(batch.leaf([5], dtype), g.full([5], value, dtype)));
      batch.check(`operands of ${dtype}`, g.concat(each.filter((_, i) => !Number.isNaN(values[dtype][i]!)), 0));
    }
  },
  iota(batch) {
    for (const dtype of numbers) {
      for (const length of [0, 1, 7, 300]) batch.check(`iota ${length} of ${dtype}`, g.iota(length, dtype));
    }
    const both = e("mul", g.broadcastTo(g.iota(5), [3, 5]), g.expand(g.reshape(g.iota(3), [3, 1]), [3, 5]));
    batch.check("a table of products", both);
    batch.check("iota read backwards", cut(g.iota(300, "f32"), [[299, 100, -3]]));
  },
  input(batch) {
    for (const dtype of dtypeNames) {
      for (const shape of [[], [0], [4, 0, 3], [1], [7], deep]) {
        batch.check(`${dtype} [${shape}]`, batch.leaf(shape, dtype));
      }
    }
    const twice = batch.leaf([5], "f32");
    for (const name of ["once", "again"]) batch.check(`an input wanted ${name}`, twice);
    for (const name of ["once", "again"]) batch.check(`a result wanted ${name}`, computed(twice));
  },
  storage(batch, device) {
    for (const [id, dtype] of dtypeNames.entries()) {
      const leaf = batch.give(g.storage({ id: -1 - id, readers: 0 }, [2, 3], dtype, device.id), counting(6, dtype));
      batch.check(`storage of ${dtype}`, leaf);
      batch.check(`computed from storage of ${dtype}`, computed(leaf));
    }
  },
  cast(batch) {
    for (const from of dtypeNames) {
      for (const to of dtypeNames) {
        for (const shape of [[], [0, 2], deep]) {
          // Positive, as what a negative number becomes in a u32 is another test's.
          const values = counting(size(shape), from).map(Math.abs);
          batch.check(`${from} to ${to}`, g.cast(computed(batch.leaf(shape, from, values)), to));
        }
      }
    }
  },
  bitcast(batch) {
    for (const from of numbers) {
      for (const to of numbers) {
        for (const shape of [[], [0, 2], deep]) {
          const values = counting(size(shape), from).map((x) => from === "f32" ? x : Math.abs(x) + 0x3f800000);
          batch.check(`${from} to ${to}`, g.bitcast(computed(batch.leaf(shape, from, values)), to));
        }
      }
    }
  },
  reshape(batch) {
    view(batch, "flat", deep, (x) => g.reshape(x, [60]));
    view(batch, "of a permuted view", [3, 4, 5], (x) => g.reshape(g.permute(x, [2, 0, 1]), [6, 10]));
    const x = batch.leaf([6, 10], "f32");
    for (const shape of [[60], [10, 6], [1, 60, 1], [2, 3, 2, 5], [4, 15], [3, 1, 20]]) {
      batch.check(`to [${shape}]`, g.reshape(x, shape));
    }
    batch.check("of a transpose, transposed", g.permute(g.reshape(g.permute(x, [1, 0]), [4, 15]), [1, 0]));
    batch.check("of a flip", g.reshape(cut(x, [[5, 6, -1], [9, 10, -1]]), [4, 15]));
    batch.check("of a padded view", g.reshape(g.pad(x, [1, 0], [0, 2], 7), [12, 7]));
    batch.check("of an expanded view", g.reshape(g.expand(batch.leaf([3, 1, 4], "f32"), [3, 5, 4]), [5, 12]));
    batch.check("to a scalar", g.reshape(batch.leaf([1, 1], "f32"), []));
    batch.check("of nothing", g.reshape(batch.leaf([0, 3], "f32"), [5, 0, 2]));
  },
  permute(batch) {
    view(batch, "transpose", [7, 11], (x) => g.permute(x, [1, 0]));
    const x = batch.leaf([2, 3, 5, 4], "f32");
    for (const axes of permutations(4)) batch.check(`[${axes}]`, g.permute(x, axes));
    const other = e("add", g.permute(computed(x), [3, 1, 0, 2]), batch.leaf([4, 3, 2, 5], "f32"));
    batch.check("five axes of a sum", g.permute(g.reshape(other, [4, 3, 1, 2, 5]), [4, 2, 0, 3, 1]));
    batch.check("of nothing", g.permute(batch.leaf([2, 0, 3], "f32"), [2, 0, 1]));
  },
  expand(batch) {
    const shape = [3, 4, 5];
    const full = batch.leaf(shape, "f32");
    for (let mask = 0; mask < 8; mask++) {
      const ones = shape.map((n, axis) => mask & (1 << axis) ? 1 : n);
      const x = batch.leaf(ones, "f32");
      batch.check(`[${ones}]`, g.expand(x, shape));
      batch.check(`[${ones}] beside a whole`, e("mul", g.expand(x, shape), full));
      const others = batch.leaf(shape.map((n, axis) => mask & (1 << axis) ? n : 1), "f32");
      batch.check(`[${ones}] beside what it lacks`, e("sub", g.expand(x, shape), g.expand(others, shape)));
    }
    view(batch, "a scalar", [], (x) => g.broadcastTo(x, deep));
    view(batch, "a column", [7, 1], (x) => g.expand(x, [7, 3]));
    batch.check("to nothing", g.expand(batch.leaf([1, 3], "f32"), [0, 3]));
  },
  pad(batch) {
    view(batch, "two axes", [3, 5], (x) => g.pad(x, [1, 0], [0, 4], 1));
    const x = batch.leaf([3, 4, 5], "f32");
    for (const low of [[0, 0, 0], [2, 0, 1], [0, 3, 0]]) {
      for (const high of [[0, 0, 1], [1, 2, 0], [0, 0, 7]]) batch.check(`${low} and ${high}`, g.pad(x, low, high, -2));
    }
    for (const value of [NaN, Infinity, -Infinity, -0, 0.1]) {
      batch.check(`with ${value}`, g.pad(batch.leaf([2, 3], "f32"), [1, 1], [1, 1], value), { zeroSigns: true });
    }
    batch.check("with the least i32", g.pad(batch.leaf([3], "i32"), [1], [1], -2147483648));
    batch.check("with the largest u32", g.pad(batch.leaf([3], "u32"), [1], [1], 4294967295));
    batch.check("of nothing", g.pad(batch.leaf([2, 0], "f32"), [1, 2], [0, 1], 3));
    batch.check(
      "of a padded sum",
      computed(
        g.pad(e("add", g.pad(x, [1, 0, 0], [0, 0, 2], 1), g.pad(x, [0, 0, 2], [1, 0, 0], 3)), [0, 2, 0], [1, 0, 0], 5),
      ),
    );
    batch.check("of a transpose", g.pad(g.permute(x, [2, 0, 1]), [1, 2, 0], [0, 1, 3]));
    batch.check("of a quotient that has no value outside", g.pad(e("div", x, x), [2, 2, 2], [1, 1, 1]));
  },
  slice(batch) {
    view(batch, "flip", [4, 7], (x) => cut(x, [[3, 4, -1], [6, 7, -1]]));
    view(batch, "large steps", [20, 9], (x) => cut(x, [[19, 3, -9], [1, 2, 5]]));
    const x = batch.leaf([6, 7, 8], "f32");
    const cuts: readonly (readonly Cut[])[] = [
      [[0, 6, 1], [0, 7, 1], [7, 8, -1]],
      [[1, 2, 3], [6, 4, -2], [0, 1, 1]],
      [[5, 1, -100], [0, 1, 1000], [3, 5, 1]],
      [[2, 4, 1], [0, 0, 1], [0, 8, 1]],
      [[0, 1, 1], [0, 1, 1], [0, 1, 1]],
      [[5, 6, -1], [3, 1, 1], [1, 3, 2]],
    ];
    for (const own of cuts) batch.check(`${JSON.stringify(own)}`, cut(x, own));
    batch.check("of a slice", cut(cut(x, cuts[1]!), [[1, 2, -1], [3, 2, -3], [0, 1, 1]]));
    batch.check(
      "across an edge of padding",
      cut(g.pad(x, [2, 0, 1], [0, 3, 0], 9), [[0, 4, 2], [9, 5, -2], [8, 5, -2]]),
    );
    batch.check("of an expanded view", cut(g.expand(batch.leaf([1, 5], "f32"), [4, 5]), [[3, 2, -2], [4, 5, -1]]));
    batch.check("across a joint", cut(g.concat([x, computed(x)], 1), [[0, 6, 1], [13, 7, -2], [2, 3, 2]]));
    batch.check(
      "of a computed value, flipped beside itself",
      e("mul", computed(x), cut(computed(x), [[5, 6, -1], [6, 7, -1], [7, 8, -1]])),
    );
  },
  window(batch) {
    view(batch, "pairs", [7, 3], (x) => g.window(x, { axis: 0, length: 2, stride: 1, dilation: 1 }));
    const x = batch.leaf([3, 11, 4], "f32");
    for (const [axis, length, stride, dilation] of windowings) {
      if ((length - 1) * dilation < x.shape[axis]!) {
        batch.check(
          `axis ${axis}, ${length} every ${stride}, ${dilation} apart`,
          g.window(x, { axis, length, stride, dilation }),
        );
      }
    }
    const two = (y: Node) => {
      const rows = g.window(y, { axis: 1, length: 3, stride: 2, dilation: 1 });
      return g.window(rows, { axis: 0, length: 2, stride: 1, dilation: 1 });
    };
    batch.check("along two axes", two(x));
    batch.check(
      "along two axes of a padded view, summed",
      g.reduce("sum", two(g.pad(x, [1, 2, 0], [0, 1, 0])), [3, 4]),
    );
    batch.check(
      "of windows",
      g.window(g.window(x, { axis: 1, length: 5, stride: 1, dilation: 2 }), {
        axis: 3,
        length: 2,
        stride: 2,
        dilation: 1,
      }),
    );
    batch.check("of a flip of a computed value", two(cut(computed(x), [[2, 3, -1], [10, 11, -1], [0, 4, 1]])));
    batch.check("of too short an axis", g.window(x, { axis: 0, length: 4, stride: 1, dilation: 1 }));
    batch.check("of nothing", g.window(batch.leaf([5, 0], "f32"), { axis: 0, length: 2, stride: 1, dilation: 1 }));
  },
  unwindow(batch) {
    view(batch, "pairs", [6, 3, 2], (x) => g.unwindow(x, { axis: 0, length: 7, stride: 1, dilation: 1 }));
    for (const [axis, length, stride, dilation] of windowings) {
      const x = batch.leaf([...[3, 5, 4].map((n, i) => i === axis ? 4 : n), length], "f32");
      const least = 3 * stride + (length - 1) * dilation + 1;
      for (const more of [0, 2]) {
        const node = g.unwindow(x, { axis, length: least + more, stride, dilation });
        batch.check(`axis ${axis}, ${length} every ${stride}, ${dilation} apart, of ${least + more}`, node);
        if (more > 0) {
          batch.check(`axis ${axis}, ${length} every ${stride}, ${dilation} apart, summed`, g.reduce("sum", node, [3]));
        }
      }
    }
    const x = batch.leaf([3, 4, 3, 2], "f32");
    const two = (y: Node) =>
      g.unwindow(g.unwindow(y, { axis: 1, length: 9, stride: 2, dilation: 1 }), {
        axis: 0,
        length: 5,
        stride: 1,
        dilation: 2,
      });
    batch.check("along two axes", two(x));
    batch.check("of a computed value, along two axes, summed", g.reduce("sum", two(computed(x)), [2, 3]));
    batch.check("of a quotient that has no value outside", two(e("div", x, x)));
    batch.check(
      "a part of it",
      cut(g.unwindow(x, { axis: 1, length: 9, stride: 2, dilation: 1 }), [[2, 3, -1], [8, 4, -2], [0, 3, 1], [
        1,
        1,
        1,
      ]]),
    );
    batch.check(
      "of no windows",
      g.unwindow(batch.leaf([0, 3, 2], "f32"), { axis: 0, length: 2, stride: 1, dilation: 1 }),
    );
  },
  gather(batch) {
    const shape = [3, 7, 5];
    const x = batch.leaf(shape, "f32");
    for (const axis of [0, 1, 2]) {
      for (const count of [1, 11]) {
        const own = shape.map((n, i) => i === axis ? count : n);
        const index = batch.leaf(own, "i32", positions(size(own), shape[axis]!));
        batch.check(`axis ${axis}, ${count} positions`, g.gather(x, index, axis));
        batch.check(
          `axis ${axis}, ${count} of a computed value`,
          g.gather(computed(x), e("neg", e("neg", computed(index))), axis),
        );
      }
    }
    const index = batch.leaf([9], "i32", positions(9, 4));
    for (const dtype of dtypeNames) batch.check(`of ${dtype}`, g.gather(batch.leaf([4], dtype), index, 0));
    batch.check("of nothing", g.gather(batch.leaf([0], "f32"), index, 0));
    batch.check("at no positions", g.gather(batch.leaf([3, 2], "f32"), batch.leaf([3, 0], "i32"), 1));
    batch.check("of a gather", g.gather(g.gather(batch.leaf([20], "f32"), index, 0), index, 0));
    batch.check(
      "of a padded flip",
      g.gather(
        g.pad(cut(x, [[2, 3, -1], [6, 7, -1], [4, 5, -1]]), [1, 0, 0], [1, 0, 0], 8),
        batch.leaf([2, 7, 5], "i32", positions(70, 5)),
        0,
      ),
    );
  },
  checkpoint(batch) {
    const region = g.newRegion();
    view(batch, "in", [4, 7], (x) => g.checkpoint(x, region, "in"));
    view(
      batch,
      "out",
      [4, 7],
      (x) => computed(g.checkpoint(computed(x), region, "out", [g.checkpoint(x, region, "in")])),
    );
  },
  after(batch) {
    view(batch, "the others", [4, 7], (x) => {
      const other = g.reduce("sum", batch.leaf([300, 5], "f32"), [0, 1]);
      const first = computed(computed(x));
      return g.concat([first, computed(computed(g.after(x, [first, other])))], 0);
    });
    // What is waited for may be given, constant, or not needed for anything else.
    const x = batch.leaf([3, 2], "f32");
    batch.check("a leaf and a constant", computed(g.after(x, [x, g.constant(1, "f32")])));
    batch.check("itself", computed(g.after(computed(x), [computed(x)])));
    batch.check("nothing", g.after(x, []));
  },
  attention(batch) {
    const { q, k, v, bias } = attended(batch, [2, 5, 3, 9, 13]);
    const close = { rtol: 1e-5, atol: 1e-6 };
    batch.check("of leaves", g.attention({ q, k, v }), close);
    batch.check(
      "of computed values, with a bias",
      g.attention({ q: computed(q), k, v: e("neg", v), bias: e("neg", bias) }),
      close,
    );
  },
  attentionGradient(batch) {
    const { q, k, v, bias, norm, g: cotangent, delta } = attended(batch, [2, 5, 3, 9, 13]);
    const operands = { q, k, v, norm, g: cotangent, delta };
    const close = { rtol: 1e-5, atol: 1e-5 };
    for (const side of ["queries", "keys"] as const) {
      batch.check(`of ${side}`, g.attentionGradient(side, operands), close);
      batch.check(`of ${side}, with a bias`, g.attentionGradient(side, { ...operands, bias }), close);
    }
  },
  scatterAdd(batch) {
    const shape = [3, 11, 5];
    for (const axis of [0, 1, 2]) {
      for (const length of [1, 6]) {
        const index = batch.leaf(shape, "i32", positions(size(shape), length));
        // One kernel each: a driver compiles them slowly, so not every dtype for every axis.
        for (const dtype of axis === 1 && length === 6 ? numbers : ["f32"] as const) {
          batch.check(
            `${dtype}, axis ${axis}, to ${length}`,
            g.scatterAdd(index, batch.leaf(shape, dtype), axis, length),
          );
        }
      }
    }
    const values = batch.leaf([9], "f32");
    const index = batch.leaf([9], "i32", positions(9, 4));
    batch.check("to length 0", g.scatterAdd(index, values, 0, 0));
    batch.check("of nothing", g.scatterAdd(batch.leaf([0], "i32"), batch.leaf([0], "f32"), 0, 4));
    batch.check(
      "of computed values, read twice",
      computed(e("mul", g.scatterAdd(index, computed(values), 0, 4), g.scatterAdd(index, values, 0, 4))),
    );
    batch.check("wrapping", g.scatterAdd(g.full([4], 1, "i32"), g.full([4], 2147483647, "i32"), 0, 2));
    // What reads a value that is made inside a region of another one.
    const y = batch.leaf([4], "f32");
    batch.check(
      "within a concatenation that is read",
      e("relu", g.concat([e("relu", g.scatterAdd(index, values, 0, 4)), y], 0)),
    );
    batch.check("as a part", g.concat([y, g.scatterAdd(index, values, 0, 4), y], 0));
  },
  scatterMax(batch) {
    const shape = [3, 11, 5];
    const either = (i: number) => i !== 0 && i !== 2;
    for (const axis of [0, 1, 2]) {
      for (const length of [1, 6]) {
        const index = batch.leaf(shape, "i32", positions(size(shape), length));
        const onto = shape.map((n, i) => i === axis ? length : n);
        for (const dtype of axis === 1 && length === 6 ? numbers : ["f32"] as const) {
          const values = batch.leaf(
            shape,
            dtype,
            counting(size(shape), dtype).map((x, i) => dtype === "u32" ? x : i % 7 < 3 ? -x : x),
          );
          const x = batch.leaf(onto, dtype, counting(size(onto), dtype).map((n) => dtype === "u32" ? 2 * n : 3 * n));
          batch.check(`${dtype}, axis ${axis}, to ${length}`, g.scatterMax(x, index, values, axis));
        }
      }
    }
    const values = batch.leaf([9], "f32");
    const index = batch.leaf([9], "i32", positions(9, 4));
    const x = batch.leaf([4], "f32", [-Infinity, 3, -3, 100]);
    batch.check("to length 0", g.scatterMax(batch.leaf([0], "f32"), index, values, 0));
    batch.check("of nothing", g.scatterMax(x, batch.leaf([0], "i32"), batch.leaf([0], "f32"), 0));
    batch.check(
      "of infinities",
      g.scatterMax(x, g.iota(4), batch.leaf([4], "f32", [-Infinity, Infinity, -Infinity, 1]), 0),
    );
    batch.check(
      "beside NaN",
      g.scatterMax(batch.leaf([4], "f32", [NaN, 1, 2, 3]), g.iota(4), batch.leaf([4], "f32", [1, 5, NaN, 2]), 0),
      { specified: either },
    );
    batch.check(
      "at the ends of i32",
      g.scatterMax(
        g.full([3], -2147483648, "i32"),
        g.iota(3),
        batch.leaf([3], "i32", [-2147483648, -2147483647, 2147483647]),
        0,
      ),
    );
    batch.check(
      "at the ends of u32",
      g.scatterMax(g.full([2], 1, "u32"), g.iota(2), batch.leaf([2], "u32", [0, 4294967295]), 0),
    );
    const view = g.permute(computed(batch.leaf([4, 2], "f32")), [1, 0]);
    const rows = (of: Node) => g.expand(g.reshape(of, [1, 9]), [2, 9]);
    const far = g.scatterMax(view, rows(index), rows(computed(values)), 1);
    batch.check(
      "onto a view of computed values, of computed values, read twice",
      computed(e("mul", far, g.scatterMax(view, rows(index), rows(values), 1))),
    );
    batch.check("of what it gave", g.scatterMax(g.scatterMax(x, index, values, 0), index, e("neg", values), 0));
    batch.check(
      "as parts, of parts",
      g.concat([g.scatterMax(g.concat([x, x], 0), index, values, 0), x, g.scatterMax(x, index, values, 0)], 0),
    );
  },
  argsort(batch) {
    for (const dtype of numbers) {
      // Every length is a kernel of its own.
      const shapes = dtype === "f32" ? [[2], [3], [17], [64], [70, 5], [2, 3, 10]] : [[37], [70, 5]];
      for (const shape of [[1], [3, 1], [0, 4], [4, 0], ...shapes]) {
        batch.check(`${dtype} [${shape}]`, g.argsort(batch.leaf(shape, dtype, sortable(size(shape), dtype))));
      }
    }
    batch.check("all equal", g.argsort(batch.leaf([37], "f32", new Array<number>(37).fill(2))));
    batch.check("more than a workgroup's", g.argsort(batch.leaf([2, 1500], "f32", sortable(3000, "f32"))));
    const x = batch.leaf([6, 9], "f32", sortable(54, "f32"));
    batch.check("of a transpose", g.argsort(g.permute(x, [1, 0])));
    batch.check("sorted", g.gather(x, g.argsort(x), 1));
    batch.check("ranks", g.argsort(g.argsort(e("neg", x))));
    batch.check("as parts, of parts", g.concat([g.argsort(x), g.argsort(g.concat([x, x], 1))], 1));
  },
  scan(batch, device) {
    // Sums stay whole numbers that an f32 holds.
    const leaf = (shape: Shape, dtype: "f32" | "i32" | "u32" = "f32") =>
      batch.leaf(
        shape,
        dtype,
        Array.from({ length: size(shape) }, (_, i) => dtype === "u32" ? i % 7 : (5 * i) % 11 - 4),
      );
    for (const dtype of numbers) {
      for (const axis of [0, 1, 2]) {
        batch.check(`${dtype}, axis ${axis}`, g.scan("sum", leaf([4, 5, 6], dtype), axis));
        batch.check(
          `${dtype} of a computed value, axis ${axis}`,
          g.scan("sum", computed(leaf([3, 2, 19], dtype)), axis),
        );
      }
    }
    batch.check("integers wrap", g.scan("sum", batch.leaf([3], "i32", [2147483647, 1, -5]), 0));
    batch.check("of unsigned ones, too", g.scan("sum", batch.leaf([3], "u32", [4294967295, 1, 5]), 0));
    for (const shape of [[0], [0, 3], [3, 0], [1], [3, 1]]) {
      batch.check(`[${shape}]`, g.scan("sum", leaf(shape), shape.length - 1));
      batch.check(`[${shape}] along the first axis`, g.scan("sum", leaf(shape), 0));
    }
    const special = [1, NaN, 2, Infinity, -Infinity, 1, Infinity, 1, 2, -Infinity];
    batch.check("what is not finite", g.scan("sum", batch.leaf([5, 2], "f32", special), 1));
    batch.check("down columns", g.scan("sum", batch.leaf([5, 2], "f32", special), 0));
    const x = leaf([6, 130]);
    batch.check("of a transpose", g.scan("sum", g.permute(x, [1, 0]), 0));
    batch.check("of a flip", g.scan("sum", cut(x, [[5, 6, -1], [129, 130, -1]]), 1));
    batch.check("of a padded view", g.scan("sum", g.pad(x, [0, 3], [1, 2], 1), 1));
    batch.check(
      "of scans, as parts",
      g.concat([g.scan("sum", g.scan("sum", x, 0), 1), e("neg", g.scan("sum", x, 1))], 0),
    );
    batch.check("read backwards", cut(g.scan("sum", x, 1), [[5, 3, -2], [129, 65, -2]]));
    const sign = (shape: Shape, dtype: "f32" | "i32" = "f32") =>
      batch.leaf(shape, dtype, Array.from({ length: size(shape) }, (_, i) => i % 97 === 90 ? 0 : i % 5 === 3 ? -1 : 1));
    for (const axis of [0, 1]) {
      batch.check(`products, axis ${axis}`, g.scan("prod", sign([130, 20]), axis));
      batch.check(`products of integers, axis ${axis}`, g.scan("prod", sign([3, 20], "i32"), axis));
    }
    batch.check("products that wrap", g.scan("prod", batch.leaf([3], "u32", [65537, 65537, 3]), 0));
    batch.check("products that are not finite", g.scan("prod", batch.leaf([5, 2], "f32", special), 1));
    batch.check("two levels of blocks", g.scan("sum", leaf([2, 300]), 1));
    // On GPUs every length is a kernel of its own.
    if (device.kind !== "cpu") return;
    for (const length of [15, 16, 17, 63, 64, 65, 127, 128, 129, 131, 255, 257, 500, 1000, 16384, 16385, 40_001]) {
      batch.check(`rows of ${length}`, g.scan("sum", leaf([2, length]), 1));
      batch.check(`columns of ${length}`, g.scan("sum", leaf([length, 5]), 0));
      batch.check(`narrow columns of ${length}`, g.scan("sum", leaf([9, length, 2]), 1));
    }
    for (const width of [1, 2, 3, 4, 7, 16, 17]) {
      batch.check(`${width} columns`, g.scan("sum", leaf([2, 140, width]), 1));
      batch.check(`${width} short rows`, g.scan("sum", leaf([width, 9]), 1));
    }
  },
  concat(batch) {
    for (const dtype of dtypeNames) {
      for (const axis of [0, 1, 2]) {
        const part = (length: number) => batch.leaf([2, 3, 4].map((n, i) => i === axis ? length : n), dtype);
        const x = part(3);
        batch.check(`${dtype}, axis ${axis}`, g.concat([x, part(0), computed(part(1)), x, computed(x), part(0)], axis));
      }
    }
    const x = batch.leaf([4, 6], "f32");
    const flipped = g.permute(computed(batch.leaf([6, 4], "f32")), [1, 0]);
    const inner = g.concat([computed(x), flipped], 1);
    batch.check("of a concatenation on the other axis", g.concat([inner, inner], 0));
    batch.check("of what is wanted itself", inner);
    batch.check(
      "of reductions and constants",
      g.concat([g.reduce("sum", x, [1]), g.full([3], 5, "f32"), g.reduce("amax", x, [0])], 0),
    );
    batch.check("of nothing", g.concat([batch.leaf([0, 2], "f32"), batch.leaf([0, 2], "f32")], 0));
    batch.check("reduced", g.reduce("sum", g.concat([x, computed(x)], 0), [0]));
    const column = g.gather(g.gather(x, g.full([4, 2], 1, "i32"), 1), g.full([4, 3], 1, "i32"), 1);
    batch.check("a gather of a gather", column);
    batch.check("the gather itself", g.gather(x, g.full([4, 2], 1, "i32"), 1));
  },
  contiguous(batch) {
    view(batch, "of a transpose", [3, 4], (x) => g.contiguous(g.permute(x, [1, 0])));
    const x = batch.leaf([3, 4], "f32");
    batch.check("between ops", computed(g.contiguous(computed(x))));
    batch.check(
      "read twice",
      e("mul", g.contiguous(e("neg", x)), cut(g.contiguous(e("neg", x)), [[2, 3, -1], [0, 4, 1]])),
    );
    batch.check("of a constant", g.contiguous(g.full([2, 2], 3, "f32")));
  },
  stopGradient(batch) {
    view(batch, "of a leaf", [3, 4], g.stopGradient);
    batch.check("between ops", computed(g.stopGradient(computed(batch.leaf([5], "f32")))));
  },
  // A plan computes one shard, where collectives are what they are given; see collectives.test.ts for several.
  allReduce(batch) {
    for (const how of ["sum", "max", "min"] as const) {
      batch.check(how, computed(g.allReduce(computed(batch.leaf([3, 4], "f32")), how)));
      batch.check(`${how} of integers`, g.allReduce(batch.leaf([5], "i32"), how));
    }
  },
  allGather(batch) {
    for (const dtype of numbers) batch.check(`of ${dtype}`, g.allGather(batch.leaf([3, 4], dtype), 3));
    batch.check("between ops", computed(g.allGather(computed(batch.leaf([5], "f32")), 5)));
  },
  reduceScatter(batch) {
    for (const dtype of numbers) batch.check(`of ${dtype}`, g.reduceScatter(batch.leaf([3, 4], dtype), 3));
    batch.check("between ops", computed(g.reduceScatter(computed(batch.leaf([5], "f32")), 5)));
  },
  copy(batch, device) {
    view(batch, "of a transpose", [3, 4], (x) => g.copy(g.permute(x, [1, 0]), device.id));
    batch.check("between ops", computed(g.copy(computed(batch.leaf([5], "f32")), device.id)));
    batch.check("of an input", g.copy(batch.leaf([2, 3], "i32"), device.id));
  },
};

for (const [op, fill] of Object.entries(cases)) {
  onEachDevice(`${op}: what it gives`, async (device) => {
    const batch = new Batch();
    fill(batch, device);
    assert.ok(batch.size > 0, "no case");
    await batch.run(device);
  });
}

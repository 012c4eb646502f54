/** The composed ops of tensors on every device: against values worked out by hand or in plain JS, and against the interpreter. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { interpret } from "../src/graph/interpret.ts";
import { type Node, toposort } from "../src/graph/node.ts";
import * as s from "../src/index.ts";
import { type Tensor, tensor } from "../src/index.ts";
import type { Device } from "../src/index.ts";
import { storageOf } from "../src/tensor/eager/record.ts";
import { assertClose, onEachDevice, type Tolerance } from "./harness.ts";

/** A result and what it must be: nested arrays, whose numbers are those of the result in order. */
interface Case extends Tolerance {
  readonly name: string;
  readonly make: () => Tensor;
  readonly shape: readonly number[];
  readonly values: readonly unknown[];
}

const cases: Case[] = [];

function op(
  name: string,
  make: () => Tensor,
  shape: readonly number[],
  values: readonly unknown[],
  tolerance: Tolerance = {},
): void {
  cases.push({ name, make, shape, values, ...tolerance });
}

/** The value that the oracle gives a graph whose leaves are on the host. */
function oracle(node: Node): Float64Array {
  const given = new Map<Node, ArrayLike<number>>();
  for (const leaf of toposort([node])) if (leaf.op === "storage") given.set(leaf, storageOf(leaf).host!);
  return interpret([node], given)[0]!;
}

const f = (shape: readonly number[], from = -1, step = 0.37): Tensor =>
  tensor(Float32Array.from({ length: shape.reduce((n, m) => n * m, 1) }, (_, i) => from + step * i), { shape });
const i32 = (values: readonly number[], shape = [values.length]): Tensor =>
  tensor([...values], { dtype: "i32", shape });
const u32 = (values: readonly number[]): Tensor => tensor([...values], { dtype: "u32" });
const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const m23 = () => tensor([[1, 2, 3], [4, 5, 6]]);

// Scalars and promotion.
op("number keeps i32", () => i32([1, 2]).add(1), [2], [2, 3]);
op("fraction makes i32 f32", () => i32([1, 2]).add(0.5), [2], [1.5, 2.5]);
op("u32 with i32", () => u32([1, 2]).add(i32([-3, 1])), [2], [-2, 3]);
op("bool counts as i32", () => tensor([true, false]).add(tensor([true, true])), [2], [2, 1]);
op("bool with number", () => tensor([true, false]).mul(3), [2], [3, 0]);
op("boolean operand", () => tensor([1, 0]).add(true), [2], [2, 1]);
op("broadcast", () => tensor([[1], [2]]).mul(tensor([10, 20, 30])), [2, 3], [10, 20, 30, 20, 40, 60]);
op("broadcast with zero size", () => s.zeros([0, 3]).add(tensor([1, 2, 3])), [0, 3], []);
op("integer division is f32", () => i32([7, -7]).div(2), [2], [3.5, -3.5]);

// Integer division and powers.
op("floorDiv i32", () => i32([7, -7, 7, -7, 5]).floorDiv(i32([2, 2, -2, -2, 0])), [5], [3, -4, -4, 3, 0]);
op("mod i32", () => i32([7, -7, 7, -7, 5]).mod(i32([3, 3, -3, -3, 0])), [5], [1, 2, -2, -1, 0]);
op("floorDiv u32", () => u32([7, 4294967295]).floorDiv(2), [2], [3, 2147483647]);
op("floorDiv f32", () => tensor([7, -7, 7.5]).floorDiv(2), [3], [3, -4, 3]);
op("mod f32", () => tensor([7, -7, 5.5]).mod(3), [3], [1, 2, 2.5]);
op("pow of integers is exact", () => i32([3, -3]).pow(5), [2], [243, -243]);
op("pow 0", () => tensor([0, -2]).pow(0), [2], [1, 1]);
op("negative whole power", () => tensor([2, -4]).pow(-2), [2], [0.25, 0.0625]);
op("fractional power", () => tensor([4, 2.25]).pow(0.5), [2], [2, 1.5], { rtol: 1e-5 });
op("power of a tensor", () => tensor([2, 3, -2]).pow(tensor([3, 2, 3])), [3], [8, 9, -8], { rtol: 1e-5 });
op("neg of u32 wraps", () => u32([1, 0]).neg(), [2], [4294967295, 0]);
op("sign and abs", () => s.concat([i32([-3, 0, 2]).sign(), i32([-3, 0, 2]).abs()]), [6], [-1, 0, 1, 3, 0, 2]);
op("rounding halves to even", () => tensor([0.5, 1.5, 2.5, -0.5, -1.5, 2.4]).round(), [6], [0, 2, 2, -0, -2, 2]);
op("rounding of integers", () => i32([3]).floor(), [1], [3]);
op("cube roots, of integers too", () => s.concat([tensor([-8, 0, 0.125]).cbrt(), i32([-27, 64]).cbrt()]), [5], [
  -2,
  0,
  0.5,
  -3,
  4,
]);
op("reciprocal and rsqrt", () => s.concat([tensor([4]).reciprocal(), tensor([4]).rsqrt()]), [2], [0.25, 0.5]);

// Comparison, truth, bits.
op(
  "comparisons",
  () =>
    s.stack([
      m23().at(0).less(2),
      m23().at(0).lessEqual(2),
      m23().at(0).greater(2),
      m23().at(0).greaterEqual(2),
      m23().at(0).equal(2),
      m23().at(0).notEqual(2),
    ]),
  [6, 3],
  [
    [1, 0, 0],
    [1, 1, 0],
    [0, 0, 1],
    [0, 1, 1],
    [0, 1, 0],
    [1, 0, 1],
  ],
);
op("isNaN", () => tensor([NaN, Infinity, -Infinity, 1]).isNaN(), [4], [1, 0, 0, 0]);
op("isFinite", () => tensor([NaN, Infinity, -Infinity, 1]).isFinite(), [4], [0, 0, 0, 1]);
op("isNaN of integers", () => i32([1]).isNaN(), [1], [0]);
op(
  "logic of numbers",
  () => s.stack([tensor([0, 2]).and(1), tensor([0, 2]).or(0), tensor([0, 2]).xor(true), tensor([0, 2]).not()]),
  [4, 2],
  [0, 1, 0, 1, 1, 0, 1, 0],
);
op(
  "bits",
  () =>
    s.stack([
      i32([6, -1]).bitAnd(3),
      i32([6, -1]).bitOr(8),
      i32([6, -1]).bitXor(5),
      i32([6, -1]).bitNot(),
      i32([6, -1]).shiftLeft(2),
      i32([6, -1]).shiftRight(1),
    ]),
  [6, 2],
  [
    2,
    3,
    14,
    -1,
    3,
    -6,
    -7,
    0,
    24,
    -4,
    3,
    -1,
  ],
);
op("shiftRight of u32", () => u32([4294967295]).shiftRight(28), [1], [15]);
op("where hides NaN", () => s.where(tensor([true, false]), tensor([1, NaN]), 0), [2], [1, 0]);
op("where with numbers", () => s.where(tensor([true, false]), 2, 3), [2], [2, 3]);
op("condition as method", () => tensor([1, 0]).where(tensor([5, 6]), tensor([7, 8])), [2], [5, 8]);
op("clamp", () => tensor([-3, 0.5, 9]).clamp({ min: -1, max: 1 }), [3], [-1, 0.5, 1]);
op("clamp from one side", () => i32([-3, 5]).clamp({ min: 0 }), [2], [0, 5]);
op("cast saturates", () => tensor([3e9, -3e9, NaN, 2.9, -2.9]).cast("i32"), [5], [2147483647, -2147483648, 0, 2, -2]);
op("cast to bool", () => tensor([0, -0, 0.5]).cast("bool"), [3], [0, 0, 1]);
op("bitcast", () => tensor([1, -2]).bitcast("u32"), [2], [0x3f800000, 0xc0000000]);
op("maximum and minimum", () => s.concat([tensor([1, 5]).maximum(3), tensor([1, 5]).minimum(tensor([2, 2]))]), [4], [
  3,
  5,
  1,
  2,
]);
op("atan2", () => tensor([1, -1]).atan2(tensor([-1, 1])), [2], [Math.atan2(1, -1), Math.atan2(-1, 1)], { rtol: 1e-3 });

// Activations, also far out, where naive forms overflow.
const far = [-100, -20, -1, 0, 1, 20, 100];
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
op("sigmoid", () => tensor(far).sigmoid(), [7], far.map(sigmoid), { atol: 1e-30, rtol: 3e-5 });
op("softplus", () => tensor(far).softplus(), [7], far.map((x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))), {
  atol: 1e-30,
  rtol: 3e-5,
});
op("silu", () => tensor(far).silu(), [7], far.map((x) => x * sigmoid(x)), { atol: 1e-30, rtol: 3e-5 });
op("relu of integers", () => i32([-2, 3]).relu(), [2], [0, 3]);
op("gelu", () => tensor([-3, -1, 0, 1, 3]).gelu(), [5], [-0.00404969, -0.15865525, 0, 0.84134475, 2.99595031], {
  atol: 2e-6,
});
op("gelu by tanh", () => tensor([-3, -1, 0, 1, 3]).gelu({ approximate: "tanh" }), [5], [
  -0.00363739,
  -0.15880801,
  0,
  0.84119199,
  2.99636261,
], { atol: 2e-6 });
op("gelu of integers", () => i32([1]).gelu(), [1], [0.84134475], { atol: 2e-6 });

// Movement.
op("reshape with -1", () => m23().reshape([3, -1]), [3, 2], range(6).map((i) => i + 1));
op("flatten some axes", () => f([2, 3, 4], 0, 1).flatten({ start: 1 }), [2, 12], range(24));
op("flatten a scalar", () => tensor(3).flatten(), [1], [3]);
op("transpose", () => m23().transpose(), [3, 2], [1, 4, 2, 5, 3, 6]);
op("transpose of a vector", () => tensor([1, 2]).transpose(), [2], [1, 2]);
op("permute", () => f([2, 3, 2], 0, 1).permute([-1, 0, 1]), [2, 2, 3], [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]);
op("broadcastTo with -1", () => tensor([[1], [2]]).broadcastTo([2, -1, 3]), [2, 2, 3], [
  1,
  1,
  1,
  2,
  2,
  2,
  1,
  1,
  1,
  2,
  2,
  2,
]);
op("squeeze", () => f([1, 2, 1], 0, 1).squeeze(), [2], [0, 1]);
op("squeeze one axis", () => f([1, 2, 1], 0, 1).squeeze(-1), [1, 2], [0, 1]);
op("unsqueeze at the end", () => tensor([1, 2]).unsqueeze(-1), [2, 1], [1, 2]);
op("flip", () => m23().flip(1), [2, 3], [3, 2, 1, 6, 5, 4]);
op("flip all", () => m23().flip(), [2, 3], [6, 5, 4, 3, 2, 1]);
op("flip of zero size", () => s.zeros([0, 2]).flip(), [0, 2], []);
op("slice", () => f([10], 0, 1).slice({ start: 2, end: 9, step: 3 }), [3], [2, 5, 8]);
op("slice clamps", () => f([4], 0, 1).slice({ start: -100, end: 100 }), [4], [0, 1, 2, 3]);
op("slice from the end", () => f([5], 0, 1).slice({ start: -2 }), [2], [3, 4]);
op("slice backwards", () => f([5], 0, 1).slice({ step: -2 }), [3], [4, 2, 0]);
op("slice backwards with bounds", () => f([6], 0, 1).slice({ start: 4, end: 0, step: -1 }), [4], [4, 3, 2, 1]);
op("empty slice", () => f([5], 0, 1).slice({ start: 3, end: 1 }), [0], []);
op("slice of several axes", () => f([3, 4], 0, 1).slice([undefined, { start: 1, end: 3 }]), [3, 2], [
  1,
  2,
  5,
  6,
  9,
  10,
]);
op("at", () => m23().at(-1), [3], [4, 5, 6]);
op("at of an axis", () => m23().at(1, { axis: 1 }), [2], [2, 5]);
op("pad", () => tensor([1, 2]).pad([[1, 2]], { value: 9 }), [5], [9, 1, 2, 9, 9]);
op("pad all sides", () => tensor([[1]]).pad(1), [3, 3], [0, 0, 0, 0, 1, 0, 0, 0, 0]);
op("split unevenly", () => f([7], 0, 1).split(3)[1]!, [2], [3, 4]);
op("split by lengths", () => f([5], 0, 1).split([1, 4])[1]!, [4], [1, 2, 3, 4]);
op("repeat", () => tensor([[1, 2]]).repeat(2, { axis: 1 }), [1, 4], [1, 1, 2, 2]);
op("tile", () => tensor([[1, 2]]).tile([2, 2]), [2, 4], [1, 2, 1, 2, 1, 2, 1, 2]);
op("concat promotes", () => s.concat([i32([1]), tensor([0.5])]), [2], [1, 0.5]);
op("concat on the last axis", () => s.concat([m23(), s.ones([2, 1])], { axis: -1 }), [2, 4], [1, 2, 3, 1, 4, 5, 6, 1]);
op("concat with zero size", () => s.concat([s.zeros([0, 2]), s.ones([1, 2])]), [1, 2], [1, 1]);
op("stack", () => s.stack([tensor([1, 2]), tensor([3, 4])], { axis: 1 }), [2, 2], [1, 3, 2, 4]);

// Reductions.
op("sum of an axis", () => m23().sum({ axis: 0 }), [3], [5, 7, 9]);
op("sum with keepDims", () => m23().sum({ axis: -1, keepDims: true }), [2, 1], [6, 15]);
op("sum of bools", () => tensor([true, true, false]).sum(), [], [2]);
op("sum of nothing", () => s.zeros([0]).sum(), [], [0]);
op("sum over an empty axis", () => s.zeros([2, 0]).sum({ axis: 1 }), [2], [0, 0]);
op("prod", () => m23().prod({ axis: 1 }), [2], [6, 120]);
op("mean", () => m23().mean(), [], [3.5]);
op("mean of integers", () => i32([1, 2]).mean(), [], [1.5]);
op("max and min", () => s.stack([f([3, 5], -2).max(), f([3, 5], -2).min()]), [2], [-2 + 14 * 0.37, -2]);
op("max of nothing", () => s.zeros([0]).max(), [], [-Infinity]);
op("variance", () => tensor([1, 2, 3, 4]).variance(), [], [1.25]);
op("sample variance", () => tensor([[1, 2, 3, 4]]).variance({ axis: 1, correction: 1 }), [1], [5 / 3]);
op("variance without cancellation", () => tensor([10000, 10001, 10002]).variance(), [], [2 / 3], { rtol: 1e-4 });
op("std", () => tensor([1, 2, 3, 4]).std(), [], [Math.sqrt(1.25)]);
op("norm", () => tensor([3, 4]).norm(), [], [5]);
op("other norms", () => s.stack([tensor([3, -4]).norm({ ord: 1 }), tensor([3, -4]).norm({ ord: Infinity })]), [2], [
  7,
  4,
]);
op("argmax takes the first", () => tensor([[1, 3, 3], [2, 0, 2]]).argmax({ axis: 1 }), [2], [1, 0]);
op("argmin flat", () => m23().neg().argmin(), [], [5]);
op("argmax with keepDims", () => m23().argmax({ axis: 0, keepDims: true }), [1, 3], [1, 1, 1]);
op("all and any", () => s.stack([tensor([1, 0]).all(), tensor([1, 0]).any(), s.zeros([0]).all(), s.zeros([0]).any()]), [
  4,
], [0, 1, 1, 0]);
const logits = [[1, 2, 3], [1000, 1000, 999], [-Infinity, 0, 0]];
const softmaxRow = (row: readonly number[]) => {
  const most = Math.max(...row);
  const e = row.map((x) => Math.exp(x - most));
  const total = e.reduce((a, b) => a + b);
  return e.map((x) => x / total);
};
op("softmax", () => tensor(logits).softmax(), [3, 3], logits.map(softmaxRow), { rtol: 1e-5 });
op(
  "softmax of another axis",
  () => tensor(logits.slice(0, 2)).transpose().softmax({ axis: 0 }).transpose(),
  [2, 3],
  logits.slice(0, 2).map(softmaxRow),
  { rtol: 1e-5 },
);
op(
  "logSoftmax",
  () => tensor(logits.slice(0, 2)).logSoftmax(),
  [2, 3],
  logits.slice(0, 2).map((row) => softmaxRow(row).map(Math.log)),
  { atol: 1e-5, rtol: 1e-5 },
);
op("logSumExp", () => tensor(logits).logSumExp({ axis: 1 }), [3], [
  3.4076059,
  1000 + Math.log(2 + Math.exp(-1)),
  Math.log(2),
], { atol: 1e-5, rtol: 1e-5 });
op("logSumExp of nothing but -Infinity", () => tensor([-Infinity, -Infinity]).logSumExp(), [], [-Infinity]);

// Products.
const left = range(6).map((i) => i - 2);
const right = range(12).map((i) => 0.5 * i);
const product = (a: readonly number[], b: readonly number[], m: number, k: number, n: number) =>
  range(m * n).map((at) => range(k).reduce((sum, j) => sum + a[Math.floor(at / n) * k + j]! * b[j * n + at % n]!, 0));
op(
  "matmul",
  () => tensor(left, { shape: [2, 3] }).matmul(tensor(right, { shape: [3, 4] })),
  [2, 4],
  product(left, right, 2, 3, 4),
);
op(
  "vector matmul matrix",
  () => tensor(left.slice(0, 3)).matmul(tensor(right, { shape: [3, 4] })),
  [4],
  product(left.slice(0, 3), right, 1, 3, 4),
);
op(
  "matrix matmul vector",
  () => tensor(left, { shape: [2, 3] }).matmul(tensor([1, 2, 3])),
  [2],
  product(left, [1, 2, 3], 2, 3, 1),
);
op("dot", () => tensor([1, 2, 3]).dot(tensor([4, 5, 6])), [], [32]);
op(
  "batched matmul broadcasts",
  () => tensor(left, { shape: [2, 1, 1, 3] }).matmul(tensor(right, { shape: [2, 3, 2] })),
  [2, 2, 1, 2],
  [
    product(left.slice(0, 3), right.slice(0, 6), 1, 3, 2),
    product(left.slice(0, 3), right.slice(6), 1, 3, 2),
    product(left.slice(3), right.slice(0, 6), 1, 3, 2),
    product(left.slice(3), right.slice(6), 1, 3, 2),
  ],
);
op("matmul of integers", () => i32([1, 2, 3, 4], [2, 2]).matmul(i32([5, 6, 7, 8], [2, 2])), [2, 2], [19, 22, 43, 50]);
op("matmul over nothing", () => s.zeros([2, 0]).matmul(s.zeros([0, 3])), [2, 3], range(6).map(() => 0));
op("einsum product", () => s.einsum("ij,jk->ik", tensor(left, { shape: [2, 3] }), tensor(right, { shape: [3, 4] })), [
  2,
  4,
], product(left, right, 2, 3, 4));
op(
  "einsum transposed",
  () => s.einsum("ij,jk->ki", tensor(left, { shape: [2, 3] }), tensor(right, { shape: [3, 4] })).transpose(),
  [2, 4],
  product(left, right, 2, 3, 4),
);
op("einsum implicit", () => s.einsum("ba", m23()), [3, 2], [1, 4, 2, 5, 3, 6]);
op("einsum trace", () => s.einsum("ii->", tensor([[1, 2], [3, 4]])), [], [5]);
op("einsum diagonal", () => s.einsum("ii->i", tensor([[1, 2], [3, 4]])), [2], [1, 4]);
op("einsum outer", () => s.einsum("i,j->ij", tensor([1, 2]), tensor([3, 4])), [2, 2], [3, 4, 6, 8]);
op("einsum of three", () => s.einsum("i,ij,j->", tensor([1, 2]), tensor([[1, 2], [3, 4]]), tensor([5, 6])), [], [
  1 * 5 + 2 * 6 + 2 * (15 + 24),
]);
op("einsum with dots", () => s.einsum("...i,i->...", f([2, 2, 3], 0, 1), tensor([1, 1, 1])), [2, 2], [3, 12, 21, 30]);
op("einsum batch", () => s.einsum("bij,bjk->bik", f([2, 1, 2], 0, 1), f([2, 2, 1], 0, 1)), [2, 1, 1], [1, 13]);

// Indexing.
op("gather", () => m23().gather(i32([2, 0, 1, 1], [2, 2]), { axis: 1 }), [2, 2], [3, 1, 5, 5]);
op("gather out of range", () => tensor([1, 2]).gather(i32([-1, 5, 1]), { axis: 0 }), [3], [0, 0, 2]);
op("take with a tensor", () => m23().take(i32([1, 0, 1])), [3, 3], [4, 5, 6, 1, 2, 3, 4, 5, 6]);
op("take with a matrix", () => tensor([10, 20, 30]).take(i32([0, 2, 1, 1], [2, 2])), [2, 2], [10, 30, 20, 20]);
op("take with numbers", () => m23().take([-1, 0], { axis: 1 }), [2, 2], [3, 1, 6, 4]);
op("take nothing", () => m23().take([]), [0, 3], []);
op("scatterAdd", () => tensor([1, 1, 1]).scatterAdd(i32([0, 2, 0, 7, -1]), tensor([1, 2, 3, 4, 5]), { axis: 0 }), [3], [
  5,
  1,
  3,
]);
op(
  "scatterMax",
  () => tensor([1, 9, -1, 0]).scatterMax(i32([0, 2, 0, 7, -1, 2]), tensor([2, -5, 3, 4, 5, -3]), { axis: 0 }),
  [4],
  [3, 9, -1, 0],
);
op(
  "scatterMax of integers and floats",
  () => i32([1, 2, 3, 4], [2, 2]).scatterMax(u32([1, 1]).reshape([2, 1]), tensor([[2.5], [3.5]]), { axis: -1 }),
  [2, 2],
  [1, 2.5, 3, 4],
);
op(
  "scatterMax of nothing",
  () => tensor([1, 2]).scatterMax(s.zeros([0], { dtype: "i32" }), s.zeros([0]), { axis: 0 }),
  [2],
  [1, 2],
);
op("oneHot", () => i32([1, 3, -1]).oneHot(3), [3, 3], [0, 1, 0, 0, 0, 0, 0, 0, 0]);
op("oneHot as bool", () => s.oneHot(u32([0]), 2, { dtype: "bool" }), [1, 2], [1, 0]);

// Scans and order.
op("cumsum", () => m23().cumsum(), [2, 3], [1, 3, 6, 4, 9, 15]);
op("cumsum of an axis", () => m23().cumsum({ axis: 0 }), [2, 3], [1, 2, 3, 5, 7, 9]);
op("cumsum of a long axis", () => s.ones([300]).cumsum(), [300], range(300).map((i) => i + 1));
op("cumsum over two levels", () => s.full([20000], 1, { dtype: "i32" }).cumsum().slice({ start: 16380, end: 16390 }), [
  10,
], range(10).map((i) => 16381 + i));
op("cumsum of nothing", () => s.zeros([0]).cumsum(), [0], []);
op("cumprod", () => tensor([2, -3, 4, 0, 5]).cumprod(), [5], [2, -6, -24, 0, 0]);
op("sort", () => tensor([[3, 1, 2], [0, -1, 5]]).sort(), [2, 3], [1, 2, 3, -1, 0, 5]);
op("sort descending of an axis", () => tensor([[3, 1], [4, 0]]).sort({ axis: 0, descending: true }), [2, 2], [
  4,
  1,
  3,
  0,
]);
op("argsort is stable", () => i32([2, 1, 2, 1]).argsort(), [4], [1, 3, 0, 2]);
op("argsort descending is stable", () => i32([2, 1, 2, 1]).argsort({ descending: true }), [4], [0, 2, 1, 3]);
op("sort puts NaN last", () => tensor([NaN, 1, -Infinity, Infinity]).sort(), [4], [-Infinity, 1, Infinity, NaN]);
op("sort of u32", () => u32([4294967295, 0, 5]).sort(), [3], [0, 5, 4294967295]);

// Creation.
op("zeros, ones, full", () => s.stack([s.zeros([2]), s.ones([2]), s.full([2], 2.5)]), [3, 2], [0, 0, 1, 1, 2.5, 2.5]);
op("full of a boolean", () => s.full([2], true), [2], [1, 1]);
op("full of infinities and NaN", () => s.stack([s.full([], Infinity), s.full([], -Infinity), s.full([], NaN)]), [3], [
  Infinity,
  -Infinity,
  NaN,
]);
op("arange", () => s.arange(4), [4], [0, 1, 2, 3]);
op("arange with steps", () => s.arange(2, { start: 10, step: -3 }), [3], [10, 7, 4]);
op("arange of fractions", () => s.arange(1, { step: 0.25 }), [4], [0, 0.25, 0.5, 0.75]);
op("linspace", () => s.linspace(0, 1, 5), [5], [0, 0.25, 0.5, 0.75, 1]);
op("eye", () => s.eye(2, { columns: 3 }), [2, 3], [1, 0, 0, 0, 1, 0]);

test("the interpreter agrees", () => {
  for (const { name, make, values, atol = 1e-6, rtol = 1e-6 } of cases) {
    assertClose(oracle(make().node), values.flat(9) as number[], {
      atol: Math.max(atol, 1e-6),
      rtol: Math.max(rtol, 1e-6),
      message: name,
    });
  }
});

async function check(device: Device, group: readonly Case[]): Promise<void> {
  const results = group.map(({ make, name }) => {
    try {
      return make();
    } catch (error) {
      throw new Error(`${name}: ${String(error)}`, { cause: error });
    }
  });
  s.setDefaultDevice(device);
  try {
    await s.realize(...results);
    for (const [i, { name, shape, values, atol = 1e-6, rtol = 1e-6 }] of group.entries()) {
      const data = await results[i]!.data();
      assert.deepEqual(results[i]!.shape, shape, `${name}: shape`);
      assertClose(data, values.flat(9) as number[], { atol, rtol, message: name });
    }
  } finally {
    s.setDefaultDevice(undefined);
  }
}

const groupSize = 24;
for (let start = 0; start < cases.length; start += groupSize) {
  const group = cases.slice(start, start + groupSize);
  onEachDevice(`ops: ${group[0]!.name} … ${group.at(-1)!.name}`, (device) => check(device, group));
}

test("dtypes of results", () => {
  const a = i32([1]);
  assert.equal(a.add(1).dtype, "i32");
  assert.equal(a.add(0.5).dtype, "f32");
  assert.equal(a.add(2 ** 31).dtype, "f32");
  assert.equal(u32([1]).add(a).dtype, "i32");
  assert.equal(u32([1]).add(-1).dtype, "f32");
  assert.equal(tensor([true]).add(1).dtype, "i32");
  assert.equal(tensor([true]).equal(true).dtype, "bool");
  assert.equal(a.exp().dtype, "f32");
  assert.equal(a.mean().dtype, "f32");
  assert.equal(tensor([true]).sum().dtype, "i32");
  assert.equal(a.argmax().dtype, "i32");
  assert.equal(s.arange(3).dtype, "i32");
  assert.equal(s.arange(3, { step: 0.5 }).dtype, "f32");
});

test("what does not fit is refused where it is said, with what was given and what is needed", () => {
  const refused = (
    call: () => unknown,
    type: new (op: string, complaint: { got: string; need: string }) => Error,
    text: RegExp,
  ) => {
    assert.throws(call, (error) => error instanceof type && text.test(error.message));
  };
  refused(() => m23().matmul(m23()), s.ShapeError, /matmul: got \[2, 3\] @ \[2, 3\]; need last axis of left \(3\)/);
  refused(() => tensor(1).matmul(m23()), s.ShapeError, /at least one axis/);
  refused(() => m23().add(tensor([1, 2])), s.ShapeError, /add: got \[2, 3\] and \[2\]/);
  refused(() => m23().sum({ axis: 2 }), s.ShapeError, /axis 2.*-2 to 1/);
  refused(() => m23().sum({ axis: [0, 0] }), s.ShapeError, /at most once/);
  refused(() => m23().reshape([4, -1]), s.ShapeError, /reshape/);
  refused(() => m23().reshape([-1, -1]), s.ShapeError, /at most one -1/);
  refused(() => m23().squeeze(0), s.ShapeError, /length 1/);
  refused(() => m23().at(2), s.ShapeError, /at: got index 2.*-2 to 1/);
  for (const name of ["scatterAdd", "scatterMax"] as const) {
    const at = i32([0, 1], [2, 1]);
    refused(
      () => m23()[name](at, tensor([[1, 2]]), { axis: 1 }),
      s.ShapeError,
      /got \[2, 3\] and values \[1, 2\]; need shapes that agree but for axis 1/,
    );
    refused(() => m23()[name](at, tensor([[1, 2], [3, 4]]), { axis: 1 }), s.ShapeError, /index \[2, 1\]/);
    refused(() => m23()[name](at.cast("f32"), tensor([[1], [2]]), { axis: 1 }), s.DTypeError, /indices of f32/);
    refused(() => m23()[name](at, tensor([[1], [2]]), { axis: 2 }), s.ShapeError, /axis 2.*-2 to 1/);
  }
  refused(() => m23().take([3], { axis: 1 }), s.ShapeError, /take: got index 3/);
  refused(() => m23().slice({ step: 0 }), s.ArgumentError, /step/);
  refused(() => m23().slice({ start: 0.5 }), s.ArgumentError, /start 0.5/);
  refused(() => m23().split([1, 2]), s.ShapeError, /lengths \[1,2\]/);
  refused(() => m23().gather(tensor([[0.5]]), { axis: 0 }), s.DTypeError, /indices of f32/);
  refused(() => m23().bitAnd(1), s.DTypeError, /f32/);
  refused(() => m23().clamp({}), s.ArgumentError, /neither/);
  refused(() => m23().clamp({ min: 2, max: 1 }), s.ArgumentError, /min 2, max 1/);
  refused(() => m23().add("1" as unknown as number), s.ArgumentError, /got "1" as other/);
  refused(() => s.concat([]), s.ArgumentError, /no tensors/);
  refused(() => s.stack([m23(), tensor([1])]), s.ShapeError, /equal shapes/);
  refused(() => s.einsum("ij,jk->iz", m23(), m23()), s.ArgumentError, /einsum/);
  refused(() => s.einsum("ij", m23(), m23()), s.ArgumentError, /one term/);
  refused(() => tensor([1]).oneHot(2), s.DTypeError, /indices of f32/);
  refused(() => s.zeros([2, 0]).argmax({ axis: 1 }), s.ShapeError, /at least one element/);
  refused(() => s.zeros([NaN]), s.ShapeError, /NaN/);
  refused(() => s.zeros([-1]), s.ShapeError, /-1/);
  refused(() => s.arange(Infinity), s.ArgumentError, /finite/);
  refused(() => tensor([[1, 2], [3]]), s.ShapeError, /ragged/);
  refused(() => tensor([[1], 2]), s.ShapeError, /ragged/);
  refused(() => tensor([1, true]), s.DTypeError, /together/);
  refused(() => tensor(["x" as unknown as number]), s.ArgumentError, /"x" at \[0\]/);
  refused(() => tensor([1, 2], { shape: [3] }), s.ShapeError, /2 elements/);
  refused(() => tensor([1], { dtype: "f64" as unknown as s.DType }), s.DTypeError, /f64/);
  refused(() => tensor(new BigInt64Array(1) as unknown as Int32Array), s.DTypeError, /BigInt64Array/);
});

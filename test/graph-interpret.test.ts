import assert from "node:assert/strict";
import { test } from "node:test";
import { ArgumentError, ShapeError } from "../src/errors.ts";
import * as b from "../src/graph/build.ts";
import type { DType } from "../src/graph/dtype.ts";
import { interpret } from "../src/graph/interpret.ts";
import type { Node } from "../src/graph/node.ts";
import type { ElementwiseName } from "../src/graph/ops.ts";

/** A leaf with its values, and a way to evaluate what is built from such leaves. */
function leaves() {
  const given = new Map<Node, ArrayLike<number>>();
  return {
    leaf(values: readonly number[], shape: readonly number[] = [values.length], dtype: DType = "f32"): Node {
      const node = b.input(shape, dtype);
      given.set(node, values);
      return node;
    },
    value: (node: Node): number[] => [...interpret([node], given)[0]!],
  };
}

const count = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

function elementwise(op: ElementwiseName, dtype: DType, ...operands: number[][]): number[] {
  const { leaf, value } = leaves();
  return value(b.elementwise(op, ...operands.map((x) => leaf(x, [x.length], dtype))));
}

test("float arithmetic is not rounded to f32", () => {
  assert.deepEqual(elementwise("add", "f32", [0.1], [0.2]), [0.1 + 0.2]);
  assert.deepEqual(elementwise("div", "f32", [1, -1, 0], [0, 0, 0]), [Infinity, -Infinity, NaN]);
  assert.deepEqual(elementwise("relu", "f32", [-1, -0, 2, Infinity]), [0, 0, 2, Infinity]);
  assert.deepEqual(elementwise("round", "f32", [0.5, 1.5, 2.5, -1.5, -2.5, 2.4]), [0, 2, 2, -2, -2, 2]);
});

test("integers wrap to 32 bits", () => {
  assert.deepEqual(elementwise("add", "i32", [2147483647], [1]), [-2147483648]);
  assert.deepEqual(elementwise("sub", "u32", [0], [1]), [4294967295]);
  assert.deepEqual(elementwise("mul", "i32", [0x7fffffff, -3], [0x7fffffff, 7]), [1, -21]);
  // 4294967295² = 2^64 - 2^33 + 1, which no double holds.
  assert.deepEqual(elementwise("mul", "u32", [4294967295], [4294967295]), [1]);
  assert.deepEqual(elementwise("idiv", "i32", [-7, 7, 5, -2147483648], [2, -2, 0, -1]), [-3, -3, 0, -2147483648]);
  assert.deepEqual(elementwise("irem", "i32", [-7, 7, 5, -6], [2, -2, 0, 3]), [-1, 1, 0, 0]);
  assert.deepEqual(elementwise("neg", "i32", [0, -2147483648]), [0, -2147483648]);
  assert.deepEqual(elementwise("bitNot", "u32", [0]), [4294967295]);
  assert.deepEqual(elementwise("shl", "u32", [1, 3, 1], [31, 33, 32]), [2147483648, 6, 1]);
  assert.deepEqual(elementwise("shr", "u32", [4294967295], [4]), [268435455]);
  assert.deepEqual(elementwise("shr", "i32", [-16], [2]), [-4]);
  assert.deepEqual(elementwise("xor", "u32", [4294967295], [1]), [4294967294]);
});

test("comparisons, where and bool logic", () => {
  assert.deepEqual(elementwise("lt", "f32", [1, 2, NaN], [2, 2, 0]), [1, 0, 0]);
  assert.deepEqual(elementwise("ne", "f32", [NaN, 0], [NaN, -0]), [1, 0]);
  assert.deepEqual(elementwise("xor", "bool", [0, 1, 1], [1, 1, 0]), [1, 0, 1]);
  assert.deepEqual(elementwise("not", "bool", [0, 1]), [1, 0]);
  const { leaf, value } = leaves();
  assert.deepEqual(value(b.elementwise("where", leaf([1, 0], [2], "bool"), leaf([1, 2]), leaf([NaN, 4]))), [1, 4]);
});

test("threefry gives the published words", () => {
  // The first of each pair of words in Random123's kat_vectors (threefry2x32, 20 rounds).
  const ones = 0xffffffff;
  assert.deepEqual(elementwise("threefry", "u32", [0], [0], [0], [0]), [0x6b200159]);
  assert.deepEqual(elementwise("threefry", "u32", [ones], [ones], [ones], [ones]), [0x1cb996fc]);
  assert.deepEqual(elementwise("threefry", "u32", [0x13198a2e], [0x03707344], [0x243f6a88], [0x85a308d3]), [
    0xc4923a9c,
  ]);
});

test("casts saturate, bitcasts round to f32 first", () => {
  const { leaf, value } = leaves();
  const x = leaf([1.9, -1.9, NaN, 3e9, -3e9, Infinity]);
  assert.deepEqual(value(b.cast(x, "i32")), [1, -1, 0, 2147483647, -2147483648, 2147483647]);
  assert.deepEqual(value(b.cast(x, "u32")), [1, 0, 0, 3e9, 0, 4294967295]);
  assert.deepEqual(value(b.cast(leaf([0, NaN, 0.5]), "bool")), [0, 1, 1]);
  assert.deepEqual(value(b.cast(leaf([-1], [1], "i32"), "u32")), [4294967295]);
  assert.deepEqual(value(b.bitcast(leaf([1, 0.1, -0]), "i32")), [0x3f800000, 0x3dcccccd, -2147483648]);
  assert.deepEqual(value(b.bitcast(leaf([0x7f800000, 0x3f800000], [2], "u32"), "f32")), [Infinity, 1]);
  assert.deepEqual(value(b.bitcast(leaf([-1], [1], "i32"), "u32")), [4294967295]);
});

test("movement", () => {
  const { leaf, value } = leaves();
  const x = leaf(count(6), [2, 3]);
  assert.deepEqual(value(b.permute(x, [1, 0])), [0, 3, 1, 4, 2, 5]);
  assert.deepEqual(value(b.permute(leaf(count(8), [2, 2, 2]), [2, 0, 1])), [0, 2, 4, 6, 1, 3, 5, 7]);
  assert.deepEqual(value(b.expand(leaf([1, 2], [2, 1]), [2, 3])), [1, 1, 1, 2, 2, 2]);
  assert.deepEqual(value(b.expand(leaf([1], [1, 1]), [0, 3])), []);
  assert.deepEqual(value(b.pad(x, [1, 0], [0, 1], 9)), [9, 9, 9, 9, 0, 1, 2, 9, 3, 4, 5, 9]);
  assert.deepEqual(value(b.slice(x, [1, 2], [2, 2], [-1, -2])), [5, 3, 2, 0]);
  assert.deepEqual(value(b.slice(x, [0, 0], [2, 0], [1, 1])), []);
  assert.deepEqual(value(b.reshape(x, [3, 2])), count(6));
  assert.deepEqual(value(b.concat([x, leaf([7, 8], [2, 1])], 1)), [0, 1, 2, 7, 3, 4, 5, 8]);
  assert.deepEqual(value(b.concat([x, leaf([], [0, 3]), leaf([7, 8, 9], [1, 3])], 0)), [0, 1, 2, 3, 4, 5, 7, 8, 9]);
  assert.deepEqual(value(b.iota(3, "f32")), [0, 1, 2]);
  assert.deepEqual(value(b.full([2, 2], 3, "i32")), [3, 3, 3, 3]);
});

test("reductions, with their identities over no elements", () => {
  const { leaf, value } = leaves();
  const x = leaf(count(12), [2, 3, 2]);
  assert.deepEqual(value(b.reduce("sum", x, [0, 2])), [0 + 1 + 6 + 7, 2 + 3 + 8 + 9, 4 + 5 + 10 + 11]);
  assert.deepEqual(value(b.reduce("amax", x, [1])), [4, 5, 10, 11]);
  assert.deepEqual(value(b.reduce("amin", x, [0, 1, 2])), [0]);
  assert.deepEqual(value(b.reduce("prod", leaf([65537, 65537], [2], "i32"), [0])), [131073]);
  assert.deepEqual(value(b.reduce("sum", leaf([4294967295, 2], [2], "u32"), [0])), [1]);
  const empty = (dtype: DType) => leaf([], [0, 2], dtype);
  assert.deepEqual(value(b.reduce("sum", empty("f32"), [0])), [0, 0]);
  assert.deepEqual(value(b.reduce("prod", empty("i32"), [0])), [1, 1]);
  assert.deepEqual(value(b.reduce("amax", empty("i32"), [0])), [-2147483648, -2147483648]);
  assert.deepEqual(value(b.reduce("amin", empty("f32"), [0])), [Infinity, Infinity]);
  assert.deepEqual(value(b.reduce("amax", leaf([1, NaN, 2]), [0])), [NaN]);
});

test("gather, scatterAdd, scatterMax and argsort", () => {
  const { leaf, value } = leaves();
  const x = leaf(count(6), [2, 3]);
  assert.deepEqual(value(b.gather(x, leaf([2, 0, -1, 3, 1, 1, 0, 2], [2, 4], "i32"), 1)), [2, 0, 0, 0, 4, 4, 3, 5]);
  assert.deepEqual(value(b.gather(x, leaf([1, 0, 1], [1, 3], "i32"), 0)), [3, 1, 5]);
  const values = leaf([1, 2, 3, 4], [2, 2]);
  assert.deepEqual(value(b.scatterAdd(leaf([2, 2, 0, 9], [2, 2], "i32"), values, 1, 3)), [0, 0, 3, 3, 0, 0]);
  assert.deepEqual(value(b.scatterAdd(leaf([0, 1, 0, -1], [2, 2], "i32"), values, 0, 2)), [4, 0, 0, 2]);
  const least = leaf([-9, 2.5, -9, 0, 0, 0], [2, 3]);
  assert.deepEqual(value(b.scatterMax(least, leaf([2, 2, 0, 9], [2, 2], "i32"), values, 1)), [-9, 2.5, 2, 3, 0, 0]);
  assert.deepEqual(value(b.scatterMax(leaf([1, 5], [1, 2]), leaf([0, 0, 0, -1], [2, 2], "i32"), values, 0)), [3, 5]);
  assert.deepEqual(value(b.argsort(leaf([3, NaN, -0, 0, -Infinity, NaN, 3, 1], [2, 4]))), [2, 3, 0, 1, 0, 3, 2, 1]);
});

test("scan", () => {
  const { leaf, value } = leaves();
  const x = leaf(count(6), [2, 3]);
  assert.deepEqual(value(b.scan("sum", x, 0)), [0, 1, 2, 3, 5, 7]);
  assert.deepEqual(value(b.scan("sum", x, 1)), [0, 1, 3, 3, 7, 12]);
  assert.deepEqual(value(b.scan("sum", leaf([2147483647, 1], [2], "i32"), 0)), [2147483647, -2147483648]);
  assert.deepEqual(value(b.scan("prod", leaf([65537, 65537, -2], [3], "i32"), 0)), [65537, 131073, -262146]);
  assert.deepEqual(value(b.scan("sum", leaf([], [0, 2]), 1)), []);
});

test("values may be given for any node, and must fit", () => {
  const { leaf } = leaves();
  const x = leaf([1, 2]);
  const y = b.elementwise("neg", x);
  const z = b.elementwise("neg", y);
  assert.deepEqual([...interpret([z], new Map([[y, [5, 6]]]))[0]!], [-5, -6]);
  assert.throws(() => interpret([z], new Map()), ArgumentError);
  assert.throws(() => interpret([z], new Map([[x, [1]]])), ShapeError);
});

test("a graph of 50,000 nodes in a row does not exhaust the stack", () => {
  const { leaf, value } = leaves();
  let x = leaf([0]);
  const one = b.full([1], 1, "f32");
  for (let i = 0; i < 50_000; i++) x = b.elementwise("add", x, one);
  assert.deepEqual(value(x), [50_000]);
});

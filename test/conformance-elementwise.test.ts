/** Every elementwise op, cast and bitcast on every device against the interpreter: values of all kinds, all dtypes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { simplify } from "../src/compiler/simplify/simplify.ts";
import { CpuDevice } from "../src/devices/cpu/cpu.ts";
import { claimIdentity } from "../src/devices/device/registry.ts";
import * as g from "../src/graph/build.ts";
import { type DType, dtypeNames, isFloat, toElement } from "../src/graph/dtype.ts";
import { interpret } from "../src/graph/interpret.ts";
import type { Node } from "../src/graph/node.ts";
import { elementwise as table, type ElementwiseName, type ElementwiseOp, hidden } from "../src/graph/ops.ts";
import { Batch, type Comparison, ulp } from "./batch.ts";
import { least, tested } from "./elementwise-ops.ts";
import { evaluate } from "./evaluate.ts";
import { onEachDevice, type Tolerance } from "./harness.ts";

const names = Object.keys(table) as ElementwiseName[];
const record = (op: ElementwiseName): ElementwiseOp => table[op];

const bothSigns = (values: readonly number[]) => values.flatMap((x) => [x, -x]);
const special = [0, -0, Infinity, -Infinity, NaN];

/** Operands of one-operand ops. */
const one: Record<DType, readonly number[]> = {
  f32: [
    ...special,
    ...bothSigns([
      1e-30,
      1e-20,
      1e-10,
      1e-8,
      1e-6,
      1e-4,
      1e-3,
      0.01,
      0.06,
      0.07,
      0.1,
      0.24,
      0.26,
      0.49999997,
      0.5,
      0.51,
    ]),
    ...bothSigns([0.75, 0.9, 0.99, 0.99999994, 1, 1.0001, 1.5, 2, 2.5, 3, 3.1415925, 3.5, 4.5, 5, 7.25, 10, 16, 20.5]),
    ...bothSigns([
      50,
      63.9,
      64,
      64.00001,
      80,
      87,
      88.5,
      89.2,
      100,
      1000,
      65537.5,
      4194304.5,
      8388609,
      1e8,
      1e10,
      1e20,
      1e30,
      1e37,
      3.4e38,
    ]),
  ],
  f16: [
    ...special,
    ...bothSigns([2 ** -24, 1e-5, 6e-5, 2 ** -14, 1e-3, 0.1, 0.5, 1, 1.5, 2, 3, 7.25, 100, 2049, 65504]),
  ],
  i32: [0, ...bothSigns([1, 2, 3, 7, 31, 32, 33, 100, 65535, 65537, 1e9, 2147483647]), -2147483648],
  u32: [0, 1, 2, 3, 7, 31, 32, 33, 100, 65535, 65537, 16777217, 1e9, 2147483647, 2147483648, 3e9, 4294967295],
  bool: [0, 1],
};

/** Operands of which every pair is tried. */
const each: Record<DType, readonly number[]> = {
  ...one,
  f32: [...special, ...bothSigns([1e-30, 1e-8, 1e-3, 0.1, 0.5, 1, 1.5, 2, 3, 7.25, 10, 100, 1e4, 1e8, 1e30])],
};

/** Columns of operands: all combinations of the values. */
function combinations(...lists: (readonly number[])[]): number[][] {
  let rows: number[][] = [[]];
  for (const list of lists) rows = rows.flatMap((row) => list.map((x) => [...row, x]));
  return lists.map((_, i) => rows.map((row) => row[i]!));
}

/** Key words and counters of Random123's known answers for threefry2x32 with 20 rounds, and the first words they give. */
const threefryAnswers = [
  { x: [0, 0, 0, 0], first: 0x6b200159 },
  { x: [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], first: 0x1cb996fc },
  { x: [0x13198a2e, 0x03707344, 0x243f6a88, 0x85a308d3], first: 0xc4923a9c },
];

function operands(op: ElementwiseName, dtype: DType): number[][] {
  if (op === "gated") return combinations([hidden, ...each[dtype]], each[dtype]);
  const some = each[dtype].filter((_, i) => i % 3 < 2);
  if (record(op).conditional) return combinations(each.bool, each[dtype], some);
  if (op === "threefry") {
    const columns = combinations(...Array.from({ length: 4 }, () => [0, 1, 12345, 3e9, 4294967295]));
    return columns.map((column, i) => [...threefryAnswers.map(({ x }) => x[i]!), ...column]);
  }
  if (record(op).arity === 1) return [[...one[dtype]]];
  return combinations(...Array.from({ length: record(op).arity }, (_, i) => i < 2 ? each[dtype] : some));
}

const operandDTypes = (op: ElementwiseName, dtype: DType): DType[] =>
  Array.from({ length: record(op).arity }, (_, i) => record(op).conditional && i === 0 ? "bool" : dtype);

onEachDevice("every elementwise op, for every dtype and kind of value", async (device) => {
  const batch = new Batch();
  // Equal columns are one leaf: ops that share their operands share kernels.
  const leaves = new Map<string, Node>();
  for (const op of names) {
    assert.ok(tested[op] !== undefined, `${op} is not in test/elementwise-ops.ts`);
    const { promised } = tested[op];
    for (const dtype of record(op).takes) {
      const columns = operands(op, dtype);
      const rounded = columns.map((column) => column.map((x) => toElement(dtype, x)));
      const src = operandDTypes(op, dtype).map((own, i) => {
        const key = `${own}:${columns[i]!.map((x) => Object.is(x, -0) ? "-0" : x)}`;
        const leaf = leaves.get(key) ?? batch.leaf([columns[i]!.length], own, columns[i]!);
        leaves.set(key, leaf);
        return leaf;
      });
      const { when, ...tolerance } = promised;
      const comparison: Comparison = dtype === "f32"
        ? { ...tolerance, specified: (i) => when === undefined || when(...rounded.map((column) => column[i]!)) }
        : {};
      batch.check(`${op} of ${dtype}`, g.elementwise(op, ...src), comparison);
    }
  }
  await batch.run(device);
});

onEachDevice("threefry gives the known answers", async (device) => {
  const batch = new Batch();
  const columns = [0, 1, 2, 3].map((i) => batch.leaf([3], "u32", threefryAnswers.map(({ x }) => x[i]!)));
  const answer = batch.leaf([3], "u32", threefryAnswers.map(({ first }) => first));
  const right = g.elementwise("eq", g.elementwise("threefry", ...columns), answer);
  const expected = interpret(
    [right],
    new Map([...columns, answer].map((node, i) => [
      node,
      i < 4 ? threefryAnswers.map(({ x }) => x[i]!) : threefryAnswers.map(({ first }) => first),
    ])),
  )[0]!;
  assert.deepEqual([...expected], [1, 1, 1]);
  batch.check("known answers", right);
  await batch.run(device);
});

onEachDevice("every cast and bitcast", async (device) => {
  const batch = new Batch();
  const f32 = [...one.f32, ...bothSigns([2147483520, 2147483648, 4294967040, 4294967296, 3e9, 1.9, 1e-40])];
  const leaves: Record<DType, Node> = {
    f32: batch.leaf([f32.length], "f32", f32),
    f16: batch.leaf([one.f16.length], "f16", one.f16),
    i32: batch.leaf([one.i32.length + 1], "i32", [...one.i32, 16777217]),
    u32: batch.leaf([one.u32.length], "u32", one.u32),
    bool: batch.leaf([2], "bool", one.bool),
  };
  for (const from of dtypeNames) {
    for (const to of dtypeNames) {
      // An integer of more than 24 bits rounds to either neighbour; a subnormal may be 0, which is false.
      const comparison: Comparison = to === "f32"
        ? { rtol: ulp }
        : { specified: (i) => from !== "f32" || f32[i] === 0 || !(Math.abs(f32[i]!) < least), zeroSigns: to === "f16" };
      if (from !== to) batch.check(`cast ${from} to ${to}`, g.cast(leaves[from], to), comparison);
    }
  }
  // Bits of numbers, of -0, of infinities and of one NaN; what a subnormal keeps of its bits is the device's affair.
  const words = [...one.f32, 1.9].map((x) => new Int32Array(Float32Array.of(x).buffer)[0]!);
  const bits: Record<"f32" | "i32" | "u32", Node> = {
    f32: batch.leaf([one.f32.length], "f32", one.f32),
    i32: batch.leaf([words.length], "i32", words),
    u32: batch.leaf([words.length], "u32", words.map((word) => word >>> 0)),
  };
  for (const from of ["f32", "i32", "u32"] as const) {
    for (const to of ["f32", "i32", "u32"] as const) {
      if (from !== to) batch.check(`bitcast ${from} to ${to}`, g.bitcast(bits[from], to), { zeroSigns: true });
    }
  }
  batch.check("there and back", g.bitcast(g.elementwise("neg", g.bitcast(bits.u32, "f32")), "u32"), {
    specified: (i) => !Number.isNaN([...one.f32, 1.9][i]!),
  });
  await batch.run(device);
});

onEachDevice("every elementwise op on scalars, on nothing, and on five axes", async (device) => {
  const batch = new Batch();
  const mild = (count: number, dtype: DType, seed: number) =>
    Array.from({ length: count }, (_, i) => {
      const x = Math.sin(12.9898 * i + 78.233 * seed);
      return isFloat(dtype)
        ? 0.05 + 0.9 * Math.abs(x)
        : dtype === "bool"
        ? Number(x > 0)
        : Math.floor(20 * Math.abs(x));
    });
  for (const shape of [[], [3, 0, 2], [7, 1, 1, 5, 1]]) {
    const count = shape.reduce((n, length) => n * length, 1);
    const leaves = new Map<string, Node>();
    const leaf = (dtype: DType, i: number) => {
      const known = leaves.get(dtype + i) ?? batch.leaf(shape, dtype, mild(count, dtype, i + 1));
      leaves.set(dtype + i, known);
      return known;
    };
    for (const op of names) {
      const [dtype] = record(op).takes;
      const { when: _, ...tolerance } = tested[op].promised;
      const comparison: Tolerance = dtype === "f32" ? tolerance : {};
      batch.check(`${op} of [${shape}]`, g.elementwise(op, ...operandDTypes(op, dtype!).map(leaf)), comparison);
    }
  }
  await batch.run(device);
});

test("on the cpu device every op gives an element of its dtype, in the middle of a kernel too", async () => {
  const names: string[] = [];
  const roots: Node[] = [];
  const given = new Map<Node, readonly number[]>();
  /** Wants the result less what it is when it is stored to be nothing: a kernel that keeps more digits or bits shows them. */
  const check = (op: ElementwiseName, dtype: DType, operands: readonly (readonly number[])[]) => {
    const leaf = (values: readonly number[]) => {
      const node = g.input([values.length], dtype);
      given.set(node, values.map((value) => toElement(dtype, value)));
      return node;
    };
    const result = g.elementwise(op, ...operands.map(leaf));
    const stored = leaf([...interpret([result], given)[0]!]);
    names.push(`${op} of ${dtype}`);
    roots.push(g.cast(g.elementwise("ne", result, stored), "i32"));
  };
  const noise = (seed: number) => Array.from({ length: 40 }, (_, i) => 1.5 + Math.sin(12.9898 * i + seed));
  for (const op of ["add", "sub", "mul", "div", "frem"] as const) check(op, "f32", [noise(1), noise(2)]);
  check("sqrt", "f32", [noise(3)]);
  const large = [2147483647, -2147483648, 65537, -65537, 2147483647, 3];
  for (const op of ["add", "sub", "mul", "idiv"] as const) {
    for (const dtype of ["i32", "u32"] as const) check(op, dtype, [large, [...large].reverse()]);
  }
  const inputs = [...given.keys()];
  for (const language of ["wasm", "js"] as const) {
    const device = new CpuDevice(claimIdentity("cpu"), Infinity, language);
    const differs = await evaluate(device, { roots, inputs }, inputs.map((input) => given.get(input)!));
    const wrong = names.filter((_, i) => Array.from(differs[i]!).some((value) => value !== 0));
    assert.deepEqual(wrong, [], language);
    device.close();
  }
});

test("constants fold to what the interpreter gives, rounded", () => {
  for (const op of names) {
    for (const dtype of record(op).takes) {
      const columns = operands(op, dtype);
      const stride = Math.max(1, Math.floor(columns[0]!.length / 64));
      for (let i = 0; i < columns[0]!.length; i += stride) {
        const node = g.elementwise(op, ...operandDTypes(op, dtype).map((own, k) => g.constant(columns[k]![i]!, own)));
        const [folded] = simplify([node], new Set());
        assert.equal(folded!.op, "const", `${op} of ${dtype}`);
        const expected = toElement(node.dtype, interpret([node], new Map())[0]![0]!);
        const value = interpret([folded!], new Map())[0]![0]!;
        const what = `${op}(${columns.map((column) => column[i])}) of ${dtype}`;
        assert.ok(value === expected || Object.is(value, expected), `${what}: got ${value}, need ${expected}`);
      }
    }
  }
});

test("what records say of their ops is true: exact, commutes, conditional, partial", () => {
  const halves = [...one.f16, 0.25, -0.25, 2047.5, -2.5, 65503.5].map((x) => toElement("f16", x));
  for (const op of names) {
    const { f64, arity, takes, exact, commutes, conditional, partial } = record(op);
    const lists = Array.from({ length: arity }, (_, i) => i === 0 && conditional ? each.bool : halves);
    const rows = combinations(...lists.slice(0, 3));
    const what = (row: readonly number[]) => `${op}(${row.join(", ")})`;
    rows[0]!.forEach((_, i) => {
      const x = rows.map((column) => column[i]!);
      const y = f64(...x);
      if (exact && takes.includes("f32")) assert.ok(Object.is(toElement("f16", y), y), `${what(x)} is no half: ${y}`);
      if (commutes) assert.ok(Object.is(f64(x[1]!, x[0]!) + 0, y + 0), `${what(x)} is another the other way round`);
      if (conditional) {
        assert.equal(f64(1, ...x.slice(1)) + 0, f64(5, ...x.slice(1)) + 0, `${what(x)} by the truth of its condition`);
      }
    });
    if (partial === undefined) continue;
    // Operands that are sums of two parts: the results of the parts add up to that of the sums.
    const isSum = (at: number) => partial === "terms" || (partial === "chosen" ? at > 0 : at === 0);
    for (const whole of [[1, 0.5, 8], [0, -2, 3], [1, 4, -1]].map((x) => x.slice(0, arity))) {
      const part = whole.map((x, at) => isSum(at) ? [2, -3, 5][at]! : x);
      const rest = whole.map((x, at) => isSum(at) ? x - part[at]! : x);
      assert.equal(f64(...part) + f64(...rest) + 0, f64(...whole) + 0, `${what(whole)} in parts`);
    }
  }
});

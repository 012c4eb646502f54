/**
 * Every op, cast and bitcast as WebAssembly spells it: to the bit what JavaScript gives, and functions of f32 within 2 units in the
 * last place of what float64 gives.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type DType, dtypeNames } from "../src/graph/dtype.ts";
import type { LaneOps, Lanes } from "../src/graph/lanes.ts";
import {
  bitcast,
  cast,
  elementwise as table,
  type ElementwiseName,
  type ElementwiseOp,
  hidden,
} from "../src/graph/ops.ts";
import { loop } from "./wasm-loop.ts";

const names = Object.keys(table) as ElementwiseName[];
const record = (op: ElementwiseName): ElementwiseOp => table[op];

/** Functions of many instructions are judged by their distance from float64, everything else by its bits. */
const isFunction = (op: ElementwiseName, dtype: DType) =>
  record(op).heavy === true && dtype === "f32" && record(op).takes.includes("f32");

/** Where WebAssembly may differ from JavaScript: where an operand is NaN, these give either; of zeros, either sign. */
const eitherOfNone: readonly ElementwiseName[] = ["relu", "max", "min"];
const eitherZero: readonly ElementwiseName[] = ["max", "min", "round"];

const word = new DataView(new ArrayBuffer(4));

function bitsOf(x: number): number {
  word.setFloat32(0, x);
  return word.getUint32(0);
}

function f32Of(bits: number): number {
  word.setUint32(0, bits);
  return word.getFloat32(0);
}

const seed = 20;

/** Numbers below 1, the same in every run: mulberry32. */
function draws(state: number): () => number {
  return () => {
    state = state + 0x6d2b79f5 | 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

/** Words of a column, in multiples of four. */
function padded(words: readonly number[]): number[] {
  return [...words, ...new Array<number>((4 - words.length % 4) % 4).fill(words[0]!)];
}

/** The results of a spelling for rows of operands, all as words. */
function run(columns: readonly (readonly number[])[], spell: (v: LaneOps, x: readonly Lanes[]) => Lanes): Uint32Array {
  const full = columns.map(padded);
  const made = loop(columns.length, full[0]!.length, spell);
  full.forEach((column, i) => made.columns[i]!.set(column));
  made.run();
  return made.result.slice(0, columns[0]!.length);
}

/** A word as JavaScript holds it, and what the renderer makes of a result as a word; of a bool all ones, and any NaN the same. */
function fromWord(dtype: DType, bits: number): number | boolean {
  return dtype === "bool" ? bits !== 0 : dtype === "f32" ? f32Of(bits) : dtype === "i32" ? bits | 0 : bits;
}

function toWord(dtype: DType, value: number | boolean): number {
  if (dtype === "bool") return value === true ? 0xffffffff : 0;
  return dtype === "f32" ? bitsOf(Number(value)) : Number(value) >>> 0;
}

/** A function of the text that is its result, which is rounded as the renderer does. */
function compiled(arity: number, text: (x: readonly string[]) => string, dtype: DType, helper = "") {
  const x = Array.from({ length: arity }, (_, i) => `x${i}`);
  const rounded = dtype === "f32"
    ? `Math.fround(${text(x)})`
    : dtype === "i32"
    ? `(${text(x)} | 0)`
    : dtype === "u32"
    ? `(${text(x)} >>> 0)`
    : text(x);
  type Made = (...x: (number | boolean)[]) => number | boolean;
  return new Function(`"use strict"; ${helper}\nreturn (${x}) => ${rounded};`)() as Made;
}

const signs = (values: readonly number[]) => values.flatMap((x) => [x, -x]);

const special = [0, -0, Infinity, -Infinity, NaN];
const least = 2 ** -126;
const most = f32Of(0x7f7fffff);

/** Words that are in no op's way, and those that are. */
const edges: Readonly<Record<DType, readonly number[]>> = {
  f32: [
    ...special,
    hidden,
    ...signs([2 ** -149, 1e-40, least, 1e-30, 1e-8, 0.3, 0.49999997, 0.5, 1, 1.5, 2, 2.5, 3, 7.25, 1e4]),
    ...signs([8388607.5, 8388609, 16777217, 2147483520, 2147483648, 3e9, 4294967040, 4294967296, 1e30, most]),
  ].map(bitsOf),
  f16: [0, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x7bff, 0xfbff, 0x7c00, 0xfc00],
  i32: [0, ...signs([1, 2, 3, 7, 31, 32, 33, 100, 65535, 65537, 16777217, 1e9, 2147483647]), -2147483648]
    .map((x) => x >>> 0),
  u32: [0, 1, 2, 3, 7, 31, 32, 33, 100, 65535, 65537, 16777217, 1e9, 2147483647, 2147483648, 3e9, 4294967295],
  bool: [0, 0xffffffff],
};

const someWord: Readonly<Record<DType, (draw: () => number) => number>> = {
  f32: (draw) => draw() < 0.5 ? Math.floor(draw() * 2 ** 32) : bitsOf((draw() - 0.5) * 2 ** Math.floor(draw() * 40)),
  f16: (draw) => Math.floor(draw() * 2 ** 16),
  i32: (draw) => Math.floor((draw() - 0.5) * 2 ** Math.floor(draw() * 33)) >>> 0,
  u32: (draw) => Math.floor(draw() * 2 ** Math.floor(draw() * 33)),
  bool: (draw) => draw() < 0.5 ? 0 : 0xffffffff,
};

/** Columns of words: every pair of edges, in every place, among random ones. */
function words(dtypes: readonly DType[]): number[][] {
  const draw = draws(seed);
  const rows: number[][] = [];
  const random = () => dtypes.map((dtype) => someWord[dtype](draw));
  for (let i = 0; i < 4000; i++) rows.push(random());
  dtypes.forEach((first, i) => {
    for (const a of edges[first]) {
      rows.push(Object.assign(random(), { [i]: a }));
      for (let k = i + 1; k < dtypes.length; k++) {
        for (const b of edges[dtypes[k]!]) rows.push(Object.assign(random(), { [i]: a, [k]: b }));
      }
    }
  });
  return dtypes.map((_, i) => rows.map((row) => row[i]!));
}

/** Asserts that the words are those of JavaScript, where not `unsaid`. */
function assertBits(
  what: string,
  dtypes: readonly DType[],
  gives: DType,
  columns: readonly (readonly number[])[],
  spell: (v: LaneOps, x: readonly Lanes[]) => Lanes,
  js: (...x: (number | boolean)[]) => number | boolean,
  { unsaid = (): boolean => false, zeroSigns = true }: {
    unsaid?: (x: readonly (number | boolean)[]) => boolean;
    zeroSigns?: boolean;
  } = {},
): void {
  run(columns, spell).forEach((got, row) => {
    const x = dtypes.map((dtype, i) => fromWord(dtype, columns[i]![row]!));
    const need = toWord(gives, js(...x));
    if (got === need || unsaid(x)) return;
    const [a, b] = [fromWord(gives, got), fromWord(gives, need)];
    if (gives === "f32" && ((Number.isNaN(a) && Number.isNaN(b)) || (!zeroSigns && a === b))) return;
    assert.fail(
      `${what}(${x.join(", ")}): got ${a} (${got.toString(16)}), need ${b} (${need.toString(16)}); seed ${seed}`,
    );
  });
}

test("every op that is no function of f32 gives to the bit what JavaScript gives", () => {
  let checked = 0;
  for (const op of names) {
    const { arity, conditional, gives, js, jsHelper, wasm, takes } = record(op);
    for (const dtype of takes) {
      if (isFunction(op, dtype)) continue;
      const dtypes = Array.from({ length: arity }, (_, i) => conditional && i === 0 ? "bool" : dtype);
      const result = gives === "same" ? dtype : gives;
      assertBits(
        `${op} of ${dtype}`,
        dtypes,
        result,
        words(dtypes),
        (v, x) => wasm(v, x, dtype),
        compiled(arity, (x) => js(x, dtype), result, jsHelper),
        { unsaid: (x) => eitherOfNone.includes(op) && x.some(Number.isNaN), zeroSigns: !eitherZero.includes(op) },
      );
      checked++;
    }
  }
  assert.ok(checked > 50, `${checked} ops`);
});

test("every cast gives to the bit what JavaScript gives, of all halves and of what is next to them and between two", () => {
  const halves = Array.from({ length: 2 ** 16 }, (_, i) => i);
  const toFloat = compiled(1, ([x]) => cast.js(x!, "f16", "f32"), "f32", cast.jsHelper("f16", "f32"));
  const around = halves.flatMap((half) => {
    const bits = bitsOf(Number(toFloat(half)));
    return [bits, bits + 1, bits + 0x0fff, bits + 0x1000, bits + 0x1001].map((x) => x >>> 0);
  });
  // Between subnormal halves, where a step has another number of bits.
  for (let k = 0; k < 1024; k++) {
    const middle = bitsOf((k + 0.5) * 2 ** -24);
    for (const x of [middle - 1, middle, middle + 1]) around.push(x, x + 0x80000000);
  }
  for (const from of dtypeNames) {
    for (const to of dtypeNames) {
      if (from === to) continue;
      // Of f16 JavaScript has only those from and to f32; a bool is no number yet.
      const through = (from === "f16" && to !== "f32") || (to === "f16" && from !== "f32");
      const step = (a: DType, b: DType) =>
        compiled(1, ([x]) => a === b ? x! : cast.js(x!, a, b), b, cast.jsHelper(a, b));
      const first = step(from, through ? "f32" : to);
      const js = through ? (x: number | boolean) => step32(first(x)) : first;
      const step32 = step("f32", to);
      const columns = from === "f16"
        ? [halves]
        : to === "f16" && from === "f32"
        ? [[...words([from])[0]!, ...around]]
        : words([from]);
      assertBits(`cast ${from} to ${to}`, [from], to, columns, (v, [x]) => cast.wasm(v, x!, from, to), js);
    }
  }
});

test("a bitcast keeps the word", () => {
  const kinds = ["f32", "i32", "u32"] as const;
  for (const from of kinds) {
    const [column] = words([from]);
    for (const to of kinds) {
      assert.deepEqual([...run([column!], (v, [x]) => bitcast.wasm(v, x!, from, to))], column, `${from} to ${to}`);
    }
  }
});

/** Where functions of f32 change their course, or what they give. */
const turns = [
  ...[
    2 ** -149,
    least,
    2 ** -64,
    2 ** -30,
    2 ** -24,
    2 ** -12,
    0.1,
    Math.LN2 / 2,
    Math.SQRT1_2,
    0.5,
    0.625,
    0.921875,
    1,
  ],
  ...[
    Math.SQRT2,
    Math.PI / 4,
    Math.PI / 2,
    Math.PI,
    2,
    2.4142135,
    3,
    3.92,
    4,
    4.125,
    8,
    9.01,
    10,
    16.6,
    17.33,
    20,
    24,
    64,
  ],
  ...[
    87.33,
    88,
    88.7228,
    89,
    89.41599,
    90,
    91,
    103.2789,
    103.97208,
    104,
    126,
    127,
    128,
    149,
    150,
    8192,
    65536,
    2 ** 20,
  ],
  ...[2 ** 23, 2 ** 24, 2 ** 27, 2 ** 28, 2 ** 31, 2 ** 63, 2 ** 100, 2 ** 126, 2 ** 127, most],
];

/** Where vector code in f32 is farthest off, and where sin and cos were until the last part of π/2 was not rounded with the rest: found by trying all numbers. */
const worst = [
  ...[4505.1689453125, 2228.8974609375, 757.6349487304688, 5559.57080078125, 26.7044734954834, 59.93586349487305],
  ...[0.6283095479011536, 0.9362017512321472, 0.7068458795547485],
];

/** Operands of functions of one operand. */
function points(): number[] {
  const draw = draws(seed);
  const x = [...special];
  for (const turn of signs([...turns, ...worst])) {
    for (let d = -8; d <= 8; d++) x.push(f32Of(Math.max(0, bitsOf(turn) + d)));
  }
  // Next to multiples of π/2, where sines and cosines are small.
  for (let n = 1; n < 6000; n++) {
    for (const d of [-1, 0, 1]) x.push((n % 2 ? -1 : 1) * f32Of(bitsOf(n * Math.PI / 2) + d));
  }
  for (let i = 0; i < 20000; i++) x.push(f32Of(Math.floor(draw() * 2 ** 32)));
  for (const range of [1, 4, 10, 110, 8192]) for (let i = 0; i < 8000; i++) x.push(range * (2 * draw() - 1));
  for (let i = 0; i < 20000; i++) {
    x.push(1 + (draw() - 0.5) * 2 ** (-24 * draw()), (draw() - 0.5) * 2 ** (-24 * draw()));
  }
  return x;
}

/** Operands of functions of two. */
function pairs(): [number, number][] {
  const draw = draws(seed);
  const both = [
    ...special,
    ...signs([2 ** -149, 1e-40, least, 1e-20, 0.5, 0.99999994, 1, 1.0000001, 1.5, 2, 2.5, 3, 4, 1e4]),
  ];
  both.push(...signs([16777215, 16777216, 2 ** 27, 2 ** 28, 3 * 2 ** 28, 1e20, 2 ** 127, most]));
  const x = both.flatMap((a) => both.map((b): [number, number] => [a, b]));
  const wild = () => f32Of(Math.floor(draw() * 2 ** 32));
  const scaled = () => (draw() - 0.5) * 2 ** (60 * draw() - 30);
  for (let i = 0; i < 20000; i++) {
    x.push([wild(), wild()], [scaled(), scaled()], [20 * draw() - 10, 20 * draw() - 10]);
    // Powers of what is next to 1 and of what is not, that are in range or just beyond it; of negative numbers those by an integer.
    const base = draw() < 0.5 ? 1 + (draw() - 0.5) * 2 ** (-22 * draw()) : 2 ** (200 * draw() - 100);
    const power = (draw() - 0.5) * 210 / Math.log(Math.fround(base));
    x.push([base, power], [draw() < 0.5 ? -base : base, Math.round(power)]);
    // Multiples and what is next to them.
    const divisor = scaled();
    x.push([divisor * Math.floor(2 ** (30 * draw())), divisor]);
  }
  return x;
}

/** The distance from what is right, in units of the last place of an f32 there; beyond the largest it is 2^128, or infinite. */
function distance(got: number, right: number): number {
  const clipped = (x: number) => Math.max(Math.min(x, 2 ** 128), -(2 ** 128));
  const [a, b] = [clipped(got), clipped(right)];
  const exponent = Math.min(Math.max(bitsOf(b) >>> 23 & 0xff, 1), 254);
  return Math.abs(a - b) / 2 ** (exponent - 150);
}

/** Where a function is only known for some operands. */
const domains: Partial<Record<ElementwiseName, (x: number) => boolean>> = {
  expUnder: (x) => !(x > 71 && x < Infinity),
};

const negative = (x: number) => x < 0 || Object.is(x, -0);

for (const op of names.filter((op) => isFunction(op, "f32"))) {
  const { arity, f64, wasm } = record(op);
  test(`${op} of f32 is within 2 units in the last place, with the right sign of 0, infinities and NaN`, () => {
    const known = domains[op] ?? (() => true);
    const rows: number[][] = arity === 1 ? points().filter((x) => known(Math.fround(x))).map((x) => [x]) : pairs();
    const columns = Array.from({ length: arity }, (_, i) => rows.map((row) => bitsOf(row[i]!)));
    let worst = 0;
    let at = "";
    run(columns, (v, x) => wasm(v, x, "f32")).forEach((bits, row) => {
      const x = columns.map((column) => f32Of(column[row]!));
      const got = f32Of(bits);
      const right = f64(...x);
      const what = `${op}(${x.join(", ")}): got ${got}, need ${Math.fround(right)}; seed ${seed}`;
      if (Number.isNaN(right) || Number.isNaN(got)) return assert.ok(Number.isNaN(right) && Number.isNaN(got), what);
      assert.equal(negative(got), negative(right), what);
      if (right === 0 || !Number.isFinite(right)) return assert.equal(got, right, what);
      const off = distance(got, right);
      if (off > worst) [worst, at] = [off, what];
    });
    assert.ok(worst <= 2, `${worst} units in the last place: ${at}`);
  });
}

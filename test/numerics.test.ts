/** What docs/numerics.md promises at the edges of f32 and of integers: on every device, eager and compiled. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Device } from "../src/devices/device/device.ts";
import * as s from "../src/index.ts";
import { type Tensor, tensor } from "../src/index.ts";
import { assertClose, onEachDevice } from "./harness.ts";

/** A function of vectors: its values, their gradients, and the gradient of the first one times (1, -2, 3, …). */
interface Case {
  readonly name: string;
  readonly f: (...x: Tensor[]) => Tensor;
  readonly x: readonly (readonly number[])[];
  readonly values?: readonly number[];
  readonly gradients?: readonly (readonly number[])[];
  readonly second?: readonly number[];
}

const weight = (i: number) => i % 2 === 0 ? i + 1 : -i - 1;

/** All that a case wants to be known, in order. */
function results({ f, values, gradients, second }: Case, x: readonly Tensor[]): Tensor[] {
  const y = f(...x);
  const grads = gradients === undefined && second === undefined ? [] : s.grad(y.sum(), [...x]);
  return [
    ...values === undefined ? [] : [y],
    ...gradients === undefined ? [] : gradients.map((_, i) => grads[i]!),
    ...second === undefined ? [] : [s.grad(grads[0]!.mul(tensor(second.map((_, i) => weight(i)))).sum(), x[0]!)],
  ];
}

function expected({ values, gradients, second }: Case): (readonly number[])[] {
  return [...values === undefined ? [] : [values], ...gradients ?? [], ...second === undefined ? [] : [second]];
}

/** Holds cases on a device to what they say: relatively, and below 1e-37 absolutely, where devices may flush to 0. */
async function check(device: Device, cases: readonly Case[], rtol = 1e-5): Promise<void> {
  s.setDefaultDevice(device);
  try {
    const inputs = cases.map(({ x }) => x.map((values) => tensor([...values])));
    const all = (...flat: Tensor[]) => {
      let at = 0;
      return cases.map((one) => results(one, flat.slice(at, at += one.x.length))).flat();
    };
    const compiled = s.compile((flat: Tensor[]) => all(...flat));
    const eager = all(...inputs.flat());
    await s.realize(...eager);
    for (const [how, given] of [["eager", eager], ["compiled", await compiled(inputs.flat())]] as const) {
      let at = 0;
      for (const one of cases) {
        for (const [i, values] of expected(one).entries()) {
          assertClose(await given[at++]!.data(), values, {
            rtol,
            atol: 1e-37,
            message: `${one.name}, ${how}, result ${i}`,
          });
        }
      }
    }
  } finally {
    s.setDefaultDevice(undefined);
  }
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const sum = (x: readonly number[]) => x.reduce((a, b) => a + b, 0);

/** The norm of x: value, gradient, and Hessian times weights. */
function normOf(x: readonly number[]): Omit<Case, "name" | "f"> {
  const n = Math.hypot(...x);
  const unit = x.map((value) => value / n);
  const along = sum(unit.map((u, i) => u * weight(i)));
  return { x: [x], values: [n], gradients: [unit], second: unit.map((u, i) => (weight(i) - u * along) / n) };
}

function stdOf(x: readonly number[], correction: number): Omit<Case, "name" | "f"> {
  const mean = sum(x.map((value) => value / x.length));
  const scale = Math.sqrt(x.length - correction);
  const { values, gradients } = normOf(x.map((value) => value - mean));
  return { x: [x], values: [values![0]! / scale], gradients: [gradients![0]!.map((u) => u / scale)] };
}

const squares: Case[] = [
  ...[[3e20, 4e20], [3e-25, -4e-25], [1e38, -2e38], [2e-38, 3e-38], [3, 4], [1e30, 1], [0.1, 0.2, 0.3, 0.4]].map((
    x,
  ) => ({
    name: `norm of ${x}`,
    f: (v: Tensor) => v.norm(),
    ...normOf(x),
  })),
  { name: "norm at 0", f: (x) => x.norm(), x: [[0, 0]], values: [0], gradients: [[0, 0]], second: [0, 0] },
  { name: "norm of infinity", f: (x) => x.norm(), x: [[1, -Infinity]], values: [Infinity] },
  { name: "norm of NaN", f: (x) => x.norm(), x: [[1, NaN, 2]], values: [NaN] },
  { name: "norm of nothing", f: (x) => x.norm(), x: [[]], values: [0] },
  {
    name: "norms of rows",
    f: (x) => x.reshape([3, 2]).norm({ axis: 1, keepDims: true }).reshape([3]),
    x: [[3e30, 4e30, 0, 0, 6e-30, 8e-30]],
    values: [5e30, 0, 1e-29],
    gradients: [[0.6, 0.8, 0, 0, 0.6, 0.8]],
  },
  ...[[1e30, -2e30, 5e30], [1e-30, -2e-30, 5e-30], [3e38, -3e38, 1e38]].map((x) => ({
    name: `std of ${x}`,
    f: (v: Tensor) => v.std({ correction: 1 }),
    ...stdOf(x, 1),
  })),
  { name: "std of equal numbers", f: (x) => x.std(), x: [[3e30, 3e30]], values: [0], gradients: [[0, 0]] },
  {
    name: "atan far out",
    f: (x) => x.atan().mul(1e10),
    x: [[1e4, -1e10, 1e15, 0, 0.5, 2]],
    gradients: [[1e2, 1e-10, 1e-20, 1e10, 8e9, 2e9]],
    second: [-2e-2, -4e-20, -6e-35, 0, -5 * 0.64e10, 6 * 4e10 / 25],
  },
  ...[1e20, 1, 1e-15, 1e37].map((r) => ({
    name: `atan2 of (3, 4) ${r}`,
    f: (a: Tensor, b: Tensor) => a.atan2(b),
    x: [[3 * r], [4 * r]],
    values: [Math.atan2(3, 4)],
    gradients: [[0.16 / r], [-0.12 / r]],
    second: [-0.24 * 0.16 / r / r],
  })),
  {
    name: "atan2 at infinity",
    f: (a, b) => a.atan2(b),
    x: [[Infinity, 1], [1, Infinity]],
    gradients: [[0, 0], [0, 0]],
  },
  ...[-1, -2, -3].map((n) => ({
    name: `x to the ${n}`,
    f: (x: Tensor) => x.pow(n),
    x: [[1e-9, 3, -1e8, 1e10]],
    values: [1e-9, 3, -1e8, 1e10].map((x) => x ** n),
    gradients: [[1e-9, 3, -1e8, 1e10].map((x) => n * x ** (n - 1))],
  })),
  { name: "1/x", f: (x) => x.reciprocal(), x: [[1e-12, 1e12]], gradients: [[-1e24, -1e-24]], second: [2e36, -4e-36] },
  { name: "a / b by b", f: (b, a) => a.div(b), x: [[1e25], [1e30]], gradients: [[-1e-20], [1e-25]] },
  { name: "rsqrt", f: (x) => x.rsqrt(), x: [[1e-24, 1e24]], gradients: [[-5e35, -5e-37]] },
  // 1 - x² of an x next to 1 has half its digits.
  {
    name: "asin next to 1",
    f: (x) => x.asin(),
    x: [[Math.fround(0.9999)]],
    gradients: [[1 / Math.sqrt((1 - Math.fround(0.9999)) * (1 + Math.fround(0.9999)))]],
  },
];

onEachDevice("squares beyond f32 on the way to results within", (device) => check(device, squares));

const far = [Infinity, -Infinity, 1e20, -1e20, 3e38, -3e38, 1000, -1000];
const steps = [1, 0, 1, 0, 1, 0, 1, 0];
const none = far.map(() => 0);
const gated = far.map((x) => Math.max(x, 0));
const infinities: Case[] = [
  { name: "gelu", f: (x) => x.gelu(), x: [far], values: gated, gradients: [steps], second: none },
  {
    name: "gelu by tanh",
    f: (x) => x.gelu({ approximate: "tanh" }),
    x: [far],
    values: gated,
    gradients: [steps],
    second: none,
  },
  { name: "silu", f: (x) => x.silu(), x: [far], values: gated, gradients: [steps], second: none },
  { name: "softplus", f: (x) => x.softplus(), x: [far], values: gated, gradients: [steps], second: none },
  { name: "relu", f: (x) => x.relu(), x: [far], values: gated, gradients: [steps] },
  { name: "sigmoid", f: (x) => x.sigmoid(), x: [far], values: steps, gradients: [none], second: none },
  { name: "tanh", f: (x) => x.tanh(), x: [far], values: far.map(Math.sign), gradients: [none], second: none },
  { name: "erf", f: (x) => x.erf(), x: [far], values: far.map(Math.sign), gradients: [none], second: none },
  {
    name: "atan",
    f: (x) => x.atan(),
    x: [far.slice(0, 6)],
    values: far.slice(0, 6).map(Math.atan),
    gradients: [none.slice(0, 6)],
    second: none.slice(0, 6),
  },
  {
    name: "the gate of silu",
    f: (x) => x.silu(),
    x: [[-80]],
    values: [-80 * Math.exp(-80)],
    gradients: [[-79 * Math.exp(-80)]],
  },
  ...["none", "tanh"].map((approximate): Case => ({
    name: "the gate of gelu",
    f: (x) => x.gelu({ approximate: approximate as "none" | "tanh" }),
    x: [[0, 31, 33, -33]],
    values: [0, 31, 33, 0],
    gradients: [[0.5, 1, 1, 0]],
    second: [2 / Math.sqrt(2 * Math.PI), 0, 0, 0],
  })),
  {
    name: "logSumExp of -Infinity",
    f: (x) => x.logSumExp(),
    x: [[-Infinity, -Infinity]],
    values: [-Infinity],
    gradients: [[0, 0]],
    second: [0, 0],
  },
  {
    name: "logSumExp to Infinity",
    f: (x) => x.logSumExp(),
    x: [[1, Infinity]],
    values: [Infinity],
    gradients: [[0, 0]],
  },
  // Of NaN, exp may be infinite.
  { name: "logSumExp of NaN", f: (x) => x.logSumExp().isFinite().cast("f32"), x: [[1, NaN]], values: [0] },
  {
    name: "logSumExp of rows",
    f: (x) => x.reshape([2, 2]).logSumExp({ axis: 1 }),
    x: [[-Infinity, -Infinity, -Infinity, 1e30]],
    values: [-Infinity, 1e30],
    gradients: [[0, 0, 0, 1]],
    second: [0, 0, 0, 0],
  },
  { name: "softmax of nothing but -Infinity", f: (x) => x.softmax(), x: [[-Infinity, -Infinity]], values: [NaN, NaN] },
  {
    name: "logSoftmax of nothing but -Infinity",
    f: (x) => x.logSoftmax(),
    x: [[-Infinity, -Infinity]],
    values: [NaN, NaN],
  },
  {
    name: "softmax beside -Infinity",
    f: (x) => x.softmax(),
    x: [[-Infinity, 0, 0]],
    values: [0, 0.5, 0.5],
    gradients: [[0, 0, 0]],
    second: [0, 0, 0],
  },
];

onEachDevice("no 0·∞ in compositions, their gradients and those of these", (device) => check(device, infinities));

/** Random numbers, the same in every run. */
function randoms(seed: number): () => number {
  let state = seed;
  return () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
}

/** f32 numbers of both signs with exponents in a range. */
function spread(n: number, seed: number, low: number, high: number): number[] {
  const next = randoms(seed);
  return range(n).map(() =>
    Math.fround((next() < 0.5 ? -1 : 1) * (1 + next()) * 2 ** Math.floor(low + (high - low) * next()))
  );
}

/** The next f32 towards 0. */
function towardsZero(x: number): number {
  const word = new Int32Array(Float32Array.of(x).buffer);
  word[0]! -= 1;
  return new Float32Array(word.buffer)[0]!;
}

/** JavaScript's % is exact. */
function modOf(a: number, b: number): number {
  const rest = a % b;
  if (rest === 0 || rest < 0 === b < 0) return rest;
  const raised = Math.fround(rest + b);
  return raised === b && Number.isFinite(b) ? towardsZero(b) : raised;
}

onEachDevice("mod of floats is exact and below its divisor; floorDiv goes with it", async (device) => {
  s.setDefaultDevice(device);
  const a = [
    1e9,
    -1e9,
    5,
    -5,
    5,
    -5,
    3e38,
    -1e-10,
    1e-30,
    7,
    1,
    0,
    -6,
    1e9,
    ...spread(400, 1, -40, 40),
    ...spread(100, 3, -120, 126),
  ];
  const b = [
    Math.PI,
    Math.PI,
    Infinity,
    Infinity,
    -Infinity,
    -Infinity,
    1e-30,
    1,
    -1e30,
    -2,
    0.1,
    3,
    3,
    -7,
    ...spread(400, 2, -40, 40),
    ...spread(100, 4, -20, 20),
  ].map(Math.fround);
  const x = a.map(Math.fround);
  const mod = await tensor(x).mod(tensor(b)).array() as number[];
  assert.deepEqual(mod.map((value) => value + 0), x.map((value, i) => modOf(value, b[i]!) + 0));
  for (const [i, value] of mod.entries()) {
    if (Number.isFinite(b[i]!)) {
      assert.ok(Math.abs(value) < Math.abs(b[i]!) && value * b[i]! >= 0, `${x[i]} mod ${b[i]} is ${value}`);
    }
  }
  assertClose(mod.slice(0, 2), [1.0242, Math.PI - 1.0242], { rtol: 1e-4 });
  const quotients = await tensor(x).floorDiv(tensor(b)).array() as number[];
  for (const [i, value] of quotients.entries()) {
    const rest = x[i]! % b[i]!;
    const exact = Number.isFinite(b[i]!)
      ? Math.round((x[i]! - rest) / b[i]!) - +(rest !== 0 && rest < 0 !== b[i]! < 0)
      : -(x[i]! < 0 !== b[i]! < 0);
    if (Math.abs(exact) < 2 ** 21) assert.equal(value + 0, exact + 0, `${x[i]} floorDiv ${b[i]}`);
    else assertClose([value], [Math.fround(exact)], { rtol: 1e-6, message: `${x[i]} floorDiv ${b[i]}` });
  }
  const odd = await tensor([1, 0, Infinity, NaN, 1]).mod(tensor([0, 0, 2, 2, NaN])).array();
  assert.deepEqual(odd, [NaN, NaN, NaN, NaN, NaN]);
  assert.deepEqual(
    await tensor([7, -7, 7, -7, 5, -2147483648], { dtype: "i32" }).mod(tensor([2, 2, -2, -2, 0, -1], { dtype: "i32" }))
      .array(),
    [1, 1, -1, -1, 0, 0],
  );
  assert.deepEqual(
    await tensor([7, -7, 7, -7, 5, -2147483648], { dtype: "i32" }).floorDiv(
      tensor([2, 2, -2, -2, 0, -1], { dtype: "i32" }),
    ).array(),
    [3, -4, -4, 3, 0, -2147483648],
  );
  s.setDefaultDevice(undefined);
});

const remainders: Case[] = [{
  name: "mod",
  f: (a, b) => a.mod(b),
  x: [[7.5, -7.5, 7.5, -7.5, -1e-10], [2, 2, -2, -2, 1]],
  values: [1.5, 0.5, -0.5, -1.5, 1 - 2 ** -24],
  gradients: [[1, 1, 1, 1, 1], [-3, 4, 4, -3, 1]],
  second: [0, 0, 0, 0, 0],
}];
onEachDevice("the gradient of mod is 1, and minus the whole quotient", async (device) => {
  await check(device, remainders);
  // Whole to the last bit, whatever a / b rounds to.
  const [x, y] = [[4000, 0], [1.3, 1.7]].map(([by, from]) =>
    tensor(Array.from({ length: 200 }, (_, i) => by! * Math.sin(12.9898 * i + 1) + from!), { device })
  ) as [Tensor, Tensor];
  const gradient = await s.grad(x.mod(y).sum(), y).data();
  assert.deepEqual([...gradient].filter((value) => !Number.isInteger(value)), []);
});

onEachDevice("sin, cos and tan of any finite number", async (device) => {
  s.setDefaultDevice(device);
  const x = [
    ...spread(600, 5, -10, 127),
    1e8,
    1e9,
    1e20,
    3e38,
    64,
    65,
    2 ** 127,
    Math.fround(1e22),
    Math.fround(5.3e36),
  ];
  const t = tensor(x);
  const [sin, cos, tan] = [await t.sin().data(), await t.cos().data(), await t.tan().data()];
  const exact = x.map(Math.fround);
  assertClose(sin, exact.map(Math.sin), { rtol: 0, atol: 2 ** -11 });
  assertClose(cos, exact.map(Math.cos), { rtol: 0, atol: 2 ** -11 });
  const tame = exact.flatMap((value, i) => Math.abs(Math.cos(value)) > 0.1 ? [i] : []);
  assertClose(tame.map((i) => tan[i]!), tame.map((i) => Math.tan(exact[i]!)), { rtol: 2 ** -8, atol: 2 ** -10 });
  const beyond = tensor([Infinity, -Infinity, NaN]);
  assert.deepEqual(
    [await beyond.sin().array(), await beyond.cos().array(), await beyond.tan().array()],
    range(3).map(() => [NaN, NaN, NaN]),
  );
  s.setDefaultDevice(undefined);
});

onEachDevice("the cube root of any number", async (device) => {
  s.setDefaultDevice(device);
  const x = [...spread(2000, 6, -126, 127), ...spread(500, 7, 0, 3), 2 ** -126, 3.4028234663852886e38].map(Math.fround);
  assertClose(await tensor(x).cbrt().data(), x.map(Math.cbrt), { rtol: 2 ** -21, atol: 0 });
  // What a device may take for 0 it may take for 0 here.
  const tiny = [1e-45, -1e-42, 3e-40, 1.1e-38].map(Math.fround);
  const roots = await tensor(tiny).cbrt().data();
  for (const [i, root] of roots.entries()) {
    if (root !== 0) assertClose([root], [Math.cbrt(tiny[i]!)], { rtol: 2 ** -21 });
  }
  s.setDefaultDevice(undefined);
});

const cubeRoots: Case[] = [
  {
    name: "whole ones",
    f: (x) => x.cbrt(),
    x: [[27, -8, 1, -1e9]],
    values: [3, -2, 1, -1000],
    gradients: [[1 / 27, 1 / 12, 1 / 3, 1 / 3e6]],
    second: [-2 / 2187, -2 * 2 / 288, 3 * -2 / 9, -4 * 2 / 9e15],
  },
  {
    name: "where it ends",
    f: (x) => x.cbrt(),
    x: [[0, -0, Infinity, -Infinity]],
    values: [0, -0, Infinity, -Infinity],
    gradients: [[Infinity, Infinity, 0, 0]],
  },
  {
    name: "its cube",
    f: (x) => x.cbrt().pow(3),
    x: [[5, -3e30, 1e-30]],
    values: [5, -3e30, 1e-30],
    gradients: [[1, 1, 1]],
  },
];
onEachDevice("the gradient of the cube root, and its gradient", (device) => check(device, cubeRoots));

const undefinedOnes: Case[] = [
  ...([
    "neg",
    "abs",
    "sign",
    "sqrt",
    "cbrt",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "erf",
    "floor",
    "ceil",
    "trunc",
    "round",
    "gelu",
    "silu",
    "square",
    "reciprocal",
    "rsqrt",
  ] as const)
    .map((op): Case => ({ name: `${op} of NaN`, f: (x) => x[op](), x: [[NaN]], values: [NaN] })),
  {
    name: "arithmetic of NaN",
    f: (x) => s.concat([x.add(1), x.sub(1), x.mul(2), x.div(3), x.pow(2.5), x.mod(2)]),
    x: [[NaN]],
    values: [NaN, NaN, NaN, NaN, NaN, NaN],
  },
  {
    name: "x times 0",
    f: (x) => x.mul(0),
    x: [[NaN, Infinity, -Infinity, 3e38, 1e-38, 0, -1]],
    values: [NaN, NaN, NaN, 0, 0, 0, 0],
  },
  {
    name: "x times zeros",
    f: (x) => s.zeros([4]).mul(x),
    x: [[NaN, Infinity, -Infinity, 2]],
    values: [NaN, NaN, NaN, 0],
  },
  { name: "x - x", f: (x) => x.sub(x), x: [[NaN, Infinity, -Infinity, 3e38, -0]], values: [NaN, NaN, NaN, 0, 0] },
  { name: "0 / x", f: (x) => s.full([5], 0).div(x), x: [[NaN, 0, Infinity, 2, 1e-30]], values: [NaN, NaN, 0, 0, 0] },
  { name: "zeros / x", f: (x) => s.zeros([5]).div(x), x: [[NaN, 0, -Infinity, 2, 1e-30]], values: [NaN, NaN, 0, 0, 0] },
  {
    name: "logarithms",
    f: (x) => x.log(),
    x: [[0, -0, -1, -Infinity, Infinity]],
    values: [-Infinity, -Infinity, NaN, NaN, Infinity],
  },
  { name: "log1p", f: (x) => x.log1p(), x: [[-1, -1.5, -Infinity, Infinity]], values: [-Infinity, NaN, NaN, Infinity] },
  { name: "roots and arcs", f: (x) => s.concat([x.sqrt(), x.asin(), x.acos()]), x: [[-2]], values: [NaN, NaN, NaN] },
  {
    name: "sinh and cosh to the end of f32",
    f: (x) => s.concat([x.sinh(), x.cosh()]),
    x: [[89.3, -89.3]],
    values: [1, -1, 1, 1].map((sign) => sign * Math.cosh(Math.fround(89.3))),
  },
];

onEachDevice("NaN comes through, also where x is told to vanish", (device) => check(device, undefinedOnes, 2e-5));

onEachDevice("integers against numbers that f32 does not hold", async (device) => {
  s.setDefaultDevice(device);
  const numbers = [
    2147483648,
    2147483647,
    2147483646.5,
    16777216.5,
    0.5,
    0,
    -0.5,
    -1,
    -2147483648,
    -2147483648.5,
    -2147483649,
    4294967295,
    4294967296,
    1e300,
    Infinity,
    -Infinity,
    NaN,
  ];
  const operands = {
    i32: [2147483647, 2147483646, 16777217, 16777216, 1, 0, -1, -16777217, -2147483647, -2147483648],
    u32: [4294967295, 4294967294, 2147483648, 2147483647, 16777217, 1, 0],
    bool: [0, 1],
  } as const;
  for (const [dtype, values] of Object.entries(operands) as [keyof typeof operands, readonly number[]][]) {
    const x = tensor([...values], { dtype });
    const wrong: string[] = [];
    const made = numbers.map((
      n,
    ) => [x.less(n), x.lessEqual(n), x.greater(n), x.greaterEqual(n), x.equal(n), x.notEqual(n)]);
    await s.realize(...made.flat());
    for (const [i, n] of numbers.entries()) {
      const right = [
        (v: number) => v < n,
        (v: number) => v <= n,
        (v: number) => v > n,
        (v: number) => v >= n,
        (v: number) => v === n,
        (v: number) => v !== n,
      ];
      for (const [k, test] of right.entries()) {
        const got = [...await made[i]![k]!.data()];
        if (got.some((value, at) => value !== Number(test(values[at]!)))) {
          wrong.push(`comparison ${k} of ${dtype} with ${n}: ${got}`);
        }
      }
    }
    assert.deepEqual(wrong, []);
  }
  const i = tensor([2147483647, -2147483648, 16777217], { dtype: "i32" });
  assert.deepEqual(await i.minimum(2147483648).array(), [2147483647, -2147483648, 16777217]);
  assert.deepEqual(await i.maximum(-Infinity).array(), [2147483647, -2147483648, 16777217]);
  assert.deepEqual(await i.clamp({ min: 0, max: 1e12 }).array(), [2147483647, 0, 16777217]);
  assert.deepEqual(await tensor([4294967295, 0], { dtype: "u32" }).clamp({ min: -0.5, max: 4294967296 }).array(), [
    4294967295,
    0,
  ]);
  assert.deepEqual(await i.maximum(3e9).array(), [3e9, 3e9, 3e9]);
  s.setDefaultDevice(undefined);
});

onEachDevice("arange holds its numbers", async (device) => {
  s.setDefaultDevice(device);
  const values = async (x: Tensor) => ({ dtype: x.dtype, values: await x.array() });
  assert.deepEqual(await values(s.arange(2147483650, { start: 2147483646 })), {
    dtype: "u32",
    values: [2147483646, 2147483647, 2147483648, 2147483649],
  });
  assert.deepEqual(await values(s.arange(2147483645, { start: 2147483648, step: -1 })), {
    dtype: "u32",
    values: [2147483648, 2147483647, 2147483646],
  });
  assert.deepEqual(await values(s.arange(2147483648, { start: 2147483646 })), {
    dtype: "i32",
    values: [2147483646, 2147483647],
  });
  assert.deepEqual(await values(s.arange(2147483648, { start: -2147483648, step: 4294967295 })), {
    dtype: "i32",
    values: [-2147483648, 2147483647],
  });
  assert.deepEqual(await values(s.arange(6e9, { start: -6e9, step: 6e9 })), {
    dtype: "f32",
    values: [-6e9, 0].map(Math.fround),
  });
  s.setDefaultDevice(undefined);
});

test("arange refuses numbers that the dtype asked for does not hold", () => {
  assert.throws(() => s.arange(2147483650, { start: 2147483640, dtype: "i32" }), s.ArgumentError);
  assert.throws(() => s.arange(3, { start: -1, dtype: "u32" }), s.ArgumentError);
  assert.throws(() => s.arange(3, { step: 0.5, dtype: "i32" }), s.ArgumentError);
});

onEachDevice("norms and deviations of rows, with their gradients, take few kernels", async (device) => {
  s.setDefaultDevice(device);
  const x = await tensor(range(64 * 100).map((i) => Math.sin(i)), { shape: [64, 100] }).realize();
  const kernels = async (f: (x: Tensor) => Tensor) => {
    const compiled = s.compile(f);
    await compiled(x);
    const before = device.stats().dispatches;
    await compiled(x);
    return device.stats().dispatches - before;
  };
  const counts = {
    norm: await kernels((x) => x.norm({ axis: 1 })),
    normed: await kernels((x) => x.div(x.norm({ axis: 1, keepDims: true }))),
    gradient: await kernels((x) => s.grad(x.norm({ axis: 1 }).sum(), x)),
    std: await kernels((x) => x.std({ axis: 1 })),
    whole: await kernels((x) => x.norm()),
    logSumExp: await kernels((x) => x.logSumExp({ axis: 1 })),
    gelu: await kernels((x) => s.grad(x.gelu().sum(), x)),
  };
  assert.deepEqual(counts, { norm: 1, normed: 1, gradient: 1, std: 1, whole: 2, logSumExp: 1, gelu: 1 });
  s.setDefaultDevice(undefined);
});

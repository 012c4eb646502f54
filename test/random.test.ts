/** Random numbers: known vectors, the same bits everywhere, and distributions. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as g from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import { type Node, toposort } from "../src/graph/node.ts";
import { threefry2x32 } from "../src/graph/ops.ts";
import { ArgumentError, compile, random, setDefaultDevice, type Tensor, tensor } from "../src/index.ts";
import { fromHost } from "../src/tensor/create.ts";
import { storageOf } from "../src/tensor/eager/record.ts";
import { Tensor as TensorClass } from "../src/tensor/tensor.ts";
import { trace } from "../src/tensor/transform/trace.ts";
import { assertClose, onEachDevice, testDevices } from "./harness.ts";

/** Key and counter words, and the first word of the result: the known answers that come with Random123 for threefry2x32 with 20 rounds. */
const known = [
  { key: [0, 0], counter: [0, 0], word: 0x6b200159 },
  { key: [0xffffffff, 0xffffffff], counter: [0xffffffff, 0xffffffff], word: 0x1cb996fc },
  { key: [0x13198a2e, 0x03707344], counter: [0x243f6a88, 0x85a308d3], word: 0xc4923a9c },
] as const;

test("threefry gives the known answers", () => {
  for (const { key, counter, word } of known) assert.equal(threefry2x32(key[0], key[1], counter[0], counter[1]), word);
});

onEachDevice("threefry gives the known answers on a device", async (device) => {
  const column = (pick: (vector: (typeof known)[number]) => number) =>
    fromHost(Uint32Array.from(known, pick), [3], "u32", device).node;
  const node = g.elementwise(
    "threefry",
    column((v) => v.key[0]),
    column((v) => v.key[1]),
    column((v) => v.counter[0]),
    column((v) => v.counter[1]),
  );
  assert.deepEqual([...await new TensorClass(node).data()], known.map((vector) => vector.word));
});

/** One draw of each kind from a seed. */
function draws(): Record<string, Tensor> {
  random.seed(42);
  return {
    bits: random.bits([3, 5]),
    uniform: random.uniform([1000]),
    scaled: random.uniform([1000], { low: -2, high: 3 }),
    bernoulli: random.bernoulli([1000], 0.3),
    integers: random.integers([1000], { low: -3, high: 4 }),
    permutation: random.permutation(100),
    normal: random.normal([1000]),
    like: random.uniformLike(tensor([[1, 2], [3, 4]])),
  };
}

test("bits and uniforms are the same on every device and in the interpreter; normals agree closely", async () => {
  const reference = Object.fromEntries(
    Object.entries(draws()).map(([name, { node }]) => [name, withKeys(node)]),
  );
  for (const device of await testDevices()) {
    setDefaultDevice(device);
    for (const [name, value] of Object.entries(draws())) {
      const data = await value.data();
      const message = `${name} on ${device.name}`;
      if (name === "normal") assertClose(data, reference[name]!, { atol: 2e-3, rtol: 1e-4, message });
      else if (name === "scaled") assertClose(data, reference[name]!, { atol: 1e-6, message });
      else {assert.deepEqual(
          [...data],
          [...reference[name]!].map((x) => value.dtype === "f32" ? Math.fround(x) : x),
          message,
        );}
    }
    setDefaultDevice(undefined);
  }
});

/** The value of a graph by the interpreter; its leaves are keys of draws, which the host holds. */
function withKeys(root: Node): Float64Array {
  const given = new Map<Node, ArrayLike<number>>();
  for (const node of toposort([root])) if (node.op === "storage") given.set(node, storageOf(node).host!);
  return interpret([root], given)[0]!;
}

const n = 100_000;
/** Mean and variance of a sample. */
function moments(data: ArrayLike<number>): { mean: number; variance: number } {
  const values = Array.from(data);
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
  return { mean, variance: values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length };
}

onEachDevice("distributions have the right moments", async (device) => {
  setDefaultDevice(device);
  random.seed(1);
  // Five standard errors of each estimate.
  const near = (actual: number, expected: number, spread: number, what: string) =>
    assert.ok(Math.abs(actual - expected) < 5 * spread / Math.sqrt(n), `${what}: ${actual}, need ${expected}`);
  const uniform = await random.uniform([n]).data();
  near(moments(uniform).mean, 0.5, Math.sqrt(1 / 12), "mean of uniforms");
  near(moments(uniform).variance, 1 / 12, Math.sqrt(1 / 180), "variance of uniforms");
  assert.ok(uniform.every((x) => x >= 0 && x < 1));
  const normal = await random.normal([n]).data();
  near(moments(normal).mean, 0, 1, "mean of normals");
  near(moments(normal).variance, 1, Math.SQRT2, "variance of normals");
  near([...normal].filter((x) => Math.abs(x) < 1).length / n, 0.6827, Math.sqrt(0.6827 * 0.3173), "normals within 1");
  assert.ok(normal.every(Number.isFinite));
  const bernoulli = await random.bernoulli([n], 0.2).data();
  near(moments(bernoulli).mean, 0.2, 0.4, "mean of bernoulli");
  const integers = await random.integers([n], { low: 2, high: 5 }).data();
  near(moments(integers).mean, 3, Math.sqrt(2 / 3), "mean of integers");
  assert.deepEqual([...new Set(integers)].sort(), [2, 3, 4]);
  setDefaultDevice(undefined);
});

test("a seed fixes everything, and every draw differs", async () => {
  const sample = async () => [...await random.uniform([8]).data(), ...await random.normal([8]).data()];
  random.seed(3);
  const first = await sample();
  const second = await sample();
  random.seed(3);
  assert.deepEqual(await sample(), first);
  assert.notDeepEqual(first, second);
  random.seed(4);
  assert.notDeepEqual(await sample(), first);
});

test("a tensor that was drawn does not change when it is read twice", async () => {
  const x = random.uniform([4]);
  assert.deepEqual(await x.add(0).data(), await x.data());
});

test("a permutation holds every number once", async () => {
  const order = await random.permutation(257).data();
  assert.deepEqual([...order].sort((a, b) => a - b), Array.from({ length: 257 }, (_, i) => i));
  assert.notDeepEqual([...order], [...order].sort((a, b) => a - b));
  assert.deepEqual([...await random.permutation(0).data()], []);
});

onEachDevice("a compiled function draws anew in every call, as the seed says", async (device) => {
  setDefaultDevice(device);
  const draw = compile(() => [random.uniform([4]), random.uniform([4])]);
  const call = async () => (await Promise.all((await draw()).map((x) => x.data()))).map((data) => [...data]);
  random.seed(9);
  const first = await call();
  const second = await call();
  assert.notDeepEqual(first[0], first[1], "two places in one call");
  assert.notDeepEqual(first, second, "two calls");
  random.seed(9);
  assert.deepEqual(await call(), first);
  setDefaultDevice(undefined);
});

test("values like a tensor with rows do not depend on how the rows are cut", async () => {
  const key = tensor([5, 6], { dtype: "u32" });
  const rows = (x: Tensor, from: number) => {
    const index = g.elementwise("add", g.iota(x.shape[0]!, "u32"), g.full([x.shape[0]!], from, "u32"));
    return trace(() => [random.uniformLike(x), random.normalLike(x)], {
      random: { key, sampleIndex: () => ({ index, axis: 0 }) },
    }).result;
  };
  const whole = await Promise.all(rows(tensor(new Float32Array(21), { shape: [7, 3] }), 0).map(evaluateTraced));
  const parts = await Promise.all(
    [[0, 4], [4, 3]].map(async ([from, count]) =>
      await Promise.all(rows(tensor(new Float32Array(count! * 3), { shape: [count!, 3] }), from!).map(evaluateTraced))
    ),
  );
  whole.forEach((values, i) => assert.deepEqual([...parts[0]![i]!, ...parts[1]![i]!], [...values]));
});

/** The value of a traced tensor that captured nothing but the key. */
function evaluateTraced(x: Tensor): Float64Array {
  const given = new Map<Node, ArrayLike<number>>();
  for (const node of toposort([x.node])) if (node.op === "input") given.set(node, [5, 6]);
  return interpret([x.node], given)[0]!;
}

test("arguments that make no sense are refused", () => {
  assert.throws(() => random.seed(-1), ArgumentError);
  assert.throws(() => random.seed(0.5), ArgumentError);
  assert.throws(() => random.uniform([2], { low: 1, high: 0 }), ArgumentError);
  assert.throws(() => random.bernoulli([2], 1.5), ArgumentError);
  assert.throws(() => random.bernoulli([2], NaN), ArgumentError);
  assert.throws(() => random.integers([2], { high: 0 }), ArgumentError);
});

onEachDevice("uniforms are finite, not below low, and below high, for any bounds", async (device) => {
  setDefaultDevice(device);
  random.seed(7);
  const bounds = [
    [0, 1],
    [-1, 1],
    [-3e38, 3e38],
    [-3.4028234e38, 3.4028234e38],
    [0, 3.4028234e38],
    [1, 1 + 2 ** -23],
    [1, 1 + 2 ** -22],
    [16777215, 16777216],
    [1e8, 1e8 + 16],
    [-1e8 - 8, -1e8],
    [0, 0.1],
    [0.1, 0.3],
    [-0.1, 0.1],
    [-0.3, -0.1],
    [1e-30, 3e-30],
    [-1e-3, 1e30],
    [100, 100.00002],
    [0, 1e-37],
    [-7, 0],
  ] as const;
  const drawn = bounds.map(([low, high]) => random.uniform([20000], { low, high }));
  for (const [i, [low, high]] of bounds.entries()) {
    const data = Array.from(await drawn[i]!.data());
    const [least, most] = data.reduce(
      ([a, b], x) => [Math.min(a, x), Math.max(b, x)],
      [Infinity, -Infinity] as [number, number],
    );
    assert.ok(least >= low && most < high, `${low} to ${high}: drew ${least} to ${most}`);
    const mean = data.reduce((total, x) => total + x / data.length, 0);
    // Where there are but two or three numbers to draw, they are not spread evenly.
    if (high - low > 1e-6 * Math.abs(high)) {
      assert.ok(Math.abs((mean - low) / (high - low) - 0.5) < 0.02 || high < 1e-30, `${low} to ${high}: mean ${mean}`);
    }
  }
  // No f32 but `low` is, or none at all.
  assert.deepEqual(await random.uniform([3], { low: 5, high: 5 }).array(), [5, 5, 5]);
  assert.deepEqual(await random.uniform([3], { low: 1, high: 1 + 1e-12 }).array(), [1, 1, 1]);
  const between = Number((await random.uniform([1], { low: 0.1, high: 0.1 + 1e-12 }).data())[0]);
  assert.ok(between < 0.1 + 1e-12 && between > 0.0999999);
  setDefaultDevice(undefined);
});

test("uniforms of bounds beyond f32 are refused", () => {
  for (const bounds of [{ high: 1e39 }, { low: -1e39 }, { high: Infinity }, { low: NaN }, { low: 2, high: 1 }]) {
    assert.throws(() => random.uniform([1], bounds), ArgumentError);
  }
});

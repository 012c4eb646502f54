/**
 * Everything that is exported, but for the namespaces nn, optim, data and io, is called in all wrong ways: a new function or
 * method that is neither in the table of usages nor among the exceptions fails here.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as shardwise from "../src/index.ts";
import { devices, parallel, random, ShardwiseError, Tensor, tensor } from "../src/index.ts";
import { testDevices } from "./harness.ts";
import { assertGuarded, type Usage } from "./misuse.ts";

const x = tensor([[1, 2], [3, 4]]);
const whole = tensor([[1, 2], [3, 4]], { dtype: "i32" });
const labels = tensor([0, 1], { dtype: "i32" });
const image = tensor(new Float32Array(16), { shape: [1, 4, 4, 1] });
const filters = tensor(new Float32Array(4), { shape: [2, 2, 1, 1] });
const [cpu] = await devices({ kind: "cpu" });
const device = cpu!;
shardwise.setDefaultDevice(device);
const square = (a: Tensor) => a.mul(a);
const loss = (a: Tensor) => a.mul(a).sum();

type Usages = Readonly<Record<string, Usage & { readonly of?: unknown }>>;

/** What takes a shape as one list or as numbers: a number among others is not wrong, two lists are. */
const topLevel: Usages = {
  tensor: { args: [[1, 2], { dtype: "f32", shape: [2], device }] },
  full: { args: [[2, 3], 1, { dtype: "f32", device }] },
  zeros: { args: [[2, 3], { dtype: "f32", device }] },
  ones: { args: [[2, 3], { dtype: "f32", device }] },
  arange: { args: [5, { start: 1, step: 2, dtype: "f32", device }] },
  linspace: { args: [0, 1, 3, { device }] },
  eye: { args: [2, { columns: 3, dtype: "f32", device }] },
  concat: { args: [[x, x], { axis: 1 }] },
  stack: { args: [[x, x], { axis: 1 }] },
  oneHot: { args: [labels, 3, { dtype: "f32" }] },
  einsum: { args: ["ij,jk->ik", x, x], rest: true },
  where: { args: [x, x, 0] },
  realize: { args: [x, x.add(1)], rest: true, promise: true },
  grad: { args: [loss(x), [x]] },
  valueAndGrad: { args: [loss] },
  vjp: { trees: [1, 2], args: [square, x, x] },
  jvp: { trees: [1, 2], args: [square, x, x] },
  checkpoint: { args: [square] },
  compile: { args: [square] },
  explain: { args: [square, x], free: [1], rest: true, promise: true },
  profile: { args: [() => x.add(1), { repeat: 1, warmup: 0, clock: "wall" }], promise: true },
  tune: { args: [square, x], free: [1], rest: true, promise: true },
  flattenTree: { args: ["flattenTree", [x], { statics: false }] },
  mapTree: { args: [[x], (leaf: Tensor) => leaf] },
  devices: { args: [{ kind: "cpu", virtual: 1, memoryBytes: 2 ** 32 }], promise: true },
  defaultDevice: { args: [], promise: true },
  setDefaultDevice: { args: [device] },
};

const ofParallel: Usages = {
  shardSizes: { args: [7, { capacities: [1, 2] }] },
  scatter: { trees: [0], args: [x, [device], { axis: 0, replicated: [], capacities: [1] }] },
  gather: { args: [[x, x], { axis: 0, replicated: [], device }] },
  reduce: { args: [[x, x], { weights: [1, 2], op: "mean" }], promise: true },
  replicate: {
    args: [square, [device], { rowsAtOnce: 8, seed: 1, capacities: [1], stepTimeout: 1000, onDeviceLost: () => {} }],
  },
  mean: { args: [x, { weights: tensor([1, 1]) }] },
  allGather: { args: [x, { axis: 0 }] },
  allReduce: { args: [x, { op: "mean", count: tensor(2) }] },
  rowIndex: { args: [x] },
};

const ofRandom: Usages = {
  seed: { args: [0] },
  currentSeed: { args: [] },
  bits: { args: [[2, 3]] },
  uniform: { args: [[2, 3], { low: 0, high: 2 }] },
  normal: { args: [[2, 3]] },
  bernoulli: { args: [[2, 3], 0.5] },
  integers: { args: [[2, 3], { low: 0, high: 2 }] },
  permutation: { args: [4] },
  uniformLike: { args: [x] },
  normalLike: { args: [x] },
  bernoulliLike: { args: [x, 0.5] },
};

const unary: Usage = { args: [] };
const binary: Usage = { args: [x] };
const ofInts = { args: [whole], of: whole };
const reduction: Usage = { args: [{ axis: 0, keepDims: true }] };
const alongAxis: Usage = { args: [{ axis: 0 }] };

const ofTensor: Usages = {
  ...Object.fromEntries(
    ("neg abs sign sqrt cbrt rsqrt square reciprocal exp expm1 log log1p sin cos tan asin acos atan sinh cosh tanh erf floor ceil trunc round relu " +
      "sigmoid silu softplus isNaN isFinite not detach stopGradient contiguous").split(" ").map((
        name,
      ) => [name, unary]),
  ),
  ...Object.fromEntries(
    "add sub mul div floorDiv mod pow maximum minimum atan2 less lessEqual greater greaterEqual equal notEqual and or xor"
      .split(" ").map((name) => [name, binary]),
  ),
  ...Object.fromEntries("bitAnd bitOr bitXor shiftLeft shiftRight".split(" ").map((name) => [name, ofInts])),
  ...Object.fromEntries(
    "sum mean prod max min all any logSumExp argmax argmin".split(" ").map((name) => [name, reduction]),
  ),
  ...Object.fromEntries("softmax logSoftmax cumsum cumprod".split(" ").map((name) => [name, alongAxis])),
  bitNot: { args: [], of: whole },
  gelu: { args: [{ approximate: "tanh" }] },
  clamp: { args: [{ min: 0, max: 1 }] },
  where: { args: [x, 0] },
  cast: { args: ["i32"] },
  bitcast: { args: ["i32"] },
  reshape: { args: [[4]] },
  flatten: { args: [{ start: 0, end: 1 }] },
  transpose: { args: [[1, 0]] },
  permute: { args: [[1, 0]] },
  broadcastTo: { args: [[3, 2, 2]] },
  expand: { args: [[3, 2, 2]] },
  squeeze: { args: [[]] },
  unsqueeze: { args: [0] },
  flip: { args: [[0]] },
  slice: { args: [{ axis: 0, start: 0, end: 1, step: 1 }] },
  at: { args: [0, { axis: 1 }] },
  take: { args: [[0, 1], { axis: 1 }] },
  gather: { args: [whole.sub(1).clamp({ max: 1 }), { axis: 0 }] },
  scatterAdd: { args: [whole.mul(0), x, { axis: 0 }] },
  scatterMax: { args: [whole.mul(0), x, { axis: 0 }] },
  oneHot: { args: [3, { dtype: "i32" }], of: labels },
  windows: { args: [{ axis: 0, length: 1, stride: 1, dilation: 1 }] },
  pad: { args: [[[0, 1], [1, 0]], { value: 2 }] },
  split: { args: [2, { axis: 1 }] },
  repeat: { args: [2, { axis: 1 }] },
  tile: { args: [[2, 1]] },
  variance: { args: [{ axis: 0, keepDims: true, correction: 1 }] },
  std: { args: [{ axis: 0, keepDims: true, correction: 1 }] },
  norm: { args: [{ axis: 0, keepDims: true, ord: 2 }] },
  sort: { args: [{ axis: 0, descending: true }] },
  argsort: { args: [{ axis: 0, descending: true }] },
  matmul: { args: [x] },
  dot: { args: [x] },
  conv1d: {
    args: [filters.reshape([4, 1, 1]), { stride: 1, padding: 0, dilation: 1, groups: 1 }],
    of: image.reshape([1, 16, 1]),
  },
  conv2d: { args: [filters, { stride: [1, 1], padding: [0, 1], dilation: [1, 1], groups: 1 }], of: image },
  convTranspose2d: { args: [filters, { stride: 1, padding: 0, dilation: 1 }], of: image },
  maxPool2d: { args: [{ size: 2, stride: 1, padding: 0 }], of: image },
  avgPool2d: { args: [{ size: [2, 2], stride: [1, 1], padding: [0, 1] }], of: image },
  scaledDotProductAttention: {
    args: [x, x, {
      mask: tensor([[true, true], [true, true]]),
      causal: true,
      scale: 1,
      scores: "stored",
      onWeights: (w: Tensor) => w,
    }],
  },
  to: { args: [device] },
  assign: { args: [tensor([[1, 2], [3, 4]])] },
  data: { args: [], promise: true },
  array: { args: [], promise: true },
  item: { args: [], promise: true, of: tensor(3) },
  realize: { args: [], promise: true },
  dispose: { args: [], of: tensor(3) },
};

const engine = "@internal: the engine alone calls it";
const javascript = "JavaScript calls it, with what arguments it likes";
const buffers = "buffers and plans are the engine's, which calls it all the time";

/** What is not checked, and why. */
const exceptions: Readonly<Record<string, string>> = {
  isTensor: "it is asked of anything, and given to filter and some, which call it with more",
  Tensor: "@internal: functions make tensors; one that is called with something else says so, below",
  Explanation: engine,
  Profile: engine,
  Tuning: engine,
  "Tensor.bind": engine,
  "Tensor.settle": engine,
  "Tensor.promise": engine,
  "Tensor.aliasOf": engine,
  "Tensor.toString": javascript,
  "Tensor.toJSON": "it always throws, below",
  "Explanation.toString": javascript,
  "Profile.toString": javascript,
  "Tuning.toString": javascript,
  "device.alloc": buffers,
  "device.free": buffers,
  "device.write": buffers,
  "device.read": buffers,
  "device.load": buffers,
  "device.run": buffers,
  "device.runAndRead": buffers,
  "device.lose": "@internal: a stand-in for what drivers do",
};

type Called = (...args: unknown[]) => unknown;

/** One test for each of these functions that are no exceptions; fails for those without a usage. */
function testAll(
  prefix: string,
  functions: Readonly<Record<string, Called>>,
  usages: Usages,
  spelled: (name: string) => string,
): void {
  for (const [name, call] of Object.entries(functions)) {
    const key = `${prefix}${name}`;
    const usage = usages[name];
    if (exceptions[key] !== undefined) continue;
    test(`${key} tells of wrong use`, async () => {
      assert.ok(usage !== undefined, `${key} is neither in the table of usages nor among the exceptions`);
      await assertGuarded(spelled(name), call, usage);
    });
  }
  test(`${prefix || "the top level"}: the table has nothing that is gone`, () => {
    assert.deepEqual(Object.keys(usages).filter((name) => functions[name] === undefined), []);
  });
}

function functionsOf(namespace: object): Record<string, Called> {
  return Object.fromEntries(
    Object.entries(namespace).filter(([, value]) =>
      typeof value === "function" && !(value === ShardwiseError || value.prototype instanceof ShardwiseError)
    ),
  ) as Record<string, Called>;
}

/** The methods of a class, bound to what each is called of. */
function methodsOf(prototype: object, of: (name: string) => unknown): Record<string, Called> {
  const names = Object.entries(Object.getOwnPropertyDescriptors(prototype))
    .filter(([name, { value }]) => typeof value === "function" && name !== "constructor").map(([name]) => name);
  return Object.fromEntries(
    names.map((name) => [name, (...args) => (of(name) as Record<string, Called>)[name]!(...args)]),
  );
}

testAll("", functionsOf(shardwise), topLevel, (name) => name);
testAll("parallel.", {
  ...functionsOf(parallel),
  RowMean: (...args) => Reflect.construct(parallel.RowMean, args) as unknown,
}, {
  ...ofParallel,
  RowMean: { args: [x, x] },
}, (name) => `parallel.${name}`);
testAll("random.", functionsOf(random), ofRandom, (name) => `random.${name}`);
testAll(
  "Tensor.",
  methodsOf(Tensor.prototype, (name) => ofTensor[name]?.of ?? tensor([[1, 2], [3, 4]])),
  ofTensor,
  (name) => name,
);

const profiled = await shardwise.profile(() => x.add(1), { warmup: 0 });
testAll("Profile.", methodsOf(shardwise.Profile.prototype, () => profiled), {
  table: { args: [] },
  chromeTrace: { args: [] },
}, (name) => `profile.${name}`);
testAll("Explanation.", methodsOf(shardwise.Explanation.prototype, () => undefined), {}, (name) => name);
testAll("Tuning.", methodsOf(shardwise.Tuning.prototype, () => undefined), {}, (name) => name);

test("namespaces and classes are all gone through", () => {
  const namespaces = Object.entries(shardwise).filter(([, value]) => typeof value === "object").map(([name]) => name);
  // The last four are in surface-nn.test.ts.
  assert.deepEqual(namespaces.sort(), ["parallel", "random", "nn", "optim", "data", "io"].sort());
  const classes = Object.entries({ ...shardwise, ...parallel, ...random })
    .filter(([, value]) =>
      typeof value === "function" && /^class\b/.test(Function.prototype.toString.call(value)) &&
      !(value.prototype instanceof Error)
    )
    .map(([name]) => name);
  assert.deepEqual(classes.sort(), ["Explanation", "Profile", "RowMean", "Tensor", "Tuning"]);
});

for (const opened of await testDevices()) {
  const usages: Usages = {
    sync: { args: [], promise: true },
    stats: { args: [] },
    // The next two end it: a wrong call comes first, and must not.
    abandon: { args: ["given up"] },
    close: { args: [] },
  };
  const prototype = Object.getPrototypeOf(opened) as object;
  const methods = methodsOf(prototype, () => opened);
  const { abandon: _, close: __, ...staying } = methods;
  testAllOf(opened.kind, staying, usages);
  test(`device.close and device.abandon tell of wrong use, and end nothing then [${opened.kind}]`, () => {
    for (
      const wrong of [
        () => methods["close"]!(1),
        () => methods["abandon"]!(),
        () => methods["abandon"]!(null),
        () => methods["abandon"]!("a", 1),
      ]
    ) {
      assert.throws(wrong, shardwise.ArgumentError);
    }
    assert.equal(opened.isLost, false);
  });
}

function testAllOf(kind: string, methods: Readonly<Record<string, Called>>, usages: Usages): void {
  for (const [name, call] of Object.entries(methods)) {
    if (exceptions[`device.${name}`] !== undefined) continue;
    test(`device.${name} tells of wrong use [${kind}]`, async () => {
      assert.ok(
        usages[name] !== undefined,
        `device.${name} is neither in the table of usages nor among the exceptions`,
      );
      await assertGuarded(`device.${name}`, call, usages[name]);
    });
  }
}

/** What functions give that are functions themselves. */
const given: readonly (readonly [name: string, call: Called, usage: Usage])[] = [
  ["parallel.replicate", parallel.replicate(square, [device]) as Called, { args: [x], promise: true }],
];
for (const [name, call, usage] of given) {
  test(`what ${name} gives tells of wrong use`, () => assertGuarded(name, call, usage));
}
test("what compile, checkpoint and valueAndGrad give takes what their function takes, in trees", async () => {
  const compiled = shardwise.compile((a: unknown) => a) as Called;
  for (const wrong of [new Date(0), new Map(), [new Date(0)], { a: Promise.resolve(1) }, new Float32Array(2)]) {
    await assert.rejects(compiled(wrong) as Promise<unknown>, { name: "ArgumentError", op: "compile" });
    assert.throws(() => (shardwise.checkpoint((a: unknown) => a) as Called)(wrong), {
      name: "ArgumentError",
      op: "checkpoint",
    });
    assert.throws(() => (shardwise.valueAndGrad(() => loss(x)) as Called)(wrong), {
      name: "ArgumentError",
      op: "valueAndGrad",
    });
  }
  for (const gives of [undefined, 1, shardwise.nn.mse(x, x)]) {
    assert.throws(() => (shardwise.valueAndGrad(() => gives as unknown as Tensor) as Called)(x), {
      name: "ArgumentError",
      op: "valueAndGrad",
    });
  }
});

/** What is written by habit, from other libraries or from before, and what is said of it. */
const messages: readonly (readonly [said: string, written: () => unknown, message: RegExp])[] = (() => {
  const t = tensor([[1, 2], [3, 4]]);
  // deno-lint-ignore no-explicit-any
  const js = shardwise as any, a = t as any;
  return [
    ["x.sum(1)", () => a.sum(1), /^sum: got 1 as options; need .*: did you mean \{ axis: 1 \}\?$/],
    ["x.softmax(0)", () => a.softmax(0), /^softmax: got 0 as options; need .*: did you mean \{ axis: 0 \}\?$/],
    ["x.sum({ dim: 1 })", () => a.sum({ dim: 1 }), /^sum: got the option "dim"; need .*: did you mean axis\?$/],
    ["x.sum({ keepdim: true })", () => a.sum({ keepdim: true }), /did you mean keepDims\?$/],
    [
      "concat([a, b], 1)",
      () => js.concat([a, a], 1),
      /^concat: got 1 as options; need .*: did you mean \{ axis: 1 \}\?$/,
    ],
    ["concat(a, b)", () => js.concat(a, a), /^concat: got a Tensor as tensors; need a list of Tensors$/],
    [
      "tensor([1, 2], [2, 1])",
      () => js.tensor([1, 2], [2, 1]),
      /^tensor: got \[2, 1\] as options; need .*: did you mean \{ shape: \[2, 1\] \}\?$/,
    ],
    ["t * 2", () => a * 2, /^tensor: got a Tensor where JavaScript needs a number .*; need a method: t\.mul\(2\)/],
    ["t < 2", () => a < 2, /t\.less\(2\)/],
    ["t + 1", () => a + 1, /t\.add\(1\)/],
    [
      "JSON.stringify(t)",
      () => JSON.stringify({ a }),
      /^JSON\.stringify: got a Tensor f32\[2, 2\]; need its values: await t\.array\(\)$/,
    ],
    ['x.cast("float32")', () => a.cast("float32"), /^cast: got dtype "float32"; need .*: did you mean f32\?$/],
    ["x.norm({ ord: 3 })", () => a.norm({ ord: 3 }), /^norm: got ord 3; need 1, 2 or Infinity$/],
    [
      "new Tensor([1, 2])",
      () => new js.Tensor([1, 2]),
      /^Tensor: got new Tensor\(…\); need a function that makes tensors: tensor\(/,
    ],
    ["random.normal(2, 3)", () => js.random.normal(2, 3), /did you mean random\.normal\(\[2, 3\]\)\?$/],
    ["random.bernoulli(4, 0.5)", () => js.random.bernoulli(4, 0.5), /did you mean random\.bernoulli\(\[4\], 0\.5\)\?$/],
    ["random.integers([4], 5)", () => js.random.integers([4], 5), /did you mean \{ high: 5 \}\?$/],
    ["grad(fn)", () => js.grad(loss), /^grad: got the function loss as loss; need .*valueAndGrad\(fn\)/],
    [
      "grad(loss, a, b)",
      () => js.grad(loss(t), a, a),
      /^grad: got 3 arguments, with a Tensor; need at most 2: loss, inputs$/,
    ],
    [
      "parallel.scatter(x, devices())",
      () => js.parallel.scatter(a, devices()),
      /got a Promise as devices; need a list of devices, as from await devices\(\)$/,
    ],
    ['x.to("cpu")', () => a.to("cpu"), /^to: got "cpu" as device; need a device, one of await devices\(\)$/],
  ];
})();
for (const [said, written, message] of messages) {
  test(`told with what was meant: ${said}`, () => {
    assert.throws(written, (error: unknown) => {
      assert.ok(error instanceof ShardwiseError, String(error));
      assert.match(error.message, message);
      return true;
    });
  });
}
test('told with what was meant: devices("cpu"), devices({ kind: "cuda" }), realize([a, b])', async () => {
  // deno-lint-ignore no-explicit-any
  const js = shardwise as any;
  await assert.rejects(js.devices("cpu"), /did you mean \{ kind: "cpu" \}\?$/);
  await assert.rejects(js.devices({ kind: "cuda" }), /did you mean gpu\?$/);
  await assert.rejects(js.realize([x, x]), /need Tensors, each as an argument: realize\(\.\.\.list\)$/);
});

test("lengths may be a list or numbers", async () => {
  const t = tensor([[1, 2], [3, 4], [5, 6]]);
  assert.deepEqual(shardwise.zeros(2, 3).shape, [2, 3]);
  assert.deepEqual(shardwise.ones(2, 3).shape, [2, 3]);
  assert.deepEqual(shardwise.zeros([2, 3], { dtype: "i32" }).dtype, "i32");
  assert.deepEqual(await t.reshape(2, 3).array(), await t.reshape([2, 3]).array());
  assert.deepEqual(await t.transpose(0, 1).array(), [[1, 3, 5], [2, 4, 6]]);
  assert.deepEqual(await t.permute(1, 0).array(), await t.permute([1, 0]).array());
  assert.deepEqual(t.tile(2, 1).shape, [6, 2]);
  assert.deepEqual(t.expand(4, 3, 2).shape, [4, 3, 2]);
  assert.deepEqual(t.broadcastTo(4, 3, 2).shape, [4, 3, 2]);
});

test("what is too large is refused at once, with the limit", async () => {
  const t = tensor([1, 2, 3]);
  const int = tensor([1], { dtype: "i32" });
  const absurd: readonly (readonly [op: string, call: () => unknown])[] = [
    ["zeros", () => shardwise.zeros([1e9, 1e9])],
    ["zeros", () => shardwise.zeros(1e12)],
    ["zeros", () => shardwise.zeros([2 ** 27, 2 ** 26])],
    ["ones", () => shardwise.ones([2 ** 31])],
    ["full", () => shardwise.full([1e300], 1)],
    ["arange", () => shardwise.arange(1e12)],
    ["linspace", () => shardwise.linspace(0, 1, 1e9)],
    ["eye", () => shardwise.eye(1e9)],
    ["tensor", () => tensor([], { shape: [1e9, 1e9, 0.5] })],
    ["zeros", () => shardwise.zeros(new Array<number>(1e5).fill(1))],
    ["oneHot", () => shardwise.oneHot(int, 1e15)],
    ["oneHot", () => int.oneHot(1e12)],
    ["pad", () => t.pad(1e12)],
    ["repeat", () => t.repeat(1e15)],
    ["tile", () => t.tile([1e15, 1e15])],
    ["expand", () => t.expand([1e15, 3])],
    ["broadcastTo", () => t.broadcastTo([1e15, 3])],
    ["reshape", () => t.reshape([1e300, 3])],
    ["windows", () => t.windows({ axis: 0, length: 1e15 })],
    ["split", () => t.split(1e9)],
    ["random.normal", () => random.normal([1e6, 1e6])],
    ["random.uniform", () => random.uniform([1e12])],
    ["random.bits", () => random.bits([2 ** 31])],
    ["random.integers", () => random.integers([1e300], { high: 3 })],
    ["random.bernoulli", () => random.bernoulli([1e9, 1e9], 0.5)],
    ["random.permutation", () => random.permutation(1e12)],
    ["add", () => shardwise.zeros([2 ** 30, 1, 1]).add(shardwise.zeros([1, 2 ** 30, 2 ** 20]))],
    ["parallel.shardSizes", () => parallel.shardSizes(3, 1e9)],
    ["parallel.shardSizes", () => parallel.shardSizes(3, { capacities: new Array<number>(1e6).fill(1) })],
    ["devices", () => devices({ virtual: 1e9 })],
    ["profile", () => shardwise.profile(() => t, { repeat: 1e9 })],
    ["profile", () => shardwise.profile(() => t, { warmup: 1e9 })],
  ];
  const start = performance.now();
  for (const [op, call] of absurd) {
    await assert.rejects(async () => await call(), (error: unknown) => {
      assert.ok(error instanceof ShardwiseError, `${op}: ${String(error)}`);
      assert.equal(error.op, op, error.message);
      assert.match(error.need, /\d|longer padding|at least as long/, error.message);
      return true;
    });
  }
  const { nn, optim } = shardwise;
  for (const options of [{ deterministic: { shards: 1e9 } }, { microBatches: 1e9 }]) {
    const trainer = nn.trainer(nn.linear(2, 1), {
      loss: (output, batch) => nn.mse(output, batch.y),
      optimizer: optim.sgd({ learningRate: 0.1 }),
      devices: [device],
      ...options,
    });
    await assert.rejects(trainer.step({ x, y: tensor([[1], [2]]) }), /1000000000.*from 1 to 65536/);
  }
  assert.ok(performance.now() - start < 5000);
});

test("what is just not too large is taken", () => {
  assert.equal(shardwise.zeros([2 ** 31 - 1, 2 ** 21]).size, (2 ** 31 - 1) * 2 ** 21);
  assert.equal(shardwise.zeros([2 ** 27 - 1, 2 ** 26]).size, 2 ** 53 - 2 ** 26);
  assert.equal(parallel.shardSizes(10, 2 ** 16).length, 2 ** 16);
  assert.equal(tensor([1]).split(2 ** 16).length, 2 ** 16);
  assert.equal(random.normal([2 ** 31 - 1]).size, 2 ** 31 - 1);
  assert.equal(shardwise.zeros(new Array<number>(256).fill(1)).rank, 256);
});

test("what contains itself is told, wherever trees and lists are taken apart", async () => {
  const list: unknown[] = [];
  list.push(list);
  const record: Record<string, unknown> = {};
  record["self"] = record;
  // deno-lint-ignore no-explicit-any
  const js = shardwise as any;
  assert.throws(() => js.tensor(list), shardwise.ShapeError);
  const replicated = js.parallel.replicate((batch: unknown) => batch, [device]);
  for (const endless of [list, record]) {
    assert.throws(() => js.mapTree(endless, square), shardwise.ArgumentError);
    assert.throws(() => js.grad(loss(x), endless), shardwise.ArgumentError);
    assert.throws(() => js.checkpoint(square)(endless), shardwise.ArgumentError);
    await assert.rejects(js.compile(square)(endless), shardwise.ArgumentError);
    await assert.rejects(js.compile(() => endless)(x), shardwise.ArgumentError);
    await assert.rejects(replicated(endless), shardwise.ArgumentError);
    await assert.rejects(js.parallel.replicate(() => endless, [device])(x), shardwise.ArgumentError);
  }
});

test("a refused draw leaves the random numbers as they were", async () => {
  random.seed(3);
  const expected = await random.uniform([4]).array();
  random.seed(3);
  assert.throws(() => random.bernoulli([4], 2), shardwise.ArgumentError);
  assert.throws(() => random.bernoulliLike(x, -1), shardwise.ArgumentError);
  assert.throws(() => random.uniform([4], { low: 2, high: 1 }), shardwise.ArgumentError);
  assert.throws(() => random.integers([4], { high: 0.5 }), shardwise.ArgumentError);
  assert.throws(() => random.normal([-1]), shardwise.ShapeError);
  assert.deepEqual(await random.uniform([4]).array(), expected);
});

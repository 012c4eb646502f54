/** What nn, optim, data and io refuse: every export and every method, in plain JavaScript. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import {
  ArgumentError,
  FileError,
  NonFiniteLossError,
  ShapeError,
  ShardwiseError,
  StateError,
  TraceError,
} from "../src/errors.ts";
import * as data from "../src/nn/data/data.ts";
import * as io from "../src/nn/io/io.ts";
import * as nn from "../src/nn/nn.ts";
import * as optim from "../src/nn/optim/index.ts";
import { replicate } from "../src/parallel/predict/replicate.ts";
import { full, ones, tensor, zeros } from "../src/tensor/create.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { compile } from "../src/tensor/transform/compile.ts";
import { grad } from "../src/tensor/transform/grad.ts";
import { withFolder } from "./folder.ts";
import { assertClose, onEachDevice, testKinds, virtualDevices } from "./harness.ts";

// deno-lint-ignore no-explicit-any
type Any = any;

const cpus = async (count = 1) => (await virtualDevices("cpu", count))!;

const x = tensor([[1, 2], [3, 4]]);
const y = tensor([0, 1], { dtype: "i32" });
const image = zeros([1, 4, 4, 1]);
const host = { data: Float32Array.of(1, 2), shape: [2], dtype: "f32" as const };
const [device] = await cpus();
const quadratic = (output: Any, batch: Any) => nn.mse(output, batch.y);
const mean = () => nn.mse(x, x);
const rule = {
  name: "mine",
  learningRate: 1,
  slots: [],
  scalars: {},
  update: ({ parameter }: Any) => ({ parameter, slots: {}, scalars: {} }),
};
const made = optim.adam({ learningRate: 0.1 });
const updateInput = {
  parameter: x,
  gradient: x,
  slots: { mean: x, square: x },
  scalars: { meanCorrection: full([], 0), squareCorrection: full([], 0) },
  step: full([], 1),
  learningRate: full([], 1),
};

/** Where no file can be: below one. */
const nowhere = join(fileURLToPath(import.meta.url), "x");

/** A call that is right, with all of its options; what is in it is replaced by what is wrong. */
interface Call {
  readonly args: readonly unknown[];
  /** How many arguments must be there. Default: all but options. */
  readonly needed?: number;
  /** Options that must be there. */
  readonly required?: readonly string[];
  /** It takes any number of arguments. */
  readonly rest?: boolean;
  /** It passes over arguments, as a callback of `map` does. */
  readonly callback?: boolean;
  /** It returns a promise. */
  readonly rejects?: boolean;
  /** Arguments by position that are any value. */
  readonly anything?: readonly number[];
}

const call = (...args: readonly unknown[]): Call => ({ args });
const linearOptions = { bias: true, init: nn.init.zeros };
const fan = { in: 2, out: 2 };

const functions: Readonly<Record<string, Readonly<Record<string, Call>>>> = {
  nn: {
    parameter: call(x),
    buffer: call(x),
    isParameter: call(x),
    isBuffer: call(x),
    linear: call(2, 2, linearOptions),
    avgPool2d: { args: [{ size: 2, stride: 1, padding: 0 }], required: ["size"] },
    maxPool2d: { args: [{ size: 2, stride: 1, padding: 0 }], required: ["size"] },
    cast: call("f16"),
    flatten: call(),
    gelu: call(),
    lambda: call((value: Tensor) => value),
    logSoftmax: call({ axis: 0 }),
    softmax: call({ axis: 0 }),
    relu: call(),
    sigmoid: call(),
    silu: call(),
    softplus: call(),
    tanh: call(),
    multiHeadAttention: call(4, 2, { causal: true, dropout: 0.1, bias: false, scores: "stored" }),
    conv2d: {
      args: [1, 2, { kernel: 3, stride: 1, padding: "same", dilation: 1, groups: 1, bias: true, init: nn.init.zeros }],
      required: ["kernel"],
    },
    dropout: call(0.5),
    embedding: call(3, 2, { init: nn.init.zeros }),
    batchNorm: call(2, { epsilon: 1e-5, momentum: 0.1, affine: true }),
    layerNorm: call(2, { epsilon: 1e-5, affine: true }),
    sequential: { args: [nn.relu(), nn.relu()], rest: true },
    loss: { args: [{ sum: x.sum(), count: 1 }], required: ["sum", "count"] },
    metric: { args: [{ sum: x.sum(), count: 1 }], required: ["sum", "count"] },
    penalty: call(x.sum()),
    binaryCrossEntropy: call(x, x, { weights: tensor([1, 1]) }),
    crossEntropy: call(x, y, { ignore: 0, labelSmoothing: 0.1, weights: tensor([1, 1]) }),
    mse: call(x, x, { weights: tensor([1, 1]) }),
    accuracy: call(x, y, { ignore: 0, weights: tensor([1, 1]) }),
    binaryAccuracy: call(x, x, { weights: tensor([1, 1]) }),
    lossMetric: call(mean()),
    meanAbsoluteError: call(x, x, { weights: tensor([1, 1]) }),
    topKAccuracy: { args: [x, y, { k: 1, ignore: 0, weights: tensor([1, 1]) }], required: ["k"] },
    trainer: {
      args: [nn.linear(2, 2), {
        forward: (model: nn.Linear, batch: Any) => model.forward(batch.x),
        loss: quadratic,
        metrics: { error: quadratic },
        optimizer: optim.adam(),
        devices: [device],
        seed: 1,
        checkEvery: 1,
        deterministic: { shards: 2 },
        capacities: "auto",
        microBatches: 1,
        clipNorm: 1,
        stepTimeout: 1000,
        snapshotEvery: 1,
      }],
      required: ["loss", "optimizer"],
    },
  },
  "nn.init": {
    glorotUniform: { args: [[2], fan], required: ["in", "out"] },
    glorotNormal: { args: [[2], fan], required: ["in", "out"] },
    heUniform: { args: [[2], fan], required: ["in", "out"] },
    heNormal: { args: [[2], fan], required: ["in", "out"] },
    lecunUniform: { args: [[2], fan], required: ["in", "out"] },
    lecunNormal: { args: [[2], fan], required: ["in", "out"] },
    zeros: { args: [[2], fan], needed: 1 },
    ones: { args: [[2], fan], needed: 1 },
    constant: call(1),
    normal: call({ mean: 0, std: 1 }),
    uniform: call({ min: 0, max: 1 }),
  },
  optim: {
    sgd: { args: [{ learningRate: 1, momentum: 0.5, nesterov: true, weightDecay: 0 }], required: ["learningRate"] },
    adam: call({ learningRate: 1, beta1: 0.9, beta2: 0.9, epsilon: 1, weightDecay: 0 }),
    adamw: call({ learningRate: 1, beta1: 0.9, beta2: 0.9, epsilon: 1, weightDecay: 0 }),
    nadam: call({ learningRate: 1, beta1: 0.9, beta2: 0.9, epsilon: 1, scheduleDecay: 0 }),
    optimizer: { args: [rule], required: Object.keys(rule) },
    learningRateAt: call(made, 1),
    constantSchedule: call(1),
    cosineSchedule: { args: [{ from: 1, to: 0, steps: 2 }], required: ["from", "steps"] },
    exponentialSchedule: {
      args: [{ from: 1, factor: 0.5, steps: 2, staircase: true }],
      required: ["from", "factor", "steps"],
    },
    linearSchedule: { args: [{ from: 1, to: 0, steps: 2 }], required: ["from", "to", "steps"] },
    warmup: { args: [{ steps: 2, after: 1 }], required: ["steps", "after"] },
  },
  data: {
    array: call(Float32Array.of(1, 2), { shape: [2], dtype: "f32", scale: 2 }),
    elements: { args: [host, new Float32Array(2)], needed: 1 },
    sliceRows: call(host, 0, 1),
    shuffledRows: call(2, 1, 0),
    batches: {
      args: [{ x: Float32Array.of(1, 2) }, { batchSize: 1, shuffle: 1, drop: true }],
      required: ["batchSize"],
      anything: [],
    },
    tensors: call({ x: host }, { device }),
  },
  io: {
    save: { args: [nowhere, { x }, { metadata: { a: "b" } }], rejects: true },
    load: { args: [nowhere, { only: ["a"] }], rejects: true },
    loadInto: { args: [nn.linear(2, 2), nowhere, { unexpected: "ignore" }], rejects: true },
    encode: { args: [{ x }, { metadata: { a: "b" } }], rejects: true },
    decode: { args: [await io.encode({ a: x }), "name", { only: ["a"] }], needed: 1 },
  },
};

/** Constructors that are exported, by class; those of layers take what their functions do. */
const constructors: Readonly<Record<string, Call>> = {
  Activation: call("mine", (value: Tensor) => value),
  BatchNorm: functions["nn"]!["batchNorm"]!,
  Batches: functions["data"]!["batches"]!,
  Conv2d: functions["nn"]!["conv2d"]!,
  Dropout: functions["nn"]!["dropout"]!,
  Embedding: functions["nn"]!["embedding"]!,
  LayerNorm: functions["nn"]!["layerNorm"]!,
  Linear: functions["nn"]!["linear"]!,
  Loss: { args: [[{ sum: x.sum(), count: x.sum(), weight: 1 }], x.sum()], needed: 1 },
  Metric: { args: [{ sum: x.sum(), count: x.sum() }], required: ["sum", "count"] },
  MultiHeadAttention: functions["nn"]!["multiHeadAttention"]!,
  Sequential: call([nn.relu()]),
  Trainer: functions["nn"]!["trainer"]!,
};

const forward = { forward: call(x) };
const attending = zeros([3, 4]);

/** Methods by class, and what they are called on. */
const methods: readonly {
  readonly of: string;
  readonly on: () => object;
  readonly prototype?: object;
  readonly calls: Readonly<Record<string, Call>>;
}[] = [
  {
    of: "Module",
    on: () => nn.linear(2, 2),
    prototype: nn.Module.prototype,
    calls: {
      parameters: call(),
      namedParameters: call(),
      buffers: call(),
      namedBuffers: call(),
      modules: call(),
      train: call(),
      eval: call(),
      freeze: call(),
      unfreeze: call(),
      stateDict: call(),
      loadStateDict: call(nn.linear(2, 2).stateDict()),
      to: call(device),
    },
  },
  { of: "Activation", on: () => nn.relu(), calls: forward },
  { of: "BatchNorm", on: () => nn.batchNorm(2), calls: forward },
  { of: "Conv2d", on: () => nn.conv2d(1, 1, { kernel: 2 }), calls: { forward: call(image) } },
  { of: "Dropout", on: () => nn.dropout(0), calls: forward },
  { of: "Embedding", on: () => nn.embedding(3, 2), calls: { forward: call(y) } },
  { of: "LayerNorm", on: () => nn.layerNorm(2), calls: forward },
  { of: "Linear", on: () => nn.linear(2, 2), calls: forward },
  {
    of: "MultiHeadAttention",
    on: () => nn.multiHeadAttention(4, 2),
    calls: { forward: call(attending, { context: attending, mask: ones([3, 3], { dtype: "bool" }) }) },
  },
  { of: "Sequential", on: () => nn.sequential(nn.relu()), calls: forward },
  { of: "Loss", on: mean, calls: { plus: call(mean()), scale: call(2) } },
  { of: "Metric", on: () => nn.accuracy(x, y), calls: {} },
  {
    of: "Batches",
    on: () => data.batches({ x: Float32Array.of(1, 2) }, { batchSize: 1 }),
    calls: { epoch: call(0), read: { args: [], rejects: true } },
  },
  {
    of: "Optimizer",
    on: () => optim.adam(),
    prototype: made,
    calls: {
      update: { ...call(updateInput), needed: 1, required: Object.keys(updateInput) },
      bind: { args: [[nn.parameter(x)]], needed: 1 },
    },
  },
  {
    of: "BoundOptimizer",
    on: () => optim.sgd({ learningRate: 1 }).bind([nn.parameter(x)]),
    prototype: Object.getPrototypeOf(made.bind([nn.parameter(x)])) as object,
    calls: { step: { args: [[x]], needed: 1 }, load: { args: [{ step: full([], 0) }], needed: 1, rejects: true } },
  },
  {
    of: "Schedule",
    on: () => optim.linearSchedule({ from: 1, to: 0, steps: 3 }),
    prototype: optim.linearSchedule({ from: 1, to: 0, steps: 3 }),
    calls: { graph: { args: [full([], 1)], callback: true } },
  },
];

/** Values of which no parameter takes any, unless it takes everything. */
const wrong = [null, Symbol("wrong"), 5n, new (class Wrong {})(), new Map([["x", x]]), new Date()];
const isOptions = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;

/** Asserts that a call fails with an error of shardwise that names it. */
async function refused(run: () => unknown, rejects: boolean, what: string, message = /./): Promise<void> {
  let result: unknown;
  try {
    result = run();
  } catch (error) {
    assert.ok(!rejects, `${what} throws, and is to reject`);
    assert.ok(error instanceof ShardwiseError, `${what}: ${String(error)}`);
    return assert.match(error.message, message, what);
  }
  assert.ok(rejects, `${what} is not refused`);
  assert.ok(result instanceof Promise, what);
  await assert.rejects(result, (error: unknown) => {
    assert.ok(error instanceof ShardwiseError, `${what}: ${String(error)}`);
    assert.match(error.message, message, what);
    return true;
  });
}

async function refusesAll(
  name: string,
  run: (...args: readonly unknown[]) => unknown,
  { args, rejects = false, ...call }: Call,
): Promise<void> {
  const last = args.at(-1);
  const hasOptions = isOptions(last) && call.needed === undefined;
  const needed = call.needed ?? (hasOptions && call.required === undefined ? args.length - 1 : args.length);
  if (call.callback !== true && call.rest !== true) {
    await refused(
      () => run(...args, undefined, "surplus"),
      rejects,
      `${name} with an argument too many`,
      /surplus|arguments/,
    );
  }
  for (let i = 0; i < needed && call.rest !== true; i++) {
    await refused(() => run(...args.slice(0, i)), rejects, `${name} with ${i} arguments`, /undefined|no /);
  }
  for (const i of args.keys()) {
    for (const value of wrong) {
      await refused(() => run(...args.with(i, value)), rejects, `${name} with ${String(value)} as argument ${i}`);
    }
  }
  if (!isOptions(last)) return;
  const change = (options: object) => () => run(...args.slice(0, -1), options);
  if (hasOptions || call.required !== undefined) {
    await refused(change({ ...last, zzz: 1 }), rejects, `${name} with an option that it does not know`, /zzz/);
    for (const option of Object.keys(last)) {
      for (const value of [null, Symbol("wrong"), 5n]) {
        await refused(
          change({ ...last, [option]: value }),
          rejects,
          `${name} with ${option} ${String(value)}`,
          new RegExp(option, "i"),
        );
      }
    }
  }
  for (const option of call.required ?? []) {
    const { [option]: _, ...rest } = last;
    await refused(change(rest), rejects, `${name} without ${option}`, new RegExp(option));
  }
}

const namespaces: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  nn,
  "nn.init": nn.init,
  optim,
  data,
  io,
};

test("every export is in the tables", () => {
  const isClass = (value: unknown) =>
    typeof value === "function" && /^class\b/.test(Function.prototype.toString.call(value));
  const classes: string[] = [];
  for (const [name, namespace] of Object.entries(namespaces)) {
    const exported = Object.entries(namespace).filter(([, value]) => typeof value === "function");
    classes.push(...exported.filter(([, value]) => isClass(value)).map(([key]) => key));
    const callable = exported.filter(([, value]) => !isClass(value)).map(([key]) => key);
    assert.deepEqual(Object.keys(functions[name]!).sort(), callable.sort(), name);
  }
  // Of its own, Module takes nothing, and nobody makes one.
  assert.deepEqual([...Object.keys(constructors), "Module"].sort(), classes.sort());
  const covered = methods.map(({ of }) => of);
  assert.deepEqual(classes.filter((name) => !covered.includes(name) && name !== "Trainer"), []);
  for (const { of, on, prototype = Object.getPrototypeOf(on()) as object, calls } of methods) {
    const own = Object.entries(Object.getOwnPropertyDescriptors(prototype)).filter(([name, { value }]) =>
      name !== "constructor" && typeof value === "function" && !(of === "Module" && name === "modes")
    ).map(([name]) => name);
    assert.deepEqual(Object.keys(calls).sort(), own.sort(), of);
  }
});

for (const [name, calls] of Object.entries(functions)) {
  test(`${name} refuses what its functions do not take`, async () => {
    for (const [key, given] of Object.entries(calls)) {
      const run = namespaces[name]![key] as (...args: readonly unknown[]) => unknown;
      // Of files, what is right has no file to be done with.
      await Promise.resolve(run(...given.args)).catch((error) =>
        assert.ok(error instanceof FileError, `${key}: ${String(error)}`)
      );
      await refusesAll(`${name}.${key}`, run, given);
    }
  });
}

test("constructors refuse what they do not take", async () => {
  for (const [name, given] of Object.entries(constructors)) {
    const Class = (namespaces["nn"]![name] ?? namespaces["data"]![name]) as new (
      ...args: readonly unknown[]
    ) => unknown;
    new Class(...given.args);
    await refusesAll(`new ${name}`, (...args) => new Class(...args), given);
  }
});

test("methods refuse what they do not take", async () => {
  for (const { of, on, calls } of methods) {
    for (const [name, given] of Object.entries(calls)) {
      const run = (...args: readonly unknown[]) => (on() as Any)[name](...args);
      await run(...given.args);
      await refusesAll(`${of}.${name}`, run, given);
    }
  }
  const schedule = optim.linearSchedule({ from: 1, to: 0, steps: 3 });
  await refusesAll("a schedule", (...args) => schedule(...args as [number]), { args: [1], callback: true });
  assert.deepEqual([1, 2, 3].map(schedule), [1, 0.5, 0]);
  assert.throws(() => (nn.relu() as Any).training = 5, ArgumentError);
});

const said = (Type: abstract new (...args: never[]) => Error, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Type, String(error));
  assert.match(error.message, message);
  return true;
};

test("what was meant is said", () => {
  const any = { nn, optim, data } as Any;
  const cases: readonly (readonly [run: () => unknown, message: RegExp])[] = [
    [() => any.optim.adam({ lr: 0.1 }), /optim\.adam: .*"lr".*did you mean learningRate\?/],
    [() => any.optim.adam(0.1), /did you mean \{ learningRate: 0\.1 \}\?/],
    [() => any.optim.sgd(0.1), /did you mean \{ learningRate: 0\.1 \}\?/],
    [() => any.optim.adam().bind(nn.linear(1, 1)), /did you mean model\.parameters\(\)\?/],
    [() => any.nn.conv2d(1, 2, { kernel: 3, strides: 2 }), /"strides".*did you mean stride\?/],
    [() => any.nn.conv2d(1, 2, 3), /did you mean \{ kernel: 3 \}\?/],
    [() => any.nn.sequential(nn.linear(1, 1), nn.relu), /the function relu.*relu\(…\)/],
    [() => any.nn.sequential([nn.relu(), nn.Linear]), /the function Linear.*new Linear\(…\)/],
    [() => any.nn.sequential((value: Tensor) => value), /nn\.lambda/],
    [() => any.nn.linear(1, 1, { use_bias: false }), /did you mean bias\?/],
    [() => any.data.batches({ x: [1] }, 2), /did you mean \{ batchSize: 2 \}\?/],
    [() => any.data.batches({ x: [1] }, { batch_size: 2 }), /did you mean batchSize\?/],
    [
      () => any.nn.trainer(nn.linear(1, 1), { loss: quadratic, optimiser: optim.adam() }),
      /"optimiser".*did you mean optimizer\?/,
    ],
    [
      () => any.nn.trainer(nn.linear(1, 1), { loss: quadratic, optimizer: optim.adam }),
      /did you mean optim\.adam\(…\)\?/,
    ],
    [
      () => any.nn.trainer(nn.linear(1, 1), { loss: quadratic, optimizer: optim.adam().bind([nn.parameter(x)]) }),
      /not bound/,
    ],
    [() => any.nn.trainer(nn.Linear, { loss: quadratic, optimizer: optim.adam() }), /new Linear/],
    [() => any.nn.loss(x.mean()), /did you mean \{ sum: a Tensor \}\?/],
    [() => any.nn.linear(2, 2).train(false), /Module\.train: .*false/],
  ];
  for (const [run, message] of cases) assert.throws(run, said(ArgumentError, message));
});

test("layers may be given as a list", async () => {
  const model = nn.sequential([nn.linear(2, 3), nn.relu()]);
  assert.deepEqual(model.forward(x).shape, [2, 3]);
  assert.deepEqual(Object.keys(model.namedParameters()), ["layers.0.weight", "layers.0.bias"]);
  assert.deepEqual(await nn.sequential([]).forward(x).array(), await x.array());
});

test("functions of a user that return what they may not are told apart from ours", () => {
  const any = nn as Any;
  assert.throws(
    () => any.linear(2, 2, { init: () => 5 }),
    said(ArgumentError, /nn\.linear: got an init that returns 5/),
  );
  assert.throws(
    () => any.embedding(2, 2, { init: () => zeros([3]) }),
    said(ShapeError, /nn\.embedding: got an init that returns \[3\]; need \[2, 2\]/),
  );
  assert.throws(
    () => any.lambda(() => undefined).forward(x),
    said(ArgumentError, /nn\.lambda: got a function that returns undefined/),
  );
  class Block extends nn.Module {
    override forward(): Tensor {
      return undefined as unknown as Tensor;
    }
  }
  assert.throws(
    () => nn.sequential(nn.relu(), new Block(), nn.relu()).forward(x),
    said(ArgumentError, /undefined from layer 1, a Block/),
  );
  const bound = (result: unknown) =>
    optim.optimizer({ ...rule, slots: ["m"], update: () => result as optim.UpdateResult }).bind([nn.parameter(x)]);
  assert.throws(() => bound(undefined).step([x]), said(ArgumentError, /optim\.mine: .*undefined as parameter/));
  assert.throws(() => bound({ parameter: zeros([4]) }).step([x]), said(ArgumentError, /undefined as slots\.m/));
  assert.throws(() => bound({ parameter: x }).step([x]), said(ShapeError, /parameter \[2, 2\]; need \[4\]/));
});

const silent = { progress: "none" } as const;
const good = { x, y: zeros([2, 1]) };
const makeTrainer = async (options: object = {}, model: nn.Module = nn.linear(2, 1), count = 1) =>
  nn.trainer(
    model,
    { loss: quadratic, optimizer: optim.sgd({ learningRate: 0.1 }), devices: await cpus(count), ...options } as Any,
  ) as Any;

const trainerCalls: Readonly<Record<string, Call>> = {
  on: call("deviceLost", () => {}),
  devices: { args: [], rejects: true },
  addDevice: { args: [device], rejects: true },
  memory: { args: [], rejects: true },
  checksum: { args: [], rejects: true },
  step: { args: [good], needed: 1, rejects: true },
  fit: {
    args: [[good], {
      epochs: 1,
      validation: good,
      signal: new AbortController().signal,
      progress: "none",
      onBatch: () => {},
      onEpoch: () => {},
    }],
    rejects: true,
  },
  evaluate: { args: [good, { rowsAtOnce: 5 }], rejects: true },
  predict: { args: [x, { rowsAtOnce: 5 }], rejects: true },
  release: { args: [], rejects: true },
};

test("a trainer refuses what its methods do not take, before anything is done", async () => {
  const own = Object.entries(Object.getOwnPropertyDescriptors(nn.Trainer.prototype)).filter(([name, { value }]) =>
    name !== "constructor" && typeof value === "function"
  );
  assert.deepEqual(Object.keys(trainerCalls).sort(), own.map(([name]) => name).sort());
  const model = nn.linear(2, 1);
  const before = await model.weight.array();
  const trainer = await makeTrainer({}, model);
  for (const [name, given] of Object.entries(trainerCalls)) {
    await refusesAll(`trainer.${name}`, (...args) => trainer[name](...args), given);
  }
  for (
    const options of [
      { onBatch: 5 },
      { onEpoch: 5 },
      { signal: 5 },
      { progress: "x" },
      { epoch: 3 },
      { validation: 5 },
      { validation: { x: 5 } },
      { epochs: 1.5 },
    ]
  ) {
    await refused(() => trainer.fit([good], options), true, JSON.stringify(options));
  }
  await refused(() => trainer.fit([good], { epoch: 3 }), true, "epoch", /"epoch".*did you mean epochs\?/);
  await refused(() => trainer.fit(good), true, "a batch", /for a single batch a list of it, \[batch\]/);
  for (
    const batch of [
      5,
      "x",
      [],
      {},
      { x: 5 },
      { x: undefined },
      new Map([["x", x]]),
      data.batches({ x: [1] }, { batchSize: 1 }),
      { x: { ...host, data: new BigInt64Array(2) } },
    ]
  ) {
    await refused(() => trainer.step(batch), true, "step");
    await refused(() => trainer.predict(batch), true, "predict");
  }
  assert.deepEqual(trainer.history, { steps: [], epochs: [], events: [] });
  assert.deepEqual(await model.weight.array(), before);
  await trainer.step(good);
  await trainer.release();
});

test("after release every call is a StateError first", async () => {
  const trainer = await makeTrainer();
  await trainer.step(good);
  await trainer.release();
  await trainer.release();
  for (const [name, { args }] of Object.entries(trainerCalls)) {
    if (name === "release") continue;
    for (const given of [args, [], [null], [5, 5, 5], [Symbol("x"), { zzz: 1 }]]) {
      const run = async () => await trainer[name](...given);
      await assert.rejects(run, StateError, name);
    }
  }
});

test("a model or a loss that returns something else is a typed error", async () => {
  for (const output of [undefined, null, 5, "x", () => 5]) {
    const trainer = await makeTrainer({ forward: () => output });
    for (
      const run of [
        () => trainer.step(good),
        () => trainer.fit([good], silent),
        () => trainer.evaluate(good),
        () => trainer.predict(x),
      ]
    ) {
      await refused(run, true, String(output), /a forward that returns/);
    }
  }
  for (const value of [undefined, null, 5, x, {}, nn.accuracy(x, y)]) {
    await refused(
      async () => await (await makeTrainer({ loss: () => value })).step(good),
      true,
      "a loss",
      /a loss that is/,
    );
  }
  for (const value of [undefined, null, 5, x, {}, { sum: 1, count: 1 }]) {
    await refused(
      async () => await (await makeTrainer({ metrics: { mine: () => value } })).step(good),
      true,
      "a metric",
      /a metric mine that is/,
    );
  }
  const asynchronous = (options: object) => async () => await (await makeTrainer(options)).step(good);
  const later = {
    loss: async (o: Any, b: Any) => await quadratic(o, b),
    forward: async (m: Any, b: Any) => await m.forward(b.x),
    metrics: { mine: async () => await mean() },
  };
  for (const [name, value] of Object.entries(later)) {
    await assert.rejects(asynchronous({ [name]: value }), TraceError, name);
  }
  // What is a sum and a count is a metric.
  const trainer = await makeTrainer({
    metrics: { plain: (o: Tensor) => ({ sum: o.mul(0).sum(), count: nn.mse(o, o).count }), loss: quadratic },
  });
  const { loss, metrics } = await trainer.step(good);
  assert.deepEqual(metrics, { plain: 0, loss });
});

for (const count of [1, 3]) {
  test(`a field that is not in the batch is named, with those that are [${count}]`, async () => {
    const devices = await cpus(count);
    const losses: Readonly<Record<string, (output: Any, batch: Any) => Any>> = {
      "a method": (o, b) => nn.mse(o, b.target.reshape([-1, 1])),
      "an argument": (o, b) => nn.mse(o, b.target),
      "an operand": (o, b) => nn.loss({ sum: o.mul(b.target).sum(), count: 1 }),
      "taken apart": (o, { target }) => nn.mse(o, target.neg()),
      "the loss itself": (_, b) => b.target,
      "beside an optional one": (o, b) => nn.mse(o, b.weights === undefined ? b.target : b.y),
    };
    const batch = { x, targets: zeros([2, 1]) };
    const names = /reads batch\.target\b.* where batch has x, targets.*did you mean batch\.targets\?/;
    for (const [what, loss] of Object.entries(losses)) {
      const forward = (m: Any, b: Any) => {
        assert.ok(loss(m.forward(b.x), b) !== undefined || (undefined as Any).loss);
        return m.forward(b.x);
      };
      for (const options of [{ loss }, { forward }, { metrics: { mine: loss }, loss: (o: Any) => nn.mse(o, o) }]) {
        const trainer = await makeTrainer({ ...options, devices });
        const runs = [
          () => trainer.step(batch),
          () => trainer.fit([batch], silent),
          () => trainer.evaluate(batch),
          () => trainer.evaluate([batch]),
        ];
        if ("forward" in options) runs.push(() => trainer.predict(batch));
        for (const run of runs) {
          await assert.rejects(run, (error: unknown) => {
            assert.ok(error instanceof ArgumentError, `${what}: ${String(error)}`);
            assert.match(error.message, names, what);
            assert.ok(error.cause instanceof Error, what);
            return true;
          });
        }
        // Nothing is broken by it.
        assert.deepEqual(trainer.history.steps, []);
      }
    }
    const run = replicate((b: Any) => ({ y: b.target.neg() }), devices) as (batch: unknown) => Promise<unknown>;
    await assert.rejects(run(batch), said(ArgumentError, names));
    const nested = replicate((b: Any) => b.inputs[0].left.add(b.inputs[1].rihgt), devices) as (
      batch: unknown,
    ) => Promise<unknown>;
    await assert.rejects(
      nested({ inputs: [{ left: x }, { right: x }] }),
      said(
        ArgumentError,
        /batch\.inputs\[1\]\.rihgt where batch\.inputs\[1\] has right.*did you mean batch\.inputs\[1\]\.right\?/,
      ),
    );
  });

  test(`a field may be optional, and other errors of a function stay what they are [${count}]`, async () => {
    const loss = (o: Any, b: Any) => nn.mse(o, b.y, b.weights === undefined ? {} : { weights: b.weights });
    const trainer = await makeTrainer({ loss }, nn.linear(2, 1, { init: nn.init.zeros }), count);
    const target = tensor([[1], [3]]);
    assertClose([(await trainer.evaluate({ x, y: target })).loss], [5]);
    assertClose([(await trainer.evaluate({ x, y: target, weights: tensor([1, 0]) })).loss], [1]);
    const mine = new TypeError("mine");
    const thrower = await makeTrainer({
      loss: (_: Any, b: Any) => {
        if (b.weights === undefined) throw mine;
      },
    });
    await assert.rejects(thrower.step(good), mine);
    const blind = await makeTrainer({ loss: () => (undefined as Any).x });
    await assert.rejects(blind.step(good), TypeError);
  });
}

const labelled = (labels: readonly number[], shape: readonly number[] = [labels.length]) => ({
  x: { data: new Float32Array(2 * labels.length).map((_, i) => Math.sin(i)), shape: [...shape, 2], dtype: "f32" },
  y: { data: Int32Array.from(labels), shape, dtype: "i32" },
});
const classify = (options: nn.CrossEntropyOptions = {}) => (output: Tensor, batch: Any) =>
  nn.crossEntropy(output, batch.y, options);

for (const kind of testKinds) {
  for (
    const [count, options] of [[1, {}], [3, {}], [1, { deterministic: { shards: 4 } }], [2, {
      microBatches: 2,
    }]] as const
  ) {
    test(`a label outside the classes is told: which, where, of how many [${kind} x ${count} ${JSON.stringify(options)}]`, async (t) => {
      const devices = await virtualDevices(kind, count);
      if (devices === undefined) return t.skip("no adapter");
      const make = (loss: Any) => {
        const model = nn.linear(2, 3);
        return {
          model,
          trainer: nn.trainer(
            model,
            { loss, optimizer: optim.sgd({ learningRate: 0.1 }), devices, ...options } as Any,
          ) as Any,
        };
      };
      const cases: readonly (readonly [loss: Any, batch: object, message: RegExp])[] = [
        [
          classify(),
          labelled([0, 1, 2, 0, 1, 2, 7, 0]),
          /label 7 in row 6 for the 3 classes of nn\.crossEntropy; need labels from 0 to 2; \{ ignore: 7 \}/,
        ],
        [classify(), labelled([0, 1, -1, 0, 3, 2, 7, 0]), /label -1 in row 2 and 2 more for the 3 classes/],
        [classify({ ignore: -1 }), labelled([0, 1, -1, 0, 3, 2, 2, 0]), /label 3 in row 4 for the 3 classes/],
        [classify({ labelSmoothing: 0.1 }), labelled([0, 1, 2, 0, 3, 2, 2, 0]), /label 3 in row 4 for/],
        [classify(), labelled([0, 1, 2, 0, 0, 2, 2, 5], [4, 2]), /label 5 in row 3 at \[1\] for the 3 classes/],
        [
          (o: Tensor, b: Any) =>
            nn.mse(o, o.detach()).plus(nn.crossEntropy(o, b.y.sub(1)).scale(0.5)).plus(nn.penalty(full([], 1))),
          labelled([1, 2, 3, 0]),
          /label -1 in row 3 for the 3/,
        ],
        [
          (o: Tensor, b: Any) =>
            nn.loss({ sum: nn.crossEntropy(o, b.y.cast("u32")).sum.mul(2), count: nn.mse(o, o).count }),
          labelled([1, 2, 0, 3]),
          /label 3 in row 3/,
        ],
      ];
      for (const [loss, batch, message] of cases) {
        const { model, trainer } = make(loss);
        const before = await model.weight.array();
        await assert.rejects(trainer.step(batch), said(NonFiniteLossError, message));
        await assert.rejects(trainer.fit([batch], silent), said(NonFiniteLossError, message));
        await assert.rejects(trainer.evaluate(batch), said(NonFiniteLossError, message));
        await assert.rejects(trainer.evaluate([batch]), said(NonFiniteLossError, message));
        assert.deepEqual(await model.weight.array(), before);
        await trainer.release();
      }
      // Rows that do not count may hold anything.
      const { trainer } = make((o: Tensor, b: Any) =>
        nn.crossEntropy(o, b.y, { ignore: -1, weights: b.y.less(3).cast("f32") })
      );
      assert.ok(Number.isFinite((await trainer.step(labelled([0, -1, 2, 9]))).loss));
      // Labels are not named where they are not the reason.
      const batch = labelled([0, 1, 2, 0]);
      batch.x.data[2] = NaN;
      await assert.rejects(trainer.step(batch), said(NonFiniteLossError, /look at the batch and the learning rate/));
      assert.ok(Number.isNaN((await trainer.evaluate(batch)).loss));
      await trainer.release();
    });
  }
}

onEachDevice(
  "of an eager loss, a label outside the classes makes the value NaN, and no part of the gradient",
  async (device) => {
    const logits = tensor([[1, 2, 3], [1, 1, 1]], { device });
    for (const run of [(f: () => Tensor[]) => Promise.resolve(f()), (f: () => Tensor[]) => compile(f)()]) {
      const [value, gradient] = await run(() => {
        const loss = nn.crossEntropy(logits, tensor([7, 0], { dtype: "i32" })).mean;
        return [loss, grad(loss, logits)];
      });
      assert.ok(Number.isNaN(await value!.item()));
      assertClose(await gradient!.data(), [0, 0, 0, -1 / 3, 1 / 6, 1 / 6]);
    }
    const accuracy = nn.accuracy(logits, tensor([7, 0], { dtype: "i32" }));
    assert.deepEqual([await accuracy.sum.item(), await accuracy.count.item()], [1, 2]);
  },
);

/** A model with a part where the walk over fields does not look. */
function hiding(hide: (inner: nn.Linear) => Record<string, unknown>): nn.Module {
  class Hiding extends nn.Module {
    readonly head = nn.linear(2, 1);
    readonly held: Record<string, unknown>;
    constructor() {
      super();
      this.held = hide(nn.linear(2, 2));
    }
    override forward(input: Tensor): Tensor {
      return this.head.forward(input);
    }
  }
  return new Hiding();
}

test("modules and parameters in a Map, a Set or an object of another class are refused", async () => {
  class Holder {
    readonly inner: unknown;
    constructor(inner: unknown) {
      this.inner = inner;
    }
  }
  const hidden: readonly (readonly [hide: (inner: nn.Linear) => Record<string, unknown>, message: RegExp])[] = [
    [(inner) => ({ layers: new Map([["a", inner]]) }), /a Map at held\.layers with a Linear in it/],
    [(inner) => ({ layers: new Set([inner]) }), /a Set at held\.layers with a Linear in it/],
    [(inner) => ({ list: [new Map([[inner, 1]])] }), /a Map at held\.list\.0 with a Linear/],
    [(inner) => ({ layers: new Map([["a", [{ b: new Set([inner]) }]]]) }), /a Map at held\.layers with a Linear/],
    [(inner) => ({ layers: new Map([["a", inner.weight]]) }), /a Map at held\.layers with a parameter/],
    [() => ({ layers: new Set([nn.buffer(x)]) }), /a Set at held\.layers with a buffer/],
    [() => ({ layers: new Set([nn.dropout(0.5)]) }), /a Set at held\.layers with a Dropout/],
    [(inner) => ({ layers: new Holder({ deep: inner }) }), /a Holder at held\.layers with a Linear/],
  ];
  await withFolder(async (folder) => {
    for (const [hide, message] of hidden) {
      const model = hiding(hide);
      await assert.rejects(makeTrainer({}, model), said(ArgumentError, message));
      const calls = [
        () => model.stateDict(),
        () => model.parameters(),
        () => model.namedBuffers(),
        () => model.modules(),
        () => model.loadStateDict({}),
        () => model.train(),
        () => model.to(device!),
      ];
      for (const run of calls) assert.throws(run, said(ArgumentError, message));
      await assert.rejects(io.save(join(folder, "x"), model), said(ArgumentError, message));
      await assert.rejects(io.encode(model), said(ArgumentError, message));
    }
  });
  // What holds nothing, or what is found elsewhere, is in nobody's way.
  const model = hiding((inner) => ({
    inner,
    index: new Map([["a", inner]]),
    again: new Holder([inner.weight]),
    words: new Set(["a"]),
    plain: new Map([["x", x]]),
    bytes: new Holder(new Float32Array(9)),
  }));
  assert.deepEqual(Object.keys(model.stateDict()), [
    "head.weight",
    "head.bias",
    "held.inner.weight",
    "held.inner.bias",
  ]);
  await (await makeTrainer({}, model)).step(good);
});

/** A model of which a part, made by `make`, is used and not found. */
const hidingInPrivate = (make: () => nn.Layer) =>
  new (class Private extends nn.Module {
    readonly head = nn.linear(2, 1, { init: nn.init.ones });
    readonly #inner = make();
    override forward(input: Tensor): Tensor {
      return this.head.forward(this.#inner.forward(input));
    }
  })();

for (const count of [1, 3]) {
  test(`a parameter that is used and cannot be found is refused, and nothing is trained [${count}]`, async () => {
    const other = nn.linear(2, 2);
    const temperature = nn.parameter(full([], 2));
    const trained = nn.linear(2, 2);
    await (await makeTrainer({ loss: (o: Tensor, b: Any) => nn.mse(o, b.x) }, trained)).step(good);
    const bound = nn.linear(2, 2);
    optim.adam().bind(bound.parameters());
    const cases: readonly (readonly [model: nn.Module, options: object, message: RegExp])[] = [
      [hidingInPrivate(() => nn.linear(2, 2)), {}, /a parameter \[2, 2\] .*not found in the model.*#private/],
      [nn.linear(2, 1), { forward: (m: Any, b: Any) => m.forward(other.forward(b.x)) }, /a parameter \[2, 2\]/],
      [nn.linear(2, 1), { forward: (m: Any, b: Any) => m.forward(b.x).mul(temperature) }, /a parameter \[\]/],
      [nn.linear(2, 1), {
        forward: (m: Any, b: Any) => ({ y: m.forward(b.x), z: other.weight.square() }),
        loss: ({ y, z }: Any, b: Any) => nn.mse(y, b.y).plus(nn.penalty(z.sum())),
      }, /a parameter \[2, 2\]/],
      [
        nn.linear(2, 1),
        { forward: (m: Any, b: Any) => m.forward(trained.forward(b.x)) },
        /a parameter of another trainer or optimizer/,
      ],
      [
        nn.linear(2, 1),
        { forward: (m: Any, b: Any) => m.forward(bound.forward(b.x)) },
        /a parameter of another trainer or optimizer/,
      ],
    ];
    for (const [model, options, message] of cases) {
      const before = await Promise.all(model.parameters().map((parameter) => parameter.array()));
      const trainer = await makeTrainer(options, model, count);
      for (const run of [() => trainer.step(good), () => trainer.fit([good], silent), () => trainer.evaluate(good)]) {
        await assert.rejects(run, said(ArgumentError, message));
      }
      assert.deepEqual(await Promise.all(model.parameters().map((parameter) => parameter.array())), before);
    }
    // What is not to be trained is not looked for.
    const frozen: readonly object[] = [
      { forward: (m: Any, b: Any) => m.forward(other.forward(b.x).detach()) },
      { forward: (m: Any, b: Any) => m.forward(trained.forward(b.x).stopGradient()) },
      // The critic of a generator, which another trainer trains.
      { loss: (o: Tensor, b: Any) => nn.mse(trained.forward(o.mul(b.x)), b.x) },
      { loss: (o: Tensor, b: Any) => nn.mse(other.forward(o.mul(b.x)), b.x) },
      { metrics: { distance: (_: Any, b: Any) => nn.mse(other.forward(b.x), b.x) } },
    ];
    for (const options of frozen) {
      assert.equal((await (await makeTrainer(options, nn.linear(2, 1), count)).step(good)).updated, true);
    }
    for (const module of [other, trained, bound]) {
      const weight = await module.freeze().weight.array();
      const forward = (m: Any, b: Any) => m.forward(module.forward(b.x));
      const loss = (o: Tensor, b: Any) => nn.mse(o, b.y).plus(nn.mse(module.forward(b.x.mul(o)), b.x));
      assert.equal((await (await makeTrainer({ forward, loss }, nn.linear(2, 1), count)).step(good)).updated, true);
      assert.deepEqual(await module.weight.array(), weight);
    }
    // A part of another module is trained where the module is not.
    const whole = nn.sequential(nn.linear(2, 2), nn.linear(2, 1));
    const part = await makeTrainer(
      { forward: (m: Any, b: Any) => m.forward(whole.layers[0]!.forward(b.x).detach()) },
      whole.layers[1],
      count,
    );
    await part.step(good);
  });

  test(`a module that would train during evaluation because it cannot be found is refused [${count}]`, async () => {
    const message = /a Dropout, in training mode, which is not found in the model/;
    const hidden = await makeTrainer({}, hidingInPrivate(() => nn.dropout(0.5)), count);
    for (const run of [() => hidden.step(good), () => hidden.evaluate(good), () => hidden.predict(x)]) {
      await assert.rejects(run, said(ArgumentError, message));
    }
    const outside = nn.dropout(0.5);
    const trainer = await makeTrainer(
      { forward: (m: Any, b: Any) => m.forward(outside.forward(b.x)) },
      nn.linear(2, 1),
      count,
    );
    await assert.rejects(trainer.predict(x), said(ArgumentError, message));
    outside.eval();
    await trainer.step(good);
    assert.deepEqual((await trainer.predict(x)).shape, [2, 1]);
  });
}

for (const count of [1, 2]) {
  test(`frozen parameters are buffers: saved, and not trained, while gradients flow through [${count}]`, async () => {
    const make = () =>
      nn.sequential(
        nn.linear(2, 2, { init: nn.init.ones }),
        nn.linear(2, 2, { init: nn.init.ones }),
        nn.linear(2, 1, { init: nn.init.ones }),
      );
    const [model, free] = [make(), make()];
    const middle = model.layers[1] as nn.Linear;
    middle.freeze();
    assert.deepEqual(Object.keys(model.namedParameters()), [
      "layers.0.weight",
      "layers.0.bias",
      "layers.2.weight",
      "layers.2.bias",
    ]);
    assert.deepEqual(Object.keys(model.namedBuffers()), ["layers.1.weight", "layers.1.bias"]);
    assert.deepEqual(Object.keys(model.stateDict()), Object.keys(free.stateDict()));
    const [trainer, whole] = [await makeTrainer({}, model, count), await makeTrainer({}, free, count)];
    await trainer.step(good);
    await whole.step(good);
    assert.deepEqual(await middle.weight.array(), [[1, 1], [1, 1]]);
    // The others are moved as if it were not frozen.
    for (const i of [0, 2]) {
      assertClose(
        await (model.layers[i] as nn.Linear).weight.data(),
        await (free.layers[i] as nn.Linear).weight.data(),
      );
    }
    await trainer.release();
    model.unfreeze();
    assert.deepEqual(Object.keys(model.namedParameters()), Object.keys(free.namedParameters()));
    await (await makeTrainer({}, model, count)).step(good);
    assert.notDeepEqual(await middle.weight.array(), [[1, 1], [1, 1]]);
  });
}

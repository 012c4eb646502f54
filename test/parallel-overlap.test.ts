/** Calls of a trainer that overlap: each sees one mode, one version of the weights, and loses nothing to another. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Device } from "../src/devices/device/device.ts";
import { simulateLoss } from "../src/devices/loss.ts";
import { AllDevicesLostError, CallbackError, NonFiniteLossError, ShapeError, StateError } from "../src/errors.ts";
import { compile, data, nn, optim, parallel, random, setDefaultDevice, type Tensor, tensor } from "../src/index.ts";
import type { StepRecord } from "../src/nn/training/history.ts";
import { assertClose, onEachDevice, testKinds, virtualDevices } from "./harness.ts";

const silent = { progress: "none" } as const;

/** y = w x with w = 1 at first. */
class Scale extends nn.Module {
  readonly w = nn.parameter(tensor([1]));
  override forward(x: Tensor): Tensor {
    return x.mul(this.w);
  }
}

const squares = (output: Tensor, batch: { readonly x: Tensor; readonly y: Tensor }) => nn.mse(output, batch.y);

/** A trainer of y = w x whose steps on rows of ones towards zeros multiply w by 0.98. */
function scaling(devices: readonly Device[], learningRate = 0.01) {
  const model = new Scale();
  return { model, trainer: nn.trainer(model, { loss: squares, optimizer: optim.sgd({ learningRate }), devices }) };
}

const ones = (rows: number) => data.array(new Float32Array(rows).fill(1), { shape: [rows] });
const zeros = (rows: number) => data.array(new Float32Array(rows), { shape: [rows] });
const batchOf = (rows: number) => ({ x: ones(rows), y: zeros(rows) });
const wait = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** One device, and several. */
function onDevices(name: string, body: (devices: readonly Device[]) => Promise<void>): void {
  for (const kind of testKinds) {
    for (const count of [1, 3]) {
      test(`${name} [${count} ${kind}]`, async (t) => {
        const devices = await virtualDevices(kind, count);
        if (devices === undefined) return t.skip("no adapter");
        await body(devices);
      });
    }
  }
}

onDevices("fit drops and predict does not, however they overlap, whatever is set on the model", async (devices) => {
  const model = nn.sequential(new Scale(), nn.dropout(0.5));
  const train = nn.trainer(model, { loss: squares, optimizer: optim.sgd({ learningRate: 0 }), devices });
  const predictions: Promise<Tensor>[] = [];
  const evaluations: Promise<{ readonly loss: number }>[] = [];
  // Each size is traced anew, with other calls under way.
  const batches = [8, 16, 8, 24, 16, 8].map((rows) => ({ x: ones(rows), y: ones(rows) }));
  const { steps } = await train.fit(batches, {
    onBatch: ({ batch }) => {
      predictions.push(train.predict({ x: ones(8 + batch) }));
      evaluations.push(train.evaluate({ x: ones(20 + batch), y: ones(20 + batch) }));
      if (batch % 2 === 0) model.eval();
      else model.train();
    },
    ...silent,
  });
  // Each element is 0 or 2 in training, 1 away from 1 either way, and 1 in evaluation.
  assert.deepEqual(steps.map(({ loss }) => loss), [1, 1, 1, 1, 1, 1]);
  for (const y of await Promise.all(predictions)) assert.ok((await y.data()).every((value) => value === 1));
  for (const { loss } of await Promise.all(evaluations)) assert.equal(loss, 0);
  // The plans that are kept are those of training.
  for (const rows of [8, 16, 24]) assert.equal((await train.step({ x: ones(rows), y: ones(rows) })).loss, 1);
});

onDevices("a module outside of the model has the mode that was set on it, in training too", async (devices) => {
  const model = new Scale();
  const teacher = nn.dropout(0.5);
  teacher.eval();
  const train = nn.trainer(model, {
    loss: (output, batch) => nn.mse(output, teacher.forward(batch.y)),
    optimizer: optim.sgd({ learningRate: 0 }),
    devices,
  });
  const batch = { x: ones(16), y: ones(16) };
  assert.equal((await train.step(batch)).loss, 0);
  teacher.train();
  assert.equal((await train.step(batch)).loss, 1);
  assert.equal((await train.evaluate(batch)).loss, 1);
  teacher.eval();
  assert.equal((await train.step(batch)).loss, 0);
  assert.equal((await train.evaluate(batch)).loss, 0);
});

onEachDevice("a compiled function follows the modes of the modules in it, call by call", async (device) => {
  const model = nn.sequential(nn.dropout(0.5), nn.batchNorm(2));
  model.to(device);
  let traces = 0;
  const run = compile((x: Tensor) => {
    traces++;
    return model.forward(x);
  });
  const x = tensor([[1, 2], [3, 4], [5, 6], [7, 8]], { device });
  const evaluated = () => assertClose2(model.eval(), x, run);
  await evaluated();
  model.train();
  // What is set after the call does not count.
  const trained = run(x);
  model.eval();
  // Batch normalisation by the batch's own statistics has mean 0; by the running ones it has not.
  assertClose(await (await trained).sum().data(), [0], { atol: 1e-4 });
  await evaluated();
  model.layers[0]!.train();
  const dropped = await (await run(x)).data();
  assert.ok(dropped.some((value) => value === 0) || dropped.every((value, i) => value !== i + 1));
  model.eval();
  await evaluated();
  assert.equal(traces, 3, "one for each combination of modes");
  // What is set inside holds inside.
  const inside = compile((x: Tensor) => {
    model.train();
    const training = model.training;
    return { y: model.eval().forward(x), training };
  });
  assert.equal((await inside(x)).training, true);
  assert.equal(model.training, false);
});

/** In evaluation, dropout does nothing, and the running statistics are those of now. */
async function assertClose2(model: nn.Sequential, x: Tensor, run: (x: Tensor) => Promise<Tensor>): Promise<void> {
  const norm = model.layers[1] as nn.BatchNorm;
  const [mean, variance] = [await norm.runningMean.data(), await norm.runningVariance.data()];
  const expected = (await x.data()).map((value, i) => (value - mean[i % 2]!) / Math.sqrt(variance[i % 2]! + 1e-5));
  assertClose(await (await run(x)).data(), expected, { rtol: 1e-4 });
}

test("a replicated model has the mode and the weights of the call, though both change at once", async () => {
  const devices = (await virtualDevices("cpu", 2))!;
  const scale = new Scale();
  const model = nn.sequential(scale, nn.dropout(0.5));
  const run = parallel.replicate((x: Tensor) => model.forward(x), devices, { rowsAtOnce: 3, seed: 1 });
  const trainer = nn.trainer(scale, { loss: squares, optimizer: optim.sgd({ learningRate: 0.01 }), devices });
  model.eval();
  const first = run(ones(20));
  model.train();
  const second = run(ones(21));
  scale.w.assign(tensor([3]));
  const third = run(ones(21));
  model.eval();
  assert.deepEqual(await (await first).data(), new Float32Array(20).fill(1));
  for (const [y, w] of [[second, 1], [third, 3]] as const) {
    const values = await (await y).data();
    assert.ok(values.every((value) => value === 0 || value === 2 * w) && values.some((value) => value === 0));
  }
  // While a trainer writes over them, too.
  const before = await scale.w.item();
  await trainer.step(batchOf(4));
  const parts = [run(ones(40)), trainer.step(batchOf(4)), run(ones(41)), trainer.step(batchOf(4))] as const;
  for (const y of [await parts[0], await parts[2]]) assert.equal(new Set(await y.data()).size, 1);
  await Promise.all(parts);
  assertClose([await scale.w.item()], [before * 0.98 ** 3], { rtol: 1e-5 });
});

onDevices("predict and evaluate see one version: that after the steps asked for before", async (devices) => {
  const { model, trainer } = scaling(devices);
  await trainer.step(batchOf(4));
  // In the order of the calls, though nothing is waited for.
  const [, y, , z] = [
    trainer.step(batchOf(4)),
    trainer.predict({ x: ones(30) }, { rowsAtOnce: 4 }),
    trainer.step(batchOf(5)),
    trainer.evaluate([batchOf(7), batchOf(9)], { rowsAtOnce: 2 }),
  ] as const;
  const last = trainer.step(batchOf(4));
  const values = await (await y).data();
  assert.equal(new Set(values).size, 1, `${values}`);
  assertClose(values, new Float32Array(30).fill(0.98 ** 2), { rtol: 1e-5 });
  assertClose([(await z).loss], [0.98 ** 6], { rtol: 1e-5 });
  await last;
  assertClose([await model.w.item()], [0.98 ** 4], { rtol: 1e-5 });
  // While fit runs: each is the version after one of its steps.
  const seen: Promise<Float32Array>[] = [];
  const losses: Promise<number>[] = [];
  await trainer.fit(Array.from({ length: 12 }, () => batchOf(4)), {
    onBatch: () => {
      seen.push(trainer.predict({ x: ones(20) }, { rowsAtOnce: 3 }).then((y) => y.data() as Promise<Float32Array>));
      losses.push(trainer.evaluate([batchOf(3), batchOf(5), batchOf(8)], { rowsAtOnce: 2 }).then(({ loss }) => loss));
    },
    ...silent,
  });
  const versions = Array.from({ length: 13 }, (_, i) => 0.98 ** (4 + i));
  const isOne = (value: number, of: readonly number[]) =>
    of.some((version) => Math.abs(value - version) < 1e-5 * version);
  for (const values of await Promise.all(seen)) {
    assert.equal(new Set(values).size, 1, `${values}`);
    assert.ok(isOne(values[0]!, versions));
  }
  for (const loss of await Promise.all(losses)) {
    assert.ok(isOne(loss, versions.map((version) => version ** 2)), `${loss}`);
  }
});

onDevices(
  "running statistics, too, are those of one version: the outputs of an overlapping predict are those of one that does not",
  async (devices) => {
    const fields = {
      x: data.array(Float32Array.from({ length: 96 }, (_, i) => Math.sin(i) * i), { shape: [32, 3] }),
      y: data.array(new Float32Array(32), { shape: [32, 1] }),
    };
    const rows = { x: fields.x };
    const make = () => {
      random.seed(3);
      const model = nn.sequential(nn.linear(3, 4), nn.batchNorm(4), nn.dropout(0.5), nn.linear(4, 1));
      return nn.trainer(model, { loss: squares, optimizer: optim.adam({ learningRate: 0.05 }), devices, seed: 3 });
    };
    const alone = make();
    const versions: string[] = [];
    for (const batch of data.batches(fields, { batchSize: 4 })) {
      await alone.step(batch);
      versions.push((await (await alone.predict(rows, { rowsAtOnce: 5 })).data()).join());
    }
    assert.equal(new Set(versions).size, 8);
    const train = make();
    const seen: Promise<string>[] = [];
    await train.fit(data.batches(fields, { batchSize: 4 }), {
      onBatch: () => void seen.push(train.predict(rows, { rowsAtOnce: 5 }).then(async (y) => (await y.data()).join())),
      ...silent,
    });
    const found = (await Promise.all(seen)).map((outputs) => versions.indexOf(outputs));
    // When a step is told of, the next one is under way: it is the version after that.
    assert.deepEqual(found, [1, 2, 3, 4, 5, 6, 7, 7]);
  },
);

onDevices("an evaluation whose source keeps steps waiting lets them go on, and keeps its version", async (devices) => {
  const model = nn.sequential(
    new Scale(),
    nn.lambda((x) => x.reshape([-1, 1])),
    nn.batchNorm(1, { affine: false }),
    nn.lambda((x) => x.reshape([-1])),
  );
  const train = nn.trainer(model, { loss: squares, optimizer: optim.sgd({ learningRate: 0.01 }), devices });
  const ramp = (rows: number) => ({
    x: data.array(Float32Array.from({ length: rows }, (_, i) => i), { shape: [rows] }),
    y: ones(rows),
  });
  await train.step(ramp(6));
  const before = await train.evaluate([ramp(5), ramp(7), ramp(4)]);
  const steps: Promise<StepRecord>[] = [];
  let predicted = 0;
  async function* source() {
    yield ramp(5);
    // It waits for what waits for its evaluation.
    for (let i = 0; i < 3; i++) steps.push(train.step(ramp(6)));
    await Promise.all(steps);
    predicted = (await (await train.predict({ x: ones(3) })).data()).length;
    yield ramp(7);
    yield ramp(4);
  }
  const after = await train.evaluate(source());
  assert.deepEqual([after.loss, after.rows], [before.loss, before.rows]);
  assert.equal(predicted, 3);
  assert.equal(steps.length, 3);
  assert.notEqual(
    (await train.evaluate([ramp(5), ramp(7), ramp(4)])).loss,
    before.loss,
    "the steps did move something",
  );
});

onDevices(
  "an evaluation that ends early waits for its source, which may wait for what waits for the evaluation",
  async (devices) => {
    const { trainer } = scaling(devices);
    await trainer.step(batchOf(4));
    const wrong = { x: ones(3), y: zeros(4) };
    let ends = 0;
    const sources = {
      // What it makes ahead waits for a step.
      ahead: async function* () {
        try {
          yield wrong;
          await trainer.step(batchOf(4));
          yield batchOf(4);
        } finally {
          ends++;
        }
      },
      // So does its end.
      end: async function* () {
        try {
          yield wrong;
          yield batchOf(4);
        } finally {
          await trainer.step(batchOf(4));
          ends++;
        }
      },
      // And one whose batches never fail, but what it does last.
      failing: async function* () {
        yield wrong;
        await trainer.step(batchOf(4));
        throw new Error("mine");
      },
    };
    for (const source of Object.values(sources)) await assert.rejects(trainer.evaluate(source()), ShapeError);
    await assert.rejects(trainer.fit([batchOf(4)], { validation: sources.ahead(), ...silent }), ShapeError);
    assert.equal(ends, 3);
    assert.equal((await trainer.step(batchOf(4))).step, 7);
    // Once all devices are lost, there is no version to keep.
    let waited: unknown;
    const lost = async function* () {
      try {
        yield batchOf(4);
        const step = trainer.step(batchOf(4));
        for (const device of devices) simulateLoss(device, "gone");
        waited = await step.catch((error: unknown) => error);
        yield batchOf(4);
      } finally {
        ends++;
      }
    };
    const error: unknown = await trainer.evaluate(lost()).catch((error: unknown) => error);
    assert.ok(waited instanceof AllDevicesLostError, String(waited));
    assert.ok(error instanceof AllDevicesLostError, String(error));
    assert.equal(ends, 4);
  },
);

onDevices(
  "what a callback or a source throws is typed, and the steps that are done are in the history",
  async (devices) => {
    const stop = new Error("enough");
    const callback = async (run: Promise<unknown>, name: RegExp) => {
      await assert.rejects(run, (error: unknown) => {
        assert.ok(error instanceof CallbackError, String(error));
        assert.equal(error.cause, stop);
        assert.match(error.message, name);
        assert.match(error.message, /enough/);
        return true;
      });
    };
    const four = [batchOf(4), batchOf(4), batchOf(4), batchOf(4)];
    const { model, trainer } = scaling(devices);
    let weight = 1;
    const steps = async (count: number) => {
      assert.deepEqual(
        trainer.history.steps.map(({ step }) => step),
        Array.from({ length: trainer.history.steps.length }, (_, i) => i + 1),
      );
      weight *= 0.98 ** count;
      assertClose([await model.w.item()], [weight], { rtol: 1e-5 });
      assertClose([trainer.history.steps.length], [Math.round(Math.log(weight) / Math.log(0.98))]);
    };
    let told = 0;
    const onBatch = ({ batch }: { readonly batch: number }) => {
      told++;
      if (batch === 2) throw stop;
    };
    await callback(trainer.fit(four, { onBatch, ...silent }), /onBatch/);
    assert.equal(told, 2, "it is not called again");
    await steps(3); // The third was under way.
    await callback(trainer.fit(four, { onBatch: async () => await Promise.reject(stop), ...silent }), /onBatch/);
    await steps(2);
    await callback(
      trainer.fit(four, {
        onEpoch: () => {
          throw stop;
        },
        epochs: 2,
        ...silent,
      }),
      /onEpoch/,
    );
    await steps(4);
    assert.equal(trainer.history.epochs.length, 1);
    function* failing() {
      yield batchOf(4);
      yield batchOf(4);
      throw stop;
    }
    async function* failingLater() {
      yield* failing();
    }
    await callback(trainer.fit(failing(), silent), /source of batches/);
    await steps(2);
    await callback(trainer.fit(failingLater(), silent), /source of batches/);
    await steps(2);
    await callback(trainer.evaluate(failing()), /evaluate.*source of batches/);
    await callback(trainer.fit(four, { validation: failing(), ...silent }), /source of batches/);
    await steps(4);
    const epoch = trainer.history.epochs.at(-1)!;
    assert.deepEqual(
      [trainer.history.epochs.length, epoch.rows, epoch.validation],
      [2, 16, undefined],
      "the epoch was done",
    );
    // A batch that will not do: the step before it is done; the error is shardwise's own.
    await assert.rejects(trainer.fit([batchOf(4), { x: ones(3), y: zeros(4) }], silent), ShapeError);
    await steps(1);
    const { steps: own } = await trainer.fit(four, silent);
    assert.equal(own.length, 4);
    await steps(4);
  },
);

test("a listener that throws stops no step: its device is told of once, and the call that was on rejects when it is done", async () => {
  const open = async () => (await virtualDevices("cpu", 3))!;
  for (const listening of ["step", "fit", "predict", "checksum"] as const) {
    const devices = await open();
    const { model, trainer } = scaling(devices);
    await trainer.step(batchOf(6));
    const heard: string[] = [];
    trainer.on("deviceLost", ({ device }) => {
      heard.push(device);
      throw new Error("mine");
    });
    trainer.on("deviceLost", ({ device }) => void heard.push(`also ${device}`));
    simulateLoss(devices[0]!, "gone");
    const run = listening === "step"
      ? trainer.step(batchOf(6))
      : listening === "fit"
      ? trainer.fit([batchOf(6), batchOf(6)], silent)
      : listening === "predict"
      ? trainer.predict({ x: ones(5) })
      : trainer.checksum();
    const error: unknown = await run.catch((error: unknown) => error);
    assert.ok(error instanceof CallbackError, String(error));
    assert.match(error.message, /deviceLost.*mine/);
    assert.deepEqual(heard, [devices[0]!.name, `also ${devices[0]!.name}`]);
    assert.equal(trainer.history.events.length, 1);
    if (listening === "step") assert.equal((error.result as StepRecord).step, 2);
    if (listening === "predict") assertClose(await (error.result as Tensor).data(), new Float32Array(5).fill(0.98));
    if (listening === "fit") assert.ok(trainer.history.steps.length >= 1);
    const done = listening === "step" ? 2 : 1 + trainer.history.steps.length;
    assertClose([await model.w.item()], [0.98 ** done], { rtol: 1e-5 });
    await trainer.step(batchOf(6));
  }
  const devices = await open();
  const double = parallel.replicate((x: Tensor) => x.mul(2), devices, {
    onDeviceLost: () => {
      throw new Error("mine");
    },
  });
  simulateLoss(devices[1]!, "gone");
  const error: unknown = await double(ones(5)).catch((error: unknown) => error);
  assert.ok(error instanceof CallbackError && /onDeviceLost.*mine/.test(error.message), String(error));
  assert.deepEqual(await (error.result as Tensor).data(), new Float32Array(5).fill(2));
  assert.deepEqual(await (await double(ones(5))).data(), new Float32Array(5).fill(2));
});

test("calls that overlap a loss tell of a device once", async () => {
  for (let round = 0; round < 4; round++) {
    const devices = (await virtualDevices("cpu", 3))!;
    const { model, trainer } = scaling(devices);
    await trainer.step(batchOf(6));
    const runs = [
      trainer.step(batchOf(6)),
      trainer.predict({ x: ones(30) }, { rowsAtOnce: 4 }),
      trainer.evaluate(batchOf(30), { rowsAtOnce: 4 }),
      trainer.checksum(),
      trainer.step(batchOf(6)),
    ];
    for (let i = 0; i < round; i++) await wait(1);
    simulateLoss(devices[round % 3]!, "gone");
    await Promise.all(runs);
    await trainer.step(batchOf(6));
    assert.equal(trainer.history.events.length, 1);
    assertClose([await model.w.item()], [0.98 ** 4], { rtol: 1e-5 });
    const more = (await virtualDevices("cpu", 3))!;
    const lost: string[] = [];
    const double = parallel.replicate((x: Tensor) => x.mul(2), more, {
      rowsAtOnce: 4,
      onDeviceLost: ({ device }) => void lost.push(device),
    });
    const calls = [double(ones(30)), double(ones(30)), double(ones(31))];
    simulateLoss(more[round % 3]!, "gone");
    await Promise.all(calls);
    assert.equal(lost.length, 1);
  }
});

onDevices(
  "a second fit at once is refused, each history is its own, and steps may come between those of fit",
  async (devices) => {
    const { model, trainer } = scaling(devices);
    const three = [batchOf(4), batchOf(4), batchOf(4)];
    const between: Promise<StepRecord>[] = [];
    const onBatch = () => void between.push(trainer.step(batchOf(4)));
    const [one, two] = await Promise.allSettled([
      trainer.fit(three, { onBatch, ...silent }),
      trainer.fit(three, silent),
    ]);
    assert.ok(two.status === "rejected" && two.reason instanceof StateError, "refused");
    assert.ok(one.status === "fulfilled");
    assert.equal(one.value.steps.length, 3);
    const numbers = [...one.value.steps, ...await Promise.all(between)].map(({ step }) => step);
    assert.deepEqual(numbers.sort((a, b) => a - b), [1, 2, 3, 4, 5, 6]);
    const next = await trainer.fit(three, silent);
    assert.deepEqual(next.steps.map(({ step }) => step), [7, 8, 9]);
    assert.equal(trainer.history.steps.length, 6);
    assertClose([await model.w.item()], [0.98 ** 9], { rtol: 1e-5 });
  },
);

onDevices(
  "after fit was rejected, predict and evaluate have the weights of before, and training goes on",
  async (devices) => {
    const { trainer } = scaling(devices);
    const bad = { x: data.array(Float32Array.of(1, NaN, 1, 1), { shape: [4] }), y: zeros(4) };
    const run = trainer.fit([batchOf(4), batchOf(4), bad, batchOf(4)], {
      // They may run while the bad step is judged.
      onBatch: () => void Promise.all([trainer.predict({ x: ones(2) }), trainer.evaluate(batchOf(2))]).catch(() => {}),
      ...silent,
    });
    await assert.rejects(run, NonFiniteLossError);
    assert.equal(trainer.history.steps.length, 2);
    assertClose(await (await trainer.predict({ x: ones(2) })).data(), [0.98 ** 2, 0.98 ** 2]);
    assertClose([(await trainer.evaluate(batchOf(2))).loss], [0.98 ** 4]);
    // Those that follow it at once go on from there, too.
    const [a, b, y] = await Promise.all([
      trainer.step(batchOf(4)),
      trainer.step(batchOf(4)),
      trainer.predict({ x: ones(1) }),
    ]);
    assert.ok(a.updated && b.updated);
    assertClose(await y.data(), [0.98 ** 4]);
  },
);

onDevices("a step that is refused takes none with it that is asked for at once, and ends a fit", async (devices) => {
  const { model, trainer } = scaling(devices);
  const bad = { x: data.array(Float32Array.of(1, NaN, 1, 1), { shape: [4] }), y: zeros(4) };
  const [one, two, y, three, four, z] = await Promise.allSettled([
    trainer.step(bad),
    trainer.step(batchOf(4)),
    trainer.predict({ x: ones(1) }).then((y) => y.data()),
    trainer.step(bad),
    trainer.step(batchOf(4)),
    trainer.evaluate(batchOf(4)),
  ]);
  assert.ok(one.status === "rejected" && one.reason instanceof NonFiniteLossError && three.status === "rejected");
  assert.match((three.reason as Error).message, /at step 3/, "its own error");
  assert.ok(two.status === "fulfilled" && four.status === "fulfilled" && two.value.updated && four.value.updated);
  assert.ok(y.status === "fulfilled" && z.status === "fulfilled");
  assertClose([...y.value, z.value.loss], [0.98, 0.98 ** 4]);
  // Between those of a fit it is an error of that one as well, whose steps behind it change nothing.
  let other: Promise<unknown> | undefined;
  const run = trainer.fit(Array.from({ length: 6 }, () => batchOf(4)), {
    onBatch: () => void (other ??= trainer.step(bad).catch((error: unknown) => error)),
    ...silent,
  });
  const error: unknown = await run.catch((error: unknown) => error);
  assert.ok(error instanceof NonFiniteLossError, String(error));
  assert.equal(error, await other);
  const done = 2 + trainer.history.steps.length;
  assert.ok(done < 8);
  assertClose([await model.w.item()], [0.98 ** done], { rtol: 1e-5 });
  assert.equal((await trainer.fit([batchOf(4)], silent)).steps.length, 1);
});

onDevices(
  "after release every call is a typed error, what was asked for before is done, and the model is whole",
  async (devices) => {
    const { model, trainer } = scaling(devices);
    await trainer.step(batchOf(4));
    const before = trainer.step(batchOf(4));
    const y = trainer.predict({ x: ones(9) }, { rowsAtOnce: 2 });
    const fit = trainer.fit(Array.from({ length: 50 }, () => batchOf(4)), silent);
    await before;
    await wait(5);
    const released = trainer.release();
    const calls = [
      () => trainer.step(batchOf(4)),
      () => trainer.fit([batchOf(4)], silent),
      () => trainer.evaluate(batchOf(4)),
      () => trainer.predict({ x: ones(4) }),
      () => trainer.checksum(),
      () => trainer.devices(),
      () => trainer.memory(),
      () => trainer.addDevice(devices[0]!),
    ];
    for (const call of calls) await assert.rejects(call(), StateError);
    const ended: unknown = await fit.catch((error: unknown) => error);
    await released;
    if (trainer.history.steps.length < 50) assert.ok(ended instanceof StateError, String(ended));
    assertClose(await (await y).data(), new Float32Array(9).fill(0.98 ** 2));
    await trainer.release();
    for (const call of calls) await assert.rejects(call(), StateError);
    assertClose([await model.w.item()], [0.98 ** (2 + trainer.history.steps.length)], { rtol: 1e-5 });
  },
);

test("a batch of tensors is what it is at the call, though steps before it are under way", async () => {
  const { model, trainer } = scaling((await virtualDevices("cpu", 2))!, 1);
  random.seed(1);
  const x = tensor([1, 1, 1]);
  const y = tensor([0, 0, 0]);
  await trainer.step(batchOf(3)); // w = 1 - 2
  const first = trainer.step({ x, y }); // w = -1 + 2
  const second = trainer.step({ x, y });
  const predicted = trainer.predict({ x });
  const evaluated = trainer.evaluate({ x, y });
  x.assign(tensor([7, 7, 7]));
  await first;
  await second;
  assertClose(await (await predicted).data(), [-1, -1, -1]);
  assertClose([(await evaluated).loss], [1]);
  assertClose([await model.w.item()], [-1]);
});

for (const kind of testKinds) {
  test(`an evaluation that steps have overtaken keeps its version through the loss of the device that had it [${kind}]`, async (t) => {
    const devices = await virtualDevices(kind, 3);
    if (devices === undefined) return t.skip("no adapter");
    const { trainer } = scaling(devices);
    await trainer.step(batchOf(4));
    async function* source() {
      yield batchOf(4);
      assert.equal((await trainer.step(batchOf(4))).step, 2);
      simulateLoss(devices![0]!, "gone");
      yield batchOf(4);
    }
    assertClose([(await trainer.evaluate(source())).loss], [0.98 ** 2], { rtol: 1e-5 });
  });
}

test("release waits for what an evaluation runs that others have overtaken, and ends it at its next batch", async () => {
  const devices = (await virtualDevices("cpu", 3))!;
  const open = async () => {
    const { model, trainer } = scaling(devices);
    await trainer.step(batchOf(4));
    let released: Promise<void> | undefined;
    const source = async function* (isLast: boolean) {
      yield batchOf(4);
      await trainer.step(batchOf(4)); // Others have the turn from here on.
      yield batchOf(200);
      released = trainer.release();
      if (isLast) return;
      await released;
      yield batchOf(4);
    };
    return {
      model,
      evaluate: (isLast: boolean) => trainer.evaluate(source(isLast), { rowsAtOnce: 1 }),
      released: () => released,
    };
  };
  const running = await open();
  const { loss, rows } = await running.evaluate(true);
  assert.equal(rows, 204);
  assertClose([loss], [0.98 ** 2], { rtol: 1e-5 });
  await running.released();
  const ended = await open();
  await assert.rejects(ended.evaluate(false), StateError);
  assertClose([await ended.model.w.item()], [0.98 ** 2], { rtol: 1e-5 });
});

onEachDevice("what a call computes of a tensor that it captures need not be computed again", async (device) => {
  setDefaultDevice(device);
  try {
    const scale = tensor([1, 2]).add(1);
    const run = parallel.replicate((x: Tensor) => x.mul(scale), [device]);
    assert.deepEqual(
      await (await run(data.array(Float32Array.of(1, 2, 3, 4), { shape: [2, 2] }))).data(),
      Float32Array.of(2, 6, 6, 12),
    );
    const before = device.stats().dispatches;
    assert.deepEqual(await scale.data(), Float32Array.of(2, 3));
    assert.equal(device.stats().dispatches, before);
  } finally {
    setDefaultDevice(undefined);
  }
});

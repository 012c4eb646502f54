/** The trainer: fit, evaluate, predict, what they report, and what they refuse. */
import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import { ArgumentError, DecompositionError, DeviceError, NonFiniteLossError, ShapeError } from "../src/errors.ts";
import { collectGarbage, nextTurn } from "../src/host/host.ts";
import { batches } from "../src/nn/data/data.ts";
import * as nn from "../src/nn/nn.ts";
import { adam, sgd } from "../src/nn/optim/index.ts";
import type { EpochRecord } from "../src/nn/training/history.ts";
import { formatSeconds, progressLines } from "../src/nn/training/progress.ts";
import { type BatchEvent, type DefaultBatch, trainer } from "../src/nn/training/trainer.ts";
import { tensor } from "../src/tensor/create.ts";
import { seed } from "../src/tensor/random.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { assertClose, testKinds, virtualDevices } from "./harness.ts";
import { countNodes, livingNodes, stopCounting } from "./living-nodes.ts";

const cpus = async (count: number) => (await virtualDevices("cpu", count))!;

/** y = w x with w = 1 at first. */
class Scale extends nn.Module {
  readonly w = nn.parameter(tensor([1]));
  override forward(x: Tensor): Tensor {
    return x.mul(this.w);
  }
}

/** Two classes of points, which a line divides. */
function points(rows: number) {
  const x = new Float32Array(rows * 2);
  const y = new Uint8Array(rows);
  for (let i = 0; i < rows; i++) {
    x[2 * i] = Math.sin(i * 12.9898) * 2;
    x[2 * i + 1] = Math.cos(i * 78.233) * 2;
    y[i] = x[2 * i]! + x[2 * i + 1]! > 0 ? 1 : 0;
  }
  return {
    x: { data: x, shape: [rows, 2], dtype: "f32" as const },
    y: { data: y, shape: [rows], dtype: "i32" as const },
  };
}

function classifier() {
  seed(1);
  return nn.sequential(nn.linear(2, 8), nn.relu(), nn.linear(8, 2));
}

const classify = {
  loss: (output: Tensor, batch: { readonly y: Tensor }) => nn.crossEntropy(output, batch.y),
  metrics: { accuracy: (output: Tensor, batch: { readonly y: Tensor }) => nn.accuracy(output, batch.y) },
};

const silent = { progress: "none" } as const;

for (const kind of testKinds) {
  test(`fit learns on three devices, shares each batch, and reports it [${kind}]`, async (t) => {
    const devices = await virtualDevices(kind, 3);
    if (devices === undefined) return t.skip("no adapter");
    const model = classifier();
    const train = trainer(model, { ...classify, optimizer: adam({ learningRate: 0.02 }), devices });
    const events: BatchEvent[] = [];
    const epochs: EpochRecord[] = [];
    const history = await train.fit(batches(points(224), { batchSize: 128, shuffle: 3 }), {
      epochs: 15,
      validation: batches(points(50), { batchSize: 32 }),
      onBatch: (event) => void events.push(event),
      onEpoch: (record) => void epochs.push(record),
      ...silent,
    });
    assert.deepEqual(events.slice(0, 2).map(({ sizes }) => sizes), [[43, 43, 42], [32, 32, 32]]);
    assert.deepEqual(
      events.slice(0, 3).map(({ epoch, batch, batches, step }) => [epoch, batch, batches, step]),
      [[1, 1, 2, 1], [1, 2, 2, 2], [2, 1, 2, 3]],
    );
    assert.deepEqual(events[0]!.devices, devices.map((device) => device.name));
    assert.equal(history.steps.length, 30);
    assert.deepEqual(history.epochs, epochs);
    const last = history.epochs[14]!;
    assert.equal(last.rows, 224);
    assert.equal(last.validation!.rows, 50);
    assert.ok(last.loss < history.epochs[0]!.loss / 2, `${last.loss} after ${history.epochs[0]!.loss}`);
    assert.ok(last.metrics["accuracy"]! > 0.9 && last.validation!.metrics["accuracy"]! > 0.85);
    assert.deepEqual(train.history, history);

    // The model's own tensors read as the new weights, outside of the trainer too.
    const { x, y } = points(50);
    const outside = nn.crossEntropy(model.forward(tensor(x.data, { shape: x.shape })), tensor(y.data));
    assertClose([await outside.mean.item()], [last.validation!.loss], { rtol: 1e-4 });
  });
}

test("the run is the same on 1 and on 4 devices, step by step", async () => {
  const runs = [];
  for (const count of [1, 4]) {
    const model = classifier();
    const train = trainer(model, {
      ...classify,
      optimizer: adam({ learningRate: 0.02 }),
      devices: await cpus(count),
    });
    const { steps } = await train.fit(batches(points(50), { batchSize: 16, shuffle: 1 }), {
      epochs: 2,
      ...silent,
    });
    runs.push(steps.flatMap(({ loss, metrics }) => [loss, metrics["accuracy"]!]));
  }
  assertClose(runs[1]!, runs[0]!, { rtol: 1e-4 });
});

test("the loss and metrics of an epoch, and of evaluate, are means over rows, not over batches", async () => {
  for (const count of [1, 3]) {
    const train = trainer(new Scale(), {
      loss: (output, batch) => nn.mse(output, batch.y),
      metrics: { error: (output, batch) => nn.meanAbsoluteError(output, batch.y) },
      optimizer: sgd({ learningRate: 0 }),
      devices: await cpus(count),
    });
    const data = batches({ x: Float32Array.of(1, 2, 3, 4, 5, 6, 7), y: new Float32Array(7) }, {
      batchSize: 4,
    });
    const { epochs } = await train.fit(data, silent);
    assertClose([epochs[0]!.loss, epochs[0]!.metrics["error"]!], [20, 4]);
    const whole = await train.evaluate(data);
    assertClose([whole.loss, whole.metrics["error"]!, whole.rows], [20, 4, 7]);
    for (const rowsAtOnce of [1, 3, 100]) {
      const batch = { x: tensor([1, 2, 3, 4, 5, 6, 7]), y: tensor([0, 0, 0, 0, 0, 0, 0]) };
      assertClose([(await train.evaluate(batch, { rowsAtOnce })).loss], [20]);
    }
  }
});

test("a term of which a batch counts nothing is no part of its loss, in training and in evaluation", async () => {
  for (const count of [1, 3]) {
    const train = trainer(new Scale(), {
      loss: (output, batch: DefaultBatch & { seen: Tensor }) =>
        nn.mse(output, batch.y).plus(nn.mse(output.add(1), batch.y, { weights: batch.seen })),
      optimizer: sgd({ learningRate: 0 }),
      devices: await cpus(count),
    });
    const batch = (seen: number) => ({ x: tensor([1, 2, 3]), y: tensor([0, 0, 0]), seen: tensor([seen, 0, 0]) });
    const step = await train.step(batch(0));
    assertClose([step.loss, (await train.step(batch(2))).loss], [14 / 3, 14 / 3 + 4]);
    assertClose([(await train.evaluate(batch(0))).loss, (await train.evaluate([batch(0), batch(1)])).loss], [
      14 / 3,
      14 / 3 + 4,
    ]);
  }
});

test("a penalty is a mean over rows, too, in an epoch in which it changes and over the batches of evaluate", async () => {
  for (const count of [1, 3]) {
    const model = new Scale();
    const train = trainer(model, {
      // The data says nothing of w.
      loss: (output, batch) => nn.mse(output.mul(0), batch.y).plus(nn.penalty(model.w.square().sum())),
      optimizer: sgd({ learningRate: 0.25 }),
      devices: await cpus(count),
    });
    const data = batches({ x: new Float32Array(7), y: new Float32Array(7) }, { batchSize: 4 });
    // w is 1 for four rows, and 1 - 2/4 for three.
    const { epochs } = await train.fit(data, silent);
    assertClose([epochs[0]!.loss], [(4 * 1 + 3 * 0.25) / 7]);
    assertClose([(await train.evaluate(data)).loss], [0.0625]);
    assertClose([(await train.evaluate({ x: tensor([1, 2, 3]), y: tensor([0, 0, 0]) }, { rowsAtOnce: 2 })).loss], [
      0.0625,
    ]);
  }
});

test("predict gives all rows in order, with at most so many on the devices at one time", async () => {
  for (const count of [1, 3]) {
    const model = new Scale();
    const train = trainer(model, {
      loss: (output, batch) => nn.mse(output, batch.y),
      optimizer: sgd({ learningRate: 1 }),
      devices: await cpus(count),
    });
    model.w.assign(tensor([3]));
    const x = { data: Uint8Array.from({ length: 100 }, (_, i) => i), shape: [100], dtype: "f32" as const };
    for (const rowsAtOnce of [7, 64, 1000]) {
      const y = await train.predict(x, { rowsAtOnce });
      assert.deepEqual(await y.data(), Float32Array.from({ length: 100 }, (_, i) => 3 * i));
    }
    // The weights of the step before, also on the other devices.
    await train.step({ x: tensor([1, 1]), y: tensor([0, 0]) });
    assert.deepEqual(await (await train.predict(tensor([1, 1, 1]))).array(), [-3, -3, -3]);
    model.w.assign(tensor([5]));
    assert.deepEqual(await (await train.predict({ x: tensor([1, 2, 3]) })).array(), [5, 10, 15]);
  }
});

test("a model of several inputs and outputs", async () => {
  class Two extends nn.Module {
    readonly a = nn.linear(2, 3);
    readonly b = nn.linear(1, 3);
    override forward(left: Tensor, right: Tensor): { sum: Tensor; parts: readonly [Tensor, Tensor] } {
      const parts = [this.a.forward(left), this.b.forward(right)] as const;
      return { sum: parts[0].add(parts[1]), parts };
    }
  }
  type Fields = { readonly left: Tensor; readonly right: Tensor; readonly target: Tensor };
  const results = [];
  for (const count of [1, 3]) {
    seed(9);
    const model = new Two();
    const train = trainer(model, {
      forward: (m, batch: Fields) => m.forward(batch.left, batch.right),
      loss: (output, batch) => nn.mse(output.sum, batch.target).plus(nn.mse(output.parts[1], batch.target).scale(0.1)),
      optimizer: sgd({ learningRate: 0.1 }),
      devices: await cpus(count),
    });
    const left = tensor([[1, 2], [3, 4], [5, 6], [7, 8]]).mul(0.1);
    const right = tensor([[1], [2], [3], [4]]);
    const target = tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]);
    const losses = [];
    for (let i = 0; i < 3; i++) losses.push((await train.step({ left, right, target })).loss);
    assert.ok(losses[2]! < losses[0]!);
    const { sum, parts } = await train.predict({ left, right });
    assert.deepEqual([sum.shape, parts[0].shape, parts[1].shape], [[4, 3], [4, 3], [4, 3]]);
    results.push([...losses, ...await sum.data()]);
  }
  assertClose(results[1]!, results[0]!, { rtol: 1e-4 });
});

test("modes: dropout drops in training only, and what is set on the model is neither followed nor changed", async () => {
  const model = nn.sequential(new Scale(), nn.dropout(0.5));
  const train = trainer(model, {
    loss: (output, batch) => nn.mse(output, batch.y),
    optimizer: sgd({ learningRate: 0 }),
    devices: await cpus(2),
  });
  model.eval();
  const ones = tensor(new Float32Array(64).fill(1));
  assert.deepEqual(await (await train.predict(ones)).data(), new Float32Array(64).fill(1));
  assert.equal(model.training, false);
  const first = await train.step({ x: ones, y: ones });
  assert.equal(model.training, false);
  // Each element is 0 or 2, so that it is 1 away from 1.
  assert.equal(first.loss, 1);
  model.train();
  assert.equal((await train.evaluate({ x: ones, y: ones })).loss, 0);
  assert.equal(model.training, true);
});

test("a learning rate may follow the step", async () => {
  for (const count of [1, 2]) {
    const model = new Scale();
    const train = trainer(model, {
      loss: (output, batch) => nn.loss({ sum: output.sum(), count: batch.x.shape[0]! }),
      optimizer: sgd({ learningRate: (step) => step / 10 }),
      devices: await cpus(count),
    });
    const { steps } = await train.fit(
      batches({ x: Float32Array.of(1, 1, 1), y: new Float32Array(3) }, { batchSize: 1 }),
      silent,
    );
    assertClose(steps.map(({ learningRate }) => learningRate), [0.1, 0.2, 0.3]);
    assertClose(await model.w.data(), [1 - 0.1 - 0.2 - 0.3]);
  }
});

test("an AbortSignal ends the run after the step in progress", async () => {
  for (const count of [1, 2]) {
    const model = new Scale();
    const train = trainer(model, {
      loss: (output, batch) => nn.mse(output, batch.y),
      optimizer: sgd({ learningRate: 0.01 }),
      devices: await cpus(count),
    });
    const stop = new AbortController();
    const seen: number[] = [];
    const data = batches({ x: Float32Array.from({ length: 20 }, () => 1), y: new Float32Array(20) }, {
      batchSize: 2,
    });
    const run = train.fit(data, {
      signal: stop.signal,
      onBatch: ({ step }) => {
        seen.push(step);
        if (step === 3) stop.abort(new Error("enough"));
      },
      ...silent,
    });
    await assert.rejects(run, /enough/);
    // What was enqueued is finished and reported: nothing is lost silently.
    assert.ok(seen.length >= 3 && seen.length <= 4);
    assertClose(await model.w.data(), [0.98 ** seen.length], { rtol: 1e-4 });
    assert.equal(train.history.steps.length, seen.length);
    await assert.rejects(
      train.fit(data, { signal: AbortSignal.abort(new Error("at once")), ...silent }),
      /at once/,
    );
  }
});

test("a NaN in the middle of an epoch is reported at its step, with the weights of before it", async () => {
  for (const count of [1, 2]) {
    const model = new Scale();
    const train = trainer(model, {
      loss: (output, batch) => nn.mse(output, batch.y),
      optimizer: sgd({ learningRate: 0.01 }),
      devices: await cpus(count),
    });
    const x = new Float32Array(12).fill(1);
    x[5] = NaN;
    const run = train.fit(batches({ x, y: new Float32Array(12) }, { batchSize: 2 }), silent);
    await assert.rejects(run, (error: unknown) => {
      assert.ok(error instanceof NonFiniteLossError);
      assert.match(error.got, /at step 3/);
      return true;
    });
    assertClose(await model.w.data(), [0.98 ** 2]);
    assert.equal(train.history.steps.length, 2);
    // Training goes on with other data.
    await train.step({ x: tensor([1]), y: tensor([0]) });
    assertClose(await model.w.data(), [0.98 ** 3]);
  }
});

test("steps before a batch that will not do are done, recorded and told of, and the model has their weights", async () => {
  for (const count of [1, 2]) {
    const good = { x: tensor([1, 1]), y: tensor([0, 0]) };
    const ends: readonly (readonly [end: unknown, error: unknown])[] = [
      [{ x: tensor([1, 1]), y: tensor([0]) }, ShapeError],
      [{ x: tensor([1, 1]) }, ArgumentError],
      [3, ArgumentError],
    ];
    for (const [bad, error] of ends) {
      const model = new Scale();
      const train = trainer(model, {
        loss: (output, batch) => nn.mse(output, batch.y),
        optimizer: sgd({ learningRate: 0.01 }),
        devices: await cpus(count),
      });
      const told: number[] = [];
      const run = train.fit([good, good, good, bad, good] as never, {
        ...silent,
        onBatch: ({ step }) => void told.push(step),
      });
      await assert.rejects(run, error as typeof ShapeError);
      assert.deepEqual([told, train.history.steps.map(({ step }) => step)], [[1, 2, 3], [1, 2, 3]]);
      assertClose(await model.w.data(), [0.98 ** 3]);
    }
  }
});

test("what cannot work is a typed error that says what to do", async () => {
  const devices = await cpus(2);
  const good = {
    loss: (output: Tensor, batch: DefaultBatch) => nn.mse(output, batch.y),
    optimizer: sgd({ learningRate: 0.1 }),
    devices,
  };
  const x = tensor([1, 2, 3]);
  assert.throws(() => trainer(new Scale(), { ...good, devices: [devices[0]!, devices[0]!] }), DeviceError);
  assert.throws(() => trainer(new Scale(), { ...good, devices: [] }), ArgumentError);
  assert.throws(() => sgd({ learningRate: NaN }), ArgumentError);
  await assert.rejects(
    trainer(new Scale(), { ...good, optimizer: sgd({ learningRate: () => NaN }) }).step({ x, y: x }),
    ArgumentError,
  );
  await assert.rejects(trainer(new Scale(), good).step({ x, y: tensor([1, 2]) }), ShapeError);
  await assert.rejects(trainer(new Scale(), { ...good, checkEvery: -1 }).step({ x, y: x }), ArgumentError);
  await assert.rejects(trainer(nn.relu(), good).step({ x, y: x }), ArgumentError);
  await assert.rejects(trainer(new Scale(), good).step({ z: x, y: x } as never), (error: unknown) => {
    assert.ok(error instanceof ArgumentError);
    assert.match(error.message, /fields z, y.*forward/);
    return true;
  });
  const bare = trainer(new Scale(), { ...good, loss: (output: Tensor) => output.square().mean() as never });
  await assert.rejects(bare.step({ x, y: x }), (error: unknown) => {
    assert.ok(error instanceof DecompositionError);
    assert.match(error.message, /a tensor f32\[\].*nn\.loss/);
    return true;
  });
  const centred = trainer(new Scale(), {
    ...good,
    forward: (m: Scale, batch: DefaultBatch) => m.forward(batch.x.sub(batch.x.mean())),
  });
  await assert.rejects(centred.step({ x, y: x }), DecompositionError);
  await assert.rejects(centred.evaluate({ x, y: x }), DecompositionError);
  await assert.rejects(centred.predict(x), DecompositionError);
  const fit = trainer(new Scale(), good);
  await assert.rejects(fit.fit({ x, y: x } as never, silent), ArgumentError);
  await assert.rejects(fit.fit([], { epochs: 1.5, ...silent }), ArgumentError);
  await assert.rejects(fit.fit([], { progress: "loud" as never }), ArgumentError);
  await assert.rejects(fit.predict(x, { rowsAtOnce: 0 }), ArgumentError);
});

test("a count that depends on parameters is refused", async () => {
  const model = new Scale();
  const train = trainer(model, {
    loss: (output, batch) => nn.loss({ sum: output.sum(), count: batch.x.mul(model.w).sum() }),
    optimizer: sgd({ learningRate: 0.1 }),
    devices: await cpus(1),
  });
  await assert.rejects(train.step({ x: tensor([1]), y: tensor([1]) }), DecompositionError);
});

test("1,000 steps leave neither nodes, buffers nor heap behind", async () => {
  for (const count of [1, 3]) {
    const devices = await cpus(count);
    const train = trainer(classifier(), { ...classify, optimizer: adam({}), devices, checkEvery: 10 });
    const batch = points(13);
    const after = async (steps: number) => {
      for (let i = 0; i < steps; i++) await train.step(batch);
      // What is found dead in one round may keep other things alive until the next.
      let collected = false;
      for (let round = 0; round < 5; round++) {
        collected = collectGarbage();
        await nextTurn();
      }
      return {
        devices: devices.map((device) => device.stats()),
        nodes: collected ? livingNodes() : 0,
        heap: collected ? heapBytes() : 0,
      };
    };
    countNodes();
    await after(100);
    const [before, later] = [await after(100), await after(800)];
    later.devices.forEach(({ allocations, liveBytes }, i) => {
      assert.equal(allocations, before.devices[i]!.allocations);
      // Less may be in use: what earlier tests dropped is collected whenever it is.
      assert.ok(liveBytes <= before.devices[i]!.liveBytes, `${before.devices[i]!.liveBytes} bytes became ${liveBytes}`);
    });
    // The collector may lag behind; a leak of one node a step would be 800.
    stopCounting();
    assert.ok(later.nodes - before.nodes < 400, `${before.nodes} nodes became ${later.nodes}`);
    assert.ok(later.heap - before.heap < 1e6, `${before.heap} bytes became ${later.heap}`);
  }
});

function heapBytes(): number {
  return process.memoryUsage().heapUsed;
}

test("without a terminal, progress is a line at the end of an epoch, and one each ten seconds of a long one", () => {
  const lines: string[] = [];
  let milliseconds = 0;
  const view = progressLines((line) => void lines.push(line), () => milliseconds);
  for (let batch = 1; batch <= 40; batch++) {
    milliseconds += 2500;
    view.update({
      epoch: 1,
      epochs: 2,
      batch,
      batches: 40,
      loss: 0.5,
      metrics: { accuracy: 0.75 },
      rowsPerSecond: 12345.6,
      secondsLeft: 4,
    });
  }
  view.end("done");
  assert.equal(lines.length, 10);
  assert.equal(lines[0], "epoch 1/2  batch 4/40  loss 0.5000  accuracy 0.7500  12,346 rows/s  4.0 s left");
  assert.equal(lines[9], "done");
  milliseconds += 10_000;
  view.update({
    epoch: 2,
    epochs: 2,
    batch: 100,
    batches: undefined,
    loss: 1,
    metrics: {},
    rowsPerSecond: 10,
    secondsLeft: undefined,
  });
  assert.equal(lines[10], "epoch 2/2  batch 100/?  loss 1.0000  10 rows/s");
});

test("times are told in units that fit", () => {
  assert.deepEqual([3.21, 45, 125, 3725, NaN].map(formatSeconds), [
    "3.2 s",
    "45 s",
    "2 min 05 s",
    "1 h 02 min",
    "?",
  ]);
});

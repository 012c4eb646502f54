/** What the executor offers besides shards: several buckets, clipping, nested batches, sources, memory, and what kernels may not do. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import { fileURLToPath } from "node:url";
import type { Device } from "../src/devices/device/device.ts";
import { simulateLoss } from "../src/devices/loss.ts";
import { DeviceLostError } from "../src/errors.ts";
import { arange, data, nn, optim, random, type Tensor, tensor } from "../src/index.ts";
import { Snapshot } from "../src/parallel/train/snapshot.ts";
import { FaultyDevice } from "./faulty-device.ts";
import { assertClose, testKinds, virtualDevices } from "./harness.ts";

async function weightsOf(model: nn.Module): Promise<Float32Array[]> {
  return await Promise.all(model.parameters().map(async (parameter) => await parameter.data() as Float32Array));
}

const wide = 1100;

/** A model whose gradient of 9.7 MB leaves in two buckets. */
function wideTrainer(devices: readonly Device[], deterministic?: { readonly shards: number }) {
  random.seed(2);
  const model = nn.sequential(nn.linear(4, wide), nn.tanh(), nn.linear(wide, wide), nn.tanh(), nn.linear(wide, 1100));
  const trainer = nn.trainer(model, {
    loss: (output, batch) => nn.crossEntropy(output, batch.y),
    optimizer: optim.sgd({ learningRate: 0.1, momentum: 0.9 }),
    devices,
    seed: 2,
    ...deterministic === undefined ? {} : { deterministic },
  });
  return { model, trainer };
}

const wideBatch = {
  x: data.array(Float32Array.from({ length: 7 * 4 }, (_, i) => Math.cos(3 * i)), { shape: [7, 4] }),
  y: data.array(Int32Array.from({ length: 7 }, (_, i) => 150 * i), { dtype: "i32" }),
};

for (const kind of testKinds) {
  test(`a gradient of several buckets is that of one device, and has the same bits through a fault [${kind}]`, async (t) => {
    // Drivers compile each kernel anew for each virtual GPU.
    const devices = await virtualDevices(kind, kind === "cpu" ? 3 : 2);
    if (devices === undefined) return t.skip("no adapter");
    const run = async (some: readonly Device[], deterministic?: { readonly shards: number }) => {
      const { model, trainer } = wideTrainer(some, deterministic);
      for (let step = 0; step < 2; step++) await trainer.step(wideBatch);
      const weights = await weightsOf(model);
      await trainer.release();
      return { weights, events: trainer.history.events };
    };
    const plain = await run(devices.slice(0, 1));
    const spread = await run(devices);
    spread.weights.forEach((values, i) => assertClose(values, plain.weights[i]!, { atol: 2e-6, rtol: 1e-5 }));
    const exact = await run(devices, { shards: 3 });
    const faulty = devices.map((device) => new FaultyDevice(device));
    faulty[1]!.plan({ call: "runAndRead", nth: 2, kind: "late" });
    const disturbed = await run(faulty, { shards: 3 });
    assert.equal(disturbed.events.length, 1);
    assert.deepEqual(disturbed.weights, exact.weights);
  });
}

/** A device whose read of a shard's last bucket fails, once an earlier one was reduced and is there for the update. */
class FailsAfterReduction extends FaultyDevice {
  armed = false;
  #reduced = () => {};

  override write(...[buffer, data, offset]: Parameters<Device["write"]>): void {
    super.write(buffer, data, offset);
    if (data.byteLength > 2 ** 20) this.#reduced();
  }

  override runAndRead(
    ...[executable, inputs, outputs, reads, items]: Parameters<Device["runAndRead"]>
  ): Promise<void>[] {
    const done = super.runAndRead(executable, inputs, outputs, reads, items);
    if (!this.armed) return done;
    this.armed = false;
    assert.deepEqual(reads.map(({ output }) => output), [0, 1, 2], "scores and two buckets of one shard");
    const reduced = new Promise<void>((resolve) => this.#reduced = resolve);
    const last = done[2]!.then(() => reduced).then(() => {
      throw new DeviceLostError("read", { got: `${this.name}, whose map was aborted`, need: "a device that works" });
    });
    last.catch(() => {});
    return [done[0]!, done[1]!, last];
  }
}

test("a device that fails when its first bucket is part of a sum already: what it gave counts once", async () => {
  const x = data.array(Float32Array.from({ length: 3 * 512 }, (_, i) => Math.cos(3 * i)), { shape: [3, 512] });
  const y = data.array(Int32Array.of(3, 700, 2000), { dtype: "i32" });
  const init = (shape: readonly number[]) =>
    tensor(Float32Array.from({ length: shape[0]! * shape[1]! }, (_, i) => i % 97 / 500 - 0.1), { shape });
  const run = async (fails: number | undefined) => {
    const devices = (await virtualDevices("cpu", 3))!.map((device) => new FailsAfterReduction(device));
    // The last layer's 4 MiB, then the first layer's 1 MiB.
    const model = nn.sequential(nn.linear(512, 512, { init }), nn.tanh(), nn.linear(512, 2048, { init }));
    const trainer = nn.trainer(model, {
      loss: (output, batch) => nn.crossEntropy(output, batch.y),
      optimizer: optim.sgd({ learningRate: 0.1 }),
      devices,
      deterministic: { shards: 3 },
    });
    if (fails !== undefined) devices[fails]!.armed = true;
    await trainer.step({ x, y });
    const weights = await weightsOf(model);
    await trainer.release();
    return {
      weights: weights.map((values) => Buffer.from(values.buffer).toString("base64")),
      events: trainer.history.events.length,
    };
  };
  const { weights } = await run(undefined);
  assert.ok(isDeepStrictEqual(await run(2), { weights, events: 1 }), "weights and events");
});

test("clipNorm scales the gradient of the whole batch to a norm, on any number of devices", async () => {
  const devices = (await virtualDevices("cpu", 3))!;
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.float({ noNaN: true, min: -4, max: 4 }), { minLength: 2, maxLength: 21 }),
      fc.double({ min: 0.01, max: 30, noNaN: true }),
      fc.integer({ min: 1, max: 3 }),
      async (numbers, clipNorm, count) => {
        const rows = Math.floor(numbers.length / 2);
        const x = numbers.slice(0, 2 * rows);
        // The loss mean((x·w)²) at w = (1, -2) has the gradient 2/n sum x (x·w).
        const gradient = [0, 1].map((k) => {
          let sum = 0;
          for (let i = 0; i < rows; i++) sum += 2 * x[2 * i + k]! * (x[2 * i]! - 2 * x[2 * i + 1]!);
          return sum / rows;
        });
        const norm = Math.hypot(...gradient);
        const expected = gradient.map((g, k) => [1, -2][k]! - g * Math.min(1, clipNorm / (norm + 1e-6)));
        class Line extends nn.Module {
          readonly w: Tensor = nn.parameter(tensor([1, -2]));
          forward(rowsOfX: Tensor): Tensor {
            return rowsOfX.mul(this.w).sum({ axis: 1 });
          }
        }
        const model = new Line();
        const trainer = nn.trainer(model, {
          loss: (output, batch) => nn.mse(output, batch.x.slice({ axis: 1, start: 0, end: 1 }).mul(0).squeeze(1)),
          optimizer: optim.sgd({ learningRate: 1 }),
          devices: devices.slice(0, count),
          clipNorm,
        });
        await trainer.step({
          x: data.array(Float32Array.from(x), { shape: [rows, 2] }),
          y: data.array(new Float32Array(rows)),
        });
        assertClose(await model.w.data(), expected, { atol: 1e-4, rtol: 1e-4 });
        await trainer.release();
      },
    ),
    { numRuns: 25 },
  );
});

test("a gradient too long for f32's squares is clipped all the same", async () => {
  class Product extends nn.Module {
    readonly w: Tensor = nn.parameter(tensor([1, 1]));
    forward(x: Tensor): Tensor {
      return x.unsqueeze(1).mul(this.w);
    }
  }
  const model = new Product();
  const trainer = nn.trainer(model, {
    loss: (output, batch) => nn.loss({ sum: output.mul(1e25).sum(), count: batch.x.mul(0).add(1).sum() }),
    optimizer: optim.sgd({ learningRate: 1 }),
    clipNorm: 1,
  });
  // Both elements of the gradient are 3e30, and their squares are infinite.
  const { loss } = await trainer.step({ x: data.array(Float32Array.of(3e5)), y: data.array(Float32Array.of(0)) });
  assertClose([loss], [6e30], { rtol: 1e-6 });
  assertClose(await model.w.data(), [1 - Math.SQRT1_2, 1 - Math.SQRT1_2], { rtol: 1e-5 });
});

test("records of any nesting, lists and scalars are cut leaf by leaf, with a ragged last batch, from an asynchronous source", async () => {
  const devices = (await virtualDevices("cpu", 3))!;
  type Nested = {
    readonly images: { readonly left: Tensor; readonly right: readonly Tensor[] };
    readonly y: Tensor;
    readonly factor: Tensor;
  };
  const run = async (count: number) => {
    random.seed(6);
    const model = nn.sequential(nn.linear(3, 2));
    const trainer = nn.trainer<typeof model, Nested, Tensor>(model, {
      forward: (m, { images, factor }) =>
        m.forward(images.left.add(images.right[0]!).mul(images.right[1]!).mul(factor)),
      loss: (output, batch) => nn.crossEntropy(output, batch.y),
      optimizer: optim.adam({ learningRate: 0.02 }),
      devices: devices.slice(0, count),
      seed: 6,
    });
    const part = (rows: number, seed: number) =>
      data.array(Float32Array.from({ length: 3 * rows }, (_, i) => Math.sin(seed + i)), { shape: [rows, 3] });
    async function* source() {
      for (const rows of [7, 7, 2]) {
        await Promise.resolve();
        yield {
          images: { left: part(rows, 1), right: [part(rows, 2), part(rows, 3)] },
          y: data.array(Int32Array.from({ length: rows }, (_, i) => i % 2), { dtype: "i32" }),
          factor: tensor(1.5),
        };
      }
    }
    const history = await trainer.fit({ [Symbol.asyncIterator]: source }, { epochs: 2, progress: "none" });
    const scores = await trainer.evaluate({ [Symbol.asyncIterator]: source });
    assert.equal(scores.rows, 16);
    return { sizes: history.steps.map((step) => step.sizes), weights: await weightsOf(model), loss: scores.loss };
  };
  const [one, three] = [await run(1), await run(3)];
  assert.deepEqual(three.sizes, [...[[3, 2, 2], [3, 2, 2], [1, 1, 0]], ...[[3, 2, 2], [3, 2, 2], [1, 1, 0]]]);
  three.weights.forEach((values, i) => assertClose(values, one.weights[i]!, { atol: 1e-5, rtol: 1e-5 }));
  assert.ok(Math.abs(one.loss - three.loss) < 1e-5);
});

test("what is the largest by an index of each row trains alike on any number of devices, and as a maximum of what is masked does", async () => {
  const devices = (await virtualDevices("cpu", 3))!;
  class Groups extends nn.Module {
    readonly scale: Tensor = nn.parameter(tensor([0.5, -1, 2, 1, -0.3, 0.7]));
    readonly least: Tensor = nn.parameter(tensor([0.1, -0.2, 0.3]));
    readonly #masked: boolean;
    constructor(masked: boolean) {
      super();
      this.#masked = masked;
    }
    forward({ x, group }: { readonly x: Tensor; readonly group: Tensor }): Tensor {
      const values = x.mul(this.scale);
      const least = this.least.broadcastTo([x.shape[0]!, 3]);
      if (!this.#masked) return least.scatterMax(group, values, { axis: 1 });
      const own = group.unsqueeze(2).equal(arange(3)).where(values.unsqueeze(2), -Infinity).max({ axis: 1 });
      return own.maximum(least);
    }
  }
  const rows = 7;
  const batch = {
    x: data.array(Float32Array.from({ length: 6 * rows }, (_, i) => Math.sin(5 * i)), { shape: [rows, 6] }),
    group: data.array(Int32Array.from({ length: 6 * rows }, (_, i) => (i * i) % 3), { shape: [rows, 6], dtype: "i32" }),
    y: data.array(Float32Array.from({ length: 3 * rows }, (_, i) => Math.cos(i)), { shape: [rows, 3] }),
  };
  const run = async (count: number, masked: boolean) => {
    const model = new Groups(masked);
    const trainer = nn.trainer(model, {
      forward: (m, batch: { x: Tensor; group: Tensor; y: Tensor }) => m.forward(batch),
      loss: (output, batch) => nn.mse(output, batch.y),
      optimizer: optim.sgd({ learningRate: 0.1 }),
      devices: devices.slice(0, count),
    });
    for (let step = 0; step < 4; step++) await trainer.step(batch);
    const weights = await weightsOf(model);
    await trainer.release();
    return weights;
  };
  const masked = await run(1, true);
  for (const count of [1, 3]) {
    (await run(count, false)).forEach((values, i) => assertClose(values, masked[i]!, { atol: 1e-6, rtol: 1e-5 }));
  }
});

test("of copies that arrive in any order the host keeps that of the newest step, in memory that it gives to no other", () => {
  fc.assert(fc.property(fc.array(fc.tuple(fc.nat(20), fc.boolean()), { minLength: 1, maxLength: 12 }), (arrivals) => {
    const snapshot = new Snapshot();
    const underWay = new Set<Float32Array>();
    const copies = arrivals.map(([step, arrives]) => {
      const values = snapshot.memory(2);
      assert.ok(!underWay.has(values), "memory of another copy");
      underWay.add(values.fill(step));
      return { step, values, arrives };
    });
    let newest = -1;
    for (const { step, values, arrives } of copies) {
      underWay.delete(values);
      if (arrives) snapshot.keep(values, step, [{ step } as never]);
      else snapshot.giveBack(values);
      if (arrives) newest = Math.max(newest, step);
      const kept = newest < 0 ? undefined : [newest, newest];
      assert.deepEqual(snapshot.values && [...snapshot.values], kept);
      assert.deepEqual([snapshot.step, snapshot.statistics], newest < 0 ? [0, []] : [newest, [{ step: newest }]]);
      const next = snapshot.memory(2);
      assert.ok(next !== snapshot.values && !underWay.has(next));
      snapshot.giveBack(next);
    }
  }));
});

test("the memory report says what each device holds, and leaves out one that is lost", async () => {
  const devices = (await virtualDevices("cpu", 2))!;
  const model = nn.sequential(nn.linear(10, 6));
  const trainer = nn.trainer(model, {
    loss: (output, batch) => nn.mse(output, batch.y),
    optimizer: optim.adam({ learningRate: 0.01 }),
    devices,
  });
  const batch = {
    x: data.array(new Float32Array(50).fill(1), { shape: [5, 10] }),
    y: data.array(new Float32Array(30), { shape: [5, 6] }),
  };
  await trainer.step(batch);
  const report = await trainer.memory();
  assert.deepEqual(report.map(({ device }) => device), devices.map(({ name }) => name));
  // 66 elements, to a multiple of four; Adam keeps two vectors, and whether and how often it has updated.
  for (const entry of report) {
    assert.equal(entry.parameters, 4 * 68);
    assert.ok(entry.optimizer >= 8 * 68 && entry.optimizer <= 8 * 68 + 64, `${entry.optimizer}`);
    assert.ok(entry.live >= entry.parameters + entry.optimizer && entry.peak >= entry.live);
  }
  simulateLoss(devices[0]!, "planned");
  await trainer.step(batch);
  assert.deepEqual((await trainer.memory()).map(({ device }) => device), [devices[1]!.name]);
});

test("no kernel adds up with atomics: sums of floats have one order", async () => {
  const source = fileURLToPath(new URL("../src", import.meta.url));
  const files = (await readdir(source, { recursive: true })).filter((name) => name.endsWith(".ts"));
  const found: string[] = [];
  for (const name of files) {
    const text = await readFile(join(source, name), "utf8");
    // The one puts bits that nobody else writes into a word, the other keeps the largest of some integers.
    const fits = name.endsWith("half-storage.ts")
      ? /atomic<u32>|atomicLoad\(/g
      : name.endsWith("render/wgsl.ts")
      ? /atomic<u32>|atomicMax\(/g
      : /$^/g;
    const allowed = text.replace(fits, "");
    if (/\batomic(<|Add|Max|Min|CompareExchange|Load|Store|Sub|Exchange)/.test(allowed)) found.push(name);
  }
  assert.ok(files.length > 100, "the sources are there");
  assert.deepEqual(found, []);
});

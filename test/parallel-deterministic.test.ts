/** Deterministic mode: the same bits on any number of devices, in any order, whatever happens to them. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { first, loadMnist } from "../examples/mnist/data.ts";
import type { Device } from "../src/devices/device/device.ts";
import { ArgumentError, DeviceError } from "../src/errors.ts";
import { runtime } from "../src/host/host.ts";
import { data, nn, optim, random } from "../src/index.ts";
import { FaultyDevice } from "./faulty-device.ts";
import { testDevice, type TestKind, testKinds, virtualDevices } from "./harness.ts";

/** Steps of the runs that are not counted otherwise. */
const few = 20;
/** Many in one runtime and on one kind of device, where they are fast. */
const stepsOn = (kind: TestKind) => runtime !== "deno" && kind === "cpu" ? 200 : few;
const batchSize = 61;
const { train } = await loadMnist();
/** Steps of a network that learns more slowly. */
const most = 40;
const digits = first(train, Math.max(most, stepsOn("cpu")) * batchSize);
const batches = [...data.batches({
  x: data.array(digits.images, { shape: [digits.count, 784], scale: 1 / 255 }),
  y: data.array(digits.labels, { dtype: "i32" }),
}, { batchSize, shuffle: 1 })];

const tiny = {
  x: data.array(Float32Array.of(1, 2, 3), { shape: [1, 3] }),
  y: data.array(Float32Array.of(1, 2), { shape: [1, 2] }),
};

type Options = Pick<
  Parameters<typeof nn.trainer>[1],
  "deterministic" | "capacities" | "microBatches" | "clipNorm"
>;

function hash(arrays: readonly ArrayLike<number>[]): string {
  const sum = createHash("sha256");
  for (const array of arrays) sum.update(new Uint8Array(Float32Array.from(array).buffer));
  return sum.digest("hex");
}

/** A perceptron with dropout, and a convolutional network with batch normalisation, for the pixels of an image. */
const models = {
  perceptron: () => nn.sequential(nn.linear(784, 24), nn.relu(), nn.dropout(0.2), nn.linear(24, 10)),
  convolutions: () =>
    nn.sequential(
      nn.conv2d(1, 4, { kernel: 5, stride: 3 }),
      nn.batchNorm(4),
      nn.relu(),
      nn.maxPool2d({ size: 2 }),
      nn.flatten(),
      nn.linear(64, 10),
    ),
};

/** SHA-256 of all weights after training a model; and checksums of the optimizer's state. */
async function trained(
  devices: readonly Device[],
  options: Options,
  count = few,
  kind: keyof typeof models = "perceptron",
): Promise<string> {
  random.seed(3);
  const model = models[kind]();
  const trainer = nn.trainer(model, {
    forward: (m, batch) => m.forward(kind === "perceptron" ? batch.x : batch.x.reshape([-1, 28, 28, 1])),
    loss: (output, batch) => nn.crossEntropy(output, batch.y),
    optimizer: optim.adam({ learningRate: 3e-3 }),
    devices,
    seed: 3,
    ...options,
  });
  let loss = 0;
  for (const batch of batches.slice(0, count)) ({ loss } = await trainer.step(batch));
  assert.ok(loss < 2, `it learns: a loss of ${loss}`);
  const weights = await Promise.all(Object.values(model.stateDict()).map((parameter) => parameter.data()));
  const state = await trainer.checksum();
  await trainer.release();
  return `${hash(weights)} ${state}`;
}

for (const kind of testKinds) {
  const steps = stepsOn(kind);
  test(`the weights have the same bits after ${steps} steps on 1, 2, 3, 5 and 8 devices [${kind}]`, async (t) => {
    const eight = await virtualDevices(kind, 8);
    if (eight === undefined) return t.skip("no adapter");
    const one = (await virtualDevices(kind, 1))!;
    const deterministic = { shards: 8 };
    const expected = await trained(one, { deterministic }, steps);
    for (const count of [2, 3, 5, 8]) {
      assert.equal(await trained(eight.slice(0, count), { deterministic }, steps), expected, `on ${count} devices`);
    }
    const early = steps === few ? expected : await trained(one, { deterministic });
    const shuffled = [5, 2, 7, 0].map((i) => eight[i]!);
    assert.equal(await trained(shuffled, { deterministic }), early, "in another order");
    // Reads wait for 0 to 3 ms, so that the shards come in ever other orders.
    const late = eight.slice(0, 3).map((device, i) =>
      new FaultyDevice(device, [0, 3, 1, 2].map((delay) => (delay + i) % 4))
    );
    assert.equal(await trained(late, { deterministic }), early, "with reads that come in any order");
    assert.equal(
      await trained(eight.slice(0, 3), { deterministic, capacities: [1, 5, 2] }),
      early,
      "with other shares",
    );
  });

  test(`so have those of a convolutional network with batch normalisation [${kind}]`, async (t) => {
    const eight = await virtualDevices(kind, 8);
    if (eight === undefined) return t.skip("no adapter");
    const deterministic = { shards: 8 };
    // Each of its steps is run in three stages, and every stage read on every device.
    const expected = await trained((await virtualDevices(kind, 1))!, { deterministic }, most, "convolutions");
    // Drivers compile each kernel anew for each virtual GPU.
    for (const devices of kind === "cpu" ? [2, 3, 5, 8] : [2, 3]) {
      assert.equal(
        await trained(eight.slice(0, devices), { deterministic }, most, "convolutions"),
        expected,
        `on ${devices} devices`,
      );
    }
  });

  test(`other logical shards, and the default mode, round differently [${kind}]`, async (t) => {
    const devices = await virtualDevices(kind, 3);
    if (devices === undefined) return t.skip("no adapter");
    const hashes = new Set<string>();
    for (const options of [{ deterministic: { shards: 8 } }, { deterministic: { shards: 5 } }, {}]) {
      hashes.add(await trained(devices, options));
    }
    assert.equal(hashes.size, 3);
  });
}

test("devices of different kinds are refused in deterministic mode, before anything is trained", async (t) => {
  const gpu = testKinds.includes("gpu") ? await testDevice("gpu") : undefined;
  const cpu = await testDevice("cpu");
  if (gpu === undefined || cpu === undefined) return t.skip("one kind of device only");
  const model = nn.sequential(nn.linear(3, 2));
  const trainer = nn.trainer(model, {
    loss: (output, batch) => nn.mse(output, batch.y),
    optimizer: optim.sgd({ learningRate: 0.1 }),
    devices: [cpu, gpu],
    deterministic: { shards: 4 },
  });
  await assert.rejects(trainer.step(tiny), (error) => {
    assert.ok(error instanceof DeviceError);
    assert.match(error.got, /in deterministic mode/);
    return true;
  });
});

test("numbers of shards and micro-batches that will not do are errors", async () => {
  const devices = (await virtualDevices("cpu", 2))!;
  const bad: Options[] = [
    { deterministic: { shards: 0 } },
    { deterministic: { shards: 2.5 } },
    { deterministic: { shards: 4 }, microBatches: 2 },
    { microBatches: 0 },
    { capacities: [1] },
    { capacities: [1, -1] },
    { clipNorm: 0 },
    { clipNorm: NaN },
  ];
  for (const options of bad) {
    const model = nn.sequential(nn.linear(3, 2));
    const trainer = nn.trainer(model, {
      loss: (output, batch) => nn.mse(output, batch.y),
      optimizer: optim.sgd({ learningRate: 0.1 }),
      devices,
      ...options,
    });
    await assert.rejects(trainer.step(tiny), ArgumentError, JSON.stringify(options));
  }
});

/** The program of examples/mnist.ts on 1, 2, 3 and 5 devices: the same gradient at every step, the same weights after twenty. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { first, loadMnist } from "../examples/mnist/data.ts";
import type { Device } from "../src/devices/device.ts";
import { data, nn, optim, random } from "../src/index.ts";
import { testKinds, virtualDevices } from "./harness.ts";

const steps = 20;
const { train } = await loadMnist();
const digits = first(train, steps * 128);
const batches = [...data.batches({
  x: data.array(digits.images, { shape: [digits.count, 784], scale: 1 / 255 }),
  y: data.array(digits.labels, { dtype: "i32" }),
}, { batchSize: 128, shuffle: 1 })];

function perceptron() {
  random.seed(3);
  return nn.sequential(nn.linear(784, 64), nn.relu(), nn.linear(64, 10));
}

async function weightsOf(model: ReturnType<typeof perceptron>): Promise<Float64Array> {
  const parts = await Promise.all(model.parameters().map((parameter) => parameter.data()));
  return Float64Array.from(parts.flatMap((part) => [...part]));
}

function apart(a: Float64Array, b: Float64Array): { error: number; norm: number } {
  return { error: Math.hypot(...a.map((x, i) => x - b[i]!)), norm: Math.hypot(...b) };
}

function trainer(model: ReturnType<typeof perceptron>, devices: readonly Device[], optimizer: Parameters<typeof nn.trainer>[1]["optimizer"]) {
  return nn.trainer(model, {
    loss: (output, batch) => nn.crossEntropy(output, batch.y),
    optimizer,
    devices,
    seed: 3,
  });
}

for (const kind of testKinds) {
  // A software adapter compiles the kernels of every shard size anew.
  const counts = kind === "cpu" ? [1, 2, 3, 5] : [1, 3];
  test(`MNIST: gradients and weights do not depend on the number of devices [${kind}]`, async (t) => {
    const groups: Device[][] = [];
    for (const count of counts) {
      const devices = await virtualDevices(kind, count);
      if (devices === undefined) return t.skip("no adapter");
      groups.push(devices);
    }
    // One step of SGD from equal weights: with a learning rate of 64 the difference of weights shows the gradient to f32 precision.
    const rate = 64;
    const leader = perceptron();
    const lead = trainer(leader, groups[0]!, optim.nadam({}));
    const followers = groups.map((devices) => {
      const model = perceptron();
      return { model, train: trainer(model, devices, optim.sgd({ learningRate: rate })) };
    });
    for (const batch of batches) {
      const before = await weightsOf(leader);
      const state = leader.stateDict();
      const gradients: Float64Array[] = [];
      for (const { model, train } of followers) {
        model.loadStateDict(state);
        await train.step(batch);
        gradients.push((await weightsOf(model)).map((after, i) => (before[i]! - after) / rate));
      }
      gradients.slice(1).forEach((gradient, i) => {
        const { error, norm } = apart(gradient, gradients[0]!);
        assert.ok(error <= 1e-5 * norm, `gradient on ${counts[i + 1]} devices is ${error} apart, of norm ${norm}`);
      });
      await lead.step(batch);
    }
    const expected = await weightsOf(leader);
    for (const [i, devices] of groups.entries()) {
      const model = perceptron();
      const follow = trainer(model, devices, optim.nadam({}));
      for (const batch of batches) await follow.step(batch);
      const { error, norm } = apart(await weightsOf(model), expected);
      assert.ok(error <= 1e-4 * norm, `weights after ${steps} steps on ${counts[i]} devices are ${error} apart, of norm ${norm}`);
    }
  });
}

/**
 * The program of examples/mnist.ts on 1, 2, 3 and 5 devices: the same gradient at every step, the same weights after twenty.
 * With logical shards, the same bits, also when devices are lost on the way.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { first, loadMnist } from "../examples/mnist/data.ts";
import { type Options, parseOptions, UsageError } from "../examples/mnist/options.ts";
import { shardsOn, trainPerceptron } from "../examples/mnist/training.ts";
import type { Device } from "../src/devices/device/device.ts";
import { data, nn, optim, random } from "../src/index.ts";
import { testKinds, virtualDevices } from "./harness.ts";

const steps = 20;
const { train, test: validation } = await loadMnist();
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
  const all = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0));
  let start = 0;
  for (const part of parts) {
    all.set(part as Float32Array, start);
    start += part.length;
  }
  return all;
}

function apart(a: Float64Array, b: Float64Array): { error: number; norm: number } {
  let [error, norm] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return { error: Math.sqrt(error), norm: Math.sqrt(norm) };
}

function trainer(
  model: ReturnType<typeof perceptron>,
  devices: readonly Device[],
  optimizer: Parameters<typeof nn.trainer>[1]["optimizer"],
) {
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
      assert.ok(
        error <= 1e-4 * norm,
        `weights after ${steps} steps on ${counts[i]} devices are ${error} apart, of norm ${norm}`,
      );
    }
  });
}

function optionsOf(...args: string[]): Options {
  const options = parseOptions(args);
  assert.ok(options !== undefined);
  return options;
}

/** A run of the program as `args` say, on the first `rows` images; and the devices that it lost. */
async function runOf(kind: "cpu" | "gpu", rows: number, ...args: string[]) {
  const options = optionsOf(...args);
  const devices = (await virtualDevices(kind, options.devices))!;
  const names = devices.map(({ name }) => name);
  const lost: { readonly device: number; readonly step: number; readonly moved: number }[] = [];
  const { hash, history } = await trainPerceptron({
    ...options,
    devices,
    train: first(train, rows),
    test: first(validation, 60),
    progress: "none",
    onLost: ({ device, step, shardsMoved }) => {
      lost.push({ device: names.indexOf(device) + 1, step, moved: shardsMoved });
    },
  });
  return { hash, lost, history };
}

for (const kind of testKinds) {
  // 16 batches, the last of 80 rows; 8 for a GPU, whose driver compiles kernels for each size.
  const rows = kind === "cpu" ? 15 * 128 + 80 : 8 * 128;
  test(`mnist --kill: the weights have the bits of a run that loses nothing [${kind}]`, async (t) => {
    if (await virtualDevices(kind, 3) === undefined) return t.skip("no adapter");
    const { hash, lost, history } = await runOf(kind, rows);
    assert.match(hash, /^[0-9a-f]{64}$/);
    assert.deepEqual(lost, []);
    assert.deepEqual(history.steps[0]!.sizes, [43, 43, 42]);
    const middle = await runOf(kind, rows, "--kill", "2@4");
    assert.equal(middle.hash, hash);
    assert.deepEqual(middle.lost.map(({ device }) => device), [2]);
    assert.deepEqual(middle.history.steps[5]!.sizes, [86, 42]);
    // The first device holds the weights; the last step has no batch after it.
    const last = history.steps.length;
    const more = await runOf(kind, rows, "--kill", `3@${last},1@5`);
    assert.equal(more.hash, hash);
    if (kind === "cpu") {
      // A GPU may be done with its shard before the host hears of the step before.
      assert.deepEqual(middle.lost, [{ device: 2, step: 4, moved: 1 }]);
      assert.deepEqual(more.lost, [{ device: 1, step: 5, moved: 1 }, { device: 3, step: last, moved: 1 }]);
    }
    assert.equal((await runOf(kind, rows, "--devices", "1", "--shards", "3")).hash, hash);
    assert.notEqual((await runOf(kind, rows, "--seed", "8")).hash, hash);
  });
}

test("mnist: --kill and --shards are read, and refused with what is needed", () => {
  assert.deepEqual(optionsOf().kills, []);
  assert.deepEqual(optionsOf("--kill", "2@100").kills, [{ device: 2, step: 100 }]);
  assert.deepEqual(optionsOf("--kill", "1@200,3@100").kills, [{ device: 3, step: 100 }, { device: 1, step: 200 }]);
  const refused = (args: string[], message: RegExp) => {
    assert.throws(() => optionsOf(...args), (error) => error instanceof UsageError && message.test(error.message));
  };
  for (const text of ["", "2", "@100", "2@", "2@1.5", "two@100", "2@100;1@200", "2@100,", "-1@4"]) {
    refused([`--kill=${text}`], /^--kill .*: need DEVICE@STEP, such as 2@100/);
  }
  refused(["--kill", "4@100"], /need a device from 1 to 3/);
  refused(["--kill", "0@100"], /need a device from 1 to 3/);
  refused(["--kill", "2@0"], /need a step from 1 on/);
  refused(["--kill", "2@100,2@200"], /need each device at most once/);
  refused(["--kill", "1@1,2@2,3@3"], /need one of the 3 devices to be left/);
  refused(["--kill", "1@5", "--devices", "1"], /need one of the 1 devices to be left/);
  assert.deepEqual([optionsOf().shards, optionsOf("--shards", "0").shards, optionsOf("--shards", "12").shards], [
    undefined,
    0,
    12,
  ]);
  refused(["--shards", "many"], /need a whole number from 0 to 1024/);
});

test("mnist: as many logical shards as devices, unless there is one, or they are of different models", async () => {
  const three = (await virtualDevices("cpu", 3))!;
  const shards = (devices: readonly Device[], ...args: string[]) => shardsOn(devices, optionsOf(...args));
  assert.deepEqual([shards(three), shards(three.slice(0, 1)), shards(three, "--shards", "0")], [3, 0, 0]);
  const other = { ...three[0]!, kind: "gpu" } as Device;
  assert.deepEqual([shards([three[1]!, other]), shards([three[1]!, other], "--shards", "2")], [0, 2]);
});

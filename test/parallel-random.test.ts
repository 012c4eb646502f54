/** Laws of the executor on random models, batches, masks and numbers of devices. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Device } from "../src/devices/device/device.ts";
import * as nn from "../src/nn/nn.ts";
import { nadam, sgd } from "../src/nn/optim/index.ts";
import type { Optimizer } from "../src/nn/optim/optimizer.ts";
import { trainer } from "../src/nn/training/trainer.ts";
import { tensor } from "../src/tensor/create.ts";
import { seed as seedRandom } from "../src/tensor/random.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { grad } from "../src/tensor/transform/grad.ts";
import { assertClose, testKinds, virtualDevices } from "./harness.ts";

const layer = fc.record({
  width: fc.integer({ min: 1, max: 5 }),
  activation: fc.constantFrom("relu", "tanh", "gelu", "norm", "dropout"),
});
const scenario = fc.record({
  layers: fc.array(layer, { maxLength: 3 }),
  features: fc.integer({ min: 1, max: 4 }),
  classes: fc.integer({ min: 2, max: 4 }),
  rows: fc.integer({ min: 1, max: 13 }),
  devices: fc.integer({ min: 2, max: 6 }),
  masked: fc.boolean(),
  ignored: fc.boolean(),
  penalty: fc.boolean(),
  seed: fc.nat(1000),
});
type Scenario = typeof scenario extends fc.Arbitrary<infer S> ? S : never;

function modelOf({ layers, features, classes, seed }: Scenario) {
  seedRandom(seed);
  let width = features;
  const parts = layers.flatMap(({ width: next, activation }) => {
    const linear = nn.linear(width, next);
    width = next;
    const after = {
      relu: nn.relu,
      tanh: nn.tanh,
      gelu: nn.gelu,
      norm: () => nn.layerNorm(next),
      dropout: () => nn.dropout(0.3),
    }[activation];
    return [linear, after()];
  });
  return nn.sequential(...parts, nn.linear(width, classes));
}

function batchOf({ features, classes, rows, masked, ignored, seed }: Scenario) {
  const x = Float32Array.from({ length: rows * features }, (_, i) => Math.sin(seed + i * 1.7));
  const labels = Int32Array.from(
    { length: rows },
    (_, i) => ignored && (i * 7 + seed) % 3 === 0 ? -1 : (i * 5 + seed) % classes,
  );
  const weights = Float32Array.from({ length: rows }, (_, i) => masked ? (i * 3 + seed) % 4 / 2 : 1);
  return {
    x: { data: x, shape: [rows, features], dtype: "f32" as const },
    y: { data: labels, shape: [rows], dtype: "i32" as const },
    weights: { data: weights, shape: [rows], dtype: "f32" as const },
  };
}

type Fields = { readonly x: Tensor; readonly y: Tensor; readonly weights: Tensor };

type Options = Pick<
  Parameters<typeof trainer>[1],
  "deterministic" | "capacities" | "microBatches" | "stepTimeout" | "clipNorm"
>;

function trainerOf(s: Scenario, devices: readonly Device[], optimizer: Optimizer, options: Options = {}) {
  const model = modelOf(s);
  const made = trainer(model, {
    forward: (m, batch: Fields) => m.forward(batch.x),
    loss: (output, batch) => {
      const loss = nn.crossEntropy(output, batch.y, { weights: batch.weights, ignore: -1 });
      if (!s.penalty) return loss;
      const squares = model.parameters().map((p) => p.square().sum()).reduce((a, b) => a.add(b));
      return loss.scale(0.5).plus(nn.penalty(squares.mul(0.01)));
    },
    metrics: {
      accuracy: (output, batch) => nn.accuracy(output, batch.y, { weights: batch.weights, ignore: -1 }),
    },
    optimizer,
    devices,
    seed: s.seed,
    checkEvery: 1,
    ...options,
  });
  return { model, made };
}

async function valuesOf(parameters: readonly Tensor[]): Promise<number[]> {
  return (await Promise.all(parameters.map((p) => p.data()))).flatMap((data) => [...data]);
}

const norm = (v: readonly number[]) => Math.hypot(...v);
const minus = (a: readonly number[], b: readonly number[]) => a.map((x, i) => x - b[i]!);

test("law: the gradient of a random model on k devices is that on one", async () => {
  await fc.assert(
    fc.asyncProperty(scenario, async (s) => {
      const run = async (count: number) => {
        const { model, made } = trainerOf(s, (await virtualDevices("cpu", count))!, sgd({ learningRate: 1 }));
        const before = await valuesOf(model.parameters());
        const { loss, metrics } = await made.step(batchOf(s));
        return {
          gradient: minus(before, await valuesOf(model.parameters())),
          loss,
          accuracy: metrics["accuracy"]!,
        };
      };
      const [one, several] = [await run(1), await run(s.devices)];
      const error = norm(minus(one.gradient, several.gradient));
      assert.ok(
        error <= 1e-5 * norm(one.gradient) + 1e-6,
        `gradients ${error} apart, of norm ${norm(one.gradient)}`,
      );
      assertClose([several.loss, several.accuracy], [one.loss, one.accuracy]);
    }),
    { numRuns: 15 },
  );
});

test("law: the gradient on several devices is that of the whole batch without the executor", async () => {
  await fc.assert(
    fc.asyncProperty(scenario, async (s) => {
      const plain = {
        ...s,
        layers: s.layers.filter(({ activation }) => activation !== "dropout"),
        penalty: false,
      };
      const { model, made } = trainerOf(
        plain,
        (await virtualDevices("cpu", s.devices))!,
        sgd({ learningRate: 1 }),
      );
      const batch = batchOf(plain);
      const weights = tensor(batch.weights.data);
      const loss = nn.crossEntropy(
        model.forward(tensor(batch.x.data, { shape: batch.x.shape })),
        tensor(batch.y.data),
        { weights, ignore: -1 },
      );
      const expected = await valuesOf(grad(loss.mean, model.parameters()));
      const before = await valuesOf(model.parameters());
      const { updated } = await made.step(batch);
      assert.equal(updated, norm([await loss.count.item()]) > 0);
      assertClose(minus(before, await valuesOf(model.parameters())), expected, { atol: 2e-6, rtol: 1e-4 });
    }),
    { numRuns: 12 },
  );
});

test("law: neither micro-batches nor shares of devices change the gradient", async () => {
  const how = fc.oneof(
    fc.record({ microBatches: fc.integer({ min: 2, max: 5 }) }),
    fc.record({ capacities: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 6, maxLength: 6 }) }),
    fc.record({ deterministic: fc.record({ shards: fc.integer({ min: 1, max: 16 }) }) }),
  );
  await fc.assert(
    fc.asyncProperty(scenario, how, fc.boolean(), async (s, options, single) => {
      const run = async (count: number, given: Options) => {
        const devices = (await virtualDevices("cpu", count))!;
        const { capacities } = given;
        const { model, made } = trainerOf(s, devices, sgd({ learningRate: 1 }), {
          ...given,
          ...Array.isArray(capacities) ? { capacities: capacities.slice(0, count) } : {},
        });
        const before = await valuesOf(model.parameters());
        const { sizes, rows } = await made.step(batchOf(s));
        assert.equal(sizes.reduce((a, b) => a + b, 0), rows);
        return minus(before, await valuesOf(model.parameters()));
      };
      const expected = await run(1, {});
      const error = norm(minus(await run(single ? 1 : s.devices, options), expected));
      assert.ok(error <= 1e-5 * norm(expected) + 1e-6, `gradients ${error} apart, of norm ${norm(expected)}`);
    }),
    { numRuns: 20 },
  );
});

for (const kind of testKinds) {
  // Drivers compile each kernel anew for each virtual GPU, which takes them long.
  const counts = kind === "cpu" ? [1, 2, 3, 5] : [1, 3];
  test(`weights after 20 steps of nadam agree on ${counts.join(", ")} devices [${kind}]`, async (t) => {
    const s: Scenario = {
      layers: [{ width: 16, activation: "relu" }],
      features: 12,
      classes: 4,
      rows: 32,
      devices: 3,
      masked: false,
      ignored: false,
      penalty: false,
      seed: 5,
    };
    const runs: number[][] = [];
    for (const count of counts) {
      const devices = await virtualDevices(kind, count);
      if (devices === undefined) return t.skip("no adapter");
      const { model, made } = trainerOf(s, devices, nadam({ learningRate: 2e-3 }));
      for (let step = 0; step < 20; step++) {
        await made.step(batchOf({ ...s, seed: step, rows: step === 19 ? 24 : 32 }));
      }
      runs.push(await valuesOf(model.parameters()));
    }
    for (const run of runs.slice(1)) {
      const error = norm(minus(run, runs[0]!));
      assert.ok(error <= 1e-4 * norm(runs[0]!), `weights ${error} apart, of norm ${norm(runs[0]!)}`);
    }
  });
}

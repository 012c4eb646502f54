/** Collectives: what shards have in common, and the gradient of the whole batch through it, on any cut of the batch. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { gradients } from "../src/autograd/grad.ts";
import type { Device } from "../src/devices/device/device.ts";
import { simulateLoss } from "../src/devices/loss.ts";
import { AllDevicesLostError, DecompositionError } from "../src/errors.ts";
import * as g from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import type { Node } from "../src/graph/node.ts";
import { size } from "../src/graph/shape.ts";
import { data, nn, optim, parallel, random, type Tensor } from "../src/index.ts";
import { cutStages } from "../src/parallel/decompose/stages.ts";
import { full, tensor } from "../src/tensor/create.ts";
import { grad } from "../src/tensor/transform/grad.ts";
import { assertClose, testKinds, virtualDevices } from "./harness.ts";

const e = g.elementwise;
const rowsOf = (x: Node, rows: number) => g.expand(g.reshape(x, [1, ...x.shape]), [rows, ...x.shape]);

/** A function of a shard's rows [rows, 2] and weights [2] that couples the rows in every way there is. */
function coupled(x: Node, w: Node, rows: number, total: number): Node[] {
  const shape = [rows, 2];
  const y = e("mul", x, rowsOf(w, rows));
  const mean = g.allReduce(g.reduce("sum", y, [0]), "sum");
  const centered = e("sub", y, rowsOf(e("mul", mean, g.full([2], 1 / total, "f32")), rows));
  const variance = g.allReduce(g.reduce("sum", e("mul", centered, centered), [0]), "sum");
  const largest = g.allReduce(g.reduce("amax", y, [0]), "max");
  const spread = e("mul", variance, g.full([2], 1 / total, "f32"));
  const normal = e("mul", centered, rowsOf(e("add", spread, largest), rows));
  const all = g.allGather(normal, total);
  const product = e(
    "mul",
    g.expand(g.reshape(normal, [rows, 1, 2]), [rows, total, 2]),
    g.expand(g.reshape(all, [1, total, 2]), [rows, total, 2]),
  );
  const similar = e("sin", g.reduce("sum", product, [2]));
  const loss = g.reduce("sum", similar, [0, 1]);
  const [dw] = gradients([loss], [w]);
  const [again] = gradients([g.reduce("sum", dw!, [0])], [w]);
  return [loss, dw!, again!, g.reshape(normal, shape)];
}

/** Runs the stages of each shard by the interpreter, in step with the other shards. */
function runStaged(x: Float64Array, w: Float64Array, sizes: readonly number[]): Float64Array[][] {
  const total = sizes.reduce((a, b) => a + b, 0);
  let offset = 0;
  const shards = sizes.map((rows) => {
    const inputs = [g.input([rows, 2], "f32"), g.input([2], "f32")] as const;
    const roots = coupled(inputs[0], inputs[1], rows, total);
    const given = new Map<Node, ArrayLike<number>>([
      [inputs[0], x.subarray(2 * offset, 2 * (offset + rows))],
      [inputs[1], w],
    ]);
    offset += rows;
    return { rows, given, stages: cutStages(roots, (node) => node.op === "input") };
  });
  const count = shards[0]!.stages.length;
  for (let number = 0;; number++) {
    const values = shards.map(({ given, stages }) => interpret(stages[number]!.roots, given));
    if (number === count - 1) return values as Float64Array[][];
    shards.forEach(({ given, stages }, s) => {
      for (const { placeholder, root } of stages[number]!.kept) given.set(placeholder, values[s]![root]!);
    });
    shards[0]!.stages[number]!.collectives.forEach(({ node, root }, i) => {
      const parts = values.map((of) => [...of[root]!]);
      const fold = (f: (a: number, b: number) => number) => parts.reduce((a, b) => a.map((v, k) => f(v, b[k]!)));
      let from = 0;
      shards.forEach(({ given, stages }) => {
        const own = stages[number]!.collectives[i]!;
        const length = size(own.node.shape);
        const how = node.op === "allReduce" ? node.attrs.how : "sum";
        const whole = node.op === "allGather"
          ? parts.flat()
          : fold(how === "sum" ? (a, b) => a + b : how === "max" ? Math.max : Math.min);
        given.set(own.placeholder, node.op === "reduceScatter" ? whole.slice(from, from + length) : whole);
        from += length;
      });
    });
  }
}

test("law: stages of shards give what the whole batch gives, gradients and their gradients too", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 4 }),
      // Some are equal, so that the largest of them is in several shards.
      fc.array(fc.oneof(fc.double({ min: -1, max: 1, noNaN: true }), fc.constantFrom(1, -1)), {
        minLength: 40,
        maxLength: 40,
      }),
      (sizes, numbers) => {
        const total = sizes.reduce((a, b) => a + b, 0);
        const x = Float64Array.from(numbers.slice(0, 2 * total));
        const w = Float64Array.of(0.7, -1.3);
        const [whole] = runStaged(x, w, [total]);
        const parts = runStaged(x, w, sizes);
        for (const scalar of [0, 1, 2]) {
          const sum = parts.reduce((a, of) => a.map((v, k) => v + of[scalar]![k]!), whole![scalar]!.map(() => 0));
          const scale = 1 + Math.max(...whole![scalar]!.map(Math.abs));
          // Second derivatives of 256 sines cancel: what is left has lost half of its digits.
          assertClose(sum, whole![scalar]!, { atol: 1e-7 * scale, rtol: 1e-7, message: `output ${scalar}` });
        }
        assertClose(parts.flatMap((of) => [...of[3]!]), whole![3]!, { atol: 1e-9, rtol: 1e-9 });
      },
    ),
    { numRuns: 60 },
  );
});

test("the gradient through collectives is that of finite differences, over several shards", () => {
  const x = Float64Array.from({ length: 10 }, (_, i) => Math.sin(1 + 2.3 * i));
  const sizes = [2, 1, 2];
  const lossAt = (w: Float64Array) => runStaged(x, w, sizes).reduce((sum, of) => sum + of[0]![0]!, 0);
  const w = Float64Array.of(0.4, 0.9);
  const gradient = runStaged(x, w, sizes).reduce((a, of) => a.map((v, k) => v + of[1]![k]!), [0, 0] as number[]);
  const h = 1e-6;
  const expected = [0, 1].map((k) => {
    const moved = (by: number) => lossAt(w.map((v, i) => i === k ? v + by : v));
    return (moved(h) - moved(-h)) / (2 * h);
  });
  assertClose(gradient, expected, { atol: 1e-6, rtol: 1e-6 });
});

test("a graph without collectives is one stage as it is; products are not computed twice", () => {
  const x = g.input([6, 4], "f32");
  const plain = [e("sin", x)];
  const [only, ...more] = cutStages(plain, (node) => node.op === "input");
  assert.deepEqual([only!.roots, only!.inputs, more.length], [plain, [x], 0]);

  const w = g.input([4, 5], "f32");
  const product = g.reduce(
    "sum",
    e("mul", g.expand(g.reshape(x, [6, 4, 1]), [6, 4, 5]), g.expand(g.reshape(w, [1, 4, 5]), [6, 4, 5])),
    [1],
  );
  const mean = g.allReduce(g.reduce("sum", product, [0]), "sum");
  const stages = cutStages([e("sub", e("exp", product), rowsOf(mean, 6))], (node) => node.op === "input");
  assert.equal(stages.length, 2);
  assert.equal(stages[0]!.kept.length, 1, "the product stays on the device");
  assert.deepEqual(
    stages[1]!.inputs.map(({ shape }) => shape),
    [[6, 5], [5]],
    "and is all that is read besides the mean",
  );
});

/** Two layers with batch normalisation between them. */
function normalized() {
  random.seed(4);
  return nn.sequential(
    nn.linear(3, 6),
    nn.batchNorm(6),
    nn.relu(),
    nn.dropout(0.2),
    nn.linear(6, 5),
    nn.batchNorm(5),
    nn.linear(5, 3),
  );
}

function batchOf(rows: number, seed = 0) {
  return {
    x: data.array(Float32Array.from({ length: rows * 3 }, (_, i) => Math.sin(seed + i * 1.3)), { shape: [rows, 3] }),
    y: data.array(Int32Array.from({ length: rows }, (_, i) => (i * 5 + seed) % 3), { dtype: "i32" }),
  };
}

type Options = Partial<Pick<Parameters<typeof nn.trainer>[1], "microBatches"> & { deterministic: { shards: number } }>;

function trainerOf(
  model: ReturnType<typeof normalized>,
  devices: readonly Device[],
  rate: number,
  options: Options = {},
) {
  return nn.trainer(model, {
    loss: (output, batch) => nn.crossEntropy(output, batch.y),
    optimizer: optim.sgd({ learningRate: rate }),
    devices,
    seed: 9,
    ...options,
  });
}

async function stateOf(model: nn.Module): Promise<Record<string, readonly number[]>> {
  const entries = Object.entries(model.stateDict());
  return Object.fromEntries(
    await Promise.all(entries.map(async ([name, value]) => [name, [...await value.data()]] as const)),
  );
}

for (const kind of testKinds) {
  test(`batch statistics are those of the whole batch: gradient, weights and running statistics agree [${kind}]`, async (t) => {
    const counts = kind === "cpu" ? [1, 2, 3, 5] : [1, 3];
    for (const rows of kind === "cpu" ? [7, 4, 2] : [7]) {
      const all: Record<string, readonly number[]>[] = [];
      for (const count of counts) {
        const devices = await virtualDevices(kind, Math.max(2, count));
        if (devices === undefined) return t.skip("no adapter");
        const model = normalized();
        const trainer = trainerOf(model, devices.slice(0, count), 0.5);
        for (let step = 0; step < 3; step++) await trainer.step(batchOf(rows, step));
        // Evaluation has no collective, so that rows may come in any number.
        await trainer.evaluate(batchOf(5), { rowsAtOnce: 2 });
        all.push(await stateOf(model));
      }
      for (const [i, state] of all.entries()) {
        for (const [name, values] of Object.entries(state)) {
          assertClose(values, all[0]![name]!, {
            atol: 2e-5,
            rtol: 1e-4,
            message: `${name} of ${rows} rows on ${counts[i]}`,
          });
        }
      }
    }
  });

  test(`with batch normalisation, too, the bits do not depend on the devices, or on their loss [${kind}]`, async (t) => {
    const deterministic = { shards: 5 };
    const run = async (devices: readonly Device[], steps: number, kill?: number) => {
      const model = normalized();
      const trainer = trainerOf(model, devices, 0.3, { deterministic });
      for (let step = 0; step < steps; step++) {
        const done = trainer.step(batchOf(step % 2 === 0 ? 23 : 4, step));
        if (step === kill) simulateLoss(devices[devices.length - 1]!, "planned");
        await done;
      }
      return await stateOf(model);
    };
    const steps = kind === "cpu" ? 30 : 20;
    const two = await virtualDevices(kind, 2);
    if (two === undefined) return t.skip("no adapter");
    const expected = await run(two.slice(0, 1), steps);
    // Drivers compile each kernel anew for each virtual GPU.
    for (const count of kind === "cpu" ? [2, 3, 5, 8] : [3]) {
      const devices = (await virtualDevices(kind, count))!;
      assert.deepEqual(await run(devices, steps), expected, `on ${count}`);
    }
    assert.deepEqual(await run((await virtualDevices(kind, 3))!, steps, 7), expected, "with a device lost");
  });
}

test("when the only device is lost, running statistics are those of the last step, too", async () => {
  const run = async (steps: number, lose: boolean) => {
    const [device] = (await virtualDevices("cpu", 2))!;
    const model = normalized();
    const trainer = trainerOf(model, [device!], 0.3);
    for (let step = 0; step < steps; step++) await trainer.step(batchOf(7, step));
    if (lose) {
      simulateLoss(device!, "planned");
      await assert.rejects(trainer.step(batchOf(7)), AllDevicesLostError);
    }
    return await stateOf(model);
  };
  assert.deepEqual(await run(3, true), await run(3, false));
});

test("x = 1..7 has mean 4 and variance 4, on any split", async () => {
  for (const count of [1, 2, 3, 5, 8]) {
    const norm = nn.batchNorm(1, { momentum: 1, affine: false });
    const head = nn.linear(1, 1);
    const model = nn.sequential(norm, head);
    const trainer = nn.trainer(model, {
      loss: (output, batch) => nn.mse(output, batch.y),
      optimizer: optim.sgd({ learningRate: 0.01 }),
      devices: (await virtualDevices("cpu", count))!,
    });
    const x = data.array(Float32Array.from([1, 2, 3, 4, 5, 6, 7]), { shape: [7, 1] });
    await trainer.step({ x, y: x });
    assertClose(await norm.runningMean.data(), [4]);
    assertClose(await norm.runningVariance.data(), [4 * 7 / 6], { message: "unbiased" });
  }
});

test("batchNorm against float64, in training and in evaluation", async () => {
  const rows = 6;
  const values = Float32Array.from({ length: rows * 2 * 3 }, (_, i) => 100 + Math.sin(i * 1.7));
  const norm = nn.batchNorm(3, { momentum: 0.25 });
  norm.weight!.assign(tensor([0.5, 1, 2]));
  norm.bias!.assign(tensor([0, -1, 1]));
  const x = tensor(values, { shape: [rows, 2, 3] });
  const of = (feature: number) => [...values].filter((_, i) => i % 3 === feature);
  const mean = [0, 1, 2].map((f) => of(f).reduce((a, b) => a + b) / (2 * rows));
  const variance = [0, 1, 2].map((f) => of(f).reduce((a, b) => a + (b - mean[f]!) ** 2, 0) / (2 * rows));
  const expected = (m: readonly number[], v: readonly number[]) =>
    [...values].map((value, i) =>
      (value - m[i % 3]!) / Math.sqrt(v[i % 3]! + 1e-5) * [0.5, 1, 2][i % 3]! + [0, -1, 1][i % 3]!
    );
  norm.train();
  assertClose(await norm.forward(x).data(), expected(mean, variance), { atol: 2e-3, rtol: 1e-3 });
  const running = mean.map((m) => 0.25 * m);
  const spread = variance.map((v) => 0.75 + 0.25 * v * 12 / 11);
  assertClose(await norm.runningMean.data(), running, { rtol: 1e-5 });
  assertClose(await norm.runningVariance.data(), spread, { rtol: 1e-4 });
  norm.eval();
  assertClose(await norm.forward(x).data(), expected(running, spread), { atol: 1e-3, rtol: 1e-4 });
});

/** Each row's partner is the row of the same index; all other rows of the batch are what it is told apart from. */
function infoNce(a: Tensor, b: Tensor): nn.Loss {
  const similarity = a.matmul(parallel.allGather(b).transpose()).div(0.5);
  return nn.crossEntropy(similarity, parallel.rowIndex(a).cast("i32"));
}

test("a contrastive loss over the whole batch has one gradient, on any number of devices, and learns", async () => {
  class Pairs extends nn.Module {
    readonly left = nn.linear(4, 3);
    readonly right = nn.linear(4, 3);
    override forward(x: Tensor): Tensor {
      return this.left.forward(x);
    }
  }
  const pairs = (rows: number) => {
    const values = Float32Array.from({ length: rows * 4 }, (_, i) => Math.sin(3 + i * 2.1));
    const other = values.map((v, i) => v + 0.1 * Math.cos(i));
    return { x: data.array(values, { shape: [rows, 4] }), y: data.array(other, { shape: [rows, 4] }) };
  };
  for (const rows of [9, 3, 1]) {
    const ends: number[][] = [];
    for (const count of [1, 2, 3, 5]) {
      random.seed(2);
      const model = new Pairs();
      const trainer = nn.trainer(model, {
        loss: (output, batch) => infoNce(output, model.right.forward(batch.y)),
        optimizer: optim.sgd({ learningRate: 0.05 }),
        devices: (await virtualDevices("cpu", count))!,
      });
      const losses: number[] = [];
      for (let step = 0; step < 5; step++) losses.push((await trainer.step(pairs(rows))).loss);
      if (rows > 1) assert.ok(losses[4]! < losses[0]!, `losses ${losses}`);
      const whole = await trainer.evaluate(pairs(rows));
      if (rows === 9) await assert.rejects(trainer.evaluate(pairs(rows), { rowsAtOnce: 4 }), /collective/);
      const weights = await Promise.all(model.parameters().map((p) => p.data()));
      ends.push([...losses, whole.loss, ...weights.flatMap((part) => [...part])]);
    }
    for (const end of ends) assertClose(end, ends[0]!, { atol: 1e-5, rtol: 1e-4, message: `${rows} rows` });
  }
  // Against the whole batch without an executor.
  random.seed(2);
  const model = new Pairs();
  const { x, y } = pairs(9);
  const loss = infoNce(
    model.left.forward(tensor(x.data, { shape: x.shape })),
    model.right.forward(tensor(y.data, { shape: y.shape })),
  );
  const before = await Promise.all(model.parameters().map((p) => p.data()));
  const expected = await Promise.all(grad(loss.mean, model.parameters()).map((p) => p.data()));
  const trainer = nn.trainer(model, {
    loss: (output, batch) => infoNce(output, model.right.forward(batch.y)),
    optimizer: optim.sgd({ learningRate: 1 }),
    devices: (await virtualDevices("cpu", 4))!,
  });
  await trainer.step({ x, y });
  for (const [i, parameter] of model.parameters().entries()) {
    const after = await parameter.data();
    assertClose([...after].map((v, k) => before[i]![k]! - v), expected[i]!, { atol: 1e-6, rtol: 1e-4 });
  }
});

test("a collective of what is no sum, no maximum or no row is refused, and says what to do", async () => {
  const devices = (await virtualDevices("cpu", 2))!;
  const refused = async (fn: (x: Tensor) => Tensor, message: RegExp) => {
    const run = parallel.replicate((x) => fn(x), devices);
    await assert.rejects(run(tensor([[1, 2], [3, 4], [5, 6]])), (error: unknown) => {
      assert.ok(error instanceof DecompositionError, String(error));
      assert.match(error.message, message);
      return true;
    });
  };
  await refused((x) => x.sub(parallel.allReduce(x)), /values of each row; need a sum over rows/);
  await refused((x) => x.sub(parallel.allReduce(tensor([1, 2]))), /the same for every shard/);
  await refused((x) => x.sub(parallel.allReduce(x.max({ axis: 0 }))), /the max over the rows of a shard/);
  await refused((x) => x.sub(parallel.allReduce(x.max({ axis: 0 }).neg(), { op: "max" })), /need the max over rows/);
  await refused((x) => x.sub(x.max({ axis: 0 })), /the max over the rows/);
  const merged = parallel.replicate((x) => x.sub(parallel.allReduce(x.max({ axis: 0 }), { op: "max" })), devices);
  assert.deepEqual(await (await merged(tensor([[1, 9], [3, 4], [5, 6]]))).array(), [[-4, 0], [-2, -5], [0, -3]]);
  const ofGroups = parallel.replicate(({ x, group }: { x: Tensor; group: Tensor }) => {
    const largest = parallel.allReduce(full([3], -Infinity).scatterMax(group, x, { axis: 0 }), { op: "max" });
    return x.sub(largest.take(group));
  }, devices);
  const group = tensor([0, 2, 0, 2, 1], { dtype: "i32" });
  assert.deepEqual(await (await ofGroups({ x: tensor([1, 5, 4, 8, 2]), group })).array(), [-3, -3, 0, 0, 0]);
});

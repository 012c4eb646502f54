/** The executor: the same result on any number of devices, to the last row. */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import type { Device } from "../src/devices/device/device.ts";
import {
  DecompositionError,
  DeviceError,
  NonFiniteLossError,
  ReplicaMismatchError,
  ShapeError,
} from "../src/errors.ts";
import * as nn from "../src/nn/nn.ts";
import { adam, sgd } from "../src/nn/optim/index.ts";
import type { Optimizer } from "../src/nn/optim/optimizer.ts";
import type { Program } from "../src/parallel/decompose/program.ts";
import { lossOf, meansOf } from "../src/parallel/decompose/scores.ts";
import type { HostTensor } from "../src/parallel/split/host-batch.ts";
import { Executor } from "../src/parallel/train/executor.ts";
import { arange, full, tensor, zeros } from "../src/tensor/create.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { FaultyDevice } from "./faulty-device.ts";
import { assertClose, testKinds, virtualDevices } from "./harness.ts";

type Fields = Record<string, Tensor>;

const host = (values: readonly number[], shape: readonly number[] = [values.length]): HostTensor => {
  return { data: Float32Array.from(values), shape, dtype: "f32" };
};
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1);

/** y = w x against 0, with the mean square as the loss: its gradient at w = 1 is 2 mean(x^2). */
function linear(w: Tensor): Program {
  return (batch) => {
    const { x, mask } = batch as Fields;
    const y = x!.mul(w);
    return { loss: nn.mse(y, zeros(y.shape), mask === undefined ? {} : { weights: mask }), metrics: {} };
  };
}

function executor(
  devices: readonly Device[],
  parameters: readonly Tensor[],
  program: Program,
  more: Partial<ConstructorParameters<typeof Executor>[0]> & { optimizer?: Optimizer } = {},
): Executor {
  const rule = more.optimizer ?? sgd({ learningRate: 1 });
  return new Executor({
    devices,
    parameters,
    rule,
    learningRate: 1,
    program,
    seed: 7,
    checkEvery: 1,
    ...more,
  });
}

/** The gradient of the loss at w = 1, as the change of w in a step of learning rate 1. */
async function gradientOn(
  devices: readonly Device[],
  batch: Record<string, HostTensor>,
  program: (w: Tensor) => Program = linear,
): Promise<number> {
  const w = nn.parameter(tensor([1]));
  await executor(devices, [w], program(w)).step(batch);
  return 1 - (await w.data())[0]!;
}

/** Tests on 1 to 8 cpu devices, and on up to 4 GPUs. */
function onCounts(name: string, body: (devices: Device[], context: TestContext) => Promise<void>): void {
  for (const kind of testKinds) {
    test(`${name} [${kind}]`, async (t) => {
      for (const count of kind === "cpu" ? [1, 2, 3, 4, 5, 6, 7, 8] : [1, 3, 4]) {
        const devices = await virtualDevices(kind, count);
        if (devices === undefined) return t.skip("no adapter");
        await body(devices, t);
      }
    });
  }
}

onCounts("the gradient of a batch does not depend on how it is cut", async (devices) => {
  const cases: [n: number, gradient: number][] = [[7, 40], [4, 15], [2, 5], [1, 2]];
  for (const [n, gradient] of cases) {
    assertClose([await gradientOn(devices, { x: host(upTo(n)) })], [gradient], {
      message: `x = 1..${n} on ${devices.length}`,
    });
  }
});

onCounts(
  "a masked row counts nowhere, and a shard that counts nothing contributes nothing",
  async (devices) => {
    const masked = (mask: number[]) => ({ x: host(upTo(7)), mask: host(mask) });
    assertClose([await gradientOn(devices, masked([1, 1, 1, 1, 0, 0, 0]))], [15]);
    assertClose([await gradientOn(devices, masked([1, 0, 0, 1, 1, 1, 1]))], [50.8]);
    assertClose([await gradientOn(devices, masked([0, 0, 0, 0, 0, 0, 2]))], [98]);
  },
);

onCounts("losses of tokens are averaged over tokens", async (devices) => {
  const w = nn.parameter(tensor([1]));
  const program: Program = (batch) => {
    const { values, mask } = batch as Fields;
    return { loss: nn.loss({ sum: values!.mul(mask!).mul(w).sum(), count: mask!.sum() }), metrics: {} };
  };
  const batch = { values: host([1, 2, 3, 10, 9, 9], [2, 3]), mask: host([1, 1, 1, 1, 0, 0], [2, 3]) };
  const { scores } = await executor(devices, [w], program).step(batch);
  assert.equal(lossOf(scores), 4);
});

onCounts("three steps of SGD on x = 1..7 lead to w = 0.216", async (devices) => {
  const w = nn.parameter(tensor([1]));
  const train = executor(devices, [w], linear(w), { learningRate: 0.01 });
  for (let i = 0; i < 3; i++) {
    const { record } = await train.step({ x: host(upTo(7)) });
    assert.equal(record.step, i + 1);
    assert.equal(record.sizes.reduce((a, b) => a + b, 0), 7);
  }
  assertClose(await w.data(), [0.216]);
});

onCounts("metrics combine by what they count", async (devices) => {
  const w = nn.parameter(tensor([1]));
  const program: Program = (batch) => {
    const { x, right } = batch as Fields;
    return {
      loss: nn.mse(x!.mul(w), zeros(x!.shape)),
      metrics: { accuracy: nn.metric({ sum: right!.sum(), count: full([], x!.shape[0]!) }) },
    };
  };
  const { scores } = await executor(devices, [w], program).step({
    x: host(upTo(7)),
    right: host([1, 1, 1, 0, 0, 1, 0]),
  });
  assertClose([meansOf(scores)["accuracy"]!], [4 / 7]);
});

onCounts("several terms with counts of their own, and a penalty that counts once", async (devices) => {
  const program = (w: Tensor): Program => (batch) => {
    const { x, mask } = batch as Fields;
    const y = x!.mul(w);
    // 3 mean(w x) over all rows, 0.5 mean of the masked squares, and w^2 / 2 once.
    const loss = nn.loss({ sum: y.sum(), count: full([], x!.shape[0]!) }).scale(3)
      .plus(nn.loss({ sum: y.square().mul(mask!).sum(), count: mask!.sum() }).scale(0.5))
      .plus(nn.penalty(w.square().mul(0.5).sum()));
    return { loss, metrics: {} };
  };
  const batch = { x: host(upTo(5)), mask: host([1, 0, 0, 0, 1]) };
  assertClose([await gradientOn(devices, batch, program)], [3 * 3 + 0.5 * 2 * 13 + 1]);
  // A term that counts nothing is left out.
  assertClose([await gradientOn(devices, { ...batch, mask: host([0, 0, 0, 0, 0]) }, program)], [3 * 3 + 1]);
});

onCounts("a batch that counts nothing updates nothing, and says so", async (devices) => {
  const w = nn.parameter(tensor([1]));
  const train = executor(devices, [w], linear(w), { optimizer: adam({}), learningRate: 0.1 });
  const nothing = await train.step({ x: host([1, 2, NaN]), mask: host([0, 0, 0]) });
  assert.equal(nothing.record.updated, false);
  assert.ok(Number.isNaN(lossOf(nothing.scores)));
  const empty = await train.step({ x: host([]), mask: host([]) });
  assert.deepEqual([empty.record.updated, empty.record.rows], [false, 0]);
  assert.deepEqual(await w.array(), [1]);
  const something = await train.step({ x: host([1, 2, 3]), mask: host([1, 1, 1]) });
  assert.equal(something.record.updated, true);
  // The first update of Adam moves by the learning rate, whatever came before it.
  assertClose(await w.data(), [0.9]);
});

onCounts(
  "a loss that is not finite is an error before any update, and training goes on after it",
  async (devices) => {
    const w = nn.parameter(tensor([1]));
    const train = executor(devices, [w], linear(w), { learningRate: 0.01 });
    await train.step({ x: host(upTo(7)) });
    const before = await w.array();
    for (const bad of [NaN, Infinity]) {
      await assert.rejects(train.step({ x: host([1, 2, 3, 4, 5, 6, bad]) }), (error: unknown) => {
        assert.ok(error instanceof NonFiniteLossError);
        assert.match(error.got, /at step \d/);
        return true;
      });
      assert.deepEqual(await w.array(), before);
    }
    await train.step({ x: host(upTo(7)) });
    assertClose(await w.data(), [0.36]);
  },
);

for (const late of [false, true]) {
  test(`steps enqueued after a loss that is not finite change nothing, and say which step it was${late ? ", though they are run before it is read" : ""}`, async () => {
    const [device] = (await virtualDevices("cpu", 1))!;
    const devices = [late ? new FaultyDevice(device!, [5]) : device!];
    const good = { x: host(upTo(7)), more: host([0, 0, 0, 0, 0, 0, 0]) };
    // Of the second one the gradient is finite.
    for (const bad of [{ x: host([NaN]), more: host([0]) }, { x: host([1]), more: host([Infinity]) }]) {
      const w = nn.parameter(tensor([1]));
      const program: Program = (batch) => {
        const { x, more } = batch as { readonly x: Tensor; readonly more: Tensor };
        const loss = nn.mse(x.mul(w), zeros(x.shape));
        return { loss: loss.plus(nn.loss({ sum: more.sum(), count: loss.count })), metrics: {} };
      };
      const train = executor(devices, [w], program, { learningRate: 0.01 });
      const batches = [good, bad, good, good];
      const outcomes = await Promise.allSettled(
        batches.map((batch) => train.enqueue(batch).then(({ outcome }) => outcome)),
      );
      assert.deepEqual(outcomes.map(({ status }) => status), ["fulfilled", "rejected", "rejected", "rejected"]);
      for (const outcome of outcomes.slice(1)) {
        assert.ok(outcome.status === "rejected" && outcome.reason instanceof NonFiniteLossError);
        assert.match(outcome.reason.got, /at step 2/);
      }
      assertClose(await w.data(), [0.6]);
      await train.step(good);
      assertClose(await w.data(), [0.36]);
    }
  });
}

onCounts(
  "a parameter that the user assigns to counts from the next step on; older tensors keep their value",
  async (devices) => {
    const w = nn.parameter(tensor([1]));
    const b = nn.parameter(tensor([0]));
    const program: Program = (batch) => {
      const { x } = batch as Fields;
      return { loss: nn.mse(x!.mul(w).add(b), zeros(x!.shape)), metrics: {} };
    };
    const train = executor(devices, [w, b], program, { learningRate: 0.01 });
    await train.step({ x: host([-1, 1]) });
    const old = w.detach();
    assertClose(await w.data(), [0.98]);
    w.assign(tensor([2]));
    b.assign(tensor([1]));
    await train.step({ x: host([-1, 1]) });
    assertClose([...await w.data(), ...await b.data()], [1.96, 0.98]);
    assertClose(await old.data(), [0.98]);
    // All replicas were given the new values: otherwise the check of each step would have thrown.
    await train.step({ x: host([-1, 1]) });
  },
);

onCounts(
  "dropout does not depend on the number of devices, and differs from step to step",
  async (devices) => {
    const run = async (some: readonly Device[], seed: number) => {
      const w = nn.parameter(full([6], 1));
      const drop = nn.dropout(0.5);
      const program: Program = (batch) => {
        const { x } = batch as Fields;
        const y = drop.forward(drop.forward(x!.mul(w)).reshape([x!.shape[0]! * 2, 3]));
        return { loss: nn.mse(y, zeros(y.shape)), metrics: {} };
      };
      const train = executor(some, [w], program, { seed });
      const seen: Float32Array[] = [];
      for (let i = 0; i < 2; i++) {
        await train.step({ x: host(new Array<number>(42).fill(1), [7, 6]) });
        seen.push(Float32Array.from(await w.data()));
        w.assign(full([6], 1));
      }
      return seen;
    };
    const [one, several, other] = [
      await run(devices.slice(0, 1), 1),
      await run(devices, 1),
      await run(devices, 2),
    ];
    assertClose(several[0]!, one[0]!);
    assertClose(several[1]!, one[1]!);
    assert.notDeepEqual(several[0], several[1]);
    assert.notDeepEqual(several[0], other[0]);
  },
);

onCounts("a replica that differs is found, and named", async (devices) => {
  if (devices.length < 2) return;
  const w = nn.parameter(tensor([1, 1, 1]));
  const program: Program = (batch) => {
    const { x } = batch as Fields;
    const y = x!.unsqueeze(1).mul(w);
    return { loss: nn.mse(y, zeros(y.shape)), metrics: {} };
  };
  const train = executor(devices, [w], program, { checkEvery: 2, learningRate: 0.01, optimizer: adam({}) });
  for (let i = 0; i < 3; i++) await train.step({ x: host(upTo(7)) });
  const last = devices.length - 1;
  const values = await w.data() as Float32Array;
  // The last bit of one parameter.
  const bits = new Uint32Array(values.buffer.slice(0));
  bits[1]! ^= 1;
  devices[last]!.write(train.replicas.state(devices[last]!).parameters, bits);
  await assert.rejects(train.step({ x: host(upTo(7)) }), (error: unknown) => {
    assert.ok(error instanceof ReplicaMismatchError);
    assert.match(
      error.got,
      new RegExp(`after step 4, .* replica ${last} \\(${devices[last]!.name}\\) in its parameters`),
    );
    assert.doesNotMatch(error.got, /replica 0/);
    return true;
  });
});

test("parameters that are looked at between steps, or assigned to during one, are never lost", async () => {
  for (const count of [1, 3]) {
    const devices = (await virtualDevices("cpu", count))!;
    const w = nn.parameter(tensor([1]));
    const train = executor(devices, [w], linear(w), { learningRate: 0.01 });
    const seen: Tensor[] = [];
    for (let i = 0; i < 5; i++) {
      await train.step({ x: host([1]) });
      // A value that is still to be computed keeps the weights of now.
      seen.push(w.mul(1));
      assertClose(await w.data(), [0.98 ** (i + 1)]);
    }
    assertClose(
      (await Promise.all(seen.map((x) => x.data()))).map((data) => data[0]!),
      [1, 2, 3, 4, 5].map((i) => 0.98 ** i),
    );
    const step = train.step({ x: host([1]) });
    w.assign(tensor([5]));
    await step;
    const between = (await w.data())[0]!;
    assert.ok(Math.abs(between - 5) < 0.2, `${between}`);
    await train.step({ x: host([1]) });
    assertClose(await w.data(), [0.98 * between]);
  }
});

test("a parameter may be assigned to at any moment of a step, while another is read: what was assigned last stays", async () => {
  for (const count of [1, 2]) {
    const devices = (await virtualDevices("cpu", count))!;
    const [w, v] = [nn.parameter(tensor([1])), nn.parameter(tensor([2]))];
    const train = executor(devices, [w, v], linear(w), { learningRate: 0 });
    for (let turns = 0; turns < 40; turns++) {
      await train.step({ x: host([1]) });
      // Both are read anew, as one of them was assigned to.
      v.assign(tensor([3]).add(0));
      const step = train.step({ x: host([1]) });
      for (let turn = 0; turn < turns; turn++) await Promise.resolve();
      w.assign(tensor([turns + 10]));
      await step;
      assert.deepEqual([...await w.data(), ...await v.data()], [turns + 10, 3], `after ${turns} turns`);
    }
  }
});

test("batches as tensors and as bytes on the host give the same step", async () => {
  for (const count of [1, 3]) {
    const devices = (await virtualDevices("cpu", count))!;
    const bytes: HostTensor = {
      data: Uint8Array.from([10, 20, 30, 40, 50]),
      shape: [5],
      dtype: "f32",
      scale: 0.1,
    };
    const values = tensor([1, 2, 3, 4, 5]);
    const there = tensor([1, 2, 3, 4, 5], { device: devices[0]! });
    for (const x of [bytes, values as unknown as HostTensor, there as unknown as HostTensor]) {
      assertClose([await gradientOn(devices, { x })], [22]);
    }
  }
});

test("scalars of a batch are the same on every device", async () => {
  for (const count of [1, 3]) {
    const devices = (await virtualDevices("cpu", count))!;
    const program = (w: Tensor): Program => (batch) => {
      const { x, factor } = batch as Fields;
      return {
        loss: nn.loss({ sum: x!.mul(w).mul(factor!).sum(), count: full([], x!.shape[0]!) }),
        metrics: {},
      };
    };
    assertClose([await gradientOn(devices, { x: host([1, 2, 3, 4, 5]), factor: host([10], []) }, program)], [
      30,
    ]);
  }
});

test("a buffer that the model assigns to is updated once a step, also on several devices", async () => {
  for (const count of [1, 3]) {
    const devices = (await virtualDevices("cpu", count))!;
    const w = nn.parameter(tensor([1]));
    const calls = nn.buffer(tensor([0]));
    const program: Program = (batch) => {
      const { x } = batch as Fields;
      calls.assign(calls.add(1));
      return { loss: nn.mse(x!.mul(w).mul(calls), zeros(x!.shape)), metrics: {} };
    };
    const train = executor(devices, [w], program, { learningRate: 0.01 });
    for (let i = 0; i < 3; i++) await train.step({ x: host(upTo(4)) });
    assert.deepEqual(await calls.array(), [3]);
    const mixing: Program = (batch) => {
      const { x } = batch as Fields;
      calls.assign(x!.sum({ axis: 0 }).reshape([1]));
      return { loss: nn.mse(x!.mul(w), zeros(x!.shape)), metrics: {} };
    };
    await assert.rejects(executor(devices, [w], mixing).step({ x: host(upTo(4)) }), DecompositionError);
  }
});

test("what is no sum over rows is an error that says what to do, on any number of devices", async () => {
  const w = nn.parameter(tensor([1]));
  const rows = (x: Tensor) => full([], x.shape[0]!);
  const cases: [name: string, loss: (x: Tensor) => ReturnType<typeof nn.mse>][] = [
    [
      "centred on the batch's mean",
      (x) => nn.mse(x.sub(x.mean({ axis: 0, keepDims: true })).mul(w), zeros(x.shape)),
    ],
    ["a mean as the sum", (x) => nn.loss({ sum: x.mul(w).mean(), count: 1 })],
    ["a count that is a constant", (x) => nn.loss({ sum: x.mul(w).sum(), count: 1 })],
    ["a sum that does not depend on rows", (x) => nn.loss({ sum: w.sum(), count: rows(x) })],
    ["a root of a sum", (x) => nn.loss({ sum: x.mul(w).square().sum().sqrt(), count: rows(x) })],
    ["the largest row", (x) => nn.loss({ sum: x.mul(w).max(), count: rows(x) })],
    [
      "pairs of rows",
      (x) => nn.loss({ sum: x.unsqueeze(0).mul(x.unsqueeze(1)).mul(w).sum(), count: rows(x) }),
    ],
    [
      "positions in the shard",
      (x) => nn.loss({ sum: x.mul(w).mul(arange(x.shape[0]!)).sum(), count: rows(x) }),
    ],
    [
      "a penalty on the batch",
      (x) => nn.loss({ sum: x.mul(w).sum(), count: rows(x) }).plus(nn.penalty(x.sum())),
    ],
    ["sorted rows", (x) => nn.loss({ sum: x.mul(w).sort().mul(arange(x.shape[0]!)).sum(), count: rows(x) })],
  ];
  for (const count of [1, 3]) {
    const devices = (await virtualDevices("cpu", count))!;
    for (const [name, loss] of cases) {
      const program: Program = (batch) => ({ loss: loss((batch as Fields)["x"]!), metrics: {} });
      await assert.rejects(executor(devices, [w], program).step({ x: host(upTo(7)) }), (error: unknown) => {
        assert.ok(error instanceof DecompositionError, `${name}: ${String(error)}`);
        assert.match(error.need, /sum|rows|penalty/);
        return true;
      });
    }
  }
});

test("bad batches and devices are errors", async () => {
  const devices = (await virtualDevices("cpu", 2))!;
  const w = nn.parameter(tensor([1]));
  assert.throws(() => executor([devices[0]!, devices[0]!], [w], linear(w)), (error: unknown) => {
    assert.ok(error instanceof DeviceError);
    assert.match(error.got, /twice/);
    return true;
  });
  const train = executor(devices, [w], linear(w));
  await assert.rejects(train.step({ x: host(upTo(7)), mask: host(upTo(6)) }), (error: unknown) => {
    assert.ok(error instanceof ShapeError);
    assert.match(error.got, /x \[7\], mask \[6\]/);
    return true;
  });
  await assert.rejects(train.step({ x: host([1], []) }), ShapeError);
  // A plain mistake in the model is reported as what it is.
  const wrong: Program = (batch) => ({ loss: nn.mse((batch as Fields)["x"]!, zeros([3])), metrics: {} });
  await assert.rejects(executor(devices, [w], wrong).step({ x: host(upTo(7)) }), ShapeError);
});

test("after the first steps, a step takes no new memory from the driver", async () => {
  for (const kind of testKinds) {
    for (const count of [1, 2]) {
      const devices = await virtualDevices(kind, count);
      if (devices === undefined) continue;
      const w = nn.parameter(tensor([1]));
      const train = executor(devices, [w], linear(w), { learningRate: 1e-4, optimizer: adam({}) });
      const take = async (steps: number) => {
        for (let i = 0; i < steps; i++) await train.step({ x: host(upTo(7)) });
        return devices.map((device) => device.stats());
      };
      const before = await take(5);
      const after = await take(kind === "cpu" ? 50 : 10);
      after.forEach((stats, i) => {
        assert.equal(stats.allocations, before[i]!.allocations);
        assert.equal(stats.kernels, before[i]!.kernels);
        // Less may be in use: what earlier tests dropped is collected whenever it is.
        assert.ok(stats.liveBytes <= before[i]!.liveBytes, `${stats.liveBytes} <= ${before[i]!.liveBytes}`);
      });
    }
  }
});

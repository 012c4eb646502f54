/** Eager work that nobody reads: it is computed in chunks, whose plans are found again. */
import assert from "node:assert/strict";
import process from "node:process";
import type { Device } from "../src/devices/device/device.ts";
import { toposort } from "../src/graph/node.ts";
import { collectGarbage, nextTurn } from "../src/host/host.ts";
import { concat, grad, optim, type Tensor, tensor, zeros } from "../src/index.ts";
import * as s from "../src/index.ts";
import { bufferOf } from "../src/tensor/runtime.ts";
import { assertClose, onEachDevice } from "./harness.ts";

const noise = (n: number, seed: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(seed + 1.7 * i));

/** A regression: a function that makes one step and gives its loss, of which nothing is computed. */
function regression(device: Device, optimizer: "sgd" | "adam" | "none"): () => Tensor<"f32"> {
  const X = tensor(noise(64 * 8, 1), { shape: [64, 8], device });
  const y = tensor(noise(64, 2), { shape: [64, 1], device });
  let [w, b] = [zeros([8, 1], { device }), zeros([1], { device })];
  const bound = optimizer === "none" ? undefined : optim[optimizer]({ learningRate: 0.05 }).bind([w, b]);
  return () => {
    const loss = X.matmul(w).add(b).sub(y).square().mean();
    const gradients = grad(loss, [w, b]);
    if (bound !== undefined) bound.step(gradients);
    else [w, b] = [w.sub(gradients[0]!.mul(0.05)), b.sub(gradients[1]!.mul(0.05))];
    return loss;
  };
}

const steps = 60;

onEachDevice(
  "a loop that reads only its last loss makes the plans and the work of one that reads all",
  async (device) => {
    for (const optimizer of ["sgd", "adam"] as const) {
      const work = async (every: number) => {
        const before = device.stats();
        const step = regression(device, optimizer);
        let loss = step();
        for (let i = 1; i < steps; i++) {
          if (i % every === 0) await loss.item();
          loss = step();
        }
        const value = await loss.item();
        await device.sync();
        const after = device.stats();
        return { value, kernels: after.kernels - before.kernels, dispatches: after.dispatches - before.dispatches };
      };
      const read = await work(1);
      const unread = await work(steps);
      assertClose([unread.value], [read.value], { rtol: 1e-4 });
      // The first two steps are told apart from the rest, and from those that read.
      assert.ok(unread.kernels <= 12, `${optimizer}: ${unread.kernels} new kernels`);
      assert.ok(
        unread.dispatches <= 1.3 * read.dispatches,
        `${optimizer}: ${unread.dispatches} dispatches, reading all ${read.dispatches}`,
      );
      const turns = await work(7);
      assertClose([turns.value], [read.value], { rtol: 1e-4 });
      assert.ok(turns.kernels <= 12, `${optimizer}: ${turns.kernels} new kernels with a read now and then`);
    }
  },
);

onEachDevice(
  "a loop that carries several tensors on is cut where the least is carried, in equal chunks",
  async (device) => {
    const run = (count: number) => {
      const step = regression(device, "none");
      let loss = step();
      for (let i = 1; i < count; i++) loss = step();
      return loss.item();
    };
    const before = device.stats();
    const last = await run(150);
    const { kernels, dispatches } = device.stats();
    // A step has nine of them, alone; of chunks there are the first, those of the loop, and what is left at the end.
    assert.ok(kernels - before.kernels < 150, `${kernels - before.kernels} kernels for 150 steps`);
    // What is carried on is stored: the more, the more of them.
    assert.ok(
      dispatches - before.dispatches <= 150 * 3.6,
      `${dispatches - before.dispatches} dispatches for 150 steps`,
    );
    assert.ok(last < 1);
    const step = regression(device, "none");
    let value = 0;
    for (let i = 0; i < 40; i++) value = await step().item();
    assertClose([await run(40)], [value], { rtol: 1e-4 });
  },
);

onEachDevice("long unread chains keep heap and device memory flat", async (device) => {
  for (const detach of [false, true]) {
    let x = zeros([16], { device });
    const rounds: { heap: number; bytes: number; kernels: number }[] = [];
    const perRound = 4000;
    for (let round = 0; round < 4; round++) {
      for (let i = 0; i < perRound; i++) {
        x = i % 2 === 0 ? x.mul(0.999) : x.add(0.001);
        if (detach) x = x.detach();
        if (i % 100 === 99) await nextTurn();
      }
      for (let i = 0; i < 12; i++) {
        await collectGarbage();
        await nextTurn();
      }
      const { liveBytes: bytes, kernels } = device.stats();
      rounds.push({ heap: process.memoryUsage().heapUsed, bytes, kernels });
    }
    const [, early, , late] = rounds;
    const message = JSON.stringify({ detach, rounds });
    assert.ok(late!.heap < early!.heap + 2e6, message);
    assert.ok(late!.bytes < early!.bytes + 2 ** 16, message);
    assert.equal(late!.kernels, early!.kernels, message);
    let expected = 0;
    for (let i = 0; i < 4 * perRound; i++) expected = i % 2 === 0 ? expected * 0.999 : expected + 0.001;
    assertClose([...await x.data()].slice(0, 1), [expected], { rtol: 1e-3 });
  }
});

onEachDevice("what is due and fails is computed when it is read", async (device) => {
  const w = zeros([4], { device });
  for (let i = 0; i < 3; i++) w.assign(w.add(1));
  const run = device.run.bind(device);
  let failures = 0;
  device.run = (...args) => {
    if (failures++ < 2) throw new Error("refused");
    return run(...args);
  };
  try {
    for (let i = 0; i < 3; i++) w.assign(w.add(1));
    await nextTurn();
  } finally {
    device.run = run;
  }
  assert.deepEqual([...await w.data()], [6, 6, 6, 6]);
});

/** Has everything that is pending computed later, as a loop does that assigns. */
function bump(device: Device): void {
  const state = zeros([2], { device });
  for (let i = 0; i < 3; i++) state.assign(state.add(1));
  state.add(0);
}

onEachDevice("a loop that keeps statistics beside its weights learns the same, read or not", async (device) => {
  const X = tensor(noise(64 * 8, 1), { shape: [64, 8], device });
  const train = async (isRead: boolean) => {
    const [w, running] = [zeros([8, 1], { device }).add(0.1), zeros([1], { device })];
    const losses: Tensor<"f32">[] = [];
    for (let i = 0; i < 8; i++) {
      const h = X.matmul(w);
      // Assigned, and so the weights are due, between the loss and its gradient.
      running.assign(running.mul(0.9).add(h.mean().reshape([1]).mul(0.1)));
      const loss = h.sub(3).square().mean();
      w.assign(w.sub(grad(loss, w).mul(0.1)));
      losses.push(loss);
      if (isRead) await loss.item();
    }
    return [...await Promise.all(losses.map((loss) => loss.item())), ...await w.data(), ...await running.data()];
  };
  assertClose(await train(false), await train(true), { rtol: 1e-4 });
});

onEachDevice(
  "what is due is one variable, before and after, and stays what it was for all that use it",
  async (device) => {
    const w = zeros([3], { device });
    w.assign(w.add(1));
    const loss = w.mul(3).sum();
    bump(device);
    assert.deepEqual([...await grad(loss, w).data()], [3, 3, 3], "the gradient by what has become due since");

    const x = tensor([1, 2, 3], { device });
    const y = x.mul(2);
    bump(device);
    x.dispose();
    assert.deepEqual([...await y.data()], [2, 4, 6], "its source was disposed of");

    const v = zeros([3], { device });
    v.assign(v.add(1));
    const pending = v.mul(1.5);
    const twice = s.compile((a: Tensor, b: Tensor) => a.add(b));
    const sums = [twice(v, v), twice(pending, v)];
    bump(device);
    assert.deepEqual([...await (await sums[0]!).data()], [2, 2, 2], "an argument twice");
    assert.deepEqual([...await (await sums[1]!).data()], [2.5, 2.5, 2.5]);
    assert.deepEqual(
      [...await v.data(), ...await pending.data()],
      [1, 1, 1, 1.5, 1.5, 1.5],
      "arguments of a compiled call",
    );

    const looping = zeros([3], { device });
    for (let i = 0; i < 4; i++) looping.assign(looping.add(1));
    const buffer = await bufferOf(looping, device);
    assert.deepEqual([...new Float32Array(await device.read(buffer, 0, 12))], [4, 4, 4], "its buffer");
  },
);

onEachDevice("the graph behind what a loop assigns does not grow", (device) => {
  const step = regression(device, "adam");
  const behind: number[] = [];
  for (let i = 0; i < 30; i++) behind.push(toposort([step().node]).length);
  assert.ok(behind.at(-1)! <= behind[5]!, `nodes: ${behind}`);
});

onEachDevice("a value that cannot be computed keeps no other one from it", async (device) => {
  const [good, bad] = [tensor([1, 2], { device }).mul(2), tensor([1, 2, 3], { device }).mul(3)];
  const run = device.run.bind(device);
  device.run = (executable, inputs, outputs, ...rest) => {
    if (outputs.some((buffer) => buffer.bytes === 12)) throw new Error("too much for this device");
    return run(executable, inputs, outputs, ...rest);
  };
  try {
    bump(device);
    const after = good.add(1);
    assert.deepEqual([...await after.data()], [3, 5]);
    await assert.rejects(bad.add(1).data(), /too much/);
  } finally {
    device.run = run;
  }
  assert.deepEqual([...await bad.data()], [3, 6, 9], "once it can be");
});

onEachDevice("memory of what is disposed of while it is due comes back", async (device) => {
  const x = await tensor(noise(1 << 18, 1), { device }).mul(2).realize();
  const before = device.stats().liveBytes;
  const y = x.mul(1.5);
  bump(device);
  y.dispose();
  await s.zeros([], { device }).add(1).data();
  assert.ok(device.stats().liveBytes < before + 2 ** 19, `${device.stats().liveBytes} bytes, before ${before}`);
});

onEachDevice("new lengths compile next to nothing", async (device) => {
  if (device.kind !== "gpu") return; // Of JavaScript, kernels have their lengths spelled out.
  const row = tensor([1, 2, 3], { shape: [1, 3], device });
  const w = s.ones([3, 4], { device });
  const ops: Record<string, (x: Tensor) => Tensor> = {
    concat: (x) => x,
    cumsum: (x) => x.cumsum({ axis: 0 }),
    softmax: (x) => x.softmax({ axis: 0 }),
    matmul: (x) => x.matmul(w),
  };
  for (const [name, op] of Object.entries(ops)) {
    let x = row;
    const kernels: number[] = [];
    for (let n = 2; n <= 24; n++) {
      x = concat([x, row]);
      await x.realize();
      const y = await op(x).data();
      const one = await op(tensor(await x.data(), { shape: x.shape })).data();
      assertClose(y, one, { message: `${name} of ${n}` });
      kernels.push(device.stats().kernels);
    }
    assert.ok(kernels.at(-1)! - kernels[4]! <= 4, `${name}: ${kernels}`);
  }
});

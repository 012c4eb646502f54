/** What eager work costs beside its kernels: submissions, buffers and turns of the event loop. */
import assert from "node:assert/strict";
import type { Device, DeviceStats } from "../src/devices/device/device.ts";
import { collectGarbage, nextTurn } from "../src/host/host.ts";
import { grad, realize, setDefaultDevice, type Tensor, tensor } from "../src/index.ts";
import * as s from "../src/index.ts";
import { onEachDevice } from "./harness.ts";

async function on(device: Device, body: () => Promise<void>): Promise<void> {
  setDefaultDevice(device);
  try {
    await body();
  } finally {
    setDefaultDevice(undefined);
  }
}

/** `length` ops, each realized on its own, and the value before each of them disposed of. */
async function chain(x: Tensor, length: number): Promise<Tensor> {
  let y = x;
  for (let op = 0; op < length; op++) {
    const next = await (op % 2 === 0 ? y.mul(0.5) : y.add(1)).realize();
    y.dispose();
    y = next;
  }
  return y;
}

/** How much of some counters of a device `body` adds. */
async function added(
  device: Device,
  body: () => Promise<unknown>,
): Promise<Pick<DeviceStats, "dispatches" | "submissions" | "allocations">> {
  await device.sync();
  const before = device.stats();
  await body();
  const after = device.stats();
  return {
    dispatches: after.dispatches - before.dispatches,
    submissions: after.submissions - before.submissions,
    allocations: after.allocations - before.allocations,
  };
}

onEachDevice("small ops that follow each other share submissions and two buffers", (device) =>
  on(device, async () => {
    const length = 256;
    const start = () => tensor(new Float32Array(16).fill(8)).realize();
    (await chain(await start(), length)).dispose();
    const x = await start();
    let y: Tensor = x;
    const cost = await added(device, async () => {
      y = await chain(x, length);
      await device.sync();
    });
    assert.equal(cost.dispatches, length);
    assert.equal(cost.allocations, 0);
    // 1, 2, 4, … 32 and then 32 each time; but on a busy machine the event loop turns in between.
    if (device.kind === "gpu") assert.ok(cost.submissions <= length / 2, `${cost.submissions} submissions`);
    assert.ok(Math.abs((await y.data())[0]! - 1) < 1.1, "the fixed points of x / 2 + 1 and of 1 + x / 2");
  }));

onEachDevice("what is realized runs without anybody reading it", (device) =>
  on(device, async () => {
    const x = await tensor([1, 2, 3]).realize();
    for (let round = 0; round < 2; round++) {
      await Promise.all([x.mul(2), x.add(3 + round)].map((y) => y.realize())); // kernels compiled, and then
      await device.sync();
      const before = device.stats();
      for (const y of [x.mul(2), x.add(3 + round), x.add(3 + round).add(0.5)]) await y.realize();
      await nextTurn();
      await nextTurn();
      const turned = device.stats();
      assert.ok(turned.dispatches > before.dispatches);
      if (device.kind === "cpu") continue;
      assert.ok(turned.submissions > before.submissions, "something was submitted");
      await device.sync();
      assert.equal(device.stats().submissions, turned.submissions, "nothing was left to be submitted");
    }
  }));

onEachDevice("large ops are submitted as soon as their caller waits", (device) =>
  on(device, async () => {
    if (device.kind !== "gpu") return;
    const x = await s.ones([512, 1024]).add(1).realize();
    await realize(x.mul(2));
    const made: Tensor[] = [];
    const { submissions } = await added(device, async () => {
      for (let i = 0; i < 3; i++) {
        const y = await x.mul(3 + i).realize();
        made.push(y);
        await Promise.resolve();
      }
    });
    assert.equal(submissions, 3);
  }));

onEachDevice("an op and its read are one submission when they follow another", (device) =>
  on(device, async () => {
    // In Deno's own WebGPU a read takes 10 ms or more: after that nothing follows.
    if (device.kind !== "gpu" || device.info.runtime === "deno") return;
    const x = await tensor([1, 2, 3]).realize();
    assert.deepEqual([...await x.mul(2).data()], [2, 4, 6]);
    let fewest = Infinity;
    // An op that comes a while after another leaves at once: on a busy machine that may be any of them.
    for (let attempt = 0; attempt < 20 && fewest > 10; attempt++) {
      const { submissions } = await added(device, async () => {
        for (let i = 0; i < 8; i++) {
          using y = x.mul(2).add(i);
          assert.deepEqual([...await y.data()], [2 + i, 4 + i, 6 + i]);
        }
      });
      fewest = Math.min(fewest, submissions);
    }
    assert.ok(fewest <= 10, `${fewest} submissions of 8 ops and reads`);
  }));

onEachDevice("constants that were realized and dropped keep no memory", (device) =>
  on(device, async () => {
    await device.sync();
    const { liveBytes } = device.stats();
    for (let value = 1; value <= 8; value++) await s.full([256, 256], value + 0.5).realize();
    for (let i = 0; i < 20 && device.stats().liveBytes > liveBytes; i++) {
      await collectGarbage();
      await nextTurn();
    }
    assert.ok(device.stats().liveBytes <= liveBytes, `${device.stats().liveBytes} bytes, before ${liveBytes}`);
  }));

onEachDevice(
  "disposing frees what was kept for a history that nobody can differentiate through",
  (device) =>
    on(device, async () => {
      const count = 64 * 1024;
      const live = () => device.stats().liveBytes;
      const [forwards, backwards] = [[0, 1, 2, 3], [3, 2, 1, 0]];
      // Compiling makes nodes that are collected later; so the first round, which does that, is not looked at.
      for (const [round, order] of [forwards, forwards, backwards].entries()) {
        const before = live();
        const x = await tensor(new Float32Array(count).fill(2)).realize();
        const a = await x.mul(3).realize();
        const b = await a.mul(5).realize();
        const c = await b.add(1).realize();
        const d = await c.square().realize();
        const some = [x, a, b, c];
        for (const i of order) some[i]!.dispose();
        if (round > 0) {
          assert.ok(
            live() <= before + count * 4,
            `${order}: ${(live() - before) / 4} elements are kept for one tensor`,
          );
        }
        assert.equal((await d.data())[7], 31 * 31);
        d.dispose();
        if (round > 0) assert.ok(live() <= before, `${order}: ${live() - before} bytes stay`);
      }
    }),
);

onEachDevice("disposing leaves what a gradient still needs", (device) =>
  on(device, async () => {
    const w = await tensor([1, 2, 3]).realize();
    const x = await tensor([4, 5, 6]).realize();
    const h = await x.mul(w).realize();
    const y = await h.square().realize();
    const pending = x.add(w); // reads x, and is computed when it is gone
    x.dispose();
    h.dispose();
    const [dw] = grad(y.sum(), [w]);
    assert.deepEqual([...await dw!.data()], [2 * 4 * 4, 2 * 2 * 5 * 5, 2 * 3 * 6 * 6]);
    assert.deepEqual([...await pending.data()], [5, 7, 9]);
    // A graph made of a node before that was computed goes on from it.
    const a = await tensor([1, 2]).realize();
    const b = a.mul(2);
    const later = b.add(1);
    await b.realize();
    a.dispose();
    b.dispose();
    assert.deepEqual([...await later.data()], [3, 5]);
  }));

onEachDevice(
  "what is done within the call keeps the order of the calls, and its errors reject",
  (device) =>
    on(device, async () => {
      const x = await tensor([1, 2]).realize();
      const step = s.compile((v: Tensor) => {
        x.assign(x.add(v));
        return x.mul(2);
      });
      const v = await tensor([1, 1]).realize();
      const before = x.mul(10);
      const called = step(v);
      const after = x.mul(10).realize(); // made before the call's turn: of the old value
      assert.deepEqual([...await (await called).data()], [4, 6]);
      assert.deepEqual([...await (await after).data()], [10, 20]);
      assert.deepEqual([...await before.data()], [10, 20]);
      assert.deepEqual([...await x.data()], [2, 3]);
      const gone = x.add(5);
      gone.dispose();
      await assert.rejects(realize(gone), s.ArgumentError);
      await assert.rejects(gone.realize(), s.ArgumentError);
      assert.deepEqual([...await x.add(5).data()], [7, 8]);
    }),
);

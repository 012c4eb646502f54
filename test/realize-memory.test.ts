/** What a long run leaves behind: nothing that grows. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { collectGarbage, nextTurn } from "../src/host/host.ts";
import * as s from "../src/index.ts";
import { type Device, grad, type Tensor, tensor } from "../src/index.ts";
import { historyLimits } from "../src/tensor/eager/history.ts";
import { onEachDevice } from "./harness.ts";
import { countNodes, livingNodes, stopCounting } from "./living-nodes.ts";

/** Runs `body` with a default device. */
async function on(device: Device, body: () => Promise<void>): Promise<void> {
  s.setDefaultDevice(device);
  try {
    await body();
  } finally {
    s.setDefaultDevice(undefined);
  }
}
/** Garbage collections until finalizers have run. */
async function collect(): Promise<void> {
  for (let i = 0; i < 4; i++) {
    await nextTurn();
    assert.ok(collectGarbage(), "these tests need a collector");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test("histories that nobody can differentiate by any more are dropped", async () => {
  countNodes();
  let y = tensor([1]).add(0);
  const sizes: number[] = [];
  for (let i = 0; i < 60; i++) {
    for (let j = 0; j < 50; j++) y = y.add(1);
    await y.realize();
    if (i % 10 === 9) {
      await collect();
      sizes.push(livingNodes());
    }
  }
  stopCounting();
  assert.ok(sizes.at(-1)! < sizes[0]! + 1500, `nodes: ${sizes}`);
});

onEachDevice("what is dropped is freed, and eager allocation stays bounded", (device) =>
  on(device, async () => {
    await collect();
    const before = device.stats();
    const big = await s.ones([1 << 18]).realize(); // 1 MiB
    for (let i = 0; i < 300; i++) await big.add(i).realize();
    const after = device.stats();
    assert.ok(
      after.peakBytes - before.liveBytes < 160 * 2 ** 20,
      `${after.peakBytes - before.liveBytes} bytes at most`,
    );
    await collect();
    assert.ok(device.stats().liveBytes - before.liveBytes < 4 * 2 ** 20);
  }));

onEachDevice("what was assigned to holds nothing of what it was before", (device) =>
  on(device, async () => {
    const w = await s.ones([1 << 16]).realize(); // 256 KiB
    w.assign(w.mul(0.5));
    await w.realize();
    await collect();
    const before = device.stats().liveBytes;
    for (let i = 0; i < 20; i++) {
      w.assign(w.mul(0.5));
      await w.realize();
    }
    await collect();
    assert.ok(device.stats().liveBytes - before <= 2 ** 19, `${device.stats().liveBytes - before} bytes more`);
  }));

/** Training loops that read nothing but the loss. */
const loops: Record<string, (x: Tensor, t: Tensor) => () => Promise<number>> = {
  "a tensor that is computed anew": (x, t) => {
    let w = s.zeros([10, 1]);
    return async () => {
      const loss = x.matmul(w).sub(t).square().mean();
      w = w.sub(grad(loss, w).mul(0.1));
      return await loss.item();
    };
  },
  "a tensor that is assigned to": (x, t) => {
    const w = s.zeros([10, 1]);
    return async () => {
      const loss = x.matmul(w).sub(t).square().mean();
      w.assign(w.sub(grad(loss, w).mul(0.1)));
      return await loss.item();
    };
  },
  "a compiled step": (x, t) => {
    const w = s.zeros([10, 1]);
    const step = s.compile((x: Tensor, t: Tensor) => {
      const loss = x.matmul(w).sub(t).square().mean();
      w.assign(w.sub(grad(loss, w).mul(0.1)));
      return loss;
    });
    return async () => await (await step(x, t)).item();
  },
};
for (const [name, loop] of Object.entries(loops)) {
  onEachDevice(`memory is flat over many steps of ${name}`, (device, context) =>
    on(device, async () => {
      // A history is walked at every step. Shorter ones are cut more often in as many steps.
      const { nodes } = historyLimits;
      historyLimits.nodes = 1000;
      context.after(() => void (historyLimits.nodes = nodes));
      const x = tensor(Float32Array.from({ length: 160 }, (_, i) => Math.sin(i)), { shape: [16, 10] });
      const t = tensor(Float32Array.from({ length: 16 }, (_, i) => Math.cos(i)), { shape: [16, 1] });
      countNodes();
      const step = loop(x, t);
      const first = await step();
      // Deno's own WebGPU needs 10 ms and more for every read.
      const half = device.kind === "cpu" ? 500 : device.info.runtime === "deno" ? 50 : 250;
      /** The most that there is over some steps, of what is left by a garbage collection. */
      const most = async () => {
        const seen = { nodes: 0, live: 0, kept: 0, heap: 0, resident: 0 };
        for (let i = 0; i < half; i++) {
          await step();
          if (i % (half / 5) !== half / 5 - 1) continue;
          await collect();
          const { liveBytes, pooledBytes } = device.stats();
          const { heapUsed, rss } = process.memoryUsage();
          seen.nodes = Math.max(seen.nodes, livingNodes());
          seen.live = Math.max(seen.live, liveBytes);
          seen.kept = Math.max(seen.kept, liveBytes + pooledBytes);
          seen.heap = Math.max(seen.heap, heapUsed);
          seen.resident = Math.max(seen.resident, rss);
        }
        return seen;
      };
      const early = await most();
      const late = await most();
      stopCounting();
      const message = JSON.stringify({ early, late });
      assert.ok(await step() < first, "it learns");
      // A history that leads to x is kept up to its limit, and what nobody needs for some time: what is there goes up and down.
      const history = name.includes("anew") ? 3 * historyLimits.nodes : 0;
      assert.ok(late.nodes <= Math.max(early.nodes, history) + 200, message);
      assert.ok(late.live <= early.live + 2 ** 20, message);
      assert.ok(late.kept <= early.kept + 2 ** 20, message);
      assert.ok(late.heap <= early.heap + 8 * 2 ** 20, message);
      // The engine of JavaScript holds more than its heap, and the less of it in use the more files ran in the process before.
      assert.ok(late.resident <= early.resident + 64 * 2 ** 20, message);
    }));
}

const alive = (references: readonly WeakRef<object>[]) => references.filter((reference) => reference.deref()).length;

test("of large tensors that were dropped, one collection takes all but the last ones", async () => {
  const references = Array.from({ length: 20 }, () => new WeakRef(tensor(new Float32Array(2 ** 19))));
  await nextTurn();
  collectGarbage();
  assert.ok(alive(references) <= 2, `${alive(references)} are there`);
});

onEachDevice("constants that only went into what was computed are not held", async (device) => {
  const x = await tensor([1, 2, 3, 4], { device }).realize();
  const references: WeakRef<object>[] = [];
  for (let i = 0; i < 400; i++) {
    const constant = s.zeros([1]);
    references.push(new WeakRef(constant));
    (await x.add(constant).realize()).dispose();
  }
  await collect();
  assert.ok(alive(references) <= 10, `${alive(references)} are there`);
});

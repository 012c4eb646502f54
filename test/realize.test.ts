/** The evaluation rules, one by one: when things run, what keeps its value, what is freed, what stays flat. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { collectGarbage, nextTurn } from "../src/host/host.ts";
import * as s from "../src/index.ts";
import { type Device, grad, type Tensor, tensor } from "../src/index.ts";
import { historyLimits } from "../src/tensor/eager/history.ts";
import { adopt, bufferOf, overwritten, replaceBuffer } from "../src/tensor/runtime.ts";
import { assertClose, onEachDevice } from "./harness.ts";

/** Runs `body` with a default device. */
async function on(device: Device, body: () => Promise<void>): Promise<void> {
  s.setDefaultDevice(device);
  try {
    await body();
  } finally {
    s.setDefaultDevice(undefined);
  }
}
const read = async (x: Tensor) => [...await x.data()];

/** What a device did during `body`. */
async function cost(device: Device, body: () => Promise<unknown>) {
  await device.sync();
  const before = device.stats();
  await body();
  const after = device.stats();
  return {
    dispatches: after.dispatches - before.dispatches,
    kernels: after.kernels - before.kernels,
    written: after.bytesWritten - before.bytesWritten,
  };
}

/** Garbage collections until finalizers have run. */
async function collect(): Promise<void> {
  for (let i = 0; i < 4; i++) {
    await nextTurn();
    assert.ok(collectGarbage(), "these tests need a collector");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

onEachDevice("nothing runs until a value is read, and nothing runs twice", (device) =>
  on(device, async () => {
    const x = tensor([1, 2, 3]);
    const y = x.mul(2).exp();
    assert.equal((await cost(device, async () => await nextTurn())).dispatches, 0);
    assert.equal((await cost(device, () => y.data())).dispatches, 1);
    assert.equal((await cost(device, () => y.data())).dispatches, 0);
    assert.equal((await cost(device, () => y.add(1).data())).dispatches, 1);
    // Views of a value are read where they are.
    assert.equal((await cost(device, () => y.reshape([3, 1]).detach().data())).dispatches, 0);
    assert.equal((await cost(device, () => y.slice({ start: 1 }).data())).dispatches, 0);
    assert.deepEqual(await read(x.slice({ start: 1 }).reshape([2, 1])), [2, 3]);
    assert.equal((await cost(device, () => x.data())).dispatches, 0);
  }));

onEachDevice("realize computes several tensors in one plan, without reading", (device) =>
  on(device, async () => {
    const x = await tensor([1, 2, 3, 4]).add(0).realize();
    const shared = x.exp();
    const [a, b] = [shared.sum(), shared.mul(2).sum()];
    const read = device.stats().bytesRead;
    const { dispatches } = await cost(device, () => s.realize(a, b));
    assert.ok(dispatches <= 2, `${dispatches} kernels`);
    assert.equal(device.stats().bytesRead, read);
    assert.equal((await cost(device, async () => [await a.item(), await b.item()])).dispatches, 0);
    assertClose([await b.item()], [2 * await a.item()]);
  }));

onEachDevice("the same expression on new data compiles nothing new", (device) =>
  on(device, async () => {
    const f = async (data: number[], rate: number) => await read(tensor(data).mul(rate).add(data.length).relu());
    await f([1, 2], 0.5);
    assert.equal((await cost(device, () => f([3, -4], 0.5))).kernels, 0);
    // A number that changes is lifted out of the plan at its first change.
    assert.deepEqual(await f([3, -4], 0.25), [2.75, 1]);
    for (const rate of [0.125, 3, -1]) {
      assert.equal(
        (await cost(device, async () =>
          assert.deepEqual(
            await f([3, -4], rate),
            [3, -4].map((x) => Math.max(0, x * rate + 2)),
          ))).kernels,
        0,
      );
    }
    // Of equal ops and shapes, other parts and axes are another expression.
    const x = await tensor([[1, 2], [3, 4]]).add(0).realize();
    const part = (row: number, column: number) =>
      x.slice({ axis: 0, start: row, end: row + 1 }).slice({ axis: 1, start: column, end: column + 1 }).mul(2);
    for (const [row, column] of [[0, 0], [0, 1], [1, 0], [1, 1]] as const) {
      assert.deepEqual(await read(part(row, column)), [2 * (1 + 2 * row + column)]);
    }
    assert.deepEqual([await read(x.sum({ axis: 0 }).mul(2)), await read(x.sum({ axis: 1 }).mul(2))], [[8, 12], [
      6,
      14,
    ]]);
    assert.deepEqual([await read(x.flip(0).mul(2)), await read(x.flip(1).mul(2))], [[6, 8, 2, 4], [4, 2, 8, 6]]);
    assert.deepEqual([
      await read(x.sum().reshape([1]).pad(1, { value: 0 })),
      await read(x.sum().reshape([1]).pad(1, { value: -0.5 })),
    ], [[0, 10, 0], [-0.5, 10, -0.5]]);
    // Numbers that change in turns are lifted for good.
    const two = async (factor: number, summand: number) =>
      assert.deepEqual(
        await read(tensor([1, 2]).mul(factor).sub(summand).exp().log().round()),
        [1, 2].map((x) => x * factor - summand),
      );
    for (const [factor, summand] of [[2, 1], [3, 1], [3, 2]] as const) {
      await two(factor, summand);
    }
    for (const [factor, summand] of [[4, 2], [4, 3], [5, 3], [2, 1]] as const) {
      assert.equal((await cost(device, () => two(factor, summand))).kernels, 0, `${factor} and ${summand}`);
    }
    const ints = async (by: number) => await read(tensor([1, 2], { dtype: "i32" }).add(by).greater(by));
    assert.deepEqual([await ints(1), await ints(-2), await ints(5)], [[1, 1], [1, 1], [1, 1]]);
    const special = async (value: number) => await read(s.full([2], value));
    assert.deepEqual([await special(1), await special(NaN), await special(-Infinity)], [[1, 1], [NaN, NaN], [
      -Infinity,
      -Infinity,
    ]]);
  }));

onEachDevice("a value is fixed when it is made", (device) =>
  on(device, async () => {
    const w = tensor([1, 2]);
    const before = w.mul(10);
    const copy = w.detach();
    w.assign(w.add(1));
    const between = w.mul(10);
    w.assign(0);
    assert.deepEqual([await read(before), await read(copy), await read(between), await read(w)], [[10, 20], [1, 2], [
      20,
      30,
    ], [0, 0]]);
    assert.throws(() => w.assign(tensor([1, 2, 3])), s.ShapeError);
    assert.throws(() => w.assign(tensor([1, 2], { dtype: "i32" })), s.DTypeError);
  }));

onEachDevice("a value that was read keeps its history for grad; assign cuts it", (device) =>
  on(device, async () => {
    const x = tensor([1, 2]);
    const h = x.square();
    const early = h.mul(3); // made before h is computed
    assert.deepEqual(await read(h), [1, 4]);
    const late = h.mul(5); // made after
    const loss = early.add(late).sum();
    assert.equal(await loss.item(), 40);
    assert.deepEqual(await read(grad(loss, x)), [16, 32]);
    assert.deepEqual(await read(grad(loss, h)), [8, 8]);
    const [gx, gh] = grad(loss, [x, h]);
    assert.deepEqual([await read(gx), await read(gh)], [[16, 32], [8, 8]]);
    // Through values that nobody holds any more.
    let y = x;
    for (let i = 0; i < 5; i++) await (y = y.mul(2)).realize();
    await collect();
    assert.deepEqual(await read(grad(y.sum(), x)), [32, 32]);
    // The gradient of a gradient that was read.
    const g = grad(x.square().mul(x).sum(), x);
    await g.realize();
    assert.deepEqual(await read(grad(g.sum(), x)), [6, 12]);
    const w = tensor([3]);
    w.assign(x.sum().reshape([1]));
    assert.deepEqual(await read(grad(w.mul(x.at(0)).sum(), x)), [3, 0]);
    await w.realize();
    assert.deepEqual(await read(grad(w.mul(x.at(0)).sum(), x)), [3, 0]);
    assert.deepEqual(await read(grad(w.square().sum(), w)), [6]);
  }));

onEachDevice(
  "a loss made before its parameter was computed has its gradient after",
  (device) =>
    on(device, async () => {
      const w = tensor([1, 2]);
      for (let step = 0; step < 3; step++) {
        const loss = w.square().sum();
        await loss.realize(); // computes w, too: it was assigned
        w.assign(w.sub(grad(loss, w).mul(0.25)));
      }
      assert.deepEqual(await read(w), [0.125, 0.25]);
      const kept = s.ones([2]).mul(3);
      const loss = kept.square().sum();
      await kept.realize();
      assert.deepEqual(await read(grad(loss, kept)), [6, 6]);
      const constant = s.ones([2]);
      const linear = constant.mul(2).sum();
      await constant.realize();
      assert.deepEqual(await read(grad(linear, constant)), [2, 2]);
    }),
);

onEachDevice("nothing is computed more than twice, however it is read", (device) =>
  on(device, async () => {
    const x = await s.ones([8, 8]).mul(0.1).realize();
    let chain = x;
    const costs: number[] = [];
    for (let i = 0; i < 12; i++) {
      chain = chain.matmul(x).tanh();
      const loss = chain.sum();
      costs.push((await cost(device, () => loss.item())).dispatches);
    }
    assert.ok(Math.max(...costs.slice(2)) <= 5, `kernels of each read: ${costs}`);
    // What was assigned is computed with the next read, so that training eagerly costs the same every step.
    const w = s.zeros([8, 1]);
    const steps: number[] = [];
    for (let i = 0; i < 6; i++) {
      const loss = x.matmul(w).sub(1).square().mean();
      w.assign(w.sub(grad(loss, w)));
      steps.push((await cost(device, () => loss.item())).dispatches);
    }
    assert.equal(new Set(steps.slice(2)).size, 1, `kernels of each step: ${steps}`);
  }));

onEachDevice("dispose gives memory back at once, unless another tensor needs it", (device) =>
  on(device, async () => {
    const big = await tensor(new Float32Array(64 * 1024).fill(1)).mul(2).realize();
    // What earlier tests dropped shall not be collected in the middle of this one.
    for (let before = Infinity; device.stats().liveBytes < before;) {
      before = device.stats().liveBytes;
      collectGarbage();
      for (let turn = 0; turn < 8; turn++) await nextTurn();
    }
    const live = device.stats().liveBytes;
    {
      using other = big.add(1);
      await other.realize();
      assert.ok(device.stats().liveBytes >= live + big.size * 4);
    }
    assert.ok(device.stats().liveBytes <= live, `${live} bytes became ${device.stats().liveBytes}`);
    const reader = big.sum();
    big.dispose();
    big.dispose();
    assert.equal(await reader.item(), 2 * 64 * 1024);
    assert.throws(() => big.add(1), (error) => error instanceof s.ArgumentError && /disposed/.test(error.message));
    assert.throws(() => big.data(), s.ArgumentError);
    // Two handles of one value.
    const a = await tensor([1, 2]).add(1).realize();
    const b = a.reshape([2]);
    a.dispose();
    assert.deepEqual(await read(b), [2, 3]);
    // What was assigned shows the same memory, until the last of them is gone.
    const c = await s.ones([1000]).mul(3).realize();
    const d = s.zeros([1000]).assign(c);
    const [both] = [device.stats().liveBytes];
    c.dispose();
    assert.equal(device.stats().liveBytes, both);
    assert.equal(await d.sum().item(), 3000);
    d.dispose();
    assert.ok(device.stats().liveBytes < both);
    // A graph made before the value was computed computes it again.
    const x = tensor([1, 2]);
    const h = x.mul(2);
    const pending = h.add(1);
    await h.realize();
    h.dispose();
    assert.deepEqual(await read(pending), [3, 5]);
  }));

onEachDevice(
  "long graphs run: in one piece when nothing waits, in parts when something does",
  (device) =>
    on(device, async () => {
      let x = tensor([0, 1]);
      for (let i = 0; i < 5000; i++) x = x.add(1);
      assert.deepEqual(await read(x), [5000, 5001]);
      let total = s.zeros([]);
      for (let i = 0; i < 3000; i++) {
        total = total.add(i);
        if (i % 100 === 0) await nextTurn();
      }
      assert.equal(await total.item(), 2999 * 1500);
    }),
);

test("a history that became too long is cut, and grad through the cut says so", async () => {
  const [x, w] = [tensor([1]), tensor([1])];
  let y = x;
  for (let i = 0; i < historyLimits.nodes / 100 + 2; i++) {
    for (let j = 0; j < 100; j++) y = y.add(1);
    await y.realize();
  }
  const loss = y.mul(w).sum();
  assert.deepEqual(await read(grad(loss, y)), [1]);
  assert.deepEqual(await read(grad(loss, w)), [await y.item()]);
  assert.throws(
    () => grad(loss, x),
    (error) => error instanceof s.GradientError && /dropped.*detach/.test(error.message),
  );
  const cut = y.detach().mul(x).sum();
  assert.deepEqual(await read(grad(cut, x)), [await y.item()]);
});

test("so is one that keeps too many bytes, at its old end, and no sooner", async (context) => {
  const { bytes } = historyLimits;
  context.after(() => void (historyLimits.bytes = bytes));
  historyLimits.bytes = 10 * 4000;
  const x = tensor(new Float32Array(1000).fill(1));
  const chain: Tensor[] = [x];
  const grow = async (count: number) => {
    for (let i = 0; i < count; i++) chain.push(await chain.at(-1)!.sin().realize());
  };
  await grow(10);
  assert.equal((await grad(chain.at(-1)!.sum(), x).data()).length, 1000, "ten values of 4000 bytes are kept");
  await grow(1);
  const loss = chain.at(-1)!.sum();
  assert.throws(
    () => grad(loss, x),
    (error) => error instanceof s.GradientError && /dropped.*40000 bytes/.test(error.message),
  );
  // By what came last there is a gradient still.
  assert.equal((await grad(loss, chain.at(-2)!).data()).length, 1000);
});

onEachDevice("several readers at once get their own values", (device) =>
  on(device, async () => {
    const x = tensor([1, 2, 3]);
    const reads = Array.from({ length: 10 }, (_, i) => x.mul(i).sum().item());
    const same = x.exp();
    const twice = await Promise.all([same.data(), same.data(), same.sum().item()]);
    assert.deepEqual(await Promise.all(reads), Array.from({ length: 10 }, (_, i) => 6 * i));
    assert.deepEqual(twice[0], twice[1]);
  }));

test("an error of one reading leaves the next one whole", async () => {
  const [lost, fine] = await s.devices({ kind: "cpu", virtual: 5 }).then((all) => all.slice(3));
  const there = await tensor([1, 2], { device: lost! }).add(1).realize();
  const pending = there.mul(2);
  lost!.close();
  await assert.rejects(there.data(), s.DeviceError);
  await assert.rejects(pending.data(), s.DeviceError);
  assert.throws(() => there.to(lost!), s.DeviceError);
  assert.throws(() => tensor([1], { device: lost! }), s.DeviceError);
  await assert.rejects(there.to(fine!).data(), s.DeviceError);
  assert.deepEqual(await read(tensor([1, 2], { device: fine! }).add(1)), [2, 3]);
});

test("a value that went with its device is computed again where it can be", async () => {
  const [lost, fine] = await s.devices({ kind: "cpu", virtual: 7 }).then((all) => all.slice(5));
  const x = tensor([1, 2]);
  const h = x.mul(2);
  const y = h.add(1);
  s.setDefaultDevice(lost);
  await h.realize();
  s.setDefaultDevice(fine);
  lost!.close();
  assert.deepEqual(await read(y), [3, 5]);
  s.setDefaultDevice(undefined);
});

onEachDevice("buffers in and out, for those who run plans of their own", (device) =>
  on(device, async () => {
    const x = tensor([1, 2, 3]);
    const buffer = await bufferOf(x, device);
    assert.equal(await bufferOf(x, device), buffer, "once for each version");
    const own = device.alloc(12);
    device.write(own, Float32Array.of(4, 5, 6));
    const adopted = adopt(device, own, [3], "f32");
    assert.deepEqual(await read(adopted.add(x)), [5, 7, 9]);
    const before = adopted;
    const sum = before.add(0);
    await sum.realize();
    device.write(await bufferOf(adopted, device), Float32Array.of(7, 8, 9));
    overwritten(adopted, device);
    assert.deepEqual(await read(adopted.mul(2)), [14, 16, 18]);
    assert.deepEqual(await read(sum), [4, 5, 6]);
    const next = device.alloc(12);
    device.write(next, Float32Array.of(1, 1, 1));
    replaceBuffer(adopted, device, next);
    assert.deepEqual(await read(adopted), [1, 1, 1]);
    const flat = tensor([1, 2, 3, 4]);
    const part = s.zeros([2]);
    part.aliasOf(flat, 2);
    const words = await device.read(await bufferOf(part, device), 0, 8);
    assert.deepEqual([...new Float32Array(words)], [3, 4]);
  }));

/** Small graphs in pairs, each of two that differ in one thing. */
const pairs: Record<
  string,
  readonly [(x: Tensor) => Tensor, (x: Tensor) => Tensor, readonly number[], readonly number[]]
> = {
  "a number": [(x) => x.add(1), (x) => x.add(2), [2, 3, 4, 5], [3, 4, 5, 6]],
  "an attribute": [(x) => x.sum({ axis: 0 }), (x) => x.sum({ axis: 1 }), [4, 6], [3, 7]],
  "a list": [(x) => x.pad([[1, 0], [0, 0]]), (x) => x.pad([[0, 1], [0, 0]]), [0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 0, 0]],
  "operands": [(x) => x.sub(x.add(1)), (x) => x.add(1).sub(x), [-1, -1, -1, -1], [1, 1, 1, 1]],
  "the op": [(x) => x.mul(3), (x) => x.div(0.25), [3, 6, 9, 12], [4, 8, 12, 16]],
  "shape": [(x) => x.reshape([4]).mul(2), (x) => x.reshape([1, 4]).mul(2), [2, 4, 6, 8], [2, 4, 6, 8]],
  "dtype": [(x) => x.cast("i32").mul(5), (x) => x.mul(5), [5, 10, 15, 20], [5, 10, 15, 20]],
};

onEachDevice("small graphs that are computed again and again are told apart by all that they are", async (device) => {
  for (const [what, [one, other, first, second]] of Object.entries(pairs)) {
    for (let turn = 0; turn < 5; turn++) {
      const x = tensor([[1, 2], [3, 4]], { device });
      const [a, b] = [await one(x).realize(), await other(x).realize()];
      assert.deepEqual([...await a.data()], first, what);
      assert.deepEqual([...await b.data()], second, what);
    }
  }
});

/** The profiler and the listing of kernels: they count what the devices count, and name the lines that a reader sees. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import type { PlanStep } from "../src/compiler/plan/plan.ts";
import { nullDevice } from "../src/devices/cpu/null.ts";
import * as s from "../src/index.ts";
import { compile, explain, grad, nn, optim, type Profile, profile, random, type Tensor, tensor } from "../src/index.ts";
import { isClose, onEachDevice } from "./harness.ts";
import { increment, inPlace } from "./tiny-plans.ts";

/** Runs `body` with a default device. */
async function on(device: s.Device, body: () => Promise<void>): Promise<void> {
  s.setDefaultDevice(device);
  try {
    await body();
  } finally {
    s.setDefaultDevice(undefined);
  }
}

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);
const dispatchesOf = (found: Profile) => sum(found.kernels.map((kernel) => kernel.count));

/** A training step of a small perceptron. */
function trainingStep(): { step: (x: Tensor, y: Tensor) => Tensor<"f32">; x: Tensor; y: Tensor } {
  random.seed(3);
  const model = nn.sequential(nn.linear(40, 32), nn.relu(), nn.linear(32, 5));
  const optimizer = optim.adam({ learningRate: 1e-3 }).bind(model.parameters());
  const step = (x: Tensor, y: Tensor) => {
    const loss = nn.crossEntropy(model.forward(x), y).mean;
    optimizer.step(grad(loss, model.parameters()));
    return loss;
  };
  return {
    step,
    x: tensor(Float32Array.from({ length: 64 * 40 }, (_, i) => Math.sin(i)), { shape: [64, 40] }),
    y: s.zeros([64], { dtype: "i32" }),
  };
}

onEachDevice("a profile counts the kernels that the device counts", (device) =>
  on(device, async () => {
    const { step, x, y } = trainingStep();
    const compiled = compile(step);
    await (await compiled(x, y)).item();
    await device.sync();
    const before = device.stats();
    const found = await profile(async () => (await compiled(x, y)).item(), { repeat: 20 });
    const after = device.stats();
    assert.equal(found.repeat, 20);
    // One more run comes before the timed ones.
    assert.equal(after.dispatches - before.dispatches, 21 * found.dispatches / 20);
    assert.equal(dispatchesOf(found), found.dispatches);
    assert.equal(found.compiled, 0);
    assert.equal(found.bytesRead, 20 * 4);
    const listed = await explain(step, x, y);
    assert.deepEqual(
      found.kernels.map((kernel) => [kernel.name, kernel.count]).sort(),
      [...new Set(listed.kernels.map(({ name }) => name))].sort().map((name) => [
        name,
        20 * listed.kernels.filter((kernel) => kernel.name === name).length,
      ]),
    );
    assert.ok(found.kernelMilliseconds > 0 && found.milliseconds > 0);
    assert.ok(isClose(sum(found.kernels.map((kernel) => kernel.share)), 1));
    for (const { count, mean, milliseconds, share, gflops, gigabytes } of found.kernels) {
      assert.ok(milliseconds >= 0 && share >= 0 && gflops >= 0 && gigabytes >= 0);
      assert.ok(isClose(mean * count, milliseconds));
    }
    assert.ok(found.kernels[0]!.milliseconds > 0);
    const flops = sum(found.kernels.map((kernel) => kernel.gflops * kernel.milliseconds * 1e6));
    const expected = 20 * sum(listed.kernels.map((kernel) => kernel.flops));
    // Where a clock's step is longer than a kernel, it may have no time, and so no rate.
    if (found.kernels.every((kernel) => kernel.milliseconds > 0)) assert.ok(isClose(flops, expected, { rtol: 1e-6 }));
    assert.match(String(found), new RegExp(`^kernel +count +total ms.*\n${found.kernels[0]!.name} `));
    assert.ok(String(found).includes(device.info.description));
  }));

onEachDevice("every run computes anew, and results are computed", (device) =>
  on(device, async () => {
    const [a, b] = [
      tensor(new Float32Array(16 * 24).fill(0.5), { shape: [16, 24] }),
      tensor(new Float32Array(24 * 8).fill(0.25), { shape: [24, 8] }),
    ];
    const lazy = await profile(() => ({ y: [a.matmul(b)] }), { repeat: 5 });
    assert.equal(lazy.dispatches, 5);
    assert.equal(lazy.kernels.length, 1);
    const first = await a.matmul(b).exp().data();
    const read = await profile(async () => assert.deepEqual(await a.matmul(b).exp().data(), first), {
      repeat: 3,
      warmup: 0,
    });
    assert.equal(read.dispatches, 3);
    assert.equal(read.bytesRead, 3 * 16 * 8 * 4);
    // Outside of a profile, equal nodes are one again, and what is known is not computed.
    const before = device.stats().dispatches;
    const again = a.matmul(b).exp();
    await again.data();
    await again.data();
    assert.ok(device.stats().dispatches - before <= 1);
    const assigned = tensor([1, 2]);
    await profile(() => void assigned.assign(assigned.mul(2)), { repeat: 3 });
    assert.deepEqual([...await assigned.data()], [16, 32]);
  }));

onEachDevice("wall times and timestamps time the same kernels", (device) =>
  on(device, async () => {
    const a = await s.ones([96, 96]).realize();
    const run = (clock: "wall" | "timestamp") => profile(() => a.matmul(a).exp().matmul(a), { repeat: 8, clock });
    const [wall, stamps] = [await run("wall"), await run("timestamp")];
    assert.deepEqual(
      wall.kernels.map(({ name, count }) => [name, count]).sort(),
      stamps.kernels.map(({ name, count }) => [name, count]).sort(),
    );
    assert.ok(wall.kernelMilliseconds > 0 && wall.kernelMilliseconds <= wall.milliseconds * 1.01);
    assert.ok(stamps.kernelMilliseconds > 0);
  }));

onEachDevice("a profile is a Chrome trace", (device) =>
  on(device, async () => {
    const a = await s.ones([32, 32]).realize();
    const found = await profile(() => a.matmul(a), { repeat: 4 });
    const events = JSON.parse(found.chromeTrace()) as {
      name: string;
      ph: string;
      tid: number;
      ts: number;
      dur: number;
      args?: { name: string };
    }[];
    const track = (name: string) => events.find((event) => event.ph === "M" && event.args?.name === name)?.tid;
    const on = (tid: number | undefined) => events.filter((event) => event.ph === "X" && event.tid === tid);
    assert.deepEqual(on(track("runs")).map(({ name }) => name), ["run 1", "run 2", "run 3", "run 4"]);
    const kernels = on(track(`${device.name} kernels`));
    assert.deepEqual(kernels.map(({ name }) => name), Array(4).fill(found.kernels[0]!.name));
    assert.ok(kernels.every(({ ts, dur }, i) => dur >= 0 && (i === 0 || ts >= kernels[i - 1]!.ts)));
    assert.ok(on(track(device.name)).length >= 4);
  }));

onEachDevice("more dispatches than one batch of timestamps holds are all timed", (device) =>
  on(device, async () => {
    const once = inPlace(increment(device.target.language, 4), 16);
    const executable = await device.load({ ...once, steps: Array<PlanStep>(2500).fill(once.steps[0]!) });
    const x = device.alloc(16);
    device.write(x, new Uint32Array(4));
    const found = await profile(() => device.run(executable, [x], [x]), { warmup: 0 });
    assert.deepEqual(found.kernels.map(({ name, count }) => [name, count]), [["increment_4", 2500]]);
    assert.equal(found.dispatches, 2500);
    assert.equal(new Uint32Array(await device.read(x))[3], 2500);
    executable.release();
    device.free(x);
  }));

test("a device that computes nothing takes no time, and bad counts are refused", async () => {
  const device = nullDevice();
  await on(device, async () => {
    const x = tensor([1, 2]);
    const found = await profile(() => x.add(1), { repeat: 2 });
    assert.equal(found.dispatches, 2);
    assert.deepEqual(found.kernels.map(({ count, share, gflops }) => [count, share, gflops]), [[2, 0, 0]]);
  });
  device.close();
  await assert.rejects(profile(() => undefined, { repeat: 0 }), s.ArgumentError);
  await assert.rejects(profile(() => undefined, { warmup: 0.5 }), s.ArgumentError);
  await assert.rejects(profile(() => Promise.reject(new RangeError("own"))), RangeError);
  await assert.rejects(compile(() => profile(() => undefined))(), s.TraceError);
});

/** The line of this file that ends with such a comment. */
const source = readFileSync(new URL(import.meta.url), "utf8").split("\n");
const lineMarked = (mark: string) =>
  `${fileURLToPath(import.meta.url)}:${source.findIndex((line) => line.endsWith(`// ${mark}`)) + 1}`;

onEachDevice("explain names the lines of ops, forward and backward", (device) =>
  on(device, async () => {
    const w = await s.ones([24, 8]).realize();
    const f = (x: Tensor, scale: number) => {
      const h = x.matmul(w); // product
      const loss = h.tanh().mul(scale).sum(); // loss
      const [g] = grad(loss, [w]); // gradient
      w.assign(w.sub(g)); // update
      return { loss };
    };
    const x = s.ones([16, 24]);
    const before = device.stats();
    const found = await explain(f, x, 3);
    assert.equal(device.stats().dispatches, before.dispatches, "nothing runs");
    const ops = found.kernels.flatMap((kernel) => kernel.ops);
    const at = (mark: string, backward: boolean) =>
      ops.filter((op) => op.line === lineMarked(mark) && op.backward === backward).map(({ op }) => op);
    assert.deepEqual(new Set(at("product", false)), new Set(["mul", "sum"]));
    assert.deepEqual(new Set(at("loss", false)), new Set(["tanh", "mul", "sum"]));
    assert.ok(at("loss", true).includes("mul"), "the derivative of tanh");
    assert.deepEqual(new Set(at("product", true)), new Set(["mul", "sum"]));
    assert.deepEqual(at("update", false), ["sub"]);
    assert.deepEqual(ops.filter(({ line }) => line === undefined), []);
    assert.match(String(found), /\n {3}backward of profile\.test\.ts:\d+ +.*mul/);
    const [first] = found.kernels;
    assert.deepEqual(first!.reads.map(({ name, shape }) => [name, shape]), [["argument 0", [16, 24]], ["captured 0", [
      24,
      8,
    ]]]);
    const written = found.kernels.flatMap((kernel) => kernel.writes.map(({ name }) => name));
    assert.ok(written.includes("result.loss") && written.includes("new captured 0"), written.join());
    // The compiled function runs those kernels.
    const compiled = compile(f);
    await (await compiled(x, 3)).loss.item();
    const counted = device.stats();
    await (await compiled(x, 3)).loss.item();
    assert.equal(device.stats().dispatches - counted.dispatches, found.kernels.length);
  }));

onEachDevice("explain counts the kernels of a training step, and changes nothing", (device) =>
  on(device, async () => {
    const { step, x, y } = trainingStep();
    const found = await explain(step, x, y);
    const compiled = compile(step);
    const first = await (await compiled(x, y)).item();
    await device.sync();
    const before = device.stats().dispatches;
    await (await compiled(x, y)).item();
    assert.equal(device.stats().dispatches - before, found.kernels.length);
    assert.ok(first > 0);
    // Layers are the library's: the lines are those of the model's and the optimizer's calls.
    for (const { line } of found.kernels.flatMap((kernel) => kernel.ops)) {
      assert.ok(line?.startsWith(fileURLToPath(import.meta.url)), line);
    }
  }));

test("explain refuses what compile refuses", async () => {
  await assert.rejects(explain((x: Tensor) => x.item(), tensor(1)), s.TraceError);
  await assert.rejects(explain(async (x: Tensor) => await Promise.resolve(x), tensor(1)), s.TraceError);
  await assert.rejects(explain(compile((x: Tensor) => x), tensor(1)), s.TraceError);
  await assert.rejects(
    explain(() => {
      throw new RangeError("own");
    }),
    RangeError,
  );
  const line = (await explain((x: Tensor) => x.exp(), tensor([1, 2]))).kernels[0]!.ops[0]!.line; // after
  assert.equal(line, lineMarked("after"));
});

onEachDevice("a pending argument of a compiled function is computed once", (device) =>
  on(device, async () => {
    const x = tensor([1, 2]).exp().sin();
    const double = compile((y: Tensor) => y.mul(2));
    await (await double(x)).data();
    const before = device.stats().dispatches;
    await (await double(x)).data();
    assert.equal(device.stats().dispatches - before, 1);
  }));

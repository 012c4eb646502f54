/** The cpu device on threads: the same bits for any number of them, and no thread that anybody has to wait for, or to end. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { FunctionCode } from "../src/compiler/wasm/encode.ts";
import { kernelImports, kernelModule } from "../src/compiler/wasm/module.ts";
import { spareBytes } from "../src/compiler/wasm/render.ts";
import { Arena } from "../src/devices/cpu/arena.ts";
import { CpuDevice } from "../src/devices/cpu/cpu.ts";
import { Crew, crewOfProcess } from "../src/devices/cpu/crew.ts";
import type { WasmFunction } from "../src/devices/cpu/crew-member.ts";
import { claimIdentity } from "../src/devices/device/registry.ts";
import { data, devices, nn, optim, random, type Tensor, tensor } from "../src/index.ts";
import { nextTurn } from "../src/host/host.ts";
import { runOf } from "./programs.ts";

const project = fileURLToPath(new URL("..", import.meta.url));
const program = fileURLToPath(new URL("crew-program.ts", import.meta.url));

function cpuDevice(threads: number): CpuDevice {
  const device = new CpuDevice(claimIdentity("cpu"), Infinity, "wasm");
  device.threads = threads;
  return device;
}

/** Computes until threads help: they are started where there is much to do, and take a while to come. */
async function awaitCrew(members: number): Promise<void> {
  const device = cpuDevice(members + 1);
  const a = random.normal([512, 512]).to(device);
  const crew = crewOfProcess();
  const until = performance.now() + 60_000;
  for (const before = crew.helped; crew.size < members || crew.helped === before;) {
    assert.ok(performance.now() < until, `${crew.size} threads help`);
    await a.matmul(a).realize();
    await nextTurn();
  }
  device.close();
}

async function bits(x: Tensor): Promise<string> {
  const data = await x.data();
  return createHash("sha256").update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength)).digest("hex");
}

/** Of odd lengths, so that chunks and vectors have tails, and long enough for threads to help. */
const kinds: Record<string, (x: (...shape: number[]) => Tensor) => Tensor> = {
  "an elementwise kernel": (x) => x(300_007).mul(2).add(1).tanh(),
  "a broadcast over columns": (x) => x(399, 527).add(x(399, 1)).mul(x(527)),
  "few long rows": (x) => x(3, 100_001).add(x(3, 1)),
  "a transposition": (x) => x(525, 523).transpose().add(1),
  "sums of rows": (x) => x(525, 523).sum({ axis: 1 }),
  "sums of columns": (x) => x(525, 523).sum({ axis: 0 }),
  "a sum of everything": (x) => x(500_003).sum(),
  "softmax": (x) => x(325, 323).softmax(),
  "a product": (x) => x(259, 301).matmul(x(301, 257)),
  "a product with a long sum": (x) => x(37, 5001).matmul(x(5001, 41)),
  "a batch of products": (x) => x(5, 130, 70).matmul(x(5, 70, 66)),
  "a product with a vector": (x) => x(2001, 1003).matmul(x(1003, 1)),
  "a convolution": (x) => x(3, 29, 31, 9).conv2d(x(3, 3, 9, 33), { padding: "same" }),
  "f16": (x) => x(300_007).cast("f16").mul(3),
  "bool": (x) => x(300_007).greater(0),
  "a gather": (x) => x(1000, 301).take(x(1400).abs().mul(200).cast("i32"), { axis: 0 }),
  "a sort": (x) => x(301, 700).argsort({ axis: 1 }),
  "attention that is causal": (x) =>
    x(4, 2, 130, 32).scaledDotProductAttention(x(4, 2, 130, 32), x(4, 2, 130, 32), { causal: true }),
  "running sums of rows": (x) => x(301, 900).cumsum({ axis: 1 }),
  "running sums down columns": (x) => x(900, 301).cumsum({ axis: 0 }),
  "running sums of short rows": (x) => x(60_007, 5).cumsum({ axis: 1 }),
};

test("every kind of kernel has the same bits on 1, 2 and 3 threads", async () => {
  await awaitCrew(2);
  const before = crewOfProcess().helped;
  for (const [kind, compute] of Object.entries(kinds)) {
    const results: string[] = [];
    for (const threads of [1, 2, 3]) {
      const device = cpuDevice(threads);
      random.seed(3);
      const result = compute((...shape) => random.normal(shape).to(device));
      results.push(await bits(result));
      device.close();
    }
    assert.equal(results[1], results[0], kind);
    assert.equal(results[2], results[0], kind);
  }
  assert.ok(crewOfProcess().helped > before, "no thread helped");
});

test("training has the same bits on 1 and 3 threads, and what is not finite is found on any", async () => {
  await awaitCrew(2);
  const before = crewOfProcess().helped;
  const train = async (threads: number) => {
    const device = cpuDevice(threads);
    random.seed(5);
    const model = nn.sequential(
      nn.conv2d(1, 8, { kernel: 3, padding: "same" }),
      nn.relu(),
      nn.flatten(),
      nn.linear(8 * 20 * 20, 64),
      nn.relu(),
      nn.linear(64, 10),
    );
    const trainer = nn.trainer(model, {
      loss: (output, batch) => nn.crossEntropy(output, batch.y),
      optimizer: optim.adam({ learningRate: 1e-3 }),
      devices: [device],
      seed: 5,
    });
    const rows = 96;
    const x = Float32Array.from({ length: rows * 400 }, (_, i) => Math.sin(i * i));
    const y = data.array(Int32Array.from({ length: rows }, (_, i) => i % 10), { dtype: "i32" });
    for (let i = 0; i < 4; i++) await trainer.step({ x: data.array(x, { shape: [rows, 20, 20, 1] }), y });
    const found = await Promise.all(model.parameters().map(bits));
    x[12345] = Infinity;
    await assert.rejects(trainer.step({ x: data.array(x, { shape: [rows, 20, 20, 1] }), y }), {
      name: "NonFiniteGradientError",
    });
    await trainer.release();
    device.close();
    return found;
  };
  assert.deepEqual(await train(3), await train(1));
  assert.ok(crewOfProcess().helped > before, "no thread helped");
});

test("a kernel that throws in a thread throws, and the next one runs", async () => {
  // Function 0 counts at the chunk's place, function 1 fails in every chunk but the first.
  const counting = new FunctionCode(5);
  counting.get(0);
  counting.i32(2);
  counting.op("i32.shl");
  counting.get(0);
  counting.memory("i32.store", 8192);
  const failing = [0, 0x20, 0, 0x04, 0x40, 0x00, 0x0b, 0x0b]; // if (begin) unreachable
  const arena = new Arena(spareBytes, true);
  const compiled = new WebAssembly.Module(kernelModule([{ body: counting.body() }, { body: failing }], true));
  const { exports } = new WebAssembly.Instance(compiled, kernelImports(arena.memory));
  const crew = new Crew();
  crew.attach(7, arena.memory);
  crew.grow(1);
  const run = (kernel: number, chunks: number) =>
    crew.run(
      7,
      { id: 1, module: compiled, kernels: 2 },
      kernel,
      exports[`k${kernel}`] as unknown as WasmFunction,
      { chunks, across: 1, outer: chunks, outerStep: 1, inner: 1, innerStep: 1 },
      { limit: 1, scratch: 0, scratchStride: 0, wake: true },
    );
  const until = performance.now() + 60_000;
  while (crew.helped === 0) {
    run(0, 10_000);
    await nextTurn();
    assert.ok(performance.now() < until, "no thread came");
  }
  for (let round = 0; round < 3; round++) {
    assert.throws(() => run(1, 10_000), /unreachable|failed in a thread/);
    new Int32Array(arena.memory.buffer, 8192, 10_000).fill(0);
    run(0, 10_000);
    const places = new Int32Array(arena.memory.buffer, 8192, 10_000);
    assert.ok(places.every((value, i) => value === i), "a chunk was left out");
  }
  crew.detach(7);
});

test("devices share one crew, each within its own number of threads", async () => {
  await awaitCrew(2);
  const crew = crewOfProcess();
  const alone = cpuDevice(1);
  const numbers = await random.normal([512, 512]).data();
  const a = tensor(numbers, { shape: [512, 512], device: alone });
  const before = crew.helped;
  for (let i = 0; i < 10; i++) await a.matmul(a).realize();
  assert.equal(crew.helped, before, "a device with one thread was helped");
  const pair = [cpuDevice(3), cpuDevice(3)];
  const own = pair.map((device) => tensor(numbers, { shape: [512, 512], device }));
  const products = await Promise.all(own.flatMap((x) => Array.from({ length: 5 }, () => bits(x.matmul(x)))));
  assert.equal(new Set(products).size, 1);
  assert.equal(products[0], await bits(a.matmul(a)));
  for (const device of [alone, ...pair]) device.close();
});

test("threads are an option of devices, on those that are open, too", async () => {
  for (const threads of [0, -1, 1.5, 257, NaN]) {
    await assert.rejects(devices({ kind: "cpu", threads }), { name: "ArgumentError", message: /threads/ });
  }
  const [device] = await devices({ kind: "cpu", threads: 3 }) as CpuDevice[];
  assert.equal(device!.threads, 3);
  assert.equal(device!.info.description, "WebAssembly on 3 threads of the CPU");
  await devices({ kind: "cpu" });
  assert.equal(device!.threads, 3);
  await devices({ kind: "cpu", threads: 2 });
  assert.equal(device!.threads, 2);
});

for (const how of ["open", "busy", "closed"]) {
  test(`a process whose cpu device has threads ends by itself, left ${how}`, () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [...runOf(program), how, "3"], {
      cwd: project,
      encoding: "utf8",
      timeout: 60_000,
    });
    assert.equal(status, 0, stdout + stderr);
    assert.match(stdout, /^threads 2, helped true$/m);
  });
}

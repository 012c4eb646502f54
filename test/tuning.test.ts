/** Tuning: what is measured and picked, tables on disk, and that what was tuned is used, by all devices alike, and right. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { oursPrograms } from "../bench/peers/ours-programs.ts";
import { type Engine, prepare } from "../bench/peers/peer.ts";
import { workloads } from "../bench/workloads/index.ts";
import { planOf, plansKept } from "../src/compiler/cache.ts";
import { compileGraph, type CompileRequest } from "../src/compiler/compile.ts";
import {
  type ContractionSchedule,
  defaults,
  gemv,
  isSchedule,
  keepsLimits,
  registerTile,
  workgroupTile,
} from "../src/compiler/plan/contraction-schedules.ts";
import type { Plan, Target } from "../src/compiler/plan/plan.ts";
import { addTuned, emptyTable, readTuned } from "../src/compiler/tuned.ts";
import { candidatesFor, contractionsOf, type Measured, tuneContraction } from "../src/compiler/tuning.ts";
import { type Flags, readFlags, setFlags } from "../src/debug/flags.ts";
import { nullDevice } from "../src/devices/cpu/null.ts";
import type { Device } from "../src/devices/device/device.ts";
import { forgetTuned, learn, withTuned } from "../src/devices/device/tuned.ts";
import { tuningKeyOf } from "../src/devices/gpu/measure.ts";
import { input } from "../src/graph/build.ts";
import { grad, nn, setDefaultDevice, type Tensor, tensor, TraceError, tune } from "../src/index.ts";
import { SharedGraph } from "../src/parallel/run/shared-graph.ts";
import { requestOf, tuneOn } from "../src/tensor/inspect/tune.ts";
import { matmul } from "../src/tensor/ops/contract.ts";
import { evaluate } from "./evaluate.ts";
import { testDevice, virtualDevices } from "./harness.ts";
import { runOf } from "./programs.ts";
import { discreteTarget } from "./targets.ts";

const gpu: Target = { ...discreteTarget, maxBindingBytes: 2 ** 30 };

function product(m: number, k: number, n: number): CompileRequest {
  const [a, b] = [input([m, k], "f32"), input([k, n], "f32")];
  return { roots: [matmul(a, b)], inputs: [a, b] };
}

/** A folder for tables, while `body` runs with it. */
async function withFolder(body: (folder: string) => Promise<void>, flags: Partial<Flags> = {}): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "shardwise-tuned-"));
  setFlags({ ...readFlags(() => undefined), cache: folder, ...flags });
  forgetTuned();
  try {
    await body(folder);
  } finally {
    await plansKept();
    setFlags(undefined);
    forgetTuned();
    await rm(folder, { recursive: true, force: true });
  }
}

const tables = async (folder: string) => (await readdir(folder)).filter((name) => name.endsWith(".tuned"));

/** Measures nothing: repetition i of the plan that came as number j takes `times(j, i)` milliseconds. */
function scripted(times: (plan: number, repetition: number) => number) {
  const log: number[] = [];
  let plans = 0;
  let open = 0;
  const measure = (_plan: Plan): Promise<Measured> => {
    const own = plans++;
    let repetition = 0;
    open++;
    return Promise.resolve({
      run: () => {
        log.push(own);
        const time = times(own, repetition++);
        return Number.isNaN(time) ? Promise.reject(new Error("no such luck")) : Promise.resolve(time);
      },
      release: () => void open--,
    });
  };
  return { measure, log, isOpen: () => open > 0 };
}

test("each candidate runs once; those within 1.5 times of the fastest five times more, in turns; the least time counts", async () => {
  const [one] = contractionsOf(product(512, 512, 512));
  const first = [10, 4, 5, 12, 7, 8, 6.1, 9, 20, 30, 40, 50];
  const { measure, log, isOpen } = scripted((plan, repetition) =>
    plan === 2 && repetition === 3 ? 3 : first[plan] ?? 60
  );
  const { candidates, pick } = await tuneContraction(one!, gpu, measure, 0);
  assert.ok(candidates.length >= 8 && candidates.length <= 12, `${candidates.length} candidates`);
  assert.equal(pick, candidates[2]!.schedule);
  assert.deepEqual(candidates.map(({ repetitions }) => repetitions), candidates.map((_, i) => first[i]! <= 6 ? 6 : 1));
  const again = log.slice(candidates.length);
  assert.deepEqual(again, Array.from({ length: 5 }, () => [1, 2]).flat());
  assert.equal(candidates[2]!.milliseconds, 3);
  assert.ok(Math.abs(candidates[2]!.gflops - 2 * 512 ** 3 / 3e6) < 1e-6);
  assert.equal(isOpen(), false, "everything is given back");
});

test("the search ends at 85 % of the best rate that the adapter was seen to reach", async () => {
  const [one] = contractionsOf(product(512, 512, 512));
  const gflops = (milliseconds: number) => one!.flops / milliseconds / 1e6;
  const { measure } = scripted((plan) => [10, 5, 3, 1][plan] ?? 1);
  const { candidates } = await tuneContraction(one!, gpu, measure, gflops(2.6));
  assert.equal(candidates.length, 3);
});

test("a candidate that fails is said to; if all fail, so does the tuning", async () => {
  const [one] = contractionsOf(product(512, 512, 512));
  const { candidates, pick } = await tuneContraction(
    one!,
    gpu,
    scripted((plan) => plan === 0 ? NaN : 5 + plan).measure,
    0,
  );
  assert.equal(candidates[0]!.error, "no such luck");
  assert.equal(pick, candidates[1]!.schedule);
  const { measure, isOpen } = scripted(() => NaN);
  await assert.rejects(tuneContraction(one!, gpu, measure, 0), /no such luck/);
  assert.equal(isOpen(), false);
});

test("candidates keep the limits of the device and begin with the default, for products of any size", () => {
  const length = fc.oneof(fc.integer({ min: 2, max: 40 }), fc.integer({ min: 2, max: 5000 }));
  fc.assert(
    fc.property(
      length,
      length,
      length,
      fc.constantFrom(64, 256),
      fc.constantFrom("discrete" as const, "integrated" as const),
      (m, k, n, most, of) => {
        const target: Target = { ...gpu, class: of, maxInvocationsPerWorkgroup: most };
        const request = product(m, k, n);
        for (const { problem, signature } of contractionsOf(request)) {
          const chosen: ContractionSchedule[] = [];
          compileGraph(
            request,
            target,
            ({ steps }) => steps.forEach(({ contraction }) => contraction && chosen.push(contraction.schedule)),
          );
          const all = candidatesFor(problem, target, chosen[0]!);
          assert.deepEqual(all[0], chosen[0]);
          assert.ok(all.length >= 2 && all.length <= 12, `${signature}: ${all.length}`);
          for (const schedule of all) {
            assert.ok(keepsLimits(schedule, target) && isSchedule(schedule));
            // Whatever is asked for compiles, with workgroups and their memory as every device has them.
            for (const { source } of compileGraph(request, { ...target, tuned: { [signature]: schedule } }).programs) {
              const floats = [...source.matchAll(/var<workgroup> \w+: array<(f32|vec4<f32>), (\d+)>/g)].map((
                [, type, length],
              ) => Number(length) * (type === "f32" ? 1 : 4));
              assert.ok(4 * floats.reduce((a, b) => a + b, 0) <= 16384, `${signature}: ${JSON.stringify(schedule)}`);
              assert.ok(Number(/@workgroup_size\((\d+)\)/.exec(source)![1]) <= most);
            }
          }
        }
      },
    ),
    { numRuns: 30 },
  );
});

test("the default schedules of GPUs keep the limits that every device has, and have the form of schedules", () => {
  for (const name of ["discrete", "integrated"] as const) {
    for (const { schedule } of defaults[name]) {
      assert.ok(keepsLimits(schedule, { ...gpu, subgroupSize: 0 }) && isSchedule(schedule));
    }
  }
  // Workgroup memory to the last byte, and the next power of two; more invocations; blocks that are not brought evenly.
  const some: readonly (readonly [ContractionSchedule, boolean])[] = [
    [gemv([16, 8], 4, 1), true],
    [gemv([16, 8], 8, 1), false],
    [gemv([32, 16], 1, 1), false],
    [gemv([12, 8], 1, 1), false],
    [workgroupTile([16, 16], [8, 8], 16), true],
    [workgroupTile([16, 16], [8, 8], 32), false],
    [workgroupTile([32, 16], [4, 4], 8), false],
    [workgroupTile([16, 16], [16, 8], 8), false],
    [workgroupTile([8, 8], [3, 3], 8), false],
  ];
  for (const [schedule, fits] of some) {
    assert.equal(keepsLimits(schedule, { ...gpu, subgroupSize: 0 }), fits, JSON.stringify(schedule));
  }
  const others = [null, 7, {}, { ...registerTile(4), kind: "best" }, { ...registerTile(4), parts: 0 }, {
    ...workgroupTile([8, 8], [4, 4], 8),
    width: 3,
  }];
  for (const value of others) assert.equal(isSchedule(value), false);
});

test("tables are kept by adapter, added to, and made again when they are damaged", () =>
  withFolder(async (folder) => {
    const [a, b] = [workgroupTile([8, 8], [4, 4], 8), registerTile(4)];
    assert.deepEqual(readTuned("one"), emptyTable);
    await addTuned("one", { schedules: { a }, best: 7 });
    await addTuned("one", { schedules: { b }, best: 3 });
    assert.deepEqual(readTuned("one"), { schedules: { a, b }, best: 7 });
    assert.deepEqual(readTuned("another"), emptyTable, "an adapter with another driver has none");
    const [name, ...others] = await tables(folder);
    assert.deepEqual(others, []);
    const path = join(folder, name!);
    const text = await readFile(path, "utf8");
    const signed = (body: string) => `${createHash("sha256").update(body).digest("hex")}\n${body}`;
    for (const damaged of [text.slice(0, -1), text.replace("8", "9"), "", "{}\n{}"]) {
      await writeFile(path, damaged);
      assert.deepEqual(readTuned("one"), emptyTable);
      await addTuned("one", { schedules: { b }, best: 1 });
      assert.deepEqual(readTuned("one"), { schedules: { b }, best: 1 });
    }
    // Of a file that is whole, but not by this library, only what can be used.
    await writeFile(path, signed(JSON.stringify({ schedules: { a: { kind: "gemv" }, b }, best: "high" })));
    assert.deepEqual(readTuned("one"), { schedules: { b }, best: 0 });
    await writeFile(path, signed("null"));
    assert.deepEqual(readTuned("one"), emptyTable);
  }));

test("where no table can be kept, what was tuned is known to this process", () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, "file"), "");
    setFlags({ ...readFlags(() => undefined), cache: join(folder, "file/below") });
    const a = registerTile(4);
    assert.deepEqual(await addTuned("one", { schedules: { a }, best: 7 }), { schedules: { a }, best: 7 });
  }));

test("a table is whole at any time, while several processes write it", () =>
  withFolder(async (folder) => {
    const writers = ["a", "b"].map((name) => added(folder, name));
    let done = false;
    let seen = 0;
    const reading = (async () => {
      while (!done) {
        const { schedules } = readTuned("shared");
        const count = Object.keys(schedules).length;
        assert.ok(seen === 0 || count > 0, "it is never gone");
        seen = Math.max(seen, count);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    })();
    try {
      assert.deepEqual(await Promise.all(writers), [0, 0]);
    } finally {
      done = true;
      await reading;
    }
    const { schedules } = readTuned("shared");
    // Who writes last has read what was there before: of one process all entries are there.
    assert.ok(
      ["a", "b"].some((name) => Array.from({ length: 20 }, (_, i) => `${name}${i}`).every((key) => key in schedules)),
    );
    assert.deepEqual((await readdir(folder)).length, 1, "no partial file stays");
  }));

/** Runs a process that adds entries to a table; resolves with its exit code. */
function added(folder: string, name: string): Promise<number | null> {
  const program = fileURLToPath(new URL("tuned-program.ts", import.meta.url));
  const child = spawn(process.execPath, [...runOf(program), name], {
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, SHARDWISE_CACHE: folder },
  });
  return new Promise((resolve, reject) => child.on("error", reject).on("exit", resolve));
}

test("nothing is read from a folder that is not to be used, and what is tuned holds in the process", async () => {
  await withFolder(async (folder) => {
    setFlags({ ...readFlags(() => undefined), cache: false });
    await learn("elsewhere", { schedules: { a: registerTile(4) }, best: 1 });
    assert.deepEqual(withTuned(gpu, "elsewhere").tuned, { a: registerTile(4) });
    assert.deepEqual(await tables(folder), []);
  });
});

test("targets have their adapter's table, all the same object; software adapters, and with NOTUNE all, have none", () =>
  withFolder(async (folder) => {
    const tuned = { a: registerTile(4) };
    await learn("some gpu", { schedules: tuned, best: 1 });
    assert.deepEqual(withTuned(gpu, "some gpu").tuned, tuned);
    assert.equal(withTuned(gpu, "some gpu"), withTuned(gpu, "some gpu"));
    assert.equal(withTuned(gpu, "some other gpu"), gpu);
    assert.equal(withTuned({ ...gpu, class: "software" }, "some gpu").tuned, undefined);
    setFlags({ ...readFlags(() => undefined), cache: folder, noTune: true });
    assert.equal(withTuned(gpu, "some gpu").tuned, undefined);
  }));

test("a tuned schedule goes before the default one, for all lengths of its bucket, and into the key of plans on disk", () =>
  withFolder(async (folder) => {
    const request = product(500, 60, 500);
    const { signature } = contractionsOf(request)[0]!;
    assert.equal(signature, "f32 1x512x512x64 rows k columns own");
    assert.equal(contractionsOf(product(400, 33, 512))[0]!.signature, signature);
    const tuned = { [signature]: registerTile(8) };
    const source = (target: Target) => compileGraph(request, target).programs[0]!.source;
    assert.match(source(gpu), /workgroupBarrier/);
    assert.doesNotMatch(source({ ...gpu, tuned }), /workgroupBarrier/);
    // Beyond what a device can do, the default is used.
    const large = { [signature]: workgroupTile([32, 32], [4, 4], 8) };
    assert.equal(source({ ...gpu, tuned: large }), source(gpu));
    // Graphs of some size are kept on disk.
    let x = request.roots[0]!;
    for (let i = 0; i < 8; i++) x = matmul(x, input([500, 500], "f32"));
    const inputs: CompileRequest["inputs"][0][] = [];
    const visit = (node: typeof x): void => {
      if (node.op === "input" && !inputs.includes(node)) inputs.push(node);
      node.src.forEach(visit);
    };
    visit(x);
    const chain = { roots: [x], inputs };
    for (const target of [gpu, { ...gpu, tuned }, { ...gpu, tuned: large }]) {
      assert.deepEqual(planOf(chain, target), compileGraph(chain, target));
    }
    await plansKept();
    assert.equal((await readdir(folder)).filter((name) => name.endsWith(".plan")).length, 3);
  }));

test("a split sum is computed by the schedule that was measured with it", async () => {
  const [one] = contractionsOf(product(64, 4096, 64));
  const { candidates, entries, pick } = await tuneContraction(
    one!,
    gpu,
    scripted((plan) => plan === 3 ? 1 : 2).measure,
    0,
  );
  assert.ok(pick.parts > 1);
  assert.equal(Object.keys(entries).length, 2);
  const chosen: ContractionSchedule[] = [];
  const plan = compileGraph(
    one!.request,
    { ...gpu, tuned: entries },
    ({ steps }) => steps.forEach(({ contraction }) => contraction && chosen.push(contraction.schedule)),
  );
  assert.equal(plan.steps.length, 2, "parts, and their sum");
  assert.deepEqual(chosen, [{ ...candidates[3]!.schedule, parts: 1 }]);
});

test("tuning on an adapter measures, keeps and reports; it is right, known the next time, and the same for all devices", async (t) => {
  const device = await testDevice("gpu");
  if (device === undefined) return t.skip("no adapter");
  await withFolder(async (folder) => {
    const requests = [product(20, 48, 24), product(3, 64, 32)];
    const tuning = await tuneOn(device, requests, { class: "integrated" });
    assert.equal(tuning.refusal, undefined);
    assert.equal(tuning.contractions.length, 2);
    for (const { candidates, pick } of tuning.contractions) {
      assert.ok(candidates.length >= 2);
      const least = Math.min(...candidates.map(({ milliseconds }) => milliseconds));
      assert.equal(candidates[pick!]!.milliseconds, least);
      assert.ok(least > 0 && least < 1000);
    }
    assert.match(String(tuning), /^\* .* GFLOP\/s$/m);
    assert.equal((await tables(folder)).length, 1);
    const again = await tuneOn(device, requests, { class: "integrated" });
    assert.deepEqual(again.contractions.map(({ pick }) => pick), [undefined, undefined]);
    // From disk, as another process would have it.
    forgetTuned();
    const key = tuningKeyOf(device, "integrated");
    const target = withTuned({ ...device.target, class: "integrated" }, key);
    assert.ok(Object.keys(target.tuned!).length >= 2);
    for (const request of requests) {
      const data = request.inputs.map(({ shape }, i) =>
        Array.from({ length: shape[0]! * shape[1]! }, (_, j) => ((j * 7 + i) % 7) - 3)
      );
      const [tunedResult] = await evaluate(device, request, data, target);
      const [plain] = await evaluate(device, request, data);
      assert.deepEqual(tunedResult, plain, "whole numbers, of which sums are exact in any order");
    }
  });
});

test("tune leaves software adapters and the cpu device as they are, and traces like compile", async (t) => {
  await withFolder(async (folder) => {
    const step = (x: Tensor) => x.matmul(x.transpose());
    for (const kind of ["cpu", "gpu"] as const) {
      const device = await testDevice(kind);
      if (device === undefined) return t.skip("no adapter");
      if (device.target.class !== "software" && device.target.class !== "js") continue;
      const x = tensor([[1, 2], [3, 4]], { device });
      const { contractions, refusal } = await tune(step, x);
      assert.deepEqual(contractions, []);
      assert.match(refusal!, /not tuned/);
      await assert.rejects(tune((y: Tensor) => y.array(), x), TraceError);
    }
    assert.deepEqual(await tables(folder), []);
  });
});

test("a function's contractions are tuned forward and backward, once for each signature", async () => {
  await withFolder(async () => {
    const device = nullDevice({ target: gpu });
    const x = tensor(new Float32Array(64 * 96), { shape: [64, 96], device });
    const w = tensor(new Float32Array(96 * 48), { shape: [96, 48], device });
    const { contractions, refusal } = await tune(
      (a: Tensor, b: Tensor) => [a.matmul(b), b.transpose().matmul(a.transpose()), a.matmul(b).relu()],
      x,
      w,
    );
    assert.equal(refusal, undefined);
    assert.equal(contractions.length, 2);
    // 64x96 by 96x48, relu, by 48x10: two products, of the second both gradients, of the first that by its weights.
    const last = tensor(new Float32Array(480), { shape: [48, 10], device });
    const gradients = await tune(
      (a: Tensor, b: Tensor, c: Tensor) => grad(a.matmul(b).relu().matmul(c).square().sum(), [b, c]),
      x,
      w,
      last,
    );
    const lengths = gradients.contractions.map(({ signature }) => signature.split(" ")[1]);
    assert.deepEqual(lengths.sort(), ["1x128x64x64", "1x64x16x64", "1x64x16x64", "1x64x64x128", "1x64x64x16"]);
    setFlags({ ...readFlags(() => undefined), noTune: true });
    assert.match((await tune((a: Tensor, b: Tensor) => a.matmul(b), x, w)).refusal!, /NOTUNE/);
    device.close();
  });
});

test("what is tuned for a function is what its plan uses, in dense layers, convolutions and attention, forward and backward", async () => {
  const device = nullDevice({ target: gpu });
  setDefaultDevice(device);
  try {
    const of = (...shape: number[]) =>
      tensor(new Float32Array(shape.reduce((product, n) => product * n, 1)), { shape, device });
    const attention = nn.multiHeadAttention(32, 4);
    const functions: Readonly<Record<string, [(...args: Tensor[]) => unknown, ...Tensor[]]>> = {
      dense: [
        (x, w, v) => grad(x!.matmul(w!).relu().matmul(v!).square().mean(), [w!, v!]),
        of(128, 784),
        of(784, 64),
        of(64, 10),
      ],
      conv: [
        (x, w, v) =>
          grad(
            x!.conv2d(w!, { padding: "same" }).relu().maxPool2d({ size: 2 }).conv2d(v!, { stride: 2 }).square().mean(),
            [x!, w!, v!],
          ),
        ...[of(8, 14, 14, 3), of(3, 3, 3, 32), of(3, 3, 32, 40)],
      ],
      attention: [(x) => grad(attention.forward(x!).square().mean(), [x!, ...attention.parameters()]), of(2, 24, 32)],
    };
    for (const [name, [fn, ...args]] of Object.entries(functions)) {
      const { request } = await requestOf(fn, args);
      const tuned = Object.fromEntries(contractionsOf(request).map(({ signature }) => [signature, registerTile(4)]));
      let count = 0;
      compileGraph(request, { ...gpu, tuned }, ({ steps }) => {
        for (const { contraction } of steps) {
          if (contraction === undefined) continue;
          count++;
          assert.equal(contraction.schedule.kind, "registerTile", `${name}: ${contraction.signature}`);
        }
      });
      assert.ok(count >= 4, `${name}: ${count} contractions`);
    }
  } finally {
    setDefaultDevice(undefined);
    device.close();
  }
});

test("devices on one adapter have one target", async (t) => {
  const pair = await virtualDevices("gpu", 2);
  if (pair === undefined) return t.skip("no adapter");
  assert.deepEqual(pair[0]!.target, pair[1]!.target);
  assert.equal(tuningKeyOf(pair[0]!), tuningKeyOf(pair[1]!));
});

test("what is tuned while devices run a plan does not change it for those that come later", async () => {
  const request = product(500, 60, 500);
  const tuned = { [contractionsOf(request)[0]!.signature]: registerTile(8) };
  const [before, after] = [nullDevice({ target: gpu }), nullDevice({ target: { ...gpu, tuned } })];
  const plan = new SharedGraph(request, []);
  const [first, second] = [await plan.on(before), await plan.on(after)];
  assert.equal(second.executable.plan, first.executable.plan);
  const later = await new SharedGraph(request, []).on(after);
  assert.notDeepEqual(later.executable.plan, first.executable.plan);
  before.close();
  after.close();
});

test("every contraction of the bench's networks goes through workgroup memory on a GPU", async () => {
  const names = ["MLP step 784-64-10 SGD", "CNN step", "GPT block", "conv 3x3 32->64 gradients", "matmul 128x64x10"];
  for (const gpuClass of ["discrete", "integrated"] as const) {
    const device = nullDevice({ target: { ...gpu, class: gpuClass } });
    const { load } = device;
    let contractions = 0;
    device.load = (plan, items) => {
      for (const { name, source } of plan.programs) {
        if (!name.startsWith("contract")) continue;
        contractions++;
        assert.match(source, /workgroupBarrier/, name);
      }
      return load.call(device, plan, items);
    };
    for (const name of names) {
      const before = contractions;
      await firstStep(name, device);
      assert.ok(contractions > before, name);
    }
    device.close();
  }
});

/** Runs the first repetition of a workload of the bench. */
async function firstStep(name: string, device: Device): Promise<void> {
  const engine: Engine<Tensor> = {
    programs: oursPrograms,
    upload: ({ data, shape }) => tensor(data, { shape, device }),
    finish: () => device.sync(),
    read: (x) => x.data(),
    dispose: (x) => x.dispose(),
  };
  const prepared = await prepare(engine, workloads.find((entry) => entry.name === name)!.make());
  await prepared.run(0);
  prepared.dispose();
}

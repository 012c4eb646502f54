/** The flag VALIDATE: kernels of WebGPU, and of WebAssembly, against the same kernels in JavaScript. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gradients } from "../src/autograd/grad.ts";
import { compileGraph } from "../src/compiler/compile.ts";
import type { Plan, Program } from "../src/compiler/plan/plan.ts";
import { readFlags, setFlags } from "../src/debug/flags.ts";
import { CpuDevice } from "../src/devices/cpu/cpu.ts";
import type { Device } from "../src/devices/device/device.ts";
import { claimIdentity } from "../src/devices/device/registry.ts";
import { devices } from "../src/devices/discovery.ts";
import { InternalError } from "../src/errors.ts";
import * as g from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import type { Node } from "../src/graph/node.ts";
import { matmul } from "../src/tensor/ops/contract.ts";
import { softmax } from "../src/tensor/ops/reduce.ts";
import { assertClose, testDevice, testKinds } from "./harness.ts";
import { runOf } from "./programs.ts";
import { affine, chain, increment, inPlace } from "./tiny-plans.ts";

const count = 100;
const e = g.elementwise;

/** A program with the JavaScript of another one as its reference. */
function withReference(program: Program, { source, invocations }: Program): Program {
  return { ...program, reference: { source, invocations, roundsToHalf: false } };
}

const twice = withReference(affine("wgsl", count, 2, 1), affine("js", count, 2, 1));
const thrice = withReference(affine("wgsl", count, 3, 1), affine("js", count, 2, 1));
const counter = withReference(increment("wgsl", 4), increment("js", 4));

/** A kernel of one binding that stores one value, and its reference. */
function store(dtype: "f32" | "u32", wgsl: string, js: string): Plan {
  return inPlace({
    key: `store ${dtype} ${wgsl}`,
    name: "store_one",
    language: "wgsl",
    source: `@group(0) @binding(0) var<storage, read_write> x: array<${dtype}>;
@compute @workgroup_size(1) fn main() { ${wgsl} }`,
    reference: { source: `const [x] = buffers; ${js}`, invocations: 1, roundsToHalf: false },
    bindings: [{ access: "readWrite", dtype }],
    workgroups: [1, 1, 1],
    invocations: 1,
    flops: 0,
    bytes: 4,
  }, 16);
}

/** A test with a gpu device that is opened with the flag on or off. */
function withFlag(validate: boolean, name: string, body: (device: Device) => Promise<void>): void {
  test(name, async (context) => {
    if (!testKinds.includes("gpu")) return context.skip("not on the gpu device");
    const before = await testDevice("gpu");
    if (before === undefined) return context.skip("no adapter");
    before.close(); // A device is opened once, and has looked at the flag then.
    setFlags({ ...readFlags(() => undefined), validate });
    try {
      const [device] = await devices({ kind: "gpu", virtual: 1 });
      assert.ok(device !== undefined);
      try {
        await body(device);
      } finally {
        device.close();
      }
    } finally {
      setFlags(undefined);
    }
  });
}

const validating = (name: string, body: (device: Device) => Promise<void>): void => withFlag(true, name, body);

/** Runs a plan of one input and one output over 0, 1, 2, …; returns the output's buffer. */
async function start(device: Device, plan: Plan) {
  const executable = await device.load(plan);
  const x = device.alloc(4 * count);
  const y = plan.inputs[0] === plan.outputs[0] ? x : device.alloc(4 * count);
  device.write(x, Float32Array.from({ length: count }, (_, index) => index));
  device.run(executable, [x], [y]);
  return y;
}

validating("right kernels pass, through temporaries, copies and in place", async (device) => {
  const y = await start(device, chain([twice, twice, twice], count));
  assert.equal(new Float32Array(await device.read(y))[3], 31);
  const x = device.alloc(16);
  const plan: Plan = {
    programs: [counter],
    steps: [
      { kind: "dispatch", program: 0, slots: [0] },
      { kind: "copy", from: 0, to: 1, bytes: 16 },
      { kind: "dispatch", program: 0, slots: [1] },
      { kind: "copy", from: 1, to: 0, bytes: 16 },
      { kind: "dispatch", program: 0, slots: [0] },
    ],
    slots: [{ bytes: 16 }, { bytes: 16 }],
    inputs: [0],
    outputs: [0],
    temporaries: [1],
  };
  const executable = await device.load(plan);
  device.write(x, Uint32Array.of(0, 1, 2, 2 ** 32 - 1));
  device.run(executable, [x], [x]);
  device.run(executable, [x], [x]);
  assert.deepEqual([...new Uint32Array(await device.read(x))], [6, 7, 8, 5]);
  await device.sync();
});

validating("a wrong kernel is named at the next read or sync, once, with its first wrong element", async (device) => {
  const wrong = chain([twice, thrice, twice], count);
  for (const wait of ["read", "sync"] as const) {
    const y = await start(device, wrong);
    await assert.rejects(wait === "read" ? device.read(y) : device.sync(), (error: unknown) => {
      assert.ok(error instanceof InternalError);
      // After the first kernel element 0 is 1: it becomes 3 + 1 by the kernel and 2 + 1 by its reference.
      assert.match(error.got, /^4 in element 0 of binding 1 \(f32\) after kernel affine_100_3_1 on gpu/);
      assert.match(error.got, /; 100 elements differ$/);
      assert.match(error.need, /^3, which/);
      return true;
    });
    assert.equal(new Float32Array(await device.read(y))[0], 9);
  }
});

validating("of several wrong runs the first is told", async (device) => {
  const executables = await Promise.all(
    ["x[1] = 5u;", "x[2] = 5u;"].map((wgsl) => device.load(store("u32", wgsl, ""))),
  );
  const x = device.alloc(16);
  for (const executable of executables) device.run(executable, [x], [x]);
  await assert.rejects(device.sync(), /got 5 in element 1 of/);
  await device.sync();
});

const nan = "let zero = x[3]; x[0] = bitcast<f32>(0x7fc00000u | u32(zero));";
const infinity = "let zero = x[3]; x[0] = bitcast<f32>(0x7f800000u | u32(zero));";
for (
  const [what, dtype, wgsl, js, passes] of [
    ["a small difference of f32", "f32", "x[0] = 1000.05;", "x[0] = 1000;", true],
    ["a large difference of f32", "f32", "x[0] = 1000.2;", "x[0] = 1000;", false],
    ["a difference near 0", "f32", "x[0] = 2e-5;", "x[0] = 0;", false],
    ["NaN for NaN", "f32", nan, "x[0] = NaN;", true],
    ["NaN for a number", "f32", nan, "x[0] = 1;", false],
    ["a number for NaN", "f32", "x[0] = 1.0;", "x[0] = NaN;", false],
    ["infinity for infinity", "f32", infinity, "x[0] = Infinity;", true],
    ["infinity for its opposite", "f32", infinity, "x[0] = -Infinity;", false],
    ["a number for infinity", "f32", "x[0] = 1.0;", "x[0] = Infinity;", false],
    ["the largest u32", "u32", "x[0] = 4294967295u;", "x[0] = 4294967295;", true],
    ["its neighbor", "u32", "x[0] = 4294967295u;", "x[0] = 4294967294;", false],
    ["a store beyond what the plan uses", "u32", "x[4] = 1u;", "", false],
    ["a reference that throws", "u32", "x[0] = 1u;", "not.there();", false],
    ["a reference that does not compile", "u32", "x[0] = 1u;", "let = = not_there;", false],
  ] as const
) {
  validating(`${what} ${passes ? "passes" : "is found"}`, async (device) => {
    const executable = await device.load(store(dtype, wgsl, js));
    const x = device.alloc(16);
    device.write(x, new Uint32Array(4));
    device.run(executable, [x], [x]);
    if (passes) await device.sync();
    else await assert.rejects(device.sync(), InternalError);
  });
}

/** Runs a graph of f32 on the device and compares with the interpreter. */
async function passes(device: Device, roots: readonly Node[], inputs: readonly Node[]): Promise<Plan> {
  const data = inputs.map((node, i) =>
    Float32Array.from({ length: g.byteLength(node) / 4 }, (_, index) => Math.sin(12.9898 * index + i))
  );
  // Kernels of subgroups have no reference, and which products get them depends on the number of lanes.
  const plan = compileGraph({ roots, inputs }, { ...device.target, subgroupSize: 0 });
  const executable = await device.load(plan);
  const buffers = data.map((values) => device.alloc(values.byteLength));
  data.forEach((values, i) => device.write(buffers[i]!, values));
  const outputs = roots.map((root) => device.alloc(g.byteLength(root)));
  device.run(executable, buffers, outputs);
  const need = interpret(roots, new Map(inputs.map((node, i) => [node, data[i]!])));
  for (const [i, root] of roots.entries()) {
    const bytes = await device.read(outputs[i]!, 0, g.byteLength(root));
    assertClose(root.dtype === "f32" ? new Float32Array(bytes) : new Int32Array(bytes), need[i]!, {
      atol: 1e-5,
      rtol: 1e-4,
    });
  }
  return plan;
}

validating("compiled graphs pass", async (device) => {
  const [m, k, n] = [33, 20, 17];
  const a = g.input([m, k], "f32");
  const b = g.input([k, n], "f32");
  const left = g.expand(g.reshape(a, [m, k, 1]), [m, k, n]);
  const right = g.expand(g.reshape(b, [1, k, n]), [m, k, n]);
  const product = g.reduce("sum", e("mul", left, right), [1]);
  const loss = g.reduce("sum", e("tanh", product), [0, 1]);
  const plan = await passes(device, [product, loss, ...gradients([loss], [a, b])], [a, b]);
  assert.ok(plan.programs.length >= 3);
  assert.ok(plan.programs.every(({ reference }) => reference !== undefined));
  const more = g.input([m, k], "f32");
  const updated = e("add", e("mul", a, g.full([m, k], 0.9, "f32")), more);
  await passes(device, [updated, e("lt", a, more)].map((root) => root.dtype === "bool" ? g.cast(root, "i32") : root), [
    a,
    more,
  ]);
  const half = g.cast(product, "f16");
  const stored = await passes(device, [g.cast(g.contiguous(half), "f32"), g.cast(half, "f32")], [a, b]);
  assert.ok(stored.programs.some(({ reference }) => reference!.roundsToHalf));
  assert.ok(stored.programs.some(({ reference }) => !reference!.roundsToHalf));
});

validating("a program without a reference is passed over", async (device) => {
  const x = g.input([5, 9], "f32");
  const plan = await passes(device, [g.argsort(e("mul", x, x))], [x]);
  assert.ok(plan.programs.some(({ reference }) => reference === undefined));
});

validating("a device may be closed before its kernels are compared", async (device) => {
  const y = await start(device, chain([twice, thrice], count));
  const reading = device.read(y);
  device.close();
  await assert.rejects(reading);
});

withFlag(false, "without the flag nothing is copied, and nothing is found", async (device) => {
  const executable = await device.load(chain([twice, thrice], count));
  const [x, y] = [device.alloc(4 * count), device.alloc(4 * count)];
  device.write(x, new Float32Array(count).fill(1));
  const before = device.stats();
  device.run(executable, [x], [y]);
  await device.sync();
  const after = device.stats();
  assert.equal(after.submissions - before.submissions, 1);
  assert.equal(after.allocations, before.allocations);
});

test("SHARDWISE_VALIDATE=1 with SHARDWISE_DEBUG=1 tells how many kernels were validated", async (context) => {
  if (!testKinds.includes("gpu") || await testDevice("gpu") === undefined) return context.skip("no adapter");
  const program = fileURLToPath(new URL("device-program.ts", import.meta.url));
  const { status, stderr } = spawnSync(process.execPath, [...runOf(program), "gpu", "closed"], {
    env: { ...process.env, SHARDWISE_VALIDATE: "1", SHARDWISE_DEBUG: "1" },
    encoding: "utf8",
    timeout: 30_000,
  });
  assert.equal(status, 0, stderr);
  // Its only kernel is written by hand and has no reference.
  assert.match(stderr, /^shardwise: gpu:0 validated 0 kernels \(0 differ\), passed over 1 without a reference$/m);
});

/** A test with a cpu device that compares. */
function onCpu(name: string, body: (device: CpuDevice) => Promise<void>): void {
  test(name, async () => {
    setFlags({ ...readFlags(() => undefined), validate: true });
    const device = new CpuDevice(claimIdentity("cpu"), Infinity, "wasm");
    try {
      await body(device);
    } finally {
      device.close();
      setFlags(undefined);
    }
  });
}

onCpu("kernels in WebAssembly pass, those of lanes that work together too", async (device) => {
  const [m, k, n] = [40, 100, 520];
  const [a, b] = [g.input([m, k], "f32"), g.input([k, n], "f32")];
  const product = matmul(a, b);
  const shares = softmax(product, -1);
  const loss = g.reduce("sum", shares, [0, 1]);
  const plan = await passes(device, [product, shares, loss, ...gradients([loss], [a, b])], [a, b]);
  assert.ok(plan.programs.some(({ source }) => source.includes("together")));
  assert.ok(plan.programs.every(({ reference }) => reference !== undefined), "all have a reference");
  assert.ok(plan.programs.some(({ reference }) => reference!.order !== undefined), "some another one's");
});

onCpu("a wrong kernel in WebAssembly is named, with its first wrong element", async (device) => {
  for (const length of [20, 64]) {
    const x = g.input([3, length], "f32");
    const [right, wrong] = ["sum", "amax"].map((op) =>
      compileGraph({ roots: [g.reduce(op as "sum", x, [1])], inputs: [x] }, device.target)
    );
    const programs = right!.programs.map((program, i) => ({
      ...program,
      code: wrong!.programs[i]!.code!,
      key: `wrong ${length}`,
    }));
    const executable = await device.load({ ...right!, programs });
    const [from, to] = [device.alloc(12 * length), device.alloc(12)];
    device.write(from, Float32Array.from({ length: 3 * length }, (_, i) => i < length ? 0 : 1));
    device.run(executable, [from], [to]);
    await assert.rejects(device.read(to), (error: unknown) => {
      assert.ok(error instanceof InternalError);
      assert.match(error.got, /^1 in element 1 of binding 1 \(f32\) after kernel .*; 2 elements differ$/);
      assert.match(error.need, new RegExp(`^${length}, which`));
      return true;
    });
    device.run(await device.load({ ...right!, programs: right!.programs }), [from], [to]);
    assert.deepEqual([...new Float32Array(await device.read(to, 0, 12))], [0, length, length]);
  }
});

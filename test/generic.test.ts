/** Kernels that serve many shapes: what a new shape compiles, and that it gives the same values. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { compileGraph } from "../src/compiler/compile.ts";
import type { Program, Target } from "../src/compiler/plan/plan.ts";
import { spellGeneric, takeApart, valuesOf } from "../src/compiler/render/shape-uniforms.ts";
import { type Code, PlanFamily } from "../src/devices/device/family.ts";
import {
  compile,
  type Device,
  full,
  grad,
  nn,
  optim,
  random,
  setDefaultDevice,
  type Tensor,
  tensor,
} from "../src/index.ts";
import { placeholder, trace } from "../src/tensor/transform/trace.ts";

import { evaluate } from "./evaluate.ts";
import { onEachDevice, testDevice, virtualDevices } from "./harness.ts";
import { discreteTarget } from "./targets.ts";

const module = (bound: number, by: number, mean: string, lane: number) => `
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
  let id = gid.x;
  if (id >= ${bound}u) { return; }
  let e3 = subgroupBroadcast(b0[id / ${by}u + ${bound}u], ${lane});
  b1[id] = (e3 / ${mean}f) + bitcast<f32>(0x7f800000u) * 1e-7f;
}
`;

test("a kernel is taken apart into its form and its numbers", () => {
  const { form, numbers } = takeApart(module(43, 4, "43", 1));
  assert.deepEqual(numbers, ["43u", "43u", "43f", "1e-7f"]);
  assert.equal(takeApart(module(12, 4, "0.5", 1)).form, form);
  // Integer divisors and lanes are parts of the form.
  assert.notEqual(takeApart(module(43, 5, "43", 1)).form, form);
  assert.notEqual(takeApart(module(43, 4, "43", 2)).form, form);
});

test("lifted numbers are read from a uniform", () => {
  const source = module(43, 4, "0.75", 1);
  const lifted = [0, 0, 1, -1];
  const generic = spellGeneric(source, lifted, 2);
  assert.equal(generic, spellGeneric(module(12, 4, "12", 1), lifted, 2));
  for (
    const line of [
      "@group(0) @binding(2) var<uniform> numbers: array<vec4<u32>, 1>;",
      "  let n0 = numbers[0].x;",
      "  let n1 = bitcast<f32>(numbers[0].y);",
      "  if (id >= n0) { return; }",
      "  b1[id] = (e3 / n1) + bitcast<f32>(0x7f800000u) * 1e-7f;",
    ]
  ) assert.ok(generic.split("\n").includes(line), `${line} in ${generic}`);
  const values = valuesOf(takeApart(source).numbers, lifted);
  assert.deepEqual([values[0], new Float32Array(values.buffer)[1]], [43, 0.75]);
});

/** The kernels of a mean over rows of a layer, for so many rows. */
function programsFor(rows: number, target: Target): readonly Program[] {
  const x = placeholder([rows, 24], "f32");
  const w = placeholder([24, 40], "f32");
  const { result } = trace(() => x.matmul(w).relu().mean());
  return compileGraph({ roots: [result.node], inputs: [x.node, w.node] }, target).programs;
}

test("plans of a family share kernels from the second on, and those that are loaded together at once", () => {
  const sources = (codes: readonly (() => { source: string })[]) => codes.map((code) => code().source);
  const [a, b, c] = [61, 67, 71].map((rows) => programsFor(rows, { ...discreteTarget, varying: [rows] }));
  const apart = new PlanFamily();
  assert.deepEqual(
    sources(apart.meet("gpu", a!)),
    a!.map(({ source }) => source),
    "the first plan has its own kernels",
  );
  const second = sources(apart.meet("gpu", b!));
  assert.notDeepEqual(second, b!.map(({ source }) => source));
  assert.deepEqual(sources(apart.meet("gpu", c!)), second);
  assert.deepEqual(sources(apart.meet("another", c!)), c!.map(({ source }) => source), "each scope for itself");

  const together = new PlanFamily();
  const codes = [a!, b!, c!].map((programs) => together.meet("gpu", programs));
  assert.deepEqual(sources(codes[0]!), second);
  assert.deepEqual(sources(codes[2]!), second);

  const prepared = new PlanFamily();
  prepared.example = a!;
  assert.deepEqual(sources(prepared.meet("gpu", b!)), second);
});

test("a kernel of a family is, with the numbers that it is given, what it is alone", () => {
  const [some] = programsFor(61, discreteTarget);
  const of = (numbers: readonly number[]): Program => ({
    ...some!,
    source: `@group(0) @binding(0) var<storage, read_write> b0: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
  b0[${numbers[0]}u] = b0[${numbers[1]}u] + ${numbers[2]}f * b0[${numbers[3]}u + ${numbers[0]}u];
}
`,
  });
  const spelled = ({ source, values }: Code): string => {
    if (values === undefined) return source;
    const floats = new Float32Array(values.buffer);
    const [head, body] = source.split(/(?<=fn main.*\{\n)/) as [string, string];
    const names = new Map<string, string>();
    for (
      const [, name, bitcast, place, lane] of body.matchAll(/let (n\d+) = (bitcast)?.*numbers\[(\d+)\]\.([xyzw])/g)
    ) {
      const index = 4 * Number(place) + "xyzw".indexOf(lane!);
      names.set(name!, bitcast === undefined ? `${values[index]}u` : `${floats[index]}f`);
    }
    const bare = body.split("\n").filter((line) => !/^ +let n\d+ = /.test(line)).join("\n");
    return head.replace(/^@group.*var<uniform>.*\n/m, "") + bare.replace(/\bn\d+\b/g, (name) => names.get(name)!);
  };
  const few = fc.integer({ min: 1, max: 4 });
  fc.assert(fc.property(fc.array(fc.tuple(few, few, few, few), { minLength: 1, maxLength: 5 }), (kernels) => {
    const family = new PlanFamily();
    const codes = kernels.map((numbers) => family.meet("gpu", [of(numbers)])[0]!);
    kernels.forEach((numbers, i) => assert.equal(spelled(codes[i]!()), of(numbers).source));
  }));
});

test("lengths that vary are guarded, whether blocks divide them or not", () => {
  const forms = (rows: number, target: Target) => programsFor(rows, target).map(({ source }) => takeApart(source).form);
  for (const kind of ["discrete", "software"] as const) {
    const target: Target = { ...discreteTarget, class: kind, subgroupSize: 8 };
    assert.notDeepEqual(forms(96, target), forms(83, target));
    assert.deepEqual(forms(96, { ...target, varying: [96] }), forms(83, { ...target, varying: [83] }));
  }
});

test("so are those that are walked in blocks, on an adapter in software", () => {
  const form = (rows: number, target: Target) => {
    const x = placeholder([rows, 128], "f32");
    const { result } = trace(() => x.exp());
    const [{ source }] = compileGraph({ roots: [result.node], inputs: [x.node] }, target).programs as readonly [
      Program,
    ];
    return takeApart(source).form;
  };
  const target: Target = { ...discreteTarget, class: "software" };
  // 128 blocks of 128 vectors each, and less.
  assert.notEqual(form(512, target), form(500, target));
  assert.equal(form(512, { ...target, varying: [512] }), form(500, { ...target, varying: [500] }));
});

test("blocks at an edge are stored by vectors, under one guard", () => {
  const target: Target = { ...discreteTarget, class: "software", subgroupSize: 8 };
  // Both along the rows and along the columns the last block moves back.
  const x = placeholder([43, 64], "f32");
  const w = placeholder([64, 72], "f32");
  const { result } = trace(() => x.matmul(w));
  const [{ source }] = compileGraph({ roots: [result.node], inputs: [x.node, w.node] }, target).programs as readonly [
    Program,
  ];
  const stores = source.split("\n").filter((line) => /\bb2\[.*\] = /.test(line));
  assert.ok(
    stores.length > 0 && stores.every((line) => /^ +if \(.+\) \{ b2\[.*\] = vec4<f32>\(/.test(line)),
    stores.join("\n"),
  );
});

onEachDevice("products of subgroups in more workgroups than fit along one dimension", async (device) => {
  const [x, w] = [placeholder([11, 176, 40], "f32"), placeholder([11, 40, 96], "f32")];
  const { result } = trace(() => x.matmul(w));
  const values = (count: number) => Float32Array.from({ length: count }, (_, i) => (i * 7 % 13) - 6);
  const given = [values(11 * 176 * 40), values(11 * 40 * 96)];
  const run = (target: Target) => evaluate(device, { roots: [result.node], inputs: [x.node, w.node] }, given, target);
  assert.deepEqual(await run({ ...device.target, maxWorkgroupsPerDimension: 7 }), await run(device.target));
});

async function on<T>(device: Device, body: () => Promise<T>): Promise<T> {
  setDefaultDevice(device);
  try {
    return await body();
  } finally {
    setDefaultDevice(undefined);
  }
}

/** Loss and gradients of a small network for a batch of so many rows. */
function gradients(
  width: number,
): {
  readonly step: () => (x: Tensor, labels: Tensor) => Promise<Tensor[]>;
  readonly batch: (rows: number) => [Tensor, Tensor];
} {
  random.seed(11);
  const model = nn.sequential(nn.linear(20, width), nn.relu(), nn.layerNorm(width), nn.linear(width, 10));
  const step = () =>
    compile((x: Tensor, labels: Tensor) => {
      const loss = nn.crossEntropy(model.forward(x), labels).mean;
      return [loss, ...grad(loss, model.parameters())];
    });
  const batch = (rows: number): [Tensor, Tensor] => [
    tensor(Float32Array.from({ length: rows * 20 }, (_, i) => Math.sin(i * 12.9898) * 2), { shape: [rows, 20] }),
    tensor(Int32Array.from({ length: rows }, (_, i) => (i * 7) % 10), { shape: [rows] }),
  ];
  return { step, batch };
}

onEachDevice("large operands are walked to their end, whatever the shape before", (device) =>
  on(device, async () => {
    // Numbers of elements whose products with the numbers of terms are multiples of 2^32.
    const forward = compile((x: Tensor, w: Tensor) => x.matmul(w));
    const gradient = compile((x: Tensor, g: Tensor) => x.transpose().matmul(g));
    for (const rows of [64, 4096]) {
      const [x, w] = [full([rows, 1024], 1), full([1024, 32], 1)];
      const found = (await (await forward(x, w)).data()) as Float32Array;
      assert.ok(found.every((value) => value === 1024), `forward of ${rows}: ${found[0]}`);
      const sums = (await (await gradient(x, full([rows, 32], 1))).data()) as Float32Array;
      assert.ok(sums.every((value) => value === rows), `gradient of ${rows}: ${sums[0]}`);
    }
  }));

// Before other tests leave kernels for sizes of their own choice on the device.
test("a new batch size compiles nothing once some were seen", async (context) => {
  const device = await testDevice("gpu");
  if (device === undefined) return context.skip("no GPU: the cpu device compiles in no time");
  await on(device, async () => {
    const { step, batch } = gradients(36);
    const f = step();
    const compiled: number[] = [];
    for (const rows of [64, 53, 47, 48, 50, 43, 59, 61, 37, 38, 56, 60]) {
      const before = device.stats().kernels;
      await (await f(...batch(rows)))[0]!.item();
      compiled.push(device.stats().kernels - before);
    }
    assert.ok(compiled[0]! > 3, `${compiled}`);
    const later = compiled.slice(5).reduce((a, b) => a + b);
    const message = `kernels compiled for each size: ${compiled}`;
    // GPUs have more forms: of sums that end within a block, say.
    if (device.target.class === "software") assert.equal(later, 0, message);
    else assert.ok(later <= compiled[0]! / 2, message);
  });
});

onEachDevice("a shape gives the same bits, whichever shapes were there before", (device) =>
  on(device, () => {
    const { step, batch } = gradients(48);
    const read = async (values: readonly Tensor[]) =>
      await Promise.all(values.map(async (value) => [...await value.data()]));
    // Every one of them is compiled for, too.
    const lengths = fc.uniqueArray(fc.integer({ min: 1, max: 80 }), {
      minLength: 2,
      maxLength: device.kind === "gpu" ? 3 : 5,
    });
    return fc.assert(
      fc.asyncProperty(lengths, async (rows) => {
        const shared = step();
        for (const count of rows) {
          const found = await read(await shared(...batch(count)));
          assert.deepEqual(found, await read(await step()(...batch(count))), `${count} of ${rows}`);
        }
      }),
      { numRuns: device.kind === "gpu" ? 2 : 6 },
    );
  }));

for (const count of [1, 2]) {
  test(`a trainer on ${count} devices compiles nothing for a new batch size once some were seen`, async (context) => {
    const devices = await virtualDevices("gpu", count);
    if (devices === undefined) return context.skip("no GPU: the cpu device compiles in no time");
    random.seed(5);
    const model = nn.sequential(nn.linear(20, 44 + count), nn.relu(), nn.linear(44 + count, 7));
    const train = nn.trainer(model, {
      loss: (output, batch: { x: Tensor; y: Tensor }) => nn.crossEntropy(output, batch.y),
      optimizer: optim.sgd({ learningRate: 0.1 }),
      devices,
    });
    const compiled: number[] = [];
    for (const rows of [64, 53, 47, 48, 50, 43, 106, 61, 122, 59, 38, 76].map((rows) => rows * count)) {
      const total = () => devices.reduce((sum, device) => sum + device.stats().kernels, 0);
      const before = total();
      const x = tensor(Float32Array.from({ length: rows * 20 }, (_, i) => Math.sin(i)), { shape: [rows, 20] });
      await train.step({ x, y: tensor(Int32Array.from({ length: rows }, (_, i) => i % 7), { shape: [rows] }) });
      await train.predict(x);
      compiled.push(total() - before);
    }
    const later = compiled.slice(9).reduce((a, b) => a + b);
    assert.ok(compiled[0]! > 3 * count && later <= compiled[0]! / 4, `kernels compiled for each size: ${compiled}`);
  });
}

/** Attention whose scores are not stored: against the float64 interpreter and the plain path, by all schedules, and what it costs. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { gradients } from "../src/autograd/grad.ts";
import { compileGraph } from "../src/compiler/compile.ts";
import type { Target } from "../src/compiler/plan/plan.ts";
import type { Device } from "../src/devices/device/device.ts";
import { ArgumentError, ShapeError } from "../src/errors.ts";
import * as g from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import type { Node } from "../src/graph/node.ts";
import { type Shape, size } from "../src/graph/shape.ts";
import {
  type AttentionOptions,
  compile,
  data,
  explain,
  grad,
  nn,
  optim,
  parallel,
  random,
  type Tensor,
  tensor,
} from "../src/index.ts";
import { attendOnline } from "../src/tensor/ops/attention.ts";
import { evaluate } from "./evaluate.ts";
import { assertClose, onEachDevice, testDevice, testKinds, virtualDevices } from "./harness.ts";
import { discreteTarget } from "./targets.ts";

/** Numbers from -1 to 1. */
function noise(shape: Shape, seed: number): number[] {
  return Array.from({ length: size(shape) }, (_, i) => {
    const x = Math.sin(12.9898 * (i + 1) + 78.233 * seed) * 43758.5453;
    return 2 * (x - Math.floor(x)) - 1;
  });
}

type Mask = "none" | "causal" | "bool" | "number" | "causal and bool" | "causal and number";

interface Form {
  readonly batch: number;
  readonly t: number;
  readonly s: number;
  readonly d: number;
  readonly e: number;
  readonly mask: Mask;
  /** Keys and values are the same for all of the batch. */
  readonly shared: boolean;
}

/** The values of an attention and its gradients, online, and the leaves that they are made of. */
function request({ batch, t, s, d, e, mask, shared }: Form): { roots: Node[]; inputs: Node[]; values: number[][] } {
  const own = shared ? [] : [batch];
  const shapes = [[batch, t, d], [...own, s, d], [...own, s, e], [batch, t, e]];
  const inputs = shapes.map((shape) => g.input(shape, "f32"));
  const values = shapes.map((shape, i) => noise(shape, i));
  const [q, k, v, cotangent] = inputs as [Node, Node, Node, Node];
  let added: Node | undefined;
  if (mask.endsWith("bool") || mask.endsWith("number")) {
    added = g.input([t, s], mask.endsWith("bool") ? "bool" : "f32");
    inputs.push(added);
    // Of the second query every key is hidden.
    values.push(noise([t, s], 9).map((x, i) => mask.endsWith("bool") ? Number(x > 0.2 && Math.floor(i / s) !== 1) : x));
  }
  const y = attendOnline(q, k, v, { mask: added, causal: mask.startsWith("causal") });
  return { roots: [y, ...gradients([y], [q, k, v], [cotangent])], inputs, values };
}

async function agrees(device: Device, form: Form, target: Target): Promise<void> {
  const { roots, inputs, values } = request(form);
  const expected = interpret(roots, new Map(inputs.map((input, i) => [input, values[i]!])));
  const actual = await evaluate(device, { roots, inputs }, values, target);
  ["y", "dq", "dk", "dv"].forEach((name, i) =>
    assertClose(actual[i]!, expected[i]!, { message: name, atol: 2e-6, rtol: 2e-5 })
  );
}

const forms = (edges: readonly number[]) => {
  const length = fc.oneof(
    fc.constantFrom(...edges.flatMap((edge) => [edge - 1, edge, edge + 1, 2 * edge, 2 * edge + 3])),
    fc.integer({ min: 1, max: 3 * Math.max(...edges) }),
  );
  return fc.record({
    batch: fc.constantFrom(1, 2, 3),
    t: length,
    s: length,
    d: fc.integer({ min: 1, max: 40 }),
    e: fc.integer({ min: 1, max: 40 }),
    mask: fc.constantFrom<Mask[]>("none", "causal", "bool", "number", "causal and bool", "causal and number"),
    shared: fc.boolean(),
  });
};

test("online attention and its gradients agree with float64 around the edges of blocks [cpu]", async (t) => {
  if (!testKinds.includes("cpu")) return t.skip("not asked for");
  const device = (await testDevice("cpu"))!;
  await fc.assert(fc.asyncProperty(forms([8]), (form) => agrees(device, form, device.target)), { numRuns: 80 });
});

/** A target, the edges of its blocks, and how many shapes are tried: drivers compile for seconds. */
const targets: Readonly<
  Record<string, { target: (device: Device) => Target; edges: readonly number[]; runs: number }>
> = {
  "the device's own": { target: ({ target }) => target, edges: [32], runs: 1 },
  "blocks of an invocation": {
    target: ({ target }) => ({ ...target, class: "software", subgroupSize: 0 }),
    edges: [8],
    runs: 1,
  },
  "workgroup memory": { target: ({ target }) => ({ ...target, class: "discrete" }), edges: [64], runs: 1 },
};

for (const [name, { target, edges, runs }] of Object.entries(targets)) {
  test(`online attention and its gradients agree with float64 by ${name} [gpu]`, async (t) => {
    if (!testKinds.includes("gpu")) return t.skip("no adapter");
    const device = await testDevice("gpu");
    if (device === undefined) return t.skip("no adapter");
    const examples: [Form][] = [
      [{ batch: 2, t: 67, s: 130, d: 18, e: 5, mask: "causal and bool", shared: true }],
      // Loops of one step.
      [{ batch: 1, t: 7, s: 7, d: 1, e: 1, mask: "none", shared: false }],
    ];
    await fc.assert(fc.asyncProperty(forms(edges), (form) => agrees(device, form, target(device))), {
      numRuns: runs,
      examples,
    });
  });
}

onEachDevice(
  "online and stored attention agree, with broadcast batch axes and queries that see nothing",
  async (device) => {
    const on = (shape: Shape, seed: number) => tensor(noise(shape, seed), { device }).reshape(shape);
    const [q, k, v, c] = [on([2, 3, 10, 6], 1), on([3, 14, 6], 2), on([2, 1, 14, 5], 3), on([2, 3, 10, 5], 4)];
    const hidden = on([10, 14], 5).less(0.5).and(
      tensor(Array.from({ length: 10 }, (_, i) => i !== 4), { device }).reshape([10, 1]),
    );
    const both: AttentionOptions = { causal: true, scale: 0.7, mask: hidden };
    const options = device.kind === "gpu" ? [both] : [both, { causal: true }, { mask: hidden }, { scale: -2 }];
    for (const option of options) {
      const results = await Promise.all((["stored", "online"] as const).map(async (scores) => {
        const y = q.scaledDotProductAttention(k, v, { ...option, scores });
        assert.deepEqual(y.shape, [2, 3, 10, 5]);
        return await Promise.all([y, ...grad(y.mul(c).sum(), [q, k, v])].map(async (x) => await x.data()));
      }));
      results[0]!.forEach((expected, i) =>
        assertClose(results[1]![i]!, expected, { atol: 3e-6, message: `${Object.keys(option)}, ${i}` })
      );
    }
    const y = q.scaledDotProductAttention(k, v, { ...both, scores: "online" });
    const hiddenRow = (x: Tensor) => x.slice([0, 0, 4].map((at) => ({ start: at, end: at + 1 }))).flatten().data();
    assertClose(await hiddenRow(y), [0, 0, 0, 0, 0], { atol: 0 });
    assertClose(await hiddenRow(grad(y.square().sum(), q)), [0, 0, 0, 0, 0, 0], { atol: 0 });
  },
);

onEachDevice(
  "the gradient of a mask of numbers, and second gradients, agree with those of stored attention",
  async (device) => {
    const on = (shape: Shape, seed: number) => tensor(noise(shape, seed), { device }).reshape(shape);
    const [q, k, v, mask] = [on([2, 5, 4], 1), on([2, 6, 4], 2), on([2, 6, 3], 3), on([5, 6], 4)];
    const results = await Promise.all((["stored", "online"] as const).map(async (scores) => {
      const y = q.scaledDotProductAttention(k, v, { mask, scores }).square().sum();
      const first = grad(y, [q, k, v, mask]);
      // Second gradients are many kernels, which drivers compile slowly.
      if (device.kind === "gpu") return await Promise.all(first.map(async (x) => await x.data()));
      const second = grad(first.map((x) => x.square().sum()).reduce((a, b) => a.add(b)), [q, k, v, mask]);
      return await Promise.all([...first, ...second].map(async (x) => await x.data()));
    }));
    results[0]!.forEach((expected, i) =>
      assertClose(results[1]![i]!, expected, { atol: 1e-5, rtol: 1e-4, message: `gradient ${i}` })
    );
  },
);

onEachDevice("long attention is online by itself, and what makes no sense is refused", async (device) => {
  const on = (shape: Shape, seed: number) => tensor(noise(shape, seed), { device }).reshape(shape);
  const [q, k] = [on([1024, 2], 1), on([1024, 2], 2)];
  const attention = (a: Tensor, b: Tensor) => a.scaledDotProductAttention(b, b);
  const { kernels } = await explain(attention, q, k);
  assert.ok(kernels.every((kernel) => kernel.writes.every((buffer) => size(buffer.shape) < 1024 * 1024)));
  const long = await compile(attention)(q, k);
  const expected = await q.scaledDotProductAttention(k, k, { scores: "stored" }).data();
  assertClose(await long.data(), expected, { atol: 1e-5 });
  const few = on([3, 2], 3);
  assert.throws(() => few.scaledDotProductAttention(few, on([4, 2], 4), { scores: "online" }), ShapeError);
  assert.throws(
    () => few.scaledDotProductAttention(few, few, { scores: "online", onWeights: (x) => x }),
    ArgumentError,
  );
  assert.throws(() => few.scaledDotProductAttention(few, few, { scores: "none" as "online" }), ArgumentError);
  // No keys, and no features: sums of nothing.
  assert.deepEqual(
    await on([2, 3], 1).scaledDotProductAttention(on([0, 3], 1), on([0, 1], 1), { causal: true, scores: "online" })
      .array(),
    [[0], [0]],
  );
});

test("the memory of a long attention is that of its operands, forward and backward", () => {
  const base = discreteTarget;
  const all: readonly Target[] = [
    { ...base, language: "js", class: "js", subgroupSize: 0 },
    { ...base, language: "wgsl", class: "software", subgroupSize: 8 },
    { ...base, language: "wgsl", class: "software", subgroupSize: 0 },
    { ...base, language: "wgsl", class: "discrete", subgroupSize: 32 },
    { ...base, language: "wgsl", class: "integrated", subgroupSize: 16 },
  ];
  for (const mask of ["none", "causal", "bool"] as const) {
    const { roots, inputs } = request({ batch: 2, t: 4096, s: 4096, d: 64, e: 64, mask, shared: false });
    const operand = 2 * 4096 * 64 * 4;
    const scores = 2 * 4096 * 4096 * 4;
    for (const target of all) {
      const bytes = (plan: ReturnType<typeof compileGraph>) =>
        plan.temporaries.reduce((sum, slot) => sum + plan.slots[slot]!.bytes, 0);
      const forward = bytes(compileGraph({ roots: [roots[0]!], inputs: inputs.filter((_, i) => i !== 3) }, target));
      const both = bytes(compileGraph({ roots, inputs }, target));
      assert.ok(forward <= 6 * operand, `${target.class}, ${mask}: forward ${forward / operand} operands`);
      assert.ok(both <= 10 * operand, `${target.class}, ${mask}: both ${both / operand} operands`);
      assert.ok(both < scores / 3);
    }
  }
});

onEachDevice(
  "a model with online attention: replicas, and training in logical shards with the same bits",
  async (device) => {
    const model = () => {
      random.seed(3);
      return nn.sequential(
        nn.multiHeadAttention(8, 2, { causal: true, scores: "online" }),
        nn.flatten(),
        nn.linear(5 * 8, 3),
      );
    };
    const devices = await virtualDevices(device.kind === "gpu" ? "gpu" : "cpu", 2);
    assert.ok(devices !== undefined);
    const x = tensor(noise([6, 5, 8], 1)).reshape([6, 5, 8]);
    const net = model();
    const predict = parallel.replicate((rows: Tensor) => net.forward(rows), devices);
    assertClose(await (await predict(x)).data(), await net.forward(x).data(), { atol: 1e-5 });

    const batch = {
      x: data.array(Float32Array.from(noise([6, 5, 8], 2)), { shape: [6, 5, 8] }),
      y: data.array(Int32Array.from([0, 1, 2, 0, 1, 2]), { dtype: "i32" }),
    };
    const sums = [];
    for (const some of [devices, devices.slice(0, 1)]) {
      const trainer = nn.trainer(model(), {
        loss: (output, rows) => nn.crossEntropy(output, rows.y),
        optimizer: optim.sgd({ learningRate: 0.1 }),
        devices: some,
        deterministic: { shards: 3 },
        seed: 1,
      });
      for (let step = 0; step < 2; step++) await trainer.step(batch);
      sums.push(await trainer.checksum());
    }
    assert.equal(sums[0], sums[1]);
  },
);

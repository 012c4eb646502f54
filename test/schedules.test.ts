/** Every schedule of a contraction gives what the sum says, for shapes around the edges of its blocks. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { gradients } from "../src/autograd/grad.ts";
import { type ChosenSchedule, compileGraph, type CompileRequest } from "../src/compiler/compile.ts";
import {
  type ContractionSchedule,
  gemv,
  panel,
  registerTile,
  strip,
  workgroupTile,
} from "../src/compiler/plan/contraction-schedules.ts";
import type { Target } from "../src/compiler/plan/plan.ts";
import { contractionsOf } from "../src/compiler/tuning.ts";
import { CpuDevice } from "../src/devices/cpu/cpu.ts";
import type { Device } from "../src/devices/device/device.ts";
import { claimIdentity } from "../src/devices/device/registry.ts";
import * as g from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import type { Node } from "../src/graph/node.ts";
import { size } from "../src/graph/shape.ts";
import { convolve } from "../src/tensor/ops/conv.ts";
import { logSoftmax, softmax } from "../src/tensor/ops/reduce.ts";
import { evaluate } from "./evaluate.ts";
import { assertClose, testDevice, testKinds } from "./harness.ts";
import { discreteTarget } from "./targets.ts";

const e = g.elementwise;

interface Shape {
  readonly batch: number;
  readonly m: number;
  readonly k: number;
  readonly n: number;
  /** Whether the operands are stored the other way round. */
  readonly transposed: readonly [boolean, boolean];
  readonly epilogue: boolean;
  /** Whether row i takes only the first i + 1 terms of the sum, whatever the others hold. Default false. */
  readonly causal?: boolean;
}

/** `max(a b + c, 0)`, or `a b` alone, of [batch, m, k] and [batch, k, n] (n > 0), and its inputs. */
function product({ batch, m, k, n, transposed, epilogue, causal }: Shape): { root: Node; inputs: Node[] } {
  const stored = (rows: number, columns: number, other: boolean) => {
    const x = g.input(other ? [batch, columns, rows] : [batch, rows, columns], "f32");
    return { x, seen: other ? g.permute(x, [0, 2, 1]) : x };
  };
  const a = stored(m, k, transposed[0]);
  const b = stored(k, n, transposed[1]);
  const wide = (x: Node, shape: readonly number[]) => g.expand(g.reshape(x, shape), [batch, m, k, n]);
  const factors = [wide(a.seen, [batch, m, k, 1]), wide(b.seen, [batch, 1, k, n])] as const;
  const taken = wide(
    e("le", g.expand(g.reshape(g.iota(k), [1, k]), [m, k]), g.expand(g.reshape(g.iota(m), [m, 1]), [m, k])),
    [1, m, k, 1],
  );
  const sum = g.reduce("sum", causal ? e("weigh", taken, ...factors) : e("mul", ...factors), [2]);
  if (!epilogue || causal) return { root: sum, inputs: [a.x, b.x] };
  const c = g.input([n], "f32");
  return { root: e("relu", e("add", sum, g.expand(g.reshape(c, [1, 1, n]), [batch, m, n]))), inputs: [a.x, b.x, c] };
}

/** Small whole numbers, of which sums of products are exact in f32. */
function wholes(length: number, seed: number): number[] {
  return Array.from({ length }, (_, i) => ((i * 7 + seed * 13 + (i >> 3)) % 7) - 3);
}

/** The product with the schedules of a target against the float64 interpreter, exactly. */
async function givesExactly(device: Device, shape: Shape, target: Target): Promise<void> {
  const { root, inputs } = product(shape);
  const data = inputs.map((input, i) => wholes(size(input.shape), i));
  if (shape.causal) {
    const { k, n, transposed } = shape;
    data[1] = data[1]!.map((x, i) => (transposed[1] ? i % k : Math.floor(i / n) % k) === k - 1 ? NaN : x);
  }
  const [expected] = interpret([root], new Map(inputs.map((input, i) => [input, data[i]!])));
  const [actual] = await evaluate(device, { roots: [root], inputs }, data, target);
  // Adding 0 makes a negative zero positive: its sign depends on whether a sum of one term adds anything.
  assert.deepEqual(Array.from(actual!, (x) => x + 0), Array.from(expected!, (x) => x + 0));
}

/** The target with a schedule for all contractions of a graph, and for their parts. */
function forced(request: CompileRequest, target: Target, schedule: ContractionSchedule): Target {
  let tuned = Object.fromEntries(contractionsOf(request).map(({ signature }) => [signature, schedule]));
  for (;;) {
    const fresh = contractionsIn(request, { ...target, tuned }).flatMap(({ signature }) =>
      signature === undefined || signature in tuned ? [] : [signature]
    );
    if (fresh.length === 0) return { ...target, tuned };
    tuned = { ...tuned, ...Object.fromEntries(fresh.map((signature) => [signature, schedule])) };
  }
}

/** The schedules that a graph's contractions get. */
function contractionsIn(request: CompileRequest, target: Target): ChosenSchedule[] {
  const found: ChosenSchedule[] = [];
  compileGraph(
    request,
    target,
    ({ steps }) => steps.forEach(({ contraction }) => contraction && found.push(contraction)),
  );
  return found;
}

const gpuLike = ({ target }: Device): Target => ({
  ...target,
  class: "discrete",
  rollLoops: target.class === "software",
});

/** Of each kind some schedules, the device (a GPU by default) and the target that they are for, and lengths around which axes are chosen. */
const kinds: Readonly<
  Record<ContractionSchedule["kind"], {
    readonly schedules: readonly ContractionSchedule[];
    readonly kind?: "cpu";
    readonly on: (device: Device) => Target;
    readonly m: readonly number[];
    readonly n: readonly number[];
  }>
> = {
  registerTile: { schedules: [registerTile(4), registerTile(8)], on: gpuLike, m: [4, 8], n: [4, 8] },
  subgroupOuter: {
    schedules: [2, 4].flatMap((rows) =>
      [2, 4].map((depth) => ({ kind: "subgroupOuter", elements: [rows, 4], subgroups: 4, depth, parts: 1 } as const))
    ),
    on: ({ target }) => target,
    m: [16, 32],
    n: [16, 32],
  },
  workgroupTile: {
    schedules: [
      workgroupTile([8, 8], [4, 4], 8),
      workgroupTile([8, 8], [4, 4], 8, 1),
      workgroupTile([8, 8], [2, 2], 16),
      workgroupTile([16, 4], [2, 4], 16),
      workgroupTile([4, 16], [4, 2], 16),
      { ...workgroupTile([16, 16], [4, 4], 16), parts: 2 },
      { ...workgroupTile([8, 8], [4, 8], 8), parts: 4 },
    ],
    on: gpuLike,
    m: [16, 32, 64],
    n: [16, 32, 64],
  },
  panel: {
    schedules: [
      panel([4, 8], [16, 16], 16),
      panel([4, 8], [8, 32], 24),
      panel([2, 16], [128, 256], 256),
      panel([3, 4], [24, 8], 8),
      strip([1, 16], 32, 8),
      strip([4, 8], 16, 16),
    ],
    kind: "cpu",
    on: ({ target }) => target,
    m: [4, 16, 32],
    n: [8, 16, 32],
  },
  gemv: {
    schedules: [gemv([16, 8], 4, 1), gemv([1, 64], 1, 4), gemv([4, 16], 2, 4), { ...gemv([64, 1], 1, 1), parts: 2 }],
    on: gpuLike,
    m: [2, 8],
    n: [16, 64],
  },
};

const around = (edges: readonly number[]) =>
  fc.constantFrom(
    ...new Set(edges.flatMap((edge) => [edge - 1, edge, edge + 1, edge + 3]).filter((length) => length > 0)),
  );

/** A device that is tested; a cpu device only where it computes in WebAssembly. */
let lanes: Device | undefined;

/** The cpu device with WebAssembly, which is there in any case. */
function cpuDevice(): Device {
  return lanes ??= new CpuDevice(claimIdentity("cpu"), Infinity, "wasm");
}

async function deviceOf(kind: "cpu" | "gpu"): Promise<Device | undefined> {
  if (kind === "cpu") return cpuDevice();
  return testKinds.includes("gpu") ? await testDevice("gpu") : undefined;
}

for (const [kind, { schedules, kind: ofDevice = "gpu", on, m, n }] of Object.entries(kinds)) {
  test(`matrix products by ${kind}, exactly, at and around the edges of blocks`, async (t) => {
    const device = await deviceOf(ofDevice);
    if (device === undefined) return t.skip("no adapter");
    const used = new Set<string>();
    const shapes = fc.record({
      batch: fc.constantFrom(1, 1, 2),
      m: around(m),
      k: fc.oneof(around([8, 16, 64]), fc.integer({ min: 1, max: 80 })),
      n: around(n),
      transposed: fc.tuple(fc.boolean(), fc.boolean()),
      epilogue: fc.boolean(),
      causal: fc.boolean(),
    });
    const check = async (shape: Shape, schedule: ContractionSchedule) => {
      const { root, inputs } = product(shape);
      const request = { roots: [root], inputs };
      const target = forced(request, on(device), schedule);
      for (const { schedule } of contractionsIn(request, target)) used.add(schedule.kind);
      await givesExactly(device, shape, target);
      // The short axis of a gemv may be either one.
      if (kind === "gemv") await givesExactly(device, { ...shape, m: shape.n, n: shape.m }, target);
    };
    const property = fc.asyncProperty(shapes, fc.constantFrom(...schedules), check);
    const large = {
      batch: 1,
      m: 2 * m.at(-1)!,
      k: 40,
      n: 2 * n.at(-1)!,
      transposed: [false, false],
      epilogue: true,
    } as const;
    await fc.assert(property, {
      numRuns: 9,
      examples: kind === "gemv" ? [] : [[large, schedules[0]!]],
      endOnFailure: true,
    });
    assert.ok(used.has(kind) || device.target.subgroupSize === 0, `${kind} was used: ${[...used]}`);
  });

  test(`convolutions and their gradients by ${kind}, exactly`, async (t) => {
    const device = await deviceOf(ofDevice);
    if (device === undefined) return t.skip("no adapter");
    const shapes = fc.record({
      images: fc.integer({ min: 1, max: 4 }),
      side: fc.integer({ min: 3, max: 9 }),
      inner: fc.constantFrom(1, 3, 8, 17),
      outer: fc.constantFrom(2, 8, 19, 32),
      kernel: fc.integer({ min: 1, max: 3 }),
      stride: fc.constantFrom(1, 1, 2),
      padding: fc.constantFrom("same" as const, "valid" as const),
    });
    const check = async (
      { images, side, inner, outer, kernel, stride, padding }: ShapeOfConv,
      schedule: ContractionSchedule,
    ) => {
      const x = g.input([images, side, side, inner], "f32");
      const w = g.input([kernel, kernel, inner, outer], "f32");
      const bias = g.input([outer], "f32");
      const sum = convolve("conv2d", x, w, { stride, padding }, 2);
      const y = e("relu", e("add", sum, g.expand(g.reshape(bias, [1, 1, 1, outer]), sum.shape)));
      const dy = g.input(y.shape, "f32");
      const request = { roots: [y, ...gradients([y], [x, w, bias], [dy])], inputs: [x, w, bias, dy] };
      const data = request.inputs.map((input, i) => wholes(size(input.shape), i));
      const expected = interpret(request.roots, new Map(request.inputs.map((input, i) => [input, data[i]!])));
      const actual = await evaluate(device, request, data, forced(request, on(device), schedule));
      actual.forEach((values, i) =>
        assertClose(values, expected[i]!, { atol: 0, rtol: 0, message: ["y", "dx", "dw", "db"][i]! })
      );
    };
    await fc.assert(fc.asyncProperty(shapes, fc.constantFrom(...schedules), check), { numRuns: 3, endOnFailure: true });
  });
}

interface ShapeOfConv {
  readonly images: number;
  readonly side: number;
  readonly inner: number;
  readonly outer: number;
  readonly kernel: number;
  readonly stride: number;
  readonly padding: "same" | "valid";
}

/** Operands of a product that are computed: [m, k] or [k, n], of an input that is made here. */
const operands: Readonly<Record<string, (rows: number, columns: number) => { seen: Node; x: Node }>> = {
  "as it lies": (rows, columns) => {
    const x = g.input([rows, columns], "f32");
    return { x, seen: x };
  },
  cast: (rows, columns) => {
    const x = g.input([columns, rows], "i32");
    return { x, seen: g.permute(g.cast(x, "f32"), [1, 0]) };
  },
  halves: (rows, columns) => {
    const x = g.input([rows, columns], "f16");
    return { x, seen: g.cast(x, "f32") };
  },
  padded: (rows, columns) => {
    const x = g.input([rows, Math.max(1, columns - 3)], "f32");
    return { x, seen: columns < 4 ? g.expand(x, [rows, columns]) : g.pad(x, [0, 1], [0, 2], 2) };
  },
  gathered: (rows, columns) => {
    const x = g.input([7, columns], "f32");
    const index = g.expand(g.reshape(g.cast(g.iota(rows), "i32"), [rows, 1]), [rows, columns]);
    // Beyond the end there is 0.
    return { x, seen: g.gather(x, index, 0) };
  },
};

test("panels of computed operands, whose results are used at once, exactly", async () => {
  const device = cpuDevice();
  const { schedules, m, n } = kinds.panel;
  const kindsOfOperand = fc.constantFrom(...Object.keys(operands));
  const lengths = { m: around(m), k: fc.integer({ min: 1, max: 60 }), n: around(n) };
  const shapes = fc.record({ ...lengths, left: kindsOfOperand, right: kindsOfOperand, donated: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(shapes, fc.constantFrom(...schedules), async ({ m, k, n, left, right, donated }, schedule) => {
      const [a, b] = [operands[left]!(m, k), operands[right]!(k, n)];
      const wide = (x: Node, shape: readonly number[]) => g.expand(g.reshape(x, shape), [m, k, n]);
      const sum = g.reduce("sum", e("mul", wide(a.seen, [m, k, 1]), wide(b.seen, [1, k, n])), [1]);
      const [residual, turned, row] = [g.input([m, n], "f32"), g.input([n, m], "f32"), g.input([m], "f32")];
      const more = e("add", g.permute(turned, [1, 0]), g.expand(g.reshape(row, [m, 1]), [m, n]));
      const root = e("add", residual, e("mul", e("relu", sum), more));
      const inputs = [a.x, b.x, residual, turned, row];
      const request = { roots: [root], inputs, ...donated && { donate: [{ input: 2, output: 0 }] } };
      const data = inputs.map((input, i) => wholes(size(input.shape), i));
      const expected = interpret(request.roots, new Map(inputs.map((input, i) => [input, data[i]!])));
      const target = forced(request, device.target, schedule);
      const [actual] = await evaluate(device, request, data, target);
      assert.deepEqual(Array.from(actual!, (x) => x + 0), Array.from(expected[0]!, (x) => x + 0));
    }),
    { numRuns: 25, endOnFailure: true },
  );
});

test("a product is added to what is donated in its place, by panels too", () => {
  const device = cpuDevice();
  const { root, inputs } = product({ batch: 1, m: 512, k: 64, n: 512, transposed: [false, false], epilogue: false });
  const x = g.input(root.shape, "f32");
  const request = { roots: [e("add", x, root)], inputs: [...inputs, x], donate: [{ input: 2, output: 0 }] };
  assert.equal(contractionsIn(request, device.target)[0]!.schedule.kind, "panel");
  const plan = compileGraph(request, device.target);
  assert.deepEqual([plan.steps.length, plan.temporaries.length, plan.outputs[0]], [1, 0, plan.inputs[2]]);
});

test("few results of long columns, exactly: matrices by vectors, sums over rows", async (t) => {
  if (!testKinds.includes("gpu")) return t.skip("no adapter");
  const device = await testDevice("gpu");
  if (device === undefined) return t.skip("no adapter");
  const check = async (count: number, terms: number, ops: readonly string[]) => {
    const [matrix, vector] = [g.input([terms, count], "f32"), g.input([terms], "f32")];
    const wide = g.expand(g.reshape(vector, [terms, 1]), [terms, count]);
    const columns: Readonly<Record<string, Node>> = {
      product: g.reduce("sum", e("mul", matrix, wide), [0]),
      sum: g.reduce("sum", matrix, [0]),
      largest: e("relu", g.reduce("amax", matrix, [0])),
      // Of positive numbers: of 0, which may lie beyond the memory, it would be 0.
      least: g.reduce("amin", e("mul", matrix, wide), [0]),
    };
    const request = { roots: ops.map((op) => columns[op]!), inputs: [matrix, vector] };
    const data = request.inputs.map((input, i) => wholes(size(input.shape), i).map((value) => Math.abs(value) + 1));
    const expected = interpret(request.roots, new Map(request.inputs.map((input, i) => [input, data[i]!])));
    const actual = await evaluate(device, request, data, gpuLike(device));
    actual.forEach((values, i) => assertClose(values, expected[i]!, { atol: 0, rtol: 0, message: ops[i]! }));
  };
  await check(4, 33, ["least"]);
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(around([4, 64, 128]), fc.integer({ min: 1, max: 200 })),
      fc.oneof(around([32, 128]), fc.integer({ min: 1, max: 400 })),
      fc.subarray(["product", "sum", "largest", "least"], { minLength: 1 }),
      check,
    ),
    { numRuns: 6, endOnFailure: true },
  );
});

/** Kernels that walk rows: what is known of the whole row goes into each of its elements, or into one value of the row. */
const rowKernels: Readonly<Record<string, (x: Node, rows: number, length: number) => Node>> = {
  softmax: (x, rows, length) => {
    const along = (value: Node) => g.expand(g.reshape(value, [rows, 1]), [rows, length]);
    const exp = e("exp", e("sub", x, along(g.reduce("amax", x, [1]))));
    return e("div", exp, along(g.reduce("sum", exp, [1])));
  },
  "layer norm": (x, rows, length) => {
    const mean = (value: Node) =>
      g.expand(g.reshape(e("div", g.reduce("sum", value, [1]), g.full([rows], length, "f32")), [rows, 1]), [
        rows,
        length,
      ]);
    const centred = e("sub", x, mean(x));
    return e(
      "div",
      centred,
      e("sqrt", e("add", mean(e("mul", centred, centred)), g.full([rows, length], 1e-5, "f32"))),
    );
  },
  "sum of squares": (x) => g.reduce("sum", e("mul", x, x), [1]),
  "least and largest": (x) => e("sub", g.reduce("amax", x, [1]), g.reduce("amin", x, [1])),
};

test("rows that a workgroup walks together give what they give one by one", async (t) => {
  if (!testKinds.includes("gpu")) return t.skip("no adapter");
  const device = await testDevice("gpu");
  if (device === undefined) return t.skip("no adapter");
  const target = gpuLike(device);
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...Object.keys(rowKernels)),
      fc.integer({ min: 1, max: 70 }),
      fc.oneof(
        fc.constantFrom(255, 256, 257, 260, 511, 512, 516, 2047, 2048, 2052, 3000),
        fc.integer({ min: 1, max: 600 }),
      ),
      async (name, rows, length) => {
        const x = g.input([rows, length], "f32");
        const root = rowKernels[name]!(x, rows, length);
        const data = Float32Array.from({ length: rows * length }, (_, i) => 3 * Math.sin(i * 1.7 + rows));
        const [expected] = interpret([root], new Map([[x, data]]));
        const [actual] = await evaluate(device, { roots: [root], inputs: [x] }, [data], target);
        assertClose(actual!, expected!, { atol: 2e-6, rtol: 2e-5, message: name });
      },
    ),
    { numRuns: 20 },
  );
});

test("columns of which neighbours are one element of an operand, on either side of a product", async (t) => {
  const device = await testDevice("gpu");
  if (device === undefined) return t.skip("no WebGPU adapter");
  const [m, n, k] = [64, 64, 48];
  const [a, b] = [g.input([m, k], "f32"), g.input([k, 17], "f32")];
  // Each column of b four times, from the second one on.
  const wide = g.slice(g.reshape(g.expand(g.reshape(b, [k, 17, 1]), [k, 17, 4]), [k, 68]), [0, 1], [k, n], [1, 1]);
  const [rows, columns] = [
    g.expand(g.reshape(a, [m, 1, k]), [m, n, k]),
    g.expand(g.reshape(g.permute(wide, [1, 0]), [1, n, k]), [m, n, k]),
  ];
  const data = [wholes(m * k, 1), wholes(k * 17, 2)];
  for (const product of [e("mul", rows, columns), e("mul", columns, rows)]) {
    const root = g.reduce("sum", product, [2]);
    const [expected] = interpret([root], new Map([[a, data[0]!], [b, data[1]!]]));
    for (const target of [device.target, gpuLike(device)]) {
      const [actual] = await evaluate(device, { roots: [root], inputs: [a, b] }, data, target);
      assert.deepEqual(Array.from(actual!, (x) => x + 0), Array.from(expected!, (x) => x + 0));
    }
  }
});

test("rows of any length are walked once for each reduction, whatever a team's step", () => {
  for (const length of [500, 1000, 1023, 1024]) {
    const x = g.input([64, length], "f32");
    const { programs } = compileGraph({ roots: [softmax(x, -1)], inputs: [x] }, discreteTarget);
    assert.equal(programs.length, 1);
    // The maximum, the sum, the quotients.
    assert.equal(programs[0]!.source.match(/for \(/g)!.length, 3, `${length}`);
  }
});

test("what lanes compute of a row twice is kept on the cpu device", async () => {
  const device = cpuDevice();
  for (const length of [8, 17, 64, 103, 1024]) {
    const x = g.input([3, length], "f32");
    const root = softmax(x, -1);
    const request = { roots: [root], inputs: [x] };
    const { programs } = compileGraph(request, device.target);
    assert.equal(programs.length, 1);
    assert.equal(programs[0]!.source.match(/expUnder\(/g)!.length, 1, `${length}`);
    const data = Float32Array.from({ length: 3 * length }, (_, i) => 3 * Math.sin(i * 1.7));
    const [expected] = interpret([root], new Map([[x, data]]));
    const [actual] = await evaluate(device, request, [data]);
    assertClose(actual!, expected!, { atol: 1e-7, rtol: 2e-5 });
    const [again] = await evaluate(device, { ...request, donate: [{ input: 0, output: 0 }] }, [data]);
    assert.deepEqual(again, actual, "in place");
  }
});

test("an exponential of what is at most 0, and the quotient of a row's sum, are spelled for that on the cpu device only", async () => {
  const device = cpuDevice();
  const x = g.input([6, 40], "f32");
  const keys = (root: Node, target = device.target) => {
    const source = compileGraph({ roots: [root], inputs: [x] }, target).programs.map((program) => program.source)
      .join();
    return { under: source.includes("expUnder("), quotient: source.includes("div(1, ") };
  };
  assert.deepEqual(keys(softmax(x, -1)), { under: true, quotient: true });
  assert.deepEqual(keys(logSoftmax(x, -1)), { under: true, quotient: false });
  assert.deepEqual(keys(softmax(x, 0)), { under: true, quotient: true }, "along columns");
  const most = (of: Node, axis: number) =>
    g.expand(g.reshape(g.reduce("amax", of, [axis]), axis === 0 ? [1, 40] : [6, 1]), [6, 40]);
  const e = (a: Node, b: Node) => g.elementwise("exp", g.elementwise("sub", a, b));
  assert.deepEqual(keys(e(x, most(x, 1))), { under: true, quotient: false }, "without a shift of infinities");
  // Of another tensor's largest, and of one that is somewhere else, nothing is known.
  const other = g.elementwise("neg", x);
  assert.equal(keys(e(x, most(other, 1))).under, false);
  assert.equal(keys(e(x, g.slice(most(x, 1), [5, 0], [6, 40], [-1, 1]))).under, false);
  const shares = e(x, most(x, 1));
  const byColumn = g.expand(g.reshape(g.reduce("sum", shares, [0]), [1, 40]), [6, 40]);
  assert.equal(keys(g.elementwise("div", shares, byColumn)).quotient, false, "a sum of other rows may be 0");
  // Differences that give what is subnormal, and nothing; rows with infinities; one of equal elements.
  const rows = [
    (i: number) => -2.7 * i,
    (i: number) => i === 3 ? 0 : -87 - i / 2,
    (i: number) => i === 39 ? Infinity : i,
    (i: number) => i % 2 ? -Infinity : i,
    () => -Infinity,
    () => 7,
  ];
  const data = Float32Array.from({ length: 240 }, (_, i) => rows[Math.floor(i / 40)]!(i % 40));
  for (const root of [softmax(x, -1), shares]) {
    const [expected] = interpret([root], new Map([[x, data]]));
    const [actual] = await evaluate(device, { roots: [root], inputs: [x] }, [data]);
    assertClose(actual!, expected!, { atol: 2 ** -149, rtol: 4e-7 });
  }
});

test("a long sum of few results is cut into parts on a GPU, and is the same", async (t) => {
  if (!testKinds.includes("gpu")) return t.skip("no adapter");
  const device = await testDevice("gpu");
  if (device === undefined) return t.skip("no adapter");
  const target = gpuLike(device);
  const kernels = (shape: Shape) => {
    const { root, inputs } = product(shape);
    return compileGraph({ roots: [root], inputs }, target).steps.length;
  };
  const plain = { batch: 1, transposed: [false, false], epilogue: false } as const;
  assert.equal(kernels({ ...plain, m: 64, k: 256, n: 64 }), 1);
  assert.equal(kernels({ ...plain, m: 64, k: 4096, n: 64 }), 2);
  assert.equal(kernels({ ...plain, m: 1024, k: 4096, n: 1024 }), 1, "enough blocks without");
  const shapes = fc.record({
    batch: fc.constantFrom(1, 3),
    m: fc.integer({ min: 2, max: 40 }),
    k: fc.constantFrom(512, 768, 1000, 1500),
    n: fc.integer({ min: 2, max: 40 }),
    transposed: fc.tuple(fc.boolean(), fc.boolean()),
    epilogue: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(shapes, async (shape) => {
      await givesExactly(device, shape, target);
    }),
    {
      numRuns: 6,
      // What an invocation brings of k and its place along n are multiples of one number here.
      examples: [[{ batch: 1, m: 25, k: 1000, n: 13, transposed: [false, false], epilogue: false }]],
    },
  );
});

test("a GPU gets blocks through workgroup memory, larger ones for larger products; a software adapter never does", () => {
  const gpu: Target = {
    language: "wgsl",
    class: "discrete",
    subgroupSize: 0,
    f16: "native",
    maxStorageBuffersPerKernel: 8,
    maxInvocationsPerWorkgroup: 256,
    maxWorkgroupsPerDimension: 65535,
    maxBindingBytes: 2 ** 30,
  };
  const source = (n: number, target: Target) => {
    const { root, inputs } = product({ batch: 1, m: n, k: n, n, transposed: [false, false], epilogue: false });
    const { programs } = compileGraph({ roots: [root], inputs }, target);
    assert.equal(programs.length, 1);
    return programs[0]!.source;
  };
  assert.match(source(128, gpu), /workgroup_size\(64\)[^]*workgroupBarrier/);
  assert.match(source(512, gpu), /workgroup_size\(256\)[^]*k\d+ < 16u/);
  assert.match(source(4096, gpu), /workgroup_size\(256\)[^]*k\d+ < 8u/);
  assert.match(source(16, gpu), /workgroup_size\(64\)[^]*workgroupBarrier/);
  const x = g.input([512, 1024], "f32");
  const [softmax] = compileGraph({ roots: [rowKernels["softmax"]!(x, 512, 1024)], inputs: [x] }, gpu).programs;
  assert.match(softmax!.source, /workgroup_size\(64\)[^]*workgroupBarrier/, "rows are walked together");
  for (const subgroupSize of [0, 8]) {
    assert.doesNotMatch(source(512, { ...gpu, class: "software", subgroupSize }), /workgroupBarrier/);
  }
});

/** Values written over others that nothing needs any more: which kernels do so, which must not, and that the bits stay. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { compileGraph } from "../src/compiler/compile.ts";
import { overwriting } from "../src/compiler/group/memory.ts";
import type { Plan, Target } from "../src/compiler/plan/plan.ts";
import { readFlags, setFlags } from "../src/debug/flags.ts";
import * as g from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import { type Node, toposort } from "../src/graph/node.ts";
import { size } from "../src/graph/shape.ts";
import { compile, ones, setDefaultDevice, type Tensor } from "../src/index.ts";
import { evaluate } from "./evaluate.ts";
import { assertClose, onEachDevice } from "./harness.ts";
import { randomGraph } from "./random-graph.ts";
import { cpuTarget as cpu } from "./targets.ts";

const e = g.elementwise;
const gpu: Target = { ...cpu, language: "wgsl", maxStorageBuffersPerKernel: 10, maxBindingBytes: 2 ** 27 };
const targets: Target[] = [
  cpu,
  { ...gpu, class: "software", subgroupSize: 8 },
  { ...gpu, class: "discrete", subgroupSize: 32 },
  { ...gpu, class: "integrated" },
];

/** Runs `body` with every value written over another where it can be, however small; or nowhere. */
async function withOverwriting<T>(fromBytes: number, body: () => T): Promise<Awaited<T>> {
  const before = overwriting.fromBytes;
  overwriting.fromBytes = fromBytes;
  try {
    return await body();
  } finally {
    overwriting.fromBytes = before;
  }
}

/** `f` with a kernel for each op. */
function withoutFusion<T>(f: () => T): T {
  setFlags({ ...readFlags(() => undefined), noFuse: true });
  try {
    return f();
  } finally {
    setFlags(undefined);
  }
}

const keep = (x: Node, axis: number) => g.reshape(x, x.shape.map((n, i) => i === axis ? 1 : n));
const like = (row: Node, x: Node) => g.expand(row, x.shape);

function softmax(x: Node, axis = x.shape.length - 1): Node {
  const of = (op: "amax" | "sum", y: Node) => {
    const reduced = g.reduce(op, y, [axis]);
    return like(g.reshape(reduced, keepShape(x, axis)), x);
  };
  const weights = e("exp", e("sub", x, of("amax", x)));
  return e("div", weights, of("sum", weights));
}

function keepShape(x: Node, axis: number): number[] {
  return x.shape.map((n, i) => i === axis ? 1 : n);
}

/** Bytes of the slots that a plan uses, by slot. */
const memory = (plan: Plan) => plan.slots.map(({ bytes }) => bytes);

test("a deep chain of softmaxes needs its input and its output, on every kind of device", () => {
  for (const target of targets) {
    // A workgroup that walks a row of 500 reads on into the next one, and does not use that.
    for (const columns of target.class === "js" || target.class === "software" ? [512, 500, 511] : [512]) {
      const x = g.input([1024, columns], "f32");
      let y = x;
      for (let i = 0; i < 32; i++) y = softmax(y);
      const plan = compileGraph({ roots: [y], inputs: [x] }, target);
      const dispatches = plan.steps.filter((step) => step.kind === "dispatch").length;
      assert.equal(dispatches, 32);
      assert.equal(plan.steps.length, dispatches, "no copies");
      assert.deepEqual(memory(plan), [x, y].map(g.byteLength), `${target.class}, rows of ${columns}`);
      assert.ok(plan.programs.length <= 2, `${plan.programs.length} kernels`);
    }
  }
});

test("small values take no kernels of their own to be written over others", () => {
  const x = g.input([64, 64], "f32");
  let y = x;
  for (let i = 0; i < 8; i++) y = softmax(y);
  const plan = compileGraph({ roots: [y], inputs: [x] }, cpu);
  assert.equal(plan.programs.length, 1);
  assert.equal(plan.slots.length, 3, "the input, the output in which every other one stands, and one more");
});

test("what other invocations still read is not written over", async () => {
  const x = g.input([16, 16], "f32");
  const y = g.contiguous(e("exp", x));
  const transposed = g.permute(y, [1, 0]);
  const reversed = g.slice(y, [15, 0], [16, 16], [-1, 1]);
  const shifted = g.pad(g.slice(y, [1, 0], [15, 16], [1, 1]), [0, 0], [1, 0]);
  const product = g.reduce(
    "sum",
    e("mul", g.expand(g.reshape(y, [16, 16, 1]), [16, 16, 16]), g.expand(g.reshape(y, [1, 16, 16]), [16, 16, 16])),
    [1],
  );
  const column = e("sub", y, like(g.reshape(g.reduce("sum", y, [0]), [1, 16]), y));
  const spread = like(keep(g.slice(y, [0, 0], [1, 16], [1, 1]), 0), y);
  await withOverwriting(0, () => {
    for (const [name, root] of Object.entries({ transposed, reversed, shifted, product, spread })) {
      for (const target of targets) {
        const plan = compileGraph({ roots: [e("add", g.contiguous(root), f32(1, root.shape))], inputs: [x] }, target);
        const inPlace = plan.steps.filter((step) => step.kind === "dispatch" && step.slots.length === 1);
        // The sum may be made over what it adds to, but nothing else.
        assert.ok(
          inPlace.length <= 1,
          `${name}: ${plan.steps.map((step) => step.kind === "dispatch" ? step.slots.join() : "copy").join("; ")}`,
        );
      }
    }
    // A column's sum is made before: then each element is read by the invocation that writes it.
    assert.ok(compileGraph({ roots: [column], inputs: [x] }, cpu).slots.length >= 2);
  });
});

test("nor is what the invocations of a team, or those of other rows, still read", async () => {
  const x = g.input([64, 1024], "f32");
  const rows = (n: number) => g.contiguous(e("exp", g.input([n, 1024], "f32")));
  const sumsOf = (y: Node, start: number) =>
    like(g.reshape(g.reduce("sum", g.slice(y, [start, 0], [64, 1024], [1, 1]), [1]), [64, 1]), x);
  const [own, more] = [rows(64), rows(65)];
  const ofRow = g.contiguous(e("sin", g.input([64], "f32")));
  const cases: readonly (readonly [root: Node, memories: number, ofTeam: number])[] = [
    // Each of a team reads the row's value, and one of them stores another.
    [g.reduce("amax", e("sub", x, like(g.reshape(ofRow, [64, 1]), x)), [1]), 2, 3],
    // The row after it.
    [e("mul", x, sumsOf(more, 1)), 3, 3],
    // Its own row, before any of it is stored.
    [e("mul", own, sumsOf(own, 0)), 1, 1],
  ];
  await withOverwriting(0, () => {
    for (const [root, alone, ofTeam] of cases) {
      const inputs = toposort([root]).filter((node) => node.op === "input");
      // What comes out is small: the result stands over what it is made of, or in memory of its own.
      const least = g.reduce("amin", g.contiguous(root), [...root.shape.keys()]);
      for (const target of targets) {
        const { steps } = compileGraph({ roots: [least], inputs }, target);
        const slots = steps.map((step) => step.kind === "dispatch" ? step.slots : []);
        const memories = target.class === "discrete" || target.class === "integrated" ? ofTeam : alone;
        assert.equal(slots[1]!.length, memories, `${root.op} on ${target.class}: ${JSON.stringify(slots)}`);
      }
    }
  });
});

onEachDevice("an attention is not written over its own operands, however few blocks it walks", async (device) => {
  const wave = (n: number) => Array.from({ length: n }, (_, i) => Math.sin(1 + 0.7 * i));
  const sizes = [[1, 8, 8, 64], [1, 4, 40, 3], [2, 8, 64, 8], [1, 8, 64, 8]] as const;
  for (const [batch, d, t, s] of device.kind === "cpu" ? sizes : sizes.slice(0, 3)) {
    const inputs = [[d, t], [d, s], [d, s], [d, t], [2, t], [1, t]].map((shape) => g.input([batch, ...shape], "f32"));
    const [q, k, v, cotangent, norm, delta] = inputs.map((x) => g.contiguous(e("sin", x))) as [
      Node,
      Node,
      Node,
      Node,
      Node,
      Node,
    ];
    const roots = [
      g.attention({ q, k, v }),
      g.attentionGradient("queries", { q, k, v, norm, g: cotangent, delta }),
      g.attentionGradient("keys", { q, k, v, norm, g: cotangent, delta }),
    ];
    const data = inputs.map((x) => wave(size(x.shape)));
    for (const root of roots) {
      const request = { roots: [e("sin", root)], inputs };
      const [apart, together] = [
        await withOverwriting(Infinity, () => evaluate(device, request, data)),
        await withOverwriting(0, () => evaluate(device, request, data)),
      ];
      assert.deepEqual(together, apart, `${root.op} ${[batch, d, t, s]}`);
    }
  }
});

const f32 = (value: number, shape: readonly number[]) => g.full(shape, value, "f32");

onEachDevice("random graphs give the same bits wherever their values are written over others", async (device) => {
  // Of one graph alone there may be one more: a place is taken at the first chance.
  let saved = 0;
  await fc.assert(
    fc.asyncProperty(
      randomGraph({ transcendental: false, length: 14 }),
      fc.boolean(),
      async ({ roots, inputs, given }, fuse) => {
        const data = inputs.map((input) => given.get(input)!);
        const run = (fromBytes: number) =>
          withOverwriting(fromBytes, () => {
            const slots = fuse
              ? compileGraph({ roots, inputs }, device.target).slots.length
              : withoutFusion(() => compileGraph({ roots, inputs }, device.target)).slots.length;
            const values = fuse
              ? evaluate(device, { roots, inputs }, data)
              : withoutFusion(() => evaluate(device, { roots, inputs }, data));
            return values.then((values) => ({ slots, values }));
          });
        const [apart, together] = [await run(Infinity), await run(0)];
        assert.deepEqual(together.values, apart.values);
        saved += apart.slots - together.slots;
      },
    ),
    device.kind === "cpu" ? { numRuns: 300 } : { numRuns: 25, endOnFailure: true },
  );
  // So few graphs as on a GPU may all be without a value to write over.
  if (device.kind === "cpu") assert.ok(saved > 0, `${saved} places in memory saved`);
});

onEachDevice("softmaxes along rows and columns, in place, give what the interpreter gives", async (device) => {
  const x = g.input([24, 40], "f32");
  let y = x;
  for (let i = 0; i < 6; i++) y = g.contiguous(e("mul", softmax(y, i % 3 === 2 ? 0 : 1), f32(3, x.shape)));
  const values = Array.from({ length: 24 * 40 }, (_, i) => 3 * Math.sin(i * 12.9898));
  const [expected] = interpret([y], new Map([[x, values]]));
  for (
    const target of [
      device.target,
      ...(device.kind === "gpu" ? [{ ...device.target, class: "discrete" as const }] : []),
    ]
  ) {
    const [actual] = await withOverwriting(0, () => evaluate(device, { roots: [y], inputs: [x] }, [values], target));
    assertClose(actual!, expected!, { atol: 1e-5, rtol: 1e-4, message: target.class });
  }
});

onEachDevice("a compiled chain takes no memory beside its input and its output", async (device) => {
  setDefaultDevice(device);
  try {
    const deep = compile((x: Tensor) => {
      let y = x;
      for (let i = 0; i < 8; i++) y = y.softmax({ axis: -1 });
      return y;
    });
    const x = await ones([512, 512], { device }).mul(0.5).realize();
    const { liveBytes } = device.stats();
    const y = await deep(x);
    assert.ok(
      device.stats().liveBytes - liveBytes <= 512 * 512 * 4,
      `${device.stats().liveBytes - liveBytes} bytes more`,
    );
    assert.ok(Math.abs((await y.data())[7]! - 1 / 512) < 1e-6);
  } finally {
    setDefaultDevice(undefined);
  }
});

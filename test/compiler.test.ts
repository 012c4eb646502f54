/** The compiler against the interpreter: random graphs on every device, index arithmetic, kernel counts, updates in place. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { gradients } from "../src/autograd/grad.ts";
import { compileGraph, type CompileRequest } from "../src/compiler/compile.ts";
import {
  add,
  addConstant,
  atMost,
  divide,
  eachLeaf,
  flatten,
  type Index,
  remainder,
  scale,
  strideInGroup,
  unflatten,
  type Variable,
  variableIndex,
} from "../src/compiler/kernel/index-arithmetic.ts";
import { schedule } from "../src/compiler/group/fuse.ts";
import { isContraction } from "../src/compiler/kernel/patterns.ts";
import type { Plan, Target } from "../src/compiler/plan/plan.ts";
import { simplify } from "../src/compiler/simplify/simplify.ts";
import { readFlags, setFlags } from "../src/debug/flags.ts";
import { ArgumentError, InternalError } from "../src/errors.ts";
import * as g from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import { type Node, toposort } from "../src/graph/node.ts";
import { size, strides } from "../src/graph/shape.ts";
import { convolve, convolveTransposed } from "../src/tensor/ops/conv.ts";
import { evaluate } from "./evaluate.ts";
import { assertClose, onEachDevice, testDevices } from "./harness.ts";
import { randomGraph } from "./random-graph.ts";
import { cpuTarget } from "./targets.ts";

const e = g.elementwise;
/** Kernels and copies of a plan for the cpu device. */
function steps(
  roots: readonly Node[],
  inputs: readonly Node[],
  donate: CompileRequest["donate"] = [],
): { kernels: number; copies: number; plan: Plan } {
  const plan = compileGraph({ roots, inputs, donate }, cpuTarget);
  const kernels = plan.steps.filter((step) => step.kind === "dispatch").length;
  return { kernels, copies: plan.steps.length - kernels, plan };
}

const sine = (n: number, seed = 1) =>
  Float32Array.from({ length: n }, (_, i) => 1.5 * Math.sin(12.9898 * i + 78.233 * seed));
const keep = (x: Node, axis: number) => g.reshape(x, [...x.shape.slice(0, axis), 1, ...x.shape.slice(axis)]);
const rows = (x: Node, like: Node) => g.expand(keep(x, like.shape.length - 1), like.shape);
const f32 = (value: number, shape: readonly number[] = []) => g.full(shape, value, "f32");

function matmul(a: Node, b: Node): Node {
  const [m, k] = a.shape as [number, number];
  const n = b.shape[1]!;
  return g.reduce("sum", e("mul", g.expand(keep(a, 2), [m, k, n]), g.expand(keep(b, 0), [m, k, n])), [1]);
}

function softmax(x: Node): Node {
  const axis = x.shape.length - 1;
  const powers = e("exp", e("sub", x, rows(g.reduce("amax", x, [axis]), x)));
  return e("div", powers, rows(g.reduce("sum", powers, [axis]), x));
}

function layerNorm(x: Node): Node {
  const axis = x.shape.length - 1;
  const mean = (y: Node) => {
    const sum = g.reduce("sum", y, [axis]);
    return e("div", sum, f32(x.shape[axis]!, sum.shape));
  };
  const centered = e("sub", x, rows(mean(x), x));
  const variance = mean(e("mul", centered, centered));
  return e("div", centered, rows(e("sqrt", e("add", variance, f32(1e-5, variance.shape))), x));
}

function gelu(x: Node): Node {
  const half = e("mul", x, f32(0.5, x.shape));
  return e("mul", half, e("add", f32(1, x.shape), e("erf", e("mul", x, f32(Math.SQRT1_2, x.shape)))));
}

/** Mean cross-entropy of integer labels. */
function crossEntropy(logits: Node, labels: Node): Node {
  const [n, classes] = logits.shape as [number, number];
  const largest = g.stopGradient(g.reduce("amax", logits, [1]));
  const shifted = e("sub", logits, rows(largest, logits));
  const logSum = e("log", g.reduce("sum", e("exp", shifted), [1]));
  const isLabel = e("eq", g.broadcastTo(g.iota(classes), [n, classes]), rows(labels, logits));
  const picked = g.reduce("sum", e("where", isLabel, shifted, f32(0, [n, classes])), [1]);
  return e("div", g.reduce("sum", e("sub", logSum, picked), [0]), f32(n));
}

/** One step of SGD with momentum on an MLP whose parameters lie in one flat vector. */
function mlpStep(
  n: number,
  widths: readonly [number, number, number],
): { roots: Node[]; inputs: Node[]; donate: CompileRequest["donate"] } {
  const [a, b, c] = widths;
  const lengths = [a * b, b, b * c, c];
  const total = lengths.reduce((sum, length) => sum + length, 0);
  const x = g.input([n, a], "f32");
  const labels = g.input([n], "i32");
  const flat = g.input([total], "f32");
  const momentum = g.input([total], "f32");
  const count = g.input([], "f32");
  let start = 0;
  const [w1, b1, w2, b2] = [[a, b], [b], [b, c], [c]].map((shape) => {
    const part = g.reshape(g.slice(flat, [start], [size(shape)], [1]), shape);
    start += size(shape);
    return part;
  }) as [Node, Node, Node, Node];
  const hidden = e("relu", e("add", matmul(x, w1), g.broadcastTo(b1, [n, b])));
  const loss = crossEntropy(e("add", matmul(hidden, w2), g.broadcastTo(b2, [n, c])), labels);
  const grads = gradients([loss], [w1, b1, w2, b2]);
  const gradient = g.concat(grads.map((grad) => g.reshape(grad, [size(grad.shape)])), 0);
  const nextCount = e("add", count, f32(1));
  const nextMomentum = e("add", e("mul", momentum, f32(0.9, [total])), gradient);
  const rate = e("div", f32(0.1), e("sqrt", nextCount));
  const next = e("sub", flat, e("mul", nextMomentum, g.broadcastTo(rate, [total])));
  return {
    roots: [loss, next, nextMomentum, nextCount],
    inputs: [x, labels, flat, momentum, count],
    donate: [{ input: 2, output: 1 }, { input: 3, output: 2 }, { input: 4, output: 3 }],
  };
}

/**
 * Whether rounding can only change the last bits: no f32 beyond what 24 bits hold, and no quotient, which devices round
 * differently, in a graph with an op that jumps.
 */
function isRobust(roots: readonly Node[], given: ReadonlyMap<Node, ArrayLike<number>>): boolean {
  const nodes = toposort(roots);
  const jumps: readonly string[] = [
    "floor",
    "ceil",
    "trunc",
    "round",
    "sign",
    "lt",
    "le",
    "eq",
    "ne",
    "cast",
    "argsort",
  ];
  if (nodes.some((node) => node.op === "div") && nodes.some((node) => jumps.includes(node.op))) return false;
  const values = interpret(nodes, given);
  return nodes.every((node, i) => node.dtype !== "f32" || values[i]!.every((value) => Math.abs(value) <= 2 ** 20));
}

onEachDevice("random graphs give what the interpreter gives", async (device) => {
  await fc.assert(
    fc.asyncProperty(randomGraph({ transcendental: false, length: 10 }), async ({ roots, inputs, given }) => {
      fc.pre(isRobust(roots, given));
      const expected = interpret(roots, given);
      const actual = await evaluate(device, { roots, inputs }, inputs.map((input) => given.get(input)!));
      actual.forEach((values, i) =>
        assertClose(values, expected[i]!, { atol: 1e-4, rtol: 1e-4, message: `root ${i}` })
      );
    }),
    // A GPU's driver compiles each graph anew, and each that shrinking tries.
    device.kind === "cpu" ? { numRuns: 300 } : { numRuns: 40, endOnFailure: true },
  );
});

test("no kernel uses atomics: sums of floats never depend on the order in which invocations run", () => {
  const gpu: Target = { ...cpuTarget, language: "wgsl", maxStorageBuffersPerKernel: 10, maxBindingBytes: 2 ** 27 };
  const targets: Target[] = [
    { ...gpu, class: "software", subgroupSize: 8 },
    { ...gpu, class: "discrete", subgroupSize: 32 },
    { ...gpu, class: "integrated" },
  ];
  const x = g.input([64, 96], "f32");
  const index = g.input([64, 96], "i32");
  const table = g.input([50, 96], "f32");
  const cotangent = g.input([64, 96], "f32");
  const roots = [
    g.scatterAdd(index, x, 0, 50),
    g.scatterMax(table, index, x, 0),
    ...gradients([g.gather(table, index, 0)], [table], [cotangent]),
    matmul(x, g.permute(x, [1, 0])),
    g.reduce("sum", x, [0, 1]),
    g.argsort(x),
    softmax(x),
  ];
  fc.assert(
    fc.property(randomGraph(), fc.constantFrom(...targets), (random, target) => {
      const graphs = [
        { roots, inputs: [x, index, table, cotangent] },
        { roots: random.roots, inputs: random.inputs },
      ];
      for (const graph of graphs) {
        for (const { source, name } of compileGraph(graph, target).programs) {
          assert.doesNotMatch(source, /atomic|compareExchange/i, name);
          assert.match(source, /@compute/);
        }
      }
    }),
    { numRuns: 60 },
  );
});

test("what no kernel holds is refused by the scheduler, not taken for an elementwise op", () => {
  const x = g.input([3], "f32");
  for (const node of [g.allReduce(x, "sum"), g.allGather(x, 6), g.reduceScatter(x, 3)]) {
    const wanted = { roots: [e("neg", node)], given: new Set([x]), stored: new Set<Node>(), fuse: true };
    assert.throws(
      () => schedule(wanted),
      (error) => error instanceof InternalError && error.got === `${node.op} inside a kernel`,
    );
  }
});

test("without fusion a plan gives the same values with a kernel per op", () => {
  const x = g.input([5, 7], "f32");
  const roots = [gelu(softmax(x))];
  const fused = steps(roots, [x]);
  setFlags({ ...readFlags(() => undefined), noFuse: true });
  try {
    const unfused = steps(roots, [x]);
    assert.ok(unfused.kernels >= 8, `${unfused.kernels} kernels`);
    assert.equal(fused.kernels, 1);
  } finally {
    setFlags(undefined);
  }
});

test("kernel counts of common functions", () => {
  const x = g.input([64, 96], "f32");
  const w = g.input([96, 32], "f32");
  const b = g.input([32], "f32");
  const labels = g.input([64], "i32");
  const linear = e("relu", e("add", matmul(x, w), g.broadcastTo(b, [64, 32])));
  const count = (roots: Node[], inputs: Node[]) => steps(roots, inputs).kernels;
  assert.equal(count([gelu(x)], [x]), 1, "gelu");
  assert.equal(count([softmax(x)], [x]), 1, "softmax");
  assert.equal(count([layerNorm(x)], [x]), 1, "layer norm");
  assert.equal(count([crossEntropy(x, labels)], [x, labels]), 2, "cross-entropy");
  assert.equal(count(gradients([crossEntropy(x, labels)], [x]), [x, labels]), 1, "gradient of cross-entropy");
  assert.equal(count([linear], [x, w, b]), 1, "linear with bias and relu");
  const [table, index] = [g.input([20, 96], "f32"), g.input([64, 96], "i32")];
  const largest = g.scatterMax(e("exp", table), index, e("neg", x), 0);
  assert.equal(count([largest], [table, index, x]), 1, "the largest by index, of computed values and onto them");
  const shares = gradients([g.reduce("sum", e("mul", largest, largest), [0, 1])], [table, x]);
  assert.equal(
    count([largest, ...shares], [table, index, x]),
    4,
    "with its gradients: the count of equal ones, and two",
  );
  assert.equal(count([matmul(g.permute(x, [1, 0]), linear)], [x, w, b]), 2, "a matmul of a matmul");
  assert.equal(
    count([g.concat([g.reshape(e("exp", x), [6144]), g.reshape(e("neg", w), [3072])], 0)], [x, w]),
    2,
    "concat of two maps",
  );
});

test("a convolution and its gradients are one contraction each, with copies of what a large one reads again and again", () => {
  const programs = (roots: readonly Node[], inputs: readonly Node[]) => {
    const { plan } = steps(roots, inputs);
    return plan.steps.map((step) =>
      step.kind === "dispatch" ? plan.programs[step.program]!.name.split("_")[0] : "copy"
    );
  };
  for (const groups of [1, 2]) {
    for (const [n, side, copies] of [[1, 4, 0], [64, 12, 1]] as const) {
      const [x, w] = [g.input([n, side, side, 32], "f32"), g.input([3, 3, 32 / groups, 32], "f32")];
      const bias = g.input([32], "f32");
      const y = convolve("conv2d", x, w, { padding: "same", groups }, 2);
      const cotangent = g.input(y.shape, "f32");
      const [dx, dw] = gradients([y], [x, w], [cotangent]) as [Node, Node];
      const relu = e("relu", e("add", y, g.broadcastTo(bias, y.shape)));
      const expected = [...new Array<string>(copies).fill("map"), "contract"];
      assert.deepEqual(
        programs([relu], [x, w, bias]),
        expected,
        `forward with bias and relu, ${n} in ${groups} groups`,
      );
      assert.deepEqual(programs([dw], [x, cotangent]), expected, `by the weights, ${n} in ${groups} groups`);
      // The padded cotangent and the weights, whose input channels become neighbours.
      assert.deepEqual(
        programs([dx], [w, cotangent]),
        [...new Array<string>(copies).fill("map"), ...expected],
        `by the input, ${n} in ${groups} groups`,
      );
      const transposed = convolveTransposed("convTranspose2d", cotangent, g.permute(w, [0, 1, 2, 3]), {
        padding: "same",
      }, 2);
      if (groups === 1) assert.ok(isContractionOf(simplify([transposed], new Set([w, cotangent]))[0]!), "transposed");
    }
  }
});

/** Whether a node is one sum of products, of which nothing but movement is below. */
function isContractionOf(node: Node): boolean {
  const inner = toposort([node]).filter((x) => x.op === "sum" || x.op === "unwindow");
  return inner.length === 1 && inner[0]!.op === "sum" && isContraction(inner[0]!);
}

/** The gradient of the sum of a max pool over windows of 2 by 2 that do not overlap, after a relu. */
function poolGradient(shape: readonly number[]): { x: Node; dx: Node } {
  const x = g.input(shape, "f32");
  const [n, h, w, c] = shape as [number, number, number, number];
  const windows = g.reshape(e("relu", x), [n, h / 2, 2, w / 2, 2, c]);
  const pooled = g.reduce("amax", windows, [2, 4]);
  const loss = g.reduce("sum", e("mul", pooled, pooled), [0, 1, 2, 3]);
  return { x, dx: gradients([loss], [x])[0]! };
}

test("the gradient of pooling is computed window by window: what a window has is loaded once", () => {
  const { x, dx } = poolGradient([8, 12, 12, 16]);
  for (const [language, kind] of [["wgsl", "software"], ["wgsl", "discrete"], ["js", "js"]] as const) {
    const { programs } = compileGraph({ roots: [dx], inputs: [x] }, { ...cpuTarget, language, class: kind });
    const { source } = programs.at(-1)!;
    assert.equal(source.match(/^\s*b1\[/gm)?.length, 4, source);
    assert.equal(source.match(/\bb0\[/g)?.length, 4, source);
  }
});

onEachDevice("the gradient of pooling, where windows fill the axes and where they do not", async (device) => {
  for (const shape of [[2, 12, 8, 8], [1, 4, 6, 3], [3, 2, 2, 1]]) {
    const { x, dx } = poolGradient(shape);
    const data = sine(size(shape));
    const [expected] = interpret([dx], new Map([[x, data]]));
    const [actual] = await evaluate(device, { roots: [dx], inputs: [x] }, [data]);
    assertClose(actual!, expected!);
  }
});

test("the step of an MLP is ten kernels, updates in place and copies nothing", () => {
  const { roots, inputs, donate } = mlpStep(128, [784, 64, 10]);
  const { kernels, copies, plan } = steps(roots, inputs, donate);
  assert.equal(kernels, 10);
  assert.equal(copies, 0);
  for (const { input, output } of donate!) assert.equal(plan.outputs[output], plan.inputs[input]);
});

onEachDevice("three steps of an MLP in place agree with the interpreter", async (device) => {
  const { roots, inputs, donate } = mlpStep(12, [9, 8, 5]);
  const x = sine(108);
  const labels = Int32Array.from({ length: 12 }, (_, i) => i % 5);
  let state: ArrayLike<number>[] = [sine(125, 2), new Float32Array(125), [0]];
  let expected: ArrayLike<number>[] = state;
  for (let step = 0; step < 3; step++) {
    const [loss, ...next] = await evaluate(device, { roots, inputs, donate: donate! }, [x, labels, ...state]);
    const values = [x, labels, ...expected];
    const [expectedLoss, ...expectedNext] = interpret(roots, new Map(inputs.map((input, i) => [input, values[i]!])));
    assertClose(loss!, expectedLoss!, { rtol: 1e-5 });
    next.forEach((value, i) => assertClose(value, expectedNext[i]!, { rtol: 1e-4, atol: 1e-5 }));
    [state, expected] = [next, expectedNext];
  }
});

onEachDevice("a donated input that is read elsewhere too keeps its old value for that reader", async (device) => {
  const x = g.input([40], "f32");
  const flipped = g.slice(x, [39], [40], [-1]);
  const data = sine(40);
  const next = e("mul", x, f32(2, [40]));
  const ofBoth = e("mul", g.expand(g.reshape(g.reduce("sum", next, [0]), [1]), [40]), flipped);
  for (const roots of [[e("add", x, flipped)], [next, e("exp", flipped)], [next, ofBoth], [next, x]]) {
    const actual = await evaluate(device, { roots, inputs: [x], donate: [{ input: 0, output: 0 }] }, [data]);
    const expected = interpret(roots, new Map([[x, data]]));
    actual.forEach((values, i) => assertClose(values, expected[i]!));
  }
});

onEachDevice("two donated inputs may be swapped", async (device) => {
  const [a, b] = [g.input([8], "f32"), g.input([8], "f32")];
  const roots = [e("add", b, f32(1, [8])), e("mul", a, f32(2, [8]))];
  const data = [sine(8), sine(8, 2)];
  const actual = await evaluate(device, {
    roots,
    inputs: [a, b],
    donate: [{ input: 0, output: 0 }, { input: 1, output: 1 }],
  }, data);
  const expected = interpret(roots, new Map([[a, data[0]!], [b, data[1]!]]));
  actual.forEach((values, i) => assertClose(values, expected[i]!));
});

test("state that is packed by concat is updated in place too", () => {
  const state = g.input([3], "f32");
  const part = (i: number) => g.slice(state, [i], [1], [1]);
  const next = g.concat([part(0), e("add", part(1), f32(1, [1])), e("mul", part(2), part(1))], 0);
  const { kernels, copies } = steps([next], [state], [{ input: 0, output: 0 }]);
  assert.deepEqual({ kernels, copies }, { kernels: 1, copies: 0 });
});

onEachDevice("edges of tiles: contractions of every small shape", async (device) => {
  const sizes = device.kind === "cpu" ? [1, 2, 3, 5, 8, 9, 17] : [1, 5, 8, 9];
  for (const m of sizes) {
    for (const n of sizes) {
      const k = (m * 7 + n) % 11 + 1;
      const [a, b] = [g.input([m, k], "f32"), g.input([k, n], "f32")];
      const data = [sine(m * k), sine(k * n, 2)];
      const roots = [matmul(a, b)];
      const [actual] = await evaluate(device, { roots, inputs: [a, b] }, data);
      assertClose(actual!, interpret(roots, new Map([[a, data[0]!], [b, data[1]!]]))[0]!, {
        message: `[${m}, ${k}] @ [${k}, ${n}]`,
      });
    }
  }
});

onEachDevice(
  "contractions large enough for blocks, plain, transposed, padded, batched, with an epilogue",
  async (device) => {
    for (const [m, k, n] of [[32, 5, 32], [33, 7, 40], [70, 9, 66], [64, 20, 35]] as const) {
      const [a, at, b, bias] = [
        g.input([m, k], "f32"),
        g.input([k, m], "f32"),
        g.input([k, n], "f32"),
        g.input([n], "f32"),
      ];
      const inputs = [a, at, b, bias];
      const data = inputs.map((input, i) => sine(size(input.shape), i + 1));
      const batch = [2, m, k, n];
      const product = e("mul", g.broadcastTo(keep(a, 2), batch), g.broadcastTo(keep(b, 0), batch));
      const roots = [
        e("relu", e("add", matmul(a, b), g.broadcastTo(bias, [m, n]))),
        g.reshape(matmul(g.permute(at, [1, 0]), b), [m * n]),
        g.permute(matmul(g.pad(a, [1, 0], [0, 2]), g.pad(b, [0, 3], [2, 0])), [1, 0]),
        g.reduce("sum", product, [2]),
      ];
      const expected = interpret(roots, new Map(inputs.map((input, i) => [input, data[i]!])));
      const actual = await evaluate(device, { roots, inputs }, data);
      actual.forEach((values, i) =>
        assertClose(values, expected[i]!, { message: `[${m}, ${k}] @ [${k}, ${n}], variant ${i}`, atol: 1e-5 })
      );
    }
  },
);

onEachDevice("long reductions of awkward lengths", async (device) => {
  for (const shape of [[10007], [3, 20011], [9000, 5]]) {
    const x = g.input(shape, "f32");
    const data = sine(size(shape));
    const longest = shape[0]! > shape[shape.length - 1]! ? 0 : shape.length - 1;
    const roots = [
      g.reduce("sum", x, [longest]),
      g.reduce("amax", x, [longest]),
      g.reduce("amin", x, shape.map((_, axis) => axis)),
    ];
    const actual = await evaluate(device, { roots, inputs: [x] }, [data]);
    const expected = interpret(roots, new Map([[x, data]]));
    actual.forEach((values, i) => assertClose(values, expected[i]!, { atol: 2e-3, rtol: 1e-5 }));
  }
});

onEachDevice("more operands than a kernel may bind", async (device) => {
  const inputs = Array.from({ length: 40 }, () => g.input([16], "f32"));
  const data = inputs.map((_, i) => sine(16, i));
  const roots = [inputs.reduce((sum, x) => e("add", e("mul", sum, f32(0.5, [16])), x))];
  const [actual] = await evaluate(device, { roots, inputs }, data);
  assertClose(actual!, interpret(roots, new Map(inputs.map((x, i) => [x, data[i]!])))[0]!);
});

test("a matrix product that is laid out flat is tiled by its own rows and columns", async () => {
  const a = g.input([24, 20], "f32");
  const b = g.input([20, 16], "f32");
  const c = g.input([24, 16], "f32");
  const product = matmul(a, b);
  const flat = (x: Node) => g.reshape(x, [size(x.shape)]);
  const scaled = e("mul", matmul(a, b), f32(2, product.shape));
  // As a part of a vector, as a root, and with an epilogue; the vector's other part is elementwise.
  for (
    const roots of [
      [g.concat([flat(product), flat(e("neg", c))], 0)],
      [flat(product)],
      [g.concat([flat(c), flat(e("add", scaled, c))], 0), flat(product)],
    ]
  ) {
    const { plan } = steps(roots, [a, b, c]);
    const contractions = plan.programs.filter(({ name }) => name.startsWith("contract"));
    assert.ok(contractions.length > 0);
    for (const { name } of contractions) assert.match(name, /^contract_24x/);
    const values = [sine(480, 1), sine(320, 2), sine(384, 3)];
    const want = interpret(roots, new Map([a, b, c].map((node, i) => [node, values[i]!])));
    for (const device of await testDevices()) {
      const got = await evaluate(device, { roots, inputs: [a, b, c] }, values);
      got.forEach((x, i) => assertClose(x, want[i]!, { message: `root ${i} on ${device.name}` }));
    }
  }
});

test("equal graphs give equal plans", () => {
  const make = () => {
    const x = g.input([8, 8], "f32");
    return compileGraph({ roots: [softmax(matmul(x, x))], inputs: [x] }, cpuTarget);
  };
  assert.deepEqual(make(), make());
});

test("temporaries share memory: a deep chain of softmaxes keeps two of them", () => {
  const x = g.input([32, 32], "f32");
  let y = x;
  for (let i = 0; i < 32; i++) y = softmax(y);
  const { plan } = steps([y], [x]);
  assert.ok(plan.temporaries.length <= 2, `${plan.temporaries.length} temporaries`);
});

const variables: readonly Variable[] = [{ name: "a", extent: 4 }, { name: "b", extent: 6 }, { name: "c", extent: 5 }];

function valueOf(index: Index, at: ReadonlyMap<string, number>): number {
  return index.terms.reduce((sum, { atom, coefficient }) => {
    const inner = (of: Index) => valueOf(of, at);
    const value = atom.kind === "variable"
      ? at.get(atom.variable.name)!
      : atom.kind === "div"
      ? Math.floor(inner(atom.of) / atom.by)
      : atom.kind === "mod"
      ? inner(atom.of) % atom.by
      : atom.kind === "min"
      ? Math.min(inner(atom.of), atom.limit)
      : NaN;
    return sum + coefficient * value;
  }, index.offset);
}

/** A random non-negative index beside the function that it should compute. */
const indexArbitrary = fc.array(fc.tuple(fc.nat(5), fc.integer({ min: 1, max: 7 }), fc.nat(2)), {
  minLength: 1,
  maxLength: 9,
}).map((tape) => {
  let index = variableIndex(variables[0]!);
  let compute = (at: readonly number[]) => at[0]!;
  for (const [choice, n, v] of tape) {
    const before = compute;
    switch (choice) {
      case 0:
        index = add(index, scale(variableIndex(variables[v]!), n));
        compute = (at) => before(at) + at[v]! * n;
        break;
      case 1:
        index = divide(index, n);
        compute = (at) => Math.floor(before(at) / n);
        break;
      case 2:
        index = remainder(index, n);
        compute = (at) => before(at) % n;
        break;
      case 3:
        index = addConstant(scale(index, n), v);
        compute = (at) => before(at) * n + v;
        break;
      case 4:
        index = atMost(index, n * 3);
        compute = (at) => Math.min(before(at), n * 3);
        break;
      default:
        // Read backwards, as a flip does.
        index = addConstant(scale(index, -1), index.max);
        compute = flip(before, index);
    }
  }
  return { index, compute };
});

/** last - x, where last is the constant that the flipped index carries beyond -x. */
function flip(before: (at: readonly number[]) => number, flipped: Index): (at: readonly number[]) => number {
  const zero = new Map(variables.map(({ name }) => [name, 0]));
  const last = valueOf(flipped, zero) + before([0, 0, 0]);
  return (at) => last - before(at);
}

test("index arithmetic computes what it says, within the range it says", () => {
  fc.assert(
    fc.property(indexArbitrary, ({ index, compute }) => {
      for (let a = 0; a < 4; a++) {
        for (let b = 0; b < 6; b++) {
          for (let c = 0; c < 5; c++) {
            const value = valueOf(index, new Map([["a", a], ["b", b], ["c", c]]));
            assert.equal(value, compute([a, b, c]));
            assert.ok(value >= index.min && value <= index.max, `${value} in ${index.min}..${index.max}`);
          }
        }
      }
    }),
    { numRuns: 2000 },
  );
});

test("what an index grows by in an aligned group of neighbours is what it is said to be", () => {
  const groups: readonly [axis: number, group: number][] = [[0, 2], [0, 4], [1, 2], [1, 3]];
  fc.assert(
    fc.property(indexArbitrary, fc.constantFrom(...groups), ({ index }, [axis, group]) => {
      const stride = strideInGroup(index, variables[axis]!, group);
      if (stride === undefined) return;
      const extents = variables.map(({ extent }) => extent);
      for (let position = 0; position < size(extents); position++) {
        const at = unravel(position, extents);
        if (at[axis]! % group === group - 1) continue;
        const value = (more: number) =>
          valueOf(index, new Map(variables.map(({ name }, i) => [name, at[i]! + (i === axis ? more : 0)])));
        assert.equal(value(1) - value(0), stride);
      }
    }),
    { numRuns: 2000 },
  );
});

function unravel(position: number, extents: readonly number[]): number[] {
  let rest = position;
  return extents.toReversed().map((extent) => {
    const digit = rest % extent;
    rest = Math.floor(rest / extent);
    return digit;
  }).reverse();
}

test("flattening an unflattened position leaves no division", () => {
  fc.assert(fc.property(fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 5 }), (shape) => {
    const position = variableIndex({ name: "p", extent: size(shape) });
    const back = flatten(unflatten(position, shape), strides(shape));
    let leaves = 0;
    eachLeaf(back, () => leaves++);
    assert.equal(back.key, position.key);
    assert.ok(leaves <= 1);
  }));
});

/** Two layers with dropout-like masks, a reduction, a concatenation and running sums: a graph whose plan has temporaries of many sizes. */
function ofAnItem(): { roots: Node[]; inputs: Node[] } {
  const [x, w, mask] = [g.input([5, 7], "f32"), g.input([7, 6], "f32"), g.input([5, 6], "bool")];
  const product = g.reduce(
    "sum",
    g.elementwise("mul", g.expand(g.reshape(x, [5, 7, 1]), [5, 7, 6]), g.expand(g.reshape(w, [1, 7, 6]), [5, 7, 6])),
    [1],
  );
  const masked = g.elementwise("where", mask, g.elementwise("tanh", product), g.full([5, 6], 0, "f32"));
  const sums = g.reduce("sum", masked, [0]);
  const joined = g.concat([sums, g.elementwise("exp", sums), g.reshape(g.reduce("amax", masked, [0, 1]), [1])], 0);
  return { roots: [joined, masked, w, g.scan("sum", masked, 0), g.scan("sum", masked, 1)], inputs: [x, w, mask] };
}

onEachDevice("a plan for items gives each of them the bits that it gives one alone", async (device) => {
  const { roots, inputs } = ofAnItem();
  const plan = compileGraph({ roots, inputs, common: [1] }, device.target);
  assert.equal(plan.items, true);
  assert.ok(plan.slots[plan.inputs[1]!]!.common);
  const items = 5;
  const executable = await device.load(plan, items);
  const stride = (slot: number) => plan.slots[slot]!.bytes;
  const x = device.alloc(items * stride(plan.inputs[0]!));
  const w = device.alloc(stride(plan.inputs[1]!));
  const mask = device.alloc(items * stride(plan.inputs[2]!));
  const noise = (length: number, seed: number) => Float32Array.from({ length }, (_, i) => Math.sin(seed + 1.7 * i * i));
  device.write(w, noise(42, 0));
  for (let item = 0; item < items; item++) {
    device.write(x, noise(35, item + 1), item * stride(plan.inputs[0]!));
    device.write(
      mask,
      Uint32Array.from({ length: 30 }, (_, i) => +((i * 7 + item) % 3 > 0)),
      item * stride(plan.inputs[2]!),
    );
  }
  const outputs = plan.outputs.map((slot) => device.alloc(items * stride(slot)));
  const before = device.stats().dispatches;
  device.run(executable, [x, w, mask], outputs, items);
  if (device.kind === "gpu") {
    assert.equal(device.stats().dispatches - before, plan.programs.length, "one dispatch for all items");
  }
  for (let item = 0; item < items; item++) {
    const data = [
      noise(35, item + 1),
      noise(42, 0),
      Uint32Array.from({ length: 30 }, (_, i) => +((i * 7 + item) % 3 > 0)),
    ];
    const alone = await evaluate(device, { roots, inputs }, data);
    for (const [i, root] of roots.entries()) {
      const bytes = await device.read(outputs[i]!, item * stride(plan.outputs[i]!), g.byteLength(root));
      assert.deepEqual(new Float32Array(bytes), alone[i], `root ${i} of item ${item}`);
    }
  }
  assert.throws(() => device.run(executable, [x, w, mask], outputs, items + 1), ArgumentError);
  executable.release();
});

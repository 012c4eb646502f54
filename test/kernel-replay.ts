/**
 * The kernels that graphs of all sorts compile to, as text: one line for each, with its name and a hash of its source. What a
 * change of the compiler alters shows as a difference of `fixtures/kernels.txt`; `npm run record:kernels` writes it anew.
 */
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { compileGraph } from "../src/compiler/compile.ts";
import type { Plan, Target } from "../src/compiler/plan/plan.ts";
import type { DType } from "../src/graph/dtype.ts";
import * as s from "../src/index.ts";
import type { Tensor } from "../src/index.ts";
import { placeholder, trace } from "../src/tensor/transform/trace.ts";
import { cpuTarget, discreteTarget } from "./targets.ts";

/** What is recorded, and what each target is there for. */
const targets: Readonly<Record<string, Target>> = {
  cpu: cpuTarget,
  discrete: discreteTarget,
  "software, packed halves": {
    ...discreteTarget,
    class: "software",
    subgroupSize: 0,
    f16: "packed",
    maxStorageBuffersPerKernel: 16,
  },
};

type Spec = readonly number[] | readonly [DType, ...number[]];

interface Graph {
  /** Shapes of the inputs; f32 without a dtype. */
  readonly of: readonly Spec[];
  readonly make: (...inputs: Tensor[]) => Tensor | readonly Tensor[];
  /** Inputs of which outputs are written in place, by position. */
  readonly donate?: readonly (readonly [input: number, output: number])[];
}

const graph = (of: readonly Spec[], make: Graph["make"], donate?: Graph["donate"]): Graph => ({
  of,
  make,
  ...donate && { donate },
});

/** Values and their gradients by all inputs that are floats. */
const withGradients = (make: (...inputs: Tensor[]) => Tensor) => (...inputs: Tensor[]): Tensor[] => {
  const y = make(...inputs);
  return [y, ...s.grad(y.mul(y).sum(), inputs.filter((x) => x.dtype === "f32" || x.dtype === "f16"))];
};

const layerNorm = (x: Tensor, scale: Tensor) => {
  const centred = x.sub(x.mean({ axis: -1, keepDims: true }));
  return centred.mul(centred.square().mean({ axis: -1, keepDims: true }).add(1e-5).rsqrt()).mul(scale);
};
const crossEntropy = (logits: Tensor, labels: Tensor) =>
  logits.logSoftmax().mul(labels.oneHot(logits.shape[1]!)).sum().neg().div(logits.shape[0]!);
const heads = (x: Tensor, n: number) => x.reshape([...x.shape.slice(0, 2), n, -1]).permute([0, 2, 1, 3]);
const block = (x: Tensor, qkv: Tensor, out: Tensor, up: Tensor, down: Tensor, scale: Tensor) => {
  const [q, k, v] = layerNorm(x, scale).matmul(qkv).split(3, { axis: -1 }) as [Tensor, Tensor, Tensor];
  const seen = heads(q, 4).scaledDotProductAttention(heads(k, 4), heads(v, 4), { causal: true });
  const y = x.add(seen.permute([0, 2, 1, 3]).reshape(x.shape).matmul(out));
  return y.add(layerNorm(y, scale).matmul(up).gelu().matmul(down));
};
const adam = (p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: Tensor) => {
  const [first, second] = [m.mul(0.9).add(g.mul(0.1)), v.mul(0.999).add(g.square().mul(0.001))];
  const root = second.div(t.mul(Math.log(0.999)).exp().neg().add(1)).sqrt().add(1e-8);
  return [p.sub(first.div(t.mul(Math.log(0.9)).exp().neg().add(1)).div(root).mul(0.01)), first, second];
};

export const graphs: Readonly<Record<string, Graph>> = {
  "an elementwise chain": graph([[300], [300]], (x, y) => x.mul(y).add(1).tanh().sub(x.exp()).relu()),
  "functions of an element": graph(
    [[64]],
    (x) => [x.erf(), x.log1p(), x.atan2(0.5), x.sin(), x.rsqrt(), x.mod(3), x.gelu(), x.silu(), x.softplus(), x.pow(3)],
  ),
  "integers and bits": graph(
    [["i32", 64], ["u32", 64]],
    (
      a,
      b,
    ) => [
      a.floorDiv(7).mod(5),
      b.bitXor(b.shiftLeft(3)).bitAnd(255),
      a.cast("f32").round(),
      a.less(b.cast("i32")).not(),
    ],
  ),
  "broadcasting": graph([[8, 1, 6], [5, 1]], withGradients((x, y) => x.mul(y).sigmoid())),
  "clamp, where and comparisons": graph(
    [[40], [40]],
    withGradients((x, y) => x.clamp({ min: -1, max: 1 }).where(y, x.maximum(y))),
  ),
  "halves": graph([["f16", 33, 8], ["f16", 8, 9]], withGradients((x, w) => x.matmul(w).relu().mean({ axis: 0 }))),
  "reshapes, transposes, slices": graph(
    [[4, 6, 5]],
    (x) => x.transpose().reshape([20, 6]).slice({ axis: 0, start: 1, end: 17, step: 3 }).flip(1).add(1),
  ),
  "pad, concat, stack, tile": graph(
    [[3, 4], [2, 4]],
    withGradients((x, y) =>
      s.concat([x.pad(1).slice([{ end: 3 }, { end: 4 }]), y]).tile([2, 1]).add(
        s.stack([y, y]).reshape([4, 4]).repeat(1).sum({ axis: 0 }),
      )
    ),
  ),
  "sums of rows, of columns, of all": graph(
    [[70, 90]],
    (x) => [x.sum({ axis: 1 }), x.sum({ axis: 0 }), x.square().sum()],
  ),
  "a long sum in parts": graph([[1 << 18]], (x) => [x.sum(), x.max()]),
  "max, min, prod and their gradients": graph(
    [[9, 17]],
    withGradients((x) => x.max({ axis: 1 }).add(x.min({ axis: 1 })).add(x.prod({ axis: 1 }))),
  ),
  "positions of extremes": graph([[9, 17]], (x) => [x.argmax({ axis: 1 }), x.argmin()]),
  "variance and norms": graph(
    [[12, 40]],
    withGradients((x) => x.std({ axis: 1 }).add(x.norm({ axis: 1 })).add(x.norm({ axis: 1, ord: 1 }))),
  ),
  "softmax": graph([[50, 130]], withGradients((x) => x.softmax())),
  "softmax of columns": graph([[50, 130]], (x) => x.softmax({ axis: 0 })),
  "layer norm": graph([[50, 130], [130]], withGradients(layerNorm)),
  "cumulative sums and products": graph([[6, 300]], (x) => [x.cumsum(), x.cumprod({ axis: 0 })]),
  "sorting": graph([[6, 100]], (x) => [x.sort(), x.argsort({ descending: true })]),
  "gather, take, scatterAdd, oneHot": graph(
    [[20, 8], ["i32", 5, 8], [5, 8], ["i32", 7]],
    (x, i, v, rows) => [x.gather(i, { axis: 0 }), x.scatterAdd(i, v, { axis: 0 }), x.take(rows), rows.oneHot(9)],
  ),
  "an embedding's gradient": graph([[20, 8], ["i32", 7]], (w, rows) => s.grad(w.take(rows).square().sum(), w)),
  "a product": graph([[65, 33], [33, 40]], (a, b) => a.matmul(b)),
  "a large product": graph([[256, 256], [256, 256]], (a, b) => a.matmul(b)),
  "products of transposes": graph(
    [[96, 64], [96, 80]],
    (a, b) => [a.transpose().matmul(b), a.matmul(b.transpose().slice([{ end: 64 }]))],
  ),
  "a batched product with an epilogue": graph(
    [[6, 32, 20], [20, 24], [24]],
    withGradients((x, w, b) => x.matmul(w).add(b).relu()),
  ),
  "matrix by vector": graph([[512, 300], [300]], withGradients((a, v) => a.matmul(v))),
  "einsum": graph([[4, 5, 6], [6, 5, 3]], (a, b) => s.einsum("aij,jik->ak", a, b)),
  "sliding windows": graph(
    [[4, 40]],
    withGradients((x) => x.windows({ axis: 1, length: 5, stride: 2 }).max({ axis: 2 })),
  ),
  "a convolution": graph(
    [[2, 14, 14, 8], [3, 3, 8, 16]],
    withGradients((x, w) => x.conv2d(w, { padding: "same" }).relu()),
  ),
  "a strided convolution in groups": graph(
    [[2, 15, 15, 8], [3, 3, 4, 8]],
    withGradients((x, w) => x.conv2d(w, { stride: 2, groups: 2 })),
  ),
  "a transposed convolution": graph([[2, 7, 7, 8], [3, 3, 4, 8]], (x, w) => x.convTranspose2d(w, { stride: 2 })),
  "pooling": graph([[2, 12, 12, 6]], withGradients((x) => x.maxPool2d({ size: 2 }).add(x.avgPool2d({ size: 2 })))),
  "attention, stored": graph(
    [[2, 4, 20, 16], [2, 4, 20, 16], [2, 4, 20, 16]],
    withGradients((q, k, v) => q.scaledDotProductAttention(k, v, { causal: true, scores: "stored" })),
  ),
  "attention, online": graph(
    [[1, 2, 300, 32], [1, 2, 300, 32], [1, 2, 300, 32], ["bool", 300, 300]],
    withGradients((q, k, v, mask) => q.scaledDotProductAttention(k, v, { mask: mask!, scores: "online" })),
  ),
  "losses": graph([[16, 10], ["i32", 16]], withGradients((x, labels) => crossEntropy(x, labels))),
  "batch statistics": graph(
    [[16, 6, 6, 8]],
    withGradients((x) => {
      const centred = x.sub(x.mean({ axis: [0, 1, 2], keepDims: true }));
      return centred.mul(centred.square().mean({ axis: [0, 1, 2], keepDims: true }).add(1e-5).rsqrt());
    }),
  ),
  "a step of a perceptron": graph([[32, 20], ["i32", 32], [20, 16], [16], [16, 10]], (x, labels, w, b, v) => {
    const loss = crossEntropy(x.matmul(w).add(b).relu().matmul(v), labels);
    return [loss, ...s.grad(loss, [w, b, v]).map((g, i) => [w, b, v][i]!.sub(g.mul(0.1)))];
  }, [[2, 1], [3, 2], [4, 3]]),
  "Adam, in place": graph([[500], [500], [500], [500], []], adam as Graph["make"], [[0, 0], [2, 1], [3, 2]]),
  "a checkpoint": graph(
    [[24, 16], [16, 16]],
    withGradients((x, w) => s.checkpoint((h: Tensor) => h.matmul(w).tanh().matmul(w).tanh())(x)),
  ),
  "a block of a transformer": graph(
    [[2, 24, 32], [32, 96], [32, 32], [32, 64], [64, 32], [32]],
    withGradients(block as (...inputs: Tensor[]) => Tensor),
  ),
  "a second gradient": graph([[30], [30]], (x, y) => s.grad(s.grad(x.mul(y).tanh().sum(), x).square().sum(), [x, y])),
};

function planOf({ of, make, donate = [] }: Graph, target: Target): Plan {
  const inputs = of.map((spec) => {
    const [first, ...rest] = spec;
    return typeof first === "string"
      ? placeholder(rest as number[], first)
      : placeholder(spec as readonly number[], "f32");
  });
  const { result } = trace(() => make(...inputs));
  const roots = (Array.isArray(result) ? result as Tensor[] : [result as Tensor]).map((x) => x.node);
  return compileGraph({
    roots,
    inputs: inputs.map((x) => x.node),
    donate: donate.map(([input, output]) => ({ input, output })),
  }, target);
}

/** What is recorded of a graph. */
export function kernelsOf(name: string): string {
  return Object.entries(targets).map(([target, of]) => {
    const { programs, steps, slots, temporaries } = planOf(graphs[name]!, of);
    const bytes = temporaries.reduce((sum, slot) => sum + slots[slot]!.bytes, 0);
    const lines = programs.map(({ name, source, workgroups, invocations, language }) => {
      const hash = createHash("sha256").update(source).digest("hex").slice(0, 12);
      return `  ${name} ${language === "js" ? invocations : workgroups.join("x")} ${hash}`;
    });
    return [
      `${name} [${target}]: ${programs.length} kernels, ${steps.length} steps, ${bytes} bytes between them`,
      ...lines,
    ].join("\n");
  }).join("\n");
}

const file = new URL("fixtures/kernels.txt", import.meta.url);

/** What was recorded, by graph. */
export async function recorded(): Promise<Map<string, string>> {
  const parts = (await readFile(file, "utf8")).trimEnd().split("\n\n");
  return new Map(parts.map((part) => [part.slice(0, part.indexOf(" [")), part]));
}

export async function record(): Promise<void> {
  await writeFile(file, `${Object.keys(graphs).map(kernelsOf).join("\n\n")}\n`);
}

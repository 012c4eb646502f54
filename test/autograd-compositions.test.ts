import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { checkGradients } from "../src/autograd/check.ts";
import { gradients } from "../src/autograd/grad.ts";
import * as b from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import { type Node, toposort } from "../src/graph/node.ts";
import { broadcastShapes, size } from "../src/graph/shape.ts";
import { randomGraph } from "./random-graph.ts";

type Pair = (x: Node, y: Node) => Node;
const broadcast = (op: "add" | "sub" | "mul" | "div"): Pair => (x, y) => {
  const shape = broadcastShapes(op, x.shape, y.shape);
  return b.elementwise(op, b.broadcastTo(x, shape), b.broadcastTo(y, shape));
};
const [add, sub, mul, div] = [broadcast("add"), broadcast("sub"), broadcast("mul"), broadcast("div")];
const scalar = (x: number) => b.constant(x, "f32");

function matmul(x: Node, y: Node): Node {
  const [m, k] = x.shape as [number, number];
  const n = y.shape[1]!;
  const left = b.expand(b.reshape(x, [m, 1, k]), [m, n, k]);
  const right = b.expand(b.reshape(b.permute(y, [1, 0]), [1, n, k]), [m, n, k]);
  return b.reduce("sum", b.elementwise("mul", left, right), [2]);
}

/** Over the last axis, which stays with length 1. */
function last(op: "sum" | "amax", x: Node): Node {
  return b.reshape(b.reduce(op, x, [x.shape.length - 1]), [...x.shape.slice(0, -1), 1]);
}

function logSoftmax(x: Node): Node {
  const shifted = sub(x, b.stopGradient(last("amax", x)));
  return sub(shifted, b.elementwise("log", last("sum", b.elementwise("exp", shifted))));
}

function layerNorm(x: Node, scale: Node, shift: Node): Node {
  const n = scalar(x.shape.at(-1)!);
  const centred = sub(x, div(last("sum", x), n));
  const variance = div(last("sum", mul(centred, centred)), n);
  return add(mul(div(centred, b.elementwise("sqrt", add(variance, scalar(1e-5)))), scale), shift);
}

function check(f: (...x: Node[]) => Node, ...shapes: number[][]): void {
  const given = new Map<Node, number[]>();
  const leaves = shapes.map((shape, k) => {
    const leaf = b.input(shape, "f32");
    given.set(leaf, Array.from({ length: size(shape) }, (_, i) => 1.3 * Math.sin(17 * k + 5.1 * i + 0.4)));
    return leaf;
  });
  checkGradients(f(...leaves), leaves, given, { order: 2 });
}

test("matmul", () => check(matmul, [3, 4], [4, 2]));

test("softmax cross-entropy", () => {
  const labels = b.elementwise(
    "eq",
    b.expand(b.reshape(b.iota(4), [1, 4]), [3, 4]),
    b.expand(b.reshape(b.iota(3), [3, 1]), [3, 4]),
  );
  const oneHot = b.cast(labels, "f32");
  check((x) => b.reduce("sum", mul(logSoftmax(x), oneHot), [0, 1]), [3, 4]);
  // The gradient of -log softmax is softmax - oneHot.
  const x = b.input([3, 4], "f32");
  const given = new Map([[x, Array.from({ length: 12 }, (_, i) => Math.cos(3 * i))]]);
  const [g] = gradients([b.reduce("sum", b.elementwise("neg", mul(logSoftmax(x), oneHot)), [0, 1])], [x]);
  const [got, need] = interpret([g!, sub(b.elementwise("exp", logSoftmax(x)), oneHot)], given);
  got!.forEach((value, i) => assert.ok(Math.abs(value - need![i]!) < 1e-12));
});

test("layer norm", () => check(layerNorm, [2, 5], [5], [5]));

test("a perceptron with two layers, ties between its weights included", () => {
  check(
    (x, w, v) => {
      const hidden = b.elementwise("tanh", matmul(x, w));
      const output = logSoftmax(matmul(b.elementwise("relu", matmul(hidden, b.permute(w, [1, 0]))), v));
      return b.reduce("sum", mul(output, output), [0, 1]);
    },
    [2, 3],
    [3, 3],
    [3, 2],
  );
});

test("random graphs agree with central differences, twice", () => {
  fc.assert(
    fc.property(randomGraph({ smooth: true, length: 8 }), ({ roots, inputs, given }) => {
      checkGradients(roots[0]!, inputs, given, { order: 2, tolerance: 1e-5 });
    }),
    { numRuns: 150 },
  );
});

test("the gradients of a matmul are contractions of views, with nothing stored in between", () => {
  const x = b.input([3, 4], "f32");
  const y = b.input([4, 2], "f32");
  const g = b.input([3, 2], "f32");
  const made = gradients([matmul(x, y)], [x, y], [g]);
  const views = new Set(["reshape", "permute", "expand", "input"]);
  for (const gradient of made) {
    const ops = toposort([gradient]).map((node) => node.op).filter((op) => !views.has(op));
    assert.deepEqual(ops, ["mul", "sum"]);
  }
});

test("a chain of 20,000 operations has a gradient", () => {
  const x = b.input([1], "f32");
  let y = x;
  const one = b.full([1], 1, "f32");
  for (let i = 0; i < 20_000; i++) y = b.elementwise("add", y, one);
  const [g] = gradients([b.reduce("sum", y, [0])], [x]);
  assert.deepEqual([...interpret([g!], new Map([[x, [1]]]))[0]!], [1]);
});

test("the gradient by a buffer of many parameters is one concat, not a sum of padded parts", () => {
  const flat = b.input([12], "f32");
  const part = (start: number, count: number) => b.slice(flat, [start], [count], [1]);
  const product = matmul(b.reshape(part(6, 4), [2, 2]), b.reshape(part(0, 4), [2, 2]));
  const loss = b.reduce("sum", mul(product, b.reshape(part(10, 2), [1, 2])), [0, 1]);
  const [g] = gradients([loss], [flat]);
  assert.equal(g!.op, "concat");
  assert.deepEqual(g!.src.map((node) => node.shape), [[4], [2], [4], [2]]);
  checkGradients(loss, [flat], new Map([[flat, Array.from({ length: 12 }, (_, i) => Math.sin(i + 1))]]), { order: 2 });
  // Overlapping parts are added, those that have one element in common too.
  const values = new Map([[flat, Array.from({ length: 12 }, (_, i) => Math.sin(i + 1))]]);
  for (
    const [first, end, start, last] of [[0, 8, 4, 12], [0, 8, 7, 12], [0, 5, 4, 12], [0, 5, 5, 12], [1, 5, 6, 9], [
      2,
      4,
      3,
      11,
    ]] as const
  ) {
    const pair = b.concat([
      b.elementwise("sin", part(first, end - first)),
      b.elementwise("exp", part(start, last - start)),
    ], 0);
    checkGradients(b.reduce("sum", pair, [0]), [flat], values, { order: 2 });
  }
});

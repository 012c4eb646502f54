import assert from "node:assert/strict";
import { test } from "node:test";
import { checkGradients } from "../src/autograd/check.ts";
import { gradients } from "../src/autograd/grad.ts";
import { rules } from "../src/autograd/rules.ts";
import { GradientError } from "../src/errors.ts";
import * as b from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import type { Node } from "../src/graph/node.ts";
import { elementwise as table, type ElementwiseName, type ElementwiseOp } from "../src/graph/ops.ts";
import { size } from "../src/graph/shape.ts";
import { tested } from "./elementwise-ops.ts";

type Values = ArrayLike<number>;

/** Values spread over (low, high) in no order, none near another. */
function spread(n: number, low: number, high: number): number[] {
  return Array.from({ length: n }, (_, i) => low + (high - low) * (((i * 0.6180339887 + 0.371) % 1) * 0.9 + 0.05));
}

/** Checks first and second order of a function of leaves with these shapes (or values). */
function check(
  f: (...x: Node[]) => Node,
  ...operands: (readonly number[] | { shape: readonly number[]; values: Values })[]
): void {
  const given = new Map<Node, Values>();
  const leaves = operands.map((operand, i) => {
    const shape = "shape" in operand ? operand.shape : operand;
    const leaf = b.input(shape, "f32");
    given.set(leaf, "shape" in operand ? operand.values : spread(size(shape), -1.5 + i * 0.1, 1.6 + i * 0.1));
    return leaf;
  });
  checkGradients(f(...leaves), leaves, given, { order: 2 });
}

function valueOf(node: Node, given: ReadonlyMap<Node, Values> = new Map()): number[] {
  return [...interpret([node], given)[0]!];
}

/** The gradient of Σ f(x), as numbers. */
function gradientAt(f: (x: Node) => Node, values: readonly number[], order = 1): number[] {
  const x = b.input([values.length], "f32");
  let y = f(x);
  for (let i = 0; i < order; i++) {
    y = gradients([b.reduce("sum", y, [0])], [x])[0]!;
  }
  return valueOf(y, new Map([[x, values]]));
}

function binaryAt(op: ElementwiseName, left: readonly number[], right: readonly number[]): number[][] {
  const x = [b.input([left.length], "f32"), b.input([right.length], "f32")] as const;
  const grads = gradients([b.reduce("sum", b.elementwise(op, ...x), [0])], x);
  const given = new Map([[x[0], left], [x[1], right]]);
  return grads.map((g) => valueOf(g, given));
}

test("every differentiable elementwise op agrees with central differences, twice", () => {
  for (const op of Object.keys(table) as ElementwiseName[]) {
    const rule = rules[op];
    const record: ElementwiseOp = table[op];
    if (rule === "none" || record.conditional) continue;
    const domain = tested[op].smooth;
    assert.ok(domain !== undefined, `${op} has a rule, but test/elementwise-ops.ts does not say where it is smooth`);
    assert.equal((rule as readonly unknown[]).length, record.arity, `${op}: one function for each operand`);
    check(
      (...x) => b.elementwise(op, ...x),
      ...domain.map(([low, high], i) => ({
        shape: [5],
        values: i === 0 ? spread(5, low, high) : spread(7, low, high).slice(2),
      })),
    );
  }
  check((x) => b.elementwise("relu", x), [7]);
  check((x) => b.elementwise("abs", x), [7]);
  check((x, y) => b.elementwise("max", x, y), [7], [7]);
  check(
    (x, y) => b.elementwise("where", b.elementwise("lt", x, b.full([7], 0.2, "f32")), b.elementwise("mul", x, y), y),
    [7],
    [7],
  );
});

test("flat ops have a gradient of 0, and integers none", () => {
  for (const op of ["sign", "floor", "ceil", "trunc", "round"] as const) {
    assert.deepEqual(gradientAt((x) => b.elementwise(op, x), [-1.5, 0, 0.3]), [0, 0, 0], op);
  }
  assert.deepEqual(gradientAt((x) => b.cast(b.cast(x, "i32"), "f32"), [1, 2]), [0, 0]);
  assert.deepEqual(gradientAt((x) => b.bitcast(b.bitcast(x, "u32"), "f32"), [1, 2]), [0, 0]);
  assert.deepEqual(gradientAt((x) => b.cast(b.argsort(x), "f32"), [1, 2]), [0, 0]);
  assert.deepEqual(gradientAt((x) => b.elementwise("mul", x, b.stopGradient(x)), [3, 4]), [3, 4]);
});

test("subgradients are as documented", () => {
  const unary = (op: ElementwiseName) => (x: Node) => b.elementwise(op, x);
  assert.deepEqual(gradientAt(unary("abs"), [-2, 0, 3]), [-1, 0, 1]);
  assert.deepEqual(gradientAt(unary("relu"), [-2, 0, 3, -Infinity, Infinity]), [0, 0, 1, 0, 1]);
  assert.deepEqual(gradientAt(unary("sqrt"), [0, 4]), [0, 0.25]);
  assert.deepEqual(gradientAt(unary("sqrt"), [0, 4], 2), [0, -1 / 32]);
  const norm = (x: Node) => b.elementwise("sqrt", b.reduce("sum", b.elementwise("mul", x, x), [0]));
  assert.deepEqual(gradientAt((x) => b.reshape(norm(x), [1]), [0, 0]), [0, 0]);
  assert.deepEqual(binaryAt("max", [1, 2, 3], [2, 2, 2]), [[0, 0.5, 1], [1, 0.5, 0]]);
  assert.deepEqual(binaryAt("min", [1, 2, 3], [2, 2, 2]), [[1, 0.5, 0], [0, 0.5, 1]]);
  // x^y: at 0^0, 0^1, 0^2, 3^0.
  assert.deepEqual(binaryAt("pow", [0, 0, 0, 3], [0, 1, 2, 0]), [[0, 1, 0, 0], [0, 0, 0, Math.log(3)]]);
  assert.deepEqual(binaryAt("atan2", [0, 1], [0, 0]).map((row) => row.map((v) => v + 0)), [[0, 0], [0, -1]]);
  const extremes = (op: "amax" | "amin") => (x: Node) => b.reshape(b.reduce(op, x, [0]), [1]);
  assert.deepEqual(gradientAt(extremes("amax"), [1, 3, 3, 2]), [0, 0.5, 0.5, 0]);
  assert.deepEqual(gradientAt(extremes("amin"), [1, 3, 1, 1]), [1 / 3, 0, 1 / 3, 1 / 3]);
  assert.deepEqual(gradientAt(extremes("amax"), [-Infinity, -Infinity]), [0.5, 0.5]);
});

test("what is largest by index shares the gradient equally, what was there among it", () => {
  const [x, y, g] = [b.input([5], "f32"), b.input([8], "f32"), b.input([5], "f32")];
  const index = b.input([8], "i32");
  const given = new Map([
    [x, [3, 1, 0, 5, -Infinity]],
    [y, [3, 3, 2, 2, 4, 7, 0, -Infinity]],
    [g, [12, 10, 20, 30, 40]],
    [index, [0, 0, 1, 1, 3, 9, -1, 4]],
  ]);
  const most = b.scatterMax(x, index, y, 0);
  assert.deepEqual(valueOf(most, given), [3, 2, 0, 5, -Infinity]);
  const [dx, dy] = gradients([most], [x, y], [g]);
  assert.deepEqual(valueOf(dx!, given), [4, 0, 20, 30, 20]);
  // Out of range the third from last, and the one before: also where it is 0, as what is read there.
  assert.deepEqual(valueOf(dy!, given), [4, 4, 5, 5, 0, 0, 0, 20]);
});

test("heed and weigh agree with central differences where seen, and are 0 elsewhere, whatever is there", () => {
  const seen = b.elementwise("lt", b.iota(5), b.full([5], 3, "i32"));
  const shown = (x: Node) => b.elementwise("where", seen, x, b.full(x.shape, 0, "f32"));
  check((x, y) => shown(b.elementwise("heed", seen, x, y)), [5], [5]);
  check((x, y) => b.elementwise("weigh", seen, shown(x), y), [5], [5]);
  const [x, y] = [b.input([5], "f32"), b.input([5], "f32")];
  const given = new Map([[x, [1, 2, 3, NaN, Infinity]], [y, [4, 5, 6, NaN, 0]]]);
  for (const z of [shown(b.elementwise("heed", seen, x, y)), b.elementwise("weigh", seen, shown(x), y)]) {
    assert.deepEqual([...valueOf(z, given)], [4, 10, 18, 0, 0]);
    const total = (node: Node) => b.reduce("sum", node, [0]);
    const [dx, dy] = gradients([total(z)], [x, y]) as [Node, Node];
    assert.deepEqual([...valueOf(dx, given)], [4, 5, 6, 0, 0]);
    assert.deepEqual([...valueOf(dy, given)], [1, 2, 3, 0, 0]);
    const [second] = gradients([total(b.elementwise("mul", dx, dx))], [y]) as [Node];
    assert.deepEqual([...valueOf(second, given)], [8, 10, 12, 0, 0]);
  }
});

test("where shields the operand that is not selected", () => {
  const safe = (x: Node) => {
    const zero = b.full(x.shape, 0, "f32");
    return b.elementwise("where", b.elementwise("lt", zero, x), x, b.full(x.shape, Infinity, "f32"));
  };
  assert.deepEqual(gradientAt(safe, [-1, 2, -Infinity]), [0, 1, 0]);
});

test("prod is right with zeros, first and second order", () => {
  const prod = (x: Node) => b.reshape(b.reduce("prod", x, [0]), [1]);
  assert.deepEqual(gradientAt(prod, [2, 3, 4]), [12, 8, 6]);
  assert.deepEqual(gradientAt(prod, [2, 0, 4]), [0, 8, 0]);
  assert.deepEqual(gradientAt(prod, [0, 0, 4]), [0, 0, 0]);
  assert.deepEqual(gradientAt(prod, [7]), [1]);
  // The Hessian of x y z times ones: rows Σ of the products of the other elements.
  assert.deepEqual(gradientAt(prod, [0, 0, 4], 2), [4, 4, 0]);
  check((x) => b.reduce("prod", x, [0, 2]), {
    shape: [3, 2, 2],
    values: [1, 2, 0, 0.5, 0.3, -1, 2, 0, 0, 1.5, -0.7, 1],
  });
  for (const n of [1, 2, 3, 5, 8]) check((x) => b.reduce("prod", x, [1]), [2, n]);
});

test("movement and reductions agree with central differences, twice", () => {
  const curve = (x: Node) => b.elementwise("sin", b.elementwise("mul", x, x));
  check((x) => b.reshape(curve(x), [3, 2]), [2, 3]);
  check((x) => b.permute(curve(x), [2, 0, 1]), [2, 3, 2]);
  check((x) => b.expand(curve(x), [2, 3, 4]), [2, 1, 4]);
  check((x) => curve(b.expand(x, [2, 3, 4])), [1, 3, 1]);
  check((x) => b.pad(curve(x), [1, 0], [2, 1], 5), [2, 2]);
  for (
    const [start, count, step] of [[[1, 0], [2, 3], [1, 1]], [[4, 2], [3, 2], [-2, -2]], [[0, 1], [2, 1], [3, -1]], [
      [4, 2],
      [5, 3],
      [-1, -1],
    ]]
  ) {
    check((x) => b.slice(curve(x), start!, count!, step!), [5, 3]);
  }
  check((x) => b.slice(curve(x), [0, 0], [0, 3], [1, 1]), [5, 3]);
  check((x, y, z) => b.concat([curve(x), y, curve(z)], 1), [2, 1], [2, 2], [2, 1]);
  for (const op of ["sum", "amax", "amin"] as const) {
    check((x) => b.reduce(op, curve(x), [1]), [3, 4]);
    check((x) => b.reduce(op, curve(x), [0, 2]), [2, 2, 3]);
  }
  for (
    const [axis, length, stride, dilation] of [[0, 2, 1, 1], [1, 3, 1, 1], [1, 2, 2, 1], [1, 2, 1, 2], [1, 2, 2, 3], [
      1,
      2,
      3,
      1,
    ]] as const
  ) {
    check((x) => curve(b.window(curve(x), { axis, length, stride, dilation })), [3, 5]);
    check((x) => curve(b.unwindow(curve(x), { axis: 0, length: 8, stride, dilation })), [2, 2, length]);
  }
  check((x) => b.contiguous(curve(x)), [3]);
  check((x) => b.copy(curve(x), 7), [3]);
  check((x) => curve(b.elementwise("add", b.copy(x, 7), b.copy(b.copy(x, 8), 7))), [3]);
});

test("gather, scatterAdd and scatterMax agree with central differences, twice", () => {
  const index = (values: readonly number[], shape: readonly number[]): Node => {
    // Made of constants, so that the leaves are the differentiable ones alone.
    const rows = values.map((value) => b.full([1], value, "i32"));
    return b.reshape(b.concat(rows, 0), shape);
  };
  const curve = (x: Node) => b.elementwise("sin", b.elementwise("mul", x, x));
  check((x) => curve(b.gather(curve(x), index([2, 0, 2, 9, -1, 1], [2, 3]), 1)), [2, 3]);
  check((x) => curve(b.gather(curve(x), index([1, 0, 1], [1, 3]), 0)), [2, 3]);
  check((x) => curve(b.scatterAdd(index([2, 0, 2, 9, -1, 1], [2, 3]), curve(x), 1, 4)), [2, 3]);
  check((x, y) => curve(b.scatterMax(curve(x), index([2, 0, 2, 9, -1, 1], [2, 3]), curve(y), 1)), [2, 4], [2, 3]);
  check((x, y) => curve(b.scatterMax(x, index([1, 0, 1, 1, 3, 0], [3, 2]), y, 0)), [2, 2], [3, 2]);
});

test("running sums and products agree with central differences, twice", () => {
  const curve = (x: Node) => b.elementwise("sin", b.elementwise("mul", x, x));
  for (const how of ["sum", "prod"] as const) {
    for (const axis of [0, 1, 2]) check((x) => curve(b.scan(how, curve(x), axis)), [2, 3, 2]);
    check((x) => curve(b.scan(how, curve(x), 1)), [2, 1]);
    check((x) => b.scan(how, b.scan(how, curve(x), 0), 1), [2, 2]);
  }
});

test("regions between checkpoints agree with central differences, twice", () => {
  const curve = (x: Node) => b.elementwise("sin", b.elementwise("mul", x, x));
  check(
    (x, w) => {
      const region = b.newRegion();
      const y = b.elementwise("mul", curve(b.checkpoint(x, region, "in")), w);
      return curve(b.checkpoint(curve(y), region, "out"));
    },
    [2, 3],
    [2, 3],
  );
  check((x) => curve(b.after(curve(x), [x])), [2, 3]);
  // A graph may hold a region twice, with other sources: one behind the other, and side by side.
  const region = b.newRegion();
  const again = (x: Node) => b.checkpoint(curve(b.checkpoint(x, region, "in")), region, "out");
  check((x) => again(again(x)), [2, 3]);
  check((x, w) => b.elementwise("mul", again(x), b.elementwise("mul", again(w), again(x))), [2, 3], [2, 3]);
});

test("attention and its gradients agree with central differences, twice each", () => {
  const [d, e, t, s] = [2, 3, 3, 4];
  const curve = (x: Node) => b.elementwise("sin", x);
  const shapes = { q: [2, d, t], k: [2, d, s], v: [2, e, s], bias: [2, t, s] };
  // Of the last two rows only the sum has a gradient.
  const joined = (y: Node) => {
    const rows = (from: number, count: number) => b.slice(y, [0, from, 0], [2, count, t], [1, 1, 1]);
    return curve(b.concat([rows(0, e), b.elementwise("add", rows(e, 1), rows(e + 1, 1))], 1));
  };
  check((q, k, v, bias) => joined(b.attention({ q, k, v, bias })), shapes.q, shapes.k, shapes.v, shapes.bias);
  check((q, k, v) => joined(b.attention({ q, k, v })), shapes.q, shapes.k, shapes.v);
  const [row, pair] = [[2, 1, t], [2, 2, t]];
  for (const side of ["queries", "keys"] as const) {
    // Smaller operands: as norm is any number here, weights would grow beyond what differences can follow.
    const gradient = (...operands: Node[]) => {
      const small = operands.map((x) => b.elementwise("mul", x, b.full(x.shape, 0.4, "f32")));
      const [q, k, v, norm, g, delta, bias] = small as [Node, Node, Node, Node, Node, Node, Node?];
      return curve(b.attentionGradient(side, { q, k, v, norm, g, delta, bias }));
    };
    check(gradient, shapes.q, shapes.k, shapes.v, pair, [2, e, t], row, shapes.bias);
    check(gradient, shapes.q, shapes.k, shapes.v, pair, [2, e, t], row);
  }
});

test("zero-size tensors have zero-size gradients", () => {
  const x = b.input([0, 3], "f32");
  const given = new Map([[x, []]]);
  for (const op of ["sum", "prod", "amax", "amin"] as const) {
    const y = b.reduce("sum", b.reduce(op, x, [0]), [0]);
    assert.deepEqual(valueOf(gradients([y], [x])[0]!, given), []);
  }
});

test("inner nodes, several outputs, cotangents, and inputs that do not matter", () => {
  const x = b.input([2], "f32");
  const other = b.input([3], "f32");
  const y = b.elementwise("mul", x, x);
  const z = b.elementwise("mul", y, x);
  const given = new Map([[x, [2, 3]]]);
  const sum = b.reduce("sum", z, [0]);
  const [gx, gy, gz, gOther] = gradients([sum], [x, y, z, other]);
  assert.deepEqual(valueOf(gx!, given), [12, 27]);
  assert.deepEqual(valueOf(gy!, given), [2, 3]);
  assert.deepEqual(valueOf(gz!, given), [1, 1]);
  assert.deepEqual(valueOf(gOther!), [0, 0, 0]);
  const cotangent = b.input([2], "f32");
  const [g] = gradients([y, z], [x], [cotangent, b.full([2], 1, "f32")]);
  assert.deepEqual(valueOf(g!, new Map([[x, [2, 3]], [cotangent, [10, 100]]])), [12 + 40, 27 + 600]);
  assert.deepEqual(valueOf(gradients([sum, sum], [sum])[0]!), [2]);
});

test("gradients that do not exist are refused", () => {
  const x = b.input([2], "f32");
  const i = b.input([], "i32");
  assert.throws(() => gradients([x], [x]), (e) => e instanceof GradientError && /shape \[2\]/.test(e.message));
  assert.throws(() => gradients([i], [x]), (e) => e instanceof GradientError && /i32/.test(e.message));
  assert.throws(() => gradients([b.reduce("sum", x, [0])], [i]), GradientError);
  assert.throws(() => gradients([x], [x], []), GradientError);
  assert.throws(() => gradients([x], [x], [b.constant(1, "f32")]), GradientError);
});

test("the check itself notices a wrong gradient", () => {
  const x = b.input([2], "f32");
  const wrong = b.elementwise("mul", x, b.stopGradient(x));
  assert.throws(
    () => checkGradients(wrong, [x], new Map([[x, [1, 2]]])),
    (e) => e instanceof GradientError && /first derivative/.test(e.message),
  );
});

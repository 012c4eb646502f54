import fc from "fast-check";
import assert from "node:assert/strict";
import { test as nodeTest } from "node:test";
import { gradients } from "../src/autograd/grad.ts";
import { type Look, viewOf, written } from "../src/compiler/simplify/affine-view.ts";
import type { Rewriting } from "../src/compiler/simplify/rewriting.ts";
import { simplify } from "../src/compiler/simplify/simplify.ts";
import * as b from "../src/graph/build.ts";
import type { DType } from "../src/graph/dtype.ts";
import { interpret } from "../src/graph/interpret.ts";
import { makeNode, mergingEqual, type Node, type NodeOf, toposort } from "../src/graph/node.ts";
import type { ElementwiseName } from "../src/graph/ops.ts";
import { printGraph } from "../src/graph/print.ts";
import { verify } from "../src/graph/verify.ts";
import { randomGraph } from "./random-graph.ts";

/** A test in which equal nodes are one, so that results can be compared with what is wanted. */
const test = (name: string, body: () => void) => nodeTest(name, () => mergingEqual(body));

const x = b.input([2, 3], "f32");
const y = b.input([2, 3], "f32");
const i = b.input([2, 3], "i32");
const u = b.input([2, 3], "u32");
const p = b.input([2, 3], "bool");
const full = (value: number, dtype: DType = "f32", shape = [2, 3]) => b.full(shape, value, dtype);
const e = (op: ElementwiseName, ...src: Node[]) => b.elementwise(op, ...src);

/** The simplest form of a graph whose leaves alone are inputs. */
function simple(root: Node): Node {
  const inputs = new Set(toposort([root]).filter((node) => node.op === "input"));
  const [result] = simplify([root], inputs);
  verify([result!]);
  return result!;
}

function same(got: Node, want: Node): void {
  assert.equal(printGraph([got]), printGraph([want]));
  assert.equal(got, want);
}

test("identities, inverses and absorption", () => {
  for (
    const [op, value] of [["add", 0], ["sub", 0], ["mul", 1], ["div", 1], ["max", -Infinity], ["min", Infinity], [
      "pow",
      1,
    ]] as const
  ) {
    same(simple(e(op, x, full(value))), x);
  }
  same(simple(e("add", full(0), x)), x);
  for (
    const [op, value] of [["and", -1], ["or", 0], ["xor", 0], ["shl", 0], ["shr", 0], ["idiv", 1], ["add", 0], [
      "mul",
      1,
    ]] as const
  ) {
    same(simple(e(op, i, full(value, "i32"))), i);
  }
  same(simple(e("mul", i, full(0, "i32"))), full(0, "i32"));
  same(simple(e("and", full(0, "u32"), u)), full(0, "u32"));
  same(simple(e("or", p, full(1, "bool"))), full(1, "bool"));
  same(simple(e("irem", i, full(1, "i32"))), full(0, "i32"));
  same(simple(e("neg", e("neg", x))), x);
  same(simple(e("not", e("not", p))), p);
  same(simple(e("bitNot", e("bitNot", u))), u);
  same(simple(e("sub", i, i)), full(0, "i32"));
  same(simple(e("lt", x, x)), full(0, "bool"));
  same(simple(e("floor", e("round", x))), e("round", x));
});

test("what NaN and infinity may show in stays", () => {
  for (
    const node of [
      e("mul", x, full(0)),
      e("sub", x, x),
      e("div", x, x),
      e("eq", x, x),
      e("ne", x, x),
      e("le", x, x),
      e("div", x, full(3)),
    ]
  ) {
    same(simple(node), node);
  }
});

test("signs move into the op that reads them", () => {
  same(simple(e("add", x, e("neg", y))), e("sub", x, y));
  same(simple(e("add", e("neg", x), y)), e("sub", y, x));
  same(simple(e("sub", x, e("neg", y))), e("add", x, y));
  same(simple(e("mul", e("neg", x), e("neg", y))), e("mul", x, y));
  same(simple(e("neg", e("mul", full(2), x))), e("mul", x, full(-2)));
  same(simple(e("mul", x, full(-1))), e("neg", x));
  same(simple(e("sub", full(0), x)), e("neg", x));
});

test("powers that are products", () => {
  same(simple(e("pow", x, full(0))), full(1));
  same(simple(e("pow", x, full(2))), e("mul", x, x));
  same(simple(e("pow", x, full(-1))), e("div", full(1), x));
  same(simple(e("pow", x, full(0.5))), e("pow", x, full(0.5)));
});

test("where of what is known", () => {
  same(simple(e("where", full(1, "bool"), x, y)), x);
  same(simple(e("where", p, x, x)), x);
  same(simple(e("where", e("not", p), x, y)), e("where", p, y, x));
  same(simple(e("where", p, e("where", p, x, y), full(0))), e("where", p, x, full(0)));
  same(simple(e("where", p, full(0, "bool"), full(1, "bool"))), e("not", p));
});

test("constants fold in f32, through broadcasts and views", () => {
  same(simple(e("add", full(0.1), full(0.2))), full(Math.fround(Math.fround(0.1) + Math.fround(0.2))));
  same(simple(e("mul", full(4294967295, "u32"), full(4294967295, "u32"))), full(1, "u32"));
  same(simple(e("lt", full(1), full(2))), full(1, "bool"));
  same(simple(b.cast(full(2.7), "i32")), full(2, "i32"));
  same(simple(b.bitcast(full(1), "u32")), full(0x3f800000, "u32"));
  same(simple(b.permute(b.pad(full(5), [1, 0], [0, 2], 5), [1, 0])), full(5, "f32", [5, 3]));
  same(simple(b.reduce("sum", full(0.5), [0])), full(1, "f32", [3]));
  same(simple(b.reduce("prod", full(3, "i32", [40]), [0])), b.constant(Number(BigInt.asIntN(32, 3n ** 40n)), "i32"));
  same(simple(b.concat([full(1), full(1, "f32", [1, 3])], 0)), full(1, "f32", [3, 3]));
  same(simple(e("add", x, e("sub", full(1), full(1)))), x);
});

test("views of one kind become one", () => {
  const z = b.input([4, 5, 6], "f32");
  const one = [1, 1, 1];
  same(simple(b.permute(b.permute(z, [2, 0, 1]), [1, 2, 0])), z);
  same(simple(b.permute(b.permute(z, [2, 0, 1]), [2, 1, 0])), b.permute(z, [1, 0, 2]));
  same(
    simple(b.slice(b.slice(z, [3, 1, 0], [4, 4, 6], [-1, 1, 1]), [1, 0, 1], [2, 2, 2], [2, 3, 2])),
    b.slice(z, [2, 1, 1], [2, 2, 2], [-2, 3, 2]),
  );
  same(simple(b.pad(b.pad(z, [1, 0, 0], [0, 2, 0]), [0, 1, 0], [1, 1, 0])), b.pad(z, [1, 1, 0], [1, 3, 0]));
  const mixed = b.pad(b.pad(z, [1, 0, 0], [0, 2, 0]), [0, 1, 0], [1, 1, 0], 2);
  same(simple(mixed), mixed);
  const small = b.input([1, 5, 1], "f32");
  same(simple(b.expand(b.expand(small, [2, 5, 1]), [2, 5, 3])), b.expand(small, [2, 5, 3]));
  same(simple(b.broadcastTo(b.broadcastTo(small, [7, 5, 2]), [3, 7, 5, 2])), b.broadcastTo(small, [3, 7, 5, 2]));
  same(simple(b.permute(b.expand(small, [2, 5, 1]), [1, 0, 2])), b.expand(b.reshape(small, [5, 1, 1]), [5, 2, 1]));
  same(
    simple(b.slice(b.expand(small, [4, 5, 1]), [1, 4, 0], [2, 3, 1], [1, -2, 1])),
    b.expand(b.slice(small, [0, 4, 0], [1, 3, 1], [1, -2, 1]), [2, 3, 1]),
  );
  same(simple(b.slice(b.pad(z, [2, 0, 0], [2, 0, 0]), [2, 0, 0], [4, 5, 6], one)), z);
  same(simple(b.slice(b.pad(z, [2, 0, 0], [2, 0, 0], 7), [6, 0, 0], [2, 5, 6], one)), full(7, "f32", [2, 5, 6]));
  same(simple(b.stopGradient(z)), z);
});

test("a split tensor joined again is the tensor, and slices of a concat are its parts", () => {
  const flat = b.input([10], "f32");
  const part = (start: number, count: number) => b.slice(flat, [start], [count], [1]);
  same(simple(b.concat([b.concat([part(0, 4), part(4, 1)], 0), part(5, 5)], 0)), flat);
  const shuffled = b.concat([part(4, 2), part(0, 2), part(2, 2)], 0);
  same(simple(shuffled), b.concat([part(4, 2), part(0, 4)], 0));
  const other = b.input([3], "f32");
  same(simple(b.slice(b.concat([flat, other], 0), [12], [2], [-1])), b.slice(other, [2], [2], [-1]));
});

test("reductions over axes of length 1, over repeats, and of views", () => {
  const row = b.input([1, 3], "f32");
  same(simple(b.reduce("amax", row, [0])), b.reshape(row, [3]));
  const repeated = b.expand(row, [4, 3]);
  same(simple(b.reduce("sum", repeated, [0])), e("mul", b.reshape(row, [3]), full(4, "f32", [3])));
  same(simple(b.reduce("sum", repeated, [1])), b.expand(b.reduce("sum", row, [1]), [4]));
  same(
    simple(b.reduce("sum", repeated, [0, 1])),
    e("mul", b.reshape(b.reduce("sum", row, [1]), []), b.constant(4, "f32")),
  );
  same(simple(b.reduce("amin", b.broadcastTo(x, [5, 2, 3]), [0, 2])), b.reduce("amin", x, [1]));
  same(simple(b.reduce("sum", b.permute(x, [1, 0]), [0])), b.reduce("sum", x, [1]));
  same(simple(b.reduce("sum", b.reshape(x, [6]), [0])), b.reduce("sum", x, [0, 1]));
  same(simple(b.reduce("sum", b.reshape(x, [2, 1, 3]), [2])), b.reshape(b.reduce("sum", x, [1]), [2, 1]));
  const product = b.reduce("prod", repeated, [0]);
  same(simple(product), product);
});

test("a reduction of a reduction is one, unless the inner one is needed anyway", () => {
  const z = b.input([2, 3, 4], "f32");
  const inner = b.reduce("sum", z, [1]);
  same(simple(b.reduce("sum", b.reduce("sum", inner, [1]), [0])), b.reduce("sum", z, [0, 1, 2]));
  same(simple(b.reduce("sum", inner, [1])), b.reduce("sum", z, [1, 2]));
  const shared = b.reduce("sum", inner, [1]);
  assert.deepEqual(simplify([shared, inner], new Set([z])), [shared, inner]);
});

test("products that are the same in all windows do not go beyond them", () => {
  const [left, right] = [b.input([3, 4], "f32"), b.input([4, 5], "f32")];
  const wide = (node: Node, shape: readonly number[]) => b.expand(b.reshape(node, shape), [3, 4, 5]);
  const product = b.reduce("sum", e("mul", wide(left, [3, 4, 1]), wide(right, [1, 4, 5])), [1]);
  const windows = b.expand(b.reshape(product, [3, 1, 5, 1]), [3, 6, 5, 3]);
  const root = b.reduce("sum", b.unwindow(windows, { axis: 1, length: 8, stride: 1, dilation: 1 }), [3]);
  const values = new Map(
    [left, right].map((node, seed) => [node, Array.from({ length: 20 - 8 * (1 - seed) }, (_, k) => k - 5)]),
  );
  const [simplest] = simplify([root], new Set(values.keys()));
  assert.deepEqual(interpret([simplest!], values), interpret([root], values));
});

test("casts", () => {
  same(simple(b.cast(b.cast(p, "f32"), "bool")), p);
  same(simple(b.cast(b.cast(i, "u32"), "i32")), i);
  same(simple(b.cast(b.cast(i, "f32"), "bool")), b.cast(i, "bool"));
  for (
    const node of [
      b.cast(b.cast(i, "f32"), "i32"),
      b.cast(b.cast(x, "i32"), "bool"),
      b.cast(b.cast(i, "u32"), "f32"),
      b.cast(b.cast(x, "bool"), "f32"),
    ]
  ) {
    same(simple(node), node);
  }
  same(simple(b.cast(b.iota(9), "f32")), b.iota(9, "f32"));
  // An f32 holds the positions up to 2^24, and not the next.
  same(simple(b.cast(b.iota(2 ** 24, "f32"), "i32")), b.iota(2 ** 24));
  const beyond = b.cast(b.iota(2 ** 24 + 2, "f32"), "i32");
  same(simple(beyond), beyond);
  same(simple(b.bitcast(b.bitcast(i, "f32"), "i32")), i);
});

test("commutative ops have one order, so that equal values are computed once", () => {
  const sum = simple(e("sub", e("mul", e("exp", x), e("sin", y)), e("mul", e("sin", y), e("exp", x))));
  assert.equal(sum.src[0], sum.src[1]);
  same(simple(e("add", full(2), x)), e("add", x, full(2)));
});

test("tensors without elements are constants, reductions over nothing their identity", () => {
  const empty = b.input([0, 3], "f32");
  same(simple(e("exp", empty)), full(0, "f32", [0, 3]));
  same(simple(b.reduce("amax", empty, [0])), full(-Infinity, "f32", [3]));
  same(simple(b.pad(empty, [1, 0], [1, 0], 4)), full(4, "f32", [2, 3]));
  same(simple(b.concat([empty, x], 0)), x);
});

test("nothing above an input is seen, and an input that is a root stays", () => {
  const inner = e("neg", x);
  const view = b.reshape(inner, [6]);
  const root = e("neg", b.contiguous(inner));
  assert.deepEqual(simplify([e("neg", inner), inner, root], new Set([inner])), [e("neg", inner), inner, root]);
  // Views of a view that is an input stop there; only the graph's own constructors had looked further.
  const onView = makeNode("reshape", [view], {}, [3, 2], "f32", undefined);
  for (const node of [onView, b.permute(onView, [1, 0]), b.reduce("sum", onView, [0, 1])]) {
    const [result] = simplify([node], new Set([view]));
    assert.ok(!toposort([result!], (node) => node !== view).includes(inner));
  }
});

test("the gradient of a matmul is one contraction of views", () => {
  const [left, right, g] = [b.input([3, 4], "f32"), b.input([4, 2], "f32"), b.input([3, 2], "f32")];
  const product = b.reduce(
    "sum",
    e(
      "mul",
      b.expand(b.reshape(left, [3, 1, 4]), [3, 2, 4]),
      b.expand(b.reshape(b.permute(right, [1, 0]), [1, 2, 4]), [3, 2, 4]),
    ),
    [2],
  );
  for (const gradient of gradients([product], [left, right], [g])) {
    const ops = toposort([simple(gradient)]).map((node) => node.op).filter((op) =>
      !["input", "reshape", "permute", "expand"].includes(op)
    );
    assert.deepEqual(ops, ["mul", "sum"]);
  }
});

function close(got: ArrayLike<number>, want: ArrayLike<number>): void {
  assert.equal(got.length, want.length);
  for (let k = 0; k < want.length; k++) {
    const [a, c] = [got[k]!, want[k]!];
    // 0 === -0: the sign of a zero is not kept.
    if (a === c || (Number.isNaN(a) && Number.isNaN(c))) continue;
    assert.ok(Math.abs(a - c) <= 1e-5 * Math.max(1, Math.abs(c)), `element ${k}: ${a}, not ${c}`);
  }
}

function preserves(options: Parameters<typeof randomGraph>[0], numRuns: number): void {
  fc.assert(
    fc.property(randomGraph(options), ({ roots, inputs, given }) => {
      const simpler = simplify(roots, new Set(inputs));
      verify(simpler);
      simpler.forEach((node, k) =>
        assert.equal(`${node.dtype}[${node.shape}]`, `${roots[k]!.dtype}[${roots[k]!.shape}]`)
      );
      const got = interpret(simpler, given);
      interpret(roots, given).forEach((want, k) => close(got[k]!, want));
      // It does not grow, and what is simple stays as small.
      const again = simplify(simpler, new Set(inputs));
      assert.ok(toposort(again).length <= toposort(simpler).length);
    }),
    { numRuns },
  );
}

test("simplified random graphs have the same values", () => preserves({ length: 14 }, 1500));
test("so they do with NaN, infinities, -0 and extreme integers", () => preserves({ length: 14, special: true }, 1500));

test("simplified gradients of random graphs have the same values", () => {
  fc.assert(
    fc.property(randomGraph({ smooth: true, length: 8 }), ({ roots, inputs, given }) => {
      const root = roots[0]!;
      const grads = gradients([b.reduce("sum", root, [...root.shape.keys()])], inputs);
      const simpler = simplify(grads, new Set(inputs));
      const got = interpret(simpler, given);
      interpret(grads, given).forEach((want, k) => close(got[k]!, want));
    }),
    { numRuns: 300 },
  );
});

/** Movements of a tensor of at least one element whose indices are affine, by what they are drawn by. */
const movements: readonly ((x: Node, at: number, n: number) => Node)[] = [
  (x, at) => b.permute(x, [...x.shape.keys()].map((axis) => (axis + at) % x.shape.length)),
  (x, at, n) =>
    b.pad(x, x.shape.map((_, axis) => axis === at ? n % 3 : 0), x.shape.map((_, axis) => axis === at ? 1 : 0)),
  (x, at, n) => {
    // From either end on, forwards or back, every one, two or three.
    const [length, by] = [x.shape[at]!, 1 + n % 3];
    const count = Math.ceil(Math.max(1, length - 1) / by);
    const reach = (count - 1) * by;
    const on = (own: number, others: readonly number[]) => others.map((other, axis) => axis === at ? own : other);
    const start = n < 6 ? 0 : n < 9 ? length - 1 - reach : reach;
    return b.slice(x, on(start, x.shape.map(() => 0)), on(count, x.shape), on(n < 9 ? by : -by, x.shape.map(() => 1)));
  },
  (x, at, n) => {
    const windows = { axis: at, length: 1 + n % 2, stride: 1 + n % 3, dilation: 1 + n % 2 };
    return x.shape.length > 3 || b.windowCount(x.shape[at]!, windows) === 0 ? x : b.window(x, windows);
  },
  (x) => x.shape.length > 3 ? x : b.expand(b.reshape(x, [...x.shape, 1]), [...x.shape, 2]),
  (x, at) => b.unwindow(b.reshape(x, [...x.shape, 1]), { axis: at, length: x.shape[at]! + 1, stride: 1, dilation: 1 }),
  (x, at) => {
    const windows = { axis: at, length: 2, stride: 1, dilation: 1 };
    return x.shape.length > 3 || x.shape[at]! < 2
      ? x
      : b.unwindow(b.window(x, windows), { ...windows, length: x.shape[at]! + 1 });
  },
];

test("affine views compose, and written down again show the same, zeros where there is nothing", () => {
  const look: Look = (x, op) => x.op === op ? x as NodeOf<typeof op> : undefined;
  const plain = { look, simple: (node: Node) => node, reshape: b.reshape } as unknown as Rewriting;
  const leaf = b.input([3, 4], "f32");
  const values = new Map([[leaf, Array.from({ length: 12 }, (_, k) => k + 1)]]);
  let composed = 0;
  const step = fc.tuple(fc.nat(movements.length - 1), fc.nat(), fc.nat(11));
  fc.assert(
    fc.property(fc.array(step, { minLength: 2, maxLength: 6 }), (steps) => {
      const root = steps.reduce<Node>((x, [kind, at, n]) => movements[kind]!(x, at % x.shape.length, n), leaf);
      const view = viewOf(root, look);
      const again = written(view, plain);
      if (again === undefined) return;
      if (view.base === leaf && steps.length > 2) composed++;
      const [want, got] = interpret([root, again], values);
      assert.deepEqual([...got!], [...want!], printGraph([root]));
      assert.deepEqual(again.shape, root.shape);
    }),
    { numRuns: 1500 },
  );
  assert.ok(composed > 100, `only ${composed} views`);
});

test("a graph of 20,000 nodes in a row takes linear time and no stack", () => {
  let chain = b.input([4], "f32");
  const leaf = chain;
  for (let k = 0; k < 10_000; k++) chain = e("neg", e("sin", chain));
  const [result] = simplify([chain], new Set([leaf]));
  assert.equal(toposort([result!]).length, 20_001);
});

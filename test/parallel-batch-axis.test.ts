/**
 * The batch axis followed through graphs: each rule, the errors, and a law checked against the interpreter.
 */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { DecompositionError } from "../src/errors.ts";
import {
  after,
  allReduce,
  argsort,
  attention,
  attentionGradient,
  bitcast,
  broadcastTo,
  cast,
  checkpoint,
  concat,
  constant,
  elementwise,
  expand,
  full,
  gather,
  input,
  iota,
  pad,
  permute,
  reduce,
  reshape,
  scan,
  scatterAdd,
  scatterMax,
  slice,
  stopGradient,
  unwindow,
  window,
} from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import type { Node } from "../src/graph/node.ts";
import { size } from "../src/graph/shape.ts";
import { BatchAxis } from "../src/parallel/decompose/batch-axis.ts";
import { batched, partial, replicated, type Spread } from "../src/parallel/decompose/spread.ts";
import { shardOffsets, shardSizes } from "../src/parallel/split/shard-sizes.ts";

type Build = (x: Node, w: Node, rows: number) => Node;

const probes = [1009, 1013] as const;

/** How `build` of x [rows, ...tail] and a replicated w is spread. */
function judge(build: Build, tail: readonly number[] = [3], wShape: readonly number[] = [3]): Spread {
  const w = input(wShape, "f32");
  const [one, two] = probes.map((rows) => {
    const x = input([rows, ...tail], "f32");
    return { x, root: build(x, w, rows) };
  });
  return new BatchAxis(new Map([[one!.x, batched(0)]]), ...probes).of(one!.root, two!.root);
}

function mixing(build: Build, op: string, pattern: RegExp, tail?: readonly number[]): void {
  assert.throws(() => judge(build, tail), (error: unknown) => {
    assert.ok(error instanceof DecompositionError, String(error));
    assert.equal(error.op, op);
    assert.match(error.got, pattern);
    assert.match(error.need, /sum and its count/);
    return true;
  });
}

const pairs = (axis: number) => ({ axis, length: 2, stride: 1, dilation: 1 });
const sumRows = (x: Node) => reduce("sum", x, [0]);
const mul = (a: Node, b: Node) => elementwise("mul", a, b);
const add = (a: Node, b: Node) => elementwise("add", a, b);

test("rows stay rows through elementwise ops, movement and reductions of other axes", () => {
  assert.deepEqual(judge((x) => elementwise("exp", x)), batched(0));
  assert.deepEqual(judge((x, w) => add(x, broadcastTo(w, x.shape))), batched(0));
  assert.deepEqual(judge((x) => permute(x, [1, 0])), batched(1));
  assert.deepEqual(judge((x) => reduce("amax", permute(x, [1, 0]), [0])), batched(0));
  assert.deepEqual(judge((x) => pad(x, [0, 1], [0, 2])), batched(0));
  assert.deepEqual(judge((x, _w, rows) => slice(x, [0, 2], [rows, 2], [1, -1])), batched(0));
  assert.deepEqual(judge((x) => window(x, pairs(1))), batched(0));
  assert.deepEqual(judge((x) => unwindow(window(x, pairs(1)), { ...pairs(1), length: 3 })), batched(0));
  assert.deepEqual(judge((x) => argsort(x)), batched(0));
  assert.deepEqual(judge((x) => scan("sum", x, 1)), batched(0));
  assert.deepEqual(judge((x) => scan("sum", sumRows(x), 0)), partial);
  assert.deepEqual(judge((x) => concat([x, x], 1)), batched(0));
  assert.deepEqual(judge((x) => cast(elementwise("lt", x, full(x.shape, 0, "f32")), "i32")), batched(0));
  assert.deepEqual(judge((_x, w) => elementwise("exp", w)), replicated);
});

test("reshapes keep track of what is inside and outside of a row", () => {
  assert.deepEqual(judge((x, _w, rows) => reshape(x, [rows * 3])), batched(0, { inner: 3 }));
  assert.deepEqual(judge((x, _w, rows) => reshape(reshape(x, [rows * 3]), [rows, 3])), batched(0));
  assert.deepEqual(judge((x, _w, rows) => reshape(x, [1, rows, 1, 3])), batched(1));
  assert.deepEqual(judge((x, _w, rows) => reshape(permute(x, [1, 0]), [3 * rows])), batched(0, { outer: 3 }));
  assert.deepEqual(
    judge((x, _w, rows) => reshape(reshape(permute(x, [1, 0]), [3 * rows]), [3, rows])),
    batched(1),
  );
  assert.deepEqual(judge((x, _w, rows) => reshape(x, [rows * 2, 6]), [4, 3]), batched(0, { inner: 2 }));
  assert.deepEqual(
    judge((x, _w, rows) => concat([reshape(x, [rows * 3]), reshape(x, [rows * 3])], 0)),
    batched(0, { outer: 2, inner: 3 }),
  );
  assert.deepEqual(
    judge((x, _w, rows) => slice(concat([x, x], 0), [rows, 0], [rows, 3], [1, 1])),
    batched(0),
  );
  mixing((x, _w, rows) => reshape(permute(x, [1, 0]), [rows, 3]), "reshape", /cuts through the rows/);
});

test("sums over rows are partial, and stay so through linear ops", () => {
  assert.deepEqual(judge((x) => reduce("sum", x, [0, 1])), partial);
  assert.deepEqual(judge((x, w) => mul(sumRows(x), w)), partial);
  assert.deepEqual(judge((x, w) => elementwise("div", elementwise("neg", sumRows(x)), w)), partial);
  assert.deepEqual(judge((x) => add(sumRows(x), sumRows(elementwise("exp", x)))), partial);
  assert.deepEqual(judge((x) => elementwise("sub", sumRows(x), full([3], 0, "f32"))), partial);
  assert.deepEqual(
    judge((x) => elementwise("where", cast(iota(3), "bool"), sumRows(x), full([3], 0, "f32"))),
    partial,
  );
  assert.deepEqual(judge((x) => expand(reshape(sumRows(x), [1, 3]), [5, 3])), partial);
  assert.deepEqual(judge((x) => pad(sumRows(x), [1], [1])), partial);
  assert.deepEqual(judge((x) => window(sumRows(x), pairs(0))), partial);
  assert.deepEqual(judge((x) => concat([sumRows(x), sumRows(x)], 0)), partial);
  assert.deepEqual(judge((x) => gather(sumRows(x), iota(3), 0)), partial);
  assert.deepEqual(judge((x) => scatterAdd(iota(3), sumRows(x), 0, 5)), partial);
  assert.deepEqual(judge((x) => stopGradient(sumRows(x))), partial);
  const counted = (x: Node) =>
    cast(reduce("sum", cast(elementwise("lt", x, full(x.shape, 0, "f32")), "i32"), [0]), "f32");
  assert.deepEqual(judge(counted), partial);
});

test("a contraction over the rows is partial, one over features keeps them", () => {
  const matmul = (a: Node, b: Node) => {
    const shape = [a.shape[0]!, a.shape[1]!, b.shape[1]!];
    return reduce(
      "sum",
      mul(expand(reshape(a, [...a.shape, 1]), shape), expand(reshape(b, [1, ...b.shape]), shape)),
      [1],
    );
  };
  assert.deepEqual(judge((x, w) => matmul(x, reshape(w, [3, 1]))), batched(0));
  assert.deepEqual(judge((x) => matmul(permute(x, [1, 0]), x)), partial);
  mixing((x) => matmul(x, permute(x, [1, 0])), "expand", /paired with all rows/);
});

test("the number of rows counts as a sum over them; other functions of it do not", () => {
  assert.deepEqual(judge((_x, _w, rows) => constant(rows, "f32")), partial);
  assert.deepEqual(judge((_x, _w, rows) => constant(rows * 0.1, "f32")), partial);
  assert.deepEqual(judge((_x, _w, rows) => reduce("sum", full([rows, 3], 1, "f32"), [0, 1])), partial);
  assert.deepEqual(judge((_x, _w, rows) => full([rows], 1, "f32")), batched(0));
  assert.deepEqual(judge(() => constant(7, "f32")), replicated);
  assert.equal(judge((_x, _w, rows) => constant(1 / rows, "f32")).kind, "shard");
  assert.equal(judge((_x, _w, rows) => constant(rows - 1, "f32")).kind, "shard");
  assert.equal(judge((_x, _w, rows) => iota(rows)).kind, "shard");
});

test("lookups: tables by rows, classes by label, bins that rows add to", () => {
  const labels = (x: Node) => cast(reshape(slice(x, [0, 0], [x.shape[0]!, 1], [1, 1]), [x.shape[0]!]), "i32");
  assert.deepEqual(judge((x, w) => gather(w, labels(x), 0)), batched(0));
  assert.deepEqual(judge((x) => gather(x, reshape(labels(x), [x.shape[0]!, 1]), 1)), batched(0));
  assert.deepEqual(judge((x) => scatterAdd(labels(x), full([x.shape[0]!], 1, "f32"), 0, 10)), partial);
  mixing((x) => gather(x, expand(reshape(iota(3), [1, 3]), [1, 3]), 0), "gather", /picked by index/);
  const classes = (x: Node) => expand(reshape(labels(x), [x.shape[0]!, 1]), x.shape);
  assert.deepEqual(judge((x) => scatterMax(pad(x, [0, 0], [0, 4]), classes(x), x, 1)), batched(0));
  assert.deepEqual(judge((_x, w) => scatterMax(w, iota(3), w, 0)), replicated);
  // What is the largest by the rows of a shard is by all rows the largest of all shards'.
  const bins = (x: Node) => scatterMax(full([10, 3], 0, "f32"), classes(x), x, 0);
  assert.deepEqual(judge(bins), { kind: "shard", what: "the max over the rows of a shard, by index", extreme: "max" });
  assert.deepEqual(judge((x) => allReduce(bins(x), "max")), replicated);
  mixing(
    (x) => add(slice(bins(x), [0, 0], [1, 3], [1, 1]), reshape(sumRows(x), [1, 3])),
    "add",
    /a sum over the rows of the batch with the max over the rows/,
  );
  mixing(
    (x) => scatterMax(x, expand(reshape(iota(3), [1, 3]), [1, 3]), full([1, 3], 1, "f32"), 0),
    "scatterMax",
    /put by index/,
  );
  mixing((x) => scatterMax(sumRows(x), iota(3), full([3], 1, "f32"), 0), "scatterMax", /not linear/);
});

test("what mixes rows throws, with the op, what it got and what to do", () => {
  const mean = (x: Node, rows: number) => elementwise("mul", sumRows(x), full([3], 1 / rows, "f32"));
  mixing((x, _w, rows) => elementwise("sub", x, broadcastTo(mean(x, rows), x.shape)), "mul", /1\/rows/);
  mixing(
    (x) => elementwise("sub", x, broadcastTo(sumRows(x), x.shape)),
    "expand",
    /spread over those rows again/,
  );
  mixing((x) => reduce("prod", x, [0]), "prod", /axis 0/);
  mixing(
    (x) => elementwise("sub", x, broadcastTo(reduce("amax", x, [0]), x.shape)),
    "sub",
    /the max over the rows of a shard/,
  );
  assert.equal(judge((x) => reduce("amin", x, [0])).kind, "shard");
  mixing((x) => elementwise("exp", sumRows(x)), "exp", /not linear/);
  mixing((x) => mul(sumRows(x), sumRows(x)), "mul", /not linear/);
  mixing((x) => elementwise("div", sumRows(x), sumRows(x)), "div", /divided by a sum/);
  mixing((x, w) => add(sumRows(x), w), "add", /each shard would count it/);
  mixing((x) => argsort(permute(x, [1, 0])), "argsort", /sorted among each other/);
  mixing((x) => scan("prod", sumRows(x), 0), "scan", /not linear/);
  mixing((x) => scan("sum", x, 0), "scan", /running sums or products over its rows/);
  mixing((x, _w, rows) => slice(x, [rows - 1, 0], [rows, 3], [-1, 1]), "slice", /some of the rows/);
  mixing((x, _w, rows) => slice(x, [0, 0], [rows - 1, 3], [1, 1]), "slice", /some of the rows/);
  mixing((x) => slice(x, [0, 0], [2, 3], [1, 1]), "slice", /some of the rows/);
  mixing((x) => window(x, pairs(0)), "window", /windows along axis 0/);
  mixing((x, _w, rows) => unwindow(x, { ...pairs(0), length: rows + 2 }), "unwindow", /windows along axis 0/);
  mixing((x) => unwindow(permute(x, [1, 0]), { ...pairs(0), length: 5000 }), "unwindow", /windows along axis 0/);
  mixing((x) => pad(x, [1, 0], [0, 0]), "pad", /shifted/);
  // Each shard would add its own frame.
  for (const value of [1, -1, Infinity, NaN]) mixing((x) => pad(sumRows(x), [1], [1], value), "pad", /not linear/);
  mixing((x, w) => concat([x, reshape(w, [1, 3])], 0), "concat", /joined/);
  mixing(
    (x, _w, rows) => add(x, expand(reshape(cast(iota(rows), "f32"), [rows, 1]), [rows, 3])),
    "add",
    /positions within the shard/,
  );
  mixing((x) => bitcast(sumRows(x), "u32"), "bitcast", /not linear/);
  mixing((x) => cast(sumRows(x), "i32"), "cast", /not linear/);
  mixing((x, _w, rows) => mul(x, full(x.shape, rows, "f32")), "expand", /spread over those rows/);
});

test("attention: rows of a batch are on its leading axes, or are queries", () => {
  const own = (x: Node): Node => attention({ q: x, k: x, v: x });
  assert.deepEqual(judge(own, [3, 4]), batched(0));
  // Queries [3, rows] to keys [3, 3] that all rows share.
  const keys = (w: Node) => broadcastTo(reshape(w, [3, 1]), [3, 3]);
  const query: Build = (x, w) => attention({ q: permute(x, [1, 0]), k: keys(w), v: keys(w) });
  assert.deepEqual(judge(query), batched(1));
  const gradient = (of: "queries" | "keys"): Build => (x, w) => {
    const q = permute(x, [1, 0]);
    const [row, norm] = [1, 2].map((count) => slice(q, [0, 0], [count, q.shape[1]!], [1, 1])) as [Node, Node];
    return attentionGradient(of, { q, k: keys(w), v: keys(w), norm, g: q, delta: row });
  };
  assert.deepEqual(judge(gradient("queries")), batched(1));
  assert.deepEqual(judge(gradient("keys")), partial);
  mixing(
    (x, w) => attention({ q: keys(w), k: permute(x, [1, 0]), v: permute(x, [1, 0]) }),
    "attention",
    /keys, values or features/,
  );
  assert.deepEqual(judge((x) => after(checkpoint(x, 0, "in"), [x])), batched(0));
});

test("traces of other ops for other numbers of rows are refused", () => {
  assert.throws(
    () => judge((x, _w, rows) => elementwise(rows === 1009 ? "exp" : "sin", x)),
    DecompositionError,
  );
});

test("along one trace alone nothing of the batch is mistaken for small numbers of rows", () => {
  for (const rows of [1, 2, 3, 5]) {
    const x = input([rows, 3], "f32");
    const axes = new BatchAxis(new Map([[x, batched(0)]]), rows);
    assert.deepEqual(axes.of(elementwise("exp", x)), batched(0));
    assert.deepEqual(axes.of(reshape(permute(x, [1, 0]), [3, rows, 1])), batched(1));
    assert.deepEqual(axes.of(add(x, full(x.shape, 1, "f32"))), batched(0));
  }
});

test("a graph of 20,000 ops is followed without recursion", () => {
  assert.deepEqual(
    judge((x) => {
      let y = x;
      for (let i = 0; i < 20_000; i++) y = elementwise("neg", elementwise("exp", y));
      return y;
    }),
    batched(0),
  );
});

/** Steps of a random function of rows; each is tried, and skipped where it does not fit the shape. */
const step = fc.record({ kind: fc.nat(13), a: fc.nat(5), b: fc.nat(5) });
type Step = { kind: number; a: number; b: number };

/** `fits` answers whether a step applies: by the shape in the first trace, and as then in all later ones. */
function apply(x: Node, w: Node, rows: number, { kind, a, b }: Step, fits: (by: boolean) => boolean): Node {
  const rank = x.shape.length;
  const axis = rank === 0 ? 0 : a % rank;
  switch (kind) {
    case 0:
      return elementwise("sin", x);
    case 1:
      return elementwise("mul", x, full(x.shape, b - 2, "f32"));
    case 2:
      return rank > 1 ? permute(x, [...x.shape.keys()].reverse()) : x;
    case 3:
      return rank > 0 ? reduce("sum", x, [axis]) : x;
    case 4:
      return rank > 0 ? reduce("amax", x, [axis]) : x;
    case 5:
      return rank > 1 ? reshape(x, [x.shape[0]! * x.shape[1]!, ...x.shape.slice(2)]) : x;
    case 6:
      return rank > 0 && rank < 4 ? expand(reshape(x, [...x.shape, 1]), [...x.shape, 1 + b % 3]) : x;
    case 7:
      return rank > 0 ? concat([x, elementwise("neg", x)], axis) : x;
    case 8:
      return fits(rank > 0 && x.shape[rank - 1] === 2) ? add(x, broadcastTo(w, x.shape)) : x;
    case 9:
      return rank > 0 ? pad(x, x.shape.map((_, i) => i === axis ? 1 : 0), x.shape.map(() => 0)) : x;
    case 10:
      return rank > 0
        ? slice(x, x.shape.map(() => 0), x.shape.map((n, i) => i === axis ? 1 : n), x.shape.map(() => 1))
        : x;
    case 11:
      return mul(x, full(x.shape, rows, "f32"));
    case 12:
      return fits(rank > 0 && size(x.shape) % (rows * 2) === 0) ? reshape(x, [rows, 2, size(x.shape) / (rows * 2)]) : x;
    default:
      return rank > 0 ? add(x, elementwise("neg", reshape(x, x.shape))) : x;
  }
}

test("law: what is judged batched, partial or replicated is so on random functions and cuts", () => {
  let judged = 0;
  fc.assert(
    fc.property(
      fc.array(step, { minLength: 1, maxLength: 6 }),
      fc.integer({ min: 1, max: 7 }),
      fc.integer({ min: 1, max: 4 }),
      (steps, n, parts) => {
        const decisions = new Map<number, boolean>();
        const build: Build = (x, w, rows) =>
          steps.reduce((y, s, i) =>
            apply(y, w, rows, s, (by) => {
              if (!decisions.has(i)) decisions.set(i, by);
              return decisions.get(i)!;
            }), x);
        let spread: Spread;
        try {
          spread = judge(build, [2], [2]);
        } catch (error) {
          assert.ok(error instanceof DecompositionError, String(error));
          return;
        }
        if (spread.kind === "shard") return;
        judged++;
        const values = Float64Array.from({ length: n * 2 }, (_, i) => Math.sin(1 + i));
        const w = input([2], "f32");
        const run = (from: number, rows: number) => {
          const x = input([rows, 2], "f32");
          const root = build(x, w, rows);
          return {
            shape: root.shape,
            values: interpret(
              [root],
              new Map<Node, ArrayLike<number>>([[x, values.slice(from * 2, (from + rows) * 2)], [w, [
                0.5,
                -2,
              ]]]),
            )[0]!,
          };
        };
        const whole = run(0, n);
        const sizes = shardSizes(n, parts).filter((rows) => rows > 0);
        const shards = shardOffsets(sizes).map((from, i) => run(from, sizes[i]!));
        const combined = new Float64Array(whole.values.length);
        shards.forEach((shard, k) => {
          const from = shardOffsets(sizes)[k]!;
          shard.values.forEach((value, i) => {
            if (spread.kind === "partial") combined[i]! += value;
            else if (spread.kind === "replicated") combined[i] = value;
            else combined[position(spread, i, shard.shape, sizes[k]!, from, n)] = value;
          });
        });
        for (let i = 0; i < combined.length; i++) {
          assert.ok(
            Math.abs(combined[i]! - whole.values[i]!) < 1e-9,
            `${spread.kind}: ${combined} is not ${whole.values}`,
          );
        }
      },
    ),
    { numRuns: 400 },
  );
  assert.ok(judged > 50, `only ${judged} functions were judged`);
});

/** Where element i of a shard lies in the whole. */
function position(
  spread: Extract<Spread, { kind: "batched" }>,
  i: number,
  shape: readonly number[],
  rows: number,
  from: number,
  n: number,
): number {
  const after = size(shape.slice(spread.axis + 1));
  const length = shape[spread.axis]!;
  const before = Math.floor(i / (after * length));
  const at = Math.floor(i / after) % length;
  const outer = Math.floor(at / (rows * spread.inner));
  const row = Math.floor(at / spread.inner) % rows;
  const whole = (outer * n + row + from) * spread.inner + at % spread.inner;
  return (before * (spread.outer * n * spread.inner) + whole) * after + i % after;
}

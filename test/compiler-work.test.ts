/** How much work a plan's kernels do, and in which order: nothing is computed again for each that reads it. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { compileGraph } from "../src/compiler/compile.ts";
import type { Draft } from "../src/compiler/group/draft.ts";
import { leanOrder } from "../src/compiler/group/waits.ts";
import * as g from "../src/graph/build.ts";
import type { Node } from "../src/graph/node.ts";
import { cpuTarget, discreteTarget } from "./targets.ts";

const e = g.elementwise;
const n = 96;
const square = [n, n] as const;
const sumOf = (x: Node) => g.reduce("sum", x, [1]);
/** A value of each row, for all of its elements; of each column with `axis` 0. */
const along = (x: Node, axis = 1) => g.expand(g.reshape(x, axis === 1 ? [n, 1] : [1, n]), square);
const flat = (x: Node) => g.reshape(x, [n * n]);
/** Eight operations on each element. */
const long = (x: Node) => Array.from({ length: 4 }).reduce<Node>((y) => e("tanh", e("exp", y)), x);

/** Each with the operations for each element of [n, n] that it takes at least. */
const graphs: Readonly<Record<string, readonly [least: number, build: (x: Node, y: Node) => Node]>> = {
  "what follows a sum, read by every row of a maximum": [
    3,
    (x, y) => g.reduce("amax", e("add", y, along(long(sumOf(x)), 0)), [1]),
  ],
  "what follows a product by a vector, read by every row of a maximum": [
    4,
    (x, y) =>
      g.reduce(
        "amax",
        e("add", y, along(long(sumOf(e("mul", x, along(g.reshape(g.slice(y, [0, 0], [1, n], [1, 1]), [n]), 0)))), 0)),
        [1],
      ),
  ],
  "a softmax, laid out flat": [6, (x) => {
    const powers = e("exp", e("sub", x, along(g.reduce("amax", x, [1]))));
    return flat(e("div", powers, along(sumOf(powers))));
  }],
  "centred rows, laid out flat and used so": [3, (x, y) => e("mul", flat(e("sub", x, along(sumOf(x)))), flat(y))],
  "a vector that is a sum, by another one, laid out flat": [
    2,
    (x, y) => flat(e("mul", along(sumOf(x)), along(g.reshape(g.slice(y, [0, 0], [1, n], [1, 1]), [n]), 0))),
  ],
  "sums that are repeated, laid out flat": [1, (x) => flat(along(sumOf(x)))],
  "sums that are part of a vector": [3, (x) => g.concat([flat(e("mul", x, along(sumOf(x)))), flat(e("neg", x))], 0)],
};

test("no reduction, and nothing that follows one, is computed again for each element that reads it", () => {
  for (const [name, [least, build]] of Object.entries(graphs)) {
    const inputs = [g.input(square, "f32"), g.input(square, "f32")];
    const root = build(inputs[0]!, inputs[1]!);
    for (const target of [cpuTarget, discreteTarget]) {
      const { programs } = compileGraph({ roots: [root], inputs }, target);
      const done = programs.reduce((sum, { flops }) => sum + flops, 0) / (n * n);
      const message = `${name}, ${target.class}: ${done} operations an element by ${
        programs.map((program) => program.name)
      }`;
      assert.ok(done <= 1.5 * least + 1, message);
    }
  }
});

test("a product that several kernels read is computed once", () => {
  const [x, y] = [g.input(square, "f32"), g.input(square, "f32")];
  const wide = [n, n, n];
  const product = g.reduce(
    "sum",
    e("mul", g.expand(g.reshape(x, [n, n, 1]), wide), g.expand(g.reshape(y, [1, n, n]), wide)),
    [1],
  );
  for (const read of [product, e("tanh", product)]) {
    const roots = [e("exp", read), g.reduce("amax", read, [1]), g.reduce("amin", read, [0]), g.permute(read, [1, 0])];
    for (const target of [cpuTarget, discreteTarget]) {
      const { programs } = compileGraph({ roots, inputs: [x, y] }, target);
      const done = programs.reduce((sum, { flops }) => sum + flops, 0) / (n * n * n);
      assert.ok(
        done >= 1.9 && done <= 3.5,
        `${target.class}: ${done} operations a product by ${programs.map((program) => program.name)}`,
      );
    }
  }
});

test("a long chain of ops takes no stack, and none of them is computed twice", () => {
  const x = g.input([n], "f32");
  const count = 12_000;
  const chain = Array.from({ length: count }).reduce<Node>((y) => e("sin", y), x);
  const { steps, programs } = compileGraph({ roots: [chain], inputs: [x] }, cpuTarget);
  const done = steps.reduce((sum, step) => sum + (step.kind === "dispatch" ? programs[step.program]!.flops : 0), 0);
  assert.equal(done, count * n);
});

interface Group {
  readonly name: number;
  readonly drafts: readonly Draft[];
}

test("of kernels that may run next, the one that leaves least in memory runs first, and of equal ones the first", () => {
  const kernel = fc.record({
    // What each kernel writes, of so many elements, and which of those before it it reads.
    sizes: fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 2 }),
    reads: fc.array(fc.nat(), { maxLength: 3 }),
    isKept: fc.boolean(),
  });
  fc.assert(fc.property(fc.array(kernel, { minLength: 1, maxLength: 9 }), (kernels) => {
    const given = g.input([3], "f32");
    const kept = new Set<Node>();
    const reads = new Map<Group, Set<Node>>();
    const writer = new Map<Node, Group>();
    const groups = kernels.map(({ sizes, reads: before, isKept }, name): Group => {
      const group = { name, drafts: sizes.map((count) => ({ root: g.input([count], "f32") }) as Draft) };
      const earlier = [...writer.keys()];
      reads.set(
        group,
        new Set([given, ...earlier.length === 0 ? [] : before.map((i) => earlier[i % earlier.length]!)]),
      );
      for (const { root } of group.drafts) {
        writer.set(root, group);
        if (isKept) kept.add(root);
      }
      return group;
    });
    const sources = (of: Group) => new Set([...reads.get(of)!].flatMap((node) => writer.get(node) ?? []));
    /** What has to be in memory when these have run. */
    const held = (done: readonly Group[]) => {
      let elements = 0;
      for (const { root } of done.flatMap(({ drafts }) => drafts)) {
        const readers = groups.filter((group) => reads.get(group)!.has(root));
        const needed = readers.length === 0 || readers.some((group) => !done.includes(group));
        if (needed && !kept.has(root)) elements += root.shape[0]!;
      }
      return elements;
    };
    const expected: Group[] = [];
    while (expected.length < groups.length) {
      const ready = groups.filter((group) =>
        !expected.includes(group) && [...sources(group)].every((source) => expected.includes(source))
      );
      expected.push(
        ready.reduce((best, group) => held([...expected, group]) < held([...expected, best]) ? group : best),
      );
    }
    const actual = leanOrder(groups, sources, (of) => reads.get(of)!, kept);
    assert.deepEqual(actual.map(({ name }) => name), expected.map(({ name }) => name));
  }));
});

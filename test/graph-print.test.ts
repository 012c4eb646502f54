import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { InternalError } from "../src/errors.ts";
import * as b from "../src/graph/build.ts";
import { makeNode } from "../src/graph/node.ts";
import { printGraph, toDot } from "../src/graph/print.ts";
import { verify } from "../src/graph/verify.ts";
import { randomGraph } from "./random-graph.ts";

function example() {
  const x = b.storage({ id: 7, readers: 0 }, [2, 3], "f32", 1);
  const y = b.elementwise("mul", x, b.full([2, 3], -0, "f32"));
  return b.elementwise("add", b.reduce("sum", y, [0]), b.slice(b.iota(4, "f32"), [3], [3], [-1]));
}

test("a graph prints one line a node", () => {
  assert.equal(
    printGraph([example()]),
    [
      "%0 = storage {storage: 7} : f32[2, 3]@1",
      "%1 = const {value: -0} : f32[]",
      "%2 = reshape %1 : f32[1, 1]",
      "%3 = expand %2 : f32[2, 3]",
      "%4 = mul %0 %3 : f32[2, 3]@1",
      "%5 = sum %4 {axes: [0]} : f32[3]@1",
      "%6 = iota : f32[4]",
      "%7 = slice %6 {start: [3], step: [-1]} : f32[3]",
      "%8 = add %5 %7 : f32[3]@1",
      "return %8",
    ].join("\n"),
  );
});

test("a graph prints as DOT, with each operand an edge", () => {
  const x = b.constant(2, "f32");
  const lines = toDot([b.elementwise("mul", x, x)]).split("\n");
  assert.ok(lines.includes('  n1 [label="mul\\nf32[]", peripheries=2];'));
  assert.equal(lines.filter((line) => line === "  n0 -> n1;").length, 2);
});

test("verify accepts what the constructors make", () => {
  verify([example()]);
  fc.assert(fc.property(randomGraph(), ({ roots }) => verify(roots)), { numRuns: 200 });
});

test("verify finds nodes that break the rules", () => {
  const x = b.input([2, 3], "f32");
  const i = b.input([2, 3], "i32");
  const wrong = [
    makeNode("add", [x, i], {}, [2, 3], "i32", undefined),
    makeNode("exp", [i], {}, [2, 3], "i32", undefined),
    makeNode("lt", [x, x], {}, [2, 3], "f32", undefined),
    makeNode("sum", [x], { axes: [1] }, [3], "f32", undefined),
    makeNode("sum", [x], { axes: [1, 0] }, [], "f32", undefined),
    makeNode("permute", [x], { axes: [0, 0] }, [2, 2], "f32", undefined),
    makeNode("slice", [x], { start: [0, 2], step: [1, 1] }, [2, 2], "f32", undefined),
    makeNode("const", [], { value: 0.1 }, [], "f32", undefined),
    makeNode("neg", [x], {}, [2, 3], "f32", 4),
    makeNode("gather", [x, x], { axis: 0 }, [2, 3], "f32", undefined),
  ];
  for (const node of wrong) assert.throws(() => verify([b.contiguous(node)]), InternalError, node.op);
});

/** Kernels in WebAssembly where vectors end: lengths around groups of lanes, guards, and addresses at the edges of memory. */
import fc from "fast-check";
import { test } from "node:test";
import { CpuDevice } from "../src/devices/cpu/cpu.ts";
import { claimIdentity } from "../src/devices/device/registry.ts";
import * as g from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import type { Node } from "../src/graph/node.ts";
import { size } from "../src/graph/shape.ts";
import { evaluate } from "./evaluate.ts";
import { assertClose } from "./harness.ts";

const e = g.elementwise;

/** Computes the roots on a device of its own, where nothing was before, and wants the values of the interpreter. */
async function exactly(roots: readonly Node[], inputs: readonly Node[]): Promise<void> {
  const device = new CpuDevice(claimIdentity("cpu"), Infinity, "wasm");
  const values = new Map(inputs.map((input, seed) => [
    input,
    Array.from({ length: size(input.shape) }, (_, i) => (7 * i + 3 * seed) % 13 - 6),
  ]));
  const expected = interpret(roots, values);
  const actual = await evaluate(device, { roots, inputs }, inputs.map((input) => values.get(input)!));
  actual.forEach((result, i) => assertClose(result, expected[i]!, { atol: 0, rtol: 0, message: `root ${i}` }));
  device.close();
}

test("columns, rows and elements of every length, on either side of groups of lanes", async () => {
  for (let length = 1; length <= 70; length++) {
    const columns = g.input([5, length], "f32");
    const rows = g.input([length, 3], "f32");
    await exactly([
      g.reduce("sum", columns, [0]),
      g.reduce("amax", e("sub", columns, g.full([5, length], 20, "f32")), [1]),
      g.reduce("prod", e("sign", rows), [0]),
      e("add", columns, g.full([5, length], 1, "f32")),
      g.permute(rows, [1, 0]),
    ], [columns, rows]);
  }
});

test("what lies beyond padding is 0, whatever lies there in memory", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 37 })),
      fc.array(fc.nat(6), { minLength: 4, maxLength: 4 }),
      async ([height, width], [top, bottom, left, right]) => {
        const x = g.input([height, width], "f32");
        const padded = g.pad(x, [top!, left!], [bottom!, right!]);
        await exactly([padded, g.reduce("sum", padded, [1]), g.reduce("amin", padded, [0])], [x]);
      },
    ),
    { numRuns: 40 },
  );
});

test("a long tensor that is read backwards from where memory begins", async () => {
  const x = g.input([100_000], "f32");
  const backwards = g.slice(x, [99_999], [100_000], [-1]);
  await exactly([backwards, g.slice(x, [99_998], [33_333], [-3])], [x]);
});

test("positions out of range read nothing, and positions may be anything", async () => {
  const x = g.input([50, 7], "f32");
  const index = g.input([50, 7], "i32");
  const far = e("mul", index, g.full([50, 7], 100_000_000, "i32"));
  await exactly([g.gather(x, index, 0), g.gather(x, far, 0), g.scatterAdd(index, x, 0, 4)], [x, index]);
});

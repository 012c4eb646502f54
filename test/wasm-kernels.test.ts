/** Kernels in WebAssembly where vectors end: lengths around groups of lanes, guards, and addresses at the edges of memory. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { test } from "node:test";
import { compileGraph } from "../src/compiler/compile.ts";
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

test("long columns are reduced a strip at a time, whatever their lengths and what is computed of them", async () => {
  const device = new CpuDevice(claimIdentity("cpu"), Infinity, "wasm");
  for (const [terms, columns] of [[2049, 65], [79, 1700], [130, 2051]] as const) {
    const x = g.input([terms, columns], "f32");
    const whole = g.input([terms, columns], "i32");
    const weights = g.input([terms], "f32");
    const weighted = e("mul", x, g.expand(g.reshape(weights, [terms, 1]), [terms, columns]));
    const backwards = g.slice(x, [terms - 1, 0], [terms, columns], [-1, 1]);
    const roots = [
      g.reduce("sum", x, [0]),
      e("add", g.reduce("sum", weighted, [0]), g.full([columns], 3, "f32")),
      g.reduce("amax", e("sub", x, g.full([terms, columns], 20, "f32")), [0]),
      g.reduce("amin", whole, [0]),
      g.reduce("amin", e("add", backwards, g.expand(g.reshape(weights, [terms, 1]), [terms, columns])), [0]),
    ];
    for (const root of roots) {
      const inputs = [x, whole, weights];
      await exactly([root], inputs);
      const { programs } = compileGraph({ roots: [root], inputs }, device.target);
      assert.ok(
        programs.length === 1 && programs[0]!.source.includes("part"),
        programs.map(({ source }) => source).join(),
      );
    }
  }
  device.close();
});

test("a long column in which there is a NaN or an infinity, and equal strips", async () => {
  const x = g.input([2, 1500, 100], "f32");
  const data = Float32Array.from({ length: 300_000 }, (_, i) => i % 7 - 3);
  data.set([NaN, Infinity, -Infinity, -0], 40_004);
  const roots = [g.reduce("sum", x, [1]), g.reduce("sum", e("abs", x), [1])];
  const expected = interpret(roots, new Map([[x, data]]));
  const device = new CpuDevice(claimIdentity("cpu"), Infinity, "wasm");
  for (const [i, root] of roots.entries()) {
    const [actual] = await evaluate(device, { roots: [root], inputs: [x] }, [data]);
    assertClose(actual!, expected[i]!, { atol: 0, rtol: 0, message: `root ${i}` });
  }
  device.close();
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

test("what lies across the lanes is read in squares, at every length along the lanes and in any direction", async () => {
  const device = new CpuDevice(claimIdentity("cpu"), Infinity, "wasm");
  for (let length = 512; length < 522; length++) {
    for (const dtype of ["f32", "i32"] as const) {
      const x = g.input([length, 12], dtype);
      const y = g.input([12, length], dtype);
      const turned = g.permute(x, [1, 0]);
      const upside = g.permute(g.slice(x, [length - 1, 0], [length, 12], [-1, 1]), [1, 0]);
      const mirrored = g.permute(g.slice(x, [0, 11], [length, 12], [1, -1]), [1, 0]);
      for (
        const root of [e("add", turned, y), e("sub", e("mul", turned, turned), upside), g.contiguous(turned), mirrored]
      ) {
        await exactly([root], [x, y]);
      }
      const { programs } = compileGraph({ roots: [e("add", turned, y)], inputs: [x, y] }, device.target);
      assert.equal(programs[0]!.invocations, 3 * length);
    }
  }
  const x = g.input([3, 16, 9, 40], "f32");
  const half = g.input([70, 64], "f16");
  const whole = g.input([70, 64], "i32");
  const flags = g.contiguous(e("lt", whole, g.full([70, 64], 0, "i32")));
  for (const axes of [[0, 2, 1, 3], [3, 2, 1, 0], [0, 3, 1, 2], [2, 3, 0, 1], [1, 0, 3, 2]]) {
    await exactly([g.contiguous(g.permute(x, axes)), e("neg", g.permute(x, axes))], [x]);
  }
  const sum = e("add", g.cast(g.permute(half, [1, 0]), "f32"), g.cast(g.permute(flags, [1, 0]), "f32"));
  await exactly([sum], [half, whole]);
  // Padded and repeated, and next to what goes along the lanes.
  const wide = g.pad(x, [0, 0, 0, 1], [0, 0, 0, 3], 2);
  await exactly([g.contiguous(g.permute(wide, [3, 2, 1, 0]))], [x]);
  device.close();
});

test("of two guards around one index each has the bounds that it needs", async () => {
  // p[i] is read where i < 10, so that its padding begins at 10, and where 1 <= i < 11.
  const x = g.input([8], "f32");
  const p = e("neg", g.pad(x, [2], [2], -1));
  const first = g.pad(g.slice(p, [0], [10], [1]), [0], [2]);
  const second = g.pad(g.slice(p, [1], [10], [1]), [1], [1]);
  await exactly([e("add", first, second)], [x]);
  await exactly([e("add", second, first)], [x]);
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

test("running sums lose no more digits in long rows than in short ones", async () => {
  const device = new CpuDevice(claimIdentity("cpu"), Infinity, "wasm");
  const length = 1_000_000;
  const values = Array.from({ length }, (_, i) => Math.fround((i * 0.618034) % 1));
  for (const [shape, axis] of [[[length], 0], [[length, 1], 0], [[length / 4, 4], 0]] as const) {
    const x = g.input(shape, "f32");
    const scan = g.scan("sum", x, axis);
    const [actual] = await evaluate(device, { roots: [scan], inputs: [x] }, [values]);
    const [expected] = interpret([scan], new Map([[x, values]]));
    let worst = 0;
    expected!.forEach((sum, i) => worst = Math.max(worst, Math.abs(actual![i]! - sum) / (sum || 1)));
    // Added up one after another they are 6e-7 off at least.
    assert.ok(worst < 8 * 2 ** -24, `${worst} of [${shape}]`);
  }
  device.close();
});

test("argsort of rows of every kind: equal keys stay in order, zeros are equal, NaN is last", async () => {
  const device = new CpuDevice(claimIdentity("cpu"), Infinity, "wasm");
  const special = [NaN, 0, -0, Infinity, -Infinity, 2 ** -149, -(2 ** -149), 3.4e38, -3.4e38, 1, -1];
  const keys = {
    f32: (i: number) =>
      i % 3 === 0 ? special[i * 7 % special.length]! : Math.fround(Math.sin(i * 12.9) * 10 ** (i % 9 - 4)),
    i32: (i: number) => i % 5 === 0 ? [-2147483648, 2147483647, 0, -1][i % 4]! : Math.imul(i, 0x9e3779b1) >> i % 30,
    u32: (i: number) => i % 5 === 0 ? [4294967295, 2147483648, 0][i % 3]! : Math.imul(i, 0x9e3779b1) >>> i % 31,
  } as const;
  for (const [dtype, key] of Object.entries(keys) as [keyof typeof keys, (i: number) => number][]) {
    for (const length of [1, 2, 3, 4, 5, 9, 17, 255, 256, 257, 2047, 2048, 2049, 5003]) {
      const rows = length < 300 ? 3 : 2;
      const x = g.input([rows, length], dtype);
      const data = Array.from({ length: rows * length }, (_, i) => key(i));
      const request = { roots: [g.argsort(x)], inputs: [x] };
      const [program] = compileGraph(request, device.target).programs;
      assert.equal(program!.language, "wasm");
      const [actual] = await evaluate(device, request, [data]);
      const expected = Array.from({ length: rows }, (_, row) => {
        const at = (i: number) => data[row * length + i]!;
        const rank = (a: number, b: number) =>
          a < b ? -1 : a > b ? 1 : a === b ? 0 : Number(Number.isNaN(a)) - Number(Number.isNaN(b));
        return Array.from({ length }, (_, i) => i).sort((a, b) => rank(at(a), at(b)) || a - b);
      }).flat();
      assert.deepEqual(Array.from(actual!), expected, `${dtype} ${length}`);
    }
  }
  device.close();
});

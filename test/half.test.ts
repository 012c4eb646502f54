/** f16: its rounding, bit by bit, on every device; what keeps it and what makes f32 of it; what it costs. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { compileGraph } from "../src/compiler/compile.ts";
import type { Target } from "../src/compiler/plan/plan.ts";
import type { Device } from "../src/devices/device/device.ts";
import { DTypeError } from "../src/errors.ts";
import * as g from "../src/graph/build.ts";
import { promote } from "../src/graph/dtype.ts";
import { halfValues, roundToHalf, toHalfBits } from "../src/graph/half.ts";
import { interpret } from "../src/graph/interpret.ts";
import type { Node } from "../src/graph/node.ts";
import { size } from "../src/graph/shape.ts";
import { asWords, fromWords, toWords } from "../src/graph/words.ts";
import { arange, concat, full, ones, stack, tensor, where } from "../src/index.ts";
import { explain } from "../src/tensor/inspect/explain.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { realize } from "../src/tensor/together.ts";
import { evaluate } from "./evaluate.ts";
import { assertClose, onEachDevice, testDevice, testKinds } from "./harness.ts";

const e = g.elementwise;
const allBits = Uint16Array.from({ length: 2 ** 16 }, (_, bits) => bits);
const isNaNBits = (bits: number) => (bits & 0x7fff) > 0x7c00;

/** The value of a half by the definition of IEEE 754. */
function valueOf(bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, bits >> 10 & 31, bits & 1023];
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** The bits of the nearest half by search: of two at one distance, the one with even bits. Beyond the largest, as if there were one more. */
function nearestBits(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (magnitude >= 65536) return sign | 0x7c00;
  const at = (bits: number) => bits === 0x7c00 ? 65536 : valueOf(bits);
  let [low, high] = [0, 0x7c00];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (at(middle) <= magnitude) low = middle;
    else high = middle;
  }
  const [below, above] = [magnitude - at(low), at(high) - magnitude];
  return sign | (below < above || (below === above && low % 2 === 0) ? low : high);
}

const word = new DataView(new ArrayBuffer(4));
function f32Of(bits: number): number {
  word.setUint32(0, bits);
  return word.getFloat32(0);
}
function bitsOf(x: number): number {
  word.setFloat32(0, x);
  return word.getUint32(0);
}

/** f32 that are halves, the middles between neighbours, the f32 next to those, and others of any bits. */
function hardFloats(): Float32Array {
  const values: number[] = [];
  for (let bits = 0; bits < 0x7c00; bits++) {
    const middle = bitsOf((valueOf(bits) + (bits === 0x7bff ? 65536 : valueOf(bits + 1))) / 2);
    values.push(valueOf(bits), f32Of(middle), f32Of(middle - 1), f32Of(middle + 1));
  }
  for (let bits = 0; bits < 2 ** 32; bits += 104729) values.push(f32Of(bits));
  values.push(Infinity, NaN, f32Of(0x7f800001), f32Of(1), f32Of(0x007fffff), f32Of(0x00800000), 3.4e38);
  return Float32Array.from(values.flatMap((x) => [x, -x]));
}

/** Asserts equal bits; one NaN is as good as another. */
function assertBits(actual: ArrayLike<number>, expected: ArrayLike<number>, message: string): void {
  assert.equal(actual.length, expected.length, message);
  const wrong: string[] = [];
  for (let i = 0; i < expected.length; i++) {
    const [got, need] = [actual[i]!, expected[i]!];
    if (got !== need && !(isNaNBits(got) && isNaNBits(need))) {
      wrong.push(`[${i}] got ${got.toString(16)}, need ${need.toString(16)}`);
    }
  }
  assert.deepEqual(wrong.slice(0, 5), [], `${message}: ${wrong.length} differ`);
}

/** How a device may hold halves: as it does, and as one without f16 would. */
function storages(device: Device): Target[] {
  const { target } = device;
  return target.language === "js" || target.f16 === "packed" ? [target] : [target, { ...target, f16: "packed" }];
}

test("on the host every half is what the standard says, and rounding goes to the nearest", () => {
  const values = halfValues();
  for (let bits = 0; bits < 2 ** 16; bits++) {
    assert.ok(Object.is(values[bits], valueOf(bits)), `${bits}: ${values[bits]}`);
    if (isNaNBits(bits)) assert.equal(toHalfBits(values[bits]!), 0x7e00);
    else assert.equal(toHalfBits(values[bits]!), bits);
  }
  const floats = hardFloats();
  const nearest = Uint16Array.from(floats, nearestBits);
  assertBits(Uint16Array.from(floats, toHalfBits), nearest, "one by one");
  assertBits(toWords("f16", floats), nearest, "all at once");
  assertBits(toWords("f16", Float64Array.from(floats)), nearest, "of doubles");
  assert.deepEqual(fromWords("f16", nearest, floats.length), Float32Array.from(floats, roundToHalf));
  // From doubles in one step: by way of f32 this one would be a tie, and go to 1.
  assert.equal(roundToHalf(1 + 2 ** -11 + 2 ** -40), 1 + 2 ** -10);
  fc.assert(
    fc.property(fc.double(), (x) => {
      assert.ok(Object.is(roundToHalf(x), valueOf(nearestBits(x))), `${x}: ${roundToHalf(x)}`);
    }),
    { numRuns: 2000 },
  );
});

onEachDevice("all 65,536 halves become the f32 that they are, and come back", async (device) => {
  const x = g.input([2 ** 16], "f16");
  const y = g.input([2 ** 16], "f32");
  for (const target of storages(device)) {
    const plan = compileGraph({ roots: [g.cast(x, "f32"), g.cast(y, "f16")], inputs: [x, y] }, target);
    const executable = await device.load(plan);
    const [halves, floats] = [device.alloc(2 ** 17), device.alloc(2 ** 18)];
    const [wide, narrow] = [device.alloc(2 ** 18), device.alloc(2 ** 17)];
    device.write(halves, allBits);
    device.write(floats, Float32Array.from(allBits, valueOf));
    device.run(executable, [halves, floats], [wide, narrow]);
    const widened = new Float32Array(await device.read(wide));
    allBits.forEach((bits, i) =>
      assert.ok(Object.is(widened[i], valueOf(bits)), `${target.f16} ${bits}: got ${widened[i]}`)
    );
    assertBits(new Uint16Array(await device.read(narrow)), allBits, target.f16);
    executable.release();
    for (const buffer of [halves, floats, wide, narrow]) device.free(buffer);
  }
});

onEachDevice("a cast rounds to the nearest half, ties to even, also where nothing is stored", async (device) => {
  const floats = hardFloats();
  const expected = Uint16Array.from(floats, nearestBits);
  const x = g.input([floats.length], "f32");
  const rounded = g.cast(x, "f16");
  for (const target of storages(device)) {
    const [stored, passing] = await evaluate(device, { roots: [rounded, g.cast(rounded, "f32")], inputs: [x] }, [
      floats,
    ], target);
    assertBits(Uint16Array.from(stored!, toHalfBits), expected, `${target.f16}, stored`);
    const values = Float32Array.from(expected, valueOf);
    values.forEach((value, i) => {
      assert.ok(
        Object.is(passing![i], value),
        `${target.f16}, in a kernel: ${floats[i]} got ${passing![i]}, need ${value}`,
      );
    });
  }
});

onEachDevice("what moves keeps its bits, at any offset", async (device) => {
  // Every NaN has bits of its own: they are compared on the device's side.
  const x = g.input([2 ** 16], "f16");
  const table = g.reshape(x, [256, 256]);
  const odd = g.slice(x, [1], [4097], [3]);
  const position = g.input([300], "i32");
  const at = Int32Array.from({ length: 300 }, (_, i) => (i * 7919) % 2 ** 16);
  const flags = e("lt", g.iota(2 ** 16), g.full([2 ** 16], 40001, "i32"));
  const cases: readonly [name: string, node: Node, bitsAt: (i: number) => number][] = [
    ["a transpose", g.permute(table, [1, 0]), (i) => (i % 256) * 256 + Math.floor(i / 256)],
    ["an odd slice", odd, (i) => 1 + 3 * i],
    ["a flip", g.slice(x, [2 ** 16 - 1], [2 ** 16], [-1]), (i) => 2 ** 16 - 1 - i],
    [
      "odd parts",
      g.concat([odd, x, g.slice(x, [7], [1], [1]), odd], 0),
      (i) =>
        i < 4097 ? 1 + 3 * i : i < 4097 + 2 ** 16 ? i - 4097 : i === 4097 + 2 ** 16 ? 7 : 1 + 3 * (i - 4098 - 2 ** 16),
    ],
    ["a gather", g.gather(x, position, 0), (i) => at[i]!],
    [
      "a choice",
      e("where", flags, x, g.slice(x, [2 ** 16 - 1], [2 ** 16], [-1])),
      (i) => i < 40001 ? i : 2 ** 16 - 1 - i,
    ],
    ["odd rows", g.slice(table, [3, 5], [201, 33], [1, 1]), (i) => (3 + Math.floor(i / 33)) * 256 + 5 + i % 33],
    ["padding", g.pad(g.slice(x, [9], [7], [1]), [2], [4], 0), (i) => i < 2 || i > 8 ? 0 : i + 7],
  ];
  for (const target of storages(device)) {
    const plan = compileGraph({ roots: cases.map(([, node]) => node), inputs: [x, position] }, target);
    const executable = await device.load(plan);
    const inputs = [device.alloc(2 ** 17), device.alloc(1200)];
    device.write(inputs[0]!, allBits);
    device.write(inputs[1]!, at);
    const outputs = cases.map(([, node]) => device.alloc(g.byteLength(node)));
    device.run(executable, inputs, outputs);
    for (const [i, [name, node, bitsAt]] of cases.entries()) {
      const actual = new Uint16Array(await device.read(outputs[i]!)).subarray(0, size(node.shape));
      assert.deepEqual(
        actual,
        Uint16Array.from({ length: actual.length }, (_, k) => bitsAt(k)),
        `${name}, ${target.f16}`,
      );
    }
    executable.release();
    for (const buffer of [...inputs, ...outputs]) device.free(buffer);
  }
});

test("arithmetic gives f32, what only moves stays f16", () => {
  const x = tensor([[1, 2], [3, 4]], { dtype: "f16" });
  const y = tensor([[1, 2], [3, 4]]);
  const wide: Record<string, Tensor> = {
    add: x.add(x),
    "add a number": x.add(1),
    mixed: x.mul(y),
    neg: x.neg(),
    relu: x.relu(),
    exp: x.exp(),
    pow: x.pow(2),
    floor: x.floor(),
    clamp: x.clamp({ min: 2 }),
    sum: x.sum(),
    max: x.max(),
    mean: x.mean({ axis: 0 }),
    cumsum: x.cumsum(),
    softmax: x.softmax(),
    matmul: x.matmul(x),
    "f16 with i32": concat([x, arange(4).reshape([2, 2])]),
    "a number beyond its range": where(true, x, 1e6),
    sigmoid: x.sigmoid(),
    "what an f32 meets": stack([x, y]),
  };
  for (const [name, result] of Object.entries(wide)) assert.equal(result.dtype, "f32", name);
  const kept: Record<string, Tensor> = {
    transpose: x.transpose(),
    reshape: x.reshape([4]),
    slice: x.slice({ axis: 0, start: 1 }),
    pad: x.pad(1),
    flip: x.flip(),
    tile: x.tile([2, 2]),
    concat: concat([x, x]),
    stack: stack([x, x]),
    where: where(true, x, x),
    "where a number": where(false, x, 0.1),
    contiguous: x.contiguous(),
    take: x.take(tensor([1, 0], { dtype: "i32" })),
    sort: x.sort(),
    "with a bool": concat([x, x.greater(1)]),
    full: full([2], 1, { dtype: "f16" }),
    arange: arange(3, { dtype: "f16" }),
    detach: x.detach(),
    cast: y.cast("f16"),
  };
  for (const [name, result] of Object.entries(kept)) assert.equal(result.dtype, "f16", name);
  assert.equal(x.greater(1).dtype, "bool");
  assert.equal(x.argmax().dtype, "i32");
  assert.equal(promote("f16", "f16"), "f16");
  assert.throws(() => x.bitcast("u32"), DTypeError);
  assert.throws(() => g.elementwise("add", x.node, x.node), DTypeError);
});

onEachDevice("values are read and shown as numbers", async (device) => {
  const x = tensor([[0.1, -0], [65519.99, 65520]], { dtype: "f16", device });
  const data = await x.data();
  assert.ok(data instanceof Float32Array);
  assert.deepEqual([...data], [0.0999755859375, -0, 65504, Infinity]);
  assert.deepEqual(await x.reshape([4]).slice({ axis: 0, start: 1, end: 3 }).array(), [-0, 65504]);
  assert.equal(await x.slice({ axis: 0, end: 1 }).reshape([2]).at(0).item(), 0.0999755859375);
  assert.deepEqual(await tensor([1, 2, 3, 4, 5], { dtype: "f16", device }).flip().array(), [5, 4, 3, 2, 1]);
  assert.deepEqual(await x.isNaN().array(), [[false, false], [false, false]]);
  assert.deepEqual(await x.isFinite().array(), [[true, true], [true, false]]);
  assert.deepEqual(await tensor([NaN, 1, 2], { dtype: "f16", device }).isNaN().array(), [true, false, false]);
  assert.deepEqual(await tensor([3, 1, 2], { dtype: "f16", device }).sort().array(), [1, 2, 3]);
  assert.equal(await tensor([2049], { dtype: "f16", device }).add(2049).item(), 4097);
});

onEachDevice("parts of what a device holds are read from any element on, odd ones too", async (device) => {
  const values = [1, 0.5, -2, 3, 1024, -0.25, 7];
  const x = tensor(values, { dtype: "f16", device }).flip().flip();
  await x.realize();
  for (let start = 0; start < 7; start++) {
    for (const end of [start + 1, 7]) {
      const { kernels, dispatches } = device.stats();
      assert.deepEqual(await x.slice({ axis: 0, start, end }).array(), values.slice(start, end), `${start} to ${end}`);
      assert.deepEqual(
        [device.stats().kernels, device.stats().dispatches],
        [kernels, dispatches],
        "nothing is computed for it",
      );
    }
  }
});

/** Values that halves hold, of about 1. */
function mild(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => roundToHalf(Math.sin(12.9898 * i + 78.233 * seed)));
}

/** A product [m, k] @ [k, n] of halves that may be stored the other way round. */
function product(
  m: number,
  k: number,
  n: number,
  transposed: readonly [boolean, boolean],
): { root: Node; inputs: Node[] } {
  const stored = (rows: number, columns: number, other: boolean) => {
    const x = g.input(other ? [columns, rows] : [rows, columns], "f16");
    return { x, seen: g.cast(other ? g.permute(x, [1, 0]) : x, "f32") };
  };
  const [a, b] = [stored(m, k, transposed[0]), stored(k, n, transposed[1])];
  const wide = (x: Node, shape: readonly number[]) => g.expand(g.reshape(x, shape), [m, k, n]);
  return { root: g.reduce("sum", e("mul", wide(a.seen, [m, k, 1]), wide(b.seen, [1, k, n])), [1]), inputs: [a.x, b.x] };
}

/** Every schedule of contractions that the device can run. */
function schedules(device: Device): Target[] {
  if (device.kind === "cpu") return [device.target];
  return storages(device).flatMap((target): Target[] => [
    target,
    { ...target, class: "discrete" },
    { ...target, class: "software", subgroupSize: 0 },
  ]);
}

onEachDevice("contractions of halves add up in f32, with every schedule", async (device) => {
  for (const [m, k, n] of [[5, 3, 9], [33, 70, 17], [160, 256, 129]] as const) {
    for (const transposed of [[false, false], [true, false], [false, true]] as const) {
      // Each is many kernels, which drivers compile slowly.
      if (m < (device.kind === "cpu" ? 33 : 160) && (transposed[0] || transposed[1])) continue;
      const { root, inputs } = product(m, k, n, transposed);
      const data = inputs.map((input, i) => mild(size(input.shape), i));
      const roots = [root, g.cast(e("relu", root), "f16")];
      const expected = interpret(roots, new Map(inputs.map((input, i) => [input, data[i]!])));
      for (const target of schedules(device)) {
        const actual = await evaluate(device, { roots, inputs }, data, target);
        const message = `${m}x${k}x${n} ${transposed} ${target.class} ${target.f16}`;
        assertClose(actual[0]!, expected[0]!, { rtol: 1e-5, atol: 1e-6 * Math.sqrt(k) * 4, message });
        // What lies near a tie may go either way: one step of the halves.
        assertClose(actual[1]!, expected[1]!, { rtol: 2 ** -10, atol: 1e-5, message });
      }
    }
  }
});

onEachDevice("convolutions and reductions of halves add up in f32", async (device) => {
  const half = (shape: readonly number[], seed: number) =>
    tensor(mild(size(shape), seed), { shape, dtype: "f16", device });
  const [x, w] = [half([2, 9, 9, 5], 1), half([3, 3, 5, 7], 2)];
  const wide = (t: Tensor) => t.cast("f32");
  const pairs: Record<string, [Tensor, Tensor]> = {
    conv: [x.conv2d(w, { padding: 1 }), wide(x).conv2d(wide(w), { padding: 1 })],
    sum: [x.sum({ axis: [0, 2] }), wide(x).sum({ axis: [0, 2] })],
    max: [x.max({ axis: -1 }), wide(x).max({ axis: -1 })],
    mean: [x.mean(), wide(x).mean()],
    variance: [x.variance({ axis: 0 }), wide(x).variance({ axis: 0 })],
    softmax: [x.softmax({ axis: -1 }), wide(x).softmax({ axis: -1 })],
    pool: [x.maxPool2d({ size: 3 }), wide(x).maxPool2d({ size: 3 })],
    cumsum: [x.cumsum({ axis: 1 }), wide(x).cumsum({ axis: 1 })],
  };
  for (const [name, [actual, expected]] of Object.entries(pairs)) {
    assert.equal(actual.dtype, "f32", name);
    assertClose(await actual.data(), await expected.data(), { message: name, rtol: 1e-5, atol: 1e-6 });
  }
  // 4096 ones: a sum in f16 would stop at 2048.
  assert.equal(await ones([4096], { dtype: "f16", device }).sum().item(), 4096);
});

onEachDevice("halves halve the bytes and need no kernel of their own", async (device) => {
  const kernels = async (dtype: "f32" | "f16", fn: (a: Tensor, b: Tensor) => Tensor) => {
    const make = (seed: number) => tensor(mild(256 * 256, seed), { shape: [256, 256], dtype, device });
    return (await explain(fn, make(1), make(2))).kernels;
  };
  const fns: Record<string, (a: Tensor, b: Tensor) => Tensor> = {
    matmul: (a, b) => a.matmul(b).add(1).relu().cast(a.dtype),
    "of a transpose": (a, b) => a.matmul(b.transpose()).cast(a.dtype),
    chain: (a, b) => a.mul(b).add(a).exp().cast(a.dtype),
    transpose: (a) => a.transpose().contiguous(),
  };
  for (const [name, fn] of Object.entries(fns)) {
    const [full, half] = [await kernels("f32", fn), await kernels("f16", fn)];
    assert.equal(half.length, full.length, name);
    half.forEach((kernel, i) => assert.equal(kernel.bytes * 2, full[i]!.bytes, `${name}, kernel ${i}`));
  }
  const x = tensor(mild(1000, 1), { dtype: "f16", device });
  const before = device.stats();
  await realize(x.cast("f32"));
  assert.equal(device.stats().bytesWritten - before.bytesWritten, 2000);
});

onEachDevice(
  "who reads an f32 of which there is an f16 besides gets all of it, where not all of it is a half",
  async (device) => {
    const x = g.input([4], "f16");
    const wide = g.cast(x, "f32");
    const [third, half] = [Math.fround(1 / 3), 0.5];
    for (
      const [name, y] of Object.entries({
        "half padding": g.pad(wide, [1], [1], half),
        "other padding": g.pad(wide, [1], [1], third),
        "half choices": e("where", e("lt", wide, g.full([4], 1, "f32")), wide, g.full([4], half, "f32")),
        "other choices": e("where", e("lt", wide, g.full([4], 1, "f32")), wide, g.full([4], third, "f32")),
        "a product": e("mul", wide, g.full([4], third, "f32")),
      })
    ) {
      const roots = [g.cast(y, "f16"), e("sub", y, g.full(y.shape, third, "f32"))];
      const data = toWords("f16", [0.25, 1, 2, -3]);
      const expected = interpret(roots, new Map([[x, [0.25, 1, 2, -3]]]));
      const [narrow, rest] = await evaluate(device, { roots, inputs: [x] }, [fromWords("f16", data, 4)]);
      assert.deepEqual(Array.from(narrow!), [...expected[0]!].map(roundToHalf), name);
      assertClose(rest!, expected[1]!, { atol: 1e-7, rtol: 1e-6, message: name });
    }
  },
);

test("a pair of halves in one word is stored by several invocations without loss", async (context) => {
  const device = testKinds.includes("gpu") ? await testDevice("gpu") : undefined;
  if (device === undefined) return context.skip("no adapter");
  // Parts of odd lengths in one buffer, and a store that neighbours make under a condition.
  const parts = [1, 3, 5, 1, 7, 333].map((n) => g.input([n], "f32"));
  const joined = g.concat(parts.map((part) => g.cast(e("add", part, part), "f16")), 0);
  const data = parts.map((part, i) => mild(size(part.shape), i));
  // Into memory in which other bits are set.
  const used = device.alloc(g.byteLength(joined));
  device.write(used, new Uint32Array(g.byteLength(joined) / 4).fill(0xffffffff));
  device.free(used);
  const [actual] = await evaluate(device, { roots: [joined], inputs: parts }, data, {
    ...device.target,
    f16: "packed",
  });
  assert.deepEqual(Array.from(actual!), data.flatMap((values) => [...values].map((x) => roundToHalf(2 * x))));
});

onEachDevice("a plan for items takes odd numbers of halves of each", async (device) => {
  const [x, w] = [g.input([3, 5], "f16"), g.input([5], "f16")];
  const sum = e("add", g.cast(x, "f32"), g.broadcastTo(g.cast(w, "f32"), [3, 5]));
  const request = { roots: [g.cast(sum, "f16"), g.reduce("sum", sum, [1])], inputs: [x, w], common: [1] };
  for (const target of storages(device)) {
    const plan = compileGraph(request, target);
    const items = 3;
    const executable = await device.load(plan, items);
    const stride = (slot: number) => plan.slots[slot]!.bytes;
    const [inX, inW] = [device.alloc(items * stride(plan.inputs[0]!)), device.alloc(12)];
    const values = (item: number) => mild(15, item);
    device.write(inW, Uint16Array.from([...mild(5, 9), 0], toHalfBits));
    for (let item = 0; item < items; item++) {
      device.write(inX, Uint16Array.from([...values(item), 0], toHalfBits), item * stride(plan.inputs[0]!));
    }
    const outputs = plan.outputs.map((slot) => device.alloc(items * stride(slot)));
    device.run(executable, [inX, inW], outputs, items);
    const all = asWords("f16", await device.read(outputs[0]!));
    for (let item = 0; item < items; item++) {
      const given = new Map([[x, values(item)], [w, mild(5, 9)]]);
      const own = all.subarray(item * stride(plan.outputs[0]!) / 2);
      assert.deepEqual(
        [...fromWords("f16", own, 15)],
        [...interpret(request.roots, given)[0]!],
        `item ${item}, ${target.f16}`,
      );
    }
    executable.release();
    for (const buffer of [inX, inW, ...outputs]) device.free(buffer);
  }
});

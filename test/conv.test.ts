/** Convolution, pooling and attention against plain loops in float64, on every device. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Device } from "../src/devices/device/device.ts";
import { ArgumentError, ShapeError } from "../src/errors.ts";
import { data, nn, optim } from "../src/nn/index.ts";
import { tensor } from "../src/tensor/create.ts";
import * as random from "../src/tensor/random.ts";
import type { ConvOptions, PoolOptions, Tensor } from "../src/tensor/tensor.ts";
import { grad } from "../src/tensor/transform/grad.ts";
import { fixture, flat } from "./fixtures/nn.ts";
import { assertClose, onEachDevice, testKinds, virtualDevices } from "./harness.ts";

const numbers = async (x: Tensor): Promise<number[]> => Array.from(await x.data());

/** Values of no pattern between -1.5 and 1.5, such as f32 holds. */
function noise(count: number, seed: number): number[] {
  return Array.from(
    { length: count },
    (_, i) => Math.fround(1.5 * Math.sin(12.9898 * i + 78.233 * seed + 0.5 * i * i)),
  );
}

function on(device: Device, shape: readonly number[], seed: number): Tensor {
  return tensor(noise(shape.reduce((a, b) => a * b, 1), seed), { device }).reshape(shape);
}

interface Conv {
  readonly n: number;
  readonly lengths: readonly [number, number];
  readonly kernel: readonly [number, number];
  readonly inner: number;
  readonly outer: number;
  readonly groups: number;
  readonly stride: readonly [number, number];
  readonly dilation: readonly [number, number];
  readonly padding: readonly [number, number] | "same" | "valid";
}

/** Zeros before an axis, and the number of windows. */
function along(c: Conv, axis: 0 | 1): { before: number; count: number } {
  const span = (c.kernel[axis] - 1) * c.dilation[axis] + 1;
  const length = c.lengths[axis];
  if (c.padding === "same") {
    const count = Math.ceil(length / c.stride[axis]);
    return { before: Math.floor(Math.max(0, (count - 1) * c.stride[axis] + span - length) / 2), count };
  }
  const padding = c.padding === "valid" ? 0 : c.padding[axis];
  return { before: padding, count: Math.floor((length + 2 * padding - span) / c.stride[axis]) + 1 };
}

const shapesOf = (c: Conv) => ({
  x: [c.n, ...c.lengths, c.inner * c.groups],
  w: [...c.kernel, c.inner, c.outer * c.groups],
  y: [c.n, along(c, 0).count, along(c, 1).count, c.outer * c.groups],
});

/** Calls `visit` with the positions of x, w and y for every product of the convolution. */
function eachProduct(c: Conv, visit: (x: number, w: number, y: number) => void): void {
  const { x, w, y } = shapesOf(c);
  const at = (shape: readonly number[], ...index: number[]) =>
    index.reduce((sum, i, axis) => sum * shape[axis]! + i, 0);
  const [rows, columns] = [along(c, 0), along(c, 1)];
  for (let n = 0; n < c.n; n++) {
    for (let oy = 0; oy < rows.count; oy++) {
      for (let ox = 0; ox < columns.count; ox++) {
        for (let ky = 0; ky < c.kernel[0]; ky++) {
          for (let kx = 0; kx < c.kernel[1]; kx++) {
            const iy = oy * c.stride[0] + ky * c.dilation[0] - rows.before;
            const ix = ox * c.stride[1] + kx * c.dilation[1] - columns.before;
            if (iy < 0 || ix < 0 || iy >= c.lengths[0] || ix >= c.lengths[1]) continue;
            for (let o = 0; o < c.outer * c.groups; o++) {
              const first = Math.floor(o / c.outer) * c.inner;
              for (let i = 0; i < c.inner; i++) {
                visit(at(x, n, iy, ix, first + i), at(w, ky, kx, i, o), at(y, n, oy, ox, o));
              }
            }
          }
        }
      }
    }
  }
}

const optionsOf = (c: Conv): ConvOptions => ({
  stride: c.stride,
  dilation: c.dilation,
  padding: c.padding,
  groups: c.groups,
});

/** y, and the gradients of Σ g y by x and by w, as the device and as the loops say. */
async function checkConv(device: Device, c: Conv, atol = 2e-5): Promise<void> {
  const shapes = shapesOf(c);
  const [x, w, g] = [on(device, shapes.x, 1), on(device, shapes.w, 2), on(device, shapes.y, 3)];
  const y = x.conv2d(w, optionsOf(c));
  assert.deepEqual(y.shape, shapes.y);
  const [dx, dw] = grad(y.mul(g).sum(), [x, w] as const);
  const values = { x: noise(x.size, 1), w: noise(w.size, 2), g: noise(g.size, 3) };
  const expected = { y: new Float64Array(y.size), dx: new Float64Array(x.size), dw: new Float64Array(w.size) };
  eachProduct(c, (i, j, k) => {
    expected.y[k]! += values.x[i]! * values.w[j]!;
    expected.dx[i]! += values.g[k]! * values.w[j]!;
    expected.dw[j]! += values.g[k]! * values.x[i]!;
  });
  const tolerance = { atol, rtol: 2e-5 };
  assertClose(await numbers(y), expected.y, { ...tolerance, message: "y" });
  assertClose(await numbers(dx!), expected.dx, { ...tolerance, message: "gradient by x" });
  assertClose(await numbers(dw!), expected.dw, { ...tolerance, message: "gradient by w" });
}

const pair = (least: number, most: number) =>
  fc.tuple(fc.integer({ min: least, max: most }), fc.integer({ min: least, max: most }));
const convs: fc.Arbitrary<Conv> = fc.record({
  n: fc.integer({ min: 1, max: 3 }),
  lengths: pair(1, 9),
  kernel: pair(1, 4),
  inner: fc.integer({ min: 1, max: 4 }),
  outer: fc.integer({ min: 1, max: 5 }),
  groups: fc.integer({ min: 1, max: 3 }),
  stride: pair(1, 3),
  dilation: pair(1, 2),
  padding: fc.oneof(pair(0, 3), fc.constantFrom("same" as const, "valid" as const)),
}).filter((c) => along(c, 0).count > 0 && along(c, 1).count > 0);

onEachDevice("conv2d and its gradients against loops, for random shapes and options", async (device) => {
  await fc.assert(fc.asyncProperty(convs, (c) => checkConv(device, c)), { numRuns: device.kind === "cpu" ? 60 : 8 });
});

onEachDevice("conv2d and its gradients where blocks are computed by subgroups", async (device) => {
  const common = { groups: 1, stride: [1, 1], dilation: [1, 1] } as const;
  await checkConv(
    device,
    { ...common, n: 2, lengths: [18, 18], kernel: [3, 3], inner: 32, outer: 32, padding: "same" },
    2e-4,
  );
  await checkConv(
    device,
    { ...common, n: 3, lengths: [17, 19], kernel: [3, 5], inner: 16, outer: 33, padding: [0, 2] },
    2e-4,
  );
  await checkConv(device, {
    ...common,
    n: 2,
    lengths: [17, 33],
    kernel: [3, 2],
    inner: 32,
    outer: 64,
    padding: "valid",
    stride: [2, 1],
    dilation: [1, 2],
  }, 2e-4);
});

onEachDevice("a 1x1 convolution is a matmul, and one of windows as long as their stride too", async (device) => {
  const [x, w, patches] = [on(device, [2, 4, 6, 5], 1), on(device, [1, 1, 5, 7], 2), on(device, [2, 3, 5, 7], 3)];
  assertClose(await numbers(x.conv2d(w)), await numbers(x.matmul(w.reshape([5, 7]))));
  const tiles = x.reshape([2, 2, 2, 2, 3, 5]).permute([0, 1, 3, 2, 4, 5]).reshape([2, 2, 2, 30]);
  assertClose(
    await numbers(x.conv2d(patches, { stride: [2, 3] })),
    await numbers(tiles.matmul(patches.reshape([30, 7]))),
    { atol: 1e-5 },
  );
});

onEachDevice("conv1d is conv2d of height 1", async (device) => {
  const [x, w] = [on(device, [2, 11, 4], 1), on(device, [3, 2, 6], 2)];
  const options = { stride: 2, dilation: 2, padding: 1, groups: 2 };
  const y = x.conv1d(w, options);
  const flat = x.reshape([2, 1, 11, 4]).conv2d(w.reshape([1, 3, 2, 6]), {
    ...options,
    stride: [1, 2],
    padding: [0, 1],
  });
  assert.deepEqual(y.shape, [2, 5, 6]);
  assertClose(await numbers(y), await numbers(flat));
});

onEachDevice("convTranspose2d is the adjoint of conv2d, for random shapes and options", async (device) => {
  // As much padding as the windows span would leave nothing.
  const grown = (c: Conv, axis: 0 | 1) =>
    (along(c, axis).count - 1) * c.stride[axis] + (c.kernel[axis] - 1) * c.dilation[axis] + 1 -
    2 * along(c, axis).before;
  const some = convs.filter((c) => c.padding === "same" || (grown(c, 0) > 0 && grown(c, 1) > 0));
  const property = fc.asyncProperty(some, async (random) => {
    const c = { ...random, groups: 1 };
    const shapes = shapesOf(c);
    const { groups: _, ...options } = optionsOf(c);
    const transposed = on(device, shapes.y, 3).convTranspose2d(on(device, shapes.w, 2), options);
    // What of the input no window reached is not there; with "same" the length is a multiple of the stride.
    const [, height, width] = transposed.shape as [number, number, number];
    const reached: Conv = { ...c, lengths: [height, width] };
    assert.deepEqual(shapesOf(reached).y, shapes.y);
    const expected = new Float64Array(transposed.size);
    const [g, w] = [noise(shapes.y.reduce((a, b) => a * b, 1), 3), noise(shapes.w.reduce((a, b) => a * b, 1), 2)];
    eachProduct(reached, (x, j, y) => expected[x]! += g[y]! * w[j]!);
    assertClose(await numbers(transposed), expected, { atol: 2e-5, rtol: 2e-5 });
  });
  await fc.assert(property, { numRuns: device.kind === "cpu" ? 40 : 6 });
});

test("convolutions that do not fit are refused, with what was got and what is needed", () => {
  const x = tensor(noise(2 * 5 * 5 * 4, 1)).reshape([2, 5, 5, 4]);
  const w = tensor(noise(3 * 3 * 4 * 6, 2)).reshape([3, 3, 4, 6]);
  const refused = (call: () => Tensor, type: typeof ShapeError | typeof ArgumentError, message: RegExp) =>
    assert.throws(call, (error: unknown) => error instanceof type && message.test((error as Error).message));
  refused(() => x.conv2d(w.slice({ axis: 2, end: 3 })), ShapeError, /\[3, 3, 3, 6\].*\[\.\.\.kernel, 4/);
  refused(() => x.conv2d(w, { groups: 2 }), ShapeError, /groups 2.*\[\.\.\.kernel, 2/);
  refused(() => x.reshape([2, 25, 4]).conv2d(w), ShapeError, /\[2, 25, 4\].*\[n, height, width, channels\]/);
  refused(() => x.conv2d(w, { dilation: 3 }), ShapeError, /span 7 elements of axis 1/);
  refused(() => x.conv2d(w, { stride: 0 }), ArgumentError, /stride 0/);
  refused(() => x.conv2d(w, { stride: [1, 1, 1] }), ArgumentError, /stride \[1,1,1\].*2 of them/);
  refused(() => x.conv2d(w, { padding: 0.5 }), ArgumentError, /padding 0.5/);
  refused(() => x.conv2d(w, { padding: "full" as "same" }), ArgumentError, /"full".*"same" or "valid"/);
  refused(() => x.convTranspose2d(w), ShapeError, /outputs, 4/);
  refused(() => x.maxPool2d({ size: 2, padding: 2 }), ArgumentError, /less padding/);
  refused(() => x.avgPool2d({ size: 6 }), ShapeError, /span 6 elements/);
  refused(() => x.windows({ axis: 4, length: 1 }), ShapeError, /axis 4/);
  refused(() => x.windows({ axis: 1, length: 0 }), ArgumentError, /length 0/);
  assert.throws(() => nn.conv2d(4, 6, { kernel: 3, groups: 4 }), ArgumentError);
  assert.throws(() => nn.conv2d(4, 6, { kernel: 3 }).forward(x.slice({ axis: 3, end: 3 })), ShapeError);
  assert.throws(() => nn.multiHeadAttention(6, 4), ArgumentError);
});

onEachDevice("windows: overlapping, apart, dilated, of a negative axis", async (device) => {
  const x = tensor([0, 1, 2, 3, 4, 5, 6], { device });
  assert.deepEqual(await x.windows({ axis: 0, length: 3, stride: 2 }).array(), [[0, 1, 2], [2, 3, 4], [4, 5, 6]]);
  assert.deepEqual(await x.windows({ axis: -1, length: 2, stride: 2 }).array(), [[0, 1], [2, 3], [4, 5]]);
  assert.deepEqual(await x.windows({ axis: 0, length: 3, stride: 1, dilation: 3 }).array(), [[0, 3, 6]]);
});

/** The windows of a pooling, as positions of x; -1 for padding. */
function poolWindows(
  shape: readonly number[],
  { size, stride, padding }: { size: number; stride: number; padding: number | "same" },
): { counts: number[]; windows: number[][] } {
  const [n, height, width, channels] = shape as [number, number, number, number];
  const of = (length: number) =>
    along(
      {
        lengths: [length, 1],
        kernel: [size, 1],
        stride: [stride, 1],
        dilation: [1, 1],
        padding: padding === "same" ? "same" : [padding, 0],
      } as unknown as Conv,
      0,
    );
  const [rows, columns] = [of(height), of(width)];
  const windows: number[][] = [];
  for (let i = 0; i < n; i++) {
    for (let oy = 0; oy < rows.count; oy++) {
      for (let ox = 0; ox < columns.count; ox++) {
        for (let c = 0; c < channels; c++) {
          const places: number[] = [];
          for (let k = 0; k < size * size; k++) {
            const [y, x] = [oy * stride + Math.floor(k / size) - rows.before, ox * stride + k % size - columns.before];
            const inside = y >= 0 && x >= 0 && y < height && x < width;
            places.push(inside ? ((i * height + y) * width + x) * channels + c : -1);
          }
          windows.push(places);
        }
      }
    }
  }
  return { counts: [n, rows.count, columns.count, channels], windows };
}

onEachDevice("pooling and its gradients against loops, for random shapes and options; ties share", async (device) => {
  const poolings = fc.record({
    shape: fc.tuple(
      fc.integer({ min: 1, max: 2 }),
      fc.integer({ min: 1, max: 8 }),
      fc.integer({ min: 1, max: 8 }),
      fc.integer({ min: 1, max: 3 }),
    ),
    size: fc.integer({ min: 1, max: 4 }),
    stride: fc.integer({ min: 1, max: 4 }),
    padding: fc.oneof(fc.integer({ min: 0, max: 3 }), fc.constant("same" as const)),
  }).filter(({ shape, size, padding }) =>
    padding === "same" || (padding < size && Math.min(shape[1], shape[2]) + 2 * padding >= size)
  );
  const property = fc.asyncProperty(poolings, async ({ shape, ...options }) => {
    // Few values, so that there are ties.
    const values = noise(shape.reduce((a, b) => a * b, 1), 4).map((v) => Math.round(2 * v) / 2);
    const x = tensor(values, { device }).reshape(shape);
    const { counts, windows } = poolWindows(shape, options);
    const g = noise(windows.length, 5);
    const check = async (y: Tensor, expected: { y: number[]; dx: Float64Array }, message: string) => {
      assert.deepEqual(y.shape, counts);
      const dx = grad(y.mul(tensor(g, { device }).reshape(counts)).sum(), x);
      assertClose(await numbers(y), expected.y, { message });
      assertClose(await numbers(dx), expected.dx, { message: `gradient of ${message}`, atol: 1e-5 });
    };
    const real = windows.map((places) => places.filter((place) => place >= 0));
    const most = real.map((places) => Math.max(...places.map((place) => values[place]!)));
    const dMax = new Float64Array(x.size);
    const dMean = new Float64Array(x.size);
    real.forEach((places, i) => {
      const winners = places.filter((place) => values[place] === most[i]);
      for (const place of winners) dMax[place]! += g[i]! / winners.length;
      for (const place of places) dMean[place]! += g[i]! / places.length;
    });
    const mean = real.map((places) => places.reduce((sum, place) => sum + values[place]!, 0) / places.length);
    const pool: PoolOptions = options;
    await check(x.maxPool2d(pool), { y: most, dx: dMax }, "maxPool2d");
    await check(x.avgPool2d(pool), { y: mean, dx: dMean }, "avgPool2d");
  });
  // Windows of which a team walks the elements, while what they are for depends on which one of the team it is.
  const examples: [{ shape: [number, number, number, number]; size: number; stride: number; padding: "same" }][] = [
    [{ shape: [1, 1, 2, 1], size: 4, stride: 2, padding: "same" }],
    [{ shape: [1, 5, 3, 1], size: 4, stride: 4, padding: "same" }],
  ];
  await fc.assert(property, { numRuns: device.kind === "cpu" ? 60 : 8, examples });
});

/** Attention in float64, for q [t, d], k [s, d], v [s, e]. */
function attend(
  q: number[][],
  k: number[][],
  v: number[][],
  score: (s: number, i: number, j: number) => number,
): number[] {
  return q.flatMap((query, i) => {
    const scores = k.map((key, j) => score(key.reduce((sum, value, f) => sum + value * query[f]!, 0), i, j));
    const most = Math.max(...scores);
    const powers = scores.map((s) => most === -Infinity ? 0 : Math.exp(s - most));
    const total = powers.reduce((a, b) => a + b, 0);
    return v[0]!.map((_, e) => total === 0 ? 0 : powers.reduce((sum, p, j) => sum + p * v[j]![e]!, 0) / total);
  });
}

onEachDevice("attention against float64: scaled, causal, masked, and where nothing is seen", async (device) => {
  const rowsOf = (values: number[], width: number) =>
    Array.from({ length: values.length / width }, (_, i) => values.slice(i * width, (i + 1) * width));
  const [t, s, d, e] = [5, 7, 4, 3];
  const [q, k, v] = [on(device, [2, t, d], 1), on(device, [2, s, d], 2), on(device, [2, s, e], 3)];
  const parts = [q, k, v].map((x, i) => rowsOf(noise(x.size, i + 1), x.shape[2]!));
  const half = (rows: number[][], b: number) => rows.slice(b * rows.length / 2, (b + 1) * rows.length / 2);
  const seen = Array.from({ length: t * s }, (_, i) => i % 3 !== 0 && i >= s);
  const extra = noise(t * s, 9);
  const cases: [string, Tensor, (score: number, i: number, j: number) => number][] = [
    ["plain", q.scaledDotProductAttention(k, v), (x) => x / 2],
    ["scale", q.scaledDotProductAttention(k, v, { scale: 3 }), (x) => 3 * x],
    ["causal", q.scaledDotProductAttention(k, v, { causal: true }), (x, i, j) => j <= i + s - t ? x / 2 : -Infinity],
    [
      "mask",
      q.scaledDotProductAttention(k, v, { mask: tensor(seen, { device }).reshape([t, s]) }),
      (x, i, j) => seen[i * s + j] ? x / 2 : -Infinity,
    ],
    [
      "bias",
      q.scaledDotProductAttention(k, v, { mask: tensor(extra, { device }).reshape([t, s]) }),
      (x, i, j) => x / 2 + extra[i * s + j]!,
    ],
  ];
  for (const [name, y, score] of cases) {
    const expected = [0, 1].flatMap((b) => attend(half(parts[0]!, b), half(parts[1]!, b), half(parts[2]!, b), score));
    assertClose(await numbers(y), expected, { message: name, atol: 1e-5 });
    // Drivers compile slowly; attention-meaning.test.ts has the gradients of every mask on each device.
    if (device.kind === "gpu" && name !== "scale") continue;
    for (const dx of grad(y.square().sum(), [q, k, v])) {
      assert.ok((await numbers(dx)).every(Number.isFinite), `gradient, ${name}`);
    }
  }
  // With more queries than keys, the first see nothing.
  const early = k.scaledDotProductAttention(q, q, { causal: true });
  // Of either sign.
  assertClose((await numbers(early)).slice(0, 2 * d), new Array(2 * d).fill(0), { atol: 0 });
  assert.throws(() => q.scaledDotProductAttention(v, v), ShapeError);
  assert.throws(() => q.scaledDotProductAttention(k, v, { mask: tensor([true, false]) }), ShapeError);
});

onEachDevice("conv2d, pooling and attention agree with PyTorch", async (device) => {
  const give = (list: Parameters<typeof flat>[0], shape: readonly number[]) =>
    tensor(flat(list), { device }).reshape(shape);
  for (const c of fixture.conv2d) {
    const [x, w, g] = [give(c.x, c.shapes.x), give(c.w, c.shapes.w), give(c.cotangent, c.shapes.y)];
    const y = x.conv2d(w, c.options);
    const actual = await Promise.all([y, ...grad(y.mul(g).sum(), [x, w])].map(numbers));
    for (const [i, name] of (["y", "dx", "dw"] as const).entries()) {
      assertClose(actual[i]!, flat(c[name]), { message: `${c.name}, ${name}`, atol: 1e-5 });
    }
  }
  for (const c of fixture.pool2d) {
    const [x, g] = [give(c.x, c.shapes.x), give(c.cotangent, c.shapes.y)];
    const y = c.name === "max" ? x.maxPool2d(c.options) : x.avgPool2d(c.options);
    assertClose(await numbers(y), flat(c.y), { message: c.name });
    assertClose(await numbers(grad(y.mul(g).sum(), x)), flat(c.dx), { message: `${c.name}, gradient` });
  }
  for (const c of fixture.attention) {
    const [q, k, v, g] = (["q", "k", "v", "cotangent"] as const).map((name) => give(c[name], c.shapes[name])) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    for (const scores of ["stored", "online"] as const) {
      const y = q.scaledDotProductAttention(k, v, { causal: c.causal, scores });
      const actual = await Promise.all([y, ...grad(y.mul(g).sum(), [q, k, v])].map(numbers));
      for (const [i, name] of (["y", "dq", "dk", "dv"] as const).entries()) {
        assertClose(actual[i]!, flat(c[name]), { message: `${name}, ${scores}`, atol: 1e-5 });
      }
    }
  }
});

onEachDevice("layers: shapes, parameters, and attention by its own weights", async (device) => {
  const x = on(device, [2, 8, 8, 4], 1);
  const layer = nn.conv2d(4, 6, { kernel: 3, stride: 2, padding: "same", groups: 2 });
  assert.deepEqual(Object.entries(layer.namedParameters()).map(([name, p]) => [name, p.shape]), [["weight", [
    3,
    3,
    2,
    6,
  ]], ["bias", [6]]]);
  assert.deepEqual(layer.forward(x).shape, [2, 4, 4, 6]);
  layer.bias!.assign(tensor([1, 2, 3, 4, 5, 6]));
  assertClose(
    await numbers(
      layer.forward(x).sub(x.conv2d(layer.weight, { stride: 2, padding: "same", groups: 2 })).at(0).at(0).at(0),
    ),
    [1, 2, 3, 4, 5, 6],
    { atol: 1e-5 },
  );
  const limit = Math.sqrt(6 / (9 * 2 + 9 * 3));
  assert.ok((await numbers(layer.weight.abs().max()))[0]! <= limit);
  const chain = nn.sequential(layer, nn.relu(), nn.maxPool2d({ size: 2 }), nn.avgPool2d({ size: 2 }), nn.flatten());
  assert.deepEqual(chain.forward(x).shape, [2, 6]);

  const tokens = on(device, [2, 5, 6], 2);
  const attention = nn.multiHeadAttention(6, 2, { causal: true });
  const heads = (y: Tensor) => y.reshape([2, 5, 2, 3]).permute([0, 2, 1, 3]);
  const [q, k, v] = [attention.query, attention.key, attention.value].map((part) => heads(part.forward(tokens))) as [
    Tensor,
    Tensor,
    Tensor,
  ];
  const joined = q.scaledDotProductAttention(k, v, { causal: true }).permute([0, 2, 1, 3]).reshape([2, 5, 6]);
  assertClose(await numbers(attention.forward(tokens)), await numbers(attention.output.forward(joined)), {
    atol: 1e-6,
  });
  // What comes later changes nothing before it.
  const changed = attention.forward(tokens.add(tensor([0, 0, 0, 9, 9], { device }).reshape([5, 1])));
  const firsts = async (y: Tensor) => await numbers(y.slice([undefined, { end: 3 }]));
  assertClose(await firsts(changed), await firsts(attention.forward(tokens)));
  assert.deepEqual(attention.forward(tokens, { context: on(device, [2, 9, 6], 3) }).shape, [2, 5, 6]);
  const dropping = nn.multiHeadAttention(6, 2, { dropout: 0.5 });
  assert.notDeepEqual(await numbers(dropping.forward(tokens)), await numbers(dropping.forward(tokens)));
});

class Cnn extends nn.Module {
  readonly first = nn.conv2d(2, 5, { kernel: 3, padding: "same" });
  readonly norm = nn.batchNorm(5);
  readonly second = nn.conv2d(5, 4, { kernel: 3, stride: 2 });
  readonly head = nn.linear(4 * 2 * 2, 3);

  override forward(x: Tensor): Tensor {
    const y = this.norm.forward(this.first.forward(x)).relu().maxPool2d({ size: 2, stride: 1 });
    return this.head.forward(nn.flatten().forward(this.second.forward(y).relu()));
  }
}

for (const kind of testKinds) {
  // A software adapter compiles the kernels of every shard size anew.
  const counts = kind === "cpu" ? [1, 2, 3] : [1, 3];
  test(`a small CNN has one gradient, on ${counts.join(", ")} devices [${kind}]`, async (t) => {
    const rows = 7;
    const x = data.array(Float32Array.from(noise(rows * 6 * 6 * 2, 1)), { shape: [rows, 6, 6, 2] });
    const labels = data.array(Int32Array.from({ length: rows }, (_, i) => i % 3), { shape: [rows] });
    const ends: number[][] = [];
    for (const count of counts) {
      const devices = await virtualDevices(kind, count);
      if (devices === undefined) return t.skip("no adapter");
      random.seed(11);
      const model = new Cnn();
      const before = await Promise.all(model.parameters().map((p) => p.data()));
      const trainer = nn.trainer(model, {
        loss: (output, batch) => nn.crossEntropy(output, batch.y),
        optimizer: optim.sgd({ learningRate: 1 }),
        devices,
      });
      const { loss } = await trainer.step({ x, y: labels });
      const after = await Promise.all(model.parameters().map((p) => p.data()));
      ends.push([loss, ...after.flatMap((part, i) => [...part].map((value, k) => before[i]![k]! - value))]);
    }
    assert.ok(ends[0]!.slice(1).some((value) => Math.abs(value) > 1e-3), "a gradient");
    for (const end of ends) assertClose(end, ends[0]!, { atol: 2e-6, rtol: 1e-4 });
  });
}

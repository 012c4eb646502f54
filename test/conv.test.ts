/** Convolution, pooling and attention against plain loops in float64, on every device. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Device } from "../src/devices/device.ts";
import { ArgumentError, ShapeError } from "../src/errors.ts";
import { full, tensor } from "../src/tensor/create.ts";
import { grad } from "../src/tensor/grad.ts";
import type { ConvOptions, Tensor } from "../src/tensor/tensor.ts";
import { assertClose, onEachDevice } from "./harness.ts";

const numbers = async (x: Tensor): Promise<number[]> => Array.from(await x.data());

/** Values of no pattern between -1.5 and 1.5, such as f32 holds. */
function noise(count: number, seed: number): number[] {
  return Array.from({ length: count }, (_, i) => Math.fround(1.5 * Math.sin(12.9898 * i + 78.233 * seed + 0.5 * i * i)));
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
  const at = (shape: readonly number[], ...index: number[]) => index.reduce((sum, i, axis) => sum * shape[axis]! + i, 0);
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
              for (let i = 0; i < c.inner; i++) visit(at(x, n, iy, ix, first + i), at(w, ky, kx, i, o), at(y, n, oy, ox, o));
            }
          }
        }
      }
    }
  }
}

const optionsOf = (c: Conv): ConvOptions => ({ stride: c.stride, dilation: c.dilation, padding: c.padding, groups: c.groups });

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

const pair = (least: number, most: number) => fc.tuple(fc.integer({ min: least, max: most }), fc.integer({ min: least, max: most }));
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
  await checkConv(device, { ...common, n: 2, lengths: [18, 18], kernel: [3, 3], inner: 32, outer: 32, padding: "same" }, 2e-4);
  await checkConv(device, { ...common, n: 3, lengths: [17, 19], kernel: [3, 5], inner: 16, outer: 33, padding: [0, 2] }, 2e-4);
  await checkConv(device, { ...common, n: 2, lengths: [17, 33], kernel: [3, 2], inner: 32, outer: 64, padding: "valid", stride: [2, 1], dilation: [1, 2] }, 2e-4);
});

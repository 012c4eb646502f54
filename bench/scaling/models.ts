/** What is trained. Another model is one more entry in `models`. */
import { data, nn } from "../../src/index.ts";

export interface ScalingModel {
  readonly name: string;
  /** Rows of a batch. */
  readonly rows: number;
  /** Floating-point operations of a training step for each row: forward, gradients of weights and of inner activations. */
  readonly flopsPerRow: number;
  /** Elements of a row of x. */
  readonly shape: readonly number[];
  make(): nn.Module;
}

/** Measured on several devices. */
export const models: readonly ScalingModel[] = [
  { ...mlp([784, 1024, 1024, 10]), rows: 512 },
  {
    name: "CNN 3x3x16, 3x3x32",
    rows: 128,
    shape: [28, 28, 1],
    flopsPerRow: trained([28 * 28 * 9 * 16, 14 * 14 * 9 * 16 * 32, 7 * 7 * 32 * 10]),
    make: () =>
      nn.sequential(
        nn.conv2d(1, 16, { kernel: 3, padding: 1 }),
        nn.relu(),
        nn.maxPool2d({ size: 2 }),
        nn.conv2d(16, 32, { kernel: 3, padding: 1 }),
        nn.relu(),
        nn.maxPool2d({ size: 2 }),
        nn.flatten(),
        nn.linear(7 * 7 * 32, 10),
      ),
  },
];

/** Measured on one device, plainly and in deterministic mode. */
export const deterministicModels: readonly ScalingModel[] = [
  { ...mlp([784, 64, 10]), rows: 128 },
  { ...mlp([784, 1024, 1024, 10]), rows: 128 },
];

/**
 * For adapters of different speeds: mostly activations and norms, at which software adapters differ less than at products of
 * matrices.
 */
export const mixedModel: ScalingModel = {
  name: "32-256, eight times gelu and layer norm, 256-10",
  rows: 4096,
  shape: [32],
  flopsPerRow: trained([32 * 256, 256 * 10]),
  make: () =>
    nn.sequential(
      nn.linear(32, 256),
      ...Array.from({ length: 8 }, () => [nn.gelu(), nn.layerNorm(256)]).flat(),
      nn.linear(256, 10),
    ),
};

/** Host batches of different rows: the classes are told apart by the mean of a row, so that there is something to learn. */
export function batchesOf({ rows, shape }: ScalingModel, count: number): { x: data.HostTensor; y: data.HostTensor }[] {
  const width = shape.reduce((a, b) => a * b, 1);
  let state = 1;
  const next = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  return Array.from({ length: count }, () => {
    const labels = Int32Array.from({ length: rows }, () => Math.floor(10 * next()));
    const pixels = Float32Array.from(
      { length: rows * width },
      (_, i) => 0.1 * labels[Math.floor(i / width)]! + next() - 1,
    );
    return {
      x: { data: pixels, shape: [rows, ...shape], dtype: "f32" },
      y: { data: labels, shape: [rows], dtype: "i32" },
    };
  });
}

function mlp(widths: readonly number[]): Omit<ScalingModel, "rows"> {
  const [inputs = 1] = widths;
  return {
    name: `MLP ${widths.join("-")}`,
    shape: [inputs],
    flopsPerRow: trained(widths.slice(1).map((width, i) => width * widths[i]!)),
    make: () =>
      nn.sequential(
        ...widths.slice(1).flatMap((width, i) => [...(i === 0 ? [] : [nn.relu()]), nn.linear(widths[i]!, width)]),
      ),
  };
}

/** Three products in each layer, of a multiplication and an addition for each use of a weight; the first has no gradient of its input. */
function trained(usesPerLayer: readonly number[]): number {
  return usesPerLayer.reduce((sum, uses, layer) => sum + (layer === 0 ? 4 : 6) * uses, 0);
}

import { conv as convOf, convGradients as gradientsOf, type Images } from "../reference/conv.ts";
import { all, setsEach, spread, times, uniform, weights } from "./inputs.ts";
import type { Workload } from "./workload.ts";

interface Form extends Images {
  readonly rows: number;
  readonly out: number;
}

const side = 3;

function common(form: Form) {
  const { rows, height, width, channels, out } = form;
  const pixels = rows * height * width;
  return {
    constants: { k: weights([side, side, channels, out], 119, side * side * channels) },
    flops: 2 * pixels * side * side * channels * out,
    bytes: 4 * pixels * (channels + out),
    tolerance: 1e-5,
  };
}

export function conv(form: Form, name: string): Workload<"conv"> {
  const { rows, height, width, channels, out } = form;
  const sets = times(setsEach, (set) => ({ x: uniform([rows, height, width, channels], 110 + set) }));
  const shared = common(form);
  const image = height * width * channels;
  const kernel = Float64Array.from(shared.constants.k.data);
  return {
    ...shared,
    name,
    kind: "conv",
    sets,
    lengths: { y: rows * height * width * out },
    *reference(repetition) {
      const { x } = sets[repetition % sets.length]!;
      for (const row of spread(rows, 4)) {
        const y = convOf(Float64Array.from(x.data.subarray(row * image, (row + 1) * image)), form, kernel, side, out);
        for (let i = 0; i < y.length; i++) yield ["y", row * y.length + i, y[i]!];
      }
    },
  };
}

export function convGradients(form: Form, name: string): Workload<"convGradients"> {
  const { rows, height, width, channels, out } = form;
  const sets = times(2, (set) => ({
    x: uniform([rows, height, width, channels], 110 + set),
    dy: uniform([rows, height, width, out], 115 + set),
  }));
  const shared = common(form);
  const kernel = Float64Array.from(shared.constants.k.data);
  const [image, result] = [height * width * channels, height * width * out];
  const known: { readonly dk: Float64Array; readonly dx: readonly Float64Array[] }[] = [];
  const compute = (set: number) => {
    const { x, dy } = sets[set]!;
    const dk = new Float64Array(kernel.length);
    const dx = times(rows, (row) =>
      gradientsOf(
        Float64Array.from(x.data.subarray(row * image, (row + 1) * image)),
        form,
        kernel,
        side,
        Float64Array.from(dy.data.subarray(row * result, (row + 1) * result)),
        dk,
      ));
    return { dk, dx };
  };
  return {
    ...shared,
    name,
    kind: "convGradients",
    sets,
    flops: 2 * shared.flops,
    bytes: 2 * shared.bytes,
    tolerance: 1e-4, // an element of dk is a sum over all pixels of all rows
    lengths: { dx: rows * image, dk: kernel.length },
    *reference(repetition) {
      const set = repetition % sets.length;
      const { dk, dx } = known[set] ??= compute(set);
      yield* all("dk", dk);
      for (const row of spread(rows, 4)) {
        for (let i = 0; i < image; i++) yield ["dx", row * image + i, dx[row]![i]!];
      }
    },
  };
}

import { gptBlock as reference, type GptForm } from "../reference/gpt.ts";
import { all, times, uniform, weights } from "./inputs.ts";
import { type GptWeight, gptWeights, type HostInput, type Workload } from "./workload.ts";

export function gptBlock(form: GptForm, name: string): Workload<"gptBlock"> {
  const { width, heads, tokens, batch } = form;
  const rows = batch * tokens;
  const shape = [batch, tokens, width];
  const sets = times(2, (set) => ({ x: uniform(shape, 120 + set), target: uniform(shape, 125 + set) }));
  const constants: Record<GptWeight, HostInput> = {
    ...{ gain1: uniform([width], 130, 0.5, 1.5), bias1: uniform([width], 131, -0.1, 0.1) },
    ...{ wqkv: weights([width, 3 * width], 132, width), bqkv: uniform([3 * width], 133, -0.1, 0.1) },
    ...{ wo: weights([width, width], 134, width), bo: uniform([width], 135, -0.1, 0.1) },
    ...{ gain2: uniform([width], 136, 0.5, 1.5), bias2: uniform([width], 137, -0.1, 0.1) },
    ...{ w1: weights([width, 4 * width], 138, width), b1: uniform([4 * width], 139, -0.1, 0.1) },
    ...{ w2: weights([4 * width, width], 140, 4 * width), b2: uniform([width], 141, -0.1, 0.1) },
  };
  const doubles = (name: GptWeight) => Float64Array.from(constants[name].data);
  const known: ReturnType<typeof reference>[] = [];
  const compute = (set: number) => {
    const weight = Object.fromEntries(gptWeights.map((name) => [name, doubles(name)])) as Record<
      GptWeight,
      Float64Array
    >;
    const { x, target } = sets[set]!;
    return reference(weight, Float64Array.from(x.data), Float64Array.from(target.data), form);
  };
  const lengths = Object.fromEntries(gptWeights.map((name) => [name, constants[name].data.length]));
  // Forward: four layers of 12 width² weights, and scores and sums of the whole square; backward twice that.
  const forward = rows * (12 * width ** 2 + 2 * tokens * width);
  return {
    name,
    kind: "gptBlock",
    sets,
    constants,
    flops: 3 * 2 * forward,
    bytes: 4 * (rows * width * 40 + 24 * width ** 2 + batch * heads * tokens ** 2 * 4),
    lengths: { loss: 1, x: rows * width, ...lengths as Record<GptWeight, number> },
    tolerance: 1e-4,
    *reference(repetition) {
      const set = repetition % sets.length;
      const { loss, gradients } = known[set] ??= compute(set);
      yield ["loss", 0, loss];
      for (const name of ["x", ...gptWeights] as const) yield* all(name, gradients[name]);
    },
  };
}

/** Gradients against central differences, both in float64 through the interpreter. */
import { GradientError } from "../errors.ts";
import { elementwise, input, reduce } from "../graph/build.ts";
import { interpret } from "../graph/interpret.ts";
import type { Node } from "../graph/node.ts";
import { size } from "../graph/shape.ts";
import { gradients } from "./grad.ts";

export interface CheckOptions {
  /** 1 checks the gradient, 2 the gradient of the gradient too. 1 by default. */
  readonly order?: 1 | 2 | undefined;
  /** The difference taken on either side of an element, relative to it where it is above 1. 1e-5 by default. */
  readonly step?: number | undefined;
  /** Largest error accepted, absolute below 1 and relative above. 1e-6 by default. */
  readonly tolerance?: number | undefined;
}

/**
 * Compares the gradient of `output` by each of `inputs`, which are leaves with values in `given`, with central
 * differences. An output that is no scalar is first contracted with fixed weights. The function must be smooth within
 * a step of the values. Throws GradientError that names the worst element of the first input that differs.
 */
export function checkGradients(
  output: Node,
  inputs: readonly Node[],
  given: ReadonlyMap<Node, ArrayLike<number>>,
  options: CheckOptions = {},
): void {
  const values = new Map<Node, ArrayLike<number>>(given);
  const scalar = contract(output, values, 1);
  const first = gradients([scalar], inputs);
  compare("first", scalar, first, inputs, values, options);
  if (options.order !== 2) return;
  const second = first.map((g, i) => contract(g, values, i + 2)).reduce((a, b) => elementwise("add", a, b));
  compare("second", second, gradients([second], inputs), inputs, values, options);
}

/** Σ node · weights, with weights that depend on `phase` and are put into `values`. */
function contract(node: Node, values: Map<Node, ArrayLike<number>>, phase: number): Node {
  const weights = input(node.shape, "f32");
  values.set(weights, Array.from({ length: size(node.shape) }, (_, i) => 1.25 + Math.sin(phase + 2.3 * i)));
  return reduce("sum", elementwise("mul", node, weights), node.shape.map((_, axis) => axis));
}

function compare(
  order: "first" | "second",
  scalar: Node,
  derivatives: readonly Node[],
  inputs: readonly Node[],
  values: ReadonlyMap<Node, ArrayLike<number>>,
  { step = 1e-5, tolerance = 1e-6 }: CheckOptions,
): void {
  const results = interpret(derivatives, values);
  inputs.forEach((leaf, k) => {
    const point = Float64Array.from(values.get(leaf)!);
    const moved = new Map(values).set(leaf, point);
    let worst = { error: 0, element: 0, got: 0, need: 0 };
    for (let element = 0; element < point.length; element++) {
      const at = point[element]!;
      const h = step * Math.max(1, Math.abs(at));
      point[element] = at + h;
      const above = interpret([scalar], moved)[0]![0]!;
      point[element] = at - h;
      const below = interpret([scalar], moved)[0]![0]!;
      point[element] = at;
      const need = (above - below) / (2 * h);
      const got = results[k]![element]!;
      const error = Math.abs(got - need) / Math.max(1, Math.abs(need));
      // A NaN is worse than any number.
      if (!(error <= worst.error)) worst = { error, element, got, need };
    }
    if (!(worst.error <= tolerance)) {
      throw new GradientError("checkGradients", {
        got: `${order} derivative ${worst.got} at element ${worst.element} of input ${k}`,
        need: `${worst.need}, as central differences say`,
      });
    }
  });
}

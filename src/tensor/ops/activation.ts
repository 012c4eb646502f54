/** Activations of nodes, in forms that neither overflow nor cancel. Integers become f32. */
import * as build from "../../graph/build.ts";
import type { Node } from "../../graph/node.ts";
import { add, apply, div, less, lessEqual, mul, neg, square, where } from "./elementwise.ts";
import { noteProbabilities } from "./probabilities.ts";

/** 1 / (1 + exp(-x)), from exp(-|x|), which does not overflow and keeps small values accurate. */
export function sigmoid(x: Node): Node {
  const { positive, decay } = halves(build.cast(x, "f32"));
  return noteProbabilities("sigmoid", div(where(positive, 1, decay), add(1, decay)));
}

/** log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)). */
export function softplus(x: Node): Node {
  const values = build.cast(x, "f32");
  const { positive, decay } = halves(values);
  return add(where(positive, values, 0), apply("log1p", decay));
}

/** Whether x >= 0, and exp(-|x|). Not by abs, whose derivative at 0 is 0. */
function halves(x: Node): { positive: Node; decay: Node } {
  const positive = lessEqual(0, x);
  return { positive, decay: apply("exp", where(positive, neg(x), x)) };
}

/** x * sigmoid(x). */
export function silu(x: Node): Node {
  return gated(x, 128, (values) => mul(values, sigmoid(values)));
}

/** x * P(Z <= x) for a standard normal Z: exact by erf, or its tanh approximation (Hendrycks and Gimpel 2016). */
export function gelu(x: Node, approximate: "none" | "tanh"): Node {
  return gated(x, 32, (values) => {
    if (approximate === "none") return mul(mul(values, 0.5), add(1, apply("erf", mul(values, Math.SQRT1_2))));
    const inner = mul(mul(values, Math.sqrt(2 / Math.PI)), add(1, mul(square(values), 0.044715)));
    return mul(mul(values, 0.5), add(1, apply("tanh", inner)));
  });
}

/**
 * x times a gate that from `far` on is 1, and 0 from -far on, for f32: there x itself and 0 are taken, with their derivatives,
 * as the formula and its derivatives are 0·∞ at infinity, and before it wherever a power of x is infinite.
 */
function gated(x: Node, far: number, formula: (values: Node) => Node): Node {
  const values = build.cast(x, "f32");
  const isFar = less(far, apply("abs", values));
  return where(isFar, where(less(values, 0), 0, values), formula(where(isFar, 0, values)));
}

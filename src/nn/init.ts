/** Initial values of parameters. All are drawn from `random`, so that `random.seed` fixes them. */
import { ArgumentError } from "../errors.ts";
import type { Shape } from "../graph/shape.ts";
import { full } from "../tensor/create.ts";
import * as random from "../tensor/random.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** How many inputs an output of the layer sums over, and how many outputs an input feeds. */
export interface Fan {
  readonly in: number;
  readonly out: number;
}

/** Makes the initial value of a parameter of `shape`. */
export type Initializer = (shape: Shape, fan: Fan) => Tensor<"f32">;

/**
 * Uniform within ±sqrt(6 / (in + out)). Glorot and Bengio, Understanding the difficulty of training deep feedforward
 * neural networks (2010).
 */
export const glorotUniform: Initializer = (shape, fan) => symmetric(shape, Math.sqrt(6 / (fan.in + fan.out)));

/** Normal of variance 2 / (in + out). Glorot and Bengio (2010). */
export const glorotNormal: Initializer = (shape, fan) => random.normal(shape).mul(Math.sqrt(2 / (fan.in + fan.out)));

/** Uniform within ±sqrt(6 / in), for layers before a relu. He et al., Delving Deep into Rectifiers (2015). */
export const heUniform: Initializer = (shape, fan) => symmetric(shape, Math.sqrt(6 / fan.in));

/** Normal of variance 2 / in, for layers before a relu. He et al. (2015). */
export const heNormal: Initializer = (shape, fan) => random.normal(shape).mul(Math.sqrt(2 / fan.in));

/** Uniform within ±sqrt(3 / in), so of variance 1 / in. LeCun et al., Efficient BackProp (1998). */
export const lecunUniform: Initializer = (shape, fan) => symmetric(shape, Math.sqrt(3 / fan.in));

/** Normal of variance 1 / in. LeCun et al. (1998). */
export const lecunNormal: Initializer = (shape, fan) => random.normal(shape).mul(Math.sqrt(1 / fan.in));

export const zeros: Initializer = (shape) => full(shape, 0);

export const ones: Initializer = (shape) => full(shape, 1);

/** Every element the same finite value. */
export function constant(value: number): Initializer {
  requireFinite("init.constant", { value });
  return (shape) => full(shape, value);
}

/** Normal of the given mean and standard deviation. */
export function normal(options: { readonly mean?: number; readonly std?: number } = {}): Initializer {
  const { mean = 0, std = 1 } = options;
  requireFinite("init.normal", { mean, std });
  if (std < 0) throw new ArgumentError("init.normal", { got: `std ${std}`, need: "at least 0" });
  return (shape) => random.normal(shape).mul(std).add(mean);
}

/** Uniform from `min` to below `max`. */
export function uniform(options: { readonly min?: number; readonly max?: number } = {}): Initializer {
  const { min = 0, max = 1 } = options;
  requireFinite("init.uniform", { min, max });
  if (min > max) throw new ArgumentError("init.uniform", { got: `min ${min}, max ${max}`, need: "min at most max" });
  return (shape) => random.uniform(shape, { low: min, high: max });
}

function symmetric(shape: Shape, limit: number): Tensor<"f32"> {
  return random.uniform(shape, { low: -limit, high: limit });
}

function requireFinite(op: string, values: Record<string, number>): void {
  for (const [name, value] of Object.entries(values)) {
    if (!Number.isFinite(value)) throw new ArgumentError(op, { got: `${name} ${value}`, need: "a finite number" });
  }
}

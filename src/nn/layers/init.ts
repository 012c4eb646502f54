/** Initial values of parameters. All are drawn from `random`, so that `random.seed` fixes them. */
import { ArgumentError } from "../../errors.ts";
import type { Shape } from "../../graph/shape.ts";
import { type Kind, number, optional, options, required } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { full } from "../../tensor/create.ts";
import { shape as shapeKind } from "../../tensor/kinds.ts";
import * as random from "../../tensor/random.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/** How many inputs an output of the layer sums over, and how many outputs an input feeds. */
export interface Fan {
  /** Inputs of an output. */
  readonly in: number;
  /** Outputs of an input. */
  readonly out: number;
}

/** Makes the initial value of a parameter of `shape`. */
export type Initializer = (shape: Shape, fan: Fan) => Tensor<"f32">;

/** The normal distribution that is drawn from. */
export interface NormalOptions {
  /** Default 0. */
  readonly mean?: number | undefined;
  /** The standard deviation, at least 0. Default 1. */
  readonly std?: number | undefined;
}

/** The range that is drawn from. */
export interface UniformOptions {
  /** Default 0. */
  readonly min?: number | undefined;
  /** At least `min`; it is not drawn itself. Default 1. */
  readonly max?: number | undefined;
}

const fan: Kind<Fan> = required<Fan>(["in", "out"], { in: number, out: number });
const signatures = {
  constant: takes("init.constant", { value: number }),
  normal: takes("init.normal", { options: options<NormalOptions>({ mean: number, std: number }) }),
  uniform: takes("init.uniform", { options: options<UniformOptions>({ min: number, max: number }) }),
};

/** An initializer that draws by the fan. */
function byFan(name: string, make: Initializer): Initializer {
  return checked(name, fan, make);
}

/** One that needs no fan. */
function alike(name: string, make: (shape: Shape) => Tensor<"f32">): Initializer {
  return checked(name, optional(fan), make);
}

function checked(name: string, fan: Kind<Fan | undefined>, make: Initializer): Initializer {
  const signature = takes(`init.${name}`, { shape: shapeKind, fan });
  return (...given) => {
    signature.check(given);
    return make(...given);
  };
}

/**
 * Uniform within ±sqrt(6 / (in + out)). Glorot and Bengio, Understanding the difficulty of training deep feedforward
 * neural networks (2010).
 */
export const glorotUniform: Initializer = byFan(
  "glorotUniform",
  (shape, fan) => symmetric(shape, Math.sqrt(6 / (fan.in + fan.out))),
);

/** Normal of variance 2 / (in + out). Glorot and Bengio (2010). */
export const glorotNormal: Initializer = byFan("glorotNormal", (shape, fan) => gaussian(shape, 2 / (fan.in + fan.out)));

/** Uniform within ±sqrt(6 / in), for layers before a relu. He et al., Delving Deep into Rectifiers (2015). */
export const heUniform: Initializer = byFan("heUniform", (shape, fan) => symmetric(shape, Math.sqrt(6 / fan.in)));

/** Normal of variance 2 / in, for layers before a relu. He et al. (2015). */
export const heNormal: Initializer = byFan("heNormal", (shape, fan) => gaussian(shape, 2 / fan.in));

/** Uniform within ±sqrt(3 / in), so of variance 1 / in. LeCun et al., Efficient BackProp (1998). */
export const lecunUniform: Initializer = byFan("lecunUniform", (shape, fan) => symmetric(shape, Math.sqrt(3 / fan.in)));

/** Normal of variance 1 / in. LeCun et al. (1998). */
export const lecunNormal: Initializer = byFan("lecunNormal", (shape, fan) => gaussian(shape, 1 / fan.in));

/** All zeros. */
export const zeros: Initializer = alike("zeros", (shape) => full(shape, 0));

/** All ones. */
export const ones: Initializer = alike("ones", (shape) => full(shape, 1));

/** Every element the same finite value. */
export function constant(value: number): Initializer {
  signatures.constant.check(arguments);
  requireFinite("init.constant", { value });
  return alike("constant", (shape) => full(shape, value));
}

/** Normal of the given mean and standard deviation. */
export function normal(options: NormalOptions = {}): Initializer {
  signatures.normal.check(arguments);
  const { mean = 0, std = 1 } = options;
  requireFinite("init.normal", { mean, std });
  if (std < 0) throw new ArgumentError("init.normal", { got: `std ${std}`, need: "at least 0" });
  return alike("normal", (shape) => random.normal(shape).mul(std).add(mean));
}

/** Uniform from `min` to below `max`. */
export function uniform(options: UniformOptions = {}): Initializer {
  signatures.uniform.check(arguments);
  const { min = 0, max = 1 } = options;
  requireFinite("init.uniform", { min, max });
  if (min > max) throw new ArgumentError("init.uniform", { got: `min ${min}, max ${max}`, need: "min at most max" });
  return alike("uniform", (shape) => random.uniform(shape, { low: min, high: max }));
}

function symmetric(shape: Shape, limit: number): Tensor<"f32"> {
  return random.uniform(shape, { low: -limit, high: limit });
}

function gaussian(shape: Shape, variance: number): Tensor<"f32"> {
  return random.normal(shape).mul(Math.sqrt(variance));
}

function requireFinite(op: string, values: Record<string, number>): void {
  for (const [name, value] of Object.entries(values)) {
    if (!Number.isFinite(value)) throw new ArgumentError(op, { got: `${name} ${value}`, need: "a finite number" });
  }
}

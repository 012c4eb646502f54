/**
 * Random tensors, from counters (Threefry-2x32; Salmon, Moraes, Dror, Shaw, SC 2011). For a seed, bits, uniforms in
 * [0, 1), integers and permutations are the same on every device and runtime; other uniforms agree to rounding,
 * normals to a few ulp. Outside a trace the key is the seed and the number of the draw; in a compiled function, the
 * seed and the number of the run, mixed with the place of the draw.
 */
import { ArgumentError, ShapeError } from "../errors.ts";
import * as build from "../graph/build.ts";
import type { Node } from "../graph/node.ts";
import { checkShape, formatShape, longestAxis, type Shape, size } from "../graph/shape.ts";
import { number, options, required } from "../signature/kinds.ts";
import { show } from "../signature/show.ts";
import { type Signature, takes } from "../signature/takes.ts";
import { currentFrame } from "./eager/frame.ts";
import { currentSeed, nextKey, seed } from "./eager/seed.ts";
import { Storage } from "./eager/storage.ts";
import { shape } from "./kinds.ts";
import { add, apply, less, mul, sub } from "./ops/elementwise.ts";
import { Tensor, tensorKind } from "./tensor.ts";

export { currentSeed, seed };

/** Between which numbers is drawn. */
export interface UniformOptions {
  /** The least number. Default 0. */
  readonly low?: number | undefined;
  /** What all numbers are below. Default 1. */
  readonly high?: number | undefined;
}

/** Between which integers is drawn. */
export interface IntegersOptions {
  /** The least integer, of 32 bits. Default 0. */
  readonly low?: number | undefined;
  /** One more than the largest integer. */
  readonly high: number;
}

/** Of which normal distribution is drawn. */
export interface NormalOptions {
  /** Default 0. */
  readonly mean?: number | undefined;
  /** The standard deviation, at least 0. Default 1. */
  readonly std?: number | undefined;
}

const p = { ...number, need: "a probability, 0 to 1" };
const signatures = {
  bits: takes("random.bits", { shape }),
  uniform: takes("random.uniform", { shape, options: options<UniformOptions>({ low: number, high: number }) }),
  normal: takes("random.normal", { shape, options: options<NormalOptions>({ mean: number, std: number }) }),
  bernoulli: takes("random.bernoulli", { shape, p }),
  integers: takes("random.integers", {
    shape,
    options: required<IntegersOptions>(["high"], { low: number, high: number }),
  }),
  permutation: takes("random.permutation", { n: number }),
  uniformLike: takes("random.uniformLike", { x: tensorKind }),
  normalLike: takes("random.normalLike", { x: tensorKind }),
  bernoulliLike: takes("random.bernoulliLike", { x: tensorKind, p }),
};

/** Checks arguments that begin with a shape. Lengths one by one may as well be bounds, or a mean: what to write is told. */
function check(signature: Signature, args: ArrayLike<unknown>): void {
  if (Number.isInteger(args[0])) {
    const given = Array.from(args);
    const other = given.findIndex((one) => !Number.isInteger(one));
    const lengths = other === -1 ? given : given.slice(0, other);
    throw new ArgumentError(signature.op, {
      got: `${lengths.join(", ")} as shape`,
      need: `a shape as one list: did you mean ${signature.op}(${
        [`[${lengths.join(", ")}]`, ...given.slice(lengths.length).map(show)].join(", ")
      })?`,
    });
  }
  signature.check(args);
}

/** The words of a key, and what is mixed into the first so that draws with one key differ. */
interface Key {
  readonly first: Node;
  readonly second: Node;
}

/** Spreads small numbers over 32 bits (the finalizer of MurmurHash3); 0 stays 0. */
function hash(value: number): number {
  let h = value >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

function drawKey(): Key {
  const frame = currentFrame();
  if (frame?.random !== undefined) {
    const { node } = frame.random.key;
    return keyOf(node, hash(++frame.randomCalls));
  }
  const leaf = build.storage(Storage.ofHost(nextKey(), "u32"), [2], "u32", undefined);
  // Data made inside a trace belongs outside of it.
  return keyOf(new Tensor(leaf, true).node, 0);
}

function keyOf(words: Node, mixed: number): Key {
  const word = (i: number) => build.reshape(build.slice(words, [i], [1], [1]), []);
  return { first: mixed === 0 ? word(0) : apply("xor", word(0), mixed), second: word(1) };
}

/** What numbers the elements: a counter within a sample, and the sample. */
interface Counters {
  readonly element: Node;
  readonly sample: Node;
}

/** Throws ShapeError where there are more elements than numbers for them. */
function countersOf(op: string, shape: Shape, like: Node | undefined): Counters {
  const rows = like === undefined ? undefined : currentFrame()?.random?.sampleIndex?.(like);
  if (size(shape) / (rows === undefined ? 1 : shape[rows.axis]!) > longestAxis) {
    throw new ShapeError(op, {
      got: `${formatShape(shape)}, of ${size(shape)} elements`,
      need: `at most ${longestAxis} elements`,
    });
  }
  if (rows === undefined) return { element: positions(shape, -1), sample: build.full(shape, 0, "u32") };
  const along = build.reshape(rows.index, shape.map((n, axis) => axis === rows.axis ? n : 1));
  return { element: positions(shape, rows.axis), sample: build.broadcastTo(along, shape) };
}

/** The position of each element in row-major order, not counting the axis `without`. */
function positions(shape: Shape, without: number): Node {
  const counted = shape.filter((_, axis) => axis !== without);
  const flat = build.iota(size(counted), "u32");
  return build.broadcastTo(build.reshape(flat, shape.map((n, axis) => axis === without ? 1 : n)), shape);
}

/** The word of Threefry that belongs to each element; `stream` tells several words of one draw apart. */
function bitsOf(key: Key, { element, sample }: Counters, stream = 0): Node {
  const first = stream === 0 ? key.first : apply("xor", key.first, hash(0x80000000 + stream));
  const { shape } = element;
  return build.elementwise(
    "threefry",
    build.broadcastTo(first, shape),
    build.broadcastTo(key.second, shape),
    element,
    sample,
  );
}

/** In [0, 1), in steps of 2^-24: every one of them is an f32. */
function uniformOf(bits: Node): Node {
  return mul(build.cast(apply("shr", bits, 8), "f32"), 2 ** -24);
}

/** Box and Muller (1958), from a uniform in (0, 1] and an angle. */
function normalOf(key: Key, counters: Counters): Node {
  // A driver's logarithm of 1 may be above 0, of which there is no root.
  const logarithm = apply("min", apply("log", sub(1, uniformOf(bitsOf(key, counters)))), 0);
  const radius = apply("sqrt", mul(logarithm, -2));
  const angle = mul(uniformOf(bitsOf(key, counters, 1)), 2 * Math.PI);
  return mul(radius, apply("cos", angle));
}

function drawShape(op: string, shape: Shape): Counters {
  checkShape(op, shape);
  return countersOf(op, shape, undefined);
}

/** u32, all values equally likely. */
export function bits(shape: Shape): Tensor<"u32"> {
  check(signatures.bits, arguments);
  const counters = drawShape("random.bits", shape);
  return new Tensor(bitsOf(drawKey(), counters));
}

/**
 * f32 in [low, high), [0, 1) by default, in steps of (high - low) / 2^24; where they are equal, or no f32 is between them, the
 * f32 next to them. Throws ArgumentError for bounds that are not finite f32 or in the wrong order.
 */
export function uniform(shape: Shape, options: UniformOptions = {}): Tensor<"f32"> {
  check(signatures.uniform, arguments);
  const { low = 0, high = 1 } = options;
  if (!Number.isFinite(Math.fround(low)) || !Number.isFinite(Math.fround(high)) || low > high) {
    throw new ArgumentError("random.uniform", {
      got: `low ${low}, high ${high}`,
      need: "finite f32 numbers, low <= high",
    });
  }
  const counters = drawShape("random.uniform", shape);
  return new Tensor(scaled(uniformOf(bitsOf(drawKey(), counters)), low, high));
}

function scaled(unit: Node, low: number, high: number): Node {
  // The first and the last f32 that may be drawn.
  const last = below(high);
  const first = Math.min(
    Math.fround(low) < low ? -below(-Math.fround(low)) : Math.fround(low),
    low === high ? Infinity : last,
  );
  const width = Math.fround(high - low);
  const wide = width === 1 ? unit : mul(unit, width);
  const drawn = Number.isFinite(width)
    ? first === 0 ? wide : add(wide, first)
    : add(mul(sub(1, unit), first), mul(unit, last)); // Of opposite signs, which takes 1 - unit: it is an f32.
  if (low === high) return build.full(unit.shape, first, "f32");
  // Rounding may reach `high`, by one step or in two.
  const most = 1 - 2 ** -24;
  const reaches = Math.max(Math.fround(Math.fround(most * width) + first), Math.fround(most * width + first));
  return reaches <= last ? drawn : apply("min", drawn, last);
}

/** The largest f32 below a number. */
function below(value: number): number {
  const rounded = Math.fround(value);
  if (rounded < value) return rounded;
  if (rounded === 0) return -(2 ** -149);
  const word = new DataView(new ArrayBuffer(4));
  word.setFloat32(0, rounded);
  word.setUint32(0, word.getUint32(0) + (rounded > 0 ? -1 : 1));
  return word.getFloat32(0);
}

/**
 * f32 of a normal distribution, by default of mean 0 and standard deviation 1. Throws ArgumentError for a mean that is not
 * finite, and for a standard deviation that is negative or not finite.
 */
export function normal(shape: Shape, options: NormalOptions = {}): Tensor<"f32"> {
  check(signatures.normal, arguments);
  const { mean = 0, std = 1 } = options;
  if (!Number.isFinite(mean) || !(std >= 0 && std < Infinity)) {
    throw new ArgumentError("random.normal", {
      got: `mean ${mean}, std ${std}`,
      need: "a finite mean, and a finite std of at least 0",
    });
  }
  const counters = drawShape("random.normal", shape);
  const drawn = normalOf(drawKey(), counters);
  const scaled = std === 1 ? drawn : mul(drawn, std);
  return new Tensor(mean === 0 ? scaled : add(scaled, mean));
}

/** bool, true with probability `p`. Throws ArgumentError unless p is from 0 to 1. */
export function bernoulli(shape: Shape, p: number): Tensor<"bool"> {
  check(signatures.bernoulli, arguments);
  requireProbability("random.bernoulli", p);
  const counters = drawShape("random.bernoulli", shape);
  return new Tensor(less(uniformOf(bitsOf(drawKey(), counters)), p));
}

/** Before anything is drawn: what is refused is to change no later draw. */
function requireProbability(op: string, p: number): void {
  if (!(p >= 0 && p <= 1)) throw new ArgumentError(op, { got: `p = ${p}`, need: "a probability, 0 to 1" });
}

/** i32 from low to high - 1. A value is more likely than another by at most (high - low) / 2^32 of its probability. */
export function integers(shape: Shape, options: IntegersOptions): Tensor<"i32"> {
  check(signatures.integers, arguments);
  const { low = 0, high } = options;
  if (
    !Number.isInteger(low) || !Number.isInteger(high) || low !== (low | 0) || high - 1 !== ((high - 1) | 0) ||
    high <= low
  ) {
    throw new ArgumentError("random.integers", {
      got: `low ${low}, high ${high}`,
      need: "32-bit integers, low < high",
    });
  }
  const counters = drawShape("random.integers", shape);
  const word = bitsOf(drawKey(), counters);
  const offset = high - low === 2 ** 32 ? word : apply("irem", word, high - low);
  return new Tensor(add(build.bitcast(offset, "i32"), low));
}

/** i32 [n]: 0 to n - 1 in random order. */
export function permutation(n: number): Tensor<"i32"> {
  signatures.permutation.check(arguments);
  const counters = drawShape("random.permutation", [n]);
  return new Tensor(build.argsort(bitsOf(drawKey(), counters)));
}

/**
 * f32 like `x` in [0, 1); under the executor, a row's values depend on its place in the whole batch, not on how that
 * is cut.
 */
export function uniformLike(x: Tensor): Tensor<"f32"> {
  signatures.uniformLike.check(arguments);
  return new Tensor(uniformOf(bitsOf(drawKey(), countersOf("random.uniformLike", x.shape, x.node))));
}

/** f32 like `x` of mean 0 and variance 1; keyed by rows as `uniformLike`. */
export function normalLike(x: Tensor): Tensor<"f32"> {
  signatures.normalLike.check(arguments);
  return new Tensor(normalOf(drawKey(), countersOf("random.normalLike", x.shape, x.node)));
}

/** bool like `x`, true with probability `p`; keyed by rows as `uniformLike`. */
export function bernoulliLike(x: Tensor, p: number): Tensor<"bool"> {
  signatures.bernoulliLike.check(arguments);
  requireProbability("random.bernoulliLike", p);
  return new Tensor(less(uniformOf(bitsOf(drawKey(), countersOf("random.bernoulliLike", x.shape, x.node))), p));
}

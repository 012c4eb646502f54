/** Seeded inputs. */
import type { HostInput } from "./workload.ts";

/** How many sets of inputs a workload has. */
export const setsEach = 3;

export function times<T>(count: number, make: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => make(index));
}

/** `count` positions spread over `n`, first and last among them. */
export function spread(n: number, count: number): number[] {
  return [...new Set(times(count, (i) => Math.round((i * (n - 1)) / (count - 1))))];
}

/** mulberry32: small, seeded, good enough for inputs. */
function generator(seed: number): () => number {
  let state = (seed * 0x9e3779b1) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function uniform(shape: readonly number[], seed: number, low = -1, high = 1): HostInput {
  const next = generator(seed);
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < data.length; i++) data[i] = low + (high - low) * next();
  return { data, shape };
}

/** Uniform within ±sqrt(3 / in), which keeps the variance of what a layer of that many inputs gives. */
export function weights(shape: readonly number[], seed: number, inputs: number): HostInput {
  const bound = Math.sqrt(3 / inputs);
  return uniform(shape, seed, -bound, bound);
}

export function oneHot(rows: number, classes: number, seed: number): HostInput {
  const next = generator(seed);
  const data = new Float32Array(rows * classes);
  for (let r = 0; r < rows; r++) data[r * classes + Math.floor(next() * classes)] = 1;
  return { data, shape: [rows, classes] };
}

/** [name, index, value] for all of `values`. */
export function* all(name: string, values: ArrayLike<number>): Iterable<readonly [string, number, number]> {
  for (let i = 0; i < values.length; i++) yield [name, i, values[i]!];
}

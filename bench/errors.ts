import type { AnyWorkload } from "./workloads/index.ts";

/**
 * The largest error of an output, relative to the largest reference value of that output. NaN, a wrong length or an
 * output that is not there is infinitely wrong.
 */
export function relativeError(
  workload: AnyWorkload,
  repetition: number,
  output: Readonly<Record<string, Float32Array>>,
): number {
  for (const [name, length] of Object.entries<number>(workload.lengths)) {
    const values = output[name];
    if (values?.length !== length || !values.every(Number.isFinite)) return Infinity;
  }
  const errors = new Map<string, { largest: number; worst: number }>();
  for (const [name, index, value] of workload.reference(repetition)) {
    let own = errors.get(name);
    if (own === undefined) errors.set(name, own = { largest: 0, worst: 0 });
    own.largest = Math.max(own.largest, Math.abs(value));
    own.worst = Math.max(own.worst, Math.abs(output[name]![index]! - value));
  }
  const relative = [...errors.values()].map(({ largest, worst }) => (worst === 0 ? 0 : worst / largest));
  return Math.max(0, ...relative);
}

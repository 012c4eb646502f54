import { setsEach, spread, times, uniform } from "./inputs.ts";
import type { HostInput, Workload } from "./workload.ts";

export function matmul(m: number, k: number, n: number, name: string): Workload<"matmul"> {
  const sets = times(setsEach, (set) => ({ a: uniform([m, k], 2 * set + 1), b: uniform([k, n], 2 * set + 2) }));
  return { kind: "matmul", ...product(sets, { m, k, n }, { row: k, step: 1 }, name) };
}

/** Of a stored [k, m]. */
export function matmulTransposed(m: number, k: number, n: number, name: string): Workload<"matmulTransposed"> {
  const sets = times(setsEach, (set) => ({ a: uniform([k, m], 2 * set + 1), b: uniform([k, n], 2 * set + 2) }));
  return { kind: "matmulTransposed", ...product(sets, { m, k, n }, { row: 1, step: m }, name) };
}

type Product = Omit<Workload<"matmul">, "kind">;

/** `a` has element (row, k) at `row * strides.row + k * strides.step`. */
function product(
  sets: readonly { readonly a: HostInput; readonly b: HostInput }[],
  { m, k, n }: { readonly m: number; readonly k: number; readonly n: number },
  strides: { readonly row: number; readonly step: number },
  name: string,
): Product {
  return {
    name,
    sets,
    constants: {},
    flops: 2 * m * k * n,
    bytes: 4 * (m * k + k * n + m * n),
    lengths: { product: m * n },
    tolerance: 1e-5,
    *reference(repetition) {
      const { a, b } = sets[repetition % sets.length]!;
      for (const row of spread(m, 24)) {
        const out = new Float64Array(n);
        for (let i = 0; i < k; i++) {
          const x = a.data[row * strides.row + i * strides.step]!;
          for (let j = 0; j < n; j++) out[j]! += x * b.data[i * n + j]!;
        }
        for (let j = 0; j < n; j++) yield ["product", row * n + j, out[j]!];
      }
    },
  };
}

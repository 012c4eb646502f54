import { setsEach, times, uniform } from "./inputs.ts";
import { tinyOps as tinyOpCount, type Workload } from "./workload.ts";

export function chain(length: number, name: string): Workload<"chain"> {
  const sets = times(setsEach, (set) => ({ x: uniform([length], 40 + set, -4, 4) }));
  return {
    name,
    kind: "chain",
    sets,
    constants: {},
    flops: 8 * length,
    bytes: 2 * 4 * length,
    lengths: { y: length },
    tolerance: 1e-5,
    *reference(repetition) {
      const { x } = sets[repetition % setsEach]!;
      // A step that is prime to every power of two visits each lane, vector and workgroup position.
      for (let i = 0; i < length; i += 7) {
        yield ["y", i, 1 / (Math.exp(-Math.sqrt(Math.abs(1.5 * x.data[i]! + 0.5))) + 1)];
      }
      yield ["y", length - 1, 1 / (Math.exp(-Math.sqrt(Math.abs(1.5 * x.data[length - 1]! + 0.5))) + 1)];
    },
  };
}

export function sum(length: number, name: string): Workload<"sum"> {
  const sets = times(setsEach, (set) => ({ x: uniform([length], 50 + set, 0, 1) }));
  return {
    name,
    kind: "sum",
    sets,
    constants: {},
    flops: length,
    bytes: 4 * length,
    lengths: { y: 1 },
    tolerance: 1e-4,
    *reference(repetition) {
      let total = 0;
      for (const value of sets[repetition % setsEach]!.x.data) total += value;
      yield ["y", 0, total];
    },
  };
}

export function tinyOps(length: number, name: string): Workload<"tinyOps"> {
  const sets = times(setsEach, (set) => ({ x: uniform([length], 55 + set, 0, 1) }));
  return {
    name,
    kind: "tinyOps",
    sets,
    constants: {},
    flops: tinyOpCount * length,
    bytes: tinyOpCount * 2 * 4 * length,
    leastDispatches: tinyOpCount,
    lengths: { y: length },
    tolerance: 1e-4,
    *reference(repetition) {
      const { x } = sets[repetition % setsEach]!;
      for (let i = 0; i < length; i++) {
        let value = x.data[i]!;
        for (let op = 0; op < tinyOpCount; op++) value = op % 2 === 0 ? value * 0.999 : value + 0.001;
        yield ["y", i, value];
      }
    },
  };
}

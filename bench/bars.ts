/** What shardwise is to reach on WebGPU: so many times faster than its peers, and bars of its own. */
import { align, digits, ratio, ratioOf, type Result } from "./table.ts";

interface Bar {
  readonly workloads: readonly string[];
  /** How many times longer (or more memory) the peer is to take, at least. */
  readonly tfjs?: number;
  readonly jax?: number;
  readonly own?: readonly OwnBar[];
}

/** A bar that needs no peer; `of` finds the result of any workload and peer. */
interface OwnBar {
  readonly need: string;
  measure(ours: Result, of: (workload: string, peer: string) => Result | undefined): OwnMeasurement | undefined;
}

interface OwnMeasurement {
  readonly got: string;
  readonly reached: boolean;
}

const kernels = (most: number): OwnBar => ({
  need: most === 1 ? "1 kernel" : `${most} dispatches`,
  measure: ({ counts }) => counts && { got: `${counts.dispatches}`, reached: counts.dispatches <= most },
});

const oneSubmission: OwnBar = {
  need: "1 submission",
  measure: ({ counts }) => counts && { got: `${counts.submissions}`, reached: counts.submissions <= 1 },
};

const bigMatmul = "matmul 1024";

const halfOfMatmul: OwnBar = {
  need: "0.5 of matmul's rate",
  measure(ours, of) {
    const matmul = of(bigMatmul, "shardwise")?.gflops;
    if (matmul === undefined || ours.gflops === undefined) return undefined;
    const share = ours.gflops / matmul;
    return { got: digits(share), reached: share >= 0.5 };
  },
};

const bars: readonly Bar[] = [
  {
    workloads: [bigMatmul],
    tfjs: 7,
    jax: 7,
    own: [
      {
        need: "20 GFLOP/s",
        measure: ({ gflops }) => gflops === undefined ? undefined : { got: digits(gflops), reached: gflops >= 20 },
      },
      {
        need: "4.5x the 4x4 kernel",
        measure(ours, of) {
          const times = ratioOf(of(bigMatmul, "4x4 kernel"), ours);
          return times === undefined ? undefined : { got: ratio(times), reached: times >= 4.5 };
        },
      },
    ],
  },
  {
    workloads: [
      "matmul 128x784x64",
      "matmul 784x128x64, left transposed",
      "matmul 4096x288x64",
      "matmul 128x64x10",
    ],
    tfjs: 5,
    jax: 5,
  },
  { workloads: ["softmax 1024x1024", "layernorm 1024x1024"], tfjs: 3, jax: 4, own: [kernels(1)] },
  {
    workloads: ["8-op chain 4M"],
    tfjs: 12,
    jax: 2,
    own: [
      kernels(1),
      {
        need: "5 GB/s",
        measure: ({ gigabytesPerSecond: rate }) =>
          rate === undefined ? undefined : { got: digits(rate), reached: rate >= 5 },
      },
    ],
  },
  { workloads: ["conv 3x3 32->64", "conv 3x3 32->64 gradients"], tfjs: 6, jax: 6, own: [halfOfMatmul] },
  {
    workloads: ["MLP step 784-64-10 SGD", "MLP step 784-64-10 Adam"],
    tfjs: 10,
    jax: 4,
    own: [kernels(12), oneSubmission],
  },
  { workloads: ["CNN step"], tfjs: 10, jax: 6 },
  { workloads: ["GPT block"], tfjs: 6, jax: 3 },
  { workloads: ["1000 tiny ops"], tfjs: 4, jax: 5 },
  {
    workloads: ["32-deep softmax chain"],
    jax: 10,
    own: [{
      need: "two buffers of 4 MiB",
      measure: ({ bytes }) =>
        bytes === undefined ? undefined : { got: digits(bytes / (4 << 20)), reached: bytes <= 2 * (4 << 20) },
    }],
  },
  { workloads: ["import to first result", "first MLP step"], tfjs: 2, jax: 2 },
];

/** A table of the bars of all workloads among the results, each with what was got and whether that reaches it. */
export function barsTable(results: readonly Result[]): string {
  const of = (workload: string, peer: string): Result | undefined =>
    results.find((row) => row.target === "gpu" && row.workload === workload && row.peer === peer);
  const against = (workload: string, peer: string, need: number | undefined): string => {
    if (need === undefined) return "";
    const result = of(workload, peer);
    const times = ratioOf(result, of(workload, "shardwise"));
    if (times !== undefined) return verdict(ratio(times), `${need}x`, times >= need);
    return result?.failure === undefined ? `not measured (${need}x)` : `DID NOT RUN (${need}x)`;
  };
  const rows = bars.flatMap(({ workloads, tfjs, jax, own = [] }) =>
    workloads.filter((name) => results.some((row) => row.workload === name)).map((name) => {
      const ours = of(name, "shardwise");
      const verdicts = own.map(({ need, measure }) => {
        const measured = ours && measure(ours, of);
        return measured ? verdict(measured.got, need, measured.reached) : `not measured (${need})`;
      });
      return [name, against(name, "tfjs webgpu", tfjs), against(name, "jax-js webgpu", jax), verdicts.join("; ")];
    })
  );
  return align([["bar", "against tfjs webgpu", "against jax-js webgpu", "own"], ...rows]);
}

function verdict(got: string, need: string, reached: boolean): string {
  return reached ? `${got} (${need}: reached)` : `${got} (${need}: NOT)`;
}

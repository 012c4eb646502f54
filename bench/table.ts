import type { Counts } from "./counters.ts";
import type { AnyWorkload } from "./workloads/index.ts";

/** What one peer did on one workload. Times are milliseconds of one repetition. */
export interface Result {
  readonly workload: string;
  readonly target: "gpu" | "cpu";
  readonly peer: string;
  readonly median?: number;
  readonly p75?: number;
  readonly samples?: number;
  /** From the call to the first checked output: compilation, first dispatch, read. */
  readonly first?: number;
  /** Of a start in a fresh process: the part until the engine and its adapter are ready. */
  readonly loading?: number;
  /** Of a measurement of memory: the most bytes of tensors at once, above those of the inputs. */
  readonly bytes?: number;
  /** Largest error against the float64 reference, relative to the largest reference value. */
  readonly error?: number;
  /** The error is above the workload's tolerance. */
  readonly wrong?: boolean;
  /** Why there is no time. */
  readonly failure?: string;
  readonly gflops?: number;
  readonly gigabytesPerSecond?: number;
  /** Of one repetition, on WebGPU. */
  readonly counts?: Counts;
}

export function rates(workload: AnyWorkload, median: number): { gflops: number; gigabytesPerSecond: number } {
  return { gflops: workload.flops / median / 1e6, gigabytesPerSecond: workload.bytes / median / 1e6 };
}

/** How many times more a result took than another: of time, or of memory. Undefined where either is not to be used. */
export function ratioOf(result: Result | undefined, base: Result | undefined): number | undefined {
  const [a, b] = [quantity(result), quantity(base)];
  return a === undefined || b === undefined ? undefined : a / b;
}

function quantity(result: Result | undefined): number | undefined {
  return result === undefined || result.wrong ? undefined : result.median ?? result.bytes;
}

/**
 * A Markdown table that also reads well as plain text: one row a workload, one column a peer. The first peer's cells
 * carry its rate, the others' how many times longer they took than the first.
 */
export function table(results: readonly Result[], target: "gpu" | "cpu"): string {
  return grid(results.filter((row) => row.target === target), "median of a repetition", cell);
}

/** Dispatches and submissions of a repetition, in the same form; empty where nothing was counted. */
export function countsTable(results: readonly Result[]): string {
  const counted = results.filter((row) => row.counts !== undefined);
  if (counted.length === 0) return "";
  return grid(counted, "dispatches / submissions", ({ counts }) => `${counts!.dispatches} / ${counts!.submissions}`);
}

function grid(
  rows: readonly Result[],
  corner: string,
  text: (result: Result, base: Result | undefined) => string,
): string {
  const peers = [...new Set(rows.map((row) => row.peer))];
  const names = [...new Set(rows.map((row) => row.workload))];
  const cells = names.map((name) => {
    const of = (peer: string): Result | undefined => rows.find((row) => row.workload === name && row.peer === peer);
    const base = of(peers[0] ?? "");
    return [
      name,
      ...peers.map((peer, column) => {
        const result = of(peer);
        return result === undefined ? "" : text(result, column === 0 ? undefined : base);
      }),
    ];
  });
  return align([[corner, ...peers], ...cells]);
}

/** What must not be overlooked: peers that did not run, and outputs that were wrong. */
export function warnings(results: readonly Result[]): string[] {
  return results.flatMap((row) => {
    const where = `${row.peer} (${row.target}), ${row.workload}`;
    if (row.failure !== undefined) return [`DID NOT RUN: ${where}: ${row.failure}`];
    return row.wrong ? [`WRONG OUTPUT: ${where}: relative error ${row.error?.toExponential(1)}`] : [];
  });
}

function cell(result: Result, base: Result | undefined): string {
  const amount = result.median === undefined ? mebibytes(result.bytes) : milliseconds(result.median);
  if (result.failure !== undefined || amount === undefined) return "DID NOT RUN";
  if (result.wrong) return `${amount} WRONG`;
  if (base === undefined) return result.gflops === undefined ? amount : `${amount}, ${rate(result)}`;
  const times = ratioOf(result, base);
  return times === undefined ? amount : `${amount} (${ratio(times)})`;
}

/** The rate that limits the workload: arithmetic where an element is used often, memory where it is not. */
function rate({ gflops = 0, gigabytesPerSecond = 0 }: Result): string {
  return gflops > 4 * gigabytesPerSecond ? `${digits(gflops)} GFLOP/s` : `${digits(gigabytesPerSecond)} GB/s`;
}

function milliseconds(value: number): string {
  return `${digits(value)} ms`;
}

function mebibytes(bytes: number | undefined): string | undefined {
  return bytes === undefined ? undefined : `${digits(bytes / 2 ** 20)} MiB`;
}

export function ratio(value: number): string {
  return `${digits(value)}x`;
}

export function digits(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** A Markdown table of rows of texts, the first being the heading; columns but the first are flush right. */
export function align(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const line = (row: readonly string[]): string =>
    `| ${
      row.map((text, column) => column === 0 ? text.padEnd(widths[0]!) : text.padStart(widths[column]!)).join(" | ")
    } |`;
  const rule = `| ${
    widths.map((width, column) => column === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`).join(" | ")
  } |`;
  return [line(rows[0]!), rule, ...rows.slice(1).map(line)].join("\n");
}

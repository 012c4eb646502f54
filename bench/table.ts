import type { Workload } from "./workloads.ts";

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
  /** Largest error against the float64 reference, relative to the largest reference value. */
  readonly error?: number;
  /** The error is above the workload's tolerance. */
  readonly wrong?: boolean;
  /** Why there is no time. */
  readonly failure?: string;
  readonly gflops?: number;
  readonly gigabytesPerSecond?: number;
}

export function rates(workload: Workload, median: number): { gflops: number; gigabytesPerSecond: number } {
  return { gflops: workload.flops / median / 1e6, gigabytesPerSecond: workload.bytes / median / 1e6 };
}

/**
 * A Markdown table that also reads well as plain text: one row a workload, one column a peer. The first peer's cells
 * carry its rate, the others' how many times longer they took than the first.
 */
export function table(results: readonly Result[], target: "gpu" | "cpu"): string {
  const rows = results.filter((result) => result.target === target);
  const peers = [...new Set(rows.map((row) => row.peer))];
  const names = [...new Set(rows.map((row) => row.workload))];
  const cells = names.map((name) => {
    const of = (peer: string): Result | undefined => rows.find((row) => row.workload === name && row.peer === peer);
    const base = of(peers[0] ?? "");
    return [name, ...peers.map((peer, column) => cell(of(peer), column === 0 ? undefined : base))];
  });
  return align([["median of a repetition", ...peers], ...cells]);
}

/** What must not be overlooked: peers that did not run, and outputs that were wrong. */
export function warnings(results: readonly Result[]): string[] {
  return results.flatMap((row) => {
    const where = `${row.peer} (${row.target}), ${row.workload}`;
    if (row.failure !== undefined) return [`DID NOT RUN: ${where}: ${row.failure}`];
    return row.wrong ? [`WRONG OUTPUT: ${where}: relative error ${row.error?.toExponential(1)}`] : [];
  });
}

function cell(result: Result | undefined, base: Result | undefined): string {
  if (result === undefined) return "";
  if (result.failure !== undefined || result.median === undefined) return "DID NOT RUN";
  const time = milliseconds(result.median);
  if (result.wrong) return `${time} WRONG`;
  if (base === undefined) return `${time}, ${rate(result)}`;
  return base.median === undefined || base.wrong ? time : `${time} (${ratio(result.median / base.median)})`;
}

/** The rate that limits the workload: arithmetic where an element is used often, memory where it is not. */
function rate({ gflops = 0, gigabytesPerSecond = 0 }: Result): string {
  return gflops > 4 * gigabytesPerSecond ? `${digits(gflops)} GFLOP/s` : `${digits(gigabytesPerSecond)} GB/s`;
}

function milliseconds(value: number): string {
  return `${digits(value)} ms`;
}

function ratio(value: number): string {
  return `${digits(value)}x`;
}

function digits(value: number): string {
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

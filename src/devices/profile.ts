import type { Program } from "../compiler/plan.ts";

/** A line that tells how fast a kernel ran; `milliseconds` of one dispatch. */
export function profileLine(device: string, program: Program, milliseconds: number): string {
  // flops per nanosecond is GFLOP/s, bytes per nanosecond GB/s.
  const nanoseconds = Math.max(milliseconds * 1e6, 1);
  const columns = [
    `${milliseconds.toFixed(3)} ms`,
    `${(program.flops / nanoseconds).toFixed(2)} GFLOP/s`,
    `${(program.bytes / nanoseconds).toFixed(2)} GB/s`,
  ];
  return `shardwise: ${device} ${columns.map((column) => column.padStart(14)).join("")}  ${program.name}`;
}

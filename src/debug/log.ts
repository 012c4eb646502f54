import { stderrLine } from "../host/host.ts";
import { type Flags, flags } from "./flags.ts";

/** Writes a line to the standard error stream when `SHARDWISE_DEBUG` is at least `level`. */
export function debugLine(level: Exclude<Flags["debug"], 0>, text: () => string): void {
  if (flags().debug >= level) stderrLine(text());
}

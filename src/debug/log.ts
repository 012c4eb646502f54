import { mayWrite, stderrLine } from "../host/host.ts";
import { type Flags, flags } from "./flags.ts";

/** Writes a line to the standard error stream when `SHARDWISE_DEBUG` is at least `level`. */
export function debugLine(level: Exclude<Flags["debug"], 0>, text: () => string): void {
  if (flags().debug >= level) stderrLine(text());
}

const unwritable = new Set<string>();

/**
 * Writes files that a flag asked for. Where that fails it is told once for each path, and nothing more is tried: what goes on
 * is the program.
 */
export function writeAsked(what: string, path: string, writing: () => void): void {
  if (unwritable.has(path)) return;
  try {
    if (!mayWrite(path)) throw new Error("this process may not");
    writing();
  } catch (error) {
    unwritable.add(path);
    stderrLine(
      `shardwise: no ${what}, ${path} cannot be written (${error instanceof Error ? error.message : String(error)})`,
    );
  }
}

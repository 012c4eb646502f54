/** Which test files share a process. */
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { Batch } from "./run.ts";

const project = resolve(fileURLToPath(new URL("../..", import.meta.url)));

/** Test files that are run in one way. */
export type Stage = Batch;

/** Processor time of a batch, in seconds: long enough for what files share to be worth it, short enough to fill two cores to the end. */
const share = 60;

/** Test files that count what is sent to a device while another thing is under way: in an engine that is not busy with others. */
const timed = ["test/realize-cost.test.ts"];

/**
 * Cuts stages into batches, in the order to run them: those with the longest files first. A file that measures the memory of its
 * process, or time, has one of its own.
 */
export function batchesOf(stages: readonly Stage[], seconds: (file: string) => number): Batch[] {
  const sum = (files: readonly string[]) => files.reduce((total, file) => total + seconds(file), 0);
  const batches: Batch[] = [];
  for (const { files, ...how } of stages) {
    const alone = files.filter((file) => timed.includes(file) || measuresMemory(file));
    const others = files.filter((file) => !alone.includes(file)).sort((a, b) => seconds(b) - seconds(a));
    const parts = Array.from({ length: Math.ceil(sum(others) / share) }, (): string[] => []);
    for (const file of others) parts.reduce((least, part) => sum(part) < sum(least) ? part : least).push(file);
    for (const part of [...alone.map((file) => [file]), ...parts]) {
      if (part.length > 0) batches.push({ ...how, files: part });
    }
  }
  return batches.sort((a, b) => sum(b.files) - sum(a.files));
}

function measuresMemory(file: string): boolean {
  return readFileSync(join(project, file), "utf8").includes("memoryUsage(");
}

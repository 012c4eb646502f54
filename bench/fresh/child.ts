/** One row of the measurements in a fresh process: `child.ts ROW gpu|cpu ENGINE [ADAPTER]` prints a line of JSON. */
import process from "node:process";
import { watchBuffers } from "../counters.ts";
import { relativeError } from "../errors.ts";
import { loadPeers } from "../peers/index.ts";
import { type AnyWorkload, fresh } from "../workloads/index.ts";
import type { FreshMeasurement } from "./rows.ts";

const [row, target, engine, adapter] = process.argv.slice(2);
if (row !== "first" && row !== "training" && row !== "memory") {
  throw new Error(`${row}: need first, training or memory`);
}
if (target !== "gpu" && target !== "cpu") throw new Error(`${target}: need gpu or cpu`);
const made = fresh[row].make();
const workload = { ...made, sets: made.sets.slice(0, 1) } as AnyWorkload;
const buffers = row === "memory" ? await watchBuffers() : undefined;

const begin = performance.now();
const [peer] = await loadPeers(target, (name) => name === engine, adapter);
if (peer === undefined) throw new Error(`${engine}: no such engine`);
const opened = await peer.open();
const loaded = performance.now();
const { notCharged = 0 } = opened;
const prepared = await opened.prepare(workload);
const before = opened.memory?.().liveBytes ?? buffers?.live() ?? 0;
buffers?.reset();
if (row === "memory") await prepared.run(0); // reading takes memory of its own
const peak = opened.memory?.().peakBytes ?? buffers?.peak() ?? 0;
const output = await prepared.output(0);
const end = performance.now();

const measurement: FreshMeasurement = {
  milliseconds: end - begin - notCharged,
  loading: loaded - begin - notCharged,
  bytes: peak - before,
  error: relativeError(workload, 0, output),
};
process.stdout.write(`${JSON.stringify(measurement)}\n`, () => process.exit(0));

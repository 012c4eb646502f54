/**
 * Compares shardwise with its peers in one process and on one adapter:
 *
 *   npm run bench -- [--only matmul,softmax] [--peers shardwise,tfjs] [--target gpu|cpu] [--seconds 1] [--adapter NAME]
 *                    [--readme]
 *
 * Every repetition takes other inputs than the one before, ends when the engine has finished its work, and the outputs
 * are checked against a float64 reference before and after they are timed. Prints a table of medians with ratios. A run of
 * everything also writes bench/results/<adapter>.json; with --readme the table also replaces the one in README.md.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { Bench } from "tinybench";
import { type BenchOptions, parseOptions } from "./options.ts";
import * as navigator from "./navigator.ts";
import type { OpenPeer, Peer, Prepared } from "./peer.ts";
import { rates, type Result, table, warnings } from "./table.ts";
import { type Workload, workloads } from "./workloads.ts";

const options = parseOptions(process.argv.slice(2));
if (options === undefined) process.exitCode = 1;
else await main(options);

async function main(options: BenchOptions): Promise<void> {
  // lavapipe compiles for seconds at the first dispatch; its cache makes a second run of the bench start at once.
  process.env["MESA_SHADER_CACHE_DIR"] ??= fileURLToPath(new URL("../.cache/mesa", import.meta.url));
  const results: Result[] = [];
  const engines: Record<string, { version: string; runsOn: string }> = {};
  for (const target of options.targets) {
    const opened = await openPeers(await peersOf(target, options), results, options);
    for (const { peer, engine } of opened) engines[`${peer.name} (${target})`] = engine;
    for (const { name, make } of workloads.filter((entry) => options.wants(entry.name))) {
      const workload = make();
      process.stderr.write(`${target}: ${name}\n`);
      for (const { peer, engine } of opened) results.push(await measure(peer, engine, workload, options.seconds));
    }
    for (const { engine } of opened) await engine.close();
  }
  const adapter = engines["shardwise (gpu)"]?.runsOn ?? Object.values(engines)[0]?.runsOn ?? "nothing";
  const tables = options.targets.map((target) => `${heading(target, adapter)}\n\n${table(results, target)}`).join(
    "\n\n",
  );
  console.log(`\n${tables}`);
  const complaints = warnings(results);
  console.log(complaints.length === 0 ? "\nAll outputs checked." : `\n${complaints.join("\n")}`);
  if (options.everything) console.log(`Saved ${await save(adapter, { engines, results }, options)}`);
  else console.log("Not saved: a part of the comparison.");
  if (options.readme) await intoReadme(tables);
  if (results.some((row) => row.peer === "shardwise" && (row.wrong || row.failure !== undefined))) process.exitCode = 1;
}

/** Engines are loaded when they are wanted: loading one takes up to a second. */
async function peersOf(target: "gpu" | "cpu", options: BenchOptions): Promise<Peer[]> {
  const peers: Peer[] = [];
  if (options.wantsPeer("shardwise")) {
    const ours = await import("./ours.ts");
    ours.chooseAdapter(options.adapter);
    peers.push(target === "gpu" ? ours.oursGpu : ours.oursCpu);
  }
  if (options.wantsPeer("tfjs")) {
    const tfjs = await import("./tfjs.ts");
    peers.push(...(target === "gpu" ? [tfjs.tfjsWebGPU] : [tfjs.tfjsWasm, tfjs.tfjsCpu]));
  }
  if (target === "gpu" && options.wantsPeer("jax-js")) peers.push((await import("./jax.ts")).jaxWebGPU);
  navigator.chooseAdapter(options.adapter);
  return peers;
}

interface Opened {
  readonly peer: Peer;
  readonly engine: OpenPeer;
}

/** Opens the peers; one that cannot start, or starts on another adapter than the first, is reported and left out. */
async function openPeers(peers: readonly Peer[], results: Result[], options: BenchOptions): Promise<Opened[]> {
  const opened: Opened[] = [];
  for (const peer of peers) {
    try {
      const engine = await peer.open();
      const first = opened[0]?.engine.runsOn;
      if (peer.target === "gpu" && first !== undefined && engine.runsOn !== first) {
        throw new Error(`it runs on ${engine.runsOn}, not on ${first}; choose one with --adapter`);
      }
      opened.push({ peer, engine });
      if (peer.target === "gpu" && first === undefined) navigator.chooseAdapter(engine.runsOn);
    } catch (error) {
      const failure = message(error);
      for (const { name } of workloads.filter((entry) => options.wants(entry.name))) {
        results.push({ workload: name, target: peer.target, peer: peer.name, failure });
      }
    }
  }
  return opened;
}

async function measure(peer: Peer, engine: OpenPeer, workload: Workload, seconds: number): Promise<Result> {
  const head = { workload: workload.name, target: peer.target, peer: peer.name };
  let prepared: Prepared | undefined;
  try {
    const start = performance.now();
    prepared = await engine.prepare(workload);
    let repetition = 0;
    let error = relativeError(workload, repetition, await prepared.output(repetition++));
    const first = performance.now() - start;
    while (repetition < workload.sets.length) {
      error = Math.max(error, relativeError(workload, repetition, await prepared.output(repetition++)));
    }
    const run = prepared.run;
    const bench = new Bench({ time: seconds * 1000, iterations: 3, warmupTime: seconds * 200, warmupIterations: 1 });
    bench.add(workload.name, () => run(repetition++), { async: true });
    const [task] = await bench.run();
    const result = task?.result;
    if (result === undefined || result.state !== "completed") {
      return { ...head, failure: result?.state === "errored" ? message(result.error) : `tinybench: ${result?.state}` };
    }
    error = Math.max(error, relativeError(workload, repetition, await prepared.output(repetition)));
    const { p50, p75, samplesCount } = result.latency;
    return {
      ...head,
      median: p50,
      p75,
      samples: samplesCount,
      first,
      error,
      wrong: !(error <= workload.tolerance),
      ...rates(workload, p50),
    };
  } catch (error) {
    return { ...head, failure: message(error) };
  } finally {
    prepared?.dispose();
    (globalThis as { gc?: () => void }).gc?.();
  }
}

/** The largest error of an output, relative to the largest reference value; NaN or a wrong length is infinitely wrong. */
function relativeError(workload: Workload, repetition: number, output: Float32Array): number {
  if (output.length !== workload.length) return Infinity;
  let largest = 0;
  let worst = 0;
  for (const [index, value] of workload.reference(repetition)) {
    const difference = Math.abs(output[index]! - value);
    if (Number.isNaN(difference)) return Infinity;
    largest = Math.max(largest, Math.abs(value));
    worst = Math.max(worst, difference);
  }
  if (largest === 0) return output.every(Number.isFinite) ? 0 : Infinity; // no reference for this repetition
  return worst / largest;
}

async function save(adapter: string, record: object, options: BenchOptions): Promise<string> {
  const name = adapter.toLowerCase().replace(/[^a-z0-9.]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 60);
  const folder = new URL("./results/", import.meta.url);
  await mkdir(folder, { recursive: true });
  const machine = { cpu: cpus()[0]?.model, cores: cpus().length, runtime: runtime() };
  const content = { adapter, date: new Date().toISOString(), seconds: options.seconds, machine, ...record };
  const file = `${name}${process.versions["deno"] === undefined ? "" : "-deno"}.json`;
  await writeFile(new URL(file, folder), JSON.stringify(content, null, 2) + "\n");
  return `bench/results/${file}`;
}

function heading(target: "gpu" | "cpu", adapter: string): string {
  const processor = cpus();
  const place = `${processor[0]?.model.trim() ?? "unknown"}, ${processor.length} cores, ${runtime()}`;
  return target === "gpu" ? `WebGPU on ${adapter} (${place}):` : `On the CPU (${place}):`;
}

/** Replaces what stands between the two marks in README.md. */
async function intoReadme(tables: string): Promise<void> {
  const path = new URL("../README.md", import.meta.url);
  const text = await readFile(path, "utf8");
  const replaced = text.replace(
    /(<!-- bench -->\n)[\s\S]*(<!-- \/bench -->)/,
    (_, begin, end) => `${begin}\n${tables}\n\n${end}`,
  );
  await writeFile(path, replaced);
}

function runtime(): string {
  const deno = process.versions["deno"];
  return deno === undefined ? `Node ${process.versions.node}` : `Deno ${deno}`;
}

function message(error: unknown): string {
  return error instanceof Error ? error.message.split("\n")[0]! : String(error);
}

/**
 * Compares shardwise with its peers in one process and on one adapter:
 *
 *   npm run bench -- [--only matmul,softmax] [--peers shardwise,tfjs] [--target gpu|cpu] [--seconds 0.5] [--adapter NAME]
 *                    [--bars] [--readme]
 *
 * Every repetition takes other inputs than the one before, ends when the engine has finished its work, and the outputs
 * are checked against a float64 reference before and after they are timed. Starts and peaks of memory are measured in
 * fresh processes. Prints tables of medians with ratios, and of dispatches and submissions; with --bars also which of
 * the project's bars are reached. A run of everything also writes bench/results/<adapter>.json; with --readme the
 * medians also replace those in README.md.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { barsTable } from "./bars.ts";
import { freshRows, measureFresh } from "./fresh/rows.ts";
import { measure, message } from "./measure.ts";
import { type BenchOptions, parseOptions } from "./options.ts";
import { engines, loadPeers } from "./peers/index.ts";
import * as navigator from "./peers/navigator.ts";
import type { OpenPeer, Peer } from "./peers/peer.ts";
import { countsTable, type Result, table, warnings } from "./table.ts";
import { fresh, workloads } from "./workloads/index.ts";

const options = parseOptions(process.argv.slice(2));
if (options === undefined) process.exitCode = 1;
else await main(options);

async function main(options: BenchOptions): Promise<void> {
  // lavapipe compiles for seconds at the first dispatch; its cache makes a second run of the bench start at once.
  process.env["MESA_SHADER_CACHE_DIR"] ??= fileURLToPath(new URL("../.cache/mesa", import.meta.url));
  const results: Result[] = [];
  const ran: Record<string, { version: string; runsOn: string }> = {};
  const wanted = workloads.filter((entry) => options.wants(entry.name));
  for (const target of options.targets) {
    if (wanted.length > 0) await compare(target, wanted, options, results, ran);
    await startAfresh(target, options, results);
  }
  const adapter = ran["shardwise (gpu)"]?.runsOn ?? Object.values(ran)[0]?.runsOn ?? "a fresh device";
  const tables = options.targets.map((target) => `${heading(target, adapter)}\n\n${table(results, target)}`).join(
    "\n\n",
  );
  console.log(`\n${tables}`);
  const more = [countsTable(results), options.bars ? barsTable(results) : ""].filter((text) => text !== "");
  for (const text of more) console.log(`\n${text}`);
  const complaints = warnings(results);
  console.log(complaints.length === 0 ? "\nAll outputs checked." : `\n${complaints.join("\n")}`);
  if (options.everything) console.log(`Saved ${await save(adapter, { engines: ran, results }, options)}`);
  else console.log("Not saved: a part of the comparison.");
  if (options.readme) await intoReadme(tables);
  if (results.some((row) => row.peer === "shardwise" && (row.wrong || row.failure !== undefined))) process.exitCode = 1;
}

/** All engines of a target on each workload in turn. */
async function compare(
  target: "gpu" | "cpu",
  wanted: typeof workloads,
  options: BenchOptions,
  results: Result[],
  ran: Record<string, { version: string; runsOn: string }>,
): Promise<void> {
  const peers = await loadPeers(target, options.wantsPeer, options.adapter);
  if (target === "gpu" && options.wantsPeer("shardwise")) {
    peers.push((await import("./peers/register-kernel.ts")).registerKernel);
  }
  const opened = await openPeers(peers, wanted, results);
  for (const { peer, engine } of opened) {
    ran[`${peer.name} (${target})`] = { version: await engine.version(), runsOn: engine.runsOn };
  }
  for (const { name, make } of wanted) {
    const workload = make();
    process.stderr.write(`${target}: ${name}\n`);
    for (const { peer, engine } of opened) {
      const result = await measure(peer, engine, workload, options.seconds);
      if (result !== undefined) results.push(result);
    }
  }
  for (const { engine } of opened) await engine.close();
}

async function startAfresh(target: "gpu" | "cpu", options: BenchOptions, results: Result[]): Promise<void> {
  for (const row of freshRows.filter((row) => options.wants(fresh[row].name))) {
    // On the CPU peers do not count their bytes.
    if (row === "memory" && target === "cpu") continue;
    process.stderr.write(`fresh process: ${fresh[row].name}\n`);
    for (const engine of engines.filter(options.wantsPeer)) {
      results.push(await measureFresh(row, target, engine, options.adapter));
    }
  }
}

interface Opened {
  readonly peer: Peer;
  readonly engine: OpenPeer;
}

/** Opens the peers; one that cannot start, or starts on another adapter than the first, is reported and left out. */
async function openPeers(peers: readonly Peer[], wanted: typeof workloads, results: Result[]): Promise<Opened[]> {
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
      for (const { name } of wanted) results.push({ workload: name, target: peer.target, peer: peer.name, failure });
    }
  }
  return opened;
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
  return target === "gpu"
    ? `WebGPU on ${adapter} (${place}):`
    : `On the CPU (${place}; on one thread where nothing else is said):`;
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

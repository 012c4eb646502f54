/** What is measured in a process of its own: the start of an engine, cold or not, and the memory that it takes. */
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import type { engines } from "../peers/index.ts";
import { buildForNode } from "./build.ts";
import type { Result } from "../table.ts";
import { fresh } from "../workloads/index.ts";

export interface FreshMeasurement {
  /** From before the engine is imported until its first output is read. */
  readonly milliseconds: number;
  /** The part of that until the engine and its adapter are ready. */
  readonly loading: number;
  /** The most bytes of tensors at once, above those of the inputs. */
  readonly bytes: number;
  readonly error: number;
}

export type FreshRow = keyof typeof fresh;
export const freshRows = Object.keys(fresh) as FreshRow[];

const mostSamples = 3;
/** Seconds after which a row takes no further sample, and after which a process is given up. */
const enough = 8;
const patience = 120;

const peerNames = {
  gpu: { shardwise: "shardwise", tfjs: "tfjs webgpu", "jax-js": "jax-js webgpu" },
  cpu: { shardwise: "shardwise", tfjs: "tfjs wasm", "jax-js": "jax-js wasm" },
} as const;

export async function measureFresh(
  row: FreshRow,
  target: "gpu" | "cpu",
  engine: typeof engines[number],
  adapter: string | undefined,
): Promise<Result> {
  const { name, make } = fresh[row];
  const head = { workload: name, target, peer: peerNames[target][engine] } as const;
  const samples: FreshMeasurement[] = [];
  const begin = performance.now();
  try {
    // The driver's cache knows the kernels from now on.
    if (row === "first" && target === "gpu") await sample(row, target, engine, adapter);
    do samples.push(await sample(row, target, engine, adapter)); while (
      row !== "memory" && samples.length < mostSamples && performance.now() - begin < enough * 1000
    );
  } catch (error) {
    return { ...head, failure: error instanceof Error ? error.message : String(error) };
  }
  const sorted = samples.sort((a, b) => a.milliseconds - b.milliseconds);
  const { milliseconds, bytes, loading } = sorted[(sorted.length - 1) >> 1]!;
  const error = Math.max(...sorted.map((one) => one.error));
  const common = { ...head, samples: sorted.length, error, wrong: !(error <= make().tolerance) };
  return row === "memory" ? { ...common, bytes } : { ...common, median: milliseconds, loading };
}

/** A training starts with empty caches of the driver and of plans, the others with those of the bench. */
async function sample(
  row: FreshRow,
  target: "gpu" | "cpu",
  engine: string,
  adapter: string | undefined,
): Promise<FreshMeasurement> {
  const asked = [row, target, engine, ...(adapter === undefined ? [] : [adapter])];
  if (row !== "training") return await run(asked, {});
  const folder = await mkdtemp(join(tmpdir(), "shardwise-cold-"));
  try {
    return await run(asked, { MESA_SHADER_CACHE_DIR: join(folder, "driver"), SHARDWISE_CACHE: join(folder, "plans") });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

let built: Promise<string> | undefined;

/** What runs the child in this runtime. */
async function command(): Promise<string[]> {
  if (process.versions["deno"] === undefined) return [await (built ??= buildForNode("fresh/child.ts"))];
  return ["run", "-A", "--no-check", fileURLToPath(new URL("./child.ts", import.meta.url))];
}

async function run(
  asked: readonly string[],
  environment: Readonly<Record<string, string>>,
): Promise<FreshMeasurement> {
  const args = [...await command(), ...asked];
  const child = spawn(process.execPath, args, {
    env: { ...process.env, ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [output, complaints] = ["", ""];
  child.stdout.on("data", (chunk) => output += String(chunk));
  child.stderr.on("data", (chunk) => complaints += String(chunk));
  const timer = setTimeout(() => child.kill("SIGKILL"), patience * 1000);
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve([code, signal]));
  });
  clearTimeout(timer);
  const line = output.split("\n").findLast((text) => text.startsWith("{"));
  if (line !== undefined) return JSON.parse(line) as FreshMeasurement;
  if (signal === "SIGKILL") throw new Error(`no result within ${patience} s`);
  throw new Error(complaints.split("\n").find((text) => /error/i.test(text)) ?? `it ended with ${signal ?? code}`);
}

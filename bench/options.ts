import process from "node:process";
import { parseArgs } from "node:util";
import { engines } from "./peers/index.ts";
import { fresh, workloads } from "./workloads/index.ts";

export interface BenchOptions {
  readonly targets: readonly ("gpu" | "cpu")[];
  readonly seconds: number;
  readonly adapter: string | undefined;
  /** No flag leaves anything out. */
  readonly everything: boolean;
  /** Print which bars are reached. */
  readonly bars: boolean;
  /** Put the tables into README.md. */
  readonly readme: boolean;
  wants(workload: string): boolean;
  wantsPeer(engine: string): boolean;
}

/** The command line, or undefined after a complaint on stderr. */
export function parseOptions(args: readonly string[]): BenchOptions | undefined {
  try {
    return read(args);
  } catch (error) {
    process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
    return undefined;
  }
}

function read(args: readonly string[]): BenchOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      only: { type: "string" },
      peers: { type: "string" },
      target: { type: "string" },
      seconds: { type: "string", default: "0.5" },
      adapter: { type: "string" },
      bars: { type: "boolean" },
      readme: { type: "boolean" },
    },
  });
  if (values.target !== undefined && values.target !== "gpu" && values.target !== "cpu") {
    throw new Error(`--target ${values.target}: need gpu or cpu`);
  }
  const seconds = Number(values.seconds);
  if (!(seconds > 0 && seconds <= 600)) throw new Error(`--seconds ${values.seconds}: need a number up to 600`);
  return {
    targets: values.target === undefined ? ["gpu", "cpu"] : [values.target],
    seconds,
    adapter: values.adapter,
    everything: (values.only ?? values.peers ?? values.target) === undefined,
    bars: values.bars === true,
    readme: values.readme === true,
    wants: chooser("--only", values.only, [...workloads, ...Object.values(fresh)].map((entry) => entry.name)),
    wantsPeer: chooser("--peers", values.peers, engines),
  };
}

/** A test for names that contain one of the comma-separated words; a word that fits no name is an error. */
function chooser(flag: string, text: string | undefined, names: readonly string[]): (name: string) => boolean {
  if (text === undefined) return () => true;
  const words = text.toLowerCase().split(",").map((word) => word.trim()).filter((word) => word !== "");
  for (const word of words) {
    if (!names.some((name) => name.toLowerCase().includes(word))) {
      throw new Error(`${flag} ${word}: need part of one of: ${names.join(", ")}`);
    }
  }
  return (name) => words.some((word) => name.toLowerCase().includes(word));
}

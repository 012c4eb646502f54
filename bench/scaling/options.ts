import process from "node:process";
import { parseArgs } from "node:util";

export interface ScalingOptions {
  /** Numbers of virtual devices, ascending. */
  readonly devices: readonly number[];
  /** Measured for each configuration. */
  readonly seconds: number;
  /** Part of the adapter's name. */
  readonly adapter: string | undefined;
  /** Of each simulated GPU's link to the host, in GB/s. */
  readonly link: number;
  /** Of the simulated GPUs' kernels, in TFLOP/s. */
  readonly tflops: number;
  /** No flag leaves anything out. */
  readonly everything: boolean;
  wants(model: string): boolean;
}

const mostDevices = 16;

/** The command line, or undefined after a complaint on stderr. `models` are the names that `--only` chooses among. */
export function parseOptions(args: readonly string[], models: readonly string[]): ScalingOptions | undefined {
  try {
    return readOptions(args, models);
  } catch (error) {
    process.stderr.write(`bench:scaling: ${error instanceof Error ? error.message : String(error)}\n`);
    return undefined;
  }
}

/** Throws an Error that says what the flag needs. */
export function readOptions(args: readonly string[], models: readonly string[]): ScalingOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      only: { type: "string" },
      devices: { type: "string" },
      seconds: { type: "string" },
      adapter: { type: "string" },
      link: { type: "string" },
      tflops: { type: "string" },
    },
  });
  return {
    devices: counts(values.devices ?? "1,2,3,4"),
    seconds: positive("--seconds", values.seconds ?? "3", 600),
    adapter: values.adapter,
    link: positive("--link", values.link ?? "12", 1e5),
    tflops: positive("--tflops", values.tflops ?? "10", 1e5),
    everything: (values.only ?? values.devices) === undefined,
    wants: chooser(values.only, models),
  };
}

function counts(text: string): number[] {
  const numbers = text.split(",").map((word) => word.trim() === "" ? NaN : Number(word));
  if (!numbers.every((n) => Number.isInteger(n) && n >= 1 && n <= mostDevices)) {
    throw new Error(`--devices ${text}: need whole numbers from 1 to ${mostDevices}, with commas between them`);
  }
  return [...new Set(numbers)].sort((a, b) => a - b);
}

function positive(flag: string, text: string, most: number): number {
  const value = Number(text);
  if (text.trim() === "" || !(value > 0 && value <= most)) {
    throw new Error(`${flag} ${text}: need a number above 0, up to ${most}`);
  }
  return value;
}

function chooser(text: string | undefined, names: readonly string[]): (name: string) => boolean {
  if (text === undefined) return () => true;
  const words = text.toLowerCase().split(",").map((word) => word.trim()).filter((word) => word !== "");
  const unknown = words.find((word) => !names.some((name) => name.toLowerCase().includes(word)));
  if (unknown !== undefined || words.length === 0) {
    throw new Error(`--only ${unknown ?? text}: need part of one of: ${names.join(", ")}`);
  }
  return (name) => words.some((word) => name.toLowerCase().includes(word));
}

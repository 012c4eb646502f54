import { parseArgs } from "node:util";

export const optimizerNames = ["sgd", "adam", "adamw", "nadam"] as const;
const kinds = ["gpu", "cpu"] as const;
export type OptimizerName = (typeof optimizerNames)[number];

export interface Options {
  readonly devices: number;
  /** Undefined: a hardware GPU where there is one, else the CPU. */
  readonly kind: "gpu" | "cpu" | undefined;
  readonly epochs: number;
  readonly batchSize: number;
  readonly optimizer: OptimizerName;
  /** How many training images are used. */
  readonly limit: number | undefined;
  readonly seed: number;
}

/** A flag that cannot be understood; the message says what would be. */
export class UsageError extends Error {}

export const usage = `Trains a 784-64-10 perceptron on MNIST, each batch shared among several devices.

  --devices N       how many devices share each batch (default 3)
  --kind gpu|cpu    default: gpu where there is a hardware GPU, else cpu
  --epochs N        default 1
  --batch-size N    default 128
  --optimizer NAME  ${optimizerNames.join(", ")} (default nadam)
  --limit N         use the first N of the 60,000 training images
  --seed N          default 7
  --help`;

/** Reads the command line. Undefined when help was asked for. Throws UsageError. */
export function parseOptions(args: readonly string[]): Options | undefined {
  const values = parse(args);
  if (values.help) return undefined;
  return {
    devices: integer("--devices", values.devices ?? "3", 1, 64),
    kind: values.kind === undefined ? undefined : oneOf("--kind", values.kind, kinds),
    epochs: integer("--epochs", values.epochs ?? "1", 1, 1000),
    batchSize: integer("--batch-size", values["batch-size"] ?? "128", 1, 60_000),
    optimizer: oneOf("--optimizer", values.optimizer ?? "nadam", optimizerNames),
    limit: values.limit === undefined ? undefined : integer("--limit", values.limit, 1, 60_000),
    seed: integer("--seed", values.seed ?? "7", 0, 2 ** 32 - 1),
  };
}

const flags = {
  devices: { type: "string" },
  kind: { type: "string" },
  epochs: { type: "string" },
  "batch-size": { type: "string" },
  optimizer: { type: "string" },
  limit: { type: "string" },
  seed: { type: "string" },
  help: { type: "boolean" },
} as const;

function parse(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: flags }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message.split(". ")[0]! : String(error));
  }
}

function integer(flag: string, text: string, least: number, most: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (value >= least && value <= most) return value;
  throw new UsageError(`${flag} ${text}: need a whole number from ${least} to ${most}`);
}

function oneOf<T extends string>(flag: string, text: string, legal: readonly T[]): T {
  const found = legal.find((name) => name === text);
  if (found === undefined) throw new UsageError(`${flag} ${text}: need ${legal.join(" or ")}`);
  return found;
}

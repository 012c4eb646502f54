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
  /**
   * Logical shards that every batch is cut into, whatever the devices; 0 for a shard for each device that is left.
   * Undefined: as many as devices, if there are several and all are of one model.
   */
  readonly shards: number | undefined;
  /** In the order of their steps. */
  readonly kills: readonly Kill[];
  /** How many training images are used. */
  readonly limit: number | undefined;
  readonly seed: number;
}

/** A device that is closed while a step is in progress. */
export interface Kill {
  /** 1 for the first. */
  readonly device: number;
  /** 1 for the first. */
  readonly step: number;
}

/** A flag that cannot be understood; the message says what would be. */
export class UsageError extends Error {}

export const usage = `Trains a 784-64-10 perceptron on MNIST, each batch shared among several devices.

  --devices N       how many devices share each batch (default 3)
  --kind gpu|cpu    default: gpu where there is a hardware GPU, else cpu
  --epochs N        default 1
  --batch-size N    default 128
  --kill N@STEP     lose device N (counted from 1, in the order that the run lists them) in the middle of a step, such as
                    2@100; several: 2@100,1@200. The others go on, and the weights end with the same bits
  --shards K        cut every batch into K logical shards: the weights have the same bits on 1 to K devices, whichever
                    are lost (default: as many as devices; 0, and the default on one device or unlike ones: off)
  --optimizer NAME  ${optimizerNames.join(", ")} (default nadam)
  --limit N         use the first N of the 60,000 training images
  --seed N          default 7
  --help`;

/** Reads the command line. Undefined when help was asked for. Throws UsageError. */
export function parseOptions(args: readonly string[]): Options | undefined {
  const values = parse(args);
  if (values.help) return undefined;
  const devices = integer("--devices", values.devices ?? "3", 1, 64);
  return {
    devices,
    shards: values.shards === undefined ? undefined : integer("--shards", values.shards, 0, 1024),
    kills: values.kill === undefined ? [] : killsOf(values.kill, devices),
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
  shards: { type: "string" },
  kill: { type: "string" },
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

/** Reads `2@100,1@200`. Throws UsageError, also where a device would be lost twice or none would be left. */
function killsOf(text: string, devices: number): Kill[] {
  const refuse = (need: string): never => {
    throw new UsageError(`--kill ${text}: need ${need}`);
  };
  const kills = text.split(",").map((part): Kill => {
    const found = /^(\d+)@(\d+)$/.exec(part);
    if (found === null) return refuse("DEVICE@STEP, such as 2@100, or several: 2@100,1@200");
    return { device: Number(found[1]), step: Number(found[2]) };
  });
  if (kills.some(({ device }) => device < 1 || device > devices)) refuse(`a device from 1 to ${devices}`);
  if (kills.some(({ step }) => step < 1)) refuse("a step from 1 on");
  if (new Set(kills.map(({ device }) => device)).size < kills.length) refuse("each device at most once");
  if (kills.length === devices) refuse(`one of the ${devices} devices to be left`);
  return kills.sort((a, b) => a.step - b.step);
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

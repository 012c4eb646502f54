/**
 * The program that started this project, as it was in 2017: a perceptron 784-64-relu-10 with softmax, nadam and
 * categorical cross-entropy, batches of 128, on three devices. Then, a batch of 128 lost two rows on its way through three
 * GPUs. Here every row arrives.
 *
 *   npm run mnist -- --devices 5 --kind cpu        deno task mnist --help
 *   npm run mnist -- --devices 3 --kill 2@100      loses a device on the way: the weights end with the same bits
 */
import process from "node:process";
import { type Device, devices, parallel, ShardwiseError } from "../src/index.ts";
import { first, loadMnist } from "./mnist/data.ts";
import { type Options, parseOptions, usage, UsageError } from "./mnist/options.ts";
import { type Loss, type Run, type Sharing, writeReport } from "./mnist/report.ts";
import { optimizers, shardsOn, trainPerceptron } from "./mnist/training.ts";

/** Options once the devices are known. */
type Resolved = Options & { readonly shards: number };

const reportPath = "runs/mnist/report.html";

async function main(asked: Options): Promise<void> {
  const { train: everything, test } = await loadMnist();
  const train = first(everything, asked.limit);
  const chosen = await chooseDevices(asked);
  const options: Resolved = { ...asked, shards: shardsOn(chosen, asked) };
  console.log(`MNIST: ${train.count} images to train on, ${test.count} to validate with`);
  chosen.forEach((device, i) => console.log(`  ${i + 1}  ${device.name}  ${device.info.description}`));
  const plan = planned(train.count, options, chosen.length);
  for (const { rows, shares, batches } of plan) {
    console.log(`${batches} ${batches === 1 ? "batch" : "batches"} of ${rows} rows, shared ${shares.join(", ")}`);
  }
  const steps = plan.reduce((total, { batches }) => total + batches, 0);
  const late = options.kills.find(({ step }) => step > steps);
  if (late !== undefined) throw new UsageError(`--kill ${late.device}@${late.step}: the run has ${steps} steps`);

  const lost: Loss[] = [];
  const { history, hash } = await trainPerceptron({
    ...options,
    devices: chosen,
    train,
    test,
    onLost: (event) => {
      const number = chosen.findIndex(({ name }) => name === event.device) + 1;
      lost.push({ ...event, number });
      const rest = event.shardsMoved === 0
        ? "it had delivered its shards"
        : `the others had done its ${event.shardsMoved === 1 ? "shard" : `${event.shardsMoved} shards`} ${
          event.milliseconds.toFixed(1)
        } ms later`;
      // A progress bar has not ended its line.
      const line = process.stderr.isTTY ? "\n" : "";
      console.log(`${line}step ${event.step}: device ${number} is gone (${event.message}); ${rest}`);
    },
  });

  const last = history.epochs.at(-1);
  const validation = last?.validation;
  if (last === undefined || validation === undefined) throw new Error("no epoch was trained");
  console.log(`validation accuracy ${validation.metrics["accuracy"]?.toFixed(4)}, loss ${validation.loss.toFixed(4)}`);
  await writeReport(reportPath, {
    title: `MNIST on ${chosen.length} ${chosen.length === 1 ? "device" : "devices"}`,
    devices: chosen.map((device) => ({ name: device.name, kind: device.kind, description: device.info.description })),
    sharing: shared(history.steps),
    lost,
    loss: history.steps.map(({ step, loss }) => ({ step, value: loss })),
    accuracy: history.steps.map(({ step, metrics }) => ({ step, value: metrics["accuracy"] ?? NaN })),
    validation: history.epochs.map((epoch) => ({
      step: epoch.epoch * (history.steps.length / history.epochs.length),
      loss: epoch.validation?.loss ?? NaN,
      accuracy: epoch.validation?.metrics["accuracy"] ?? NaN,
    })),
    seconds: history.epochs.reduce((total, epoch) => total + epoch.seconds, 0),
    rowsPerSecond: last.rowsPerSecond,
    facts: { ...facts(options, train.count, test.count), "weights (SHA-256)": hash },
  });
  console.log(`weights sha256: ${hash}`);
  console.log(`report: ${reportPath}`);
}

/** As many hardware GPUs as were asked for where the machine has them, else virtual devices on one adapter or the CPU. */
async function chooseDevices({ devices: count, kind }: Options): Promise<Device[]> {
  const found = await devices(kind === undefined ? {} : { kind });
  if (found.length >= count) return found.slice(0, count);
  if (found[0]?.kind !== "gpu") return await devices({ kind: "cpu", virtual: count });
  for (const device of found) device.close();
  return await devices({ kind: "gpu", virtual: count });
}

/** The sizes of batches in the run, and how each will be shared while no device is lost. */
function planned(rows: number, { batchSize, epochs, shards }: Resolved, parts: number): Omit<Sharing, "devices">[] {
  const full = Math.floor(rows / batchSize);
  return [{ rows: batchSize, batches: full * epochs }, { rows: rows % batchSize, batches: epochs }]
    .filter((size) => size.rows > 0 && size.batches > 0)
    .map((size) => ({ ...size, shares: shares(size.rows, parts, shards) }));
}

/** Rows of a batch that each device gets: a shard, or several logical shards. */
function shares(rows: number, parts: number, shards: number): number[] {
  if (shards === 0) return parallel.shardSizes(rows, parts);
  const logical = parallel.shardSizes(rows, shards).filter((size) => size > 0);
  let first = 0;
  return parallel.shardSizes(logical.length, parts).map((count) => {
    const own = logical.slice(first, first += count);
    return own.reduce((a, b) => a + b, 0);
  });
}

/** What the trainer's own record says of the same. */
function shared(
  steps: readonly { readonly devices: readonly string[]; readonly sizes: readonly number[] }[],
): Sharing[] {
  const known = new Map<string, Sharing>();
  for (const { devices, sizes } of steps) {
    const rows = sizes.reduce((a, b) => a + b, 0);
    const key = `${devices} ${sizes}`;
    known.set(key, { rows, devices, shares: sizes, batches: (known.get(key)?.batches ?? 0) + 1 });
  }
  return [...known.values()];
}

function facts(options: Resolved, trained: number, validated: number): Run["facts"] {
  const deno = process.versions["deno"];
  return {
    model: "784-64-relu-10, softmax and cross-entropy",
    optimizer: optimizers[options.optimizer].text,
    data: `MNIST, ${trained.toLocaleString("en")} images for training and ${
      validated.toLocaleString("en")
    } for validation`,
    "batch size": String(options.batchSize),
    "logical shards": options.shards === 0
      ? "none: a shard for each device"
      : `${options.shards}, whatever the devices: the weights have the same bits`,
    epochs: String(options.epochs),
    seed: String(options.seed),
    runtime: deno === undefined ? `Node ${process.versions.node}` : `Deno ${deno}`,
    date: new Date().toISOString().slice(0, 16).replace("T", " ") + " UTC",
  };
}

try {
  const options = parseOptions(process.argv.slice(2));
  if (options === undefined) console.log(usage);
  else await main(options);
} catch (error) {
  if (!(error instanceof UsageError || error instanceof ShardwiseError)) throw error;
  process.stderr.write(`mnist: ${error.message}\n${error instanceof UsageError ? "See --help.\n" : ""}`);
  process.exitCode = 1;
}

/**
 * The program that started this project, as it was in 2017: a perceptron 784-64-relu-10 with softmax, nadam and
 * categorical cross-entropy, batches of 128, on three devices. Then, a batch of 128 lost two rows on its way through three
 * GPUs. Here every row arrives.
 *
 *   npm run mnist -- --devices 5 --kind cpu        deno task mnist --help
 */
import process from "node:process";
import {
  data,
  type Device,
  devices,
  nn,
  optim,
  parallel,
  random,
  setDefaultDevice,
  ShardwiseError,
} from "../src/index.ts";
import { type Digits, first, loadMnist } from "./mnist/data.ts";
import { type OptimizerName, type Options, parseOptions, usage, UsageError } from "./mnist/options.ts";
import { type Run, type Sharing, writeReport } from "./mnist/report.ts";

const reportPath = "runs/mnist/report.html";

async function main(options: Options): Promise<void> {
  const { train: everything, test } = await loadMnist();
  const train = first(everything, options.limit);
  const chosen = await chooseDevices(options);
  console.log(`MNIST: ${train.count} images to train on, ${test.count} to validate with`);
  for (const device of chosen) console.log(`  ${device.name}  ${describe(device)}`);
  for (const { rows, shards, batches } of planned(train.count, options, chosen.length)) {
    console.log(`${batches} ${batches === 1 ? "batch" : "batches"} of ${rows} rows, shared ${shards.join(", ")}`);
  }

  setDefaultDevice(chosen[0]); // where the first weights are computed
  random.seed(options.seed);
  const model = nn.sequential(nn.linear(784, 64), nn.relu(), nn.linear(64, 10));
  const trainer = nn.trainer(model, {
    forward: (m, batch) => m.forward(batch.x),
    loss: (output, batch) => nn.crossEntropy(output, batch.y),
    metrics: { accuracy: (output, batch) => nn.accuracy(output, batch.y) },
    optimizer: optimizers[options.optimizer].make(),
    devices: chosen,
    seed: options.seed,
  });
  const history = await trainer.fit(batches(train, options.batchSize, options.seed), {
    epochs: options.epochs,
    validation: batches(test, options.batchSize, false),
  });

  const last = history.epochs.at(-1);
  const validation = last?.validation;
  if (last === undefined || validation === undefined) throw new Error("no epoch was trained");
  console.log(`validation accuracy ${validation.metrics["accuracy"]?.toFixed(4)}, loss ${validation.loss.toFixed(4)}`);
  await writeReport(reportPath, {
    title: `MNIST on ${chosen.length} ${chosen.length === 1 ? "device" : "devices"}`,
    devices: chosen.map((device) => ({ name: device.name, kind: device.kind, description: describe(device) })),
    sharing: shared(history.steps.map((step) => step.sizes)),
    loss: history.steps.map(({ step, loss }) => ({ step, value: loss })),
    accuracy: history.steps.map(({ step, metrics }) => ({ step, value: metrics["accuracy"] ?? NaN })),
    validation: history.epochs.map((epoch) => ({
      step: epoch.epoch * (history.steps.length / history.epochs.length),
      loss: epoch.validation?.loss ?? NaN,
      accuracy: epoch.validation?.metrics["accuracy"] ?? NaN,
    })),
    seconds: history.epochs.reduce((total, epoch) => total + epoch.seconds, 0),
    rowsPerSecond: last.rowsPerSecond,
    facts: facts(options, train.count, test.count),
  });
  console.log(`report: ${reportPath}`);
}

/** The optimizers and how the report names them. */
const optimizers = {
  sgd: { make: () => optim.sgd({ learningRate: 0.1 }), text: "sgd, learning rate 0.1" },
  adam: { make: () => optim.adam({ learningRate: 1e-3 }), text: "adam, learning rate 0.001" },
  adamw: { make: () => optim.adamw({ learningRate: 1e-3 }), text: "adamw, learning rate 0.001" },
  nadam: { make: () => optim.nadam({ learningRate: 2e-3 }), text: "nadam, learning rate 0.002" },
} satisfies Record<OptimizerName, { make: () => optim.Optimizer; text: string }>;

/** As many hardware GPUs as were asked for where the machine has them, else virtual devices on one adapter or the CPU. */
async function chooseDevices({ devices: count, kind }: Options): Promise<Device[]> {
  const found = await devices(kind === undefined ? {} : { kind });
  if (found.length >= count) return found.slice(0, count);
  if (found[0]?.kind !== "gpu") return await devices({ kind: "cpu", virtual: count });
  for (const device of found) device.close();
  return await devices({ kind: "gpu", virtual: count });
}

function describe(device: Device): string {
  return device.kind === "cpu" ? "CPU, generated JavaScript" : device.info.description;
}

function batches(digits: Digits, batchSize: number, shuffle: number | false): data.Batches<"x" | "y"> {
  const x = data.array(digits.images, { shape: [digits.count, 784], scale: 1 / 255 });
  const y = data.array(digits.labels, { dtype: "i32" });
  return data.batches({ x, y }, { batchSize, shuffle });
}

/** The sizes of batches in the run, and how each will be shared. */
function planned(rows: number, { batchSize, epochs }: Options, parts: number): Sharing[] {
  const full = Math.floor(rows / batchSize);
  return [{ rows: batchSize, batches: full * epochs }, { rows: rows % batchSize, batches: epochs }]
    .filter((size) => size.rows > 0 && size.batches > 0)
    .map((size) => ({ ...size, shards: parallel.shardSizes(size.rows, parts) }));
}

/** What the trainer's own record says of the same. */
function shared(sizes: readonly (readonly number[])[]): Sharing[] {
  const known = new Map<string, Sharing>();
  for (const shards of sizes) {
    const rows = shards.reduce((a, b) => a + b, 0);
    const before = known.get(shards.join())?.batches ?? 0;
    known.set(shards.join(), { rows, shards, batches: before + 1 });
  }
  return [...known.values()];
}

function facts(options: Options, trained: number, validated: number): Run["facts"] {
  const deno = process.versions["deno"];
  return {
    model: "784-64-relu-10, softmax and cross-entropy",
    optimizer: optimizers[options.optimizer].text,
    data: `MNIST, ${trained.toLocaleString("en")} images for training and ${
      validated.toLocaleString("en")
    } for validation`,
    "batch size": String(options.batchSize),
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

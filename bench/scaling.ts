/**
 * How training scales with devices:
 *
 *   npm run bench:scaling -- [--devices 1,2] [--only mlp] [--seconds 3] [--adapter NAME] [--link 12] [--tflops 10]
 *
 * Whole training steps on virtual devices of one adapter (where it is a software one, of one thread each) and on the
 * adapter as one device with all threads of its driver; then the price of deterministic mode. Configurations take turns,
 * each turn ends when all work is done, and a turn that other processes disturbed is measured again. A model of the step
 * is fitted to the times, and says what GPUs with links of `--link` GB/s and kernels of `--tflops` TFLOP/s would need: a
 * simulation, not a measurement. A run of everything writes bench/results/scaling-<adapter>.json. In Deno the devices
 * are Dawn's: Deno's own waits for one device after the other.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { type Device, devices, setDefaultDevice } from "../src/index.ts";
import { fitModel, type Sample, simulate } from "./scaling/fit.ts";
import { type Configuration, copyRate, type Measured, measureTogether, sideBySide } from "./scaling/measure.ts";
import { deterministicModels, models, type ScalingModel } from "./scaling/models.ts";
import { parseOptions, type ScalingOptions } from "./scaling/options.ts";
import {
  describeModel,
  deterministicTable,
  oneAlone,
  scalingTable,
  simulationTable,
  whole as wholeName,
} from "./scaling/report.ts";

const simulatedGpus = [1, 4, 8, 16];
const logicalShards = 8;

const deno = process.versions["deno"];
const runtime = deno === undefined ? `Node ${process.versions.node}` : `Deno ${deno}`;

const options = parseOptions(process.argv.slice(2), [...models, ...deterministicModels].map(({ name }) => name));
if (options === undefined) process.exitCode = 1;
else await main(options);

async function main(options: ScalingOptions): Promise<void> {
  // lavapipe compiles for seconds at the first dispatch; its cache makes a second run start at once.
  process.env["MESA_SHADER_CACHE_DIR"] ??= fileURLToPath(new URL("../.cache/mesa", import.meta.url));
  const { whole, virtual } = await open(options);
  setDefaultDevice(whole);
  const { description, software } = whole.info;
  const measured: Measured[] = [];
  let repeated = 0;
  let disturbed = 0;
  const measure = async (
    model: ScalingModel,
    configurations: readonly Configuration[],
  ): Promise<readonly Measured[]> => {
    process.stderr.write(
      `${model.name}, batch of ${model.rows}: ${configurations.map(({ name }) => name).join(", ")}\n`,
    );
    const together = await measureTogether(model, configurations, options.seconds);
    repeated += together.repeated;
    disturbed += together.disturbed;
    return together.measured;
  };

  const chosen = models.filter(({ name }) => options.wants(name));
  const configurations: Configuration[] = [
    { name: wholeName, devices: [whole] },
    ...options.devices.map((n) => ({
      name: n === 1 ? oneAlone : `${n} virtual devices`,
      devices: virtual.slice(0, n),
    })),
  ];
  for (const model of chosen) measured.push(...await measure(model, configurations));
  const ceilings: { model: string; gain: number }[] = [];
  if (options.devices.includes(2)) {
    for (const model of chosen) {
      ceilings.push({ model: model.name, gain: await sideBySide(model, [virtual[0]!, virtual[1]!], options.seconds) });
    }
  }

  const pairs: { plain: Measured; deterministic: Measured }[] = [];
  for (const model of deterministicModels.filter(({ name }) => options.wants(name))) {
    for (const { name, devices: on } of configurations.slice(0, 2).filter(({ devices }) => devices.length === 1)) {
      const [plain, deterministic] = await measure(model, [
        { name, devices: on },
        { name: `${name}, deterministic`, devices: on, shards: logicalShards },
      ]);
      pairs.push({ plain: plain!, deterministic: deterministic! });
    }
  }

  const processors = cpus();
  console.log(`\n${description} (${processors[0]?.model.trim() ?? "unknown"}, ${processors.length} cores, ${runtime})`);
  console.log(
    software
      ? "Each virtual device computes on one thread; the whole adapter is one device with all threads of its driver."
      : "Virtual devices share one GPU, so that they show what the executor costs, not what several GPUs gain.",
  );
  if (measured.length > 0) console.log(`\n${scalingTable(measured)}`);
  for (const { model, gain } of ceilings) {
    console.log(
      `Two trainings of half the batch side by side that exchange nothing, ${model}: ${
        gain.toFixed(2)
      }x one after the other`,
    );
  }
  if (pairs.length > 0) console.log(`\n${deterministicTable(pairs)}`);
  if (repeated + disturbed > 0) {
    console.log(`\n${repeated} turns were measured again and ${disturbed} kept although other processes were busy.`);
  }

  const samples = samplesOf(measured, processors.length, software);
  const fitted = samples.some((sample) => sample.devices > 1) ? fitModel(samples) : undefined;
  const simulated: object[] = [];
  if (fitted !== undefined) {
    console.log(`\nA model of the step, fitted to the virtual devices above:\n${describeModel(fitted)}`);
    console.log(
      `\nSIMULATED, not measured: steps by this model on GPUs of ${options.tflops} TFLOP/s with links of ${options.link} GB/s each,` +
        ` and the host as above; nothing overlaps, updates are free.`,
    );
    for (const model of chosen) {
      const work = samples.find((sample) => sample.model === model.name)!;
      const { link, tflops } = options;
      const copies = copyRate(work.gradientBytes);
      const steps = simulatedGpus.map((gpus) => simulate(fitted, work, { gpus, link, tflops }, copies));
      simulated.push({ model: model.name, link, tflops, copyRate: copies, steps });
      console.log(`\n${simulationTable(`${model.name}, batch of ${model.rows}`, steps)}`);
    }
  }
  if (options.everything) {
    const record = {
      measured,
      sideBySide: ceilings,
      deterministic: pairs,
      disturbed: { repeated, kept: disturbed },
      model: fitted,
      simulated,
    };
    console.log(`\nSaved ${await save(description, record, options)}`);
  } else console.log("\nNot saved: a part of the measurements.");
  setDefaultDevice(undefined);
  for (const device of [whole, ...virtual]) device.close();
}

/** The adapter as one device, and virtual devices of it: at least two, as a single one would be the whole adapter. */
async function open(options: ScalingOptions): Promise<{ whole: Device; virtual: readonly Device[] }> {
  const common = {
    kind: "gpu" as const,
    ...(options.adapter === undefined ? {} : { name: options.adapter }),
    ...(deno === undefined ? {} : { runtime: "dawn" as const }),
  };
  const [whole] = await devices(common);
  if (whole === undefined) throw new Error("no GPU device");
  return { whole, virtual: await devices({ ...common, virtual: Math.max(2, ...options.devices) }) };
}

function samplesOf(measured: readonly Measured[], processors: number, software: boolean): Sample[] {
  return measured.filter(({ configuration }) => configuration !== wholeName).map((entry) => {
    const model = models.find(({ name }) => name === entry.model)!;
    const width = model.shape.reduce((a, b) => a * b, 1);
    return {
      model: entry.model,
      devices: entry.devices,
      atOnce: software ? Math.min(entry.devices, processors) : 1,
      flops: model.rows * model.flopsPerRow,
      batchBytes: 4 * model.rows * (width + 1),
      gradientBytes: 4 * entry.parameters,
      bytesRead: entry.bytesRead,
      phases: entry.phases,
    };
  });
}

async function save(adapter: string, record: object, options: ScalingOptions): Promise<string> {
  const name = adapter.toLowerCase().replace(/[^a-z0-9.]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 60);
  const folder = new URL("./results/", import.meta.url);
  await mkdir(folder, { recursive: true });
  const machine = { cpu: cpus()[0]?.model, cores: cpus().length, runtime };
  const content = { adapter, date: new Date().toISOString(), seconds: options.seconds, machine, ...record };
  const file = `scaling-${name}${deno === undefined ? "" : "-deno"}.json`;
  await writeFile(new URL(file, folder), JSON.stringify(content, null, 2) + "\n");
  return `bench/results/${file}`;
}

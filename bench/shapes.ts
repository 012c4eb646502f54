/**
 * What a new batch size costs, with an empty cache of the driver:
 *
 *   npm run bench:shapes
 *
 * First steps of a 784-64-10 network for one size after the other: under `compile`, and by a trainer on three devices of one
 * adapter; then the same with kernels for each size (a function, and a trainer, of its own for each). And how much longer
 * kernels for all sizes run than those for one.
 */
import { spawnSync } from "node:child_process";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { compile, devices, grad, nn, optim, random, setDefaultDevice, type Tensor, tensor } from "../src/index.ts";

const sizes = [128, 43, 42, 32, 41, 33, 65, 66, 96] as const;
const batches = [128, 96, 100, 90, 128] as const;
const modes = ["shared", "each"] as const;
type Mode = typeof modes[number];

/** Milliseconds of each first step. */
interface Measured {
  readonly compiled: readonly number[];
  readonly trained: readonly number[];
}

const asked = process.argv[2];
if (asked === undefined) report();
else console.log(JSON.stringify(asked === "ratio" ? await ratios() : await measure(asked as Mode)));

function report(): void {
  const [shared, each] = modes.map((mode) => inAProcessOfItsOwn<Measured>(mode)) as [Measured, Measured];
  const row = (name: string, values: readonly (string | number)[]) =>
    console.log(`| ${[name, ...values].map((x) => String(x).padStart(6)).join(" | ")} |`);
  const seconds = (values: readonly number[]) => values.map((milliseconds) => (milliseconds / 1000).toFixed(2));
  console.log("\nFirst step of a compiled function, in seconds, by rows:");
  row("rows", sizes);
  row("shared", seconds(shared.compiled));
  row("each", seconds(each.compiled));
  console.log("\nFirst step of a trainer on three devices, in seconds, by rows:");
  row("rows", batches);
  row("shared", seconds(shared.trained));
  row("each", seconds(each.trained));
  console.log("\nTime of a product by kernels for all sizes, by that of its own kernel:");
  for (const [name, ratio] of Object.entries(inAProcessOfItsOwn<Record<string, number>>("ratio"))) {
    console.log(`${name}: ${ratio.toFixed(2)}`);
  }
}

function inAProcessOfItsOwn<T>(mode: Mode | "ratio"): T {
  const file = fileURLToPath(import.meta.url);
  const args = process.versions["deno"] === undefined
    ? ["--import", "tsx", file, mode]
    : ["run", "-A", "--no-check", file, mode];
  const environment = { ...process.env, SHARDWISE_CACHE: "0", MESA_SHADER_CACHE_DISABLE: "true" };
  const { stdout, stderr, status } = spawnSync(process.execPath, args, { env: environment, encoding: "utf8" });
  if (status !== 0) throw new Error(`${mode}: ${stderr}`);
  return JSON.parse(stdout.trim().split("\n").at(-1)!) as T;
}

function batch(rows: number): { x: Tensor; y: Tensor } {
  return {
    x: tensor(Float32Array.from({ length: rows * 784 }, (_, i) => Math.sin(i)), { shape: [rows, 784] }),
    y: tensor(Int32Array.from({ length: rows }, (_, i) => i % 10), { shape: [rows] }),
  };
}

function network() {
  random.seed(1);
  return nn.sequential(nn.linear(784, 64), nn.relu(), nn.linear(64, 10));
}

async function measure(mode: Mode): Promise<Measured> {
  const three = await devices({ kind: "gpu", virtual: 3 });
  setDefaultDevice(three[0]);
  const timed = async (step: () => Promise<unknown>) => {
    const start = performance.now();
    await step();
    return performance.now() - start;
  };
  const inTurn = async <Step>(
    rows: readonly number[],
    make: () => Step,
    run: (step: Step, rows: number) => Promise<unknown>,
  ) => {
    let step = make();
    const all: number[] = [];
    for (const count of rows) {
      if (mode === "each") step = make();
      const used = step;
      all.push(await timed(() => run(used, count)));
    }
    return all;
  };
  const compiled = await inTurn(sizes, () => {
    const model = network();
    return compile((x: Tensor, y: Tensor) => {
      const loss = nn.crossEntropy(model.forward(x), y).mean;
      return [loss, ...grad(loss, model.parameters())];
    });
  }, async (step, rows) => {
    const { x, y } = batch(rows);
    await (await step(x, y))[0]!.item();
  });
  const trained = await inTurn(batches, () =>
    nn.trainer(network(), {
      loss: (output, { y }: { x: Tensor; y: Tensor }) => nn.crossEntropy(output, y),
      optimizer: optim.nadam({ learningRate: 2e-3 }),
      devices: three,
    }), (train, rows) => train.step(batch(rows)));
  return { compiled, trained };
}

async function ratios(): Promise<Record<string, number>> {
  const [device] = await devices({ kind: "gpu" });
  setDefaultDevice(device);
  const result: Record<string, number> = {};
  for (
    const [m, k, n, other] of [[128, 784, 64, 256], [4096, 288, 64, 2048], [1024, 1024, 1024, 512], [
      43,
      784,
      64,
      42,
    ]] as const
  ) {
    random.seed(1);
    const [w, x] = [random.normal([k, n]), random.normal([m, k])];
    const product = async (before?: number) => {
      const f = compile((x: Tensor) => x.matmul(w));
      if (before !== undefined) await (await f(random.normal([before, k]))).data();
      await (await f(x)).data();
      return async () => {
        const start = performance.now();
        for (let i = 0; i < 5; i++) await f(x);
        await device!.sync();
        return performance.now() - start;
      };
    };
    const [own, generic] = [await product(), await product(other)];
    const times: [number[], number[]] = [[], []];
    for (let i = 0; i < 25; i++) {
      times[0].push(await own());
      times[1].push(await generic());
    }
    const [ofOwn, ofGeneric] = times.map((all) => all.sort((a, b) => a - b)[all.length >> 1]!) as [number, number];
    result[`${m}x${k}x${n}, after ${other} rows`] = ofGeneric / ofOwn;
  }
  return result;
}

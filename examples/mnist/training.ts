import { createHash } from "node:crypto";
import { data, type Device, nn, optim, parallel, random, setDefaultDevice } from "../../src/index.ts";
import type { Digits } from "./data.ts";
import type { Kill, OptimizerName, Options } from "./options.ts";

/** The optimizers and how the report names them. */
export const optimizers = {
  sgd: { make: () => optim.sgd({ learningRate: 0.1 }), text: "sgd, learning rate 0.1" },
  adam: { make: () => optim.adam({ learningRate: 1e-3 }), text: "adam, learning rate 0.001" },
  adamw: { make: () => optim.adamw({ learningRate: 1e-3 }), text: "adamw, learning rate 0.001" },
  nadam: { make: () => optim.nadam({ learningRate: 2e-3 }), text: "nadam, learning rate 0.002" },
} satisfies Record<OptimizerName, { make: () => optim.Optimizer; text: string }>;

/** The logical shards of a run: see `Options`. Devices of different models cannot give the same bits. */
export function shardsOn(devices: readonly Device[], { shards }: Pick<Options, "shards">): number {
  if (shards !== undefined) return shards;
  const models = new Set(devices.map(({ kind, info, target }) => JSON.stringify([kind, info, target])));
  return devices.length > 1 && models.size === 1 ? devices.length : 0;
}

export interface TrainingOptions extends Omit<Options, "devices" | "kind" | "limit"> {
  readonly devices: readonly Device[];
  readonly train: Digits;
  readonly test: Digits;
  readonly progress?: nn.ProgressStyle;
  /** Told of a device when the others have done what it left. */
  readonly onLost?: (event: parallel.DeviceLost) => void;
}

export interface Training {
  readonly history: nn.History;
  /** SHA-256 of all weights, as hexadecimal digits: see `weightsHash`. */
  readonly hash: string;
}

/** Trains the perceptron on the devices, of which those in `kills` are lost on the way. */
export async function trainPerceptron(options: TrainingOptions): Promise<Training> {
  const { devices, train, test, batchSize, seed, kills, onLost } = options;
  const shards = shardsOn(devices, options);
  setDefaultDevice(devices[0]); // where the first weights are computed
  random.seed(seed);
  const model = nn.sequential(nn.linear(784, 64), nn.relu(), nn.linear(64, 10));
  const trainer = nn.trainer(model, {
    forward: (m, batch) => m.forward(batch.x),
    loss: (output, batch) => nn.crossEntropy(output, batch.y),
    metrics: { accuracy: (output, batch) => nn.accuracy(output, batch.y) },
    optimizer: optimizers[options.optimizer].make(),
    devices,
    seed,
    ...shards > 0 ? { deterministic: { shards } } : {},
  });
  trainer.on("deviceLost", (event) => {
    setDefaultDevice(devices.find((device) => !device.isLost));
    onLost?.(event);
  });
  const history = await trainer.fit(new Killing(batches(train, batchSize, seed), kills, devices), {
    epochs: options.epochs,
    validation: batches(test, batchSize, false),
    progress: options.progress ?? "auto",
  });
  return { history, hash: await weightsHash(model) };
}

/** The bytes of all weights as a safetensors file has them: parameter by parameter in the order of their names, f32. */
async function weightsHash(model: nn.Module): Promise<string> {
  const hash = createHash("sha256");
  const state = Object.entries(model.stateDict()).sort(([a], [b]) => a < b ? -1 : 1);
  for (const [, weights] of state) {
    const { buffer, byteOffset, byteLength } = await weights.data();
    hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  }
  return hash.digest("hex");
}

function batches(digits: Digits, batchSize: number, shuffle: number | false): data.Batches<"x" | "y"> {
  const x = data.array(digits.images, { shape: [digits.count, 784], scale: 1 / 255 });
  const y = data.array(digits.labels, { dtype: "i32" });
  return data.batches({ x, y }, { batchSize, shuffle });
}

/** Batches that close devices on their way: a trainer asks for the next batch while the step of this one is in progress. */
class Killing implements Iterable<data.HostBatch<"x" | "y">> {
  readonly length: number;
  readonly rows: number;
  readonly #source: data.Batches<"x" | "y">;
  readonly #kills: readonly Kill[];
  readonly #devices: readonly Device[];
  #step = 0;

  constructor(source: data.Batches<"x" | "y">, kills: readonly Kill[], devices: readonly Device[]) {
    this.#source = source;
    this.length = source.length;
    this.rows = source.rows;
    this.#kills = kills;
    this.#devices = devices;
  }

  *[Symbol.iterator](): Generator<data.HostBatch<"x" | "y">> {
    for (const batch of this.#source) {
      yield batch;
      this.#step++;
      for (const { device, step } of this.#kills) if (step === this.#step) this.#devices[device - 1]!.close();
    }
  }
}

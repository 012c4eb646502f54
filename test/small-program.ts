/**
 * A program for permissions.test.ts and quiet.test.ts: does what its arguments name, one after the other, and prints what came
 * of each: what it gave, or the name of the error.
 */
import process from "node:process";
import { plansKept } from "../src/compiler/cache.ts";
import {
  defaultDevice,
  type DeviceOptions,
  devices,
  io,
  nn,
  optim,
  random,
  setDefaultDevice,
  tensor,
} from "../src/index.ts";

const model = nn.sequential(nn.linear(4, 64), nn.gelu(), nn.linear(64, 64), nn.gelu(), nn.linear(64, 2));

/** The first device as asked for is the default one from then on. */
async function use(options: DeviceOptions): Promise<string> {
  const [device] = await devices({ ...options, virtual: 1 });
  setDefaultDevice(device);
  return `${device!.kind} ${device!.info.runtime}`;
}

const does: Readonly<Record<string, (path: string) => Promise<unknown>>> = {
  cpu: () => use({ kind: "cpu" }),
  gpu: () => use({ kind: "gpu" }),
  dawn: () => use({ kind: "gpu", runtime: "dawn" }),
  device: async () => (await defaultDevice()).kind,
  list: async () => (await devices()).length > 0,
  math: async () => await tensor([[1, 2], [3, 4]]).matmul(tensor([1, 1])).array(),
  train: async () => {
    const trainer = nn.trainer(model, {
      loss: (output, batch) => nn.crossEntropy(output, batch.y),
      optimizer: optim.adam(),
      devices: [await defaultDevice()],
    });
    const { loss } = await trainer.step({ x: random.normal([8, 4]), y: tensor([0, 1, 0, 1, 0, 1, 0, 1]).cast("i32") });
    await plansKept();
    return Number.isFinite(loss);
  },
  save: async (path) => await io.save(path, model).then(() => "saved"),
  load: async (path) => Object.keys(await io.load(path)).length > 0,
  resident: async () => {
    const [device] = await devices({ kind: "cpu" });
    try {
      device!.alloc(3 * 2 ** 30);
      return "more than 2 GiB";
    } catch (error) {
      return (error as Error).name;
    }
  },
};

for (const word of process.argv.slice(2)) {
  const [name = "", path = ""] = word.split("=");
  try {
    console.log(`${name}: ${JSON.stringify(await does[name]!(path))}`);
  } catch (error) {
    console.log(`${name}: ${(error as Error).name}: ${(error as Error).message}`);
  }
}

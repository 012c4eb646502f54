/**
 * A program for devices-process.test.ts: gives up a GPU that is busy and comes to its end, with another one left open. Arguments:
 * whose WebGPU it is (`dawn` or `deno`); to what its kernel counts, 0: it never ends; what waits for it (`nothing`, `read`,
 * `sync`, `load`, `profile`, or `step`: a trainer with `stepTimeout`); how the program ends (`end`, `code`: with an exit code of 3, or
 * `throw`); and, with `eager`, that Dawn polls as it does for hardware.
 */
import process from "node:process";
import { setDefaultDevice } from "../src/devices/default.ts";
import { pollFor } from "../src/devices/device/polling.ts";
import { abandonDevice } from "../src/devices/loss.ts";
import { type Device, devices, nn, optim, profile, tensor } from "../src/index.ts";
import { affine, chain, counting, inPlace } from "./tiny-plans.ts";

const [runtime, count, waiting, ending, manner] = process.argv.slice(2);

let polls = 0;
const { setImmediate: original } = globalThis;
globalThis.setImmediate = ((callback: (...args: unknown[]) => void, ...args: unknown[]) => {
  polls++;
  return original(callback, ...args);
}) as typeof setImmediate;
if (manner === "eager") pollFor(false);

const [alive, busy] = await devices({ kind: "gpu", virtual: 2, runtime: runtime as "dawn" | "deno" }) as [
  Device,
  Device,
];
setDefaultDevice(alive);

/** Lets a device count, and gives what it counts in, and how to go on. */
async function countOn(device: Device, end: number) {
  const executable = await device.load(inPlace(counting(), 16));
  const x = device.alloc(16);
  device.write(x, Uint32Array.of(0, 0, end, 0));
  await device.sync();
  const again = () => device.run(executable, [x], [x]);
  again();
  await Promise.resolve(); // It is submitted.
  return { x, again };
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const rounds = 2e7;
// Devices of Deno's own share an instance, which waits for all of them.
const counted = runtime === "dawn" ? alive.read((await countOn(alive, rounds)).x) : undefined;
const { x, again } = await countOn(busy, Number(count));
if (waiting === "step") {
  const model = nn.sequential(nn.linear(2, 2));
  const trainer = nn.trainer(model, {
    loss: (output, batch) => nn.mse(output, batch.y),
    optimizer: optim.sgd({ learningRate: 0.1 }),
    devices: [alive, busy],
    stepTimeout: 3000,
  });
  trainer.on("deviceLost", ({ device, reason }) => console.log(`told ${device} ${reason}`));
  const batch = tensor([[1, 2], [3, 4], [5, 6], [7, 8]]);
  await trainer.step({ x: batch, y: batch });
} else {
  const works: Record<string, () => Promise<unknown>> = {
    read: () => busy.read(x),
    sync: () => busy.sync(),
    load: () => busy.load(chain([affine("wgsl", 10, 7, 7)], 10)),
    profile: () => profile(() => (again(), pause(100)), { warmup: 0, clock: "wall" }),
  };
  const told = works[waiting!]?.().then(() => "done", (error: Error) => error.name);
  // What waits for the GPU waits for good; a kernel may be compiled by then.
  if (told !== undefined && waiting !== "load") await pause(50);
  const before = performance.now();
  abandonDevice(busy, "planned");
  console.log(`gave up in ${Math.round(performance.now() - before)} ms`);
  console.log(`told ${await told}`);
}
// Nothing but this wait keeps the process from ending.
if (counted !== undefined) console.log(`counted ${new Uint32Array(await counted)[1] === rounds}`);
if (counted !== undefined) console.log(`result ${await tensor([1, 2, 3]).mul(2).data()}`);
await pause(100);
polls = 0;
await pause(300);
console.log(`polls ${polls}`);
process.on("exit", (code) => console.log(`exit ${code} at ${Date.now()}`));
if (ending === "code") process.exitCode = 3;
if (ending === "throw") {
  setTimeout(() => {
    throw new Error("planned");
  }, 10);
}
process.on("never", () => console.log(busy, x)); // They are held to the end.

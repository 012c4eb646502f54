/**
 * A program for training-process.test.ts. `hang`: a kernel that never ends on one of three GPUs. `overlap`: training steps
 * on two GPUs, whose trace is looked at.
 */
import process from "node:process";
import type { Plan } from "../src/compiler/plan/plan.ts";
import { data, type Device, devices, nn, optim, random } from "../src/index.ts";

const [manner] = process.argv.slice(2);
const open = (virtual: number) => devices({ kind: "gpu", virtual, runtime: "dawn" });

function trainer(
  used: readonly Device[],
  width: number,
  options: { stepTimeout?: number; deterministic?: { shards: number } },
) {
  random.seed(4);
  const hidden = [nn.linear(width, width), nn.tanh(), nn.linear(width, width), nn.tanh()];
  const model = nn.sequential(nn.linear(8, width), nn.tanh(), ...hidden, nn.linear(width, 8));
  return nn.trainer(model, {
    loss: (output, batch) => nn.crossEntropy(output, batch.y),
    optimizer: optim.sgd({ learningRate: 0.1 }),
    devices: used,
    seed: 4,
    ...options,
  });
}

function batchOf(rows: number) {
  return {
    x: data.array(Float32Array.from({ length: rows * 8 }, (_, i) => Math.sin(i)), { shape: [rows, 8] }),
    y: data.array(Int32Array.from({ length: rows }, (_, i) => (i * 5) % 8), { dtype: "i32" }),
  };
}

/** A plan of one kernel that goes on for as long as the element is not 1, which nobody makes it. */
const endless: Plan = {
  programs: [{
    key: "endless",
    name: "endless",
    language: "wgsl",
    source: `@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@compute @workgroup_size(1)
fn main() { loop { if (x[0] == 1u) { break; } x[0] = (x[0] * 1664525u + 2u) & 0xfffffffeu; } }`,
    bindings: [{ access: "readWrite", dtype: "u32" }],
    workgroups: [1, 1, 1],
    invocations: 1,
    flops: 0,
    bytes: 4,
  }],
  steps: [{ kind: "dispatch", program: 0, slots: [0] }],
  slots: [{ bytes: 4 }],
  inputs: [0],
  outputs: [0],
  temporaries: [],
};

async function hang(): Promise<void> {
  const [one, two, three] = await open(3) as [Device, Device, Device];
  const deterministic = { shards: 6 };
  const steps = 4;
  const undisturbed = trainer([one], 16, { deterministic });
  for (let step = 0; step < steps; step++) await undisturbed.step(batchOf(20));
  const disturbed = trainer([one, two, three], 16, { deterministic });
  // Kernels are compiled before the clock runs.
  await disturbed.step(batchOf(20));
  const timed = trainer([one, two, three], 16, { deterministic, stepTimeout: 2000 });
  for (let step = 0; step < steps; step++) {
    if (step === 2) {
      const executable = await two.load(endless);
      const x = two.alloc(4);
      two.write(x, Uint32Array.of(4));
      two.run(executable, [x], [x]);
      two.read(x).catch(() => {}); // Submits it.
    }
    await timed.step(batchOf(20));
  }
  console.log(`same bits ${await timed.checksum() === await undisturbed.checksum()}`);
  console.log(JSON.stringify(timed.history.events));
  // The driver never comes back from that kernel, so that leaving in order would wait for it.
  process.kill(process.pid, "SIGKILL");
}

async function overlap(): Promise<void> {
  const used = await open(2);
  const training = trainer(used, 1200, {}); // Its gradient leaves in two buckets of 6 MB.
  for (let step = 0; step < 3; step++) await training.step(batchOf(128));
  console.log(`devices ${used.map(({ name }) => name).join(" ")}`);
}

await (manner === "hang" ? hang() : overlap());

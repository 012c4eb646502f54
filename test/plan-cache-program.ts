/** A program for plan-cache.test.ts: trains a little on a device of a kind and prints the losses. */
import process from "node:process";
import {
  compile,
  devices,
  grad,
  nn,
  optim,
  random,
  setDefaultDevice,
  type Tensor,
  tensor,
  zeros,
} from "../src/index.ts";
import { plansKept } from "../src/compiler/cache.ts";

const [device] = await devices({ kind: process.argv[2] === "gpu" ? "gpu" : "cpu", virtual: 1 });
setDefaultDevice(device);
random.seed(5);
const model = nn.sequential(nn.linear(12, 16), nn.tanh(), nn.layerNorm(16), nn.linear(16, 3));
const optimizer = optim.adam({ learningRate: 0.01 }).bind(model.parameters());
const step = compile((x: Tensor, y: Tensor) => {
  const loss = nn.crossEntropy(model.forward(x), y).mean;
  optimizer.step(grad(loss, model.parameters()));
  return loss;
});
const x = tensor(Float32Array.from({ length: 20 * 12 }, (_, i) => Math.sin(i * i)), { shape: [20, 12] });
const y = zeros([20], { dtype: "i32" });
const losses: number[] = [];
for (let i = 0; i < 4; i++) losses.push(await (await step(x, y)).item());
await plansKept();
console.log(`losses ${losses.join()}`);
device?.close();

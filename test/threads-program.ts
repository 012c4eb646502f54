/**
 * A program for devices-process.test.ts: opens, uses and ends GPUs again and again, and prints how many threads the process
 * has after each round. Arguments: how they end (`close`, `lose` or `abandon`), and how many there are at a time.
 */
import { readdirSync } from "node:fs";
import process from "node:process";
import { abandonDevice, simulateLoss } from "../src/devices/loss.ts";
import { collectGarbage, nextTurn } from "../src/host/host.ts";
import { type Device, devices, type Tensor, tensor } from "../src/index.ts";

const [how, virtual] = process.argv.slice(2);
/** What a program may go on to hold of devices that have ended. */
const kept: (Device | Tensor)[] = [];

for (let round = 0; round < 8; round++) {
  for (const device of await devices({ kind: "gpu", virtual: Number(virtual), runtime: "dawn" })) {
    const x = tensor(new Float32Array(5000).fill(1), { device });
    const y = x.mul(round + 2).add(1);
    await y.data();
    y.exp().sum().data().catch(() => {}); // It is under way when the device ends.
    if (how === "close") device.close();
    else if (how === "lose") simulateLoss(device, "planned");
    else abandonDevice(device, "planned");
    kept.push(device, x, y);
  }
  for (let i = 0; i < 5; i++) {
    collectGarbage();
    await nextTurn();
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
  console.log(`threads ${readdirSync("/proc/self/task").length}`);
}
console.log(`kept ${kept.length}`);
process.exit(0);

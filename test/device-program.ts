/** A program for devices-process.test.ts: runs a kernel on a device of a kind and leaves the device open, busy or closed. */
import process from "node:process";
import { defaultDevice, devices } from "../src/devices/index.ts";
import { increment, inPlace } from "./tiny-plans.ts";

const [kind, manner] = process.argv.slice(2);
const found = kind === "cpu" || kind === "gpu" ? await devices({ kind, virtual: 2 }) : await devices();
if (kind !== "cpu" && kind !== "gpu") await defaultDevice();
const [device] = found;
if (device === undefined) throw new Error("no device");
console.log(`device ${device.name}`);
const executable = await device.load(inPlace(increment(device.target.language, 4), 16));
const x = device.alloc(16);
device.write(x, Uint32Array.of(4, 4, 4, 4));
device.run(executable, [x], [x]);
console.log(`result ${new Uint32Array(await device.read(x))[0]}`);
if (manner === "busy") device.run(executable, [x], [x]);
if (manner === "closed") { for (const each of found) each.close(); }

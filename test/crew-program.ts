/** Computes on threads of the cpu device until they have helped, and then leaves them as they are: `open`, `busy` or `closed`. */
import process from "node:process";
import { crewOfProcess } from "../src/devices/cpu/crew.ts";
import { devices, random } from "../src/index.ts";

const [how, count] = process.argv.slice(2);
const [device] = await devices({ kind: "cpu", threads: Number(count) });
const a = random.normal([512, 512]).to(device!);
const crew = crewOfProcess();
for (let runs = 0; (crew.helped === 0 || crew.size < Number(count) - 1) && runs < 2000; runs++) {
  await a.matmul(a).realize();
}
console.log(`threads ${crew.size}, helped ${crew.helped > 0}`);
if (how === "busy") { for (let i = 0; i < 20; i++) void a.matmul(a).add(i).realize(); }
if (how === "closed") device!.close();

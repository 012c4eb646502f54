/** Adds twenty entries, named by the argument, to the table of an adapter. */
import process from "node:process";
import { registerTile } from "../src/compiler/plan/contraction-schedules.ts";
import { addTuned, emptyTable } from "../src/compiler/tuned.ts";

const [name] = process.argv.slice(2);
let table = emptyTable;
for (let i = 0; i < 20; i++) {
  table = await addTuned("shared", { schedules: { [`${name}${i}`]: registerTile(4) }, best: i }, table);
}

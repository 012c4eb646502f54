/** A program for io.test.ts: saves to a path, `times` over or until it stops where the file would take its place. */
import fs from "node:fs";
import process from "node:process";
import { io, tensor } from "../src/index.ts";

const [path = "", what = "", value = "0"] = process.argv.slice(2);
const content = { x: tensor(new Float32Array(20_000).fill(Number(value))) };

if (what === "die" || what === "wait") {
  const { rename } = fs.promises;
  fs.promises.rename = async (from, to) => {
    console.log("written");
    if (what === "die") process.kill(process.pid, "SIGKILL");
    await new Promise((resolve) => process.stdin.once("data", resolve));
    await rename(from, to);
  };
  await io.save(path, content);
} else {
  for (let i = 0; i < Number(what); i++) await io.save(path, content);
}
process.exit(0);

/**
 * `npm run check:package`: packs the package as `npm pack` of a fresh clone does, installs it in a folder of its own, and uses it there
 * as its users do: a program in Node and in Deno, another one through the type checker. Then publint and attw look at it.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const project = fileURLToPath(new URL("..", import.meta.url));
const bin = (name: string) => join(project, "node_modules/.bin", name);

const program = `
import { data, devices, nn, optim, random, tensor } from "shardwise";
random.seed(1);
const model = nn.sequential(nn.linear(2, 8), nn.tanh(), nn.linear(8, 1));
const trainer = nn.trainer(model, {
  loss: (output, batch) => nn.mse(output, batch.y),
  optimizer: optim.adam({ learningRate: 0.05 }),
  devices: await devices({ kind: "cpu", virtual: 3 }),
});
const source = data.batches({ x: [[0, 0], [0, 1], [1, 0], [1, 1]], y: [[0], [1], [1], [0]] }, { batchSize: 4 });
const { epochs } = await trainer.fit(source, { epochs: 100, progress: "none" });
if (!(epochs[99]!.loss < 0.05)) throw new Error(String(epochs[99]!.loss));
console.log(await tensor([1, 2]).add(1).array());
`;

async function run(command: string, args: readonly string[], cwd: string): Promise<string> {
  const { stdout, stderr } = await promisify(execFile)(command, args, { cwd, maxBuffer: 2 ** 26 }).catch(
    (error: { stdout: string; stderr: string }) => {
      throw new Error(`${command} ${args.join(" ")}\n${error.stdout}${error.stderr}`);
    },
  );
  process.stderr.write(stderr);
  return stdout.trim();
}

const folder = await mkdtemp(join(tmpdir(), "shardwise-check-package-"));
try {
  // What an earlier build left is not what a fresh clone has.
  await rm(join(project, "dist"), { recursive: true, force: true });
  await run("npm", ["pack", "--pack-destination", folder], project);
  const [tarball] = (await readdir(folder)).filter((name) => name.endsWith(".tgz"));
  if (tarball === undefined) throw new Error("npm pack made nothing");
  await writeFile(join(folder, "package.json"), JSON.stringify({ name: "user", private: true, type: "module" }));
  await run("npm", ["install", "--no-audit", "--no-fund", "--prefer-offline", `./${tarball}`], folder);
  await writeFile(join(folder, "program.ts"), program);
  await writeFile(join(folder, "program.mjs"), program.replaceAll("]!.", "]."));
  const expected = "[ 2, 3 ]";
  const runs: Record<string, string> = { Node: await run(process.execPath, ["program.mjs"], folder) };
  if (existsSync(bin("deno"))) runs["Deno"] = await run(bin("deno"), ["run", "program.mjs"], folder);
  for (const [runtime, printed] of Object.entries(runs)) {
    if (printed !== expected) throw new Error(`${runtime} printed ${printed}`);
  }
  await run(bin("tsc"), [
    "--noEmit",
    "--strict",
    "--noUncheckedIndexedAccess",
    "--exactOptionalPropertyTypes",
    "--module",
    "nodenext",
    "--target",
    "es2023",
    "program.ts",
  ], folder);
  console.log(`${tarball}: installed, ran in ${Object.keys(runs).join(" and ")}, passed the type checker`);
  console.log(await run(bin("publint"), ["--strict", join(folder, tarball)], project));
  console.log(await run(bin("attw"), [join(folder, tarball), "--profile", "esm-only"], project));
} finally {
  await rm(folder, { recursive: true, force: true });
}

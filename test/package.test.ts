/** What the package ships: one module, which starts without loading what a program may not need. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { stop } from "esbuild";
import { bundle } from "../scripts/bundle.ts";

const run = promisify(execFile);

const program = (url: string) => `
const { compile, devices, nn, optim, setDefaultDevice, tensor } = await import(${JSON.stringify(url)});
const [device] = await devices({ kind: "cpu" });
setDefaultDevice(device);
const model = nn.sequential(nn.linear(4, 8), nn.relu(), nn.linear(8, 3));
const trainer = nn.trainer(model, {
  loss: (output, batch) => nn.crossEntropy(output, batch.y),
  optimizer: optim.adam({ learningRate: 1e-2 }),
  devices: [device],
});
await trainer.step({ x: tensor(new Float32Array(8), { shape: [2, 4] }), y: tensor([0, 2], { dtype: "i32" }) });
const twice = compile((x) => x.mul(2).add(1));
console.log(JSON.stringify(await (await twice(tensor([1, 2]))).array()));
`;

/** Runs a module's text in this runtime; gives what it prints. */
async function evaluate(text: string, env: Record<string, string | undefined>): Promise<string> {
  const args = "Deno" in globalThis ? ["eval", "--ext=js", text] : ["--input-type=module", "-e", text];
  return (await run(process.execPath, args, { env })).stdout.trim();
}

test("the package is one module, runs as such, and keeps plans", async () => {
  const folder = await mkdtemp(join(tmpdir(), "shardwise-package-"));
  try {
    const file = join(folder, "index.mjs");
    const { outputs } = await bundle(file);
    const scripts = Object.entries(outputs).filter(([name]) => name.endsWith(".mjs"));
    assert.equal(scripts.length, 1);
    const [[, { imports, bytes }]] = scripts as [typeof scripts[number]];
    assert.ok(imports.every(({ kind }) => kind === "dynamic-import"), "nothing is loaded until it is needed");
    assert.deepEqual(imports.map(({ path }) => path).sort(), ["cli-progress", "webgpu"]);
    assert.ok(bytes < 1_200_000, `${bytes} bytes`);
    const plans = join(folder, "plans");
    const env = { ...process.env, SHARDWISE_CACHE: plans };
    for (let start = 0; start < 2; start++) {
      assert.equal(await evaluate(program(pathToFileURL(file).href), env), "[3,5]");
    }
    // As in a page that is not isolated from others.
    assert.equal(
      await evaluate(`delete globalThis.SharedArrayBuffer; ${program(pathToFileURL(file).href)}`, env),
      "[3,5]",
    );
    assert.ok((await readdir(plans)).some((name) => name.endsWith(".plan")), "plans are kept");
    // What a runtime shows of an error that nobody catches: the line that threw, the message, the stack.
    const wrong = `import { tensor } from ${JSON.stringify(pathToFileURL(file).href)}; tensor([[1, 2]]).sum(1);`;
    await assert.rejects(evaluate(wrong, { ...env, NO_COLOR: "1" }), ({ stderr }: { readonly stderr: string }) => {
      assert.match(stderr, /ArgumentError: sum: got 1 as options; .*did you mean \{ axis: 1 \}/);
      assert.match(stderr, /at Tensor\.sum /);
      assert.ok(stderr.length < 3000, `${stderr.length} characters`);
      return true;
    });
  } finally {
    await stop();
    await rm(folder, { recursive: true, force: true });
  }
});

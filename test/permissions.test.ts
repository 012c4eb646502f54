/**
 * What Deno's permissions add, each row of the table in docs/running.md in processes of their own. Deno notes what is asked of
 * it: what a program is not permitted it may not even try, as Deno would then ask its user.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { runtime } from "../src/host/host.ts";
import { withFolder } from "./folder.ts";
import { testDevice, testKinds } from "./harness.ts";

const project = fileURLToPath(new URL("..", import.meta.url));
const source = join(project, "src");
const program = fileURLToPath(new URL("small-program.ts", import.meta.url));
const killed = fileURLToPath(new URL("io-program.ts", import.meta.url));
/** Starts Deno from Node: Deno gives programs that it starts all permissions. */
const deno = join(project, "node_modules/deno/bin.cjs");

interface Ran {
  /** What came of each word, by its name. */
  readonly results: Readonly<Record<string, string>>;
  readonly stderr: string;
  /** What was asked for, by kind. */
  readonly asked: readonly string[];
}

/** Runs the program in a folder, with these permissions, and asserts that it asked for no others. */
function run(
  folder: string,
  permissions: readonly string[],
  words: readonly string[],
  variables: Record<string, string> = {},
): Ran {
  const audit = join(folder, "audit");
  rmSync(audit, { force: true });
  const { status, stdout, stderr } = spawnSync(process.execPath, [
    deno,
    "run",
    "--no-check",
    ...permissions,
    program,
    ...words,
  ], {
    cwd: project,
    env: { ...process.env, SHARDWISE_CACHE: "", ...variables, DENO_AUDIT_PERMISSIONS: audit },
    encoding: "utf8",
    timeout: 60_000,
  });
  assert.equal(status, 0, stderr);
  const granted = permissions.map((one) => /^--allow-([a-z]+)/.exec(one)![1]!);
  const lines = readFileSync(audit, "utf8").split("\n").filter((line) => line !== "");
  const asked = lines.map((line) => (JSON.parse(line) as { readonly permission: string }).permission);
  if (!granted.includes("all")) assert.deepEqual(asked.filter((one) => !granted.includes(one)), []);
  const results = Object.fromEntries(
    stdout.trim().split("\n").map((line) => line.split(/: (.*)/, 2) as [string, string]),
  );
  return { results, stderr, asked };
}

const hasGpu = testKinds.includes("gpu") && await testDevice("gpu") !== undefined;
const library = join(project, "node_modules/webgpu");

/** By the permission, as the table names it. */
const rows: Readonly<Record<string, (folder: string) => void>> = {
  "none": (folder) => {
    const words = ["cpu", "math", "train", "list", ...(hasGpu ? ["gpu", "math", "train"] : [])];
    const { results } = run(folder, [], words);
    assert.deepEqual(results, {
      cpu: '"cpu none"',
      math: "[3,7]",
      train: "true",
      list: "true",
      ...(hasGpu ? { gpu: '"gpu deno"' } : {}),
    });
  },
  "--allow-ffi": (folder) => {
    assert.match(
      run(folder, [], ["dawn"]).results["dawn"]!,
      /^DeviceError: devices: got .*no permission.*need deno run --allow-ffi/,
    );
    if (!hasGpu) return;
    for (const permission of ["--allow-ffi", `--allow-ffi=${library}`]) {
      const { results, asked } = run(folder, [permission], ["dawn", "math", "train"]);
      assert.deepEqual(results, { dawn: '"gpu dawn"', math: "[3,7]", train: "true" });
      assert.ok(asked.includes("ffi"));
    }
  },
  "--allow-env=SHARDWISE_*": (folder) => {
    const variables = { SHARDWISE_DEBUG: "1" };
    assert.match(run(folder, ["--allow-env=SHARDWISE_*"], ["cpu"], variables).stderr, /cpu:0 is WebAssembly/);
    assert.equal(run(folder, [], ["cpu"], variables).stderr, "");
  },
  "--allow-read=FILE": (folder) => {
    const file = join(folder, "saved/a.safetensors");
    const saved = join(folder, "saved");
    mkdirSync(saved);
    assert.equal(
      run(folder, [`--allow-read=${saved}`, `--allow-write=${saved}`], ["cpu", `save=${file}`]).results["save"],
      '"saved"',
    );
    assert.equal(run(folder, [`--allow-read=${file}`], [`load=${file}`]).results["load"], "true");
    assert.match(run(folder, [], [`load=${file}`]).results["load"]!, /^FileError: .*may not be read/);
    assert.match(run(folder, [], ["load=package.json"]).results["load"]!, /^FileError: .*may not be read/);
  },
  "--allow-read=FOLDER --allow-write=FOLDER": (folder) => {
    const [inside, outside, beside] = [
      join(folder, "new/deep/a.safetensors"),
      join(folder, "a.safetensors"),
      "a.safetensors",
    ];
    const both = [`--allow-read=${join(folder, "new")}`, `--allow-write=${join(folder, "new")}`];
    const { results } = run(folder, both, ["cpu", `save=${inside}`, `load=${inside}`]);
    assert.deepEqual([results["save"], results["load"]], ['"saved"', "true"]);
    for (const permissions of [[], both.slice(0, 1), both.slice(1), both]) {
      for (const path of permissions === both ? [outside, beside] : [inside, outside, beside]) {
        assert.match(run(folder, permissions, ["cpu", `save=${path}`]).results["save"]!, /^FileError: .*may not be/);
      }
    }
    assert.ok(!existsSync(outside) && !existsSync(join(project, beside)));
  },
  "--allow-env --allow-write=PATH": (folder) => {
    const own = join(folder, "own");
    const variables = { SHARDWISE_TRACE: join(own, "deep/trace.json"), SHARDWISE_DUMP: join(own, "dump") };
    const without = run(folder, ["--allow-env"], ["cpu", "math"], variables);
    assert.equal(without.results["math"], "[3,7]");
    assert.deepEqual(without.stderr.match(/no (trace|dump), \S+ cannot be written/g)?.length, 2, without.stderr);
    assert.equal(run(folder, ["--allow-env", `--allow-write=${own}`], ["cpu", "math"], variables).stderr, "");
    assert.ok(existsSync(variables.SHARDWISE_TRACE) && readdirSync(variables.SHARDWISE_DUMP).length > 0);
  },
  "--allow-env --allow-read=CACHE,SOURCE --allow-write=CACHE": (folder) => {
    const cache = join(folder, "plans");
    const all = ["--allow-env", `--allow-read=${cache},${source}`, `--allow-write=${cache}`];
    for (const left of [0, 1, 2]) {
      assert.equal(
        run(folder, all.filter((_, i) => i !== left), ["cpu", "train"], { SHARDWISE_CACHE: cache }).results["train"],
        "true",
      );
      assert.ok(!existsSync(cache));
    }
    assert.equal(run(folder, all, ["cpu", "train"], { SHARDWISE_CACHE: cache }).results["train"], "true");
    assert.ok(readdirSync(cache).length > 0);
  },
  "--allow-sys=systemMemoryInfo": (folder) => {
    assert.equal(run(folder, [], ["resident"]).results["resident"], '"OutOfMemoryError"');
    // On machines of less memory that is no other answer.
    assert.match(
      run(folder, ["--allow-sys=systemMemoryInfo"], ["resident"]).results["resident"]!,
      /more than 2 GiB|OutOfMemoryError/,
    );
  },
  "--allow-all": (folder) => {
    const file = join(folder, "a.safetensors");
    spawnSync(process.execPath, [deno, "run", "-A", "--no-check", killed, file, "die"], { cwd: project });
    const left = () => readdirSync(folder).filter((name) => name.endsWith(".partial")).length;
    assert.equal(left(), 1);
    run(folder, [`--allow-read=${folder}`, `--allow-write=${folder}`], ["cpu", `save=${file}`]);
    assert.equal(left(), 1);
    run(folder, ["--allow-all"], ["cpu", `save=${file}`]);
    if (process.platform === "linux") assert.equal(left(), 0);
  },
};

if (runtime === "node") {
  for (const [permission, holds] of Object.entries(rows)) {
    test(`Deno's permissions: ${permission}`, async (context) => {
      if (!existsSync(deno)) return context.skip("no Deno");
      await withFolder((folder) => Promise.resolve(holds(folder)));
    });
  }
}

test("Deno's permissions: the table has all rows that are tested, and no others", () => {
  const text = readFileSync(join(project, "docs/running.md"), "utf8");
  const table = text.slice(text.indexOf("## Deno's permissions"));
  const named = [...table.matchAll(/^\| (.*?) \|/gm)].map(([, cell]) => cell!.trim().replaceAll("`", "")).filter((
    cell,
  ) => cell !== "permission" && !/^-+$/.test(cell));
  assert.deepEqual(named, Object.keys(rows));
});

/** Plans on disk: found again by what makes them, never for anything else, and made again when they are damaged. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, relative, resolve } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { gradients } from "../src/autograd/grad.ts";
import { compilerSources, planOf, plansKept, structureOf } from "../src/compiler/cache.ts";
import { compileGraph, type CompileRequest } from "../src/compiler/compile.ts";
import { type Flags, readFlags, setFlags } from "../src/debug/flags.ts";
import * as g from "../src/graph/build.ts";
import { makeNode, type Node, toposort } from "../src/graph/node.ts";
import { isElementwise } from "../src/graph/ops.ts";
import { testDevice, testKinds } from "./harness.ts";
import { runOf } from "./programs.ts";
import { randomGraph } from "./random-graph.ts";
import { cpuTarget as target } from "./targets.ts";

/** A folder for plans, while `body` runs with it. */
async function withFolder(body: (folder: string) => Promise<void>, flags: Partial<Flags> = {}): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "shardwise-plans-"));
  setFlags({ ...readFlags(() => undefined), cache: folder, ...flags });
  try {
    await body(folder);
  } finally {
    await plansKept();
    setFlags(undefined);
    await rm(folder, { recursive: true, force: true });
  }
}

/** A graph that is worth a file, of fresh inputs; `rate` is a constant in it. */
function request(rate = 0.1): CompileRequest {
  const [x, w, v] = [g.input([8, 6], "f32"), g.input([6, 5], "f32"), g.input([5], "f32")];
  const expanded = (node: Node, shape: number[], axis: number) =>
    g.expand(g.reshape(node, [...node.shape.slice(0, axis), 1, ...node.shape.slice(axis)]), shape);
  const product = g.reduce("sum", g.elementwise("mul", expanded(x, [8, 6, 5], 2), expanded(w, [8, 6, 5], 0)), [1]);
  let y = g.elementwise("add", product, expanded(v, [8, 5], 0));
  for (let i = 0; i < 6; i++) y = g.elementwise("tanh", g.elementwise("mul", y, y));
  const loss = g.reduce("sum", y, [0, 1]);
  const updated = [w, v].map((p, i) =>
    g.elementwise("sub", p, g.elementwise("mul", gradients([loss], [w, v])[i]!, g.full(p.shape, rate, "f32")))
  );
  return { roots: [loss, ...updated], inputs: [x, w, v], donate: [{ input: 1, output: 1 }, { input: 2, output: 2 }] };
}

/** The same graph with inputs of its own; `change` may give another node for one of it. */
function copied(
  { roots, inputs, donate }: CompileRequest,
  change: (node: Node, src: readonly Node[]) => Node | undefined = () => undefined,
): CompileRequest {
  const now = new Map<Node, Node>(inputs.map((node) => [node, g.input(node.shape, node.dtype)]));
  for (const node of toposort(roots, (node) => !inputs.includes(node))) {
    if (now.has(node)) continue;
    const src = node.src.map((source) => now.get(source)!);
    now.set(node, change(node, src) ?? makeNode(node.op, src, node.attrs, node.shape, node.dtype, node.device));
  }
  return {
    roots: roots.map((node) => now.get(node)!),
    inputs: inputs.map((node) => now.get(node)!),
    ...(donate && { donate }),
  };
}

const plans = async (folder: string) => (await readdir(folder)).sort();

test("equal graphs are equal in words and have equal plans; a changed one is not", () => {
  fc.assert(
    fc.property(randomGraph(), fc.nat(), ({ roots, inputs }, at) => {
      const original = { roots, inputs };
      const same = copied(original);
      assert.equal(structureOf(same), structureOf(original));
      assert.deepEqual(compileGraph(same, target), compileGraph(original, target));
      const nodes = toposort(roots).filter((node) =>
        node.op === "const" || (isElementwise(node.op) && node.src.length === 2)
      );
      const chosen = nodes[at % Math.max(1, nodes.length)];
      const changed = copied(original, (node, src) => {
        if (node !== chosen) return undefined;
        if (node.op === "const") return g.constant(node.attrs.value === 1 ? 0 : 1, node.dtype);
        return makeNode(node.op === "max" ? "min" : "max", src, {}, node.shape, node.dtype, node.device);
      });
      assert.equal(structureOf(changed) === structureOf(original), chosen === undefined || inputs.includes(chosen));
    }),
    { numRuns: 100 },
  );
});

test("a plan is compiled once, and found again by equal graphs", () =>
  withFolder(async (folder) => {
    const plan = planOf(request(), target);
    assert.deepEqual(plan, compileGraph(request(), target));
    await plansKept();
    const [name, ...others] = await plans(folder);
    assert.deepEqual([typeof name, others], ["string", []]);
    assert.deepEqual(planOf(request(), target), plan);
    // It really comes from there.
    const path = join(folder, name!);
    const text = (await readFile(path, "utf8")).split("\n").slice(1).join("\n").replace(
      plan.programs[0]!.name,
      "from_disk",
    );
    await writeFile(path, `${createHash("sha256").update(text).digest("hex")}\n${text}`);
    assert.equal(planOf(request(), target).programs[0]!.name, "from_disk");
    await plansKept();
    assert.equal((await plans(folder)).length, 1);
  }));

test("whatever changes a plan makes another file", () =>
  withFolder(async (folder) => {
    const variants: CompileRequest[] = [request(), request(0.2), request(0), request(-0)];
    const { donate: _, ...fresh } = request();
    variants.push(fresh, { ...request(), donate: [{ input: 1, output: 1 }] });
    const { roots, inputs, donate } = request();
    variants.push({ roots: [...roots, roots[0]!], inputs, donate: donate! });
    variants.push({ roots, inputs: [inputs[2]!, inputs[0]!, inputs[1]!] });
    // What is watched, and need be no root's source.
    const faults = g.input([2], "u32");
    for (const [op, boundary] of [["exp", 1], ["sin", 1], ["sin", 0]] as const) {
      const values = [{ node: g.elementwise(op, inputs[0]!), number: 0, each: false }];
      variants.push({ roots, inputs: [...inputs, faults], watch: { values, boundary, faults: 3 } });
    }
    for (const variant of variants) assert.deepEqual(planOf(variant, target), compileGraph(variant, target));
    planOf(request(), { ...target, maxStorageBuffersPerKernel: 4 });
    setFlags({ ...readFlags(() => undefined), cache: folder, noFuse: true });
    planOf(request(), target);
    await plansKept();
    assert.equal((await plans(folder)).length, variants.length + 2);
  }));

test("so does any change of the compiler, in whatever folder of it", async () => {
  // As `compilerDigest` finds them from where it stands, and as an import finds them from the compiler's entry.
  const src = fileURLToPath(new URL("../src/", import.meta.url));
  const [file] = (await readdir(join(src, "compiler"), { recursive: true })).filter((name) =>
    /(^|[/\\])cache\.ts$/.test(name)
  );
  const sources = compilerSources(join(src, "compiler", file!))!;
  const reached = new Set<string>();
  const reach = async (path: string): Promise<void> => {
    const name = relative(src, path).replaceAll("\\", "/");
    if (reached.has(name) || !/^(compiler|graph)\//.test(name)) return;
    reached.add(name);
    for (const [, specifier] of (await readFile(path, "utf8")).matchAll(/^(?:import|export)\b[^;"]*"(\.[^"]+)";/gm)) {
      await reach(resolve(dirname(path), specifier!));
    }
  };
  await reach(join(src, "compiler/compile.ts"));
  assert.ok(reached.size > 40);
  assert.deepEqual([...reached].filter((name) => !sources.some(([known]) => known === name)), []);
  // However deep they are.
  await withFolder(async (folder) => {
    await mkdir(join(folder, "compiler/kernel/deep"), { recursive: true });
    await mkdir(join(folder, "graph"));
    for (
      const path of [
        "compiler/kernel/cache.ts",
        "compiler/kernel/deep/a.ts",
        "compiler/b.js",
        "compiler/b.d.ts",
        "graph/c.ts",
      ]
    ) await writeFile(join(folder, path), path);
    const names = compilerSources(join(folder, "compiler/kernel/cache.ts"))!.map(([name]) => name);
    assert.deepEqual(names, ["compiler/b.js", "compiler/kernel/cache.ts", "compiler/kernel/deep/a.ts", "graph/c.ts"]);
    assert.equal(compilerSources(join(folder, "dist/index.js")), undefined);
  });
});

test("a damaged file is made again", () =>
  withFolder(async (folder) => {
    const plan = planOf(request(), target);
    await plansKept();
    const path = join(folder, (await plans(folder))[0]!);
    const whole = new Uint8Array(await readFile(path));
    const flipped = Uint8Array.from(whole, (byte, i) => i === 200 ? byte ^ 1 : byte);
    for (
      const damaged of [
        whole.subarray(0, 100),
        whole.subarray(0, whole.length - 1),
        flipped,
        new Uint8Array(0),
        new TextEncoder().encode("{}\n{}"),
      ]
    ) {
      await writeFile(path, damaged);
      assert.deepEqual(planOf(request(), target), plan);
      await plansKept();
      assert.deepEqual(new Uint8Array(await readFile(path)), whole);
    }
  }));

test("small graphs and SHARDWISE_CACHE=0 write nothing; a folder that cannot be made does no harm", async () => {
  await withFolder(async (folder) => {
    const x = g.input([4], "f32");
    planOf({ roots: [g.elementwise("exp", x)], inputs: [x] }, target);
    setFlags({ ...readFlags(() => undefined), cache: false });
    planOf(request(), target);
    await plansKept();
    assert.deepEqual(await plans(folder), []);
    await writeFile(join(folder, "file"), "");
    setFlags({ ...readFlags(() => undefined), cache: join(folder, "file/below") });
    assert.deepEqual(planOf(request(), target), compileGraph(request(), target));
    await plansKept();
  });
  assert.equal(readFlags(() => undefined).cache, undefined);
  assert.equal(readFlags((name) => name === "SHARDWISE_CACHE" ? "0" : undefined).cache, false);
  assert.equal(readFlags((name) => name === "SHARDWISE_CACHE" ? "/some/where" : undefined).cache, "/some/where");
});

test("of too many files the oldest go", () =>
  withFolder(async (folder) => {
    for (let i = 0; i < 1100; i++) {
      const path = join(folder, `${i}.plan`);
      await writeFile(path, "");
      await utimes(path, i + 1, i + 1);
    }
    await writeFile(join(folder, "mine.txt"), "");
    planOf(request(), target);
    await plansKept();
    const left = await plans(folder);
    assert.ok(left.includes("mine.txt"), "only plans are removed");
    assert.equal(left.length, 512 + 1);
    assert.ok(!left.includes("0.plan") && left.includes("1099.plan"));
  }));

const project = fileURLToPath(new URL("..", import.meta.url));
const program = fileURLToPath(new URL("plan-cache-program.ts", import.meta.url));

function train(kind: string, cache: string): Promise<string> {
  const child = spawn(process.execPath, [...runOf(program), kind], {
    cwd: project,
    env: { ...process.env, SHARDWISE_CACHE: cache },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let out = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => out += text);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => code === 0 ? resolve(out) : reject(new Error(`${program} ended with ${code}`)));
  });
}

for (const kind of testKinds) {
  test(`processes share plans, also when they write them at once [${kind}]`, async (context) => {
    if (await testDevice(kind) === undefined) return context.skip("no adapter");
    await withFolder(async (folder) => {
      const [without, ...together] = await Promise.all([train(kind, "0"), train(kind, folder), train(kind, folder)]);
      assert.match(without, /^losses /m);
      assert.deepEqual(together, [without, without]);
      const names = await plans(folder);
      assert.ok(names.length >= 1 && names.every((name) => name.endsWith(".plan")), names.join());
      const before = await Promise.all(names.map((name) => readFile(join(folder, name))));
      assert.equal(await train(kind, folder), without);
      assert.deepEqual(await plans(folder), names);
      assert.deepEqual(await Promise.all(names.map((name) => readFile(join(folder, name)))), before);
    });
  });
}

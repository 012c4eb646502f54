/** The house rules that can be read off the files: imports run one way and in no circle, and files have one subject. */
import assert from "node:assert/strict";
import { readdir, readFile, stat } from "node:fs/promises";
import { dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const source = fileURLToPath(new URL("../src", import.meta.url));

/** What each part may import besides itself; the leaves may be imported by all. */
const leaves = ["errors.ts", "signature", "host", "debug"];
const mayImport: Readonly<Record<string, readonly string[]>> = {
  "errors.ts": [],
  signature: ["errors.ts"],
  host: ["errors.ts"],
  debug: ["errors.ts", "host"],
  graph: leaves,
  autograd: ["graph", ...leaves],
  compiler: ["graph", ...leaves],
  devices: ["graph", "autograd", "compiler", ...leaves],
  tensor: ["graph", "autograd", "compiler", "devices", ...leaves],
  parallel: ["graph", "autograd", "compiler", "devices", "tensor", ...leaves],
  nn: ["graph", "autograd", "compiler", "devices", "tensor", "parallel", ...leaves],
  "index.ts": ["graph", "autograd", "compiler", "devices", "tensor", "parallel", "nn", ...leaves],
};

/**
 * The rooms of a part, each with those that it may import besides itself; "." are the files that lie in the part's own folder. In
 * the order of what data goes through.
 */
const rooms: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  compiler: {
    plan: [],
    kernel: ["plan"],
    simplify: ["kernel"],
    prepare: ["plan", "kernel", "simplify"],
    group: ["plan", "kernel"],
    tile: ["plan", "kernel", "prepare", "group"],
    lower: ["plan", "kernel", "group", "tile"],
    render: ["plan", "kernel"],
    wasm: ["plan", "kernel", "render"],
    ".": ["plan", "kernel", "simplify", "prepare", "group", "tile", "lower", "render", "wasm"],
  },
  devices: {
    device: [],
    memory: ["device"],
    cpu: ["device", "memory"],
    gpu: ["device", "memory"],
    ".": ["device", "memory", "cpu", "gpu"],
  },
  tensor: {
    ops: [],
    eager: [],
    ".": ["ops", "eager"],
    transform: ["eager", "."],
    inspect: ["eager", ".", "transform"],
  },
  parallel: {
    split: [],
    decompose: ["split"],
    run: ["split", "decompose"],
    train: ["split", "decompose", "run"],
    predict: ["split", "decompose", "run"],
    collectives: ["split", "decompose", "run"],
    ".": ["split", "decompose", "run", "predict", "collectives"],
  },
  nn: {
    layers: [],
    losses: [],
    optim: ["layers"],
    data: ["layers"],
    io: ["layers"],
    training: ["layers", "losses", "optim", "data"],
    ".": ["layers", "losses", "optim", "data", "io", "training"],
  },
};
/** Files that a folder may have before it needs rooms. */
const mostFiles = 25;

interface SourceFile {
  /** Relative to src, with slashes. */
  readonly path: string;
  readonly lines: number;
  readonly imports: readonly string[];
}

async function sourceFiles(): Promise<SourceFile[]> {
  const names = (await readdir(source, { recursive: true })).filter((name) => name.endsWith(".ts"));
  return await Promise.all(names.map(async (name): Promise<SourceFile> => {
    const text = await readFile(join(source, name), "utf8");
    // Comments may show imports in their examples.
    const code = text.replace(/\/\*[^]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
    const specifiers = [
      ...code.matchAll(/^\s*(?:import|export)\b[^;"]*?\bfrom\s+"([^"]+)"/gm),
      ...code.matchAll(/^\s*import\s+"([^"]+)"/gm),
      ...code.matchAll(/\bimport\("([^"]+)"\)/g),
    ].map(([, specifier = ""]) => specifier);
    const imports = specifiers.filter((specifier) => specifier.startsWith(".")).map((specifier) =>
      relative(source, resolve(dirname(join(source, name)), specifier)).replaceAll("\\", "/")
    );
    return { path: name.replaceAll("\\", "/"), lines: text.split("\n").length, imports };
  }));
}

const part = (path: string): string => path.split("/")[0] ?? path;
const room = (path: string): string => path.split("/").slice(1, -1).join("/") || ".";

test("imports run in one direction", async () => {
  const wrong: string[] = [];
  for (const { path, imports } of await sourceFiles()) {
    const allowed = mayImport[part(path)];
    assert.ok(allowed !== undefined, `src/${path} is in no known part of the house`);
    for (const imported of imports) {
      if (imported.startsWith("..")) wrong.push(`src/${path} imports ${imported} from outside src`);
      else if (part(imported) !== part(path) && !allowed.includes(part(imported))) {
        wrong.push(`src/${path} imports src/${imported}`);
      }
    }
  }
  assert.deepEqual(wrong, []);
});

test("imports between the rooms of a part run in one direction", async () => {
  const wrong: string[] = [];
  const seen = new Set<string>();
  for (const { path, imports } of await sourceFiles()) {
    const here = `${part(path)}/${room(path)}`;
    seen.add(here);
    const ofPart = rooms[part(path)];
    if (ofPart === undefined) {
      if (path.includes("/") && room(path) !== ".") wrong.push(`src/${path} is in a room of a part that has none`);
      continue;
    }
    const allowed = ofPart[room(path)];
    assert.ok(allowed !== undefined, `src/${path} is in no known room of src/${part(path)}`);
    for (const imported of imports) {
      if (part(imported) === part(path) && room(imported) !== room(path) && !allowed.includes(room(imported))) {
        wrong.push(`src/${path} imports src/${imported}`);
      }
    }
  }
  assert.deepEqual(wrong, []);
  const known = Object.entries(rooms).flatMap(([name, ofPart]) =>
    Object.keys(ofPart).map((inner) => `${name}/${inner}`)
  );
  assert.deepEqual(known.filter((name) => !seen.has(name)), [], "rooms without files");
  // The rule itself must have an order.
  for (const ofPart of Object.values(rooms)) {
    const placed = new Set<string>();
    const names = Object.keys(ofPart);
    for (let left = names.length; left > 0; left--) {
      const next = names.find((name) => !placed.has(name) && ofPart[name]!.every((below) => placed.has(below)));
      assert.ok(next !== undefined, `a circle among ${names.filter((name) => !placed.has(name)).join(", ")}`);
      placed.add(next);
    }
  }
});

test("no folder has more files than one can look over", async () => {
  const counts = new Map<string, number>();
  for (const { path } of await sourceFiles()) counts.set(dirname(path), (counts.get(dirname(path)) ?? 0) + 1);
  assert.deepEqual(
    [...counts].filter(([, count]) => count > mostFiles).map(([folder, count]) => `src/${folder}: ${count}`),
    [],
  );
});

test("no imports form a circle", async () => {
  const files = new Map((await sourceFiles()).map((file) => [file.path, file.imports]));
  const done = new Set<string>();
  for (const start of files.keys()) {
    const path: { readonly file: string; next: number }[] = [{ file: start, next: 0 }];
    const onPath = new Set([start]);
    for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
      const imported = files.get(top.file)?.[top.next++];
      if (imported === undefined) {
        done.add(top.file);
        onPath.delete(top.file);
        path.pop();
        continue;
      }
      assert.ok(files.has(imported), `src/${top.file} imports src/${imported}, which is not there`);
      assert.ok(!onPath.has(imported), `a circle: ${path.map(({ file }) => file).join(" > ")} > ${imported}`);
      if (done.has(imported)) continue;
      onPath.add(imported);
      path.push({ file: imported, next: 0 });
    }
  }
});

test("no source file is longer than 600 lines", async () => {
  const long = (await sourceFiles()).filter(({ lines }) => lines > 600).map(({ path, lines }) =>
    `src/${path}: ${lines}`
  );
  assert.deepEqual(long, []);
});

const contributing = await readFile(new URL("../CONTRIBUTING.md", import.meta.url), "utf8");

test("CONTRIBUTING names files and folders that there are", async () => {
  const named = new Set(contributing.match(/\b(?:src|test|scripts|docs|bench|examples)\/[\w./-]*\w\/?/g));
  assert.ok(named.size > 30, `${named.size} names`);
  const gone: string[] = [];
  for (const name of named) await stat(new URL(`../${name}`, import.meta.url)).catch(() => gone.push(name));
  // The API reference is made by a script.
  assert.deepEqual(gone.filter((name) => name !== "docs/api"), []);
});

test("an op costs as many files as CONTRIBUTING says, and the ones that it says", async () => {
  const costs = [["cbrt", "An elementwise op: at most four files", 4], [
    "scatterMax",
    "A structural op: at most eight files",
    8,
  ]] as const;
  for (const [op, heading, most] of costs) {
    const [, rest] = contributing.split(`### ${heading}\n`);
    assert.ok(rest !== undefined, `CONTRIBUTING has no "${heading}"`);
    const named = rest.split(/^##/m)[0]!.match(/src\/[\w./-]*\w\/?/g)!;
    const found: string[] = [];
    for (const { path } of await sourceFiles()) {
      const code = (await readFile(join(source, path), "utf8")).replace(/\/\*[^]*?\*\//g, "").replace(/\/\/.*$/gm, "");
      if (new RegExp(`\\b${op}\\b`).test(code)) found.push(`src/${path}`);
    }
    assert.deepEqual(
      found.filter((path) => !named.some((name) => path === name || (name.endsWith("/") && path.startsWith(name)))),
      [],
      op,
    );
    // What public functions take is declared beside them, and counted apart.
    assert.ok(found.includes("src/tensor/signatures.ts") && found.length - 1 <= most, `${op} in ${found.join(", ")}`);
  }
});

test("only host/ names the runtime's own globals", async () => {
  const wrong: string[] = [];
  for (const { path } of await sourceFiles()) {
    if (part(path) === "host") continue;
    const code = (await readFile(join(source, path), "utf8")).replace(/\/\*[^]*?\*\//g, "").replace(
      /^\s*\/\/.*$/gm,
      "",
    );
    if (/\bDeno\.|\bprocess\.|from "node:/.test(code)) wrong.push(`src/${path}`);
  }
  assert.deepEqual(wrong, []);
});

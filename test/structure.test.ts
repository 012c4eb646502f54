/** The house rules that can be read off the files: imports run one way and in no circle, and files have one subject. */
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
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

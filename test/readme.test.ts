/**
 * Runs every example of the README and of docs/: each ```ts block is a module, and so is each ```js block, in a folder of its
 * own. A comment `// => values` after a `console.log`, or on the next line, holds what it must print, as JSON values with spaces
 * between them.
 */
import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import * as errors from "../src/errors.ts";
import { importable } from "./programs.ts";

const root = new URL("../", import.meta.url);
const documents = (await readdir(new URL("docs/", root))).filter((name) => name.endsWith(".md")).sort();

for (const path of ["README.md", ...documents.map((name) => `docs/${name}`)]) {
  const text = await readFile(new URL(path, root), "utf8");
  let heading = "";
  let number = 0;
  for (const [, title, code] of text.matchAll(/^## (.*)$|^```(?:ts|js)\n([\s\S]*?)^```$/gm)) {
    if (title !== undefined) heading = title;
    if (code === undefined) continue;
    test(`${path}, example ${++number}: ${heading}`, () => run(code));
  }
  if (path === "README.md" || path === "docs/parallel.md") {
    const found = number;
    test(`${path} has examples`, () => assert.ok(found >= 6));
  }
}

async function run(code: string): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "shardwise-readme-"));
  const printed: unknown[][] = [];
  const log = console.log;
  const here = process.cwd();
  try {
    const { text, extension } = await importable(code);
    const file = join(folder, `example${extension}`);
    await writeFile(file, text);
    console.log = (...values: unknown[]) => void printed.push(values);
    process.chdir(folder); // Where examples write files.
    await import(pathToFileURL(file).href);
  } finally {
    console.log = log;
    process.chdir(here);
    await rm(folder, { recursive: true });
  }
  const expected = [...code.matchAll(/console\.log\(.*\);\s+\/\/ => (.*)$/gm)].map((match) => match[1]!);
  const calls = [...code.matchAll(/console\.log\(/g)].length;
  assert.equal(expected.length, calls, "every console.log of an example says what it prints");
  assert.deepEqual(
    printed.map((values) => normal(values.map((value) => JSON.stringify(value)).join(" "))),
    expected.map(normal),
  );
}

/** JSON values with spaces between them, whether written as JSON.stringify writes them or for people. */
function normal(text: string): string {
  return text.replace(/, /g, ",");
}

test("every error is in docs/errors.md, below the one whose kind it is", async () => {
  const text = await readFile(new URL("docs/errors.md", root), "utf8");
  const depths = new Map(
    [...text.matchAll(/^\| ((?:· )*)`(\w+)`/gm)].map((match) => [match[2]!, match[1]!.length / 2]),
  );
  const depthOf = (type: object): number =>
    type === errors.ShardwiseError ? -1 : 1 + depthOf(Object.getPrototypeOf(type) as object);
  const { ShardwiseError: _, ...types } = errors;
  assert.deepEqual([...depths.keys()].sort(), Object.keys(types).sort());
  for (const [name, type] of Object.entries(types)) assert.equal(depths.get(name), depthOf(type), name);
});

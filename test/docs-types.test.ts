/** The type checker has nothing to say of the examples of the README and of docs/, with the strictest of users' options. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = fileURLToPath(new URL("..", import.meta.url));
const pages = [
  "README.md",
  ...readdirSync(join(root, "docs")).filter((name) => name.endsWith(".md")).sort().map((name) => `docs/${name}`),
];

interface Block {
  readonly page: string;
  /** The line of the page before the block's first. */
  readonly line: number;
  readonly text: string;
}

/** Every ```ts block, as a module in a file that is not there. */
function blocks(): Map<string, Block> {
  const found = new Map<string, Block>();
  for (const page of pages) {
    const text = readFileSync(join(root, page), "utf8");
    for (const { 1: code, index } of text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)) {
      const line = text.slice(0, index).split("\n").length;
      const name = join(root, "test", `${page.replaceAll(/\W/g, "-")}-${line}.ts`);
      found.set(name, { page, line, text: code!.replaceAll('from "shardwise"', 'from "../src/index.ts"') });
    }
  }
  return found;
}

test("every example of the README and of docs/ passes the type checker", () => {
  const found = blocks();
  assert.ok(found.size > 30, `${found.size} blocks`);
  const config = ts.readConfigFile(join(root, "tsconfig.json"), (name) => ts.sys.readFile(name));
  const { options } = ts.parseJsonConfigFileContent({ ...config.config, include: [], files: [] }, ts.sys, root);
  for (const flag of ["strict", "noUncheckedIndexedAccess", "exactOptionalPropertyTypes"]) {
    assert.equal(options[flag], true, flag);
  }
  const host = ts.createCompilerHost(options);
  const { fileExists, getSourceFile } = host;
  host.fileExists = (name) => found.has(name) || fileExists.call(host, name);
  host.getSourceFile = (name, ...rest) => {
    const block = found.get(name);
    return block === undefined
      ? getSourceFile.call(host, name, ...rest)
      : ts.createSourceFile(name, block.text, ts.ScriptTarget.ES2022);
  };
  const program = ts.createProgram([...found.keys()], { ...options, types: ["node", "@webgpu/types"] }, host);
  const said = [...found].flatMap(([name, { page, line }]) => {
    const source = program.getSourceFile(name)!;
    return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map((
      { messageText, start },
    ) =>
      `${page}:${line + 1 + source.getLineAndCharacterOfPosition(start!).line}: ${
        ts.flattenDiagnosticMessageText(messageText, "\n")
      }`
    );
  });
  assert.deepEqual(said, []);
});

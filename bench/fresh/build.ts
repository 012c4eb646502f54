/** JavaScript of the project for Node, as its package ships it: a start must not be charged for a loader of TypeScript. */
import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { CompilerOptions } from "typescript";
import { bundle } from "../../scripts/bundle.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const folder = join(root, ".cache", "bench");

/** Bundles src/, and strips the types of bench/, into the cache folder. Gives the path of what `name` (in bench/) became. */
export async function buildForNode(name: string): Promise<string> {
  const { default: ts } = await import("typescript");
  await bundle(join(folder, "src", "index.js"));
  const compilerOptions: CompilerOptions = {
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    rewriteRelativeImportExtensions: true,
    verbatimModuleSyntax: true,
  };
  for (const file of await readdir(join(root, "bench"), { recursive: true })) {
    if (!file.endsWith(".ts")) continue;
    const from = join(root, "bench", file);
    const to = join(folder, "bench", file.replace(/\.ts$/, ".js"));
    if (await changed(to) > await changed(from)) continue;
    const { outputText } = ts.transpileModule(await readFile(from, "utf8"), { fileName: from, compilerOptions });
    await mkdir(dirname(to), { recursive: true });
    await writeFile(to, outputText);
  }
  await writeFile(join(folder, "package.json"), JSON.stringify({ type: "module" }));
  return join(folder, "bench", name.replace(/\.ts$/, ".js"));
}

/** When a file was last written, in milliseconds; 0 where there is none. */
async function changed(file: string): Promise<number> {
  return await stat(file).then((found) => found.mtimeMs, () => 0);
}

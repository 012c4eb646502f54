/**
 * The project's TypeScript as the JavaScript that Node runs in tests: made once, where a loader would make it anew in every
 * process. Each file becomes one file, and knows itself by the address of its source.
 */
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build, type Plugin } from "esbuild";
import { withClassNames } from "../bundle.ts";

const project = resolve(fileURLToPath(new URL("../..", import.meta.url)));

/** What tests import, and what they start. */
const folders = ["src", "test", "scripts", "bench", "examples"];

/** Writes all files into a folder that holds nothing else, under their names with `.js` for `.ts`. */
export async function transpile(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true });
  const { outputFiles } = await build({
    absWorkingDir: project,
    entryPoints: (await Promise.all(folders.map(sources))).flat(),
    outbase: project,
    outdir: folder,
    bundle: true,
    format: "esm",
    platform: "node",
    target: `node${process.versions.node}`,
    // Stacks show the lines of the sources.
    sourcemap: true,
    sourcesContent: false,
    logLevel: "warning",
    write: false,
    plugins: [eachByItself(folder)],
  });
  await Promise.all(outputFiles.map(async ({ path, text }) => {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, path.endsWith(".js") ? withClassNames(text) : text);
  }));
}

async function sources(folder: string): Promise<string[]> {
  const names = await readdir(join(project, folder), { recursive: true });
  return names.filter((name) => name.endsWith(".ts") && !name.endsWith(".d.ts")).map((name) => join(folder, name));
}

/** Keeps files apart, and their addresses those of the sources. */
function eachByItself(folder: string): Plugin {
  return {
    name: "each file by itself",
    setup(builder) {
      builder.onResolve({ filter: /.*/ }, ({ path, kind, importer }) => {
        if (kind === "entry-point") return undefined;
        if (path === "node:test" && importer.startsWith(join(project, "test"))) {
          // Tests are gathered, to be run file by file.
          return { path: join(folder, "scripts/testing/gather.js"), external: true };
        }
        return { path: path.startsWith(".") ? path.replace(/\.ts$/, ".js") : path, external: true };
      });
      builder.onLoad({ filter: /\.ts$/ }, async ({ path }) => ({
        contents: `import.meta.url = ${JSON.stringify(pathToFileURL(path).href)}; ${await readFile(path, "utf8")}`,
        loader: "ts",
      }));
    },
  };
}

/** The package's JavaScript: one module, as a start must not wait for the files of two hundred. */
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build, type Metafile } from "esbuild";

/** Bundles src/ into `outfile`; gives what went into it, and what it loads besides. */
export async function bundle(outfile: string): Promise<Metafile> {
  const { metafile } = await build({
    entryPoints: [fileURLToPath(new URL("../src/index.ts", import.meta.url))],
    outfile,
    bundle: true,
    format: "esm",
    platform: "neutral",
    target: "es2023",
    external: ["webgpu", "cli-progress"],
    // Lines and names stay: Node shows the line that threw, and stacks show names.
    minifySyntax: true,
    sourcemap: true,
    sourcesContent: false,
    metafile: true,
    logLevel: "warning",
  });
  await nameClasses(outfile);
  return metafile;
}

/** A class that names itself, `class Tensor`, was made `Tensor = class _Tensor`: that name is in stacks, messages and consoles. */
async function nameClasses(path: string): Promise<void> {
  const text = await readFile(path, "utf8");
  const renamed = [...text.matchAll(/\b(\w+) = class _\1\b/g)].map(([, name]) => name);
  await writeFile(path, text.replaceAll(new RegExp(`\\b_(${renamed.join("|")})\\b`, "g"), "$1"));
}

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
  await writeFile(outfile, withClassNames(await readFile(outfile, "utf8")));
  return metafile;
}

/**
 * JavaScript as esbuild bundles it, with classes under their names: one that names itself, `class Tensor`, was made
 * `Tensor = class _Tensor`, and that name is in stacks, messages and consoles.
 */
export function withClassNames(text: string): string {
  const renamed = [...text.matchAll(/\b(\w+) = class _\1\b/g)].map(([, name]) => name);
  if (renamed.length === 0) return text;
  return text.replaceAll(new RegExp(`\\b_(${renamed.join("|")})\\b`, "g"), "$1");
}

/** The package's JavaScript: one module, as a start must not wait for the files of two hundred. */
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
    // Names stay: they are read in stacks.
    minifySyntax: true,
    minifyWhitespace: true,
    sourcemap: true,
    sourcesContent: false,
    metafile: true,
    logLevel: "warning",
  });
  return metafile;
}

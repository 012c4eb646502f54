/** Programs that tests start in processes of their own, in the runtime that runs the test. */
import { join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { environment, runtime } from "../src/host/host.ts";

const project = fileURLToPath(new URL("..", import.meta.url));

/** Where `npm test` has the JavaScript that was made of the project, for Node. */
const transpiled = runtime === "node" ? environment("SHARDWISE_TEST_PROGRAMS") : undefined;

/** The arguments with which this runtime runs a program of the project. */
export function runOf(program: string, { gc = false } = {}): string[] {
  if (runtime === "deno") return ["run", "--allow-all", "--no-check", ...gc ? ["--v8-flags=--expose-gc"] : [], program];
  return [...gc ? ["--expose-gc"] : [], ...runInNode(program)];
}

/** The arguments with which Node does. */
export function runInNode(program: string): string[] {
  if (transpiled === undefined) return ["--import", "tsx", program];
  return ["--enable-source-maps", join(transpiled, relative(project, program).replace(/\.ts$/, ".js"))];
}

/** A module that uses the library, in TypeScript, as this process can import it: its text, and how its name ends. */
export async function importable(code: string): Promise<{ readonly text: string; readonly extension: string }> {
  const own = transpiled === undefined ? join(project, "src/index.ts") : join(transpiled, "src/index.js");
  const text = code.replaceAll('from "shardwise"', `from "${pathToFileURL(own).href}"`);
  if (transpiled === undefined) return { text, extension: ".mts" };
  const { transform } = await import("esbuild");
  return { text: (await transform(text, { loader: "ts" })).code, extension: ".mjs" };
}

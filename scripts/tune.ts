/**
 * Finds the fastest schedules of contractions on a GPU, and keeps them for the programs that run there.
 *
 *   npm run tune                                     common shapes of products, forward and both gradients
 *   npm run tune -- --shapes 128x784x64,8x64x32x64   [m, k] @ [k, n], or batches of them
 *   npm run tune -- --example file.ts                what a function contains: the file's default export gives (or resolves
 *                                                    with) the function and its arguments, as an array
 *   npm run tune -- --again                          also what is known from before
 *   npm run tune -- --name nvidia                    on the adapter whose name contains that
 *   npm run tune -- --class discrete                 as if the adapter were such a GPU; on a software adapter, to try it out
 */
import { resolve } from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import type { CompileRequest } from "../src/compiler/compile.ts";
import { firstDevice } from "../src/devices/discovery.ts";
import { setDefaultDevice } from "../src/devices/index.ts";
import { input, permute } from "../src/graph/build.ts";
import { requestOf, tuneOn, type TuneOptions } from "../src/tensor/inspect/tune.ts";
import { matmul } from "../src/tensor/ops/contract.ts";

/** Layers of small and large networks with their usual batches, inference of one row to eight, attention. */
const commonShapes = [
  ...["128x784x64", "128x64x10", "256x1024x1024", "512x256x1024", "512x1024x256"],
  ...["512x512x512", "1024x1024x1024", "2048x2048x2048", "4096x4096x4096", "4096x288x64", "25088x288x64"],
  ...["2x1024x1024", "4x4096x4096", "8x1024x4096", "32x128x32x128", "32x128x128x32"],
].join();

function parseShape(text: string): readonly number[] {
  const lengths = text.split("x").map(Number);
  if ((lengths.length === 3 || lengths.length === 4) && lengths.every((n) => Number.isSafeInteger(n) && n > 0)) {
    return lengths;
  }
  throw new Error(`--shapes ${text}: need MxKxN or BATCHxMxKxN`);
}

/** A product and its gradients by both operands. */
function productsOf(lengths: readonly number[]): CompileRequest[] {
  const [m, k, n] = lengths.slice(-3) as [number, number, number];
  const batch = lengths.slice(0, -3);
  const matrix = (rows: number, columns: number) => input([...batch, rows, columns], "f32");
  const [a, b, dy] = [matrix(m, k), matrix(k, n), matrix(m, n)];
  const turned = (x: typeof a) => permute(x, [...batch.keys(), batch.length + 1, batch.length]);
  return [
    { roots: [matmul(a, b)], inputs: [a, b] },
    { roots: [matmul(dy, turned(b))], inputs: [dy, b] },
    { roots: [matmul(turned(a), dy)], inputs: [a, dy] },
  ];
}

async function requestsOf(example: string | undefined, shapes: string): Promise<CompileRequest[]> {
  if (example === undefined) return shapes.split(",").map(parseShape).flatMap(productsOf);
  const module = await import(pathToFileURL(resolve(example)).href) as { readonly default?: unknown };
  if (typeof module.default !== "function") {
    throw new Error(`--example ${example}: need a function as its default export`);
  }
  const [fn, ...args] = await (module.default as () => [(...args: unknown[]) => unknown, ...unknown[]])();
  return [(await requestOf(fn, args)).request];
}

function readClass(text: string | undefined): TuneOptions {
  if (text === undefined) return {};
  if (text === "discrete" || text === "integrated") return { class: text };
  throw new Error(`--class ${text}: need discrete or integrated`);
}

async function main(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      shapes: { type: "string" },
      example: { type: "string" },
      name: { type: "string" },
      class: { type: "string" },
      again: { type: "boolean" },
    },
  });
  const options = { ...readClass(values.class), again: values.again === true };
  const device = await firstDevice({ kind: "gpu", ...values.name === undefined ? {} : { name: values.name } });
  setDefaultDevice(device);
  try {
    for (const request of await requestsOf(values.example, values.shapes ?? commonShapes)) {
      const tuning = await tuneOn(device, [request], options);
      console.log(String(tuning));
      if (tuning.refusal !== undefined) break;
    }
  } finally {
    device.close();
  }
}

main(process.argv.slice(2)).catch((error: unknown) => {
  console.error(`tune: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
});

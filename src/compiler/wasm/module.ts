/** A module of kernels: their functions, what they take, and what they import. */
import type { HostFunction } from "../../graph/lanes.ts";
import { type EncodedFunction, encodeModule, type Imported } from "./encode.ts";

const one: Imported["parameters"] = ["f64"];
const two: Imported["parameters"] = ["f64", "f64"];

/** Functions of numbers that every module imports, so that kernels of any modules can be put into one. */
const host: Readonly<Record<HostFunction, { readonly parameters: Imported["parameters"]; readonly f: unknown }>> = {
  sin: { parameters: one, f: Math.sin },
  cos: { parameters: one, f: Math.cos },
  tan: { parameters: one, f: Math.tan },
  rem: { parameters: two, f: (a: number, b: number) => a % b },
};

const names = Object.keys(host) as HostFunction[];

/** The index of a function of the host. */
export function hostIndex(name: HostFunction): number {
  return names.indexOf(name);
}

/**
 * A kernel as a function takes (begin, end, from, to, scratch): combinations `begin` to `end - 1` of its outer counters, of each
 * `from` to `to - 1` of the fastest counter, and the address of its scratch memory.
 */
export const kernelParameters = 5;

/** Where the addresses of a kernel's buffers lie while it runs, 4 bytes each: a call has as many arguments for all kernels then. */
export const addressTable = 1024;
/** Behind the last address that there may be. */
export const addressTableEnd = 4096;

/** The bytes of a module of kernels, the exports `k0`, `k1`, …. */
export function kernelModule(
  kernels: readonly { body: ArrayLike<number> }[],
  shared: boolean,
): Uint8Array<ArrayBuffer> {
  const imported = names.map((name): Imported => ({ name, parameters: host[name].parameters, results: ["f64"] }));
  const functions = kernels.map(({ body }): EncodedFunction => ({ parameters: kernelParameters, body }));
  return encodeModule(functions, imported, { shared });
}

/** What an instance of such a module is given. */
export function kernelImports(memory: WebAssembly.Memory): WebAssembly.Imports {
  const functions = Object.fromEntries(names.map((name) => [name, host[name].f as WebAssembly.ImportValue]));
  return { host: { memory, ...functions } };
}

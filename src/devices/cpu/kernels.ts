/** Programs for the cpu device as functions: WebAssembly where there is some, else JavaScript. */
import type { Program, ProgramCode } from "../../compiler/plan/plan.ts";
import { kernelImports, kernelModule } from "../../compiler/wasm/module.ts";
import { numberedSource } from "../../debug/listing.ts";
import { debugLine } from "../../debug/log.ts";
import { ArgumentError, InternalError, KernelCompileError } from "../../errors.ts";
import type { Words } from "../../graph/words.ts";
import type { CrewModule } from "./crew.ts";
import type { WasmFunction } from "./crew-member.ts";

/** A function of JavaScript, for invocations `begin` to `end - 1`. */
export type JsKernel = (buffers: readonly Words[], begin: number, end: number) => void;

export interface WasmKernel {
  readonly kind: "wasm";
  readonly run: WasmFunction;
  readonly code: ProgramCode;
  /** The module that it is in, and its number there. */
  readonly module: CrewModule;
  readonly index: number;
}

export type Kernel = { readonly kind: "js"; readonly run: JsKernel } | WasmKernel;

/** Programs that are kept compiled beyond the executables that use them. */
const keptKernels = 4096;

/** The compiled programs of a device. */
export class Kernels {
  readonly #known = new Map<string, Kernel>();
  readonly #memory: WebAssembly.Memory | undefined;
  readonly #shared: boolean;
  #compiled = 0;
  #modules = 0;

  /** `shared` tells whether threads share the memory. */
  constructor(memory: WebAssembly.Memory | undefined, shared: boolean) {
    this.#memory = memory;
    this.#shared = shared;
  }

  /** How many were compiled so far. */
  get compiled(): number {
    return this.#compiled;
  }

  clear(): void {
    this.#known.clear();
  }

  /** The kernels of these programs. Those in WebAssembly that are new become one module. Throws KernelCompileError. */
  of(programs: readonly Program[]): Kernel[] {
    const fresh = new Map(programs.filter(({ key }) => !this.#known.has(key)).map((program) => [program.key, program]));
    for (const { name, source } of fresh.values()) {
      debugLine(4, () => `shardwise: ${name}\n${numberedSource(source)}`);
    }
    const kernels = new Map<string, Kernel>();
    const compiled = [...fresh.values()].filter(({ language }) => language === "wasm");
    if (compiled.length > 0) { for (const [key, kernel] of this.#compileTogether(compiled)) kernels.set(key, kernel); }
    for (const program of fresh.values()) {
      if (program.language !== "wasm") kernels.set(program.key, { kind: "js", run: compileJs(program) });
    }
    const found = programs.map(({ key }) => kernels.get(key) ?? this.#known.get(key)!);
    for (const [key, kernel] of kernels) this.#keep(key, kernel);
    return found;
  }

  #keep(key: string, kernel: Kernel): void {
    this.#known.set(key, kernel);
    this.#compiled++;
    if (this.#known.size <= keptKernels) return;
    for (const oldest of this.#known.keys()) {
      this.#known.delete(oldest);
      break;
    }
  }

  #compileTogether(programs: readonly Program[]): [key: string, kernel: Kernel][] {
    const names = programs.map(({ name }) => name).join(", ");
    const memory = this.#memory;
    if (memory === undefined) {
      throw new ArgumentError("load", {
        got: `kernel ${names} in WebAssembly`,
        need: "js, for a cpu device without WebAssembly",
      });
    }
    const codes = programs.map(({ code, name }) => {
      if (code === undefined) {
        throw new InternalError("load", { got: `kernel ${name} without code`, need: "its bytes" });
      }
      return code;
    });
    try {
      const compiled = new WebAssembly.Module(kernelModule(codes, this.#shared));
      const { exports } = new WebAssembly.Instance(compiled, kernelImports(memory));
      const module: CrewModule = { id: this.#modules++, module: compiled, kernels: codes.length };
      return codes.map((code, index) => {
        const run = exports[`k${index}`] as WasmFunction;
        return [programs[index]!.key, { kind: "wasm", run, code, module, index }];
      });
    } catch (cause) {
      throw new KernelCompileError("load", {
        got: `kernels ${names}: ${String(cause)}`,
        need: "WebAssembly that compiles",
        cause,
      });
    }
  }
}

function compileJs({ name, language, source }: Program): JsKernel {
  if (language !== "js") {
    throw new ArgumentError("load", { got: `kernel ${name} in ${language}`, need: "wasm or js, for the cpu device" });
  }
  try {
    return new Function("buffers", "begin", "end", source) as JsKernel;
  } catch (cause) {
    throw new KernelCompileError("load", {
      got: `kernel ${name}: ${String(cause)}\n${numberedSource(source)}`,
      need: "JavaScript that compiles",
      cause,
    });
  }
}

let simd: boolean | undefined;
let relaxedSimd: boolean | undefined;

/** Whether there is WebAssembly with SIMD, and this page, or process, may compile some. */
export function hasWasm(): boolean {
  // (func (drop (v128.const …)))
  return simd ??= compiles([0, ...vector, 0x1a, 0x0b]);
}

/** Whether there is relaxed SIMD, too: in Node 20 with --experimental-wasm-relaxed-simd. */
export function hasRelaxedWasm(): boolean {
  // (func (drop (f32x4.relaxed_madd (v128.const …) (v128.const …) (v128.const …))))
  return relaxedSimd ??= compiles([0, ...vector, ...vector, ...vector, 0xfd, 0x85, 0x02, 0x1a, 0x0b]);
}

const vector = [0xfd, 0x0c, ...new Array<number>(16).fill(0)];

function compiles(body: readonly number[]): boolean {
  try {
    new WebAssembly.Module(kernelModule([{ body }], false));
    return true;
  } catch {
    return false;
  }
}

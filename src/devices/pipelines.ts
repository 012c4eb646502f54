import type { Program } from "../compiler/plan.ts";
import { debugLine } from "../debug/log.ts";
import { numberedSource } from "../debug/listing.ts";
import { ArgumentError, KernelCompileError } from "../errors.ts";
import { computeStage } from "./usage.ts";

/** A program that WebGPU has compiled. */
export interface CompiledProgram {
  readonly program: Program;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** Programs that are kept beyond the executables that use them. */
const kept = 4096;

/**
 * The compiled programs of one device, by key. Equal programs are compiled once, also when they are asked for at
 * once.
 */
export class Pipelines {
  readonly #device: GPUDevice;
  readonly #owner: string;
  readonly #largestGroup: number;
  readonly #programs = new Map<string, Promise<CompiledProgram>>();
  readonly #layouts = new Map<string, { readonly group: GPUBindGroupLayout; readonly pipeline: GPUPipelineLayout }>();
  #compiled = 0;

  constructor(owner: string, device: GPUDevice, largestGroup: number) {
    this.#owner = owner;
    this.#device = device;
    this.#largestGroup = largestGroup;
  }

  /** Distinct programs compiled so far. */
  get compiled(): number {
    return this.#compiled;
  }

  /** Rejects with KernelCompileError. */
  get(program: Program): Promise<CompiledProgram> {
    const known = this.#programs.get(program.key);
    if (known !== undefined) return known;
    const compiling = this.#compile(program);
    this.#programs.set(program.key, compiling);
    compiling.catch(() => this.#programs.delete(program.key));
    if (this.#programs.size > kept) {
      for (const oldest of this.#programs.keys()) {
        this.#programs.delete(oldest);
        break;
      }
    }
    return compiling;
  }

  async #compile(program: Program): Promise<CompiledProgram> {
    const { name, source } = program;
    if (program.language !== "wgsl" || program.bindings.length > this.#largestGroup) {
      throw new ArgumentError("load", {
        got: `kernel ${name} in ${program.language} with ${program.bindings.length} buffers`,
        need: `wgsl with at most ${this.#largestGroup}, for ${this.#owner}`,
      });
    }
    debugLine(4, () => `shardwise: ${name}\n${numberedSource(source)}`);
    const layout = this.#layout(program);
    const device = this.#device;
    // The scope takes the module's own error, which would otherwise be reported as an uncaptured one too.
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ label: name, code: source });
    const scope = device.popErrorScope().catch(() => null);
    try {
      const pipeline = await device.createComputePipelineAsync({
        label: name,
        layout: layout.pipeline,
        compute: { module, entryPoint: "main" },
      });
      this.#compiled++;
      return { program, pipeline, layout: layout.group };
    } catch (cause) {
      const messages = await compilerMessages(module);
      const said = messages.length > 0
        ? messages.map(({ line, text }) => `line ${line}: ${text}`).join("\n")
        : (await scope)?.message ?? String(cause);
      throw new KernelCompileError("load", {
        got: `kernel ${name}: ${said}\n${numberedSource(source, messages.map(({ line }) => line))}`,
        need: `WGSL that ${this.#owner} compiles`,
        cause,
      });
    }
  }

  #layout(program: Program): { readonly group: GPUBindGroupLayout; readonly pipeline: GPUPipelineLayout } {
    const key = program.bindings.map(({ access }) => (access === "read" ? "r" : "w")).join("");
    let layout = this.#layouts.get(key);
    if (layout === undefined) {
      const group = this.#device.createBindGroupLayout({
        label: key,
        entries: program.bindings.map(({ access }, binding) => ({
          binding,
          visibility: computeStage,
          buffer: { type: access === "read" ? "read-only-storage" : "storage" },
        })),
      });
      const pipeline = this.#device.createPipelineLayout({ label: key, bindGroupLayouts: [group] });
      this.#layouts.set(key, layout = { group, pipeline });
    }
    return layout;
  }
}

async function compilerMessages(module: GPUShaderModule): Promise<{ line: number; text: string }[]> {
  try {
    const { messages } = await module.getCompilationInfo();
    return messages.filter(({ type }) => type === "error").map(({ lineNum, message }) => ({
      line: lineNum,
      text: message.trim(),
    }));
  } catch {
    return []; // A lost device has none; the caller has the error of the pipeline.
  }
}

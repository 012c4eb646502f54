import type { Program, ProgramBinding } from "../../compiler/plan/plan.ts";
import { numberedSource } from "../../debug/listing.ts";
import { debugLine } from "../../debug/log.ts";
import { ArgumentError, KernelCompileError } from "../../errors.ts";
import { inLaterTurn } from "../../host/host.ts";
import type { Code, PlanFamily } from "../device/family.ts";
import type { Native } from "./native.ts";
import { computeStage, usage } from "./usage.ts";

/** A program that WebGPU has compiled. */
export interface CompiledProgram {
  readonly program: Program;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** The numbers of this program, for a pipeline that serves several; bound behind its buffers. */
  readonly numbers: GPUBuffer | undefined;
}

type Compiled = Pick<CompiledProgram, "pipeline" | "layout">;

/** Programs that are kept beyond the executables that use them. */
const kept = 4096;

/**
 * The compiled programs of one device, by key. Equal programs are compiled once, also when they are asked for at
 * once; those of plans of one family share pipelines where they can.
 */
export class Pipelines {
  readonly #native: Native;
  readonly #owner: string;
  readonly #scope: string;
  readonly #largestGroup: number;
  readonly #programs = new Cache<CompiledProgram>();
  readonly #pipelines = new Cache<Compiled>();
  readonly #layouts = new Map<string, { readonly group: GPUBindGroupLayout; readonly pipeline: GPUPipelineLayout }>();
  #compiled = 0;

  /** `scope` names what shares the kernels of a family. */
  constructor(owner: string, native: Native, scope: string, largestGroup: number) {
    this.#owner = owner;
    this.#native = native;
    this.#scope = scope;
    this.#largestGroup = largestGroup;
  }

  /** Distinct pipelines compiled so far. */
  get compiled(): number {
    return this.#compiled;
  }

  /** Lets go of everything, when the device has ended. */
  drop(): void {
    this.#programs.clear();
    this.#pipelines.clear();
    this.#layouts.clear();
  }

  /** The programs of a plan. Each rejects with KernelCompileError. */
  load(programs: readonly Program[], family?: PlanFamily): Promise<CompiledProgram>[] {
    const codes = family?.meet(this.#scope, programs);
    const gathered = family?.gathers === true ? new Promise<void>(inLaterTurn) : undefined;
    return programs.map((program, i) =>
      this.#programs.get(program.key, async () => {
        if (gathered !== undefined) await gathered;
        return await this.#make(program, codes?.[i]?.() ?? { source: program.source, values: undefined });
      })
    );
  }

  async #make(program: Program, { source, values }: Code): Promise<CompiledProgram> {
    const kinds = bindingKinds(program.bindings, values !== undefined);
    const compiled = await this.#pipelines.get(source, () => this.#compile(program, source, kinds));
    return { program, ...compiled, numbers: values && this.#uniform(program.name, values) };
  }

  #uniform(label: string, values: Uint32Array<ArrayBuffer>): GPUBuffer {
    const buffer = this.#native.device.createBuffer({
      label,
      size: values.byteLength,
      usage: usage.uniform | usage.copyDestination,
    });
    this.#native.device.queue.writeBuffer(buffer, 0, values);
    return buffer;
  }

  async #compile(program: Program, source: string, kinds: string): Promise<Compiled> {
    const { name } = program;
    if (program.language !== "wgsl" || program.bindings.length > this.#largestGroup) {
      throw new ArgumentError("load", {
        got: `kernel ${name} in ${program.language} with ${program.bindings.length} buffers`,
        need: `wgsl with at most ${this.#largestGroup}, for ${this.#owner}`,
      });
    }
    debugLine(4, () => `shardwise: ${name}\n${numberedSource(source)}`);
    const layout = this.#layout(kinds);
    const device = this.#native.device;
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
      return { pipeline, layout: layout.group };
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

  #layout(kinds: string): { readonly group: GPUBindGroupLayout; readonly pipeline: GPUPipelineLayout } {
    let layout = this.#layouts.get(kinds);
    if (layout === undefined) {
      const group = this.#native.device.createBindGroupLayout({
        label: kinds,
        entries: [...kinds].map((kind, binding) => ({
          binding,
          visibility: computeStage,
          buffer: { type: bufferTypes[kind as Kind] },
        })),
      });
      const pipeline = this.#native.device.createPipelineLayout({ label: kinds, bindGroupLayouts: [group] });
      this.#layouts.set(kinds, layout = { group, pipeline });
    }
    return layout;
  }
}

const bufferTypes = { r: "read-only-storage", w: "storage", u: "uniform" } as const;
type Kind = keyof typeof bufferTypes;

/** The kinds of a kernel's bindings, a letter each, in their order. */
function bindingKinds(bindings: readonly ProgramBinding[], numbers: boolean): string {
  return bindings.map(({ access }): Kind => access === "read" ? "r" : "w").join("") + (numbers ? "u" : "");
}

/** What was made, by key: at once for all that ask for it, and anew after a failure. */
class Cache<T> {
  readonly #entries = new Map<string, Promise<T>>();

  clear(): void {
    this.#entries.clear();
  }

  get(key: string, make: () => Promise<T>): Promise<T> {
    const known = this.#entries.get(key);
    if (known !== undefined) return known;
    const making = make();
    this.#entries.set(key, making);
    making.catch(() => this.#entries.delete(key));
    if (this.#entries.size > kept) {
      for (const oldest of this.#entries.keys()) {
        this.#entries.delete(oldest);
        break;
      }
    }
    return making;
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

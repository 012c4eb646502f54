import type { PlanStep } from "../../compiler/plan/plan.ts";
import { InternalError } from "../../errors.ts";
import type { Block } from "../memory/pool.ts";
import type { Native } from "./native.ts";
import type { CompiledProgram } from "./pipelines.ts";

/** Bind groups that one dispatch of a plan keeps: more than the buffers that a pool alternates between in a loop. */
const keptPerDispatch = 8;

interface KnownGroup {
  readonly blocks: readonly Block<GPUBuffer>[];
  readonly group: GPUBindGroup;
}

/** The bind groups of one dispatch of a plan, by the identity of the memory bound. */
export class BindGroups {
  readonly #native: Native;
  readonly #program: CompiledProgram;
  readonly #slots: readonly number[];
  /** The one used last at the front. */
  readonly #known: KnownGroup[] = [];

  constructor(native: Native, program: CompiledProgram, step: PlanStep & { kind: "dispatch" }) {
    this.#native = native;
    this.#program = program;
    this.#slots = step.slots;
  }

  /** The group that binds the memory of this run's slots. Throws InternalError for a binding that WebGPU forbids. */
  get(slots: readonly (Block<GPUBuffer> | undefined)[], largestBinding: number): GPUBindGroup {
    for (let index = 0; index < this.#known.length; index++) {
      const known = this.#known[index];
      if (known === undefined || !this.#same(known.blocks, slots)) continue;
      if (index > 0) {
        this.#known.splice(index, 1);
        this.#known.unshift(known);
      }
      return known.group;
    }
    return this.#make(slots, largestBinding);
  }

  #same(blocks: readonly Block<GPUBuffer>[], slots: readonly (Block<GPUBuffer> | undefined)[]): boolean {
    for (let binding = 0; binding < blocks.length; binding++) {
      if (blocks[binding] !== slots[this.#slots[binding] ?? -1]) return false;
    }
    return true;
  }

  #make(slots: readonly (Block<GPUBuffer> | undefined)[], largestBinding: number): GPUBindGroup {
    const { program, layout, numbers } = this.#program;
    const written = new Map<Block<GPUBuffer>, boolean>();
    const blocks = program.bindings.map(({ access }, binding) => {
      const slot = this.#slots[binding];
      const block = slot === undefined ? undefined : slots[slot];
      if (block === undefined) throw this.#refuse(`nothing for binding ${binding}`, "a buffer in each slot used");
      const before = written.get(block);
      if (before === true || (before === false && access === "readWrite")) {
        throw this.#refuse(`one buffer written and bound twice (binding ${binding})`, "one readWrite binding of it");
      }
      written.set(block, access === "readWrite");
      return block;
    });
    const group = this.#native.device.createBindGroup({
      label: program.name,
      layout,
      entries: [
        ...blocks.map(({ memory, bytes }, binding) => ({
          binding,
          resource: { buffer: memory, size: Math.min(bytes, largestBinding) },
        })),
        ...numbers === undefined ? [] : [{ binding: blocks.length, resource: { buffer: numbers } }],
      ],
    });
    this.#known.unshift({ blocks, group });
    if (this.#known.length > keptPerDispatch) this.#known.pop();
    return group;
  }

  #refuse(got: string, need: string): InternalError {
    return new InternalError("run", { got: `${got} in kernel ${this.#program.program.name}`, need });
  }
}

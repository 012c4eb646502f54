/** From lowered kernels to a plan: memory that temporaries share, programs, steps, and the slots that these use. */
import { flags } from "../debug/flags.ts";
import { InternalError, OutOfMemoryError } from "../errors.ts";
import { isKind, type Node, type NodeOf } from "../graph/node.ts";
import { size } from "../graph/shape.ts";
import type { StructuralOf } from "../graph/structural.ts";
import { type Layout, shareTemporaries, type SlotDraft } from "./group/memory.ts";
import type { KernelGroup } from "./group/merge.ts";
import { accessesOf } from "./kernel/accesses.ts";
import { eachStatement, type KernelIR } from "./kernel/ir.ts";
import type { Location, Memory } from "./kernel/location.ts";
import { overwritesSlot } from "./lower/in-place.ts";
import { type LoweredGroup, lowerGroup } from "./lower/lower-group.ts";
import { ownProgram } from "./lower/programs.ts";
import type { Plan, PlanStep, Program, ProgramCode, Target } from "./plan/plan.ts";
import { renderJs } from "./render/js.ts";
import { renderWgsl } from "./render/wgsl.ts";
import { countOperations } from "./tile/tile.ts";
import { argsortCode } from "./wasm/argsort.ts";
import { renderWasm } from "./wasm/render.ts";
import { renderText } from "./wasm/text.ts";

/** `forItems`: see Plan. Throws OutOfMemoryError for a value larger than the device can bind. */
export function assemble(
  lowered: readonly LoweredGroup[],
  layout: Layout,
  target: Target,
  forItems: boolean,
): Plan {
  const copies = layout.copies.filter((copy) => copy.bytes > 0);
  const { kernels, memoryOf } = sharingMemory(toDispatch(lowered, layout, target), copies, layout, target);
  const strideOf = (slot: number) => strideOfItems(layout.slots[memoryOf(slot)]!);
  const { programs, dispatches } = programsOf(kernels.map((kernel) => {
    const strides = forItems ? kernel.slots.map(strideOf) : undefined;
    return {
      slots: kernel.slots,
      program: "ir" in kernel ? renderProgram(kernel, layout, target, strides) : kernel.program,
    };
  }));
  const steps = [...dispatches, ...copies.map((copy): PlanStep => ({ kind: "copy", ...copy }))];
  return {
    ...forItems ? { items: true } : {},
    programs,
    ...numbered(steps, layout, memoryOf, target),
  };
}

/** A kernel whose source is spelled when the layout of slots is known. */
interface ToRender {
  readonly group: KernelGroup;
  readonly ir: KernelIR;
  readonly slots: readonly number[];
  /** The slot over which it writes the value of another one. */
  readonly overwritten?: number;
  /** Where it finds what it reads, if that is not what the layout says. */
  readonly memory?: Memory;
}

/** A program of a plan and what it is given. */
interface Rendered {
  readonly slots: readonly number[];
  readonly program: Program;
}

type ToDispatch = ToRender | Rendered;

/** Whether a plan has a step for a kernel. */
export function isDispatched({ group, ir }: LoweredGroup): boolean {
  return ir !== undefined || hasProgram(group.drafts[0].root);
}

function toDispatch(lowered: readonly LoweredGroup[], layout: Layout, target: Target): ToDispatch[] {
  return lowered.flatMap(({ group, ir }): ToDispatch[] => {
    if (ir !== undefined) return [{ group, ir, slots: slotsOf(ir) }];
    const { root } = group.drafts[0];
    return hasProgram(root) ? [ownDispatch(root, layout, target)] : [];
  });
}

/** Whether it is computed by a program of its own; where nothing is to be computed there is none. */
function hasProgram(root: Node): root is NodeOf<StructuralOf<"program">> {
  return isKind(root, "program") && size(root.shape) > 0;
}

function ownDispatch(root: NodeOf<StructuralOf<"program">>, layout: Layout, target: Target): Rendered {
  const from = root.src.map((source) => layout.source(source));
  const [to, ...others] = layout.targets(root);
  if (from.some((location) => location?.offset !== 0) || to === undefined || others.length > 0) {
    throw new InternalError(root.op, { got: "an operand inside another value", need: "memory of its own" });
  }
  const slots = [...from, to].flatMap((location) => location === undefined ? [] : [location.slot]);
  const program = ownProgram(root, target);
  return { program: target.language === "wasm" ? inWasm(root, program) : program, slots };
}

/** The codes of ops that have a program of their own, in WebAssembly. */
const codes: { readonly [K in StructuralOf<"program">]: (node: NodeOf<K>) => ProgramCode } = {
  argsort: ({ src: [keys], shape }) => {
    const length = shape.at(-1)!;
    return argsortCode(size(shape) / length, length, keys!.dtype);
  },
};

/** A program of JavaScript in WebAssembly. */
function inWasm(root: NodeOf<StructuralOf<"program">>, program: Program): Program {
  const code = codes[root.op](root);
  const { source, invocations } = program;
  const reference = flags().validate ? { reference: { source, invocations, roundsToHalf: false } } : {};
  return { ...program, ...reference, key: `wasm|${hashOf(code.body)}|${program.key}`, language: "wasm", code };
}

function slotsOf(ir: KernelIR): number[] {
  return ir.buffers.map((buffer) => buffer.slot);
}

/** Lets temporaries share memory, by other kernels where one writes its value over another. `memoryOf` gives the slot for each. */
function sharingMemory(
  kernels: readonly ToDispatch[],
  copies: Layout["copies"],
  layout: Layout,
  target: Target,
): { kernels: ToDispatch[]; memoryOf: (slot: number) => number } {
  const known = new Map<string, ToRender | undefined>();
  const overwriting = (step: number, old: number, fresh: number): ToRender | undefined => {
    const kernel = kernels[step];
    if (kernel === undefined || !("ir" in kernel)) return undefined;
    const key = `${step}:${old}:${fresh}`;
    if (!known.has(key)) known.set(key, writtenOver(kernel, old, fresh, layout, target));
    return known.get(key);
  };
  const memoryOf = shareTemporaries(
    layout.slots,
    [...kernels.map(({ slots }) => slots), ...copies.map(({ from, to }) => [from, to])],
    (step, old, fresh) => overwriting(step, old, fresh) !== undefined,
  );
  const changed = kernels.map((kernel, step) => {
    const pair = pairInOneMemory(kernel.slots, memoryOf);
    if (pair === undefined) return kernel;
    const [a, b] = pair;
    const other = overwriting(step, a, b) ?? overwriting(step, b, a);
    if (other === undefined) {
      throw new InternalError("compileGraph", {
        got: `slots ${pair} in one memory`,
        need: "a kernel that writes over what it reads",
      });
    }
    return other;
  });
  return { kernels: changed, memoryOf };
}

/** Two slots that share memory, of which there is one pair at most. */
function pairInOneMemory(slots: readonly number[], memoryOf: (slot: number) => number): [number, number] | undefined {
  const first = new Map<number, number>();
  for (const slot of slots) {
    const memory = memoryOf(slot);
    const other = first.get(memory) ?? slot;
    if (other !== slot) return [other, slot];
    first.set(memory, slot);
  }
  return undefined;
}

/** The kernel that writes its value of slot `fresh` over what it has read of `old`; undefined where that cannot be. */
function writtenOver(
  { group, ir }: ToRender,
  old: number,
  fresh: number,
  layout: Layout,
  target: Target,
): ToRender | undefined {
  const [source, ...others] = ir.buffers.filter(({ slot }) => slot === old);
  const result = ir.buffers.filter(({ slot }) => slot === fresh);
  if (source === undefined || others.length > 0 || result.length !== 1 || source.dtype !== result[0]!.dtype) {
    return undefined;
  }
  if (source.access !== "read" || !overwritesSlot(ir, old, fresh)) return undefined;
  const here = (location: Location | undefined) => location?.slot === old ? { ...location, slot: fresh } : location;
  const memory = { ...layout, source: (node: Node) => here(layout.source(node)) };
  const { ir: again } = lowerGroup(group, memory, target);
  if (again === undefined || !overwritesSlot(again, fresh, fresh)) return undefined;
  return { group, ir: again, slots: slotsOf(again), overwritten: old, memory };
}

/** Each program once, and the dispatches of them. */
function programsOf(rendered: readonly Rendered[]): { programs: Program[]; dispatches: PlanStep[] } {
  const programs: Program[] = [];
  const known = new Map<string, number>();
  const dispatches = rendered.map(({ program, slots }): PlanStep => {
    let index = known.get(program.key);
    if (index === undefined) known.set(program.key, index = programs.push(program) - 1);
    return { kind: "dispatch", program: index, slots };
  });
  return { programs, dispatches };
}

/** Steps with slots numbered anew, without those that nothing uses. */
function numbered(
  steps: readonly PlanStep[],
  layout: Layout,
  memoryOf: (slot: number) => number,
  target: Target,
): Pick<Plan, "steps" | "slots" | "inputs" | "outputs" | "temporaries"> {
  const touched = steps.flatMap((step) => step.kind === "dispatch" ? step.slots : [step.from, step.to]);
  const used = new Set([...touched, ...layout.outputs].map(memoryOf));
  const kept = [...layout.slots.entries()].filter(([slot]) => used.has(slot));
  const numbers = new Map(kept.map(([slot], number) => [slot, number]));
  const number = (slot: number): number => {
    const found = numbers.get(memoryOf(slot));
    if (found === undefined) throw new InternalError("compileGraph", { got: `slot ${slot}`, need: "one that is used" });
    return found;
  };
  // What no step reads has no number.
  const inputs = layout.inputs.map((slot) => numbers.get(slot) ?? -1);
  const outputs = layout.outputs.map(number);
  const outside = new Set([...inputs, ...outputs]);
  return {
    steps: steps.map((step) =>
      step.kind === "dispatch"
        ? { ...step, slots: step.slots.map(number) }
        : { ...step, from: number(step.from), to: number(step.to) }
    ),
    slots: kept.map(([, slot]) => bindable(slot, target)),
    inputs,
    outputs,
    temporaries: [...kept.keys()].filter((index) => !outside.has(index)),
  };
}

function bindable({ bytes, common }: SlotDraft, { maxBindingBytes }: Target): Plan["slots"][number] {
  if (bytes > maxBindingBytes) {
    throw new OutOfMemoryError("compileGraph", {
      got: `a value of ${bytes} bytes`,
      need: `at most ${maxBindingBytes} bytes, the largest that a kernel of this device can bind`,
    });
  }
  return common ? { bytes, common: true } : { bytes };
}

function strideOfItems({ bytes, common }: SlotDraft): number {
  return common ? 0 : bytes;
}

function roundsToHalf(ir: KernelIR): boolean {
  let rounds = false;
  eachStatement(
    ir.body,
    (statement) =>
      rounds ||= statement.kind === "let" && statement.expr.kind === "cast" && statement.expr.dtype === "f16",
  );
  return rounds;
}

/** 64 invocations are a multiple of every subgroup size in use. */
const workgroupSize = 64;

/**
 * A kernel in JavaScript, to compare with: the same one, or, where invocations work together, one of the same group for a device on
 * which they do not. Undefined where that reads or writes something else, or not in one go.
 */
function referenceOf({ group, ir, memory }: ToRender, layout: Layout, target: Target): Program["reference"] {
  const invocations = (kernel: KernelIR) => kernel.parallel.reduce((n, variable) => n * variable.extent, 1);
  if (!ir.together) {
    return { source: renderJs(ir), invocations: invocations(ir), roundsToHalf: roundsToHalf(ir) };
  }
  if (target.language !== "wasm") return undefined;
  const alone = lowerGroup(group, memory ?? layout, { ...target, language: "js", class: "js" }).ir;
  if (alone === undefined || alone.together) return undefined;
  const order = alone.buffers.map(({ slot, dtype, access }) =>
    ir.buffers.findIndex((own) => own.slot === slot && own.dtype === dtype && own.access === access)
  );
  if (order.includes(-1)) return undefined;
  const { loads } = accessesOf(alone);
  const inPlace = alone.buffers.filter(({ access }, buffer) =>
    access === "readWrite" && loads.some((load) => load.buffer === buffer)
  );
  if (!inPlace.every(({ slot }) => overwritesSlot(alone, slot, slot))) return undefined;
  return { source: renderJs(alone), invocations: invocations(alone), roundsToHalf: roundsToHalf(alone), order };
}

function renderProgram(
  kernel: ToRender,
  layout: Layout,
  target: Target,
  strides: readonly number[] | undefined,
): Program {
  const { group, ir, overwritten } = kernel;
  const bindings = ir.buffers.map(({ access, dtype }) => ({ access, dtype }));
  const invocations = ir.parallel.reduce((n, variable) => n * variable.extent, 1);
  // Every buffer at least once, whole; a part of a flat vector counts as all of it.
  const touched = overwritten === undefined ? slotsOf(ir) : [...slotsOf(ir), overwritten];
  const bytes = touched.reduce((sum, slot) => sum + layout.slots[slot]!.bytes, 0);
  const ofItems = strides === undefined ? {} : { strides };
  const common = { name: ir.name, bindings, invocations, flops: countOperations(ir), bytes, ...ofItems };
  if (target.language === "js") {
    const source = renderJs(ir);
    // The source does not tell the types of the arrays, nor what of them is an item's.
    const key = `${invocations}|${ir.buffers.map((buffer) => buffer.dtype)}|${strides ?? ""}|${source}`;
    return { ...common, key, language: "js", source, workgroups: [1, 1, 1] };
  }
  if (target.language === "wasm") {
    const reference = flags().validate ? referenceOf(kernel, layout, target) : undefined;
    const source = renderText(ir);
    const code = renderWasm(ir, target.relaxed === true);
    // Kernels that read alike may differ in what is known of their indices.
    const key = `wasm|${strides ?? ""}|${hashOf(code.body)}|${source}`;
    return { ...common, ...reference && { reference }, key, language: "wasm", source, code, workgroups: [1, 1, 1] };
  }
  const { source, workgroups } = renderWgsl(ir, {
    workgroupSize: Math.min(workgroupSize, target.maxInvocationsPerWorkgroup),
    maxWorkgroups: target.maxWorkgroupsPerDimension,
    rollLoops: !(target.rollLoops ?? target.class === "software")
      ? "no"
      : group.drafts[0]!.contraction !== undefined
      ? "partly"
      : "fully",
    f16: target.f16,
    guarded: target.varying !== undefined,
    strides,
  });
  const reference = flags().validate ? referenceOf(kernel, layout, target) : undefined;
  return {
    ...common,
    ...reference && { reference },
    key: `${workgroups}|${source}`,
    language: "wgsl",
    source,
    workgroups,
  };
}

/** A number of 32 bits of some bytes: FNV-1a. http://www.isthe.com/chongo/tech/comp/fnv */
function hashOf(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/** Which memory holds each value of a plan: roots and donated inputs first, then concatenated regions, then shared temporaries. */
import { byteLength } from "../../graph/build.ts";
import { isKind, type Node, type NodeOf } from "../../graph/node.ts";
import { size, strides } from "../../graph/shape.ts";
import type { StructuralOf } from "../../graph/structural.ts";
import type { Location, Marks } from "../kernel/location.ts";
import type { Watch, Watched } from "./watch.ts";

/** One slot while the plan is made. */
export interface SlotDraft {
  readonly bytes: number;
  /** The bytes of its value, without what `bytes` is rounded up by. */
  readonly needs: number;
  /** In a plan for items: whether all of them have it in common. */
  readonly common: boolean;
  readonly role: "input" | "output" | "temporary";
}

export interface Layout {
  readonly slots: SlotDraft[];
  /** The slot of each input; they are made for all, read or not. */
  readonly inputs: readonly number[];
  /** The slot of each root. */
  readonly outputs: readonly number[];
  /** Copies to be made when all kernels have run. */
  readonly copies: readonly { readonly from: number; readonly to: number; readonly bytes: number }[];
  readonly source: (node: Node) => Location | undefined;
  readonly targets: (node: Node) => readonly Location[];
  readonly marks: (node: Node) => readonly Marks[];
}

export interface LayoutRequest {
  readonly inputs: readonly Node[];
  readonly roots: readonly Node[];
  /** Nodes with memory of their own, sources first. */
  readonly stored: readonly Node[];
  /** Nodes that need memory of their own, even where they are part of a concatenation too. */
  readonly whole: ReadonlySet<Node>;
  /** Roots to be written over an input; those in `copied` are computed elsewhere and copied there at the end. */
  readonly donate: readonly { readonly input: number; readonly output: number }[];
  readonly copied: ReadonlySet<number>;
  /** For a plan for items: the inputs that all have in common. */
  readonly common?: ReadonlySet<Node> | undefined;
  /** Watched values as they are stored, and where their faults go. */
  readonly watch?: (Omit<Watch, "values"> & { readonly parts: ReadonlyMap<Node, readonly Watched[]> }) | undefined;
}

/** Parts of items begin where vectors may. */
const itemBytes = 16;

/** Gives memory to the inputs, then to the roots, then to all that is stored between them. */
export function layOut(request: LayoutRequest): Layout {
  const table = new SlotTable(request.common);
  const inputs = request.inputs.map((node) => table.add(node, "input"));
  const given = inputLocations(request.inputs, inputs);
  const { outputs, targets, copies } = placeRoots(request, table, inputs, given);
  placeStored(request, table, targets);
  return {
    slots: table.slots,
    inputs,
    outputs,
    copies,
    source: (node) => given.get(node) ?? targets.of(node)[0],
    targets: (node) => targets.of(node),
    marks: (node) => marksOf(node, request.watch, inputs),
  };
}

/** The slots that there are so far. */
class SlotTable {
  readonly slots: SlotDraft[] = [];
  readonly #common: ReadonlySet<Node> | undefined;

  constructor(common: ReadonlySet<Node> | undefined) {
    this.#common = common;
  }

  /** A new slot for a value; gives its number. */
  add(node: Node, role: SlotDraft["role"]): number {
    const isCommon = this.#common?.has(node);
    const needs = byteLength(node);
    // Temporaries are rounded up, so that more of them fit each other.
    const unit = role === "temporary" ? 256 : isCommon === false ? itemBytes : 4;
    const bytes = Math.ceil(Math.max(role === "temporary" ? 0 : 4, needs) / unit) * unit;
    return this.slots.push({ bytes, needs, role, common: role === "input" && isCommon === true }) - 1;
  }

  /** A new slot for a temporary, which has nothing else in it. */
  temporary(node: Node): Location {
    return whole(node, this.add(node, "temporary"));
  }
}

function whole(node: Node, slot: number): Location {
  return { slot, offset: 0, strides: strides(node.shape) };
}

/** Where values are stored, each in one place or several. */
class Targets {
  readonly #locations = new Map<Node, Location[]>();

  of(node: Node): readonly Location[] {
    return this.#locations.get(node) ?? [];
  }

  add(node: Node, location: Location): void {
    this.#locations.set(node, [...this.of(node), location]);
  }

  /** The place where others read it. */
  addFirst(node: Node, location: Location): void {
    this.#locations.set(node, [location, ...this.of(node)]);
  }
}

function inputLocations(inputs: readonly Node[], slots: readonly number[]): Map<Node, Location> {
  const locations = new Map<Node, Location>();
  for (const [i, node] of inputs.entries()) if (!locations.has(node)) locations.set(node, whole(node, slots[i]!));
  return locations;
}

/** Gives each root the slot of the input that it is written over, or one of its own, and says what is to be copied there. */
function placeRoots(
  { roots, donate, copied }: LayoutRequest,
  table: SlotTable,
  inputs: readonly number[],
  given: ReadonlyMap<Node, Location>,
): { outputs: number[]; targets: Targets; copies: Layout["copies"] } {
  const donated = new Map([...donate].reverse().map(({ input, output }) => [output, inputs[input]]));
  const outputs: number[] = [];
  const targets = new Targets();
  const copies: { from: number; to: number; bytes: number }[] = [];
  for (const [output, root] of roots.entries()) {
    const over = donated.get(output);
    const slot = over ?? table.add(root, "output");
    outputs.push(slot);
    if (given.has(root) || targets.of(root).length > 0) continue;
    if (over === undefined || !copied.has(output)) {
      targets.add(root, whole(root, slot));
    } else {
      const elsewhere = table.temporary(root);
      targets.add(root, elsewhere);
      copies.push({ from: elsewhere.slot, to: slot, bytes: byteLength(root) });
    }
  }
  // A root that exists already, or that stands twice, is copied.
  for (const [output, root] of roots.entries()) {
    const from = (targets.of(root)[0] ?? given.get(root))!.slot;
    const to = outputs[output]!;
    if (from !== to && !copies.some((copy) => copy.to === to)) copies.push({ from, to, bytes: byteLength(root) });
  }
  return { outputs, targets, copies };
}

/** Gives memory to what is stored and is no root, concatenations before their parts. */
function placeStored({ roots, stored, whole: apart }: LayoutRequest, table: SlotTable, targets: Targets): void {
  const wanted = new Set(roots);
  for (const node of [...stored].reverse()) {
    if (targets.of(node).length === 0) targets.add(node, table.temporary(node));
    else if (apart.has(node) && !wanted.has(node)) targets.addFirst(node, table.temporary(node));
    if (!isKind(node, "region")) continue;
    for (const region of targets.of(node)) placeParts(node, region, targets);
  }
}

/** The parts of a concatenation are made in its memory. */
function placeParts(node: NodeOf<StructuralOf<"region">>, region: Location, targets: Targets): void {
  const { axis } = node.attrs;
  const stride = region.strides[axis]!;
  let start = 0;
  for (const source of node.src) {
    const offset = region.offset + start * stride;
    if (node.shape.length === 1) {
      // Parts of a vector may have any shape.
      targets.add(source, { ...region, offset, strides: strides(source.shape).map((n) => n * stride) });
      start += size(source.shape);
    } else {
      targets.add(source, { ...region, offset });
      start += source.shape[axis]!;
    }
  }
}

function marksOf(node: Node, watch: LayoutRequest["watch"], inputs: readonly number[]): Marks[] {
  if (watch === undefined) return [];
  const slot = inputs[watch.faults]!;
  return (watch.parts.get(node) ?? []).map(({ number, each }) => ({ slot, number, each, boundary: watch.boundary }));
}

/** A value of so many bytes or more is written over another one. That may take a kernel of its own, which is to be compiled. */
export const overwriting = { fromBytes: 2 ** 20 };

/**
 * Lets temporaries share memory, also that of outputs which are not written yet. `uses` tells for each step which slots
 * it touches; `mayOverwrite`, whether it can write the value of slot `fresh` over that of `old`, which nothing reads
 * afterwards. Gives for each slot the one that stands for it: where one step's `old` and `fresh` are one, it is to do that. No
 * step has more than one such pair.
 *
 * Goes from the last step to the first: so an output's memory is free for others below the step that first writes it.
 */
export function shareTemporaries(
  slots: readonly SlotDraft[],
  uses: readonly (readonly number[])[],
  mayOverwrite: (step: number, old: number, fresh: number) => boolean,
): (slot: number) => number {
  const first = new Map<number, number>();
  const last = new Map<number, number>();
  uses.forEach((touched, step) => {
    for (const index of touched) {
      if (!first.has(index)) first.set(index, step);
      last.set(index, step);
    }
  });
  const standsFor = slots.map((_, index) => index);
  const endings = byStep(last, (index) => slots[index]!.role === "temporary");
  const beginnings = byStep(first, (index) => slots[index]!.role !== "input");
  const fits = (index: number, memory: number) => {
    const { bytes, role } = slots[memory]!;
    return bytes >= (role === "output" ? slots[index]!.needs : slots[index]!.bytes);
  };
  const free = new Set<number>();
  for (let step = uses.length - 1; step >= 0; step--) {
    const begun = beginnings.get(step) ?? [];
    let overwritten: number | undefined;
    for (const index of endings.get(step) ?? []) {
      // The smallest free one that is large enough, so that large ones stay for large values.
      let best = -1;
      for (const candidate of free) {
        if (fits(index, candidate) && (best < 0 || slots[candidate]!.bytes < slots[best]!.bytes)) best = candidate;
      }
      if (best >= 0) {
        free.delete(best);
        standsFor[index] = best;
      } else if (slots[index]!.bytes >= overwriting.fromBytes && overwritten === undefined) {
        overwritten = begun.find((fresh) =>
          fresh !== index && fits(index, standsFor[fresh]!) && mayOverwrite(step, index, fresh)
        );
        if (overwritten !== undefined) standsFor[index] = standsFor[overwritten]!;
      }
    }
    for (const index of begun) if (index !== overwritten) free.add(standsFor[index]!);
  }
  return (slot) => standsFor[slot] ?? slot;
}

/** The chosen ones of some slots by the step that is known of each. */
function byStep(steps: ReadonlyMap<number, number>, isChosen: (index: number) => boolean): Map<number, number[]> {
  const result = new Map<number, number[]>();
  for (const [index, step] of steps) {
    if (!isChosen(index)) continue;
    const list = result.get(step);
    if (list === undefined) result.set(step, [index]);
    else list.push(index);
  }
  return result;
}

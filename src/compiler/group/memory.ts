/** Which memory holds each value of a plan: roots and donated inputs first, then concatenated regions, then shared temporaries. */
import { byteLength } from "../../graph/build.ts";
import { isKind, type Node } from "../../graph/node.ts";
import { size, strides } from "../../graph/shape.ts";
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

export function layOut({ inputs, roots, stored, whole: apart, donate, copied, common, watch }: LayoutRequest): Layout {
  const slots: SlotDraft[] = [];
  const slot = (node: Node, role: SlotDraft["role"]) => {
    // Temporaries are rounded up, so that more of them fit each other.
    const unit = role === "temporary" ? 256 : common !== undefined && !common.has(node) ? itemBytes : 4;
    const bytes = Math.ceil(Math.max(role === "temporary" ? 0 : 4, byteLength(node)) / unit) * unit;
    slots.push({
      bytes,
      needs: byteLength(node),
      role,
      common: common !== undefined && role === "input" && common.has(node),
    });
    return slots.length - 1;
  };
  const whole = (node: Node, index: number): Location => ({ slot: index, offset: 0, strides: strides(node.shape) });
  const inputSlots = inputs.map((node) => slot(node, "input"));
  const sources = new Map<Node, Location>();
  inputs.forEach((node, i) => {
    if (!sources.has(node)) sources.set(node, whole(node, inputSlots[i]!));
  });

  const targets = new Map<Node, Location[]>();
  const addTarget = (node: Node, location: Location) => {
    const list = targets.get(node);
    if (list === undefined) targets.set(node, [location]);
    else list.push(location);
  };
  const copies: { from: number; to: number; bytes: number }[] = [];
  const outputs: number[] = [];
  roots.forEach((root, output) => {
    const donated = donate.find((pair) => pair.output === output);
    const first = !inputs.includes(root) && roots.indexOf(root) === output;
    const own = donated === undefined ? slot(root, "output") : inputSlots[donated.input]!;
    outputs.push(own);
    if (!first) return;
    if (donated === undefined || !copied.has(output)) {
      addTarget(root, whole(root, own));
    } else {
      const temporary = slot(root, "temporary");
      addTarget(root, whole(root, temporary));
      copies.push({ from: temporary, to: own, bytes: byteLength(root) });
    }
  });
  // A root that exists already, or that stands twice, is copied.
  roots.forEach((root, output) => {
    const from = sources.get(root)?.slot ?? outputs[roots.indexOf(root)]!;
    const firstTarget = targets.get(root)?.[0]?.slot ?? from;
    if (firstTarget !== outputs[output] && !copies.some((copy) => copy.to === outputs[output])) {
      copies.push({ from: firstTarget, to: outputs[output]!, bytes: byteLength(root) });
    }
  });

  for (let i = stored.length - 1; i >= 0; i--) {
    const node = stored[i]!;
    if (!targets.has(node)) addTarget(node, whole(node, slot(node, "temporary")));
    else if (apart.has(node) && !roots.includes(node)) targets.get(node)!.unshift(whole(node, slot(node, "temporary")));
    if (!isKind(node, "region")) continue;
    const { axis } = node.attrs;
    for (const region of targets.get(node)!) {
      let start = 0;
      for (const source of node.src) {
        const offset = region.offset + start * region.strides[axis]!;
        if (node.shape.length === 1) {
          // Parts of a vector may have any shape.
          addTarget(source, { ...region, offset, strides: strides(source.shape).map((n) => n * region.strides[0]!) });
          start += size(source.shape);
        } else {
          addTarget(source, { ...region, offset });
          start += source.shape[axis]!;
        }
      }
    }
  }
  for (const [node, locations] of targets) if (!sources.has(node)) sources.set(node, locations[0]!);
  return {
    slots,
    inputs: inputSlots,
    outputs,
    copies,
    source: (node) => sources.get(node),
    targets: (node) => targets.get(node) ?? [],
    marks: (node) => {
      if (watch === undefined) return [];
      const { parts, faults, boundary } = watch;
      return (parts.get(node) ?? []).map(({ number, each }) => ({ slot: inputSlots[faults]!, number, each, boundary }));
    },
  };
}

/** A value of so many bytes or more is written over another one. That may take a kernel of its own, which is to be compiled. */
export const overwriting = { fromBytes: 2 ** 20 };

/**
 * Lets temporaries share memory, also that of outputs which are not written yet. `uses` tells for each step which slots
 * it touches; `mayOverwrite`, whether it can write the value of slot `fresh` over that of `old`, which nothing reads
 * afterwards. Returns the slot that stands for each: where one step's `old` and `fresh` are one, it is to do that. No step
 * has more than one such pair.
 *
 * Goes from the last step to the first: so an output's memory is free for others below the step that first writes it.
 */
export function shareTemporaries(
  slots: readonly SlotDraft[],
  uses: readonly (readonly number[])[],
  mayOverwrite: (step: number, old: number, fresh: number) => boolean,
): number[] {
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
  return standsFor;
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

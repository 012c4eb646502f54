/** What a run of a plan is given: memory for each slot, and what is to be read of its outputs. */
import type { Plan } from "../../compiler/plan/plan.ts";
import { ArgumentError, InternalError } from "../../errors.ts";
import type { Words } from "../../graph/words.ts";
import type { DeviceBuffer, OutputRead } from "../device/device.ts";
import { type Block, requireRange } from "./pool.ts";

/** Bytes of a slot of a plan that is run for so many items; undefined where there is no such slot. */
export function slotBytes(plan: Plan, slot: number, items: number): number | undefined {
  const known = plan.slots[slot];
  return known && (plan.items === true && known.common !== true ? known.bytes * items : known.bytes);
}

/** Where the part of an item begins in a slot. */
export function partOffset(plan: Plan, slot: number, item: number): number {
  const known = plan.slots[slot];
  return item === 0 || known === undefined || known.common === true ? 0 : item * known.bytes;
}

/** Throws ArgumentError unless an executable can be run for so many items. */
export function requireItems(op: string, plan: Plan, items: number, most: number): void {
  if (Number.isInteger(items) && items >= 1 && items <= (plan.items === true ? most : 1)) return;
  throw new ArgumentError(op, {
    got: `${items} items`,
    need: plan.items === true ? `1 to ${most}` : "1: the plan is not for items",
  });
}

/** What a kernel in JavaScript is given of a buffer for an item; `stride` is in bytes, and 0 or absent for what is common. */
export function partOfItem(words: Words, stride: number | undefined, item: number): Words {
  if (stride === undefined || stride === 0) return words;
  const length = stride / words.BYTES_PER_ELEMENT;
  return words.subarray(item * length, (item + 1) * length);
}

/**
 * The memory of each slot of a plan for one run, of so many items. Throws ArgumentError when the number of buffers is not the plan's
 * or a buffer is smaller than its slot, InternalError when one slot is given two buffers.
 */
export function bindSlots<T>(
  plan: Plan,
  temporaries: readonly Block<T>[],
  inputs: readonly (DeviceBuffer | undefined)[],
  outputs: readonly DeviceBuffer[],
  blockOf: (buffer: DeviceBuffer) => Block<T>,
  items: number,
): (Block<T> | undefined)[] {
  if (inputs.length !== plan.inputs.length || outputs.length !== plan.outputs.length) {
    throw new ArgumentError("run", {
      got: `${inputs.length} inputs and ${outputs.length} outputs`,
      need: `${plan.inputs.length} and ${plan.outputs.length}, as in the plan`,
    });
  }
  const slots = new Array<Block<T> | undefined>(plan.slots.length).fill(undefined);
  const give = (what: "input" | "output", index: number, slot: number, buffer: DeviceBuffer | undefined): void => {
    if (buffer === undefined || slot < 0) return;
    const bytes = slotBytes(plan, slot, items);
    if (bytes === undefined || buffer.bytes < bytes) {
      throw new ArgumentError("run", {
        got: `${buffer.bytes} bytes for ${what} ${index}`,
        need: `${bytes} bytes or more`,
      });
    }
    const block = blockOf(buffer);
    const before = slots[slot];
    if (before !== undefined && before !== block) {
      throw new InternalError("run", {
        got: `two buffers for slot ${slot} (${what} ${index})`,
        need: "the same buffer for it",
      });
    }
    slots[slot] = block;
  };
  for (let i = 0; i < inputs.length; i++) give("input", i, plan.inputs[i]!, inputs[i]);
  for (let i = 0; i < outputs.length; i++) give("output", i, plan.outputs[i]!, outputs[i]);
  for (let i = 0; i < temporaries.length; i++) slots[plan.temporaries[i]!] = temporaries[i];
  return slots;
}

/** Throws ArgumentError for a read of an output that is not there, or of bytes that it does not have. */
export function checkReads(outputs: readonly DeviceBuffer[], reads: readonly OutputRead[]): void {
  for (const { output, into, offset = 0 } of reads) {
    const buffer = outputs[output];
    if (buffer === undefined) {
      throw new ArgumentError("runAndRead", { got: `output ${output}`, need: `one of ${outputs.length} outputs` });
    }
    requireRange("runAndRead", buffer, offset, into.byteLength);
  }
}

/** The same promises: one that rejects before anybody waits for it does not end the process. */
export function handled(promises: Promise<void>[]): Promise<void>[] {
  for (const promise of promises) promise.catch(() => {});
  return promises;
}

import type { Plan } from "../compiler/plan.ts";
import { ArgumentError, InternalError } from "../errors.ts";
import type { DeviceBuffer } from "./device.ts";
import type { Block } from "./pool.ts";

/**
 * The memory of each slot of a plan for one run. Throws ArgumentError when the number of buffers is not the plan's
 * or a buffer is smaller than its slot, InternalError when one slot is given two buffers.
 */
export function bindSlots<T>(
  plan: Plan,
  temporaries: readonly Block<T>[],
  inputs: readonly (DeviceBuffer | undefined)[],
  outputs: readonly DeviceBuffer[],
  blockOf: (buffer: DeviceBuffer) => Block<T>,
): (Block<T> | undefined)[] {
  if (inputs.length !== plan.inputs.length || outputs.length !== plan.outputs.length) {
    throw new ArgumentError("run", {
      got: `${inputs.length} inputs and ${outputs.length} outputs`,
      need: `${plan.inputs.length} and ${plan.outputs.length}, as in the plan`,
    });
  }
  const slots = new Array<Block<T> | undefined>(plan.slots.length).fill(undefined);
  const give = (what: string, slot: number, buffer: DeviceBuffer): void => {
    const bytes = plan.slots[slot]?.bytes;
    if (bytes === undefined || buffer.bytes < bytes) {
      throw new ArgumentError("run", { got: `${buffer.bytes} bytes for ${what}`, need: `${bytes} bytes or more` });
    }
    const block = blockOf(buffer);
    const before = slots[slot];
    if (before !== undefined && before !== block) {
      throw new InternalError("run", { got: `two buffers for slot ${slot} (${what})`, need: "the same buffer for it" });
    }
    slots[slot] = block;
  };
  plan.inputs.forEach((slot, index) => {
    const buffer = inputs[index];
    if (slot >= 0 && buffer !== undefined) give(`input ${index}`, slot, buffer);
  });
  plan.outputs.forEach((slot, index) => {
    const buffer = outputs[index];
    if (buffer !== undefined) give(`output ${index}`, slot, buffer);
  });
  plan.temporaries.forEach((slot, index) => slots[slot] = temporaries[index]);
  return slots;
}

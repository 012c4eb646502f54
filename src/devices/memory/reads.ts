/** Reads of a plan's outputs: what all devices do alike. */
import { ArgumentError } from "../../errors.ts";
import type { DeviceBuffer, OutputRead } from "../device/device.ts";
import { requireRange } from "./pool.ts";

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

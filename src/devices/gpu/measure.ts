/** How long a plan's kernels take on a device, by itself. */
import type { DeviceClass } from "../../compiler/plan/contraction-schedules.ts";
import type { Plan } from "../../compiler/plan/plan.ts";
import type { Measured } from "../../compiler/tuning.ts";
import { DeviceError } from "../../errors.ts";
import type { Device, DeviceBuffer, Executable } from "../device/device.ts";
import { listenToKernels, timesReported } from "../device/profile.ts";
import { WebGpuDevice } from "./webgpu.ts";

/** Clocks of GPUs have steps of up to 0.1 ms: what is shorter than this is run several times in a row for one measurement. */
const shortest = 2;
const mostTimes = 64;

/**
 * Makes a plan ready to be timed, on memory of its own with whatever is in it, and runs it a few times, as first runs do more
 * than others. Times are from the begin of the first kernel to the end of the last, by the GPU's own clock where it
 * tells. Rejects as `load`, `alloc` and `sync` do.
 */
export async function measurePlan(device: Device, plan: Plan): Promise<Measured> {
  const executables: Executable[] = [];
  const buffers = new Map<number, DeviceBuffer>();
  const release = () => {
    for (const executable of executables) executable.release();
    if (!device.isLost) { for (const buffer of buffers.values()) device.free(buffer); }
  };
  try {
    for (const slot of [...plan.inputs, ...plan.outputs]) {
      if (slot >= 0 && !buffers.has(slot)) buffers.set(slot, device.alloc(Math.max(4, plan.slots[slot]!.bytes)));
    }
    const [inputs, outputs] = [plan.inputs, plan.outputs].map((slots) => slots.map((slot) => buffers.get(slot)));
    const keys = new Set(plan.programs.map((program) => program.key));
    /** Times the plan, run so often in one submission. */
    const timed = async (times: number): Promise<() => Promise<number>> => {
      const steps = Array.from({ length: times }, () => plan.steps).flat();
      const executable = await device.load({ ...plan, steps });
      executables.push(executable);
      return async () => {
        let [begin, end] = [Infinity, -Infinity];
        const stop = listenToKernels("timestamp", ({ device: name, program, start, milliseconds }) => {
          if (name !== device.name || !keys.has(program.key)) return;
          begin = Math.min(begin, start);
          end = Math.max(end, start + milliseconds);
        });
        try {
          device.run(executable, inputs!, outputs as DeviceBuffer[]);
          await device.sync();
          await timesReported();
        } finally {
          stop();
        }
        if (!(end > begin)) {
          throw new DeviceError("tune", {
            got: `no time of ${plan.programs.length} kernels, run ${times} times`,
            need: "a clock of the device that tells it",
          });
        }
        return (end - begin) / times;
      };
    };
    const once = await timed(1);
    await once().catch(() => undefined);
    // What takes no step of the clock is run as often as may be.
    const milliseconds = await once().catch(() => 0);
    if (milliseconds >= shortest) return { run: once, release };
    return { run: await timed(Math.min(mostTimes, Math.ceil(shortest / milliseconds))), release };
  } catch (error) {
    release();
    throw error;
  }
}

/** Under which the table of a device's adapter is kept; one of its own for a class that the adapter is not of. */
export function tuningKeyOf(device: Device, as?: DeviceClass): string {
  const { tuned: _, ...target } = device.target;
  const key = device instanceof WebGpuDevice ? device.tuningKey : JSON.stringify([device.info, target]);
  return as === undefined || as === target.class ? key : `${key} as ${as}`;
}

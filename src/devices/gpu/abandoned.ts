import { endWithoutCleanUp } from "../../host/host.ts";
import type { DeviceInfo } from "../device/device.ts";
import { pollAside } from "../device/polling.ts";

/** Devices that were given up and work on. */
const abandoned = new Set<object>();
let cleanUp = () => {};

/**
 * Keeps a device that was given up, and with it `device` and what was made by it, until its work is done: then calls `end`. To
 * end it before would wait for its work, which may go on for ever, and so would its collection, and the runtime's clean-up at
 * the end of the program. Nothing here waits, nor keeps the process from ending.
 */
export function leaveBehind(owner: object, device: GPUDevice, runtime: DeviceInfo["runtime"], end: () => void): void {
  if (abandoned.size === 0) cleanUp = endWithoutCleanUp();
  abandoned.add(owner);
  if (runtime === "deno") return; // It can only be asked whether it is done by stopping the thread until it is.
  const stopPolling = runtime === "dawn" ? pollAside(() => answered(device)) : () => {};
  const done = () => {
    stopPolling();
    abandoned.delete(owner);
    if (abandoned.size === 0) cleanUp();
    end();
  };
  device.queue.onSubmittedWorkDone().then(done, done);
}

/** Waits for the device's instance only, not for its work. The promise is the driver's own: `pollAside` looks at who settles it. */
function answered(device: GPUDevice): Promise<unknown> {
  device.pushErrorScope("validation");
  return device.popErrorScope();
}

import { DeviceError } from "../errors.ts";
import { CpuDevice } from "./cpu/cpu.ts";
import type { Device } from "./device/device.ts";
import { WebGpuDevice } from "./gpu/webgpu.ts";

/**
 * Gives up a device that does not answer: it counts as lost from now on, and what waits for it rejects. Returns at once, whatever
 * the device does, and does not keep the process from ending. Its driver is told nothing, as that would wait for a kernel
 * that never ends, and goes on working on what it has; what it holds is let go of when that is done, on Deno's own WebGPU when
 * the process ends.
 */
export function abandonDevice(device: Device, message: string): void {
  device.abandon(message);
}

/** Makes a device behave as one that was lost, with this message. For tests of what is done about it. */
export function simulateLoss(device: Device, message = "simulated"): void {
  if (device instanceof CpuDevice || device instanceof WebGpuDevice) device.lose(message);
  else throw new DeviceError("simulateLoss", { got: device.name, need: "a cpu or gpu device" });
}

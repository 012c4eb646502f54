import { flags } from "../debug/flags.ts";
import { DeviceError } from "../errors.ts";
import { stderrLine } from "../host/host.ts";
import { optional } from "../signature/kinds.ts";
import { takes } from "../signature/takes.ts";
import type { Device } from "./device/device.ts";
import { device as deviceKind } from "./device/kinds.ts";
import { cpuWasAskedFor, firstDevice } from "./discovery.ts";

let chosen: Device | undefined;
let found: Promise<Device> | undefined;
/** What `found` came to. */
let known: Device | undefined;
let saidCpu = false;

const signatures = {
  defaultDevice: takes("defaultDevice", {}),
  setDefaultDevice: takes("setDefaultDevice", { device: optional(deviceKind) }),
};

/**
 * The device of tensors for which none was named: the one that was set, else the one that `SHARDWISE_DEVICE` names,
 * else the first hardware adapter, else the cpu device. Throws DeviceError when the one that was set is closed or
 * lost.
 */
export async function defaultDevice(): Promise<Device> {
  signatures.defaultDevice.check(arguments);
  if (chosen !== undefined) {
    if (!chosen.isLost) return chosen;
    throw new DeviceError("defaultDevice", {
      got: `${chosen.name}, which is gone`,
      need: "setDefaultDevice(an open device)",
    });
  }
  const before = found;
  const device = await before?.catch(() => undefined);
  if (device !== undefined && !device.isLost) return device;
  if (found === before) {
    const { device: name } = flags();
    found = name === undefined ? anyDevice() : firstDevice({ name });
  }
  return known = await (found ?? firstDevice());
}

/** The first GPU, else the cpu device: nobody asked for that one, so it is told, once. */
async function anyDevice(): Promise<Device> {
  const device = await firstDevice();
  if (device.kind === "cpu" && !saidCpu && !cpuWasAskedFor()) {
    saidCpu = true;
    stderrLine("shardwise: no GPU found, using the CPU");
  }
  return device;
}

/** The default device where it is open already and need not be looked for. */
export function knownDefaultDevice(): Device | undefined {
  const device = chosen ?? known;
  return device?.isLost === false ? device : undefined;
}

/**
 * Makes a device the default one; undefined goes back to the one that is found. Throws DeviceError for a closed
 * one.
 */
export function setDefaultDevice(device: Device | undefined): void {
  signatures.setDefaultDevice.check(arguments);
  if (device?.isLost === true) {
    throw new DeviceError("setDefaultDevice", { got: `${device.name}, which is gone`, need: "an open device" });
  }
  chosen = device;
}

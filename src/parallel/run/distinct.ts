import type { Device } from "../../devices/device/device.ts";
import { ArgumentError, DeviceError } from "../../errors.ts";

/** Throws ArgumentError for no devices, DeviceError for one listed twice. */
export function requireDistinct(op: string, devices: readonly Device[]): void {
  if (devices.length === 0) {
    throw new ArgumentError(op, { got: "no devices", need: "at least one, as from await devices()" });
  }
  const twice = devices.find((device, i) => devices.indexOf(device) !== i);
  if (twice !== undefined) {
    throw new DeviceError(op, {
      got: `${twice.name} twice in [${devices.map((device) => device.name).join(", ")}]`,
      need: "each device once; devices({ virtual: n }) makes several of one adapter",
    });
  }
}

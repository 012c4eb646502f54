export type { Device, DeviceBuffer, DeviceInfo, DeviceLoss, DeviceStats, Executable } from "./device/device.ts";
export { type DeviceOptions, devices } from "./discovery.ts";
export { defaultDevice, setDefaultDevice } from "./default.ts";
export { deviceById, openDevices } from "./device/registry.ts";
export { nullDevice } from "./cpu/null.ts";
export { simulateLoss } from "./loss.ts";

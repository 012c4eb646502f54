export type { Device, DeviceBuffer, DeviceInfo, DeviceLoss, DeviceStats, Executable } from "./device.ts";
export { type DeviceOptions, devices } from "./discovery.ts";
export { defaultDevice, setDefaultDevice } from "./default.ts";
export { deviceById, openDevices } from "./registry.ts";
export { nullDevice } from "./null.ts";
export { simulateLoss } from "./loss.ts";

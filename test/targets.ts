/** Targets to compile for without a device. */
import type { Target } from "../src/compiler/plan/plan.ts";

/** The cpu device. */
export const cpuTarget: Target = {
  language: "js",
  class: "js",
  subgroupSize: 0,
  f16: "native",
  maxStorageBuffersPerKernel: 64,
  maxInvocationsPerWorkgroup: 256,
  maxWorkgroupsPerDimension: 65535,
  maxBindingBytes: 2 ** 31,
};

/** A discrete GPU with the limits that every WebGPU device has. */
export const discreteTarget: Target = {
  ...cpuTarget,
  language: "wgsl",
  class: "discrete",
  subgroupSize: 32,
  maxStorageBuffersPerKernel: 8,
  maxBindingBytes: 2 ** 27,
};

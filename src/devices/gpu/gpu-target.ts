import type { Target } from "../../compiler/plan/plan.ts";
import type { DeviceInfo } from "../device/device.ts";
import { probeSubgroups } from "./subgroups.ts";
import type { OpenedGpu } from "./webgpu.ts";

/** Limits that matter to kernels; all are asked for as high as the adapter has them. */
const wantedLimits = [
  "maxStorageBuffersPerShaderStage",
  "maxStorageBufferBindingSize",
  "maxBufferSize",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeWorkgroupsPerDimension",
] as const;

const wantedFeatures = ["subgroups", "shader-f16", "timestamp-query"] as const;

/** Names of GPU APIs on the CPU: Mesa's, Google's and Microsoft's. */
const softwareNames = /llvmpipe|lavapipe|softpipe|swiftshader|\bwarp\b|basic render/i;

/** The facts of an adapter; `name` is what the runtime lists it as. */
export function adapterInfo(adapter: GPUAdapter, runtime: DeviceInfo["runtime"], name?: string): DeviceInfo {
  const { info } = adapter;
  const description = name ?? (info.description || info.device || info.vendor || "an unnamed adapter");
  return {
    vendor: info.vendor,
    architecture: info.architecture,
    description,
    software: info.isFallbackAdapter === true ||
      softwareNames.test(`${description} ${info.description} ${info.device} ${info.vendor}`),
    runtime,
  };
}

/**
 * Opens a GPUDevice with all that the adapter offers; `key` tells which adapter it is. Rejects as `requestDevice`
 * does.
 */
export async function openGpu(
  adapter: GPUAdapter,
  info: DeviceInfo,
  key: string,
  label: string,
  ended: OpenedGpu["ended"],
): Promise<OpenedGpu> {
  const requiredLimits: Record<string, number> = {};
  for (const limit of wantedLimits) {
    const value = adapter.limits[limit];
    if (typeof value === "number") requiredLimits[limit] = value;
  }
  const device = await adapter.requestDevice({
    label,
    requiredLimits,
    requiredFeatures: wantedFeatures.filter((feature) => adapter.features.has(feature)),
  });
  const { limits, features } = device;
  const target: Target = {
    language: "wgsl",
    class: adapterClass(info),
    subgroupSize: await probeSubgroups(key, adapter, device),
    f16: device.features.has("shader-f16") ? "native" : "packed",
    maxStorageBuffersPerKernel: Math.min(limits.maxStorageBuffersPerShaderStage, limits.maxBindingsPerBindGroup),
    maxInvocationsPerWorkgroup: Math.min(limits.maxComputeInvocationsPerWorkgroup, limits.maxComputeWorkgroupSizeX),
    maxWorkgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
    maxBindingBytes: wholeWords(limits.maxStorageBufferBindingSize),
  };
  // Whatever may make another schedule the fastest. WebGPU's own description tells the driver, where it tells anything.
  const { vendor, architecture, device: model, description } = adapter.info;
  const tuningKey = JSON.stringify([info, vendor, architecture, model, description, [...features].sort(), target]);
  return { device, info, target, tuningKey, maxBufferBytes: wholeWords(limits.maxBufferSize), ended };
}

function adapterClass({ software, vendor, description }: DeviceInfo): Target["class"] {
  if (software) return "software";
  const text = `${vendor} ${description}`;
  // WebGPU does not tell; memory of its own is what NVIDIA's and AMD's cards and Intel's Arc have.
  return /nvidia|geforce|quadro|tesla|\bamd\b|radeon|\barc\b/i.test(text) ? "discrete" : "integrated";
}

function wholeWords(bytes: number): number {
  return Math.floor(bytes / 4) * 4;
}

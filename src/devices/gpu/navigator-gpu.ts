import { DeviceError } from "../../errors.ts";
import { environment, runtime, withEnvironment } from "../../host/host.ts";
import type { Adapter } from "./adapters.ts";
import { adapterInfo } from "./gpu-target.ts";

let instanceUsed = false;

/** Whether the runtime has WebGPU of its own. */
export function hasNavigatorGpu(): boolean {
  return navigatorGpu() !== undefined;
}

/**
 * The adapters of the runtime's own WebGPU, which does not list them: those that it gives for each wish that it can
 * be asked. `virtual` tells that several devices on one adapter are wanted.
 */
export async function navigatorAdapters(virtual: boolean): Promise<Adapter[]> {
  const gpu = navigatorGpu();
  if (gpu === undefined) return [];
  const wishes: GPURequestAdapterOptions[] = [
    { powerPreference: "high-performance" },
    { powerPreference: "low-power" },
    { forceFallbackAdapter: true },
  ];
  // The first request decides for the process how many threads Mesa's software device has; without its pool, devices
  // compute on threads of their own and so run at once.
  const variables: Record<string, string> = {};
  if (!instanceUsed && virtual && environment("LP_NUM_THREADS") === undefined) variables["LP_NUM_THREADS"] = "0";
  instanceUsed = true;
  return await withEnvironment(variables, async () => {
    const found = new Map<string, Adapter>();
    for (const wish of wishes) {
      const adapter = await gpu.requestAdapter(wish).catch(() => null);
      if (adapter === null) continue;
      const info = adapterInfo(adapter, runtime === "deno" ? "deno" : "browser");
      const key = `${info.runtime} ${info.vendor} ${info.architecture} ${info.description} ${info.software}`;
      if (found.has(key)) continue;
      found.set(key, {
        key,
        info,
        async request() {
          const fresh = await gpu.requestAdapter(wish);
          if (fresh === null) {
            throw new DeviceError("devices", { got: `${info.description}, which is gone`, need: "an adapter" });
          }
          return fresh;
        },
        giveUp: () => () => {},
      });
    }
    return [...found.values()];
  });
}

function navigatorGpu(): GPU | undefined {
  return (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;
}

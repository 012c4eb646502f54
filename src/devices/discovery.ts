import { flags, mostThreads } from "../debug/flags.ts";
import { ArgumentError, DeviceError } from "../errors.ts";
import { memoryBytes, runtime } from "../host/host.ts";
import { boolean, number, oneOf, options, string } from "../signature/kinds.ts";
import { takes } from "../signature/takes.ts";
import { CpuDevice } from "./cpu/cpu.ts";
import type { Device } from "./device/device.ts";
import { pollFor } from "./device/polling.ts";
import { claimIdentity, forget, type Identity, openOnce } from "./device/registry.ts";
import type { Adapter, Slot } from "./gpu/adapters.ts";
import { dawnAdapters } from "./gpu/dawn.ts";
import { openGpu } from "./gpu/gpu-target.ts";
import { hasNavigatorGpu, navigatorAdapters } from "./gpu/navigator-gpu.ts";
import { WebGpuDevice } from "./gpu/webgpu.ts";

/** Which devices are wanted. */
export interface DeviceOptions {
  /**
   * GPUs only (a software adapter where there is no hardware one), or the cpu device only. By default hardware GPUs, or the
   * cpu device where there is none.
   */
  readonly kind?: "gpu" | "cpu" | undefined;
  /** This many logical devices, 1 to 1024, on the first adapter (or the CPU), instead of one on each. */
  readonly virtual?: number | undefined;
  /** `cpu`, `gpu`, or part of an adapter's name. By default any. */
  readonly name?: string | undefined;
  /** In Deno its own WebGPU ("deno", the default there), or Dawn's through the npm package `webgpu`, as in Node. */
  readonly runtime?: "dawn" | "deno" | undefined;
  /** Only software adapters, or none of them. By default those are taken only where `kind` asks for a GPU and there is no other. */
  readonly software?: boolean | undefined;
  /**
   * The most bytes that each of these devices may hold; half of the machine's memory by default, where it is
   * computed in.
   */
  readonly memoryBytes?: number | undefined;
  /**
   * Threads that each of these devices computes on, 1 to 256, where they are cpu devices; by default as many as there are
   * processors, 8 at most. Results are the same for any number, to the last bit. One thread where memory cannot be shared, as in a
   * page that is not isolated from others.
   */
  readonly threads?: number | undefined;
}

/** Logical devices on one adapter. */
const mostVirtual = 1024;

const signature = takes("devices", {
  options: options<DeviceOptions>({
    kind: oneOf("gpu", "cpu"),
    virtual: number,
    name: string,
    runtime: oneOf("dawn", "deno"),
    software: boolean,
    memoryBytes: number,
    threads: number,
  }),
});

let asked = false;

/** Whether the program has asked for cpu devices, so that it need not be told of one. */
export function cpuWasAskedFor(): boolean {
  return asked;
}

/**
 * Opens devices: every hardware adapter, or the cpu device when there is none. The same device is the same object
 * as long as it is open, virtual ones too. Rejects with ArgumentError for bad options and DeviceError when there is no
 * device of the kind or name that was asked for.
 */
export async function devices(options: DeviceOptions = {}): Promise<Device[]> {
  signature.check(arguments);
  const wanted = normalize(options);
  if (wanted.kind === "cpu") {
    asked = true;
    return cpuDevices(wanted);
  }
  const { chosen, refusal } = await chooseAdapters(wanted);
  if (chosen.length === 0) {
    if (wanted.kind === "gpu" || wanted.name !== undefined || wanted.software !== undefined) throw refusal;
    return cpuDevices(wanted);
  }
  const first = chosen[0];
  const count = wanted.virtual ?? 1;
  if (count === 1 || first === undefined) {
    const some = wanted.virtual === 1 ? chosen.slice(0, 1) : chosen;
    return await Promise.all(
      some.map((adapter) => gpuDevice(adapter, { index: 0, virtual: false }, wanted.memoryBytes)),
    );
  }
  const slots = Array.from({ length: count }, (_, index): Slot => ({ index, virtual: true }));
  return await Promise.all(slots.map((slot) => gpuDevice(first, slot, wanted.memoryBytes)));
}

/** The first device that `devices(options)` gives. */
export async function firstDevice(options: DeviceOptions = {}): Promise<Device> {
  const device = (await devices({ ...options, virtual: options.virtual ?? 1 }))[0];
  if (device === undefined) throw new DeviceError("devices", { got: "none", need: "one" });
  return device;
}

function normalize(options: DeviceOptions): DeviceOptions {
  const { virtual, kind, name, runtime: served, memoryBytes: bytes, threads } = options;
  const refuse = (got: string, need: string): never => {
    throw new ArgumentError("devices", { got, need });
  };
  if (virtual !== undefined && !(Number.isInteger(virtual) && virtual >= 1 && virtual <= mostVirtual)) {
    refuse(`virtual: ${virtual}`, `a whole number from 1 to ${mostVirtual}`);
  }
  if (served === "deno" && runtime !== "deno") refuse(`runtime: "deno" in ${runtime}`, 'Deno, or runtime: "dawn"');
  if (bytes !== undefined && !(bytes > 0)) refuse(`memoryBytes: ${bytes}`, "a positive number of bytes");
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= mostThreads)) {
    refuse(`threads: ${threads}`, `a whole number from 1 to ${mostThreads}`);
  }
  if (name !== "cpu" && name !== "gpu") return options;
  if (kind !== undefined && kind !== name) refuse(`name: "${name}" with kind: "${kind}"`, "one of them, or the same");
  const { name: _, ...rest } = options;
  return { ...rest, kind: name };
}

async function chooseAdapters(wanted: DeviceOptions): Promise<{ chosen: Adapter[]; refusal: DeviceError }> {
  const own = wanted.runtime !== "dawn" && runtime !== "node" && hasNavigatorGpu();
  const isHardware = ({ info }: Adapter) => !info.software;
  let trouble: DeviceError | undefined;
  let all: Adapter[] = [];
  try {
    if (own) all = await navigatorAdapters((wanted.virtual ?? 1) > 1);
    else if (runtime !== "browser") {
      const any = wanted.name !== undefined || wanted.software === true;
      if (!any) all = await dawnAdapters("hardware");
      // What was not looked for is to be told where nothing else is found.
      if (any || ((wanted.kind === "gpu" || wanted.software === false) && !all.some(isHardware))) {
        all = await dawnAdapters("all");
      }
    }
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    trouble = error;
  }
  const hardware = all.filter(isHardware);
  const software = all.filter(({ info }) => info.software);
  const described = all.map(({ info }) => `"${info.description}"`).join(", ") ||
    `no adapter${trouble === undefined ? "" : `, because there is ${trouble.got}`}`;
  const refusal = new DeviceError("devices", {
    got: wanted.name === undefined ? described : `${described}, for the name "${wanted.name}"`,
    need: trouble !== undefined
      ? trouble.need
      : wanted.name === undefined && all.length === 0
      ? "a GPU with its Vulkan driver (Metal and Direct3D 12 come with their systems), or a software adapter: on Debian " +
        "and Ubuntu, install mesa-vulkan-drivers and libvulkan1 (on Debian 12 those of bookworm-backports)"
      : "an adapter as asked for",
  });
  if (wanted.name !== undefined) {
    const part = wanted.name.toLowerCase();
    const named = all.filter(({ info }) =>
      [info.description, info.vendor, info.architecture].some((text) => text.toLowerCase().includes(part)) &&
      (wanted.software === undefined || info.software === wanted.software)
    );
    return { chosen: named, refusal };
  }
  if (wanted.software !== undefined) return { chosen: wanted.software ? software : hardware, refusal };
  return { chosen: hardware.length > 0 || wanted.kind !== "gpu" ? hardware : software, refusal };
}

async function cpuDevices({ virtual = 1, memoryBytes: budget, threads }: DeviceOptions): Promise<Device[]> {
  const indices = Array.from({ length: virtual }, (_, index) => index);
  const opened = await Promise.all(
    indices.map((index) =>
      openOnce(`cpu ${index}`, () => Promise.resolve(new CpuDevice(claimIdentity("cpu"), budgetOf(budget, true))))
    ),
  );
  for (const device of opened) {
    setBudget(device, budget);
    if (threads !== undefined && device instanceof CpuDevice) device.threads = threads;
  }
  return opened;
}

async function gpuDevice(adapter: Adapter, slot: Slot, budget: number | undefined): Promise<Device> {
  const key = `${adapter.key} ${slot.virtual ? `virtual ${slot.index}` : "whole"}`;
  const device = await openOnce(key, async () => {
    const identity = claimIdentity("gpu");
    try {
      return await openWebGpu(adapter, slot, identity, budget);
    } catch (cause) {
      forget(identity);
      if (cause instanceof DeviceError) throw cause;
      throw new DeviceError("devices", {
        got: `${adapter.info.description}, which does not open: ${String(cause)}`,
        need: "an adapter that works",
        cause,
      });
    }
  });
  setBudget(device, budget);
  return device;
}

async function openWebGpu(
  adapter: Adapter,
  slot: Slot,
  identity: Identity,
  budget: number | undefined,
): Promise<Device> {
  const { info, key } = adapter;
  const stopPolling = info.runtime === "dawn" ? pollFor(info.software) : () => {};
  const open = async () => {
    return await openGpu(await adapter.request(slot), info, key, identity.name, (how) => {
      stopPolling();
      return how === "abandoned" ? adapter.giveUp(slot) : undefined;
    });
  };
  try {
    const gpu = await open().catch(async () => {
      // What served a device that was lost may have gone with it. It cannot be ended, so that it is kept, to be tried again.
      const keep = adapter.giveUp(slot);
      return await open().finally(keep);
    });
    return new WebGpuDevice(identity, gpu, budgetOf(budget, info.software));
  } catch (error) {
    stopPolling();
    throw error;
  }
}

/** A GPU's memory is not told to us, so that only the driver can refuse; the machine's is, and it over-commits. */
function budgetOf(given: number | undefined, inMachine: boolean): number {
  return given ?? flags().memoryBytes ?? (inMachine ? (memoryBytes() ?? 4 * 2 ** 30) / 2 : Infinity);
}

function setBudget(device: Device, budget: number | undefined): void {
  if (budget === undefined) return;
  if (device instanceof CpuDevice || device instanceof WebGpuDevice) device.budget = budget;
}

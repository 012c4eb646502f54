import { DeviceError } from "../../errors.ts";
import {
  architecture,
  environment,
  mayLoadLibrary,
  mayUseEnvironment,
  mayUseFolder,
  pathOfUrl,
  platform,
  runtime,
  stderrLine,
  syncFiles,
  withEnvironment,
} from "../../host/host.ts";
import type { Adapter, Slot } from "./adapters.ts";
import { adapterInfo } from "./gpu-target.ts";

/** What the npm package `webgpu` exports. */
interface DawnModule {
  create(options: string[]): GPU;
}

interface ListedAdapter {
  readonly backend: string;
  readonly name: string;
  /** What in the environment tells it from adapters of the same name. */
  readonly variables: Readonly<Record<string, string>>;
}

/** An adapter is listed once for each of Dawn's backends; the first of these that has it is used. */
const backends = ["metal", "d3d12", "vulkan", "d3d11", "opengl", "opengles"];

/** A name that no adapter has: asking for it makes Dawn tell all names, which is the only listing there is. */
const noSuchAdapter = "<none such>";

/**
 * The objects that `create()` gave. One that is collected while a device of it lives ends the process, so none is
 * ever let go, and with it stay threads of the driver's (five of Mesa's software device, one for each virtual device); they
 * are few, because that of a device that was closed or lost is used again, and that of one which does not answer when it
 * does.
 */
const pinned: GPU[] = [];
const instances = new Map<string, GPU>();
/** Instances to be used again where there is none. */
const spare = new Map<string, GPU[]>();

/** Which adapters are looked for; software ones may be among those for hardware. */
type Wanted = "hardware" | "all";
const listed = new Map<Wanted, Promise<Adapter[]>>();

/**
 * The adapters that Dawn's Node binding finds. Rejects with DeviceError when the npm package `webgpu` cannot be
 * loaded. Where hardware is wanted, Mesa's software driver is not even loaded, as Dawn writes warnings about it to standard
 * error, which nothing can keep it from; nor is Dawn where Linux has no hardware, about which it would say more.
 */
export async function dawnAdapters(wanted: Wanted): Promise<Adapter[]> {
  // Where it cannot be told, or not be done, all are listed at once.
  if (wanted === "hardware" && (mayHaveGpus() === undefined || !mayUseEnvironment(driversDisabled))) {
    return dawnAdapters("all");
  }
  const listing = listed.get(wanted) ?? listAdapters(wanted);
  listed.set(wanted, listing);
  const adapters = await listing.catch((error: unknown) => {
    listed.delete(wanted);
    throw error;
  });
  // None may be there because the environment is not set up yet; asking again costs little.
  if (adapters.length === 0 && listed.get(wanted) === listing) listed.delete(wanted);
  return adapters;
}

async function listAdapters(wanted: Wanted): Promise<Adapter[]> {
  const hasHardware = wanted === "hardware" ? mayHaveGpus() : undefined;
  if (hasHardware === false) return [];
  const dawn = await loadDawn();
  const adapters: Adapter[] = [];
  for (const found of await distinct(dawn, await list(dawn, hasHardware === true ? withoutSoftware() : {}))) {
    const adapter = await dawnAdapter(dawn, found);
    if (adapter !== undefined) adapters.push(adapter);
  }
  return adapters;
}

/** Drivers that Vulkan's loader passes over. */
const driversDisabled = "VK_LOADER_DRIVERS_DISABLE";

/** What keeps it from Mesa's software driver. */
function withoutSoftware(): Record<string, string> {
  const before = environment(driversDisabled);
  return { [driversDisabled]: before === undefined ? "*lvp*" : `${before},*lvp*` };
}

/** Files by which Linux's drivers are reached: Mesa's in a folder of their own, NVIDIA's, WSL's and some of mobile chips. */
const driverFiles = /^(nvidia|nvhost|nvmap|dxg|mali|kgsl|galcore|pvr)/;

/** Whether Linux has hardware; undefined where that cannot be told, as on other systems. */
function mayHaveGpus(): boolean | undefined {
  const names = platform === "linux" ? namesIn("/dev") : undefined;
  if (names === undefined || names.some((name) => driverFiles.test(name))) return names && true;
  return names.includes("dri") ? namesIn("/dev/dri")?.some((name) => name.startsWith("renderD")) : false;
}

/** What is in a folder, in order; undefined where it may not be read, or is not there. */
function namesIn(folder: string): string[] | undefined {
  if (!mayUseFolder(folder, { write: false })) return undefined;
  try {
    return syncFiles()?.readdirSync(folder).sort();
  } catch {
    return undefined;
  }
}

/** The library of the package, where that lies in a folder and not in Deno's own cache. */
function libraryPath(): string | undefined {
  try {
    const index = pathOfUrl(import.meta.resolve("webgpu"));
    const build = platform === "darwin" ? "darwin-universal" : `${platform}-${architecture}`;
    return index?.replace(/[^/\\]*$/, `dist/${build}/dawn.node`);
  } catch {
    return undefined;
  }
}

async function loadDawn(): Promise<DawnModule> {
  if (!mayLoadLibrary(undefined) && !mayLoadLibrary(libraryPath())) {
    throw new DeviceError("devices", {
      got: "no permission to load the npm package webgpu",
      need: "deno run --allow-ffi",
    });
  }
  try {
    return await import("webgpu") as DawnModule;
  } catch (cause) {
    if (runtime === "deno") {
      // A Deno program that lists no npm dependencies can still name one in full.
      const inFull: string = "npm:webgpu@0.6.2";
      try {
        return await import(inFull) as DawnModule;
      } catch {
        // The first error tells more.
      }
    }
    throw new DeviceError("devices", {
      got: `no npm package webgpu that loads here (${String(cause).split("\n")[0]})`,
      need: "npm install webgpu, on a system that it supports",
      cause,
    });
  }
}

/** What Dawn lists with these variables set. */
async function list(dawn: DawnModule, variables: Readonly<Record<string, string>>): Promise<ListedAdapter[]> {
  const message = await withEnvironment(variables, async () => {
    const gpu = pin(dawn.create([`adapter=${noSuchAdapter}`]));
    return await gpu.requestAdapter().then(() => "", String);
  });
  return parseListing(message).map((found) => ({ ...found, variables }));
}

/** The adapters in the text of Dawn's error, each by its best backend. */
export function parseListing(message: string): { backend: string; name: string }[] {
  const all = [...message.matchAll(/^\s*\* backend: '([^']*)', name: '(.*)'$/gm)].map((
    [, backend = "", name = ""],
  ) => ({
    backend,
    name,
  }));
  const best = new Map<string, string>();
  for (const { backend, name } of all) {
    const before = best.get(name);
    const order = (wanted: string) => (backends.includes(wanted) ? backends.indexOf(wanted) : backends.length);
    if (before === undefined || order(backend) < order(before)) best.set(name, backend);
  }
  return all.filter(({ backend, name }) => best.get(name) === backend && backend !== "null");
}

/**
 * Adapters that can each be asked for. Dawn takes the first whose name contains the one given, so identical GPUs need
 * another way: Mesa's device-select layer shows only the one at a PCI address.
 */
async function distinct(dawn: DawnModule, found: readonly ListedAdapter[]): Promise<ListedAdapter[]> {
  const names = [...new Set(found.map(({ name }) => name))];
  const result: ListedAdapter[] = [];
  for (const name of names) {
    const same = found.filter((adapter) => adapter.name === name);
    const first = same[0];
    if (first === undefined) continue;
    const hidden = found.slice(0, found.indexOf(first)).some((earlier) => earlier.name.includes(name));
    if (same.length === 1 && !hidden) {
      result.push(first);
      continue;
    }
    const apart = await byPciAddress(dawn, first);
    if (apart.length < same.length) {
      stderrLine(
        `shardwise: ${same.length} adapters are called "${name}" and ${
          Math.max(apart.length, 1)
        } of them can be told apart; ` +
          "Mesa's Vulkan device-select layer would do it",
      );
    }
    result.push(...(apart.length > 0 ? apart : hidden ? [] : [first]));
  }
  return result;
}

async function byPciAddress(dawn: DawnModule, { name, variables }: ListedAdapter): Promise<ListedAdapter[]> {
  if (environment("DRI_PRIME") !== undefined) return [];
  const result: ListedAdapter[] = [];
  for (const address of displayControllers()) {
    const found = await list(dawn, { ...variables, DRI_PRIME: `pci-${address.replace(/[:.]/g, "_")}!` });
    const only = found[0];
    if (found.length === 1 && only !== undefined && only.name === name) result.push(only);
  }
  return result;
}

/** PCI addresses of the machine's display controllers, in order. */
function displayControllers(): string[] {
  const fs = syncFiles();
  const folder = "/sys/bus/pci/devices";
  if (fs === undefined || platform !== "linux") return [];
  try {
    return (namesIn(folder) ?? []).filter((address) =>
      fs.readFileSync(`${folder}/${address}/class`, "utf8").startsWith("0x03")
    );
  } catch {
    return []; // No PCI bus to look at.
  }
}

async function dawnAdapter(dawn: DawnModule, found: ListedAdapter): Promise<Adapter | undefined> {
  const address = found.variables["DRI_PRIME"] ?? "";
  const key = `dawn ${found.backend} ${found.name} ${address}`;
  // The adapter of the first request tells what it is, and serves the first device.
  let first: GPUAdapter | null = null;
  const adapterFor = async (slot: Slot, software: boolean): Promise<GPUAdapter | null> => {
    const variables: Record<string, string> = { ...found.variables };
    // Mesa's software device shares one pool of threads among the devices of an instance. Without the pool each device
    // computes on a thread of its own, and devices of several instances run at once.
    if (software && slot.virtual && environment("LP_NUM_THREADS") === undefined) variables["LP_NUM_THREADS"] = "0";
    return await withEnvironment(variables, async () => {
      const own = instanceKey(key, slot);
      let gpu = instances.get(own);
      if (gpu === undefined) {
        gpu = spare.get(own)?.pop() ?? pin(dawn.create([`backend=${found.backend}`, `adapter=${found.name}`]));
        instances.set(own, gpu);
      }
      return await gpu.requestAdapter();
    });
  };
  try {
    first = await adapterFor({ index: 0, virtual: false }, false);
  } catch {
    return undefined; // Listed, but not usable for WebGPU.
  }
  if (first === null) return undefined;
  const info = adapterInfo(first, "dawn", found.name);
  return {
    key,
    info,
    async request(slot) {
      // An adapter of Dawn's is good for one device.
      const ready = slot.virtual ? null : first;
      if (!slot.virtual) first = null;
      const adapter = ready ?? await adapterFor(slot, info.software);
      if (adapter === null) {
        throw new DeviceError("devices", { got: `${found.name}, which is gone`, need: "an adapter" });
      }
      return adapter;
    },
    giveUp(slot) {
      const own = instanceKey(key, slot);
      const gpu = instances.get(own);
      instances.delete(own);
      if (!slot.virtual) first = null;
      return () => {
        if (gpu !== undefined) spare.set(own, [...spare.get(own) ?? [], gpu]);
      };
    },
  };
}

function instanceKey(key: string, slot: Slot): string {
  return slot.virtual ? `${key} virtual ${slot.index}` : key;
}

function pin(gpu: GPU): GPU {
  pinned.push(gpu);
  return gpu;
}

/** One graph on several devices: compiled once for each kind of device, its plan loaded once on each device. */
import { planOf } from "../../compiler/cache.ts";
import type { CompileRequest } from "../../compiler/compile.ts";
import type { Plan } from "../../compiler/plan/plan.ts";
import type { Device, DeviceBuffer, Executable } from "../../devices/device/device.ts";
import { PlanFamily } from "../../devices/device/family.ts";
import { byteLength } from "../../graph/build.ts";

/** A plan that is ready on a device, with buffers for inputs that the host writes anew for each run. */
export interface LoadedPlan {
  /** Of a plan for items, ready for at least as many as were asked for. */
  readonly executable: Executable;
  /** One for each input of the request that is among `written`; undefined for the others. */
  readonly written: readonly (DeviceBuffer | undefined)[];
}

/** What the items that run at once may take on a device. */
const mostBytes = 2 ** 28;

/** Bytes from an item's part of an input to that of the next; 0 where all have it in common, or it is not read. */
export function inputStride({ plan }: Executable, input: number): number {
  const slot = plan.slots[plan.inputs[input]!];
  return plan.items !== true || slot?.common === true ? 0 : slot?.bytes ?? 0;
}

/** The same of an output, whose parts are never in common. Of a plan that is not for items, its size. */
export function outputStride({ plan }: Executable, output: number): number {
  return plan.slots[plan.outputs[output]!]!.bytes;
}

/** The same of all outputs of the last of several plans. */
export function outputStrides(plans: readonly LoadedPlan[]): number[] {
  const { executable } = plans[plans.length - 1]!;
  return executable.plan.outputs.map((_, output) => outputStride(executable, output));
}

/** Buffers of so many bytes each; all of them or none. */
export function allocAll(device: Device, bytes: readonly number[]): DeviceBuffer[] {
  const buffers: DeviceBuffer[] = [];
  try {
    for (const count of bytes) buffers.push(device.alloc(count));
    return buffers;
  } catch (error) {
    freeAll(device, buffers);
    throw error;
  }
}

export function freeAll(device: Device, buffers: readonly DeviceBuffer[]): void {
  if (device.isLost) return;
  for (const buffer of buffers) device.free(buffer);
}

type Loaded = Map<Device, Promise<LoadedPlan>>;

const collected = new FinalizationRegistry<Loaded>((loaded) => void giveBack(loaded));

async function giveBack(loaded: Loaded): Promise<void> {
  const all = [...loaded];
  loaded.clear();
  for (const [device, promise] of all) {
    const plan = await promise.catch(() => undefined);
    if (device.isLost) continue;
    plan?.executable.release();
    for (const buffer of plan?.written ?? []) if (buffer !== undefined) device.free(buffer);
  }
}

export class SharedGraph {
  readonly request: CompileRequest;
  readonly #written: ReadonlySet<number>;
  readonly #family: FamilyMember | undefined;
  readonly #plans = new Map<string, Plan>();
  readonly #loaded: Loaded = new Map();
  /** Loaded for fewer items than were asked for since: whoever was given one may still use it. */
  readonly #outgrown: [Device, Promise<LoadedPlan>][] = [];

  /** `written` are the positions of inputs that need a buffer of their own, kept from run to run. */
  constructor(request: CompileRequest, written: readonly number[], family?: FamilyMember) {
    this.request = request;
    this.#family = family;
    this.#written = new Set(written);
    collected.register(this, this.#loaded, this);
  }

  /** The plan on `device`, loaded at the first call, and again for more items than before. */
  async on(device: Device, items = 1): Promise<LoadedPlan> {
    for (;;) {
      let loading = this.#loaded.get(device);
      if (loading === undefined) {
        loading = this.#load(device, items);
        this.#loaded.set(device, loading);
        const mine = loading;
        // A failure is reported to this caller; the next one tries again.
        loading.catch(() => this.#loaded.get(device) === mine ? this.#loaded.delete(device) : false);
      }
      const loaded = await loading;
      if (loaded.executable.items >= items) return loaded;
      if (this.#loaded.get(device) !== loading) continue;
      this.#loaded.delete(device);
      this.#outgrown.push([device, loading]);
    }
  }

  /** Gives back what was outgrown. To be called when nobody is about to use it. */
  async settle(): Promise<void> {
    for (const entry of this.#outgrown.splice(0)) await giveBack(new Map([entry]));
  }

  /** How many items a device can run at once, at most `wanted`; a part of each must fit into what a kernel can bind. */
  most(device: Device, wanted: number): number {
    const plan = this.#planFor(device);
    if (plan.items !== true) return 1;
    const parts = plan.slots.filter(({ common }) => common !== true).map(({ bytes }) => bytes);
    const largest = Math.max(4, ...parts);
    const all = parts.reduce((sum, bytes) => sum + bytes, 4);
    return Math.max(
      1,
      Math.min(wanted, Math.floor(device.target.maxBindingBytes / largest), Math.floor(mostBytes / all)),
    );
  }

  /** Gives back what is held on every device. */
  async release(): Promise<void> {
    await this.settle();
    await giveBack(this.#loaded);
  }

  #planFor(device: Device): Plan {
    // What is tuned meanwhile does not count: devices of one model run one plan, so that they give the same bits.
    const { tuned: _, ...target } = device.target;
    const kind = JSON.stringify([device.info, target]);
    let plan = this.#plans.get(kind);
    if (plan === undefined) {
      const { varying, known } = this.#family ?? {};
      const varies = varying !== undefined && target.language === "wgsl" && (known || device.info.software);
      this.#plans.set(kind, plan = planOf(this.request, varies ? { ...device.target, varying } : device.target));
    }
    return plan;
  }

  async #load(device: Device, items: number): Promise<LoadedPlan> {
    const plan = this.#planFor(device);
    const executable = await device.load(plan, items, this.#family?.family);
    const own = this.request.inputs.flatMap((node, i) => this.#written.has(i) ? [{ node, i }] : []);
    try {
      const buffers = allocAll(
        device,
        own.map(({ node, i }) => {
          const slot = plan.slots[plan.inputs[i]!];
          const count = plan.items === true && slot?.common !== true ? items : 1;
          return count * (slot?.bytes ?? Math.max(4, byteLength(node)));
        }),
      );
      const written = this.request.inputs.map((_, i) => buffers[own.findIndex((entry) => entry.i === i)]);
      return { executable, written };
    } catch (error) {
      executable.release();
      throw error;
    }
  }
}

/** What a graph is among those of one computation for different shapes. */
export interface FamilyMember {
  readonly family: PlanFamily;
  /** Lengths that differ from graph to graph; undefined where none are known to. */
  readonly varying: readonly number[] | undefined;
  /**
   * Whether graphs for other lengths came before. A device of its own may still see no other length than its share: there,
   * kernels without guards are worth being compiled. Software adapters share theirs at once.
   */
  readonly known: boolean;
}

/** Graphs of one computation for different shapes, by key; the most recently used are kept. */
export class GraphCache<G extends { readonly graph: { release(): Promise<void> } }> {
  readonly #most: number;
  readonly #family: PlanFamily;
  /** For how many rows there were graphs so far. */
  readonly #rows = new Set<number>();
  readonly #entries = new Map<string, G>();

  /** Of the graphs, `most` are kept. */
  constructor({ most = 64, family = new PlanFamily() }: { readonly most?: number; readonly family?: PlanFamily } = {}) {
    this.#most = most;
    this.#family = family;
  }

  /** `rows` is what the graph is for, where graphs differ in that; they do for sure where there were others, or `uneven` says so. */
  get(
    key: string,
    make: (member: FamilyMember) => G,
    { rows, uneven = false }: { readonly rows?: number; readonly uneven?: boolean } = {},
  ): G {
    if (rows !== undefined) this.#rows.add(rows);
    const known = this.#rows.size > 1;
    const varying = rows !== undefined && (known || uneven) ? [rows] : undefined;
    const entry = this.#entries.get(key) ?? make({ family: this.#family, varying, known });
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    for (const [oldest, old] of this.#entries) {
      if (this.#entries.size <= this.#most) break;
      this.#entries.delete(oldest);
      void old.graph.release();
    }
    return entry;
  }

  async release(): Promise<void> {
    const all = [...this.#entries.values()];
    this.#entries.clear();
    await Promise.all(all.map((entry) => entry.graph.release()));
  }
}

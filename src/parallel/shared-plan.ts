/**
 * One compiled graph on several devices: compiled once for each kind of device, loaded once on each device.
 */
import { planOf } from "../compiler/cache.ts";
import type { CompileRequest } from "../compiler/compile.ts";
import type { Plan } from "../compiler/plan.ts";
import type { Device, DeviceBuffer, Executable } from "../devices/device.ts";
import { byteLength } from "../graph/build.ts";

/** A plan that is ready on a device, with buffers for inputs that the host writes anew for each run. */
export interface LoadedPlan {
  readonly executable: Executable;
  /** One for each input of the request that is among `written`; undefined for the others. */
  readonly written: readonly (DeviceBuffer | undefined)[];
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

export class SharedPlan {
  readonly request: CompileRequest;
  readonly #written: ReadonlySet<number>;
  readonly #plans = new Map<string, Plan>();
  readonly #loaded: Loaded = new Map();

  /** `written` are the positions of inputs that need a buffer of their own, kept from run to run. */
  constructor(request: CompileRequest, written: readonly number[]) {
    this.request = request;
    this.#written = new Set(written);
    collected.register(this, this.#loaded, this);
  }

  /** The plan on `device`, loaded at the first call. */
  on(device: Device): Promise<LoadedPlan> {
    let loaded = this.#loaded.get(device);
    if (loaded === undefined) {
      loaded = this.#load(device);
      this.#loaded.set(device, loaded);
      // A failure is reported to this caller; the next one tries again.
      loaded.catch(() => this.#loaded.delete(device));
    }
    return loaded;
  }

  /** Gives back what the plan holds on every device. */
  async release(): Promise<void> {
    await giveBack(this.#loaded);
  }

  async #load(device: Device): Promise<LoadedPlan> {
    const kind = JSON.stringify(device.target);
    let plan = this.#plans.get(kind);
    if (plan === undefined) this.#plans.set(kind, plan = planOf(this.request, device.target));
    const executable = await device.load(plan);
    const written = this.request.inputs.map((node, i) =>
      this.#written.has(i) ? device.alloc(Math.max(4, byteLength(node))) : undefined
    );
    return { executable, written };
  }
}

/** Plans by key, of which the most recently used are kept. */
export class PlanCache<P extends { readonly plan: { release(): Promise<void> } }> {
  readonly #most: number;
  readonly #entries = new Map<string, P>();

  constructor(most = 64) {
    this.#most = most;
  }

  get(key: string, make: () => P): P {
    const entry = this.#entries.get(key) ?? make();
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    for (const [oldest, old] of this.#entries) {
      if (this.#entries.size <= this.#most) break;
      this.#entries.delete(oldest);
      void old.plan.release();
    }
    return entry;
  }

  async release(): Promise<void> {
    const all = [...this.#entries.values()];
    this.#entries.clear();
    await Promise.all(all.map((entry) => entry.plan.release()));
  }
}

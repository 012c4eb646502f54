/** How much of a batch each device can carry: given, or measured step by step. */
import type { Device } from "../../devices/device/device.ts";
import { ArgumentError } from "../../errors.ts";
import { shardSizes } from "./shard-sizes.ts";

/** Weight of the newest step in the moving averages. */
const newest = 0.2;
/** Steps of a device that are not measured, as kernels are compiled in them, after each change of its share. */
const unmeasured = 2;
/** Steps of every device between two changes of the shares. */
const stepsBetween = 8;
/** Shares change only where the step is expected to be shorter by this part. */
const leastGain = 0.05;
/** Shares are multiples of this part of the batch: every other size of a shard has plans of its own. */
const units = 32;

interface Measured {
  /** Moving average of milliseconds per row. */
  perRow: number;
  /** Steps since the shares changed. */
  steps: number;
}

export class Capacities {
  readonly #auto: boolean;
  readonly #given: ReadonlyMap<Device, number> | undefined;
  readonly #measured = new Map<Device, Measured>();
  #shares: { readonly devices: readonly Device[]; readonly units: readonly number[] } | undefined;

  /** Throws ArgumentError unless there is a finite number above 0 for each device. */
  constructor(op: string, devices: readonly Device[], capacities: "auto" | readonly number[] | undefined) {
    this.#auto = capacities === "auto";
    if (capacities === undefined || capacities === "auto") return;
    if (
      !Array.isArray(capacities) || capacities.length !== devices.length ||
      !capacities.every((c) => Number.isFinite(c) && c > 0)
    ) {
      throw new ArgumentError(op, {
        got: `capacities [${capacities}]`,
        need: `"auto", or a number above 0 for each of ${devices.length} devices`,
      });
    }
    this.#given = new Map(devices.map((device, i) => [device, capacities[i]!]));
  }

  /** The shares of these devices; undefined where they are equal. A device that was not given one gets the mean. */
  of(devices: readonly Device[]): readonly number[] | undefined {
    const given = this.#given;
    if (given !== undefined) {
      const mean = [...given.values()].reduce((a, b) => a + b, 0) / given.size;
      return devices.map((device) => given.get(device) ?? mean);
    }
    if (!this.#auto || devices.length === 1) return undefined;
    const shares = this.#shares;
    if (shares === undefined || !sameDevices(shares.devices, devices)) {
      // Whoever was measured before keeps its speed; a new device starts as the mean of the others.
      this.#shares = { devices, units: this.#wanted(devices) ?? evenUnits(devices.length) };
      this.#restart();
    } else if (devices.every((device) => (this.#measured.get(device)?.steps ?? 0) >= stepsBetween)) {
      const wanted = this.#wanted(devices)!;
      if (this.#slowest(wanted, devices) < (1 - leastGain) * this.#slowest(shares.units, devices)) {
        this.#shares = { devices, units: wanted };
      }
      this.#restart();
    }
    return this.#shares!.units;
  }

  /** Notes how long a device took for some rows. */
  measured(device: Device, rows: number, milliseconds: number): void {
    if (!this.#auto || rows === 0) return;
    const perRow = milliseconds / rows;
    const known = this.#measured.get(device);
    if (known === undefined) this.#measured.set(device, { perRow: NaN, steps: 1 });
    else if (++known.steps > unmeasured) {
      known.perRow = Number.isNaN(known.perRow) ? perRow : (1 - newest) * known.perRow + newest * perRow;
    }
  }

  /** Every device gets at least one unit, so that it goes on being measured. */
  #wanted(devices: readonly Device[]): number[] | undefined {
    const speeds = devices.map((device) => 1 / (this.#measured.get(device)?.perRow ?? NaN));
    const known = speeds.filter((speed) => Number.isFinite(speed));
    if (known.length === 0) return undefined;
    const mean = known.reduce((a, b) => a + b, 0) / known.length;
    const capacities = speeds.map((speed) => Number.isFinite(speed) ? speed : mean);
    const shares = shardSizes(Math.max(units, devices.length), { capacities });
    // Of those that have most.
    for (let i = shares.indexOf(0); i >= 0; i = shares.indexOf(0)) {
      shares[shares.indexOf(Math.max(...shares))]!--;
      shares[i] = 1;
    }
    return shares;
  }

  /** Time of the slowest device for its part of a batch, in milliseconds per row of the whole. */
  #slowest(shares: readonly number[], devices: readonly Device[]): number {
    const total = shares.reduce((a, b) => a + b, 0);
    return Math.max(...devices.map((device, i) => shares[i]! / total * (this.#measured.get(device)?.perRow ?? 0)));
  }

  #restart(): void {
    for (const measured of this.#measured.values()) measured.steps = 0;
  }
}

function sameDevices(one: readonly Device[], other: readonly Device[]): boolean {
  return one.length === other.length && one.every((device, i) => device === other[i]);
}

function evenUnits(count: number): number[] {
  return new Array<number>(count).fill(1);
}

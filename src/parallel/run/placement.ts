/** Which rows of a batch are computed together, and where. */
import type { Device } from "../../devices/device/device.ts";
import { ArgumentError, DeviceError } from "../../errors.ts";
import { stderrLine } from "../../host/host.ts";
import { Capacities } from "../split/capacities.ts";
import { mostShards, shardOffsets, shardSizes } from "../split/shard-sizes.ts";
import type { Placed } from "./fleet.ts";
import type { Shard } from "./uploads.ts";

export interface PlacementOptions {
  /** The batch is cut into so many logical shards, 1 to 65,536, whatever the devices. */
  readonly deterministic?: { readonly shards: number } | undefined;
  /** Parts that each device's rows are cut into, computed one after another: 1 to 65,536. Default 1. */
  readonly microBatches?: number | undefined;
  /** How much of a batch each device gets: equal shares by default, in proportion to numbers, or as measured. */
  readonly capacities?: "auto" | readonly number[] | undefined;
}

export class Placement {
  readonly #op: string;
  readonly #options: PlacementOptions;
  readonly #microBatches: number;
  readonly #capacities: Capacities;
  #saidIdle = false;

  /** Throws ArgumentError for numbers that will not do, DeviceError for different devices in deterministic mode. */
  constructor(op: string, devices: readonly Device[], options: PlacementOptions) {
    const { deterministic, microBatches = 1, capacities } = options;
    requireCount(op, "microBatches", microBatches);
    if (deterministic !== undefined) {
      requireCount(op, "deterministic.shards", deterministic.shards);
      if (microBatches > 1) {
        throw new ArgumentError(op, {
          got: `microBatches ${microBatches} with deterministic shards`,
          need: "one of them: logical shards cut the batch already",
        });
      }
    }
    this.#op = op;
    this.#options = options;
    this.#microBatches = microBatches;
    this.#capacities = new Capacities(op, devices, capacities);
    devices.forEach((device) => this.requireAlike(devices[0]!, device));
  }

  /** Whether one device computes a step in one piece, with nothing to be added. */
  get inOnePiece(): boolean {
    return this.#options.deterministic === undefined && this.#microBatches === 1;
  }

  /** Whether a device runs its shards at once: logical shards are small, while micro-batches are there to save memory. */
  get together(): boolean {
    return this.#options.deterministic !== undefined;
  }

  /** In deterministic mode, throws DeviceError for devices whose arithmetic may differ. */
  requireAlike(one: Device, other: Device): void {
    if (this.#options.deterministic === undefined) return;
    const [a, b] = [one, other].map(({ kind, info, target }) =>
      JSON.stringify([kind, info, { ...target, tuned: undefined }])
    );
    if (a === b) return;
    throw new DeviceError(this.#op, {
      got: `${one.name} (${one.info.description}) and ${other.name} (${other.info.description}) in deterministic mode`,
      need: "devices of one model and driver: others round differently",
    });
  }

  /** The shards of a batch, in the order of its rows, on these devices. None has no rows. */
  place(rows: number, devices: readonly Device[]): Placed<Shard>[] {
    const { deterministic } = this.#options;
    const capacities = this.#capacities.of(devices);
    if (deterministic === undefined) {
      const ofDevices = shardSizes(rows, capacities === undefined ? devices.length : { capacities });
      const sizes = ofDevices.map((size) => shardSizes(size, this.#microBatches));
      return shardsOf(sizes.flat(), (i) => devices[Math.floor(i / this.#microBatches)]!);
    }
    const sizes = shardSizes(rows, deterministic.shards).filter((size) => size > 0);
    if (devices.length > deterministic.shards && !this.#saidIdle) {
      this.#saidIdle = true;
      stderrLine(
        `shardwise: ${devices.length} devices for ${deterministic.shards} logical shards, so that ${
          devices.length - deterministic.shards
        } are idle (said once)`,
      );
    }
    const counts = shardSizes(sizes.length, capacities === undefined ? devices.length : { capacities });
    const holders = counts.flatMap((count, i) => new Array<Device>(count).fill(devices[i]!));
    return shardsOf(sizes, (i) => holders[i]!);
  }

  /** Notes how long a device took for some rows, in milliseconds. */
  measured(device: Device, rows: number, milliseconds: number): void {
    this.#capacities.measured(device, rows, milliseconds);
  }
}

function shardsOf(sizes: readonly number[], deviceOf: (i: number) => Device): Placed<Shard>[] {
  const offsets = shardOffsets(sizes);
  return sizes.flatMap((rows, i) => rows === 0 ? [] : [{ device: deviceOf(i), rows, offset: offsets[i]! }]).map((
    { device, rows, offset },
    index,
  ) => ({ device, job: { index, rows, offset } }));
}

function requireCount(op: string, name: string, count: number): void {
  if (Number.isInteger(count) && count >= 1 && count <= mostShards) return;
  throw new ArgumentError(op, { got: `${name} ${count}`, need: `a whole number from 1 to ${mostShards}` });
}

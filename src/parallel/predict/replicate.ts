import type { Device } from "../../devices/device/device.ts";
import { stderrLine } from "../../host/host.ts";
import { callable, listOf, number, options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { tensor } from "../../tensor/create.ts";
import { devices, tree } from "../../tensor/kinds.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { RowMean } from "../decompose/mean.ts";
import type { HostOutput } from "../decompose/output-tree.ts";
import { Listeners } from "../run/callbacks.ts";
import { type DeviceLost, Fleet } from "../run/fleet.ts";
import { Placement } from "../run/placement.ts";
import { requireSeed } from "../run/uploads.ts";
import type { Batch, BatchOf } from "../split/host-batch.ts";
import { Inference, requireRowsAtOnce } from "./inference.ts";

/** What a replicated function may return. */
export type Output = Tensor | RowMean | readonly Output[] | { readonly [name: string]: Output };

/** The outputs of the whole batch: declared means have become tensors. */
export type Merged<O> = O extends Tensor<infer D> ? Tensor<D>
  : O extends RowMean ? Tensor<"f32">
  : { readonly [K in keyof O]: Merged<O[K]> };

/** How a function is run on several devices. */
export interface ReplicateOptions {
  /**
   * At most so many rows are on the devices at one time; a longer batch goes through in parts. Default: all.
   */
  readonly rowsAtOnce?: number | undefined;
  /** Seed of random ops in the function, from 0 to 2^32 - 1. Default 0. */
  readonly seed?: number | undefined;
  /** How much of a batch each device gets: equal shares by default, or in proportion to these numbers. */
  readonly capacities?: readonly number[] | undefined;
  /** Milliseconds, below 2^31, that a device may take to deliver its rows; then it counts as lost. Default: no limit. */
  readonly stepTimeout?: number | undefined;
  /**
   * Told once of a device that failed, and whose rows the others computed; what it throws, the call rejects with when it is
   * done, as a CallbackError. By default a line goes to standard error.
   */
  readonly onDeviceLost?: (event: DeviceLost) => void;
}

const signature = takes("parallel.replicate", {
  fn: callable,
  devices,
  options: options<ReplicateOptions>({
    rowsAtOnce: number,
    seed: number,
    capacities: listOf(number, "a number for each device"),
    stepTimeout: number,
    onDeviceLost: callable,
  }),
});
const ofReplicated = takes("parallel.replicate", { batch: tree });

/**
 * `fn` as a function that runs on all `devices` at once: a batch, a tree of tensors (on a device or on the
 * host) with as many rows each on axis 0, is cut into a shard for each device, and the outputs are merged.
 * Per-row outputs come back with all rows in order, means declared with `parallel.mean` are combined by
 * weight, sums over rows are added, and what does not depend on the batch is given as it is. Scalars of the
 * batch go whole to each device; tensors that `fn` captures, a model's parameters, go to each device once for
 * each of their versions. A call sees batch, captured tensors and modes (`train()`, `eval()`) as they are when it is made,
 * from the first row to the last.
 *
 * Throws DeviceError for a device listed twice, ArgumentError for none. The function returned rejects with
 * ShapeError when the inputs' numbers of rows differ, with DecompositionError when `fn` mixes rows, and with
 * AllDevicesLostError when no device is left. The rows of a device that fails are computed by the others.
 */
export function replicate<T = Tensor, O = Output>(
  fn: (batch: T) => O,
  devices: readonly Device[],
  options: ReplicateOptions = {},
): (batch: BatchOf<T>) => Promise<Merged<O>> {
  signature.check(arguments);
  const { op } = signature;
  const { rowsAtOnce = Infinity, seed = 0, capacities, stepTimeout, onDeviceLost = say } = options;
  const heard = new Listeners(op);
  const fleet = new Fleet(op, {
    devices,
    stepTimeout,
    onEvent: (event) => event.kind === "deviceLost" ? heard.tell("onDeviceLost", [onDeviceLost], event) : undefined,
  });
  requireRowsAtOnce(op, rowsAtOnce);
  requireSeed(op, seed);
  const placement = new Placement(op, devices, { capacities });
  const inference = new Inference(op, fn as (batch: unknown) => unknown, { fleet, placement, seed });
  return async (...given) => {
    ofReplicated.check(given);
    const [batch] = given;
    const make = ({ values, shape, dtype }: HostOutput) => tensor(values, { shape, dtype });
    const result = await inference.run(batch as Batch, make, { rowsAtOnce }) as Merged<O>;
    heard.raise(result);
    return result;
  };
}

function say({ device, reason, message, shardsMoved }: DeviceLost): void {
  stderrLine(`shardwise: ${device} is not used any more (${reason}: ${message}); ${shardsMoved} shards moved`);
}

import type { Device } from "../devices/device.ts";
import { tensor } from "../tensor/create.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { requireDistinct } from "./distinct.ts";
import type { Batch, BatchOf } from "./host-batch.ts";
import { Inference, requireRowsAtOnce } from "./inference.ts";
import type { RowMean } from "./mean.ts";
import { requireSeed } from "./uploads.ts";

/** What a replicated function may return. */
export type Output = Tensor | RowMean | readonly Output[] | { readonly [name: string]: Output };

/** The outputs of the whole batch: declared means have become tensors. */
export type Merged<O> = O extends Tensor | RowMean ? Tensor : { readonly [K in keyof O]: Merged<O[K]> };

export interface ReplicateOptions {
  /**
   * At most so many rows are on the devices at one time; a longer batch goes through in parts. Default: all.
   */
  readonly rowsAtOnce?: number;
  /** Seed of random ops in the function, from 0 to 2^32 - 1. Default 0. */
  readonly seed?: number;
}

/**
 * `fn` as a function that runs on all `devices` at once: a batch, a tree of tensors (on a device or on the
 * host) with as many rows each on axis 0, is cut into a shard for each device, and the outputs are merged.
 * Per-row outputs come back with all rows in order, means declared with `parallel.mean` are combined by
 * weight, sums over rows are added, and what does not depend on the batch is given as it is. Scalars of the
 * batch go whole to each device; tensors that `fn` captures, a model's parameters, go to each device once for
 * each of their versions.
 *
 * Throws DeviceError for a device listed twice, ArgumentError for none. The function returned rejects with
 * ShapeError when the inputs' numbers of rows differ and with DecompositionError when `fn` mixes rows.
 */
export function replicate<T = Tensor, O = Output>(
  fn: (batch: T) => O,
  devices: readonly Device[],
  options: ReplicateOptions = {},
): (batch: BatchOf<T>) => Promise<Merged<O>> {
  const { rowsAtOnce = Infinity, seed = 0 } = options;
  requireDistinct("parallel.replicate", devices);
  requireRowsAtOnce("parallel.replicate", rowsAtOnce);
  requireSeed("parallel.replicate", seed);
  const inference = new Inference("parallel.replicate", fn as (batch: unknown) => unknown, {
    devices: [...devices],
    seed,
  });
  return async (batch) => {
    return await inference.run(
      batch as Batch,
      ({ values, shape, dtype }) => tensor(values, { shape, dtype }),
      rowsAtOnce,
    ) as Merged<O>;
  };
}

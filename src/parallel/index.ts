/** What is under `parallel`. */
export { type Capacities, shardSizes } from "./split/shard-sizes.ts";
export { type AxisOptions, scatter, type ScatterOptions } from "./collectives/scatter.ts";
export { gather, type GatherOptions } from "./collectives/gather.ts";
export { reduce, type ReduceOptions } from "./collectives/reduce.ts";
export { type Merged, type Output, replicate, type ReplicateOptions } from "./predict/replicate.ts";
export { mean, type MeanOptions, RowMean } from "./decompose/mean.ts";
export type { Batch, BatchOf, HostData, HostTensor } from "./split/host-batch.ts";
export {
  allGather,
  type AllGatherOptions,
  allReduce,
  type AllReduceOptions,
  rowIndex,
} from "./collectives/collectives.ts";
export type { DeviceEvent, DeviceJoined, DeviceLost, Phase } from "./run/fleet.ts";

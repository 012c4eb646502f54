/** What is under `parallel`. */
export { type Capacities, shardSizes } from "./shard-sizes.ts";
export { type AxisOptions, scatter, type ScatterOptions } from "./scatter.ts";
export { gather, type GatherOptions } from "./gather.ts";
export { reduce, type ReduceOptions } from "./reduce.ts";
export { type Merged, type Output, replicate, type ReplicateOptions } from "./replicate.ts";
export { mean, type MeanOptions, RowMean } from "./mean.ts";
export type { Batch, BatchOf, HostData, HostTensor } from "./host-batch.ts";
export { allGather, type AllGatherOptions, allReduce, type AllReduceOptions, rowIndex } from "./collectives.ts";
export type { DeviceEvent, DeviceJoined, DeviceLost, Phase } from "./fleet.ts";

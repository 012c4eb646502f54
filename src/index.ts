/// <reference lib="esnext.disposable" preserve="true" />
/**
 * shardwise: tensors, automatic differentiation, a compiler to fused kernels, and training on many devices.
 * Everything public is here or in one of the namespaces.
 * @module
 */
export {
  type AttentionOptions,
  type ConvOptions,
  type ConvTransposeOptions,
  isTensor,
  type NestedArray,
  type Operand,
  type PoolOptions,
  Tensor,
  type WindowsOptions,
} from "./tensor/tensor.ts";
export type { NestedTyped } from "./tensor/nested.ts";
export type {
  ArgOptions,
  AttentionOptionsOf,
  AxisOptions,
  Bounds,
  DTypeOptions,
  FlattenOptions,
  GeluOptions,
  NamedAxisOptions,
  PadOptions,
  SortOptions,
} from "./tensor/ops/options.ts";
export type {
  Bits,
  Computed,
  Counted,
  Extreme,
  Item,
  Magnitude,
  Meet,
  MeetAll,
  MeetOperands,
  Power,
  Product,
  Promote,
  Sum,
} from "./tensor/dtypes.ts";
export type { NormOptions, ReduceOptions, VarianceOptions } from "./tensor/ops/reduce.ts";
export type { Range } from "./tensor/ops/movement.ts";
export { realize } from "./tensor/together.ts";
export type { Padding, PerAxis } from "./tensor/ops/windows.ts";
export {
  arange,
  type ArangeOptions,
  concat,
  type CreateOptions,
  type DeviceOption,
  type DTypeOfData,
  einsum,
  eye,
  type EyeOptions,
  full,
  linspace,
  oneHot,
  ones,
  stack,
  tensor,
  type TensorOptions,
  type TypedArray,
  where,
  zeros,
} from "./tensor/create.ts";
export { grad, jvp, valueAndGrad, vjp } from "./tensor/transform/grad.ts";
export { checkpoint } from "./tensor/transform/checkpoint.ts";
export { compile } from "./tensor/transform/compile.ts";
export {
  explain,
  type ExplainedBuffer,
  type ExplainedKernel,
  type ExplainedOp,
  Explanation,
} from "./tensor/inspect/explain.ts";
export { type KernelProfile, Profile, profile, type ProfileOptions } from "./tensor/inspect/profile.ts";
export type { KernelClock } from "./devices/device/profile.ts";
export { tune, type TunedCandidate, type TunedContraction, Tuning } from "./tensor/inspect/tune.ts";
export {
  type AnyTree,
  flattenTree,
  type FlattenTreeOptions,
  type FlatTree,
  mapTree,
  type TensorsOf,
  type Tree,
  type TreeOf,
} from "./tensor/transform/tree.ts";
export * as random from "./tensor/random.ts";
export type { DType, HostArray } from "./graph/dtype.ts";
export type { Shape } from "./graph/shape.ts";
export {
  defaultDevice,
  type Device,
  type DeviceBuffer,
  type DeviceInfo,
  type DeviceLoss,
  type DeviceOptions,
  devices,
  type DeviceStats,
  setDefaultDevice,
} from "./devices/index.ts";
export * as parallel from "./parallel/index.ts";
export { data, io, nn, optim } from "./nn/index.ts";
export * from "./errors.ts";

/** Optimizers: pure rules over flat tensors, and learning rates that change with the step. */
export { sgd } from "./sgd.ts";
export type { SgdOptions } from "./sgd.ts";
export { adam } from "./adam.ts";
export type { AdamOptions } from "./adam.ts";
export { adamw } from "./adamw.ts";
export type { AdamWOptions } from "./adamw.ts";
export { nadam } from "./nadam.ts";
export type { NadamOptions } from "./nadam.ts";
export type { MomentOptions } from "./moments.ts";
export { optimizer } from "./optimizer.ts";
export type { Optimizer } from "./optimizer.ts";
export { learningRateAt } from "./rule.ts";
export type { LearningRate, UpdateInput, UpdateResult, UpdateRule } from "./rule.ts";
export type { BoundOptimizer, GradientTree, ParameterTree } from "./bind.ts";
export { constantSchedule, cosineSchedule, exponentialSchedule, linearSchedule, warmup } from "./schedules.ts";
export type {
  CosineScheduleOptions,
  ExponentialScheduleOptions,
  LinearScheduleOptions,
  Schedule,
  WarmupOptions,
} from "./schedules.ts";

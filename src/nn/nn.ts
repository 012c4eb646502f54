/** What is under `nn`: modules, losses, metrics. */
export type { Phases } from "../parallel/train/phases.ts";
export type { Ratio } from "../parallel/decompose/ratio.ts";
export { Module } from "./layers/module.ts";
export type { Layer } from "./layers/module.ts";
export { buffer, isBuffer, isParameter, parameter } from "./layers/parameter.ts";
export * as init from "./layers/init.ts";
export type { Fan, Initializer, NormalOptions, UniformOptions } from "./layers/init.ts";
export { Linear, linear } from "./layers/linear.ts";
export type { LinearOptions } from "./layers/linear.ts";
export {
  Activation,
  avgPool2d,
  cast,
  flatten,
  gelu,
  lambda,
  logSoftmax,
  maxPool2d,
  relu,
  sigmoid,
  silu,
  softmax,
  softplus,
  tanh,
} from "./layers/activation.ts";
export type { GivenOf, Gives } from "./layers/activation.ts";
export { MultiHeadAttention, multiHeadAttention } from "./layers/attention.ts";
export type { AttendOptions, MultiHeadAttentionOptions } from "./layers/attention.ts";
export { Conv2d, conv2d } from "./layers/conv.ts";
export type { Conv2dOptions } from "./layers/conv.ts";
export { Dropout, dropout } from "./layers/dropout.ts";
export { Embedding, embedding } from "./layers/embedding.ts";
export type { EmbeddingOptions } from "./layers/embedding.ts";
export { BatchNorm, batchNorm, LayerNorm, layerNorm } from "./layers/norm.ts";
export type { BatchNormOptions, LayerNormOptions } from "./layers/norm.ts";
export { Sequential, sequential } from "./layers/sequential.ts";
export type { ChainOf } from "./layers/sequential.ts";
export { Loss, loss, Metric, metric, penalty } from "./losses/loss.ts";
export type { GivenRatio, LossTerm } from "./losses/loss.ts";
export { binaryCrossEntropy, crossEntropy, mse } from "./losses/losses.ts";
export type { CrossEntropyOptions } from "./losses/losses.ts";
export { accuracy, binaryAccuracy, lossMetric, meanAbsoluteError, topKAccuracy } from "./losses/metrics.ts";
export type { AccuracyOptions, TopKOptions } from "./losses/metrics.ts";
export type { RowOptions } from "./losses/rows.ts";
export { Trainer, trainer } from "./training/trainer.ts";
export type { BatchOf } from "../parallel/split/host-batch.ts";
export type {
  BatchEvent,
  DeterministicOptions,
  DeviceMemory,
  EventListeners,
  FitOptions,
  RowsOptions,
  TrainerOptions,
} from "./training/trainer.ts";
export type {
  Batched,
  BatchesWithout,
  BatchSource,
  DefaultBatch,
  Fits,
  InputOf,
  TensorFields,
  TensorRecord,
  TensorsOf,
  TensorTree,
} from "./training/batch-types.ts";
export type { EpochRecord, Evaluation, History, Means, StepRecord } from "./training/history.ts";
export type { ProgressStyle } from "./training/progress.ts";

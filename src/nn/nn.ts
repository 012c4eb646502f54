/** What is under `nn`: modules, losses, metrics. */
export { Module } from "./module.ts";
export type { Layer } from "./module.ts";
export { buffer, isBuffer, isParameter, parameter } from "./parameter.ts";
export * as init from "./init.ts";
export type { Fan, Initializer, NormalOptions, UniformOptions } from "./init.ts";
export { Linear, linear } from "./linear.ts";
export type { LinearOptions } from "./linear.ts";
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
} from "./activation.ts";
export type { GivenOf, Gives } from "./activation.ts";
export { MultiHeadAttention, multiHeadAttention } from "./attention.ts";
export type { AttendOptions, MultiHeadAttentionOptions } from "./attention.ts";
export { Conv2d, conv2d } from "./conv.ts";
export type { Conv2dOptions } from "./conv.ts";
export { Dropout, dropout } from "./dropout.ts";
export { Embedding, embedding } from "./embedding.ts";
export type { EmbeddingOptions } from "./embedding.ts";
export { BatchNorm, batchNorm, LayerNorm, layerNorm } from "./norm.ts";
export type { BatchNormOptions, LayerNormOptions } from "./norm.ts";
export { Sequential, sequential } from "./sequential.ts";
export type { ChainOf } from "./sequential.ts";
export { Loss, loss, Metric, metric, penalty } from "./loss.ts";
export type { GivenRatio, LossTerm, Ratio } from "./loss.ts";
export { binaryCrossEntropy, crossEntropy, mse } from "./losses.ts";
export type { CrossEntropyOptions } from "./losses.ts";
export { accuracy, binaryAccuracy, lossMetric, meanAbsoluteError, topKAccuracy } from "./metrics.ts";
export type { AccuracyOptions, TopKOptions } from "./metrics.ts";
export type { RowOptions } from "./rows.ts";
export { Trainer, trainer } from "./trainer.ts";
export type { Phases } from "../parallel/train/sharded-step.ts";
export type { BatchOf } from "../parallel/split/host-batch.ts";
export type { BatchEvent, DeterministicOptions, DeviceMemory, EventListeners, FitOptions, RowsOptions, TrainerOptions } from "./trainer.ts";
export type { Batched, BatchesWithout, BatchSource, DefaultBatch, Fits, InputOf, TensorRecord, TensorTree } from "./batch-types.ts";
export type { EpochRecord, Evaluation, History, Means, StepRecord } from "./history.ts";
export type { ProgressStyle } from "./progress.ts";

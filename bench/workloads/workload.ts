/** What is measured: the kinds of work, and the form of one workload. */

export interface HostInput {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

/**
 * The names of what a kind of work is given and gives: inputs, which change with each repetition; constants, which do
 * not (or, in a training, start it); results of a repetition; and the state that a training leaves behind.
 */
interface Names<Input extends string, Constant extends string, Result extends string, State extends string = never> {
  readonly input: Input;
  readonly constant: Constant;
  readonly result: Result;
  readonly state: State;
}

export const mlpWeights = ["w1", "b1", "w2", "b2"] as const;
export type MlpWeight = typeof mlpWeights[number];

/** Kernels [height, width, in, out] of two convolutions and the matrix of the dense layer, each with its bias. */
export const cnnWeights = ["k1", "b1", "k2", "b2", "w3", "b3"] as const;
export type CnnWeight = typeof cnnWeights[number];

/** Gain and bias of two norms; matrices and biases of q, k and v together, of the attention's end, of the two layers. */
export const gptWeights = [
  ...["gain1", "bias1", "wqkv", "bqkv", "wo", "bo"] as const,
  ...["gain2", "bias2", "w1", "b1", "w2", "b2"] as const,
] as const;
export type GptWeight = typeof gptWeights[number];

export interface Kinds {
  /** a [m, k] @ b [k, n]. */
  matmul: Names<"a" | "b", never, "product">;
  /** aᵀ @ b of a [k, m] and b [k, n]: the gradient of a layer's weights. */
  matmulTransposed: Names<"a" | "b", never, "product">;
  /** Over the last axis. */
  softmax: Names<"x", never, "y">;
  /** 32 of them, each of the one before. */
  softmaxChain: Names<"x", never, "y">;
  /** Over the last axis. */
  layerNorm: Names<"x", "gain" | "bias", "y">;
  /** mul, add, abs, sqrt, neg, exp, add, reciprocal: 1 / (exp(-sqrt(|1.5 x + 0.5|)) + 1). */
  chain: Names<"x", never, "y">;
  sum: Names<"x", never, "y">;
  /** 1000 ops, x ↦ 0.999 x and x ↦ x + 0.001 in turn, each computed before the next is asked for. */
  tinyOps: Names<"x", never, "y">;
  /** x [rows, height, width, in] with k [height, width, in, out], stride 1, same padding. */
  conv: Names<"x", "k", "y">;
  /** Its gradients, from that of y. */
  convGradients: Names<"x" | "dy", "k", "dx" | "dk">;
  /** Forward, backward and update of a two-layer perceptron under softmax cross-entropy. */
  mlpSgd: Names<"x" | "y", MlpWeight, "loss", MlpWeight>;
  mlpAdam: Names<"x" | "y", MlpWeight, "loss", MlpWeight>;
  /** The same of conv, relu, maxpool, conv, relu, maxpool, dense, by SGD. */
  cnnSgd: Names<"x" | "y", CnnWeight, "loss", CnnWeight>;
  /** The mean square of a transformer block's output less a target, and its gradients by the block's input and weights. */
  gptBlock: Names<"x" | "target", GptWeight, "loss" | "x" | GptWeight>;
}

export type Kind = keyof Kinds;
export type InputName<K extends Kind> = Kinds[K]["input"];
export type ConstantName<K extends Kind> = Kinds[K]["constant"];
export type ResultName<K extends Kind> = Kinds[K]["result"];
export type StateName<K extends Kind> = Kinds[K]["state"];

/** Element `index` of the output `name` is `value`, in float64. */
export type Expected = Iterable<readonly [name: string, index: number, value: number]>;

export interface Workload<K extends Kind = Kind> {
  readonly name: string;
  readonly kind: K;
  /** Repetition i takes `sets[i % sets.length]`. */
  readonly sets: readonly Readonly<Record<InputName<K>, HostInput>>[];
  readonly constants: Readonly<Record<ConstantName<K>, HostInput>>;
  /** Arithmetic operations of one repetition, and the least bytes that it must load and store. */
  readonly flops: number;
  readonly bytes: number;
  /** Dispatches that a repetition must take on WebGPU, where fewer would be other work. */
  readonly leastDispatches?: number;
  /** Length of each result, and of the state after a step. */
  readonly lengths: Readonly<Record<ResultName<K> | StateName<K>, number>>;
  /**
   * What repetition i must give: every element, or some spread over the output where all are too many; nothing where
   * there is no one right answer any more. Each name that comes up is judged against its own largest value.
   */
  reference(repetition: number): Expected;
  /** Largest error allowed, relative to the largest reference value. */
  readonly tolerance: number;
}

export const layerNormEpsilon = 1e-5;
export const sgdLearningRate = 0.1;
export const cnnLearningRate = 0.01;
export const adam = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-7 } as const;
export const tinyOps = 1000;
export const softmaxDepth = 32;
export const gpt = { width: 256, heads: 8, tokens: 128, batch: 4 } as const;

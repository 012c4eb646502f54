/** All that is measured, in the order of the tables. */
import { conv, convGradients } from "./conv.ts";
import { chain, sum, tinyOps } from "./elementwise.ts";
import { gptBlock } from "./gpt.ts";
import { matmul, matmulTransposed } from "./matmul.ts";
import { layerNorm, softmax, softmaxChain } from "./rows.ts";
import { cnnStep, mlpStep } from "./training.ts";
import { gpt, type Kind, type Workload } from "./workload.ts";

/** A workload of any one kind. */
export type AnyWorkload = { [K in Kind]: Workload<K> }[Kind];

/** Each workload is made when asked for: the big ones hold 48 MiB of inputs. */
export interface Entry {
  readonly name: string;
  readonly make: () => AnyWorkload;
}

const images = { rows: 32, height: 28, width: 28, channels: 32, out: 64 };
const mlp = [128, [784, 64, 10]] as const;

/** Timed in one process with the peers. */
export const workloads: readonly Entry[] = [
  ...[256, 512, 1024].map((n) => entry(`matmul ${n}`, (name) => matmul(n, n, n, name))),
  entry("matmul 128x784x64", (name) => matmul(128, 784, 64, name)),
  entry("matmul 784x128x64, left transposed", (name) => matmulTransposed(784, 128, 64, name)),
  entry("matmul 4096x288x64", (name) => matmul(4096, 288, 64, name)),
  entry("matmul 128x64x10", (name) => matmul(128, 64, 10, name)),
  entry("softmax 1024x1024", (name) => softmax(1024, name)),
  entry("layernorm 1024x1024", (name) => layerNorm(1024, name)),
  entry("8-op chain 4M", (name) => chain(4 << 20, name)),
  entry("sum 4M", (name) => sum(4 << 20, name)),
  entry("conv 3x3 32->64", (name) => conv(images, name)),
  entry("conv 3x3 32->64 gradients", (name) => convGradients(images, name)),
  entry("MLP step 784-64-10 SGD", (name) => mlpStep(...mlp, name).sgd()),
  entry("MLP step 784-64-10 Adam", (name) => mlpStep(...mlp, name).adam()),
  entry("CNN step", (name) => cnnStep(32, 28, [32, 64, 10], name)),
  entry("GPT block", (name) => gptBlock(gpt, name)),
  entry("1000 tiny ops", (name) => tinyOps(1024, name)),
];

/** Done once in a process of its own, from the import of the engine on. */
export const fresh = {
  /** The least that there is to compute. */
  first: entry("import to first result", (name) => chain(1024, name)),
  training: entry("first MLP step", (name) => mlpStep(...mlp, name).sgd()),
  memory: entry("32-deep softmax chain", (name) => softmaxChain(1024, name)),
} as const;

function entry(name: string, make: (name: string) => AnyWorkload): Entry {
  return { name, make: () => make(name) };
}

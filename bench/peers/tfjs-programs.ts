import type * as Core from "@tensorflow/tfjs-core";
import {
  adam,
  cnnLearningRate,
  type CnnWeight,
  cnnWeights,
  gpt,
  type GptWeight,
  gptWeights,
  type Kind,
  layerNormEpsilon,
  type MlpWeight,
  mlpWeights,
  sgdLearningRate,
  softmaxDepth,
  tinyOps,
} from "../workloads/workload.ts";
import { type Given, type Program, type Programs, stateless } from "./peer.ts";

type Tensor = Core.Tensor;
type Weights<Name extends string> = Readonly<Record<Name, Tensor>>;

/** Each kind of work in TensorFlow.js, as its users write it: ops, `tf.train` and `tf.valueAndGrads`. */
export function tfjsPrograms(tf: typeof Core): Programs<Tensor> {
  const matMul = (a: Tensor, b: Tensor, left = false, right = false): Tensor => tf.matMul(a, b, left, right);

  const layerNorm = (x: Tensor, gain: Tensor, bias: Tensor): Tensor => {
    const { mean, variance } = tf.moments(x, -1, true);
    const normal = tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, layerNormEpsilon)));
    return tf.add(tf.mul(normal, gain), bias);
  };

  const mlp = (w: Weights<MlpWeight>, x: Tensor): Tensor => {
    const hidden = tf.relu(tf.add(matMul(x, w.w1), w.b1));
    return tf.add(matMul(hidden, w.w2), w.b2);
  };

  const cnn = (w: Weights<CnnWeight>, x: Tensor): Tensor => {
    const stage = (images: Tensor, kernel: Tensor, bias: Tensor): Tensor => {
      const y = tf.conv2d(images as Core.Tensor4D, kernel as Core.Tensor4D, 1, "same");
      return tf.maxPool(tf.relu(tf.add(y, bias)) as Core.Tensor4D, 2, 2, "valid");
    };
    const features = stage(stage(x, w.k1, w.b1), w.k2, w.b2);
    return tf.add(matMul(tf.reshape(features, [x.shape[0]!, -1]), w.w3), w.b3);
  };

  /** Steps of an optimizer on the softmax cross-entropy of a network. */
  const training = <K extends "mlpSgd" | "mlpAdam" | "cnnSgd", Name extends MlpWeight | CnnWeight>(
    given: Given<K, Tensor>,
    constant: (name: Name) => Tensor,
    names: readonly Name[],
    network: (weights: Weights<Name>, x: Tensor) => Tensor,
    optimizer: Core.Optimizer,
  ) => {
    const list = names.map((name) => tf.variable(constant(name)));
    const weights = Object.fromEntries(names.map((name, i) => [name, list[i]!])) as Record<Name, Core.Variable>;
    return {
      step(i: number) {
        const loss = () => tf.losses.softmaxCrossEntropy(given.input(i, "y"), network(weights, given.input(i, "x")));
        return { loss: optimizer.minimize(loss as () => Core.Scalar, true, list)! };
      },
      state: () => weights,
    };
  };

  const gelu = (x: Tensor): Tensor => {
    const inner = tf.mul(tf.mul(x, Math.sqrt(2 / Math.PI)), tf.add(1, tf.mul(tf.square(x), 0.044715)));
    return tf.mul(tf.mul(x, 0.5), tf.add(1, tf.tanh(inner)));
  };

  const { width, heads, tokens, batch } = gpt;
  /** 0 where a token may look, -1e9 where it may not. */
  const causal = (): Tensor =>
    tf.tidy(() => tf.mul(tf.sub(tf.linalg.bandPart(tf.ones([tokens, tokens]), -1, 0), 1), 1e9));
  const attention = (qkv: Tensor, mask: Tensor): Tensor => {
    const [q, k, v] = tf.split(qkv, 3, -1).map((part) =>
      tf.transpose(tf.reshape(part, [batch, tokens, heads, width / heads]), [0, 2, 1, 3])
    ) as [Tensor, Tensor, Tensor];
    const scores = tf.add(tf.mul(matMul(q, k, false, true), 1 / Math.sqrt(width / heads)), mask);
    const mixed = matMul(tf.softmax(scores, -1), v);
    return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [batch * tokens, width]);
  };
  const gptLoss = (w: Weights<GptWeight>, x: Tensor, target: Tensor, mask: Tensor): Core.Scalar => {
    const rows = tf.reshape(x, [batch * tokens, width]);
    const qkv = tf.add(matMul(layerNorm(rows, w.gain1, w.bias1), w.wqkv), w.bqkv);
    const middle = tf.add(rows, tf.add(matMul(attention(qkv, mask), w.wo), w.bo));
    const wide = gelu(tf.add(matMul(layerNorm(middle, w.gain2, w.bias2), w.w1), w.b1));
    const y = tf.add(middle, tf.add(matMul(wide, w.w2), w.b2));
    return tf.mean(tf.square(tf.sub(y, tf.reshape(target, y.shape))));
  };

  const overX = <K extends Kind>(given: { input(repetition: number, name: "x"): Tensor }, f: (x: Tensor) => Tensor) =>
    stateless<"softmax", Tensor>((i) => ({ y: tf.tidy(() => f(given.input(i, "x"))) })) as Program<K, Tensor>;

  return {
    matmul: (given) => stateless((i) => ({ product: matMul(given.input(i, "a"), given.input(i, "b")) })),
    matmulTransposed: (given) =>
      stateless((i) => ({ product: matMul(given.input(i, "a"), given.input(i, "b"), true) })),
    softmax: (given) => overX(given, (x) => tf.softmax(x, -1)),
    softmaxChain: (given) =>
      overX(given, (x) => {
        let y = x;
        for (let i = 0; i < softmaxDepth; i++) {
          const before = y;
          y = tf.softmax(before, -1);
          if (before !== x) before.dispose();
        }
        return y;
      }),
    layerNorm: (given) => overX(given, (x) => layerNorm(x, given.constant("gain"), given.constant("bias"))),
    chain: (given) =>
      overX(given, (x) => {
        const root = tf.sqrt(tf.abs(tf.add(tf.mul(x, 1.5), 0.5)));
        return tf.reciprocal(tf.add(tf.exp(tf.neg(root)), 1));
      }),
    sum: (given) => overX(given, (x) => tf.sum(x)),
    tinyOps: (given) =>
      stateless(async (i) => {
        const x = await given.fresh(i, "x");
        const result = tf.tidy(() => {
          let y = x;
          for (let op = 0; op < tinyOps; op++) y = op % 2 === 0 ? tf.mul(y, 0.999) : tf.add(y, 0.001);
          return y;
        });
        x.dispose();
        return { y: result };
      }),
    conv: (given) => {
      const kernel = given.constant("k") as Core.Tensor4D;
      return stateless((i) => ({ y: tf.conv2d(given.input(i, "x") as Core.Tensor4D, kernel, 1, "same") }));
    },
    convGradients: (given) => {
      const kernel = given.constant("k") as Core.Tensor4D;
      const attributes = { strides: [1, 1], pad: "same", dataFormat: "NHWC", dimRoundingMode: undefined };
      // The kernels that its gradient function runs, without the forward pass that `tf.grads` would add.
      const run = (name: string, inputs: Core.NamedTensorMap, more: object): Tensor =>
        tf.engine().runKernel(name, inputs, { ...attributes, ...more } as unknown as Core.NamedAttrMap);
      return stateless((i) => {
        const [x, dy] = [given.input(i, "x"), given.input(i, "dy")];
        return {
          dx: run("Conv2DBackpropInput", { dy, filter: kernel }, { inputShape: x.shape }),
          dk: run("Conv2DBackpropFilter", { x, dy }, { filterShape: kernel.shape }),
        };
      });
    },
    mlpSgd: (given) => training(given, given.constant, mlpWeights, mlp, tf.train.sgd(sgdLearningRate)),
    mlpAdam: (given) => {
      const { learningRate, beta1, beta2, epsilon } = adam;
      return training(given, given.constant, mlpWeights, mlp, tf.train.adam(learningRate, beta1, beta2, epsilon));
    },
    cnnSgd: (given) => training(given, given.constant, cnnWeights, cnn, tf.train.sgd(cnnLearningRate)),
    gptBlock: (given) => {
      const mask = causal();
      return stateless((i) => {
        const target = given.input(i, "target");
        const names = ["x", ...gptWeights] as const;
        const loss = (...list: Tensor[]): Tensor => {
          const all = Object.fromEntries(names.map((name, n) => [name, list[n]!])) as Weights<GptWeight | "x">;
          return gptLoss(all, all.x, target, mask);
        };
        const { value, grads } = tf.valueAndGrads(loss)([given.input(i, "x"), ...gptWeights.map(given.constant)]);
        const gradients = Object.fromEntries(names.map((name, n) => [name, grads[n]!])) as Weights<GptWeight | "x">;
        return { loss: value, ...gradients };
      });
    },
  };
}

import { compile, grad, nn, optim, type Tensor, vjp } from "../../src/index.ts";
import {
  adam,
  cnnLearningRate,
  type CnnWeight,
  cnnWeights,
  gpt,
  type GptWeight,
  gptWeights,
  layerNormEpsilon,
  type MlpWeight,
  mlpWeights,
  sgdLearningRate,
  softmaxDepth,
  tinyOps,
} from "../workloads/workload.ts";
import { type Programs, stateless } from "./peer.ts";

type Weights<Name extends string> = Readonly<Record<Name, Tensor>>;

/** Each kind of work in shardwise: one compiled function. */
export const oursPrograms: Programs<Tensor> = {
  matmul: (given) => product(given, (a, b) => a.matmul(b)),
  matmulTransposed: (given) => product(given, (a, b) => a.transpose().matmul(b)),
  softmax: (given) => overX(given, (x) => x.softmax({ axis: -1 })),
  softmaxChain: (given) =>
    overX(given, (x) => {
      for (let i = 0; i < softmaxDepth; i++) x = x.softmax({ axis: -1 });
      return x;
    }),
  layerNorm: (given) => overX(given, (x) => layerNorm(x, given.constant("gain"), given.constant("bias"))),
  chain: (given) => overX(given, (x) => x.mul(1.5).add(0.5).abs().sqrt().neg().exp().add(1).reciprocal()),
  sum: (given) => overX(given, (x) => x.sum()),
  tinyOps: (given) =>
    stateless(async (i) => {
      let y = await given.fresh(i, "x");
      for (let op = 0; op < tinyOps; op++) {
        const next = await (op % 2 === 0 ? y.mul(0.999) : y.add(0.001)).realize();
        y.dispose();
        y = next;
      }
      return { y };
    }),
  conv: (given) => {
    const kernel = given.constant("k");
    return overX(given, (x) => x.conv2d(kernel, { padding: "same" }));
  },
  convGradients: (given) => {
    const k = given.constant("k");
    const compiled = compile((x: Tensor, dy: Tensor) => {
      const [, gradients] = vjp((at) => at.x.conv2d(at.k, { padding: "same" }), { x, k }, dy);
      return { dx: gradients.x, dk: gradients.k };
    });
    return stateless((i) => compiled(given.input(i, "x"), given.input(i, "dy")));
  },
  mlpSgd: (given) =>
    training(given, weightsOf(mlpWeights, given.constant), mlp, optim.sgd({ learningRate: sgdLearningRate })),
  mlpAdam: (given) => training(given, weightsOf(mlpWeights, given.constant), mlp, optim.adam(adam)),
  cnnSgd: (given) =>
    training(given, weightsOf(cnnWeights, given.constant), cnn, optim.sgd({ learningRate: cnnLearningRate })),
  gptBlock: (given) => {
    const weights = weightsOf(gptWeights, given.constant);
    const compiled = compile((x: Tensor, target: Tensor) => {
      const loss = gptBlock(weights, x).sub(target).square().mean();
      return { loss, ...grad(loss, { ...weights, x }) };
    });
    return stateless((i) => compiled(given.input(i, "x"), given.input(i, "target")));
  },
};

function overX(given: { input(repetition: number, name: "x"): Tensor }, f: (x: Tensor) => Tensor) {
  const compiled = compile(f);
  return stateless<"softmax", Tensor>(async (i) => ({ y: await compiled(given.input(i, "x")) }));
}

function product(given: { input(repetition: number, name: "a" | "b"): Tensor }, f: (a: Tensor, b: Tensor) => Tensor) {
  const compiled = compile(f);
  return stateless<"matmul", Tensor>(async (i) => ({
    product: await compiled(given.input(i, "a"), given.input(i, "b")),
  }));
}

function weightsOf<Name extends string>(names: readonly Name[], constant: (name: Name) => Tensor): Weights<Name> {
  return Object.fromEntries(names.map((name) => [name, constant(name)])) as Weights<Name>;
}

/** Steps of an optimizer on the cross-entropy of a network. */
function training<Name extends string>(
  given: { input(repetition: number, name: "x" | "y"): Tensor },
  weights: Weights<Name>,
  network: (weights: Weights<Name>, x: Tensor) => Tensor,
  rule: optim.Optimizer,
) {
  const parameters: Readonly<Record<string, Tensor>> = weights;
  const optimizer = rule.bind(parameters);
  const compiled = compile((x: Tensor, y: Tensor) => {
    const loss = nn.crossEntropy(network(weights, x), y).mean;
    optimizer.step(grad(loss, parameters));
    return { loss };
  });
  return {
    step: (i: number) => compiled(given.input(i, "x"), given.input(i, "y")),
    state: () => weights,
  };
}

function layerNorm(x: Tensor, gain: Tensor, bias: Tensor): Tensor {
  const centred = x.sub(x.mean({ axis: -1, keepDims: true }));
  const variance = centred.square().mean({ axis: -1, keepDims: true });
  return centred.mul(variance.add(layerNormEpsilon).rsqrt()).mul(gain).add(bias);
}

function mlp(w: Weights<MlpWeight>, x: Tensor): Tensor {
  return x.matmul(w.w1).add(w.b1).relu().matmul(w.w2).add(w.b2);
}

function cnn(w: Weights<CnnWeight>, x: Tensor): Tensor {
  const first = x.conv2d(w.k1, { padding: "same" }).add(w.b1).relu().maxPool2d({ size: 2 });
  const second = first.conv2d(w.k2, { padding: "same" }).add(w.b2).relu().maxPool2d({ size: 2 });
  return second.reshape([x.shape[0]!, -1]).matmul(w.w3).add(w.b3);
}

function gptBlock(w: Weights<GptWeight>, x: Tensor): Tensor {
  const { width, heads, tokens, batch } = gpt;
  const qkv = layerNorm(x, w.gain1, w.bias1).matmul(w.wqkv).add(w.bqkv);
  const [q, k, v] = [0, 1, 2].map((part) =>
    qkv.slice({ axis: -1, start: part * width, end: (part + 1) * width })
      .reshape([batch, tokens, heads, width / heads]).transpose([0, 2, 1, 3])
  ) as [Tensor, Tensor, Tensor];
  const mixed = q.scaledDotProductAttention(k, v, { causal: true }).transpose([0, 2, 1, 3]).reshape(x.shape);
  const middle = x.add(mixed.matmul(w.wo).add(w.bo));
  const wide = layerNorm(middle, w.gain2, w.bias2).matmul(w.w1).add(w.b1).gelu({ approximate: "tanh" });
  return middle.add(wide.matmul(w.w2).add(w.b2));
}

import type * as Jax from "@jax-js/jax";
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

type Array = Jax.Array;
type Weights<Name extends string> = Record<Name, Array>;

/** Each kind of work in jax-js: one jitted function, its gradients by `valueAndGrad` or `vjp`. */
export function jaxPrograms(jax: typeof Jax): Programs<Array> {
  const { numpy: np, nn, lax, jit, valueAndGrad, vjp } = jax;

  const overX = (given: { input(repetition: number, name: "x"): Array }, f: (x: Array) => Array) => {
    const compiled = jit(f);
    return stateless<"softmax", Array>((i) => ({ y: compiled(given.input(i, "x").ref) }));
  };

  const product = (given: { input(repetition: number, name: "a" | "b"): Array }, f: (a: Array, b: Array) => Array) => {
    const compiled = jit(f);
    return stateless<"matmul", Array>((i) => ({ product: compiled(given.input(i, "a").ref, given.input(i, "b").ref) }));
  };

  const layerNorm = (x: Array, gain: Array, bias: Array): Array =>
    nn.standardize(x, -1, { epsilon: layerNormEpsilon }).mul(gain).add(bias);

  /** Its convolution takes channels first, so that images and kernels are seen transposed. */
  const conv = (x: Array, kernel: Array): Array => {
    const [images, filters] = [x.transpose([0, 3, 1, 2]), kernel.transpose([3, 2, 0, 1])];
    return lax.conv(images, filters, [1, 1], "SAME").transpose([0, 2, 3, 1]);
  };

  const maxPool = (x: Array): Array => {
    const [rows, height, width, channels] = x.shape as [number, number, number, number];
    return np.max(x.reshape([rows, height / 2, 2, width / 2, 2, channels]), [2, 4]);
  };

  const mlp = (w: Weights<MlpWeight>, x: Array): Array => {
    const hidden = nn.relu(np.matmul(x, w.w1).add(w.b1));
    return np.matmul(hidden, w.w2).add(w.b2);
  };

  const cnn = (w: Weights<CnnWeight>, x: Array): Array => {
    const rows = x.shape[0]!;
    const first = maxPool(nn.relu(conv(x, w.k1).add(w.b1)));
    const second = maxPool(nn.relu(conv(first, w.k2).add(w.b2)));
    return np.matmul(second.reshape([rows, -1]), w.w3).add(w.b3);
  };

  const crossEntropy = (logits: Array, y: Array): Array => np.mean(np.sum(nn.logSoftmax(logits, -1).mul(y), -1)).neg();

  const each = <Name extends string>(names: readonly Name[], value: (name: Name) => Array): Weights<Name> =>
    Object.fromEntries(names.map((name) => [name, value(name)])) as Weights<Name>;

  /** Steps of SGD on the cross-entropy of a network. */
  const sgd = <Name extends string>(
    given: { input(repetition: number, name: "x" | "y"): Array },
    constant: (name: Name) => Array,
    names: readonly Name[],
    network: (weights: Weights<Name>, x: Array) => Array,
    learningRate: number,
  ) => {
    const loss = (w: Weights<Name>, x: Array, y: Array): Array => crossEntropy(network(w, x), y);
    const compiled = jit((w: Weights<Name>, x: Array, y: Array): [Array, Weights<Name>] => {
      const [value, g] = valueAndGrad(loss)(each(names, (name) => w[name].ref) as never, x, y) as [
        Array,
        Weights<Name>,
      ];
      return [value, each(names, (name) => w[name].sub(g[name].mul(learningRate)))];
    });
    let weights = each(names, (name) => constant(name).ref);
    return {
      step(i: number) {
        const [value, updated] = compiled(weights as never, given.input(i, "x").ref, given.input(i, "y").ref);
        weights = updated as Weights<Name>;
        return { loss: value };
      },
      state: () => weights,
    };
  };

  const { width, heads, tokens, batch } = gpt;
  /** Written out: its dotProductAttention calls iterator helpers, which Node 20 does not have. */
  const attention = (qkv: Array): Array => {
    const heads3 = qkv.reshape([batch, tokens, 3, heads, width / heads]).transpose([2, 0, 3, 1, 4]);
    const [q, k, v] = [heads3.ref.slice(0), heads3.ref.slice(1), heads3.slice(2)];
    const scores = np.matmul(q, k.transpose([0, 1, 3, 2])).mul(1 / Math.sqrt(width / heads));
    const position = np.arange(tokens);
    const seen = position.ref.reshape([tokens, 1]).greaterEqual(position);
    const weights = nn.softmax(np.where(seen, scores, -1e9), -1);
    return np.matmul(weights, v).transpose([0, 2, 1, 3]).reshape([batch, tokens, width]);
  };
  const gptLoss = (w: Weights<GptWeight | "x">, target: Array): Array => {
    const qkv = np.matmul(layerNorm(w.x.ref, w.gain1, w.bias1), w.wqkv).add(w.bqkv);
    const mixed = attention(qkv);
    const middle = w.x.add(np.matmul(mixed, w.wo).add(w.bo));
    const wide = nn.gelu(np.matmul(layerNorm(middle.ref, w.gain2, w.bias2), w.w1).add(w.b1), { approximate: true });
    const y = middle.add(np.matmul(wide, w.w2).add(w.b2));
    return np.mean(np.square(y.sub(target)));
  };

  return {
    matmul: (given) => product(given, (a, b) => np.matmul(a, b)),
    matmulTransposed: (given) => product(given, (a, b) => np.matmul(a.transpose(), b)),
    softmax: (given) => overX(given, (x) => nn.softmax(x, -1)),
    softmaxChain: (given) =>
      overX(given, (x) => {
        for (let i = 0; i < softmaxDepth; i++) x = nn.softmax(x, -1);
        return x;
      }),
    layerNorm: (given) => {
      const compiled = jit(layerNorm);
      const [gain, bias] = [given.constant("gain"), given.constant("bias")];
      return stateless((i) => ({ y: compiled(given.input(i, "x").ref, gain.ref, bias.ref) }));
    },
    chain: (given) =>
      overX(given, (x) => np.reciprocal(np.exp(np.negative(np.sqrt(np.abs(x.mul(1.5).add(0.5))))).add(1))),
    sum: (given) => overX(given, (x) => np.sum(x)),
    tinyOps: (given) =>
      stateless(async (i) => {
        let y = await given.fresh(i, "x");
        for (let op = 0; op < tinyOps; op++) {
          y = op % 2 === 0 ? y.mul(0.999) : y.add(0.001);
          await jax.blockUntilReady(y);
        }
        return { y };
      }),
    conv: (given) => {
      const compiled = jit(conv);
      const kernel = given.constant("k");
      return stateless((i) => ({ y: compiled(given.input(i, "x").ref, kernel.ref) }));
    },
    convGradients: (given) => {
      const compiled = jit((x: Array, kernel: Array, dy: Array): [Array, Array] => {
        const [y, pull] = vjp(conv, [x, kernel]);
        y.dispose();
        const gradients = pull(dy) as [Array, Array];
        pull.dispose();
        return gradients;
      });
      const kernel = given.constant("k");
      return stateless((i) => {
        const [dx, dk] = compiled(given.input(i, "x").ref, kernel.ref, given.input(i, "dy").ref) as [Array, Array];
        return { dx, dk };
      });
    },
    mlpSgd: (given) => sgd(given, given.constant, mlpWeights, mlp, sgdLearningRate),
    mlpAdam: (given) => {
      const loss = (w: Weights<MlpWeight>, x: Array, y: Array): Array => crossEntropy(mlp(w, x), y);
      type State = {
        w: Weights<MlpWeight>;
        m: Weights<MlpWeight>;
        v: Weights<MlpWeight>;
        correction: Weights<"m" | "v">;
      };
      const compiled = jit((s: State, x: Array, y: Array): [Array, State] => {
        const [value, g] = valueAndGrad(loss)(each(mlpWeights, (name) => s.w[name].ref), x, y) as [
          Array,
          Weights<MlpWeight>,
        ];
        const { learningRate, beta1, beta2, epsilon } = adam;
        // The powers of the betas are part of the state: a number that changes would be compiled anew.
        const correction = { m: s.correction.m.mul(beta1), v: s.correction.v.mul(beta2) };
        const m = each(mlpWeights, (name) => s.m[name].mul(beta1).add(g[name].ref.mul(1 - beta1)));
        const v = each(mlpWeights, (name) => s.v[name].mul(beta2).add(np.square(g[name]).mul(1 - beta2)));
        const w = each(mlpWeights, (name) => {
          const mean = m[name].ref.div(np.subtract(1, correction.m.ref));
          const root = np.sqrt(v[name].ref.div(np.subtract(1, correction.v.ref)));
          return s.w[name].sub(mean.mul(learningRate).div(root.add(epsilon)));
        });
        return [value, { w, m, v, correction }];
      });
      let state: State = {
        w: each(mlpWeights, (name) => given.constant(name).ref),
        m: each(mlpWeights, (name) => np.zeros(given.constant(name).shape)),
        v: each(mlpWeights, (name) => np.zeros(given.constant(name).shape)),
        correction: { m: np.ones([]), v: np.ones([]) },
      };
      return {
        step(i) {
          const [value, updated] = compiled(state, given.input(i, "x").ref, given.input(i, "y").ref) as [Array, State];
          state = updated;
          return { loss: value };
        },
        state: () => state.w,
      };
    },
    cnnSgd: (given) => sgd(given, given.constant, cnnWeights, cnn, cnnLearningRate),
    gptBlock: (given) => {
      const compiled = jit(valueAndGrad(gptLoss));
      return stateless((i) => {
        const weights = { ...each(gptWeights, (name) => given.constant(name).ref), x: given.input(i, "x").ref };
        const [loss, gradients] = compiled(weights, given.input(i, "target").ref) as [Array, Weights<GptWeight | "x">];
        return { loss, ...gradients };
      });
    },
  };
}

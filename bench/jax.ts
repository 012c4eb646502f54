import { readFile } from "node:fs/promises";
import type * as Jax from "@jax-js/jax";
import { offerWebGPU } from "./navigator.ts";
import { field, type OpenPeer, type Peer, type Prepared } from "./peer.ts";
import { type HostInput, layerNormEpsilon, sgdLearningRate, type Workload } from "./workloads.ts";

type Array = Jax.Array;
type Weights = { w1: Array; b1: Array; w2: Array; b2: Array };

/** `@jax-js/jax` on WebGPU, everything under `jit`. Its arrays are consumed by use: `.ref` keeps one alive. */
export const jaxWebGPU: Peer = {
  name: "jax-js webgpu",
  target: "gpu",
  async open() {
    const adapter = await offerWebGPU();
    const jax = await import("@jax-js/jax");
    const started = await jax.init("webgpu");
    if (!started.includes("webgpu")) throw new Error("jax-js found no WebGPU adapter");
    jax.defaultDevice("webgpu");
    return open(jax, adapter);
  },
};

async function open(jax: typeof Jax, adapter: string): Promise<OpenPeer> {
  const device = jax.getWebGPUDevice();
  const upload = async (input: HostInput): Promise<Array> => {
    const array = jax.numpy.array(input.data).reshape([...input.shape]);
    return await jax.blockUntilReady(array);
  };
  return {
    version: await packageVersion("@jax-js/jax"),
    runsOn: adapter,
    async prepare(workload): Promise<Prepared> {
      const uploadAll = async (record: Readonly<Record<string, HostInput>>) => {
        const arrays: Record<string, Array> = {};
        for (const name of Object.keys(record)) arrays[name] = await upload(field(record, name));
        return arrays;
      };
      const sets = await Promise.all(workload.sets.map(uploadAll));
      const constants = await uploadAll(workload.constants);
      const step = program(jax, workload, sets, constants);
      return {
        async run(repetition) {
          const result = step(repetition);
          await jax.blockUntilReady(result); // flushes what jit left pending, then reads 0 bytes
          await device.queue.onSubmittedWorkDone();
          result.dispose();
        },
        async output(repetition) {
          return Float32Array.from((await step(repetition).data()) as Float32Array);
        },
        dispose() {
          for (const set of sets) for (const array of Object.values(set)) array.dispose();
        },
      };
    },
    close() {},
  };
}

/** The function that one repetition calls; it leaves its inputs alive. */
function program(
  jax: typeof Jax,
  workload: Workload,
  sets: readonly Record<string, Array>[],
  constants: Record<string, Array>,
): (repetition: number) => Array {
  const { numpy: np, nn, jit, valueAndGrad } = jax;
  const input = (repetition: number, name: string): Array => sets[repetition % sets.length]![name]!.ref;
  const overX = (f: (x: Array) => Array) => {
    const compiled = jit(f);
    return (repetition: number) => compiled(input(repetition, "x"));
  };
  switch (workload.kind) {
    case "matmul": {
      const compiled = jit((a: Array, b: Array) => np.matmul(a, b));
      return (repetition) => compiled(input(repetition, "a"), input(repetition, "b"));
    }
    case "softmax":
      return overX((x) => nn.softmax(x, -1));
    case "layerNorm": {
      const compiled = jit((x: Array, gain: Array, bias: Array) =>
        nn.standardize(x, -1, { epsilon: layerNormEpsilon }).mul(gain).add(bias)
      );
      return (repetition) => compiled(input(repetition, "x"), constants["gain"]!.ref, constants["bias"]!.ref);
    }
    case "chain":
      return overX((x) => np.reciprocal(np.exp(np.negative(np.sqrt(np.abs(x.mul(1.5).add(0.5))))).add(1)));
    case "sum":
      return overX((x) => np.sum(x));
    case "mlpStep": {
      const loss = (w: Weights, x: Array, y: Array): Array => {
        const hidden = nn.relu(np.matmul(x, w.w1).add(w.b1));
        const logits = np.matmul(hidden, w.w2).add(w.b2);
        return np.mean(np.sum(nn.logSoftmax(logits, -1).mul(y), -1)).neg();
      };
      const update = (w: Array, g: Array): Array => w.sub(g.mul(sgdLearningRate));
      const compiled = jit((w: Weights, x: Array, y: Array): [Array, Weights] => {
        const kept = { w1: w.w1.ref, b1: w.b1.ref, w2: w.w2.ref, b2: w.b2.ref };
        const [value, g] = valueAndGrad(loss)(kept, x, y) as [Array, Weights];
        return [value, {
          w1: update(w.w1, g.w1),
          b1: update(w.b1, g.b1),
          w2: update(w.w2, g.w2),
          b2: update(w.b2, g.b2),
        }];
      });
      let weights = constants as Weights;
      return (repetition) => {
        const [value, updated] = compiled(weights, input(repetition, "x"), input(repetition, "y")) as [Array, Weights];
        weights = updated;
        return value;
      };
    }
  }
}

async function packageVersion(name: string): Promise<string> {
  const text = await readFile(new URL(`../node_modules/${name}/package.json`, import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

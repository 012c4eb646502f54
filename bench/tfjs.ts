import { createRequire } from "node:module";
import type * as Core from "@tensorflow/tfjs-core";
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import { offerWebGPU } from "./navigator.ts";
import { field, type OpenPeer, type Peer, type Prepared } from "./peer.ts";
import { type HostInput, layerNormEpsilon, sgdLearningRate, type Workload } from "./workloads.ts";

/** TensorFlow.js with its WebGPU, WASM and plain JS backends. It computes op by op; there is nothing to compile. */
export const tfjsWebGPU: Peer = {
  name: "tfjs webgpu",
  target: "gpu",
  async open() {
    const adapter = await offerWebGPU();
    const tf = await core();
    await import("@tensorflow/tfjs-backend-webgpu");
    return await start(tf, "webgpu", adapter);
  },
};

export const tfjsWasm: Peer = {
  name: "tfjs wasm",
  target: "cpu",
  async open() {
    const tf = await core();
    const wasm = await import("@tensorflow/tfjs-backend-wasm");
    const opened = await start(tf, "wasm", "WebAssembly");
    return { ...opened, runsOn: `WebAssembly, ${wasm.getThreadsCount()} threads` };
  },
};

export const tfjsCpu: Peer = {
  name: "tfjs cpu",
  target: "cpu",
  async open() {
    const tf = await core();
    await import("@tensorflow/tfjs-backend-cpu");
    return await start(tf, "cpu", "plain JavaScript");
  },
};

async function core(): Promise<typeof Core> {
  const tf = await import("@tensorflow/tfjs-core");
  try {
    // The package's entry leaves the gradients out, and the module that registers them has imports that only CommonJS
    // resolves. Deno takes it for an ES module: there the training step is reported as not run.
    createRequire(import.meta.url)("@tensorflow/tfjs-core/dist/register_all_gradients");
  } catch (error) {
    if (!("Deno" in globalThis)) throw error;
  }
  tf.enableProdMode(); // no checks between ops, and no advice for Node on the output
  return tf;
}

async function start(tf: typeof Core, backend: string, runsOn: string): Promise<OpenPeer> {
  if (!(await tf.setBackend(backend))) throw new Error(`tfjs cannot start its ${backend} backend here`);
  await tf.ready();
  const finish = async (): Promise<void> => {
    if (backend !== "webgpu") return;
    const gpu = tf.backend() as WebGPUBackend;
    // It collects dispatches in an encoder and submits that when something is read; with no dispatch there is none.
    if ((gpu as unknown as { commandEncoder: GPUCommandEncoder | null }).commandEncoder) {
      gpu.endComputePassEncoder();
      gpu.submitQueue();
    }
    await gpu.device.queue.onSubmittedWorkDone();
  };
  return {
    version: tf.version_core,
    runsOn,
    async prepare(workload): Promise<Prepared> {
      await tf.setBackend(backend);
      const upload = (input: HostInput) => tf.tensor(input.data, [...input.shape], "float32");
      const uploadAll = (record: Readonly<Record<string, HostInput>>) =>
        Object.fromEntries(Object.keys(record).map((name) => [name, upload(field(record, name))]));
      const sets = workload.sets.map(uploadAll);
      const constants = uploadAll(workload.constants);
      const step = program(tf, workload, sets, constants);
      await finish();
      return {
        async run(repetition) {
          const result = step(repetition);
          await finish();
          result.dispose();
        },
        async output(repetition) {
          const result = step(repetition);
          const data = Float32Array.from(await result.data());
          result.dispose();
          return data;
        },
        dispose() {
          for (const set of sets) tf.dispose(set);
          tf.dispose(constants);
        },
      };
    },
    close() {
      tf.removeBackend(backend);
    },
  };
}

function program(
  tf: typeof Core,
  workload: Workload,
  sets: readonly Record<string, Core.Tensor>[],
  constants: Record<string, Core.Tensor>,
): (repetition: number) => Core.Tensor {
  const input = (repetition: number, name: string): Core.Tensor => sets[repetition % sets.length]![name]!;
  switch (workload.kind) {
    case "matmul":
      return (i) => tf.matMul(input(i, "a"), input(i, "b"));
    case "softmax":
      return (i) => tf.tidy(() => tf.softmax(input(i, "x"), -1));
    case "layerNorm":
      return (i) =>
        tf.tidy(() => {
          const x = input(i, "x");
          const { mean, variance } = tf.moments(x, -1, true);
          const scale = tf.rsqrt(tf.add(variance, layerNormEpsilon));
          const normal = tf.mul(tf.sub(x, mean), scale);
          return tf.add(tf.mul(normal, constants["gain"]!), constants["bias"]!);
        });
    case "chain":
      return (i) =>
        tf.tidy(() => {
          const root = tf.sqrt(tf.abs(tf.add(tf.mul(input(i, "x"), 1.5), 0.5)));
          return tf.reciprocal(tf.add(tf.exp(tf.neg(root)), 1));
        });
    case "sum":
      return (i) => tf.tidy(() => tf.sum(input(i, "x")));
    case "mlpStep": {
      const weights = ["w1", "b1", "w2", "b2"].map((name) => tf.variable(constants[name]!)) as [
        Core.Variable,
        Core.Variable,
        Core.Variable,
        Core.Variable,
      ];
      const [w1, b1, w2, b2] = weights;
      const optimizer = tf.train.sgd(sgdLearningRate);
      return (i) =>
        optimizer.minimize(
          () => {
            const hidden = tf.relu(
              tf.add(tf.matMul(input(i, "x") as Core.Tensor2D, w1 as unknown as Core.Tensor2D), b1),
            );
            const logits = tf.add(tf.matMul(hidden as Core.Tensor2D, w2 as unknown as Core.Tensor2D), b2);
            return tf.losses.softmaxCrossEntropy(input(i, "y"), logits) as Core.Scalar;
          },
          true,
          weights,
        )!;
    }
  }
}

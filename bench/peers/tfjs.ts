import { createRequire } from "node:module";
import type * as Core from "@tensorflow/tfjs-core";
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import { offerWebGPU } from "./navigator.ts";
import { type Engine, type OpenPeer, type Peer, prepare } from "./peer.ts";
import { tfjsPrograms } from "./tfjs-programs.ts";

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
  const engine: Engine<Core.Tensor> = {
    programs: tfjsPrograms(tf),
    upload: (input) => tf.tensor(input.data, [...input.shape], "float32"),
    async finish() {
      if (backend !== "webgpu") return;
      const gpu = tf.backend() as WebGPUBackend;
      // It collects dispatches in an encoder and submits that when something is read; with no dispatch there is none.
      if ((gpu as unknown as { commandEncoder: GPUCommandEncoder | null }).commandEncoder) {
        gpu.endComputePassEncoder();
        gpu.submitQueue();
      }
      await gpu.device.queue.onSubmittedWorkDone();
    },
    read: (tensor) => tensor.data(),
    dispose: (tensor) => tensor.dispose(),
  };
  return {
    version: () => Promise.resolve(tf.version_core),
    runsOn,
    async prepare(workload) {
      await tf.setBackend(backend);
      return await prepare(engine, workload);
    },
    close() {
      tf.removeBackend(backend);
    },
  };
}

import { register } from "node:module";
import type * as Core from "@tensorflow/tfjs-core";
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import { offerWebGPU } from "./navigator.ts";
import { type Engine, type OpenPeer, type Peer, prepare } from "./peer.ts";
import { tfjsPrograms } from "./tfjs-programs.ts";

/** TensorFlow.js with its WebGPU and WASM backends. It computes op by op; there is nothing to compile. */
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
    // Node has the build without threads, whatever is asked for.
    return { ...opened, runsOn: `WebAssembly, ${wasm.getThreadsCount()} threads` };
  },
};

/** Milliseconds that the gradients took to load. */
let gradients = 0;

async function core(): Promise<typeof Core> {
  const tf = await import("@tensorflow/tfjs-core");
  const begin = performance.now();
  try {
    // The package's entry leaves the gradients out, and the modules that register them import each other without the
    // ".js" that Node wants. Deno cannot be told to add it: there a training is reported as not run.
    if (!("Deno" in globalThis)) register(`data:text/javascript,${encodeURIComponent(resolveWithoutEnding)}`);
    await import("@tensorflow/tfjs-core/dist/register_all_gradients.js");
  } catch (error) {
    if (!("Deno" in globalThis)) throw error;
  }
  gradients = performance.now() - begin;
  tf.enableProdMode(); // no checks between ops, and no advice for Node on the output
  return tf;
}

const resolveWithoutEnding = `
export function resolve(specifier, context, next) {
  const own = context.parentURL?.includes("/@tensorflow/") && /^[.]/.test(specifier) && !/[.]js$/.test(specifier);
  return next(own ? specifier + ".js" : specifier, context);
}`;

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
    notCharged: gradients, // hundreds of files, which its users get in a bundle
    async prepare(workload) {
      await tf.setBackend(backend);
      return await prepare(engine, workload);
    },
    close() {
      tf.removeBackend(backend);
    },
  };
}

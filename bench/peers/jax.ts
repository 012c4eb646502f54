import type * as Jax from "@jax-js/jax";
import { jaxPrograms } from "./jax-programs.ts";
import { offerWebGPU } from "./navigator.ts";
import { type Engine, type OpenPeer, type Peer, prepare, versionIn } from "./peer.ts";

/** `@jax-js/jax` on WebGPU and in WebAssembly, everything under `jit`. Its arrays are consumed by use: `.ref` keeps one alive. */
export const jaxWebGPU: Peer = {
  name: "jax-js webgpu",
  target: "gpu",
  async open() {
    const runsOn = await offerWebGPU();
    const jax = await import("@jax-js/jax");
    const started = await jax.init("webgpu");
    if (!started.includes("webgpu")) throw new Error("jax-js found no WebGPU adapter");
    jax.defaultDevice("webgpu");
    const { queue } = jax.getWebGPUDevice();
    return open(jax, runsOn, () => queue.onSubmittedWorkDone());
  },
};

export const jaxWasm: Peer = {
  name: "jax-js wasm",
  target: "cpu",
  async open() {
    const jax = await import("@jax-js/jax");
    const started = await jax.init("wasm");
    if (!started.includes("wasm")) throw new Error("jax-js does not start its WebAssembly backend");
    jax.defaultDevice("wasm");
    return open(jax, "WebAssembly", () => Promise.resolve());
  },
};

function open(jax: typeof Jax, runsOn: string, isDone: () => Promise<unknown>): OpenPeer {
  const engine: Engine<Jax.Array> = {
    programs: jaxPrograms(jax),
    upload: (input) => jax.blockUntilReady(jax.numpy.array(input.data).reshape([...input.shape])),
    async finish(arrays) {
      await jax.blockUntilReady([...arrays]); // flushes what jit left pending, then reads 0 bytes
      await isDone();
    },
    read: (array) => array.ref.data() as Promise<Float32Array>,
    dispose: (array) => array.dispose(),
  };
  return {
    version: () => versionIn("node_modules/@jax-js/jax/package.json"),
    runsOn,
    prepare: (workload) => prepare(engine, workload),
    close() {},
  };
}

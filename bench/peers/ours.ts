import { devices, realize, setDefaultDevice, type Tensor, tensor } from "../../src/index.ts";
import { oursPrograms } from "./ours-programs.ts";
import { type Engine, type OpenPeer, type Peer, prepare, versionIn } from "./peer.ts";

/** shardwise on a WebGPU adapter: the hardware one, or the software one where there is none. */
export const oursGpu: Peer = { name: "shardwise", target: "gpu", open: () => open("gpu") };

/** shardwise on its own cpu device: on as many threads as the peers have, and on two. */
export const oursOnOneThread: Peer = { name: "shardwise", target: "cpu", open: () => open("cpu", 1) };
export const oursOnTwoThreads: Peer = { name: "on 2 threads", target: "cpu", open: () => open("cpu", 2) };

let adapter: string | undefined;

/** Which adapter `oursGpu` opens, by (part of) its name; the first one by default. */
export function chooseAdapter(name: string | undefined): void {
  adapter = name;
}

async function open(kind: "gpu" | "cpu", threads = 1): Promise<OpenPeer> {
  const named = kind === "gpu" && adapter !== undefined ? { name: adapter } : {};
  const [device] = await devices({ kind, ...named });
  if (device === undefined) throw new Error(`shardwise found no ${kind} device`);
  setDefaultDevice(device);
  const engine: Engine<Tensor> = {
    programs: oursPrograms,
    upload: (input) => tensor(input.data, { shape: input.shape, device }).realize(),
    async finish(tensors) {
      await realize(...tensors);
      await device.sync();
    },
    read: (x) => x.data(),
    dispose: (x) => x.dispose(),
  };
  return {
    version: () => versionIn("package.json"),
    runsOn: kind === "gpu" ? device.info.description : `WebAssembly, ${threads} threads`,
    async prepare(workload) {
      // Of the cpu device there is one.
      if (kind === "cpu") await devices({ kind, threads });
      return await prepare(engine, workload);
    },
    memory: () => device.stats(),
    close() {
      setDefaultDevice(undefined);
      device.close();
    },
  };
}

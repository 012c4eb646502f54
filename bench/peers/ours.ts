import { devices, realize, setDefaultDevice, type Tensor, tensor } from "../../src/index.ts";
import { oursPrograms } from "./ours-programs.ts";
import { type Engine, type OpenPeer, type Peer, prepare, versionIn } from "./peer.ts";

/** shardwise on a WebGPU adapter: the hardware one, or the software one where there is none. */
export const oursGpu: Peer = { name: "shardwise", target: "gpu", open: () => open("gpu") };

/** shardwise on its own cpu device. */
export const oursCpu: Peer = { name: "shardwise", target: "cpu", open: () => open("cpu") };

let adapter: string | undefined;

/** Which adapter `oursGpu` opens, by (part of) its name; the first one by default. */
export function chooseAdapter(name: string | undefined): void {
  adapter = name;
}

async function open(kind: "gpu" | "cpu"): Promise<OpenPeer> {
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
    runsOn: kind === "gpu" ? device.info.description : "generated JavaScript",
    prepare: (workload) => prepare(engine, workload),
    memory: () => device.stats(),
    close() {
      setDefaultDevice(undefined);
      device.close();
    },
  };
}

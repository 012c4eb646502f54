import { readFile } from "node:fs/promises";
import { compile, type Device, devices, grad, nn, optim, setDefaultDevice, type Tensor, tensor } from "../src/index.ts";
import { field, type OpenPeer, type Peer, type Prepared } from "./peer.ts";
import { type HostInput, layerNormEpsilon, sgdLearningRate, type Workload } from "./workloads.ts";

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
  const text = await readFile(new URL("../package.json", import.meta.url), "utf8");
  return {
    version: (JSON.parse(text) as { version: string }).version,
    runsOn: kind === "gpu" ? device.info.description : "generated JavaScript",
    prepare: (workload) => prepare(workload, device),
    close() {
      setDefaultDevice(undefined);
      device.close();
    },
  };
}

async function prepare(workload: Workload, device: Device): Promise<Prepared> {
  const upload = (input: HostInput): Tensor => tensor(input.data, { shape: input.shape, device });
  const uploadAll = async (record: Readonly<Record<string, HostInput>>): Promise<Record<string, Tensor>> => {
    const tensors: Record<string, Tensor> = {};
    for (const name of Object.keys(record)) tensors[name] = await upload(field(record, name)).realize();
    return tensors;
  };
  const sets = await Promise.all(workload.sets.map(uploadAll));
  const constants = await uploadAll(workload.constants);
  const step = program(workload, sets, constants);
  await device.sync();
  return {
    async run(repetition) {
      const result = await step(repetition);
      await device.sync();
      result.dispose();
    },
    async output(repetition) {
      const result = await step(repetition);
      const data = Float32Array.from(await result.data());
      result.dispose();
      return data;
    },
    dispose() {
      for (const record of [...sets, constants]) for (const held of Object.values(record)) held.dispose();
    },
  };
}

function program(
  workload: Workload,
  sets: readonly Record<string, Tensor>[],
  constants: Record<string, Tensor>,
): (repetition: number) => Promise<Tensor> {
  const input = (repetition: number, name: string): Tensor => sets[repetition % sets.length]![name]!;
  const overX = (f: (x: Tensor) => Tensor): (repetition: number) => Promise<Tensor> => {
    const compiled = compile(f);
    return (repetition) => compiled(input(repetition, "x"));
  };
  switch (workload.kind) {
    case "matmul": {
      const compiled = compile((a: Tensor, b: Tensor) => a.matmul(b));
      return (repetition) => compiled(input(repetition, "a"), input(repetition, "b"));
    }
    case "softmax":
      return overX((x) => x.softmax({ axis: -1 }));
    case "layerNorm":
      return overX((x) => {
        const centred = x.sub(x.mean({ axis: -1, keepDims: true }));
        const variance = centred.square().mean({ axis: -1, keepDims: true });
        return centred.mul(variance.add(layerNormEpsilon).rsqrt()).mul(constants["gain"]!).add(constants["bias"]!);
      });
    case "chain":
      return overX((x) => x.mul(1.5).add(0.5).abs().sqrt().neg().exp().add(1).reciprocal());
    case "sum":
      return overX((x) => x.sum());
    case "mlpStep": {
      const weights = { w1: constants["w1"]!, b1: constants["b1"]!, w2: constants["w2"]!, b2: constants["b2"]! };
      const optimizer = optim.sgd({ learningRate: sgdLearningRate }).bind(weights);
      const compiled = compile((x: Tensor, y: Tensor) => {
        const logits = x.matmul(weights.w1).add(weights.b1).relu().matmul(weights.w2).add(weights.b2);
        const loss = nn.crossEntropy(logits, y).mean;
        optimizer.step(grad(loss, weights));
        return loss;
      });
      return (repetition) => compiled(input(repetition, "x"), input(repetition, "y"));
    }
  }
}

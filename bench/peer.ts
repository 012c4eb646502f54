import type { HostInput, Workload } from "./workloads.ts";

/** An engine that is measured. */
export interface Peer {
  readonly name: string;
  readonly target: "gpu" | "cpu";
  /** Starts the engine. Rejects where it cannot run here. */
  open(): Promise<OpenPeer>;
}

export interface OpenPeer {
  readonly version: string;
  /** The adapter, or the kind of CPU code. */
  readonly runsOn: string;
  /** Uploads the inputs and makes what the repetitions share. */
  prepare(workload: Workload): Promise<Prepared>;
  close(): void | Promise<void>;
}

export interface Prepared {
  /** One repetition. Resolves when the engine has finished all of its work; the result may stay on the device. */
  run(repetition: number): Promise<void>;
  /** The same, and reads the whole result. Training steps count up: output(0), output(1), … and then run. */
  output(repetition: number): Promise<Float32Array>;
  dispose(): void;
}

/** A field of a workload; its absence is a mistake in the workload, not in the peer. */
export function field(record: Readonly<Record<string, HostInput>>, name: string): HostInput {
  const value = record[name];
  if (value === undefined) throw new Error(`workload without "${name}": it has ${Object.keys(record).join(", ")}`);
  return value;
}

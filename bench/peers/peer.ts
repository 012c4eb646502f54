import { readFile } from "node:fs/promises";
import type { ConstantName, HostInput, InputName, Kind, ResultName, StateName } from "../workloads/workload.ts";
import type { AnyWorkload } from "../workloads/index.ts";

/** An engine that is measured. */
export interface Peer {
  readonly name: string;
  readonly target: "gpu" | "cpu";
  /** Whether it is to be measured on a workload; by default on all. */
  takes?(workload: AnyWorkload): boolean;
  /** Starts the engine. Rejects where it cannot run here. */
  open(): Promise<OpenPeer>;
}

export interface OpenPeer {
  version(): Promise<string>;
  /** The adapter, or the kind of CPU code. */
  readonly runsOn: string;
  /** Milliseconds of its start that come from how it is loaded here and would not have to be. */
  readonly notCharged?: number;
  /** Uploads the inputs and makes what the repetitions share. */
  prepare(workload: AnyWorkload): Promise<Prepared>;
  /** Bytes of tensors now, and the most that there were at once since it was opened; where it counts them itself. */
  memory?(): { readonly liveBytes: number; readonly peakBytes: number };
  close(): void | Promise<void>;
}

export interface Prepared {
  /** One repetition. Resolves when the engine has finished all of its work; the results may stay on the device. */
  run(repetition: number): Promise<void>;
  /** The same, and reads results and state. Training steps count up: output(0), output(1), … and then run. */
  output(repetition: number): Promise<Readonly<Record<string, Float32Array>>>;
  dispose(): void;
}

/** What a program of an engine with tensors T is given. It leaves them alive. */
export interface Given<K extends Kind, T> {
  input(repetition: number, name: InputName<K>): T;
  constant(name: ConstantName<K>): T;
  /**
   * The input uploaded anew, which is the program's: for eager work, which an engine that remembers what it computed
   * from a tensor would not do again.
   */
  fresh(repetition: number, name: InputName<K>): Promise<T>;
}

export interface Program<K extends Kind, T> {
  /** The results of one repetition, which are the caller's. */
  step(repetition: number): Results<K, T> | Promise<Results<K, T>>;
  /** The state that the last step left, which stays the program's. */
  state(): Readonly<Record<StateName<K>, T>>;
}

type Results<K extends Kind, T> = Readonly<Record<ResultName<K>, T>>;

/** How an engine does each kind of work. One that forgets a kind does not compile. */
export type Programs<T> = { readonly [K in Kind]: (given: Given<K, T>) => Program<K, T> };

/** A program that keeps nothing from one repetition to the next. */
export function stateless<K extends Kind, T>(
  step: (repetition: number) => Results<K, T> | Promise<Results<K, T>>,
): Program<K, T> {
  return { step, state: () => ({}) as Record<StateName<K>, T> };
}

/** What the engines have in common: everything but the programs is done alike for all. */
export interface Engine<T> {
  readonly programs: Programs<T>;
  upload(input: HostInput): T | Promise<T>;
  /** Resolves when all the work that the tensors stand for is done. */
  finish(tensors: readonly T[]): Promise<void>;
  read(tensor: T): Promise<ArrayLike<number>>;
  dispose(tensor: T): void;
}

export async function prepare<T>(engine: Engine<T>, workload: AnyWorkload): Promise<Prepared> {
  const uploadAll = async (record: Readonly<Record<string, HostInput>>): Promise<Record<string, T>> => {
    const tensors: Record<string, T> = {};
    for (const [name, input] of Object.entries(record)) tensors[name] = await engine.upload(input);
    return tensors;
  };
  const sets: Record<string, T>[] = [];
  for (const set of workload.sets) sets.push(await uploadAll(set));
  const constants = await uploadAll(workload.constants);
  const { step, state } = start(engine.programs, workload.kind, {
    input: (repetition, name) => field(sets[repetition % sets.length]!, name),
    constant: (name) => field(constants, name),
    fresh: async (repetition, name) => {
      const set: Readonly<Record<string, HostInput>> = workload.sets[repetition % workload.sets.length]!;
      return await engine.upload(field(set, name));
    },
  });
  await engine.finish([]);
  return {
    async run(repetition) {
      const results: T[] = Object.values(await step(repetition));
      await engine.finish(results);
      results.forEach(engine.dispose);
    },
    async output(repetition) {
      const results: Record<string, T> = await step(repetition);
      const read: Record<string, Float32Array> = {};
      for (const [name, tensor] of Object.entries<T>({ ...results, ...state() })) {
        read[name] = Float32Array.from(await engine.read(tensor));
      }
      Object.values(results).forEach(engine.dispose);
      return read;
    },
    dispose() {
      for (const record of [...sets, constants]) Object.values(record).forEach(engine.dispose);
    },
  };
}

function start<K extends Kind, T>(programs: Programs<T>, kind: K, given: Given<K, T>): Program<K, T> {
  return programs[kind](given);
}

/** A field of a workload; its absence is a mistake in the workload, not in the peer. */
function field<T>(record: Readonly<Record<string, T>>, name: string): T {
  const value = record[name];
  if (value === undefined) throw new Error(`workload without "${name}": it has ${Object.keys(record).join(", ")}`);
  return value;
}

/** The version that a package file of this project or of one of its modules names. */
export async function versionIn(file: string): Promise<string> {
  const text = await readFile(new URL(`../../${file}`, import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

/** Times whole training steps, several configurations in turn, so that whatever slows the machine meets all of them. */
import { cpus } from "node:os";
import process from "node:process";
import { type Device, nn, optim, random } from "../../src/index.ts";
import { batchesOf, type ScalingModel } from "./models.ts";

export interface Configuration {
  readonly name: string;
  readonly devices: readonly Device[];
  /** Logical shards of deterministic mode; undefined for plain mode. */
  readonly shards?: number;
  /** See nn.trainer. */
  readonly capacities?: "auto";
  /** Steps before the first that is measured. */
  readonly warmUp?: number;
}

/** Milliseconds of the host; see StepRecord. */
export type Phase = "scatter" | "wait" | "reduce" | "broadcast";
export const phases: readonly Phase[] = ["scatter", "wait", "reduce", "broadcast"];

export interface Measured {
  readonly model: string;
  readonly configuration: string;
  readonly devices: number;
  /** Milliseconds from the end of a step to the end of the next: median and quartiles. */
  readonly step: number;
  readonly quartiles: readonly [number, number];
  readonly steps: number;
  /** Medians. `wait` is what the other phases leave of the step. */
  readonly phases: Readonly<Record<Phase, number>>;
  /** Of all devices together, in a step. */
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly submissions: number;
  readonly dispatches: number;
  /** Mean milliseconds of a step in each round. */
  readonly rounds: readonly number[];
  readonly parameters: number;
}

export interface Together {
  readonly measured: readonly Measured[];
  /** Turns that were measured again, as other processes kept the machine busy, and those that were kept although they did. */
  readonly repeated: number;
  readonly disturbed: number;
}

const warmUp = 3;
const leastRounds = 3;
/** Milliseconds that a configuration runs before it is the next one's turn. */
const turnLength = 500;
const mostStepsOfTurn = 200;
/** Processors that other processes may keep busy during a turn. */
const mostForeign = 0.15;
const mostRepeats = 6;

interface Turn {
  readonly intervals: readonly number[];
  readonly records: readonly nn.StepRecord[];
  /** Mean milliseconds of a step, all work of the turn done. */
  readonly mean: number;
  /** Processors that other processes kept busy; undefined where it is not known. */
  readonly foreign: number | undefined;
  readonly counters: Counters;
}

interface Counters {
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly submissions: number;
  readonly dispatches: number;
}

/** `seconds` are of each configuration. Throws what training throws. */
export async function measureTogether(
  model: ScalingModel,
  configurations: readonly Configuration[],
  seconds: number,
): Promise<Together> {
  const batches = batchesOf(model, 2);
  const entries = configurations.map((configuration) => {
    random.seed(1);
    return { configuration, parameters: 0, trainer: trainerOf(model, configuration), steps: 2, turns: [] as Turn[] };
  });
  for (const entry of entries) {
    entry.parameters = entry.trainer.model.parameters().reduce((sum, parameter) => sum + parameter.size, 0);
    await turnOf(entry.trainer, entry.configuration.devices, batches, entry.configuration.warmUp ?? warmUp);
    const { mean } = await turnOf(entry.trainer, entry.configuration.devices, batches, warmUp);
    entry.steps = Math.min(mostStepsOfTurn, Math.max(2, Math.round(turnLength / mean)));
  }
  let repeated = 0;
  let disturbed = 0;
  const end = performance.now() + 1000 * seconds * entries.length;
  for (let round = 0; round < leastRounds || performance.now() < end; round++) {
    for (const { trainer, configuration, steps, turns } of entries) {
      let turn = await turnOf(trainer, configuration.devices, batches, steps);
      for (let again = 0; again < mostRepeats && (turn.foreign ?? 0) > mostForeign; again++, repeated++) {
        turn = await turnOf(trainer, configuration.devices, batches, steps);
      }
      if ((turn.foreign ?? 0) > mostForeign) disturbed++;
      turns.push(turn);
    }
  }
  for (const { trainer } of entries) await trainer.release();
  (globalThis as { gc?: () => void }).gc?.();
  const measured = entries.map(({ configuration, parameters, turns }): Measured => {
    const intervals = turns.flatMap((turn) => turn.intervals);
    const records = turns.flatMap((turn) => turn.records);
    const step = quantile(intervals, 0.5);
    const of = (phase: Phase) => quantile(records.map((record) => record.phases[phase]), 0.5);
    const host = { scatter: of("scatter"), reduce: of("reduce"), broadcast: of("broadcast") };
    const perStep = (name: keyof Counters) =>
      turns.reduce((sum, turn) => sum + turn.counters[name], 0) / records.length;
    return {
      model: model.name,
      configuration: configuration.name,
      devices: configuration.devices.length,
      step,
      quartiles: [quantile(intervals, 0.25), quantile(intervals, 0.75)],
      steps: intervals.length,
      // One device has its next step enqueued while this one runs, so that its own clock would count both.
      phases: { ...host, wait: Math.max(0, step - host.scatter - host.reduce - host.broadcast) },
      bytesRead: perStep("bytesRead"),
      bytesWritten: perStep("bytesWritten"),
      submissions: perStep("submissions"),
      dispatches: perStep("dispatches"),
      rounds: turns.map((turn) => turn.mean),
      parameters,
    };
  });
  return { measured, repeated, disturbed };
}

/**
 * What the machine itself lets two devices gain: two trainings of half the batch each that exchange nothing, one after the
 * other and side by side. The median over the rounds.
 */
export async function sideBySide(
  model: ScalingModel,
  devices: readonly [Device, Device],
  seconds: number,
): Promise<number> {
  const half = { ...model, rows: model.rows / 2 };
  const batches = batchesOf(half, 2);
  const trainers = devices.map((device) => {
    random.seed(1);
    return { device, trainer: trainerOf(half, { name: "", devices: [device] }) };
  });
  let steps = warmUp;
  const run = async ({ device, trainer }: (typeof trainers)[0]) =>
    (await turnOf(trainer, [device], batches, steps)).mean;
  for (const each of trainers) await run(each);
  steps = Math.min(mostStepsOfTurn, Math.max(2, Math.round(turnLength / await run(trainers[0]!))));
  const gains: number[] = [];
  const end = performance.now() + 3000 * seconds;
  while (gains.length < leastRounds || performance.now() < end) {
    const alone = await run(trainers[0]!) + await run(trainers[1]!);
    const start = performance.now();
    await Promise.all(trainers.map(run));
    gains.push(alone * steps / (performance.now() - start));
  }
  for (const { trainer } of trainers) await trainer.release();
  return quantile(gains, 0.5);
}

/** How many times as fast `other` is as `base`: the median over the rounds, in each of which both had their turn. */
export function speedup(base: Measured, other: Measured): number {
  return quantile(base.rounds.map((mean, round) => mean / other.rounds[round]!), 0.5);
}

/** With linear interpolation. NaN of no values. */
export function quantile(values: readonly number[], q: number): number {
  if (values.length === 0) return NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const below = sorted[Math.floor(at)]!;
  return below + (at - Math.floor(at)) * (sorted[Math.ceil(at)]! - below);
}

/** Bytes per millisecond at which the host copies arrays of so many bytes that are not in its caches. */
export function copyRate(bytes: number): number {
  const words = Math.max(1, Math.ceil(bytes / 4));
  const arrays = Array.from({ length: 8 }, () => new Float32Array(words).fill(1));
  const into = new Float32Array(words);
  const times = Array.from({ length: 32 }, (_, i) => {
    const start = performance.now();
    into.set(arrays[i % arrays.length]!);
    return performance.now() - start;
  });
  return 4 * words / Math.max(1e-3, quantile(times, 0.5));
}

function trainerOf(model: ScalingModel, { devices, shards, capacities }: Configuration) {
  return nn.trainer(model.make(), {
    forward: (net: nn.Module, { x }: nn.DefaultBatch) => net.forward(x as never) as nn.DefaultBatch["x"],
    loss: (logits, { y }) => nn.crossEntropy(logits, y),
    optimizer: optim.sgd({ learningRate: 0.01 }),
    devices,
    seed: 1,
    ...(shards === undefined ? {} : { deterministic: { shards } }),
    ...(capacities === undefined ? {} : { capacities }),
  });
}

type ModelTrainer = ReturnType<typeof trainerOf>;

/** Some steps by `fit`, which keeps several in flight, until the last one's work is done on all devices. */
async function turnOf(
  trainer: ModelTrainer,
  devices: readonly Device[],
  batches: ReturnType<typeof batchesOf>,
  steps: number,
): Promise<Turn> {
  const times: number[] = [];
  const before = countersOf(devices);
  const load = loadMeter();
  const start = performance.now();
  const { steps: records } = await trainer.fit(Array.from({ length: steps }, (_, i) => batches[i % batches.length]!), {
    progress: "none",
    onBatch: () => void times.push(performance.now()),
  });
  await Promise.all(devices.map((device) => device.sync()));
  const end = performance.now();
  times[times.length - 1] = end;
  const after = countersOf(devices);
  const counters = Object.fromEntries(
    Object.entries(after).map(([name, value]) => [name, value - before[name as keyof Counters]]),
  ) as unknown as Counters;
  return {
    intervals: times.map((time, i) => time - (times[i - 1] ?? start)),
    records,
    mean: (end - start) / steps,
    foreign: load(),
    counters,
  };
}

function countersOf(devices: readonly Device[]): Counters {
  const all = devices.map((device) => device.stats());
  const sum = (name: keyof Counters) => all.reduce((total, stats) => total + stats[name], 0);
  return {
    bytesRead: sum("bytesRead"),
    bytesWritten: sum("bytesWritten"),
    submissions: sum("submissions"),
    dispatches: sum("dispatches"),
  };
}

/** Tells how many processors other processes kept busy since it was made; undefined where the system does not say. */
function loadMeter(): () => number | undefined {
  const busy = () => cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0);
  const own = () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  };
  const start = { time: performance.now(), busy: busy(), own: own() };
  return () => {
    const wall = performance.now() - start.time;
    const all = busy() - start.busy;
    return all > 0 && wall > 0 ? Math.max(0, (all - (own() - start.own)) / wall) : undefined;
  };
}

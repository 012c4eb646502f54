/**
 * A model of a training step's time, fitted to what was measured, and what it says of other machines.
 *
 *   step      = scatter + wait + reduce + broadcast
 *   scatter   = batch bytes / scatterRate + devices * perDevice
 *   wait      = flops / (speed of the model * devices that run at once) + bytes read / readRate
 *   reduce    = devices * gradient bytes / reduceRate
 *   broadcast = devices * gradient bytes / broadcastRate
 *
 * Times in milliseconds, rates in bytes per millisecond, speeds in operations per millisecond. The phases of the host are
 * measured; `wait` is the rest of the step, so that readRate stands for all that grows with the bytes read: the devices'
 * copies and updates as well as the host's copies.
 */

/** A measured step. */
export interface Sample {
  readonly model: string;
  readonly devices: number;
  /** Devices that can run at the same time: not more than there are processors, where these do their work. */
  readonly atOnce: number;
  readonly flops: number;
  readonly batchBytes: number;
  readonly gradientBytes: number;
  readonly bytesRead: number;
  readonly phases: {
    readonly scatter: number;
    readonly wait: number;
    readonly reduce: number;
    readonly broadcast: number;
  };
}

/** Infinite rates stand for terms that cost nothing that could be seen. */
export interface StepModel {
  readonly scatterRate: number;
  readonly perDevice: number;
  readonly speeds: Readonly<Record<string, number>>;
  readonly readRate: number;
  readonly reduceRate: number;
  readonly broadcastRate: number;
  /** Root mean square of the relative errors of the samples' whole steps. */
  readonly residual: number;
}

/** Fits each phase by least squares of relative errors; no coefficient is below 0. Needs a sample of two devices or more. */
export function fitModel(samples: readonly Sample[]): StepModel {
  const several = samples.filter(({ devices }) => devices > 1);
  const models = [...new Set(samples.map(({ model }) => model))];
  const [scatter = 0, perDevice = 0] = solve(
    samples.map(({ batchBytes, devices }) => [batchBytes, devices]),
    samples.map(({ phases }) => phases.scatter),
  );
  const [read = 0, ...work] = solve(
    samples.map(({ bytesRead, flops, atOnce, model }) => [
      bytesRead,
      ...models.map((name) => name === model ? flops / atOnce : 0),
    ]),
    samples.map(({ phases }) => phases.wait),
  );
  const exchanged = several.map(({ devices, gradientBytes }) => [devices * gradientBytes]);
  const [reduce = 0] = solve(exchanged, several.map(({ phases }) => phases.reduce));
  const [broadcast = 0] = solve(exchanged, several.map(({ phases }) => phases.broadcast));
  const fitted = {
    scatterRate: 1 / scatter,
    perDevice,
    speeds: Object.fromEntries(models.map((name, i) => [name, 1 / work[i]!])),
    readRate: 1 / read,
    reduceRate: 1 / reduce,
    broadcastRate: 1 / broadcast,
  };
  const errors = samples.map((sample) => {
    const { scatter, wait, reduce, broadcast } = sample.phases;
    const measured = scatter + wait + reduce + broadcast;
    return stepTime({ ...fitted, residual: 0 }, sample) / measured - 1;
  });
  return { ...fitted, residual: Math.sqrt(errors.reduce((sum, error) => sum + error * error, 0) / errors.length) };
}

/** Milliseconds of a step by the model. */
export function stepTime(model: StepModel, sample: Omit<Sample, "phases">): number {
  const { devices, gradientBytes } = sample;
  const exchanged = devices > 1 ? devices * gradientBytes : 0;
  return sample.batchBytes / model.scatterRate + devices * model.perDevice +
    sample.flops / (model.speeds[sample.model]! * sample.atOnce) + sample.bytesRead / model.readRate +
    exchanged / model.reduceRate + exchanged / model.broadcastRate;
}

/** GPUs with links and memory of their own. */
export interface Machine {
  readonly gpus: number;
  /** Of each GPU's link, in GB/s. */
  readonly link: number;
  /** Of each GPU's kernels, in TFLOP/s. */
  readonly tflops: number;
}

export interface Simulated {
  readonly gpus: number;
  readonly kernels: number;
  /** On the links, all of which work at the same time. */
  readonly link: number;
  /** Of the host, for all GPUs one after the other. */
  readonly host: number;
  readonly step: number;
}

/**
 * A step on a machine that nobody measured: kernels and links are as the machine says; the host scatters, reduces and
 * broadcasts at the rates of the model, and copies what was read at `copyRate` bytes per millisecond. Nothing overlaps, and
 * the update of the weights costs nothing. One GPU exchanges nothing.
 */
export function simulate(
  model: StepModel,
  work: Pick<Sample, "flops" | "batchBytes" | "gradientBytes">,
  { gpus, link, tflops }: Machine,
  copyRate: number,
): Simulated {
  const linkRate = link * 1e6;
  const exchanged = gpus > 1 ? work.gradientBytes : 0;
  const kernels = work.flops / gpus / (tflops * 1e9);
  const onLink = (work.batchBytes / gpus + 2 * exchanged) / linkRate;
  const host = work.batchBytes / model.scatterRate + gpus * model.perDevice +
    gpus * exchanged * (1 / copyRate + 1 / model.reduceRate + 1 / model.broadcastRate);
  return { gpus, kernels, link: onLink, host, step: kernels + onLink + host };
}

/**
 * Coefficients of least squares of relative errors: `rows` times them are the `targets`. None is below 0: one that would
 * be is left out. A target of 0 does not count, and neither does a column of zeros.
 */
export function solve(rows: readonly (readonly number[])[], targets: readonly number[]): number[] {
  const columns = rows[0]?.length ?? 0;
  const used = rows.map((row, i) => ({ row, target: targets[i]! })).filter(({ target }) => target > 0);
  let active = Array.from({ length: columns }, (_, c) => c).filter((c) => used.some(({ row }) => row[c] !== 0));
  for (;;) {
    // Columns of very different sizes, such as bytes and counts, are brought to the same length first.
    const lengths = active.map((c) => Math.hypot(...used.map(({ row, target }) => row[c]! / target)));
    const scaled = used.map(({ row, target }) => active.map((c, i) => row[c]! / target / lengths[i]!));
    const solution = normalEquations(scaled).map((x, i) => x / lengths[i]!);
    const worst = solution.indexOf(Math.min(...solution));
    if (active.length === 0 || solution[worst]! >= 0) {
      const result = new Array<number>(columns).fill(0);
      active.forEach((c, i) => result[c] = solution[i]!);
      return result;
    }
    active = active.filter((_, i) => i !== worst);
  }
}

/** The x for which |A x - 1| is least, by elimination with pivots; a column that depends on others gets 0. */
function normalEquations(a: readonly (readonly number[])[]): number[] {
  const n = a[0]?.length ?? 0;
  const matrix = Array.from({ length: n }, (_, i) => [
    ...Array.from({ length: n }, (_, j) => a.reduce((sum, row) => sum + row[i]! * row[j]!, 0)),
    a.reduce((sum, row) => sum + row[i]!, 0),
  ]);
  const pivots = new Map<number, number>();
  let next = 0;
  for (let column = 0; column < n; column++) {
    let best = next;
    for (let r = next; r < n; r++) if (Math.abs(matrix[r]![column]!) > Math.abs(matrix[best]![column]!)) best = r;
    const pivot = matrix[best]?.[column] ?? 0;
    if (Math.abs(pivot) < 1e-9) continue;
    [matrix[next], matrix[best]] = [matrix[best]!, matrix[next]!];
    for (let r = 0; r < n; r++) {
      if (r === next) continue;
      const factor = matrix[r]![column]! / pivot;
      for (let c = column; c <= n; c++) matrix[r]![c]! -= factor * matrix[next]![c]!;
    }
    pivots.set(column, next++);
  }
  return Array.from(
    { length: n },
    (_, c) => pivots.has(c) ? matrix[pivots.get(c)!]![n]! / matrix[pivots.get(c)!]![c]! : 0,
  );
}

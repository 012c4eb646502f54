/** The tables of bench:scaling. */
import { align } from "../table.ts";
import type { Simulated, StepModel } from "./fit.ts";
import { type Measured, speedup } from "./measure.ts";

/** One row a configuration; ratios are to one one-thread device and to one device with the driver's threads. */
export function scalingTable(measured: readonly Measured[]): string {
  const heading = [
    "step",
    "median",
    "quartiles",
    "speed",
    "to whole",
    "scatter",
    "reduce",
    "broadcast",
    "host's share",
    "read",
    "written",
  ];
  const rows = measured.map((entry) => {
    const same = measured.filter(({ model }) => model === entry.model);
    const ratio = (base: Measured | undefined) => base === undefined ? "" : `${speedup(base, entry).toFixed(2)}x`;
    const { scatter, reduce, broadcast } = entry.phases;
    return [
      `${entry.model}, ${entry.configuration}`,
      ms(entry.step),
      `${digits(entry.quartiles[0])}–${digits(entry.quartiles[1])}`,
      ratio(same.find(({ configuration }) => configuration === oneAlone)),
      ratio(same.find(({ configuration }) => configuration === whole)),
      ms(scatter),
      ms(reduce),
      ms(broadcast),
      `${(100 * (scatter + reduce + broadcast) / entry.step).toFixed(1)} %`,
      megabytes(entry.bytesRead),
      megabytes(entry.bytesWritten),
    ];
  });
  return align([heading, ...rows]);
}

export const oneAlone = "1 virtual device";
export const whole = "whole adapter";

/** Pairs of a plain step and a deterministic one. */
export function deterministicTable(
  pairs: readonly { readonly plain: Measured; readonly deterministic: Measured }[],
): string {
  const heading = [
    "one device, batch of 128",
    "plain",
    "deterministic, K = 8",
    "price",
    "reduce",
    "dispatches",
    "read",
  ];
  return align([
    heading,
    ...pairs.map(({ plain, deterministic }) => [
      `${plain.model}, ${plain.configuration}`,
      ms(plain.step),
      ms(deterministic.step),
      `${(1 / speedup(plain, deterministic)).toFixed(2)}x`,
      ms(deterministic.phases.reduce),
      `${plain.dispatches.toFixed(0)} / ${deterministic.dispatches.toFixed(0)}`,
      `${megabytes(plain.bytesRead)} / ${megabytes(deterministic.bytesRead)}`,
    ]),
  ]);
}

export function simulationTable(model: string, simulated: readonly Simulated[]): string {
  const single = simulated.find(({ gpus }) => gpus === 1)!;
  return align([
    [model, "kernels", "links", "host", "step", "speed", "efficiency"],
    ...simulated.map(({ gpus, kernels, link, host, step }) => [
      gpus === 1 ? "1 GPU" : `${gpus} GPUs`,
      ms(kernels),
      ms(link),
      ms(host),
      ms(step),
      `${(single.step / step).toFixed(2)}x`,
      `${(100 * single.step / step / gpus).toFixed(0)} %`,
    ]),
  ]);
}

/** The fitted model in words. */
export function describeModel(model: StepModel): string {
  const rate = (bytesPerMs: number) =>
    Number.isFinite(bytesPerMs) ? `${digits(bytesPerMs / 1e6)} GB/s` : "no cost seen";
  const speeds = Object.entries(model.speeds).map(([name, speed]) => `${digits(speed / 1e6)} GFLOP/s for ${name}`);
  return [
    "step = batch bytes / scatter + devices * per device + flops / (speed * devices at once) + bytes read / read",
    "       + devices * gradient bytes * (1 / reduce + 1 / broadcast)",
    `scatter ${rate(model.scatterRate)}, per device ${ms(model.perDevice)}, read ${rate(model.readRate)}, reduce ${
      rate(model.reduceRate)
    }, broadcast ${rate(model.broadcastRate)}; speed of a device: ${speeds.join(", ")}`,
    `Residual: ${(100 * model.residual).toFixed(1)} % of a step (root mean square).`,
  ].join("\n");
}

function ms(value: number): string {
  return `${digits(value)} ms`;
}

function megabytes(bytes: number): string {
  return `${digits(bytes / 1e6)} MB`;
}

function digits(value: number): string {
  return value >= 100
    ? value.toFixed(0)
    : value >= 10
    ? value.toFixed(1)
    : value >= 0.1 || value === 0
    ? value.toFixed(2)
    : value.toPrecision(1);
}

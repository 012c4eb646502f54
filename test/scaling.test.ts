/** The parts of bench:scaling that compute: its options, the fit of its model, and the simulation. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fitModel, type Sample, simulate, solve, stepTime } from "../bench/scaling/fit.ts";
import { quantile } from "../bench/scaling/measure.ts";
import { models } from "../bench/scaling/models.ts";
import { readOptions } from "../bench/scaling/options.ts";

const close = (got: number, want: number, tolerance = 1e-6) =>
  assert.ok(Math.abs(got - want) <= tolerance * Math.max(1, Math.abs(want)), `${got} is not ${want}`);

test("options: what is left out has a default, and lists are sorted", () => {
  const plain = readOptions([], ["MLP", "CNN"]);
  assert.deepEqual(plain.devices, [1, 2, 3, 4]);
  assert.deepEqual([plain.seconds, plain.link, plain.tflops, plain.everything], [3, 12, 10, true]);
  assert.ok(plain.wants("MLP") && plain.wants("CNN"));
  const chosen = readOptions([
    "--devices",
    "2, 1,2",
    "--only",
    "ml",
    "--link",
    "0.5",
    "--tflops",
    "60",
    "--seconds",
    "1",
  ], [
    "MLP",
    "CNN",
  ]);
  assert.deepEqual(chosen.devices, [1, 2]);
  assert.deepEqual([chosen.seconds, chosen.link, chosen.tflops, chosen.everything], [1, 0.5, 60, false]);
  assert.ok(chosen.wants("MLP") && !chosen.wants("CNN"));
});

test("options: what will not do is refused with what is needed", () => {
  const refused: [args: string[], message: RegExp][] = [
    [["--devices", "0"], /--devices 0: need whole numbers from 1/],
    [["--devices", "1,,2"], /--devices 1,,2: need/],
    [["--devices", "two"], /--devices two: need/],
    [["--devices", "17"], /to 16/],
    [["--seconds", "0"], /--seconds 0: need a number above 0/],
    [["--link", "-1"], /--link/],
    [["--link", ""], /--link/],
    [["--tflops", "fast"], /--tflops fast: need/],
    [["--only", "rnn"], /--only rnn: need part of one of: MLP, CNN/],
    [["--only", ","], /--only ,: need/],
    [["--what", "1"], /--what/],
  ];
  for (const [args, message] of refused) {
    assert.throws(() => readOptions(args, ["MLP", "CNN"]), message, args.join(" "));
  }
});

test("a step's operations: two for each use of a weight, three times but in the first layer", () => {
  const mlp = models.find(({ name }) => name === "MLP 784-1024-1024-10")!;
  assert.equal(mlp.flopsPerRow, 4 * 784 * 1024 + 6 * 1024 * 1024 + 6 * 1024 * 10);
});

test("quantiles interpolate", () => {
  assert.equal(quantile([3, 1, 2], 0.5), 2);
  assert.equal(quantile([4, 1, 2, 3], 0.5), 2.5);
  assert.equal(quantile([0, 10], 0.25), 2.5);
  assert.ok(Number.isNaN(quantile([], 0.5)));
});

test("least squares of relative errors", () => {
  const [a, b] = solve([[1, 1e6], [2, 1e6], [3, 5e6]], [1 * 2 + 3, 2 * 2 + 3, 3 * 2 + 15]);
  close(a!, 2);
  close(b!, 3e-6);
  // One column: the x that makes the sum of (x r / t - 1)^2 least is sum(r / t) / sum((r / t)^2).
  const [x] = solve([[1], [1]], [1, 2]);
  close(x!, (1 + 0.5) / (1 + 0.25));
});

test("coefficients are never below 0; columns without a say get 0", () => {
  // The exact solution is (2, -1).
  const [a, b] = solve([[1, 0], [1, 1], [1, 1]], [2, 1, 1]);
  assert.ok(a! > 0);
  assert.equal(b, 0);
  assert.deepEqual(solve([[0, 1], [0, 2]], [3, 6]).map((x) => Math.round(1e9 * x) / 1e9), [0, 3]);
  assert.deepEqual(solve([[1], [2]], [0, 0]), [0]);
  const [c, d] = solve([[1, 2], [2, 4], [3, 6]], [5, 10, 15]);
  close(c! + 2 * d!, 5);
});

const truth = {
  scatterRate: 2e6,
  perDevice: 0.05,
  speeds: { wide: 1e7, small: 4e6 },
  readRate: 1e6,
  reduceRate: 8e6,
  broadcastRate: 6e6,
  residual: 0,
};

function sampleOf(model: "wide" | "small", devices: number, gradientBytes: number, flops: number): Sample {
  const work = {
    model,
    devices,
    atOnce: Math.min(2, devices),
    flops,
    batchBytes: 1.6e6,
    gradientBytes,
    bytesRead: (devices === 1 ? 1 : devices + 1) * gradientBytes,
  };
  const exchanged = devices > 1 ? devices * gradientBytes : 0;
  const phases = {
    scatter: work.batchBytes / truth.scatterRate + devices * truth.perDevice,
    wait: flops / truth.speeds[model] / work.atOnce + work.bytesRead / truth.readRate,
    reduce: exchanged / truth.reduceRate,
    broadcast: exchanged / truth.broadcastRate,
  };
  return { ...work, phases };
}

test("the fit finds the coefficients that made the times", () => {
  const samples = [1, 2, 3, 4].flatMap((n) => [sampleOf("wide", n, 7e6, 3e9), sampleOf("small", n, 8e4, 4e8)]);
  const fitted = fitModel(samples);
  for (const name of ["scatterRate", "perDevice", "readRate", "reduceRate", "broadcastRate"] as const) {
    close(fitted[name], truth[name], 1e-5);
  }
  close(fitted.speeds["wide"]!, truth.speeds.wide, 1e-5);
  close(fitted.speeds["small"]!, truth.speeds.small, 1e-5);
  close(fitted.residual, 0, 1e-6);
  for (const sample of samples) {
    const { scatter, wait, reduce, broadcast } = sample.phases;
    close(stepTime(fitted, sample), scatter + wait + reduce + broadcast, 1e-5);
  }
});

test("times that no model of this form makes leave a residual", () => {
  const samples = [1, 2, 4].map((n) => sampleOf("wide", n, 7e6, 3e9));
  const late = samples.map((sample, i) =>
    i === 1 ? { ...sample, phases: { ...sample.phases, wait: 2 * sample.phases.wait } } : sample
  );
  assert.ok(fitModel(late).residual > 0.05);
});

test("simulation: kernels and links as given, the host's copies one after the other", () => {
  const work = { flops: 8e12, batchBytes: 2e6, gradientBytes: 12e6 };
  const one = simulate(truth, work, { gpus: 1, link: 12, tflops: 10 }, 4e6);
  close(one.kernels, 800);
  close(one.link, 2e6 / 12e6);
  close(one.host, 1 + 0.05);
  close(one.step, one.kernels + one.link + one.host);
  const four = simulate(truth, work, { gpus: 4, link: 12, tflops: 10 }, 4e6);
  close(four.kernels, 200);
  close(four.link, 0.5e6 / 12e6 + 2);
  close(four.host, 1 + 0.2 + 48e6 / 4e6 + 48e6 / 8e6 + 48e6 / 6e6);
  // Twice the speed of the kernels takes half of their time and nothing else.
  const faster = simulate(truth, work, { gpus: 4, link: 12, tflops: 20 }, 4e6);
  close(four.step - faster.step, 100);
});

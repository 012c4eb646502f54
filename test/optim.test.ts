/** Optimizers: trajectories against PyTorch and Keras 2, eagerly and compiled; schedules; errors. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ArgumentError, DTypeError, ShapeError, TraceError } from "../src/errors.ts";
import { nn, optim } from "../src/nn/index.ts";
import { tensor, zeros } from "../src/tensor/create.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { compile } from "../src/tensor/transform/compile.ts";
import { grad } from "../src/tensor/transform/grad.ts";
import { fixture, type OptimizerCase } from "./fixtures/nn.ts";
import { assertClose, onEachDevice } from "./harness.ts";

const { initial, gradients, cases } = fixture.optimizers;

function make({ name, options }: OptimizerCase): optim.Optimizer {
  return optim[name](options as unknown as optim.SgdOptions);
}

async function numbers(x: Tensor): Promise<number[]> {
  return Array.from(await x.data());
}

for (const row of cases) {
  const title = `${row.name} ${JSON.stringify(row.options)}`;
  onEachDevice(`${title}: the path of the reference, eagerly`, async (device) => {
    const [a, b] = [
      nn.parameter(tensor(initial.slice(0, 2), { device })),
      nn.parameter(tensor([initial.slice(2)], { device })),
    ];
    const bound = make(row).bind([a, b]);
    for (const [step, gradient] of gradients.entries()) {
      bound.step([tensor(gradient.slice(0, 2), { device }), tensor([gradient.slice(2)], { device })]);
      if (step % 6 === 1 || step === gradients.length - 1) {
        assertClose([...await numbers(a), ...await numbers(b)], row.path[step]!, {
          atol: 1e-6,
          rtol: 2e-6,
          message: `step ${step}`,
        });
      }
    }
    assert.equal(await bound.state["step"]!.item(), gradients.length);
  });

  onEachDevice(`${title}: the path of the reference, compiled`, async (device) => {
    const p = nn.parameter(tensor(initial, { device }));
    const bound = make(row).bind({ p });
    const step = compile((gradient: Tensor) => {
      bound.step({ p: gradient });
      return gradient.sum();
    });
    for (const gradient of gradients) await step(tensor(gradient, { device }));
    assertClose(await numbers(p), row.path.at(-1)!, { atol: 1e-6, rtol: 2e-6 });
    assert.equal(await bound.state["step"]!.item(), gradients.length);
  });
}

onEachDevice("an optimizer minimises, with gradients of a record", async (device) => {
  const parameters = { w: nn.parameter(tensor([3, -2], { device })), b: nn.parameter(tensor(1, { device })) };
  const bound = optim.adam({ learningRate: 0.15 }).bind(parameters);
  let last = Infinity;
  for (let i = 0; i < 100; i++) {
    const loss = parameters.w.sub(tensor([1, 2], { device })).square().sum().add(parameters.b.square());
    bound.step(grad(loss, parameters));
    last = await loss.item();
  }
  assert.ok(last < 1e-3, `a loss of ${last}`);
  assertClose(await numbers(parameters.w), [1, 2], { atol: 3e-2 });
  assertClose(await numbers(parameters.b), [0], { atol: 3e-2 });
});

onEachDevice("parameters that are assigned to keep training", async (device) => {
  const p = nn.parameter(tensor([1, 2], { device }));
  const q = nn.parameter(tensor([5], { device }));
  const bound = optim.sgd({ learningRate: 1 }).bind([p, q]);
  const one = [tensor([1, 1], { device }), tensor([1], { device })] as const;
  bound.step([...one]);
  p.assign(tensor([10, 20], { device }));
  bound.step([...one]);
  assert.deepEqual([...await numbers(p), ...await numbers(q)], [9, 19, 3]);
});

onEachDevice("a state that was saved goes on where it was", async (device) => {
  const run = async (steps: number, p: Tensor, bound: optim.BoundOptimizer<readonly Tensor[]>) => {
    for (let i = 0; i < steps; i++) bound.step([p.mul(2)]);
    return await numbers(p);
  };
  const rule = optim.nadam({ learningRate: (step) => 0.1 / step });
  const p = nn.parameter(tensor([1, -3], { device }));
  const bound = rule.bind([p]);
  await run(3, p, bound);
  const saved = Object.fromEntries(
    await Promise.all(
      Object.entries(bound.state).map(async ([name, x]) => [name, tensor(await x.array() as number[])] as const),
    ),
  );
  const q = nn.parameter(tensor(await numbers(p), { device }));
  const again = rule.bind([q]);
  await again.load(saved);
  assert.deepEqual(await run(3, q, again), await run(3, p, bound));
});

onEachDevice("learning rates follow the step", async (device) => {
  const path = async (learningRate: optim.LearningRate) => {
    const p = nn.parameter(tensor([0], { device }));
    const bound = optim.sgd({ learningRate }).bind([p]);
    const seen: number[] = [];
    for (let i = 0; i < 4; i++) {
      bound.step([tensor([-1], { device })]);
      seen.push((await numbers(p))[0]!);
    }
    return seen;
  };
  assertClose(await path((step) => step), [1, 3, 6, 10]);
  assertClose(await path(optim.linearSchedule({ from: 1, to: 0, steps: 3 })), [1, 1.5, 1.5, 1.5]);
});

const schedules: Record<string, optim.Schedule> = {
  constant: optim.constantSchedule(0.3),
  linear: optim.linearSchedule({ from: 1, to: 0.1, steps: 10 }),
  "linear of one step": optim.linearSchedule({ from: 1, to: 0.1, steps: 1 }),
  cosine: optim.cosineSchedule({ from: 0.5, to: 0.01, steps: 20 }),
  exponential: optim.exponentialSchedule({ from: 0.1, factor: 0.5, steps: 7 }),
  staircase: optim.exponentialSchedule({ from: 0.1, factor: 0.5, steps: 3, staircase: true }),
  // 41 times the f32 of 1/41 is below 1.
  "wide staircase": optim.exponentialSchedule({ from: 0.1, factor: 0.5, steps: 41, staircase: true }),
  warmup: optim.warmup({ steps: 5, after: optim.cosineSchedule({ from: 1, steps: 10 }) }),
  "warmup to a number": optim.warmup({ steps: 3, after: 0.2 }),
};

for (const [name, schedule] of Object.entries(schedules)) {
  onEachDevice(`a ${name} schedule is the same on the host and in a graph`, async (device) => {
    const steps = [...Array.from({ length: 25 }, (_, i) => i + 1), 41, 42, 43];
    const graph = await Promise.all(
      steps.map(async (step) => Number(await schedule.graph(tensor(step, { device })).item())),
    );
    assertClose(graph, steps.map(schedule), { atol: 1e-6, rtol: 1e-5 });
  });
}

test("schedules begin and end where they say", () => {
  const at = (name: string, ...steps: number[]) => steps.map((step) => schedules[name]!(step));
  assertClose(at("linear", 1, 10, 11), [1, 0.1, 0.1]);
  assertClose(at("linear of one step", 1), [1]);
  assertClose(at("cosine", 1, 20, 99), [0.5, 0.01, 0.01]);
  assertClose(at("exponential", 1, 8, 15), [0.1, 0.05, 0.025]);
  assertClose(at("staircase", 1, 3, 4, 6, 7), [0.1, 0.1, 0.05, 0.05, 0.025]);
  assertClose(at("warmup to a number", 1, 2, 3, 4, 9), [0.05, 0.1, 0.15, 0.2, 0.2]);
});

onEachDevice("a schedule of optim works inside compile, a plain function is refused", async (device) => {
  const compiled = (learningRate: optim.LearningRate) => {
    const p = nn.parameter(tensor([0], { device }));
    const bound = optim.sgd({ learningRate }).bind([p]);
    const step = compile((gradient: Tensor) => {
      bound.step([gradient]);
      return gradient.sum();
    });
    return { p, step };
  };
  const { p, step } = compiled(optim.linearSchedule({ from: 1, to: 0, steps: 3 }));
  for (let i = 0; i < 4; i++) await step(tensor([-1], { device }));
  assertClose(await numbers(p), [1.5]);
  await assert.rejects(async () => await compiled((k) => 1 / k).step(tensor([-1], { device })), TraceError);
});

test("learning rates and options that make no sense are refused", () => {
  for (const learningRate of [NaN, -1, Infinity, "0.1" as unknown as number]) {
    for (const make of [optim.sgd, optim.adam, optim.adamw, optim.nadam]) {
      assert.throws(
        () => make({ learningRate }),
        (error: Error) => error instanceof ArgumentError && /learning rate/.test(error.message),
      );
    }
  }
  assert.throws(
    () => optim.learningRateAt(optim.sgd({ learningRate: (step) => 1 - step }), 3),
    /learning rate -2 at step 3/,
  );
  assert.equal(optim.learningRateAt(optim.adam(), 5), 1e-3);
  assert.throws(() => optim.sgd({ learningRate: 1, momentum: 1 }), ArgumentError);
  assert.throws(() => optim.sgd({ learningRate: 1, nesterov: true }), ArgumentError);
  assert.throws(() => optim.sgd({ learningRate: 1, weightDecay: -1 }), ArgumentError);
  assert.throws(() => optim.adam({ beta1: 1 }), ArgumentError);
  assert.throws(() => optim.adam({ beta2: NaN }), ArgumentError);
  assert.throws(() => optim.adamw({ weightDecay: Infinity }), ArgumentError);
  assert.throws(() => optim.nadam({ epsilon: -1 }), ArgumentError);
  assert.throws(() => optim.nadam({ scheduleDecay: NaN }), ArgumentError);
  assert.throws(() => optim.linearSchedule({ from: 1, to: 0, steps: 0 }), ArgumentError);
  assert.throws(() => optim.cosineSchedule({ from: NaN, steps: 2 }), ArgumentError);
  assert.throws(() => optim.exponentialSchedule({ from: 1, factor: 0, steps: 2 }), ArgumentError);
});

test("parameters and gradients that do not fit are refused", async () => {
  const p = nn.parameter(tensor([1, 2]));
  const rule = optim.sgd({ learningRate: 1 });
  assert.throws(() => rule.bind([]), ArgumentError);
  assert.throws(() => rule.bind([p, p]), ArgumentError);
  assert.throws(() => rule.bind([tensor([1], { dtype: "i32" })]), DTypeError);
  const bound = optim.adam().bind([p]);
  assert.throws(() => bound.step([]), ArgumentError);
  assert.throws(() => bound.step([zeros([3])]), ShapeError);
  assert.throws(() => bound.step([zeros([2], { dtype: "i32" })]), DTypeError);
  assert.throws(() => optim.adam().bind({ p }).step({ q: zeros([2]) } as unknown as { p: Tensor }), ArgumentError);
  await assert.rejects(() => bound.load({}), ArgumentError);
  await assert.rejects(() => bound.load({ ...bound.state, mean: zeros([3]) }), ShapeError);
});

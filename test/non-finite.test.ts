/** Steps whose gradient is not finite though their loss is: nothing changes, and the error says which parameter it was. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { compileGraph } from "../src/compiler/compile.ts";
import { faultOf, type Watched } from "../src/compiler/group/watch.ts";
import { readFlags, setFlags } from "../src/debug/flags.ts";
import type { Device } from "../src/devices/device/device.ts";
import { NonFiniteGradientError, NonFiniteLossError } from "../src/errors.ts";
import * as g from "../src/graph/build.ts";
import type { Node } from "../src/graph/node.ts";
import { size } from "../src/graph/shape.ts";
import * as nn from "../src/nn/nn.ts";
import { adam, adamw, nadam, sgd } from "../src/nn/optim/index.ts";
import { type Trainer, trainer, type TrainerOptions } from "../src/nn/training/trainer.ts";
import type { HostTensor } from "../src/parallel/split/host-batch.ts";
import { infinityBits, Vectors } from "../src/parallel/train/vectors.ts";
import { tensor, where } from "../src/tensor/create.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { evaluate } from "./evaluate.ts";
import { FaultyDevice } from "./faulty-device.ts";
import { assertClose, onEachDevice, testKinds, virtualDevices } from "./harness.ts";

const host = (values: readonly number[], shape: readonly number[] = [values.length]): HostTensor => {
  return { data: Float32Array.from(values), shape, dtype: "f32" };
};

/**
 * The sum of asin(x + w), with w as 0: its slope in w is infinite where x is 1, whatever w is by then. Of a column of x for
 * each parameter, of even and odd sizes.
 */
class Slopes extends nn.Module {
  readonly even = nn.parameter(tensor([0.5, 0.25, 0.125, 0]));
  readonly odd = nn.parameter(tensor([0.5]));
  readonly last = nn.parameter(tensor([[0.25, 0.5], [0, 0.125]]));
  override forward(x: Tensor): Tensor {
    const of = (column: number, w: Tensor) => {
      const own = x.slice({ axis: 1, start: column, end: column + 1 });
      return own.add(w.sub(w.detach()).reshape([1, w.size])).asin().sum({ axis: 1 });
    };
    return of(0, this.even).add(of(1, this.odd)).add(of(2, this.last));
  }
}

/** Rows of which one makes the gradients of the parameters in those positions infinite. */
const rows = (bad: readonly number[], at = 1) => {
  const values = Array.from({ length: 7 * 3 }, (_, i) => Math.sin(i + 1) / 2);
  for (const column of bad) values[3 * at + column] = 1;
  return { x: host(values, [7, 3]), y: host([1, 2, 3, 4, 5, 6, 7].map((i) => i / 10)) };
};
const names = ["even", "odd", "last"];

/** Each loss reads some of them. */
type Fields = { readonly x: Tensor; readonly y: Tensor; readonly weights?: Tensor; readonly steep?: Tensor };
type Options = Partial<TrainerOptions<nn.Module, Fields, Tensor>>;

function train(model: nn.Module, devices: readonly Device[], more: Options): Trainer<nn.Module, Fields, Tensor> {
  return trainer(model as nn.Module & { forward(x: Tensor): Tensor }, {
    loss: (output: Tensor, batch: Fields) => nn.mse(output, batch.y),
    optimizer: adam({ learningRate: 0.01 }),
    devices,
    seed: 1,
    checkEvery: 1,
    ...more,
  }) as Trainer<nn.Module, Fields, Tensor>;
}

async function weightsOf(model: nn.Module): Promise<number[]> {
  const all = await Promise.all(model.parameters().map((parameter) => parameter.data()));
  return all.flatMap((values) => [...values]);
}

const modes: Readonly<Record<string, Options>> = {
  plain: {},
  "a clipped norm": { clipNorm: 0.5 },
  deterministic: { deterministic: { shards: 4 } },
  "deterministic, with a clipped norm": { deterministic: { shards: 4 }, clipNorm: 0.5 },
  "micro-batches": { microBatches: 2 },
  sgd: { optimizer: sgd({ learningRate: 0.01 }) },
  "sgd with momentum": { optimizer: sgd({ learningRate: 0.01, momentum: 0.9, nesterov: true }) },
  adamw: { optimizer: adamw({ learningRate: 0.01 }) },
  nadam: { optimizer: nadam({ learningRate: (step) => 0.01 / step }) },
};

for (const kind of testKinds) {
  for (const count of [1, 3]) {
    for (const [mode, options] of Object.entries(modes)) {
      // The update is the kernels of one GPU on several, too: which optimizer it is of makes no difference to the fleet.
      if (kind === "gpu" && count > 1 && options.optimizer !== undefined) continue;
      test(`a gradient that is not finite changes nothing: ${mode} [${kind} x ${count}]`, async (t) => {
        const devices = await virtualDevices(kind, count);
        if (devices === undefined) return t.skip("no adapter");
        const [model, other] = [new Slopes(), new Slopes()];
        const [run, untroubled] = [train(model, devices, options), train(other, devices, options)];
        const good = rows([]);
        await run.step(good);
        await untroubled.step(good);
        const before = await weightsOf(model);
        const sum = await run.checksum();
        for (const [bad, first] of [[[0], 0], [[1], 1], [[2], 2], [[2, 1], 1], [[0, 1, 2], 0]] as const) {
          await assert.rejects(run.step(rows(bad, bad.length * 2)), (error: unknown) => {
            assert.ok(error instanceof NonFiniteGradientError && error instanceof NonFiniteLossError, String(error));
            assert.equal(error.parameter, names[first]);
            assert.match(
              error.got,
              new RegExp(`parameter ${names[first]} .* step \\d+, where the loss is 0\\.\\d+|[1-9]\\.\\d+`),
            );
            assert.match(error.need, /those of before the step/);
            return true;
          });
          assert.deepEqual(await weightsOf(model), before);
          assert.equal(await run.checksum(), sum);
        }
        // The optimizer goes on as if those steps had never been.
        assert.equal((await run.step(good)).updated, true);
        await untroubled.step(good);
        assert.equal(await run.checksum(), await untroubled.checksum());
        assert.deepEqual(await weightsOf(model), await weightsOf(other));
        assert.ok((await weightsOf(model)).some((value, i) => value !== before[i]));
        await run.release();
        await untroubled.release();
      });
    }
  }
}

/** Losses whose sums are all finite, and what is made of them is not: of odd's gradient, by the sign of `steep`. */
const overflows: Readonly<Record<string, (model: Slopes) => NonNullable<Options["loss"]>>> = {
  "only its division makes infinite": (model) => (output, batch) => {
    const steep = model.odd.sub(model.odd.detach()).mul(batch.steep!.unsqueeze(-1)).mul(1e30);
    return nn.loss({ sum: output.mul(1e-30).sum().add(steep.sum()), count: batch.y.mul(1e-20).sum() });
  },
  "only the sum over two groups makes infinite": (model) => (_, batch) => {
    const steep = model.odd.sub(model.odd.detach()).mul(batch.steep!.unsqueeze(-1)).mul(4e37).sum();
    return nn.loss({ sum: steep, count: batch.y.greater(-1).cast("f32").sum().mul(0.2) })
      .plus(nn.loss({ sum: steep, count: batch.y.greater(-1).cast("f32").sum().mul(0.201) }));
  },
  "only a penalty beside it makes infinite": (model) => (_, batch) => {
    const steep = model.odd.sub(model.odd.detach()).mul(batch.steep!.unsqueeze(-1)).mul(3e37).sum();
    const most = model.odd.sub(model.odd.detach()).mul(3e38).sum();
    return nn.loss({ sum: steep, count: batch.y.greater(-1).cast("f32").sum().mul(0.2) }).plus(nn.penalty(most));
  },
};

for (const kind of testKinds) {
  for (const count of [1, 3]) {
    for (const [mode, options] of Object.entries(modes)) {
      test(`the gradient that counts is the one that the update takes: ${mode} [${kind} x ${count}]`, async (t) => {
        const devices = await virtualDevices(kind, count);
        if (devices === undefined) return t.skip("no adapter");
        for (const [which, lossOf] of Object.entries(overflows)) {
          const model = new Slopes();
          const run = train(model, devices, { ...options, loss: lossOf(model) });
          const before = await weightsOf(model);
          const steep = { ...rows([]), steep: host(new Array<number>(7).fill(1)) };
          await assert.rejects(
            run.step(steep as never),
            (error: unknown) => error instanceof NonFiniteGradientError && error.parameter === "odd",
            which,
          );
          assert.deepEqual(await weightsOf(model), before, which);
          await run.release();
        }
        // What is not finite and does not count is no part of it, and leaves no mark.
        const model = new Slopes();
        const { even, odd } = model;
        const mean = (output: Tensor, batch: Fields) => nn.mse(output, batch.y, { weights: batch.weights! });
        const run = train(model, devices, { ...options, loss: mean });
        const weights = (values: number) => host(new Array<number>(7).fill(values));
        const [nothing, all] = [{ ...rows([0, 1]), weights: weights(0) }, { ...rows([]), weights: weights(1) }];
        const before = await weightsOf(model);
        assert.equal((await run.step(nothing as never)).updated, false);
        assert.deepEqual(await weightsOf(model), before);
        assert.equal((await run.step(all as never)).updated, true);
        await run.release();
        // The first group counts nothing, the second does.
        const two = train(model, devices, {
          ...options,
          loss: (output, batch) =>
            mean(output, batch).plus(nn.loss({ sum: even.square().sum().mul(batch.y.sum()), count: batch.y.sum() })),
        });
        assert.equal((await two.step(nothing as never)).updated, true);
        assert.ok((await weightsOf(model)).every(Number.isFinite));
        await two.release();
        // A penalty of infinite slope, of a batch that counts nothing.
        const bent = train(model, devices, {
          ...options,
          loss: (output, batch) => mean(output, batch).plus(nn.penalty(odd.asin().sum())),
        });
        odd.assign(tensor([1]));
        assert.equal((await bent.step({ ...rows([]), weights: weights(0) } as never)).updated, false);
        assert.deepEqual(await odd.array(), [1]);
        odd.assign(tensor([0.5]));
        assert.equal((await bent.step(all as never)).updated, true);
        odd.assign(tensor([1]));
        await assert.rejects(bent.step(all as never), NonFiniteGradientError);
        await bent.release();
      });
    }
  }
}

for (const kind of testKinds) {
  for (const count of [1, 2]) {
    test(`losses with a penalty, of several denominators, or of a penalty alone [${kind} x ${count}]`, async (t) => {
      const devices = await virtualDevices(kind, count);
      if (devices === undefined) return t.skip("no adapter");
      const of = (w: Tensor) => nn.penalty(w.asin().sum());
      const losses: Options["loss"][] = [
        (output, batch) => nn.mse(output, batch.y).plus(of(model.odd)),
        (output, batch) =>
          nn.mse(output, batch.y, { weights: batch.y }).plus(nn.mse(output, batch.y)).plus(of(model.odd)),
        () => of(model.odd),
      ];
      let model = new Slopes();
      for (const loss of losses) {
        model = new Slopes();
        const run = train(model, devices, { loss: loss! });
        await run.step(rows([]));
        model.odd.assign(tensor([1]));
        const before = await weightsOf(model);
        await assert.rejects(
          run.step(rows([])),
          (error: unknown) => error instanceof NonFiniteGradientError && error.parameter === "odd",
        );
        assert.deepEqual(await weightsOf(model), before);
        model.odd.assign(tensor([0.5]));
        assert.equal((await run.step(rows([]))).updated, true);
        await run.release();
      }
    });

    test(`steps behind it change nothing, nor does it change running statistics [${kind} x ${count}]`, async (t) => {
      const devices = await virtualDevices(kind, count);
      if (devices === undefined) return t.skip("no adapter");
      class Normed extends nn.Module {
        readonly norm = nn.batchNorm(3);
        readonly slopes = new Slopes();
        readonly seen = nn.buffer(tensor([0]));
        override forward(x: Tensor): Tensor {
          this.norm.forward(x);
          if (this.training) this.seen.assign(this.norm.runningMean.slice({ axis: 0, start: 0, end: 1 }).mul(2));
          return this.slopes.forward(x);
        }
      }
      const model = new Normed();
      const run = train(model, devices, {});
      await run.step(rows([]));
      const state = async () => {
        const buffers = await Promise.all(model.buffers().map((buffer) => buffer.data()));
        return [...await weightsOf(model), ...buffers.flatMap((values) => [...values])];
      };
      const before = await state();
      const sources = [rows([1]), rows([]), rows([])];
      await assert.rejects(run.fit(sources, { progress: "none" }), NonFiniteGradientError);
      assert.deepEqual(await state(), before);
      // A loss that is not finite, and a batch that counts nothing, leave the statistics as well.
      const { x, y } = rows([]);
      await assert.rejects(run.step({ x, y: host([NaN, 1, 1, 1, 1, 1, 1]) }), NonFiniteLossError);
      assert.deepEqual(await state(), before);
      await run.step({ x, y });
      assert.notDeepEqual(await state(), before);
      await run.release();
    });

    test(`a NaN in the input of a row of weight 0 is refused, and trains as if it were not there once it is taken out [${kind} x ${count}]`, async (t) => {
      const devices = await virtualDevices(kind, count);
      if (devices === undefined) return t.skip("no adapter");
      const x = host([1, 2, NaN, Infinity, 3, 4, 5, -6], [4, 2]);
      const y = host([1, 2, NaN, NaN, 3, 4, 5, 6], [4, 2]);
      const weights = host([1, 0, 2, 1]);
      const make = () => {
        const model = nn.sequential(nn.linear(2, 2));
        const [layer] = model.parameters();
        layer!.assign(tensor([[0.5, -0.25], [0.125, 1]]));
        return model;
      };
      const loss: Options["loss"] = (output, batch) => nn.mse(output, batch.y, { weights: batch.weights! });
      const metrics: Options["metrics"] = {
        error: (output, batch) => nn.meanAbsoluteError(output, batch.y, { weights: batch.weights! }),
      };
      const careless = make();
      const before = await weightsOf(careless);
      const run = train(careless, devices, { loss, metrics });
      await assert.rejects(run.step({ x, y, weights } as never), (error: unknown) => {
        assert.ok(error instanceof NonFiniteGradientError);
        assert.equal(error.parameter, Object.keys(careless.namedParameters())[0]);
        return true;
      });
      assert.deepEqual(await weightsOf(careless), before);
      const [model, other] = [make(), make()];
      const careful = trainer(model, {
        loss: loss as never,
        metrics: metrics as never,
        forward: (net, batch: Fields) => net.forward(where(batch.weights!.unsqueeze(-1), batch.x, 0)),
        optimizer: sgd({ learningRate: 0.01 }),
        devices,
      });
      const few = trainer(other, {
        loss: loss as never,
        metrics: metrics as never,
        optimizer: sgd({ learningRate: 0.01 }),
        devices,
      });
      const record = await careful.step({ x, y, weights } as never);
      const expected = await few.step({
        x: host([1, 2, 3, 4, 5, -6], [3, 2]),
        y: host([1, 2, 3, 4, 5, 6], [3, 2]),
        weights: host([1, 2, 1]),
      } as never);
      assertClose([record.loss, record.metrics["error"]!], [expected.loss, expected.metrics["error"]!]);
      assertClose(await weightsOf(model), await weightsOf(other));
    });
  }
}

test("a gradient that only its division makes infinite", async () => {
  for (const kind of testKinds) {
    for (const count of [1, 2]) {
      const devices = await virtualDevices(kind, count);
      if (devices === undefined) continue;
      const model = new Slopes();
      const run = train(model, devices, {
        loss: (output, batch) => {
          const steep = model.odd.sub(model.odd.detach()).mul(batch.y.unsqueeze(-1)).mul(1e30);
          return nn.loss({ sum: output.mul(1e-30).sum().add(steep.sum()), count: batch.y.mul(1e-20).sum() });
        },
      });
      await assert.rejects(
        run.step(rows([])),
        (error: unknown) => error instanceof NonFiniteGradientError && error.parameter === "odd",
      );
      assert.deepEqual(await model.odd.array(), [0.5]);
    }
  }
});

const e = g.elementwise;
const f32 = (shape: readonly number[]) => g.input(shape, "f32");

/** Values of every kind of kernel, by what they are computed from. */
const values: Readonly<Record<string, (x: Node, w: Node) => Node>> = {
  map: (x) => e("mul", x, x),
  rows: (x) => g.reshape(g.reduce("sum", x, [1]), [x.shape[0]!]),
  columns: (x) => g.reduce("sum", x, [0]),
  whole: (x) => g.reshape(g.reduce("sum", x, [0, 1]), [1]),
  product: (x, w) => {
    const [n, k, m] = [x.shape[0]!, x.shape[1]!, w.shape[1]!];
    const left = g.expand(g.reshape(x, [n, k, 1]), [n, k, m]);
    return g.reduce("sum", e("mul", left, g.expand(g.reshape(w, [1, k, m]), [n, k, m])), [1]);
  },
  turned: (x) => g.permute(x, [1, 0]),
  itself: (x) => x,
  part: (x) => g.slice(x, [0, 0], [1, x.shape[1]!], [1, 1]),
  scattered: (x) => g.scatterAdd(g.full([x.shape[0]!], 1, "i32"), g.reduce("sum", x, [1]), 0, 3),
  joined: (x, w) => g.concat([values["scattered"]!(x, w), g.reduce("amax", e("mul", x, x), [1])], 0),
};

onEachDevice("what is watched is noted by the kernels that store it", async (device) => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...Object.keys(values)),
      fc.constantFrom([3, 5, 4], [32, 16, 24], [70, 33, 65], [128, 64, 64]),
      fc.constantFrom(NaN, Infinity, -Infinity, 1, 3e38),
      fc.nat(),
      fc.boolean(),
      fc.boolean(),
      fc.nat(3),
      async (name, [n, k, m], poison, at, each, fuse, boundary) => {
        const [x, w, faults] = [f32([n!, k!]), f32([k!, m!]), g.input([2], "u32")];
        const value = values[name]!(x, w);
        const flat = (node: Node) => g.reshape(node, [size(node.shape)]);
        const other = e("add", flat(g.slice(w, [0, 0], [1, 4], [1, 1])), g.full([4], 1, "f32"));
        const whole = g.concat([other, flat(value)], 0);
        const seen = e("ne", g.reshape(g.reduce("amax", faults, [0]), [1]), g.full([1], 0, "u32"));
        const parts: Watched[] = whole.src.map((node, i) => ({ node, number: i === 0 ? 0 : 4, each }));
        const watched: Watched[] = each && at % 2 === 0 ? [{ node: whole, number: 0, each }] : parts;
        const split = boundary === 0 ? 0 : boundary === 1 ? 4 : boundary === 2 ? 5 : 1e6;
        const numbers = Float32Array.from({ length: n! * k! }, (_, i) => Math.sin(i));
        numbers[at % numbers.length] = poison;
        const others = Float32Array.from({ length: k! * m! }, (_, i) => Math.cos(i));
        setFlags({ ...readFlags(() => undefined), noFuse: !fuse });
        let results;
        try {
          results = await evaluate(device, {
            roots: [whole, seen, faults],
            inputs: [x, w, faults],
            donate: [{ input: 2, output: 2 }],
            watch: { values: watched, boundary: split, faults: 2 },
          }, [numbers, others, [0, 0]]);
        } finally {
          setFlags(undefined);
        }
        const [result, read, words] = results;
        const bad = [...Array.from(result!).keys()].filter((i) => !Number.isFinite(result![i]!)).map((i) =>
          each ? i : i < 4 ? 0 : 4
        );
        const least = (of: number[]) => of.length === 0 ? undefined : Math.min(...of);
        assert.deepEqual(Array.from(words!, faultOf), [
          least(bad.filter((i) => i < split)),
          least(bad.filter((i) => i >= split)),
        ]);
        assert.equal(Number(read![0]), bad.length > 0 ? 1 : 0, "read when all is stored");
      },
    ),
    { numRuns: 60 },
  );
});

test("watching takes no kernel and reads nothing", async () => {
  const [x, w, d] = [f32([128, 64]), f32([64, 32]), f32([128, 32])];
  const outer = [128, 64, 32];
  const product = g.reduce(
    "sum",
    e("mul", g.expand(g.reshape(x, [128, 64, 1]), outer), g.expand(g.reshape(d, [128, 1, 32]), outer)),
    [0],
  );
  const gradients = [product, g.reduce("sum", d, [0])].map((node) => g.reshape(node, [size(node.shape)]));
  const gradient = g.concat(gradients, 0);
  const parameters = f32(gradient.shape);
  const faults = g.input([2], "u32");
  const next = e("sub", parameters, gradient);
  for (const kind of testKinds) {
    const devices = await virtualDevices(kind, 1);
    if (devices === undefined) continue;
    const { target } = devices[0]!;
    const request = {
      roots: [next, faults],
      inputs: [x, w, d, parameters, faults],
      donate: [{ input: 3, output: 0 }, { input: 4, output: 1 }],
    };
    const without = compileGraph(request, target);
    const values = gradient.src.map((node, i) => ({ node, number: i, each: false }));
    const watching = compileGraph({ ...request, watch: { values, boundary: 9, faults: 4 } }, target);
    assert.equal(watching.steps.length, without.steps.length);
    const bytes = (plan: typeof without) => plan.programs.reduce((sum, program) => sum + program.bytes, 0);
    // Two words for each of the kernels that store gradients.
    assert.equal(bytes(watching), bytes(without) + 8 * gradients.length);
  }
});

test("nor does it where one device adds up shards: a kernel for their sums, and one for their totals", async () => {
  const model = new Slopes();
  const losses: Options["loss"][] = [
    (output, batch) => nn.mse(output, batch.y),
    (output, batch) =>
      nn.mse(output, batch.y).plus(nn.mse(output, batch.y, { weights: batch.y })).plus(
        nn.penalty(model.last.square().sum()),
      ),
  ];
  for (const kind of testKinds) {
    const [inner] = await virtualDevices(kind, 2) ?? [];
    if (inner === undefined) continue;
    const device = new FaultyDevice(inner);
    const kernels: number[] = [];
    const run = device.run.bind(device);
    device.run = (executable, ...rest) => {
      kernels.push(executable.plan.steps.length);
      run(executable, ...rest);
    };
    for (const loss of losses) {
      const trainer = train(model, [device], { loss: loss!, deterministic: { shards: 4 } });
      await trainer.step(rows([]));
      await trainer.release();
    }
    assert.deepEqual(kernels, [2, 2]);
  }
});

test("sums on the host tell their largest magnitude", () => {
  const vectors = new Vectors([37, 37]);
  const [a, b] = vectors.all as [Float32Array, Float32Array];
  for (
    const [at, value, bits] of [
      [0, NaN, undefined],
      [5, Infinity, 0x7f800000],
      [36, -Infinity, 0x7f800000],
      [35, NaN, undefined],
      [7, -9, 0x41100000],
      [36, 9, 0x41100000],
    ] as const
  ) {
    a.fill(1);
    b.fill(-0.5);
    b[at] = value - (Number.isFinite(value) ? 1 : 0);
    const largest = vectors.add(a, 0, b, 0, 37);
    if (bits === undefined) assert.ok(largest > infinityBits);
    else assert.equal(largest, bits);
  }
});

test("so do numbers to which nothing is added", () => {
  const check = (values: readonly number[], from: number) => {
    const vectors = new Vectors([5, values.length]);
    const [, own] = vectors.all as [Float32Array, Float32Array];
    own.set(values);
    const words = new Uint32Array(own.slice(from).buffer);
    const expected = words.reduce((most, word) => Math.max(most, word % 2 ** 31), 0);
    assert.equal(vectors.largest(own, from, values.length - from), expected, `${values} from ${from}`);
  };
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.float(), fc.constantFrom(NaN, Infinity, -Infinity, -0, 1e-45)), {
        minLength: 1,
        maxLength: 50,
      }),
      fc.nat(49),
      (values, from) => {
        check(values, from % values.length);
      },
    ),
    { numRuns: 200 },
  );
});

test("they are looked through by the loop that adds, many times as fast as one by one", () => {
  const n = 2 ** 20;
  const vectors = new Vectors([n]);
  const [own] = vectors.all as [Float32Array];
  own.fill(1);
  const time = (body: () => void) => {
    const times = Array.from({ length: 9 }, () => {
      const start = performance.now();
      body();
      return performance.now() - start;
    });
    return Math.min(...times);
  };
  const words = new Uint32Array(own.buffer, own.byteOffset, n);
  const plain = time(() => {
    let largest = 0;
    for (const word of words) largest = Math.max(largest, word & 0x7fffffff);
    assert.equal(largest, 0x3f800000);
  });
  assert.ok(time(() => assert.equal(vectors.largest(own, 0, n), 0x3f800000)) < plain / 2);
});

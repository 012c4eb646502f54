/** Devices that fail: training goes on with the same bits, nothing is lost, nothing hangs. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Device } from "../src/devices/device/device.ts";
import { simulateLoss } from "../src/devices/loss.ts";
import {
  AllDevicesLostError,
  DeviceError,
  DeviceLostError,
  NonFiniteLossError,
  OutOfMemoryError,
} from "../src/errors.ts";
import { runtime } from "../src/host/host.ts";
import { data, devices as open, nn, optim, parallel, random, tensor } from "../src/index.ts";
import * as io from "../src/nn/io/io.ts";
import type { DeviceEvent, DeviceLost } from "../src/parallel/run/fleet.ts";
import { type Fault, FaultyDevice } from "./faulty-device.ts";
import { ownShare, testKinds, virtualDevices } from "./harness.ts";

const rows = 23;
const x = data.array(Float32Array.from({ length: rows * 6 }, (_, i) => Math.sin(i)), { shape: [rows, 6] });
const y = data.array(Int32Array.from({ length: rows }, (_, i) => i * 7 % 4), { dtype: "i32" });
const batch = { x, y };

interface Options {
  readonly deterministic?: { readonly shards: number };
  readonly stepTimeout?: number;
}

const sixShards: Options = { deterministic: { shards: 6 } };

function perceptron(devices: readonly Device[], options: Options = sixShards) {
  random.seed(5);
  const model = nn.sequential(nn.linear(6, 8), nn.relu(), nn.dropout(0.3), nn.linear(8, 4));
  const trainer = nn.trainer(model, {
    loss: (output, b) => nn.crossEntropy(output, b.y),
    optimizer: optim.adam({ learningRate: 0.01 }),
    devices,
    seed: 5,
    ...options,
  });
  return { model, trainer };
}

async function weightsOf(model: nn.Module): Promise<number[]> {
  return (await Promise.all(model.parameters().map((parameter) => parameter.data()))).flatMap((part) => [...part]);
}

const steps = 4;
const references = new Map<string, Promise<number[][]>>();

/** The weights after 0, 1, … steps of a run in which nothing fails. */
function undisturbed(kind: Device["kind"]): Promise<number[][]> {
  let known = references.get(kind);
  if (known === undefined) {
    references.set(
      kind,
      known = (async () => {
        const { model, trainer } = perceptron(await fresh(kind, 1));
        const all = [await weightsOf(model)];
        for (let i = 0; i < steps; i++) {
          await trainer.step(batch);
          all.push(await weightsOf(model));
        }
        return all;
      })(),
    );
  }
  return known;
}

/** Devices that no other test has lost: those that were are opened anew. */
async function fresh(kind: Device["kind"], count: number): Promise<Device[]> {
  return (await virtualDevices(kind as "cpu" | "gpu", Math.max(2, count)))!.slice(0, count);
}

interface Ending {
  readonly weights: number[];
  readonly events: readonly DeviceEvent[];
  readonly error: unknown;
  readonly done: number;
}

async function run(
  devices: readonly FaultyDevice[],
  faults: readonly (Fault & { device: number; step: number })[],
  options: Options = sixShards,
): Promise<Ending> {
  const { model, trainer } = perceptron(devices, options);
  const heard: DeviceEvent[] = [];
  trainer.on("deviceLost", (event) => heard.push(event));
  let done = 0;
  let error: unknown;
  try {
    for (let step = 1; step <= steps; step++) {
      for (const fault of faults) if (fault.step === step) devices[fault.device]!.plan(fault);
      await trainer.step(batch);
      done = step;
    }
  } catch (caught) {
    error = caught;
  }
  assert.deepEqual(trainer.history.events, heard, "history and listeners are told the same");
  return { weights: await weightsOf(model), events: heard, error, done };
}

const calls = ["alloc", "write", "load", "run", "runAndRead"] as const;

for (const kind of testKinds) {
  test(`a device may fail at any call, in any way: the step ends with the same bits [${kind}]`, async (t) => {
    if (await virtualDevices(kind, 3) === undefined) return t.skip("no adapter");
    const expected = await undisturbed(kind);
    for (const call of calls) {
      for (const how of ["lose", "late", "reject", "outOfMemory"] as const) {
        // Only calls with results are under way for a while.
        if (how === "late" && call !== "load" && call !== "runAndRead") continue;
        // A device that is there refuses memory for want of it only, and kernels that are wrong on all of them.
        if (how === "reject" && (call === "load" || call === "alloc")) continue;
        for (const step of call === "load" || call === "alloc" ? [1] : [1, 3]) {
          const devices = (await fresh(kind, 3)).map((device) => new FaultyDevice(device));
          // The first device's update is run and read in one call; the others' are the only calls of `run`.
          const device = call === "run" ? 1 : (step + call.length) % 3;
          const nth = call === "run" ? 1 : 2;
          const { weights, events, error } = await run(devices, [{ call, nth, kind: how, device, step }]);
          assert.equal(error, undefined, `${call} ${how} at step ${step}: ${error}`);
          assert.deepEqual(weights, expected[steps], `${call} ${how} at step ${step}`);
          assert.equal(events.length, 1, `${call} ${how} at step ${step}`);
          const event = events[0] as DeviceLost;
          assert.equal(event.device, devices[device]!.name);
          assert.ok(event.milliseconds >= 0);
          if (how === "outOfMemory") assert.equal(event.reason, "out of memory");
          if (how === "lose" || how === "late") assert.equal(event.reason, "lost");
        }
      }
    }
  });
}

test("random faults: as long as a device is left, the bits are those of a run without any", async () => {
  const fault = fc.record({
    call: fc.constantFrom(...calls),
    nth: fc.integer({ min: 1, max: 9 }),
    kind: fc.constantFrom<Fault["kind"]>("lose", "late", "reject", "outOfMemory"),
    device: fc.nat(3),
    step: fc.integer({ min: 1, max: steps }),
    // A device that is there refuses memory for want of it only, and kernels that are wrong on all of them.
  }).filter(({ call, kind }) => kind !== "reject" || (call !== "load" && call !== "alloc"));
  await fc.assert(
    fc.asyncProperty(
      fc.array(fault, { maxLength: 4 }),
      fc.array(fc.nat(4), { maxLength: 5 }),
      async (faults, delays) => {
        const expected = await undisturbed("cpu");
        const devices = (await fresh("cpu", 4)).map((device, i) =>
          new FaultyDevice(device, delays.map((delay) => (delay * (i + 3)) % 5))
        );
        const { weights, events, error, done } = await run(devices, faults);
        if (error === undefined) {
          assert.deepEqual(weights, expected[steps]);
          assert.ok(events.length < 4);
        } else if (error instanceof AllDevicesLostError) {
          assert.deepEqual(weights, expected[error.step!], `the weights are those of step ${error.step}`);
          assert.ok(error.step! >= done, "no completed step is missing");
        } else {
          // The last device is not given up for a want of memory: the step is refused, and could be tried again.
          assert.ok(error instanceof OutOfMemoryError || error instanceof DeviceLostError, String(error));
          assert.equal(events.length, 3);
          assert.deepEqual(weights, expected[done]);
        }
      },
    ),
    { numRuns: 20 },
  );
});

for (const kind of testKinds) {
  test(`two at once, all but one, and all: then the error has the last step's weights [${kind}]`, async (t) => {
    if (await virtualDevices(kind, 3) === undefined) return t.skip("no adapter");
    const expected = await undisturbed(kind);
    const at = (device: number, nth: number): Fault & { device: number; step: number } => {
      return { call: "runAndRead", kind: "late", nth, device, step: 3 };
    };
    for (const faults of [[at(0, 1), at(2, 2)], [at(0, 1), at(1, 1)]]) {
      const devices = (await fresh(kind, 3)).map((device) => new FaultyDevice(device));
      const { weights, events } = await run(devices, faults);
      assert.deepEqual(weights, expected[steps]);
      assert.equal(events.length, 2);
      assert.ok(events.every((event) => event.kind === "deviceLost" && event.shardsMoved > 0));
    }
    const devices = (await fresh(kind, 3)).map((device) => new FaultyDevice(device));
    const { error, weights, events } = await run(devices, [at(0, 1), at(1, 1), at(2, 1)]);
    assert.ok(error instanceof AllDevicesLostError, String(error));
    assert.equal(error.step, 2);
    assert.match(error.got, /the weights of step 2/);
    assert.deepEqual(weights, expected[2]);
    assert.equal(events.length, 3);
  });

  test(`a device lost between steps is left out, one that is added gets the state and joins [${kind}]`, async (t) => {
    if (await virtualDevices(kind, 2) === undefined) return t.skip("no adapter");
    const expected = await undisturbed(kind);
    const devices = await fresh(kind, 2);
    const { model, trainer } = perceptron(devices);
    const joined: string[] = [];
    const off = trainer.on("deviceJoined", (event) => joined.push(`${event.device} ${event.step}`));
    await trainer.step(batch);
    simulateLoss(devices[0]!, "unplugged");
    const record = await trainer.step(batch);
    assert.deepEqual(record.devices, [devices[1]!.name]);
    const [lost] = trainer.history.events as readonly DeviceLost[];
    assert.equal(lost!.phase, "between steps");
    assert.equal(lost!.message, "unplugged");
    await assert.rejects(trainer.addDevice(devices[0]!), DeviceLostError);
    await assert.rejects(trainer.addDevice(devices[1]!), DeviceError);
    const [again] = await fresh(kind, 1);
    await trainer.addDevice(again!);
    const { devices: names, sizes } = await trainer.step(batch);
    assert.deepEqual(names, [devices[1]!.name, again!.name]);
    assert.ok(sizes.every((size) => size > 0), `rows ${sizes}`);
    off();
    assert.deepEqual(joined, [`${again!.name} 3`]);
    // The one that joined can go on alone.
    simulateLoss(devices[1]!, "unplugged");
    await trainer.step(batch);
    assert.deepEqual(await weightsOf(model), expected[steps]);
    assert.deepEqual((await trainer.devices()).map((device) => device.name), [again!.name]);
  });
}

test("a device that does not answer within stepTimeout counts as lost, and the others do its work", async () => {
  const expected = await undisturbed("cpu");
  const devices = (await fresh("cpu", 3)).map((device) => new FaultyDevice(device));
  const fault = { call: "runAndRead", nth: 1, kind: "hang", device: 1, step: 2 } as const;
  const { weights, events, error } = await run(devices, [fault], { ...sixShards, stepTimeout: 300 });
  assert.equal(error, undefined);
  assert.deepEqual(weights, expected[steps]);
  const [event] = events as readonly DeviceLost[];
  assert.equal(event!.reason, "timeout");
  assert.equal(event!.phase, "compute");
  assert.ok(event!.shardsMoved >= 1);
});

test("in the default mode a lost device changes only rounding; one device that is lost leaves the last weights", async () => {
  const whole = await run((await fresh("cpu", 3)).map((device) => new FaultyDevice(device)), [], {});
  const fault = { call: "runAndRead", nth: 1, kind: "late", device: 2, step: 2 } as const;
  const devices = (await fresh("cpu", 3)).map((device) => new FaultyDevice(device));
  const { weights, events } = await run(devices, [fault], {});
  assert.equal(events.length, 1);
  weights.forEach((w, i) => assert.ok(Math.abs(w - whole.weights[i]!) < 1e-4));

  const [single] = (await fresh("cpu", 1)).map((device) => new FaultyDevice(device));
  const alone = await run([single!], [{ ...fault, device: 0 }], {});
  assert.ok(alone.error instanceof AllDevicesLostError);
  assert.equal(alone.error.step, 1);
  assert.equal(alone.weights.length, whole.weights.length);
});

test("evaluation, prediction and replicated functions survive a device too", async () => {
  const { trainer } = perceptron(await fresh("cpu", 1));
  const expected = await (await trainer.predict({ x })).data();
  const scores = await trainer.evaluate(batch);
  const devices = (await fresh("cpu", 3)).map((device) => new FaultyDevice(device));
  const { trainer: other } = perceptron(devices);
  await other.evaluate(batch);
  devices[1]!.plan({ call: "runAndRead", nth: 1, kind: "late" });
  assert.deepEqual(await (await other.predict({ x })).data(), expected);
  devices[2]!.plan({ call: "write", nth: 1, kind: "lose" });
  assert.deepEqual(await other.evaluate(batch), scores);
  assert.equal(other.history.events.length, 2);

  const three = (await fresh("cpu", 3)).map((device) => new FaultyDevice(device));
  const lost: DeviceLost[] = [];
  const double = parallel.replicate((v) => v.mul(2), three, { onDeviceLost: (event) => lost.push(event) });
  three[0]!.plan({ call: "runAndRead", nth: 1, kind: "late" });
  assert.deepEqual(await (await double(tensor([1, 2, 3, 4, 5]))).array(), [2, 4, 6, 8, 10]);
  assert.equal(lost.length, 1);
  for (const device of three) simulateLoss(device.inner, "gone");
  await assert.rejects(double(tensor([1, 2, 3])), AllDevicesLostError);
});

test("a device that is left with more shards than it was ready for computes them all", async () => {
  const seven = {
    x: data.array(Float32Array.from({ length: 7 * 6 }, (_, i) => Math.cos(i)), { shape: [7, 6] }),
    y: data.array(Int32Array.from({ length: 7 }, (_, i) => i % 4), { dtype: "i32" }),
  };
  const deterministic = { shards: 7 };
  const train = async (devices: readonly Device[], lose: boolean) => {
    const { model, trainer } = perceptron(devices, { deterministic });
    await trainer.step(seven);
    // The one between them was ready for two shards, and gets three neighbours and two others.
    if (lose) {
      for (const i of [0, 2]) {
        (devices[i] as FaultyDevice).plan({ call: "runAndRead", nth: 1, kind: "late" });
      }
    }
    await trainer.step(seven);
    return { weights: await weightsOf(model), events: trainer.history.events as readonly DeviceLost[] };
  };
  const expected = await train(await fresh("cpu", 1), false);
  const { weights, events } = await train((await fresh("cpu", 3)).map((device) => new FaultyDevice(device)), true);
  assert.deepEqual(weights, expected.weights);
  assert.deepEqual(events.map(({ shardsMoved }) => shardsMoved).sort(), [2, 3]);
});

test("a batch for which one device has no memory is refused, and training goes on", async () => {
  const [device] = await open({ kind: "cpu", virtual: 9 }).then((all) => all.slice(8));
  const { model, trainer } = perceptron([device!], { deterministic: { shards: 2 } });
  const wide = (n: number) => ({
    x: data.array(new Float32Array(n * 6).fill(0.1), { shape: [n, 6] }),
    y: data.array(new Int32Array(n), { dtype: "i32" }),
  });
  await trainer.step(wide(4));
  const before = await weightsOf(model);
  (device as Device & { budget: number }).budget = device!.stats().liveBytes + 4096;
  await assert.rejects(trainer.fit([wide(20000), wide(20000)], { progress: "none" }), OutOfMemoryError);
  assert.deepEqual(await weightsOf(model), before);
  (device as Device & { budget: number }).budget = 2 ** 30;
  const live = device!.stats().liveBytes;
  await trainer.step(wide(4));
  assert.ok(device!.stats().liveBytes <= live + 4096, "nothing is left of what was refused");
});

test("500 steps with faults leave no memory behind", async () => {
  const { trainer } = perceptron(await fresh("cpu", 2));
  let keeper = (await trainer.devices())[1]!;
  for (let i = 0; i < 20; i++) await trainer.step(batch);
  const collect = (globalThis as { gc?: () => void }).gc;
  collect?.();
  const before = keeper.stats().liveBytes;
  const heap = () => {
    collect?.();
    return typeof process === "undefined" ? 0 : process.memoryUsage().heapUsed;
  };
  let settled = 0;
  for (let i = 0; i < 500; i++) {
    if (i % 50 === 25) {
      // The older device goes, a new one comes.
      simulateLoss((await trainer.devices())[0]!, "planned");
      const used = await trainer.devices();
      const [fresh] = (await open({ kind: "cpu", virtual: 4 })).filter((device) =>
        !used.includes(device) && !device.isLost
      );
      await trainer.addDevice(fresh!);
    }
    await trainer.step(batch);
    keeper = (await trainer.devices())[0]!;
    if (i === 100) settled = heap();
  }
  assert.equal((await trainer.devices()).length, 2);
  assert.ok(keeper.stats().liveBytes <= before + 4096, `${keeper.stats().liveBytes} bytes after ${before}`);
  if (collect !== undefined) assert.ok(heap() < settled + 8e6, "the heap does not grow");
});

/** All that a call may fail at, on the device whose turn it is. */
const everyFault: readonly Omit<Fault, "nth">[] = [
  ...(["alloc", "write", "run", "load", "runAndRead", "read"] as const).map((call) => ({
    call,
    kind: "lose" as const,
  })),
  ...(["load", "runAndRead", "read"] as const).map((call) => ({ call, kind: "late" as const })),
  ...(["write", "run", "runAndRead", "read"] as const).map((call) => ({ call, kind: "reject" as const })),
  ...(["alloc", "load"] as const).map((call) => ({ call, kind: "outOfMemory" as const })),
];

/** A model with statistics, and with parameters that are computed at the first step. */
function normed(devices: readonly Device[], options: Options = sixShards) {
  random.seed(5);
  const model = nn.sequential(nn.batchNorm(6), nn.dropout(0.3), nn.linear(6, 4));
  const trainer = nn.trainer(model, {
    loss: (output, b) => nn.crossEntropy(output, b.y),
    optimizer: optim.adam({ learningRate: 0.01 }),
    devices,
    seed: 5,
    ...options,
  });
  return { model, trainer };
}

async function stateOf(model: nn.Module): Promise<number[]> {
  const state = Object.values(model.stateDict());
  return (await Promise.all(state.map((part) => part.data()))).flatMap((part) => [...part]);
}

type Run = ReturnType<typeof normed>;
const overlapping: Readonly<Record<string, (run: Run) => Promise<unknown>>> = {
  step: ({ trainer }) => trainer.step(batch).then(({ loss }) => loss),
  checksum: ({ trainer }) => trainer.checksum(),
  predict: async ({ trainer }) => [...await (await trainer.predict({ x }, { rowsAtOnce: 9 })).data()],
  evaluate: ({ trainer }) => trainer.evaluate([batch, batch]).then(({ loss, rows }) => [loss, rows]),
};

test("the first device may be lost at any moment of any call, the first one included", async () => {
  for (const [name, call] of Object.entries(overlapping)) {
    for (const first of [true, false]) {
      let expected: unknown;
      let ended = false;
      // Every second moment; Deno takes the others.
      for (let moment = -1; !ended; moment = moment < 0 ? (runtime === "deno" ? 1 : 0) : moment + 2) {
        const devices = await fresh("cpu", 3);
        const run = normed(devices);
        if (!first) await run.trainer.step(batch);
        const result = call(run);
        let isOver = false;
        result.then(() => isOver = true, () => {});
        for (let turn = 0; turn < moment; turn++) {
          await (turn % 8 === 7 ? new Promise((resolve) => setTimeout(resolve, 0)) : Promise.resolve());
        }
        ended = moment >= 0 && isOver;
        if (moment >= 0) simulateLoss(devices[0]!, "unplugged");
        const where = `${name} ${first ? "at first" : "later"}, lost at moment ${moment}`;
        const told = (of: string) => (error: unknown) => assert.fail(`${where}: ${of} ${error}`);
        const got = [
          await result.catch(told("the call")),
          await stateOf(run.model).catch(told("reading")),
          await run.trainer.checksum().catch(told("the checksum")),
        ];
        if (moment < 0) expected = got;
        assert.deepEqual(got, expected, where);
        assert.equal(run.trainer.history.events.length, moment < 0 ? 0 : 1);
      }
    }
  }
});

for (const kind of testKinds) {
  test(`any device may fail anywhere in the first step, a checksum, a prediction or an evaluation [${kind}]`, async (t) => {
    if (await virtualDevices(kind, 3) === undefined) return t.skip("no adapter");
    for (const [name, call] of Object.entries(overlapping)) {
      const after = async (devices: readonly Device[], before: () => void = () => {}) => {
        const run = normed(devices);
        if (name !== "step") await run.trainer.step(batch);
        before();
        const result = await call(run);
        return {
          result,
          state: await stateOf(run.model),
          checksum: await run.trainer.checksum(),
          events: run.trainer.history.events,
        };
      };
      const expected = await after(await fresh(kind, 1));
      let hit = 0;
      const anywhere = everyFault.flatMap((fault, i) => {
        const [first, third] = [{ ...fault, device: 0, nth: 1 }, { ...fault, device: 2, nth: 2 }];
        return i % 2 === 0 ? [first, third] : [third, first];
      });
      // On GPUs a part of them: each opens devices.
      const onGpu = everyFault.filter(({ kind }) => kind === "lose").map((fault) => ({ ...fault, device: 0, nth: 1 }));
      for (const { call: at, kind: how, device, nth } of ownShare(kind === "cpu" ? anywhere : onGpu)) {
        const where = `${name}: ${how} at ${at} ${nth} of device ${device}`;
        const devices = (await fresh(kind, 3)).map((device) => new FaultyDevice(device));
        const { result, state, checksum, events } = await after(
          devices,
          () => devices[device]!.plan({ call: at, kind: how, nth }),
        );
        assert.deepEqual(result, expected.result, where);
        assert.deepEqual(state, expected.state, where);
        assert.equal(checksum, expected.checksum, where);
        assert.ok(events.length <= 1, where);
        hit += events.length;
        // Those of a GPU that are left go on: opening them anew takes long, and a new trainer loads all on them.
        if (kind === "cpu") { for (const device of devices) device.close(); }
      }
      assert.ok(hit > 0, `${name} is hit`);
    }
  });

  test(`whichever devices are lost between steps, the model is read from those that live, or from the host [${kind}]`, async (t) => {
    if (await virtualDevices(kind, 3) === undefined) return t.skip("no adapter");
    for (const lost of [[0], [1], [0, 1], [1, 2], [0, 1, 2]]) {
      for (const count of lost.length === 3 ? [1, 3] : [3]) {
        const devices = await fresh(kind, count);
        const { model, trainer } = normed(devices);
        for (let i = 0; i < 2; i++) await trainer.step(batch);
        const weight = (model.layers[2] as nn.Linear).weight;
        const before = await stateOf(model);
        const held = model.stateDict();
        const outputs = await model.eval().forward(tensor(x.data as Float32Array, { shape: x.shape })).data();
        for (const i of lost) if (i < count) simulateLoss(devices[i]!, "unplugged");
        // At once, before anything else can be done about it.
        const first = weight.data();
        assert.deepEqual(await stateOf(model), before, `lost ${lost} of ${count}`);
        assert.equal((await first).length, 24);
        const file = await io.encode(model);
        assert.deepEqual(await stateOf(model), before);
        assert.equal(Object.keys(io.decode(file)).length, 6);
        assert.deepEqual(
          (await Promise.all(Object.values(held).map((part) => part.data()))).flatMap((part) => [...part]),
          before,
        );
        assert.deepEqual(await model.forward(tensor(x.data as Float32Array, { shape: x.shape })).data(), outputs);
        if (lost.length === 3) await assert.rejects(trainer.step(batch), AllDevicesLostError);
        else await trainer.step(batch);
        if (lost.length === 3) assert.deepEqual(await stateOf(model), before);
        else assert.notDeepEqual(await stateOf(model), before);
      }
    }
  });

  test(`a device lost while the model is read: it is read from another [${kind}]`, async (t) => {
    if (await virtualDevices(kind, 2) === undefined) return t.skip("no adapter");
    for (const how of ["lose", "late"] as const) {
      const devices = (await fresh(kind, 3)).map((device) => new FaultyDevice(device));
      const { model, trainer } = normed(devices);
      await trainer.step(batch);
      const before = await stateOf(model);
      devices[0]!.plan({ call: "read", nth: 2, kind: how });
      assert.deepEqual(await stateOf(model), before, how);
      assert.ok(devices[0]!.isLost);
      assert.deepEqual(await stateOf(model), before, how);
      assert.deepEqual(trainer.history.events, [], "nobody has asked the trainer for anything");
      await trainer.step(batch);
      assert.equal(trainer.history.events.length, 1);
    }
  });
}

/** A batch whose loss is NaN. */
const refused = {
  x: data.array((x.data as Float32Array).map((value, i) => i === 40 ? NaN : value), { shape: [rows, 6] }),
  y,
};

for (const kind of testKinds) {
  test(`after a step that was refused the model is read from the host too when all devices are lost [${kind}]`, async (t) => {
    if (await virtualDevices(kind, 3) === undefined) return t.skip("no adapter");
    for (const make of [perceptron, normed]) {
      for (const options of [{}, sixShards]) {
        // Each opens GPUs anew.
        if (kind === "gpu" && (make === normed) !== (options === sixShards)) continue;
        for (const count of [1, 3]) {
          const devices = await fresh(kind, count);
          const { model, trainer } = make(devices, options);
          await trainer.step(batch);
          const before = await stateOf(model);
          for (let i = 0; i < 2; i++) await assert.rejects(trainer.step(refused), NonFiniteLossError);
          for (const device of devices) simulateLoss(device, "unplugged");
          assert.deepEqual(await stateOf(model), before);
          const error: unknown = await trainer.step(batch).catch((error: unknown) => error);
          assert.ok(error instanceof AllDevicesLostError && error.step === 1, String(error));
          assert.deepEqual(await stateOf(model), before);
        }
      }
    }
  });
}

test("a device may fail while the trainer recovers from a step that was refused", async () => {
  const expected = await undisturbed("cpu");
  for (const how of ["lose", "reject"] as const) {
    for (const [device, nth] of [[0, 1], [1, 1], [1, 2], [2, 2]] as const) {
      const devices = (await fresh("cpu", 3)).map((device) => new FaultyDevice(device));
      const { model, trainer } = perceptron(devices);
      await trainer.step(batch);
      await assert.rejects(trainer.step(refused), NonFiniteLossError);
      devices[device]!.plan({ call: "write", nth, kind: how });
      await trainer.step(batch);
      assert.equal(trainer.history.events.length, 1);
      assert.equal((trainer.history.events[0] as DeviceLost).phase, "between steps");
      assert.notDeepEqual(await weightsOf(model), expected[1]);
      for (const [i, of] of devices.entries()) assert.equal((await trainer.devices()).includes(of), i !== device);
    }
  }
  // The only one: what it refuses is tried again; once it is lost, fit says so as a step does.
  const [only] = (await fresh("cpu", 1)).map((device) => new FaultyDevice(device));
  const { model, trainer } = perceptron([only!]);
  await trainer.step(batch);
  await assert.rejects(trainer.step(refused), NonFiniteLossError);
  only!.plan({ call: "write", nth: 1, kind: "reject" });
  await assert.rejects(trainer.step(batch), DeviceLostError);
  assert.deepEqual(await weightsOf(model), expected[1]);
  assert.equal((await trainer.step(batch)).updated, true);
  const before = await weightsOf(model);
  await assert.rejects(trainer.step(refused), NonFiniteLossError);
  only!.plan({ call: "write", nth: 1, kind: "lose" });
  const error: unknown = await trainer.fit([batch], { progress: "none" }).catch((error: unknown) => error);
  assert.ok(error instanceof AllDevicesLostError && error.step !== undefined, String(error));
  assert.deepEqual(await weightsOf(model), before);
});

test("a device that is lost during a step that is refused is told of, too", async () => {
  for (const moment of ownShare(Array.from({ length: 40 }, (_, i) => i))) {
    const devices = await fresh("cpu", 3);
    const { trainer } = perceptron(devices);
    await trainer.step(batch);
    const step = trainer.step(refused);
    step.catch(() => {}); // It is waited for below.
    for (let turn = 0; turn < moment; turn++) {
      await (turn % 8 === 7 ? new Promise((resolve) => setTimeout(resolve, 0)) : Promise.resolve());
    }
    simulateLoss(devices[moment % 3]!, "unplugged");
    await assert.rejects(step, NonFiniteLossError);
    await trainer.step(batch);
    assert.equal(trainer.history.events.length, 1, `lost at moment ${moment}`);
  }
});

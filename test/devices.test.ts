import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Device } from "../src/devices/device/device.ts";
import { Lifetime } from "../src/devices/device/lifetime.ts";
import { devices as openDevices } from "../src/devices/discovery.ts";
import {
  ArgumentError,
  DeviceError,
  DeviceLostError,
  InternalError,
  KernelCompileError,
  OutOfMemoryError,
} from "../src/errors.ts";
import { collectGarbage, nextTurn } from "../src/host/host.ts";
import { assertClose, onEachDevice, testKinds, virtualDevices } from "./harness.ts";
import { affine, broken, chain, increment, inPlace } from "./tiny-plans.ts";

const count = 1000;

async function floats(device: Device, buffer: Parameters<Device["read"]>[0]): Promise<Float32Array> {
  return new Float32Array(await device.read(buffer));
}

onEachDevice("a device runs a plan with temporaries", async (device) => {
  const { language } = device.target;
  const plan = chain(
    [affine(language, count, 2, 1), affine(language, count, 3, 0), affine(language, count, 1, -3)],
    count,
  );
  const executable = await device.load(plan);
  const x = device.alloc(4 * count);
  const y = device.alloc(4 * count);
  const values = Float32Array.from({ length: count }, (_, index) => index / 8);
  device.write(x, values);
  device.run(executable, [x], [y]);
  assertClose(await floats(device, y), values.map((value) => (2 * value + 1) * 3 - 3));
  executable.release();
  executable.release();
  device.free(x);
  device.free(y);
});

onEachDevice("runs and writes take effect in the order of the calls, and a read sees its moment", async (device) => {
  const executable = await device.load(inPlace(increment(device.target.language, 4), 16));
  const x = device.alloc(16);
  const data = Uint32Array.of(1, 2, 3, 4);
  device.write(x, data);
  data.fill(0); // The caller's array is free again.
  device.run(executable, [x], [x]);
  const early = device.read(x);
  device.run(executable, [x], [x]);
  device.write(x, Uint32Array.of(100), 4);
  device.run(executable, [x], [x]);
  const late = device.read(x);
  assert.deepEqual([...new Uint32Array(await early)], [2, 3, 4, 5]);
  assert.deepEqual([...new Uint32Array(await late)], [4, 101, 6, 7]);
  executable.release();
  device.free(x);
});

onEachDevice("read and write take offsets", async (device) => {
  const x = device.alloc(40);
  await fc.assert(
    fc.asyncProperty(fc.nat(9), fc.nat(9), fc.array(fc.integer(), { maxLength: 10 }), async (from, skip, values) => {
      const whole = new Int32Array(10).map((_, index) => -index);
      device.write(x, whole);
      const part = Int32Array.from(values.slice(0, 10 - from));
      device.write(x, part, 4 * from);
      whole.set(part, from);
      assert.deepEqual([...new Int32Array(await device.read(x, 4 * skip))], [...whole.subarray(skip)]);
      assert.deepEqual([...new Int32Array(await device.read(x, 4 * skip, 4))], [whole[skip]]);
    }),
    { numRuns: 20 },
  );
  assert.equal((await device.read(x, 40, 0)).byteLength, 0);
  for (const [offset, bytes] of [[0, 44], [2, 4], [0, 3], [-4, 4], [40, 4]] as const) {
    await assert.rejects(device.read(x, offset, bytes), ArgumentError);
  }
  assert.throws(() => device.write(x, new Uint8Array(3)), ArgumentError);
  assert.throws(() => device.write(x, new Uint8Array(8), 36), /8 bytes at 36 of a buffer of 40/);
  device.free(x);
});

onEachDevice("empty buffers can be written, read and run over", async (device) => {
  const x = device.alloc(0);
  assert.equal(x.bytes, 0);
  device.write(x, new Float32Array(0));
  assert.equal((await device.read(x)).byteLength, 0);
  device.free(x);
});

onEachDevice("copies move bytes between dispatches", async (device) => {
  const program = increment(device.target.language, 4);
  const executable = await device.load({
    programs: [program],
    steps: [
      { kind: "copy", from: 0, to: 1, bytes: 16 },
      { kind: "dispatch", program: 0, slots: [1] },
      { kind: "copy", from: 1, to: 2, bytes: 8 },
      { kind: "dispatch", program: 0, slots: [1] },
    ],
    slots: [{ bytes: 16 }, { bytes: 16 }, { bytes: 16 }],
    inputs: [0, -1],
    outputs: [1, 2],
    temporaries: [],
  });
  const [x, y, z] = [device.alloc(16), device.alloc(16), device.alloc(16)];
  device.write(x, Uint32Array.of(1, 2, 3, 4));
  device.write(z, new Uint32Array(4));
  device.run(executable, [x, undefined], [y, z]);
  assert.deepEqual([...new Uint32Array(await device.read(x))], [1, 2, 3, 4]);
  assert.deepEqual([...new Uint32Array(await device.read(y))], [3, 4, 5, 6]);
  assert.deepEqual([...new Uint32Array(await device.read(z))], [2, 3, 0, 0]);
  executable.release();
  for (const buffer of [x, y, z]) device.free(buffer);
});

onEachDevice("a kernel that does not compile is shown with line numbers", async (device) => {
  const before = device.stats().liveBytes;
  const program = broken(device.target.language);
  await assert.rejects(device.load(inPlace(program, 4)), (error: unknown) => {
    assert.ok(error instanceof KernelCompileError);
    assert.match(error.message, /broken_kernel/);
    assert.match(error.message, /3 \| .*not_there/);
    if (device.kind === "gpu") assert.match(error.message, /line 3: [^]*> 3 \|/);
    return true;
  });
  assert.equal(device.stats().liveBytes, before);
  await device.sync(); // Nothing is left to be reported.
});

onEachDevice("kernels are compiled once for each key", async (device) => {
  const { language } = device.target;
  const plan = chain([affine(language, 77, 5, 1), affine(language, 77, 5, 1)], 77);
  const before = device.stats().kernels;
  const executables = await Promise.all([device.load(plan), device.load(plan), device.load(plan)]);
  assert.equal(device.stats().kernels, before + 1);
  for (const executable of executables) executable.release();
});

onEachDevice("freed memory is used again, and a buffer is freed once", async (device) => {
  const first = device.alloc(70_000);
  device.free(first);
  const { allocations, liveBytes } = device.stats();
  const second = device.alloc(69_000);
  device.free(first);
  const third = device.alloc(69_000);
  device.write(second, new Float32Array(17_250).fill(2));
  device.write(third, new Float32Array(17_250).fill(3));
  assert.equal((await floats(device, second))[7], 2);
  assert.equal(second.bytes, 69_000);
  assert.ok(device.stats().allocations >= allocations);
  device.free(second);
  device.free(third);
  assert.equal(device.stats().liveBytes, liveBytes);
  assert.throws(() => device.write(first, new Float32Array(1)), DeviceError);
  await assert.rejects(device.read(second), /freed buffer/);
});

onEachDevice("plans share their temporaries", async (device) => {
  const { language } = device.target;
  const programs = [1, 2, 3].map((factor) => affine(language, 5000, factor, 0));
  const one = await device.load(chain(programs, 5000));
  const { liveBytes } = device.stats();
  const more = await Promise.all(Array.from({ length: 20 }, () => device.load(chain(programs, 5000))));
  assert.equal(device.stats().liveBytes, liveBytes);
  for (const executable of more) executable.release();
  one.release();
  assert.ok(device.stats().liveBytes < liveBytes);
});

onEachDevice("mistakes of the caller are typed errors", async (device) => {
  const { language } = device.target;
  const executable = await device.load(chain([affine(language, count, 1, 1)], count));
  const [x, small] = [device.alloc(4 * count), device.alloc(16)];
  assert.throws(() => device.run(executable, [x], []), ArgumentError);
  assert.throws(() => device.run(executable, [small], [x]), /16 bytes for input 0; need 4000 bytes/);
  if (device.kind === "gpu") {
    assert.throws(() => device.run(executable, [x], [x]), (error: unknown) => {
      assert.ok(error instanceof InternalError);
      assert.match(error.message, /affine_1000_1_1/);
      return true;
    });
  }
  // What is updated in place is one buffer.
  const updated = await device.load(inPlace(increment(language, 4), 16));
  assert.throws(
    () => device.run(updated, [small], [x]),
    (error) => error instanceof InternalError && /two buffers for slot 0 \(output 0\)/.test(error.message),
  );
  device.run(updated, [small], [small]);
  updated.release();
  assert.throws(() => device.alloc(-1), ArgumentError);
  assert.throws(() => device.alloc(NaN), ArgumentError);
  assert.throws(() => device.alloc(2 ** 50), OutOfMemoryError);
  const other = device.kind === "gpu" ? increment("js", 4) : increment("wgsl", 4);
  await assert.rejects(device.load(inPlace(other, 16)), ArgumentError);
  executable.release();
  assert.throws(() => device.run(executable, [x], [x]), DeviceError);
  await device.sync();
  device.free(x);
  device.free(small);
});

for (const kind of testKinds) {
  test(`a device runs what it has loaded itself, on ${kind}`, async (context) => {
    const devices = await virtualDevices(kind, 2);
    if (devices === undefined) return context.skip("no adapter");
    const [one, other] = devices as [Device, Device];
    const executable = await one.load(inPlace(increment(one.target.language, 4), 16));
    const buffer = other.alloc(16);
    assert.throws(() => other.run(executable, [buffer], [buffer]), /one of another device; need one of /);
    executable.release();
    other.free(buffer);
  });
}

onEachDevice("errors that WebGPU reports later come out at the next call that waits, once", async (device) => {
  const { language } = device.target;
  const program = language === "wgsl"
    // The plan says 16 bytes and the kernel wants more than any block of that size has.
    ? {
      ...increment(language, 4),
      key: "too large",
      name: "too_large",
      source: increment(language, 4).source.replace("array<u32>", "array<u32, 100000>"),
    }
    : { ...increment(language, 4), key: "throws", name: "throws_late", source: "throw new Error('late');" };
  const executable = await device.load(inPlace(program, 16));
  const x = device.alloc(16);
  device.run(executable, [x], [x]);
  await assert.rejects(device.read(x), (error: unknown) => {
    assert.ok(error instanceof DeviceError);
    assert.ok(error.message.includes(program.name), error.message);
    return true;
  });
  await device.sync();
  device.write(x, Uint32Array.of(5, 6, 7, 8));
  assert.deepEqual([...new Uint32Array(await device.read(x))], [5, 6, 7, 8]);
  executable.release();
  device.free(x);
});

onEachDevice("many runs allocate nothing and grow nothing", async (device) => {
  const { language } = device.target;
  const plan = chain([affine(language, count, 1, 1), affine(language, count, 0.5, 0)], count);
  const executable = await device.load(plan);
  const step = async (): Promise<void> => {
    const x = device.alloc(4 * count);
    const y = device.alloc(4 * count);
    device.write(x, new Float32Array(count));
    device.run(executable, [x], [y]);
    await device.read(y, 0, 4);
    device.free(x);
    device.free(y);
  };
  const runs = device.info.runtime === "deno" ? 150 : 1000;
  for (let index = 0; index < 50; index++) await step();
  const before = device.stats();
  collectGarbage();
  const heap = process.memoryUsage().heapUsed;
  for (let index = 0; index < runs; index++) await step();
  const after = device.stats();
  assert.equal(after.allocations, before.allocations);
  assert.equal(after.liveBytes, before.liveBytes);
  assert.equal(after.pooledBytes, before.pooledBytes);
  assert.equal(after.dispatches, before.dispatches + 2 * runs);
  // One submission carries the run and the copy that its read needs.
  if (device.kind === "gpu") assert.ok(after.submissions - before.submissions <= runs, `${after.submissions}`);
  if (collectGarbage()) {
    const grown = process.memoryUsage().heapUsed - heap;
    assert.ok(grown < 2 ** 20, `the heap grew by ${grown} bytes over ${runs} runs`);
  }
  executable.release();
});

test("who waits for a device is told that it is gone, though what it waits for never comes", async () => {
  const lifetime = new Lifetime("cpu:7");
  const waiting = [
    lifetime.whileThere("read", new Promise(() => {})),
    lifetime.whileThere("sync", new Promise(() => {})),
  ];
  assert.equal(await lifetime.whileThere("load", Promise.resolve(3)), 3);
  assert.equal(lifetime.end("lost", "planned"), true);
  assert.equal(lifetime.end("closed", "again"), false);
  const outcomes = await Promise.race([Promise.allSettled(waiting), nextTurn()]);
  assert.ok(outcomes !== undefined, "nobody was told");
  for (const outcome of outcomes) {
    assert.ok(outcome.status === "rejected" && outcome.reason instanceof DeviceLostError, JSON.stringify(outcome));
    assert.match(outcome.reason.message, /cpu:7, which was lost \(planned\)/);
  }
  assert.deepEqual(await lifetime.lost, { reason: "lost", message: "planned" });
  // What comes all the same comes too late.
  await assert.rejects(lifetime.whileThere("read", Promise.resolve(1)), DeviceLostError);
});

for (const kind of testKinds) {
  test(`a closed device refuses and says so [${kind}]`, async (context) => {
    const made = await virtualDevices(kind, 6);
    const device = made?.[5];
    if (device === undefined) return context.skip("no adapter");
    const executable = await device.load(inPlace(increment(device.target.language, 4), 16));
    const x = device.alloc(16);
    const reading = device.read(x);
    device.close();
    device.close();
    assert.equal(device.isLost, true);
    assert.equal((await device.lost).reason, "closed");
    // What was asked for before comes too late.
    await assert.rejects(reading, DeviceLostError);
    assert.throws(() => device.alloc(4), DeviceLostError);
    assert.throws(() => device.write(x, new Uint32Array(1)), /closed/);
    assert.throws(() => device.run(executable, [x], [x]), DeviceLostError);
    await assert.rejects(device.read(x), DeviceLostError);
    await assert.rejects(device.sync(), DeviceLostError);
    await assert.rejects(device.load(executable.plan), DeviceLostError);
    device.free(x);
    executable.release();
    const again = (await virtualDevices(kind, 6))?.[5];
    assert.ok(again !== undefined && again !== device && !again.isLost);
    assert.deepEqual([again.name, again.id === device.id], [device.name, false], "the name is free again");
    again.write(again.alloc(4), new Uint32Array(1));
    await again.sync();
    for (const other of await virtualDevices(kind, 6) ?? []) if (kind === "gpu") other.close();
  });

  test(`a budget bounds what a device holds [${kind}]`, async (context) => {
    const devices = await virtualDevices(kind, 2);
    const device = devices?.[1];
    if (device === undefined) return context.skip("no adapter");
    await openDevices({ kind, virtual: 2, memoryBytes: 2 ** 20 });
    const held = [device.alloc(600_000)];
    assert.throws(() => device.alloc(600_000), (error: unknown) => {
      assert.ok(error instanceof OutOfMemoryError);
      assert.match(error.message, /dispose/);
      return true;
    });
    held.push(device.alloc(300_000));
    for (const buffer of held) device.free(buffer);
    // What is kept for reuse counts too, and makes room.
    const large = device.alloc(1_000_000);
    assert.ok(device.stats().liveBytes + device.stats().pooledBytes <= 2 ** 20);
    device.free(large);
    for (const each of devices ?? []) each.close();
  });
}

import assert from "node:assert/strict";
import { test } from "node:test";
import { nullDevice } from "../src/devices/cpu/null.ts";
import { defaultDevice, setDefaultDevice } from "../src/devices/default.ts";
import { pollFor } from "../src/devices/device/polling.ts";
import { deviceById, openDevices } from "../src/devices/device/registry.ts";
import { type DeviceOptions, devices } from "../src/devices/discovery.ts";
import { parseListing } from "../src/devices/gpu/dawn.ts";
import { abandonDevice, simulateLoss } from "../src/devices/loss.ts";
import { ArgumentError, DeviceError, DeviceLostError } from "../src/errors.ts";
import { runtime } from "../src/host/host.ts";
import { testDevice, testKinds, virtualDevices } from "./harness.ts";
import { affine, chain, counting, increment, inPlace } from "./tiny-plans.ts";

for (const kind of testKinds) {
  test(`asking twice gives the same devices [${kind}]`, async (context) => {
    const one = await testDevice(kind);
    if (one === undefined) return context.skip("no adapter");
    assert.equal((await devices({ kind }))[0], one);
    assert.equal((await devices({ name: kind, virtual: 1 }))[0], one);
    const [three, alsoThree] = await Promise.all([devices({ kind, virtual: 3 }), devices({ kind, virtual: 3 })]);
    assert.equal(new Set(three).size, 3);
    assert.deepEqual(alsoThree?.map(({ id }) => id), three?.map(({ id }) => id));
    assert.deepEqual((await devices({ kind, virtual: 2 })).map(({ id }) => id), three?.slice(0, 2).map(({ id }) => id));
    assert.equal(new Set(openDevices().map(({ name }) => name)).size, openDevices().length);
    for (const device of three ?? []) {
      assert.equal(device.kind, kind);
      assert.match(device.name, new RegExp(`^${kind}:\\d+$`));
      assert.equal(deviceById(device.id), device);
    }
    const last = three?.[2];
    last?.close();
    assert.equal(deviceById(last?.id ?? 0), undefined);
    const reopened = (await devices({ kind, virtual: 3 }))[2];
    assert.notEqual(reopened, last);
    assert.notEqual(reopened?.id, last?.id);
    assert.equal(reopened?.name, last?.name);
  });

  test(`virtual devices have memory of their own and work side by side [${kind}]`, async (context) => {
    const three = await virtualDevices(kind, 3);
    if (three === undefined) return context.skip("no adapter");
    const results = await Promise.all(three.map(async (device, index) => {
      const executable = await device.load(inPlace(increment(device.target.language, 4), 16));
      const x = device.alloc(16);
      device.write(x, new Uint32Array(4).fill(10 * index));
      for (let step = 0; step < 5; step++) device.run(executable, [x], [x]);
      const value = new Uint32Array(await device.read(x))[0];
      executable.release();
      device.free(x);
      return value;
    }));
    assert.deepEqual(results, [5, 15, 25]);
    const [a, b] = three;
    if (a === undefined || b === undefined) return;
    assert.throws(() => b.write(a.alloc(4), new Uint32Array(1)), DeviceError);
  });

  test(`a lost device is replaced when it is asked for again [${kind}]`, async (context) => {
    const device = (await virtualDevices(kind, 4))?.[3];
    if (device === undefined) return context.skip("no adapter");
    const x = device.alloc(16);
    simulateLoss(device, "pulled out");
    assert.deepEqual(await device.lost, { reason: "lost", message: "pulled out" });
    assert.throws(() => device.write(x, new Uint32Array(4)), /lost \(pulled out\)/);
    assert.equal(deviceById(device.id), device);
    const again = (await devices({ kind, virtual: 4 }))[3];
    assert.notEqual(again, device);
    assert.equal(again?.isLost, false);
    device.close();
    assert.equal(deviceById(device.id), undefined);
    await again?.sync();
    again?.close();
  });
}

/** While `body` runs, the n-th `requestDevice` of Dawn's rejects where `fails(n)`. `used` gives the instances that were asked. */
async function withRequests<T>(fails: (nth: number) => boolean, body: (used: () => number) => Promise<T>): Promise<T> {
  const { globals } = await import("webgpu") as unknown as {
    readonly globals: {
      readonly GPU: { readonly prototype: GPU };
      readonly GPUAdapter: { readonly prototype: GPUAdapter };
    };
  };
  const [gpu, adapter] = [globals.GPU.prototype, globals.GPUAdapter.prototype];
  const { requestAdapter } = gpu;
  const { requestDevice } = adapter;
  const instances = new Set<GPU>();
  let requests = 0;
  gpu.requestAdapter = function (this: GPU, ...options) {
    instances.add(this);
    return requestAdapter.apply(this, options);
  };
  adapter.requestDevice = function (this: GPUAdapter, ...descriptor) {
    return fails(requests++) ? Promise.reject(new Error("planned")) : requestDevice.apply(this, descriptor);
  };
  try {
    return await body(() => instances.size);
  } finally {
    Object.assign(gpu, { requestAdapter });
    Object.assign(adapter, { requestDevice });
  }
}

const lastOfFive = async () => (await devices({ kind: "gpu", virtual: 5, runtime: "dawn" }))[4]!;

test("a GPU that does not open is asked for once more, of another instance; however often it fails, no more are made", async (context) => {
  if (!testKinds.includes("gpu") || await testDevice("gpu") === undefined) return context.skip("no adapter");
  (await lastOfFive()).close();
  const opened = await withRequests((nth) => nth === 0, async (used) => {
    const device = await lastOfFive();
    assert.equal(used(), 2);
    return device;
  });
  await opened.sync();
  opened.close();
  await withRequests(() => true, async (used) => {
    for (let times = 0; times < 6; times++) {
      await assert.rejects(
        lastOfFive(),
        (error: unknown) => error instanceof DeviceError && /does not open: Error: planned/.test(error.message),
      );
    }
    assert.equal(used(), 2);
  });
  await (await lastOfFive()).sync();
  for (const device of await devices({ kind: "gpu", virtual: 5, runtime: "dawn" })) device.close();
});

test("a GPU that was given up is let go of when its work is done, and what served it serves again", async (context) => {
  if (!testKinds.includes("gpu") || await testDevice("gpu") === undefined) return context.skip("no adapter");
  for (const device of openDevices()) device.close();
  const before = globalThis.setImmediate;
  await withRequests(() => false, async (used) => {
    for (let times = 0; times < 4; times++) {
      const [device] = await devices({ kind: "gpu", virtual: 5, runtime: "dawn" });
      const executable = await device!.load(inPlace(counting(), 16));
      const x = device!.alloc(16);
      device!.write(x, Uint32Array.of(0, 0, 1_000_000, 0));
      device!.run(executable, [x], [x]);
      const reading = device!.read(x);
      abandonDevice(device!, "planned");
      await assert.rejects(reading, DeviceLostError);
      for (const other of openDevices()) other.close();
      const start = performance.now();
      while (globalThis.setImmediate !== before) {
        assert.ok(performance.now() - start < 20_000, "its instance is polled still");
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
    assert.equal(used(), 5);
  });
});

test("bad options are refused", async () => {
  const bad = [
    { virtual: 0 },
    { virtual: 1.5 },
    { virtual: NaN },
    { kind: "tpu" },
    { runtime: "chrome" },
    { memoryBytes: 0 },
    { kind: "gpu", name: "cpu" },
    ...(runtime === "node" ? [{ runtime: "deno" }] : []),
  ];
  for (const options of bad) await assert.rejects(devices(options as DeviceOptions), ArgumentError);
});

test("a name that no adapter has is an error that tells the names there are", async () => {
  await assert.rejects(devices({ name: "Voodoo 2" }), (error: unknown) => {
    assert.ok(error instanceof DeviceError);
    assert.match(error.message, /Voodoo 2/);
    return true;
  });
});

test("an adapter is found by part of its name", async (context) => {
  const gpu = testKinds.includes("gpu") ? await testDevice("gpu") : undefined;
  if (gpu === undefined) return testKinds.includes("gpu") ? context.skip("no adapter") : undefined;
  const part = gpu.info.description.slice(0, 6).toUpperCase();
  assert.equal((await devices({ name: part }))[0], gpu);
  assert.deepEqual(await devices({ kind: "gpu", software: gpu.info.software }), await devices({ name: part }));
});

test("the default device is found, set and reset", async () => {
  const found = await defaultDevice();
  assert.equal(await defaultDevice(), found);
  const cpu = (await devices({ kind: "cpu", virtual: 2 }))[1];
  setDefaultDevice(cpu);
  assert.equal(await defaultDevice(), cpu);
  cpu?.close();
  await assert.rejects(defaultDevice(), /cpu:1, which is gone/);
  assert.throws(() => setDefaultDevice(cpu), DeviceError);
  setDefaultDevice(undefined);
  assert.equal(await defaultDevice(), found);
});

test("Dawn's listing is read, each adapter by its best backend", () => {
  const listing = `Error: no suitable backends found
Available adapters:
 * backend: 'd3d11', name: 'NVIDIA GeForce RTX 4090'
 * backend: 'd3d12', name: 'NVIDIA GeForce RTX 4090'
 * backend: 'd3d12', name: 'NVIDIA GeForce RTX 4090'
 * backend: 'vulkan', name: 'NVIDIA GeForce RTX 4090'
 * backend: 'null', name: 'Null backend'
 * backend: 'opengl', name: 'It's old (really)'
`;
  assert.deepEqual(parseListing(listing), [
    { backend: "d3d12", name: "NVIDIA GeForce RTX 4090" },
    { backend: "d3d12", name: "NVIDIA GeForce RTX 4090" },
    { backend: "opengl", name: "It's old (really)" },
  ]);
  assert.deepEqual(parseListing("Error: no suitable backends found"), []);
});

test("the polling policy is there while only software devices are open, and leaves everyone else alone", async () => {
  for (const device of openDevices()) device.close();
  const host = globalThis as { setImmediate: unknown };
  const before = host.setImmediate;
  const closeSoftware = pollFor(true);
  const during = globalThis.setImmediate;
  assert.notEqual(during, before);
  assert.deepEqual(Object.getOwnPropertySymbols(during), Object.getOwnPropertySymbols(before));
  assert.equal(await new Promise((resolve) => during((value: string) => resolve(value), "passed on")), "passed on");
  const closeHardware = pollFor(false);
  assert.equal(host.setImmediate, before);
  closeHardware();
  assert.notEqual(host.setImmediate, before);
  closeSoftware();
  closeSoftware();
  assert.equal(host.setImmediate, before);
});

test("no device leaves the polling policy behind", async () => {
  const before = globalThis.setImmediate;
  for (const device of await virtualDevices(testKinds.includes("gpu") ? "gpu" : "cpu", 2) ?? []) await device.sync();
  for (const device of openDevices()) device.close();
  assert.equal(globalThis.setImmediate, before);
});

test("the null device counts what it is asked for", async () => {
  const device = nullDevice({ target: { subgroupSize: 32 }, budget: 10_000 });
  assert.equal(device.target.subgroupSize, 32);
  const executable = await device.load(chain([affine("wgsl", 100, 1, 1), affine("wgsl", 100, 2, 1)], 100));
  const x = device.alloc(400);
  device.write(x, new Float32Array(100));
  device.run(executable, [x], [x]);
  const { dispatches, kernels, liveBytes } = device.stats();
  assert.deepEqual({ dispatches, kernels, liveBytes }, { dispatches: 2, kernels: 2, liveBytes: 448 });
  await assert.rejects(device.read(x), DeviceError);
  device.close();
  assert.equal(deviceById(device.id), undefined);
});

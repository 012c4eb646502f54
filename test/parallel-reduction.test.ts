/** What the host does with gradients: buckets, sums in a fixed tree, shares of devices. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Device } from "../src/devices/device/device.ts";
import { DeviceError } from "../src/errors.ts";
import type { CollectiveNode } from "../src/parallel/decompose/stages.ts";
import { combine } from "../src/parallel/run/combine.ts";
import { Placement } from "../src/parallel/run/placement.ts";
import { Capacities } from "../src/parallel/split/capacities.ts";
import { bucketsOf } from "../src/parallel/train/buckets.ts";
import { Checksummer } from "../src/parallel/train/checksum.ts";
import { FlatParameters } from "../src/parallel/train/flat-parameters.ts";
import { sumOfFew, sumOfTensors, sumShards } from "../src/parallel/train/shard-sums.ts";
import { Vectors } from "../src/parallel/train/vectors.ts";
import { tensor } from "../src/tensor/create.ts";
import { onEachDevice, testKinds, virtualDevices } from "./harness.ts";

const f32 = fc.float({ noNaN: true, noDefaultInfinity: true, min: -1000, max: 1000 });
const { fround } = Math;

const least = 2 ** -126;
const normal = (x: number) => Math.abs(x) < least ? 0 : x;

/** The sum of a list by the tree that the contract names: neighbours in pairs, level by level. */
function byTree(values: readonly number[]): number {
  let level = [...values];
  while (level.length > 1) {
    const next: number[] = [];
    for (let i = 0; i < level.length; i += 2) {
      next.push(i + 1 < level.length ? normal(fround(normal(level[i]!) + normal(level[i + 1]!))) : level[i]!);
    }
    level = next;
  }
  return level[0]!;
}

/** Numbers near and far, subnormal ones, and such as cancel to them. */
const numbers = fc.array(
  fc.oneof(
    f32,
    fc.constantFrom(0, -0, 1e-40, -1e-40, fround(1.5 * least), fround(-1.25 * least), least, -least, 3e38, -3e38),
  ),
  { minLength: 1, maxLength: 50 },
);

test("a sum over shards is the fixed tree in f32, without subnormal numbers, bit for bit", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 9 }),
      fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 4090, max: 4105 })),
      numbers,
      (shards, length, pool) => {
        const vectors = new Vectors(new Array<number>(shards).fill(length));
        vectors.all.forEach((part, shard) =>
          part.forEach((_, i) => part[i] = pool[(i * 7 + shard * 13) % pool.length]!)
        );
        const before = vectors.all.map((part) => Float32Array.from(part));
        const expected = Float32Array.from({ length }, (_, i) => byTree(before.map((part) => part[i]!)));
        sumShards(vectors, vectors.all, length);
        assert.deepEqual(vectors.all[0], expected);
        assert.deepEqual(sumOfFew(before, length), expected);
      },
    ),
    { examples: [[2, 4, [fround(1.5 * least), fround(-1.25 * least)]]] },
  );
});

onEachDevice("a device makes the same sum over shards as the host, bit for bit", async (device) => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 2, max: 9 }), numbers, async (shards, pool) => {
      const parts = Array.from(
        { length: shards },
        (_, shard) => pool.map((_, i) => pool[(i + 5 * shard) % pool.length]!),
      );
      const sum = sumOfTensors(parts.map((part) => tensor(part, { device })));
      assert.deepEqual(new Float32Array(await sum.data() as Float32Array), sumOfFew(parts, pool.length));
    }),
    { numRuns: 30 },
  );
});

test("what a collective adds is added in that tree, too, and rows go to the shards that they are of", () => {
  const rows = fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 7 });
  fc.assert(fc.property(rows, numbers, (counts, pool) => {
    const total = counts.reduce((a, b) => a + b, 0);
    let next = 0;
    const parts = () =>
      counts.map((_, shard) =>
        Float32Array.from({ length: 2 * total }, (_, i) => pool[(7 * shard + i) % pool.length]!)
      );
    const whole = Array.from({ length: 2 * total }, (_, i) => byTree(parts().map((part) => part[i]!)));
    const sums = combine({ op: "allReduce", attrs: { how: "sum" } } as CollectiveNode, parts(), counts);
    for (const sum of sums) assert.deepEqual([...sum], whole);
    const scattered = combine({ op: "reduceScatter", attrs: { rows: 0 } } as CollectiveNode, parts(), counts);
    counts.forEach((count, shard) =>
      assert.deepEqual([...scattered[shard]!], whole.slice(2 * next, 2 * (next += count)))
    );
    const own = counts.map((count, shard) => parts()[shard]!.subarray(0, 2 * count));
    for (const all of combine({ op: "allGather", attrs: { total } } as CollectiveNode, own, counts)) {
      assert.deepEqual([...all], own.flatMap((part) => [...part]));
    }
  }));
});

onEachDevice("a checksum is that of the bits in their places", async (device) => {
  const checksummer = new Checksummer(device, 6);
  const buffer = device.alloc(24);
  const of = async (values: readonly number[]) => {
    device.write(buffer, Float32Array.from(values));
    return (await checksummer.of(buffer)).join();
  };
  const values = [1, 2, 3, 4, 5, -6];
  const first = await of(values);
  assert.equal(await of(values), first);
  const others = [[2, 1, 3, 4, 5, -6], [1, 2, 3, 4, -6, 5], [1, 2, 3, 4, 5, 6], [1 + 2 ** -23, 2, 3, 4, 5, -6], [
    2,
    2,
    2,
    4,
    5,
    -6,
  ], [1, 2, 3, 4, 6, -5]];
  const sums = new Set([first]);
  for (const other of others) sums.add(await of(other));
  assert.equal(sums.size, 1 + others.length);
  assert.notEqual(await of([0, 1, 1, 1, 1, 1]), await of([-0, 1, 1, 1, 1, 1]));
  device.free(buffer);
  await checksummer.release();
});

test("parameters lie side by side without gaps, if aligned those that fill vectors at multiples of them", () => {
  const sizesOf = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 9 });
  fc.assert(fc.property(sizesOf, fc.boolean(), (sizes, aligned) => {
    const parameters = sizes.map((size) => tensor(new Float32Array(size)));
    const layout = new FlatParameters("test", parameters, { aligned });
    const byStart = [...layout.ranges].sort((a, b) => a.start - b.start);
    byStart.forEach(({ start, end }, i) => assert.equal(end, byStart[i + 1]?.start ?? layout.used, `${start}`));
    sizes.forEach((size, i) => {
      const { start, end } = layout.ranges[i]!;
      assert.equal(end - start, size);
      if (aligned && size % 4 === 0) assert.equal(start % 4, 0, `${sizes}: ${layout.offsets}`);
      for (const element of [start, end - 1]) assert.equal(layout.positionAt(element), i);
    });
    if (aligned) assert.ok(layout.length % 4 === 0 && layout.length - layout.used < 4);
    else assert.deepEqual([layout.within({ start: 0, end: layout.length }), layout.length], [parameters, layout.used]);
  }));
});

test("vectors are apart from each other, whatever their lengths", () => {
  fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 2, maxLength: 6 }), (lengths) => {
    const { all } = new Vectors(lengths);
    all.forEach((vector, i) => vector.fill(i + 1));
    all.forEach((vector, i) => {
      assert.equal(vector.length, lengths[i]);
      assert.ok(vector.every((x) => x === i + 1));
    });
  }));
});

test("buckets hold every parameter once, the last first, and are neither tiny nor huge", () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.integer({ min: 1, max: 2e6 }), fc.integer({ min: 1, max: 3e7 })), {
        minLength: 1,
        maxLength: 20,
      }),
      (sizes) => {
        const offsets: number[] = [];
        let length = 0;
        for (const size of sizes) {
          offsets.push(length);
          length += size;
        }
        const buckets = bucketsOf(offsets, length, 4);
        let end = length;
        buckets.forEach((bucket, i) => {
          assert.equal(bucket.end, end, "each begins where the one before it ended");
          assert.ok(offsets.includes(bucket.start), "parameters are whole");
          end = bucket.start;
          const bytes = 4 * (bucket.end - bucket.start);
          const whole = offsets.filter((offset) => offset >= bucket.start && offset < bucket.end).length;
          assert.ok(whole === 1 || bytes <= 25 * 2 ** 20, `bucket ${i} of ${whole} parameters and ${bytes} bytes`);
          const next = buckets[i + 1];
          if (next === undefined) {
            return;
          }
          // It is closed for a reason: the first one has enough, the others cannot take the parameter that follows.
          const following = Math.max(...offsets.filter((offset) => offset < bucket.start));
          const enough = i === 0 ? 4 * 2 ** 20 : Infinity;
          assert.ok(bytes >= enough || 4 * (bucket.end - following) > 25 * 2 ** 20, `bucket ${i} of ${bytes} bytes`);
          // The exchange begins as soon as there is enough for it.
          const before = Math.min(...offsets.filter((offset) => offset > bucket.start), bucket.end);
          if (i === 0) assert.ok(4 * (bucket.end - before) < enough, `${bytes} bytes before anything leaves`);
        });
        assert.equal(end, 0);
      },
    ),
  );
  assert.deepEqual(bucketsOf([0, 100], 150, 4), [{ start: 0, end: 150 }]);
});

test("measured shares follow the devices' speeds, and do not change for a little", async () => {
  const devices = (await virtualDevices("cpu", 3))!;
  const capacities = new Capacities("test", devices, "auto");
  const run = (perRow: readonly number[], steps: number) => {
    const seen = new Set<string>();
    for (let i = 0; i < steps; i++) {
      const shares = capacities.of(devices)!;
      seen.add(shares.join());
      devices.forEach((device, d) => capacities.measured(device, shares[d]!, shares[d]! * perRow[d]!));
    }
    return seen;
  };
  assert.deepEqual(capacities.of(devices), [1, 1, 1], "equal at first");
  run([1, 2, 4], 40);
  const shares = capacities.of(devices)!;
  const total = shares.reduce((a, b) => a + b, 0);
  [4 / 7, 2 / 7, 1 / 7].forEach((share, i) => {
    assert.ok(Math.abs(shares[i]! / total - share) < 0.04, `shares ${shares}`);
  });
  assert.equal(run([1.02, 2, 3.95], 60).size, 1, "noise changes nothing");
  assert.ok(run([1, 2, 1], 60).size > 1, "a device that became faster gets more");
});

test("a device that is far too slow keeps a little of the batch, and so is found when it is fast again", async () => {
  const devices = (await virtualDevices("cpu", 2))!;
  const capacities = new Capacities("test", devices, "auto");
  const run = (perRow: readonly number[]) => {
    for (let i = 0; i < 40; i++) {
      const shares = capacities.of(devices)!;
      devices.forEach((device, d) => capacities.measured(device, shares[d]!, shares[d]! * perRow[d]!));
    }
    return capacities.of(devices)!;
  };
  assert.deepEqual(run([1, 1000]), [31, 1]);
  assert.deepEqual(run([1000, 1]), [1, 31]);
  // More devices than parts of a batch: one for each.
  const many = (await virtualDevices("cpu", 40))!;
  const crowded = new Capacities("test", many, "auto");
  for (let i = 0; i < 12; i++) {
    const shares = crowded.of(many)!;
    many.forEach((device, d) => crowded.measured(device, 1, d < 20 ? 1 : 9));
    assert.ok(shares.every((share) => share > 0), `${shares}`);
  }
});

test("in deterministic mode, shards depend on the rows and their number alone", async () => {
  const devices = (await virtualDevices("cpu", 5))!;
  fc.assert(fc.property(
    fc.integer({ min: 0, max: 200 }),
    fc.integer({ min: 1, max: 12 }),
    fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 5 }),
    (rows, shards, capacities) => {
      const some = devices.slice(0, capacities.length);
      const one = new Placement("test", devices.slice(0, 1), { deterministic: { shards } });
      const several = new Placement("test", some, { deterministic: { shards }, capacities });
      const jobs = several.place(rows, some);
      assert.deepEqual(jobs.map(({ job }) => job), one.place(rows, devices.slice(0, 1)).map(({ job }) => job));
      assert.equal(jobs.reduce((sum, { job }) => sum + job.rows, 0), rows);
      // Each device holds neighbouring shards, in the order of the devices.
      const holders = jobs.map(({ device }) => some.indexOf(device));
      assert.deepEqual(holders, [...holders].sort((a, b) => a - b));
    },
  ));
});

for (const kind of testKinds) {
  test(`in deterministic mode, devices of one kind that are not of one model and driver are refused [${kind}]`, async (t) => {
    const devices = await virtualDevices(kind, 2);
    if (devices === undefined) return t.skip("no adapter");
    const [first, second] = devices as [Device, Device];
    const { name, info, target } = second;
    const place = (what: Partial<Device>, deterministic?: { readonly shards: number }) =>
      new Placement("test", [first, { kind, name, info, target, ...what } as Device], { deterministic });
    const others: readonly Partial<Device>[] = [
      { info: { ...info, description: "another model" } },
      { info: { ...info, runtime: info.runtime === "deno" ? "dawn" : "deno" } },
      { target: { ...target, subgroupSize: 64 } },
      { target: { ...target, class: "integrated" } },
    ];
    for (const other of others) {
      assert.throws(
        () => place(other, { shards: 4 }),
        (error) => error instanceof DeviceError && /in deterministic mode/.test(error.got),
        JSON.stringify(other),
      );
      place(other);
    }
    // Of what was tuned one plan is made for all.
    for (const tuned of [{}, undefined]) place({ target: { ...target, ...tuned && { tuned } } }, { shards: 4 });
  });
}

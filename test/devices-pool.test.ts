import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import type { DeviceBuffer } from "../src/devices/device/device.ts";
import { type Allocator, type Block, MemoryPool, sizeClass } from "../src/devices/memory/pool.ts";
import { Scratch } from "../src/devices/memory/scratch.ts";
import { OutOfMemoryError } from "../src/errors.ts";

/** Counts what a driver would hold. */
class Ledger implements Allocator<{ readonly bytes: number }> {
  readonly held = new Set<{ readonly bytes: number }>();

  create(bytes: number): { readonly bytes: number } {
    const memory = { bytes };
    this.held.add(memory);
    return memory;
  }

  destroy(memory: { readonly bytes: number }): void {
    assert.ok(this.held.delete(memory), "destroyed twice");
  }

  get bytes(): number {
    return [...this.held].reduce((sum, { bytes }) => sum + bytes, 0);
  }
}

test("size classes hold the request, waste at most a fifth, and are classes of themselves", () => {
  fc.assert(fc.property(fc.integer({ min: 0, max: 2 ** 33 }), (bytes) => {
    const size = sizeClass(bytes);
    assert.ok(size >= bytes && size % 64 === 0);
    assert.equal(sizeClass(size), size);
    if (bytes > 256) assert.ok(size <= bytes * 1.25 + 64);
    else assert.equal(size, 256);
  }));
});

test("whatever is allocated and freed, the books are right and the budget holds", () => {
  const budget = 2 ** 16;
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ alloc: fc.integer({ min: 0, max: 2 ** 14 }) }) },
    { weight: 2, arbitrary: fc.record({ free: fc.nat(50) }) },
  );
  fc.assert(fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
    const ledger = new Ledger();
    const pool = new MemoryPool("test:0", ledger, { budget, largest: 2 ** 20 });
    const live: DeviceBuffer[] = [];
    for (const each of steps) {
      if ("alloc" in each) {
        try {
          live.push(pool.alloc(each.alloc));
        } catch (error) {
          assert.ok(error instanceof OutOfMemoryError);
          assert.ok(pool.liveBytes + each.alloc > budget - 256);
        }
      } else {
        const [buffer] = live.splice(each.free % Math.max(live.length, 1), 1);
        if (buffer !== undefined) pool.free(buffer);
      }
      assert.equal(ledger.bytes, pool.liveBytes + pool.pooledBytes);
      assert.ok(ledger.bytes <= budget);
      assert.equal(new Set(live.map((buffer) => pool.block("test", buffer))).size, live.length);
    }
    for (const buffer of live) pool.free(buffer);
    assert.equal(pool.liveBytes, 0);
    pool.clear();
    assert.equal(ledger.bytes, 0);
  }));
});

test("what is kept for reuse is bounded by what was in use, the oldest goes first", () => {
  const ledger = new Ledger();
  const pool = new MemoryPool("test:0", ledger, { budget: Infinity, largest: Infinity });
  const mebibyte = 2 ** 20;
  // Each size is another class, so that nothing can be used again.
  for (let size = 8; size < 200; size += 8) {
    pool.free(pool.alloc(size * mebibyte));
    assert.ok(pool.pooledBytes <= Math.max(32 * mebibyte, pool.peakBytes));
  }
  assert.ok(![...ledger.held].some(({ bytes }) => bytes === 8 * mebibyte));
});

test("memory that turned out unusable does not come back", () => {
  const ledger = new Ledger();
  const pool = new MemoryPool<{ readonly bytes: number }>("test:0", {
    create: (bytes) => ledger.create(bytes),
    destroy: (memory) => ledger.destroy(memory),
    usable: () => false,
  }, { budget: Infinity, largest: Infinity });
  pool.free(pool.alloc(1000));
  assert.deepEqual([pool.liveBytes, pool.pooledBytes, ledger.bytes], [0, 0, 0]);
});

test("what is kept for reuse makes room where the device has less than the budget", () => {
  class Small extends Ledger {
    override create(bytes: number): { readonly bytes: number } {
      if (this.bytes + bytes > 12_000) throw new OutOfMemoryError("alloc", { got: `${bytes}`, need: "12000 in all" });
      return super.create(bytes);
    }
  }
  const ledger = new Small();
  const pool = new MemoryPool("test", ledger, { budget: 2 ** 30, largest: 2 ** 30 });
  pool.free(pool.alloc(6000));
  assert.equal(pool.pooledBytes, ledger.bytes);
  const other = pool.alloc(9000);
  assert.deepEqual([pool.pooledBytes, pool.liveBytes], [0, ledger.bytes]);
  assert.throws(() => pool.alloc(6000), OutOfMemoryError);
  assert.equal(pool.liveBytes, ledger.bytes);
  pool.free(other);
});

test("plans share scratch memory, and none of it is left when all are released", () => {
  fc.assert(fc.property(
    fc.array(fc.array(fc.integer({ min: 1, max: 4096 }), { maxLength: 8 }), { maxLength: 8 }),
    fc.infiniteStream(fc.nat()),
    (plans, choices) => {
      const ledger = new Ledger();
      const pool = new MemoryPool("test:0", ledger, { budget: Infinity, largest: Infinity });
      const scratch = new Scratch(pool);
      const leases = plans.map((sizes) => ({ sizes, lease: scratch.lease(sizes) }));
      const total = (blocks: readonly Block<unknown>[]) => blocks.reduce((sum, { bytes }) => sum + bytes, 0);
      for (const { sizes, lease } of leases) {
        assert.equal(new Set(lease.blocks).size, sizes.length);
        sizes.forEach((bytes, index) => assert.ok((lease.blocks[index]?.bytes ?? 0) >= bytes));
        assert.ok(pool.liveBytes >= total(lease.blocks));
      }
      assert.equal(pool.liveBytes, total([...new Set(leases.flatMap(({ lease }) => lease.blocks))]));
      while (leases.length > 0) {
        const [gone] = leases.splice((choices.next().value ?? 0) % leases.length, 1);
        gone?.lease.release();
        gone?.lease.release();
        for (const { lease } of leases) assert.ok(pool.liveBytes >= total(lease.blocks));
      }
      assert.equal(pool.liveBytes, 0);
    },
  ));
});

/** Batches that are made while the step before them runs. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { prefetched } from "../src/nn/data/prefetch.ts";

const wait = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

test("every item comes once and in order; errors come where the item would have; stopping early ends the source", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.nat(2), { maxLength: 8 }),
      fc.option(fc.nat(7), { nil: undefined }),
      fc.option(fc.nat(7), { nil: undefined }),
      fc.boolean(),
      async (delays, failAt, stopAt, sync) => {
        let ended = 0;
        let made = 0;
        async function* source() {
          try {
            for (const [i, delay] of delays.entries()) {
              if (delay > 0) await wait(delay);
              if (i === failAt) throw new Error("no such batch");
              made++;
              yield i;
            }
          } finally {
            ended++;
          }
        }
        const seen: number[] = [];
        let error: unknown;
        const list = delays.map((_, i) => i);
        try {
          for await (const item of prefetched<number>(sync ? list : source())) {
            seen.push(item);
            assert.ok(sync || made <= item + 2, "at most one ahead");
            if (item === stopAt) break;
          }
        } catch (caught) {
          error = caught;
        }
        const fails = !sync && failAt !== undefined && failAt < delays.length &&
          !(stopAt !== undefined && stopAt < failAt);
        const count = Math.min(fails ? failAt : delays.length, (stopAt ?? Infinity) + 1);
        assert.deepEqual(seen, list.slice(0, count));
        assert.equal(error !== undefined, fails);
        if (!sync) assert.equal(ended, 1, "the source is ended once");
      },
    ),
    { numRuns: 80 },
  );
});

test("a batch is being made while its user works on the one before it, and no further one", async () => {
  const begun: number[] = [];
  async function* source() {
    for (let i = 0; i < 10; i++) {
      begun.push(i);
      await wait(1);
      yield i;
    }
  }
  for await (const item of prefetched(source())) {
    await wait(5);
    assert.equal(begun.at(-1), Math.min(item + 1, 9), `begun while ${item} is worked on`);
  }
});

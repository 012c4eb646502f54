/**
 * Runs test files one after the other in one process of Deno, with `node:test` mapped to gather.ts:
 *
 *   deno test --allow-all --import-map=MAP scripts/testing/in-deno.ts -- test/one.test.ts test/other.test.ts
 */
import process from "node:process";
import { type Context, testsOf } from "./gather.ts";

interface Step {
  step(definition: { name: string; fn: (step: Step) => unknown } & typeof unchecked & { ignore?: boolean }): Promise<
    boolean
  >;
}

interface DenoTests {
  test(definition: { name: string; fn: (step: Step) => unknown } & typeof unchecked): void;
}

/** As Deno's own `node:test` has it: what a test leaves open may be the library's, which lasts. */
const unchecked = { sanitizeExit: false, sanitizeOps: false, sanitizeResources: false };

const { test } = (globalThis as unknown as { Deno: DenoTests }).Deno;

for (const file of process.argv.slice(2)) {
  test({
    name: file,
    ...unchecked,
    fn: async (own) => {
      for (const { name, body } of await testsOf(new URL(`../../${file}`, import.meta.url).href)) {
        let skipped: string | undefined;
        await own.step({
          name,
          ...unchecked,
          fn: async () => {
            const later: (() => unknown)[] = [];
            const context: Context = {
              skip: (reason = "") => void (skipped = reason),
              after: (then) => void later.push(then),
            };
            try {
              await body(context);
            } finally {
              for (const then of later) await then();
            }
          },
        });
        // A test that is under way cannot be ignored any more; this one tells of it.
        if (skipped !== undefined) {
          await own.step({ name: `skipped: ${name} (${skipped})`, ...unchecked, ignore: true, fn: () => {} });
        }
      }
    },
  });
}

/** Kernels are as they were: a change of the compiler that alters none is safe, and one that does shows which. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { graphs, kernelsOf, recorded } from "./kernel-replay.ts";

const known = await recorded();

test("every graph is recorded, and no other", () => {
  assert.deepEqual([...known.keys()], Object.keys(graphs));
});

for (const name of Object.keys(graphs)) {
  test(`the kernels of ${name} are those that were recorded`, () => {
    const [got, expected] = [kernelsOf(name).split("\n"), known.get(name)!.split("\n")];
    assert.deepEqual(got, expected, "to record a change that is meant: npm run record:kernels");
  });
}

/** The list of mutations is that of these sources and of these tests. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { mutations } from "../scripts/mutations/index.ts";

const textOf = (path: string) => readFileSync(fileURLToPath(new URL(`../${path}`, import.meta.url)), "utf8");

test("what each mutation changes stands in its file once, and the tests that must fail are there", () => {
  const wrong: string[] = [];
  const seen = new Set<string>();
  for (const { file, find, put, tests, why } of mutations) {
    const found = textOf(`src/${file}`).split(find).length - 1;
    if (found !== 1) wrong.push(`src/${file} has ${found} times ${find}`);
    if (find === put || why.length < 10) wrong.push(`src/${file}: ${find} is not changed, or without a reason`);
    if (seen.size === seen.add(`${file} ${find} ${put}`).size) {
      wrong.push(`src/${file}: ${find} stands twice in the list`);
    }
    if (Object.keys(tests).length === 0) wrong.push(`src/${file}: ${find} has no test`);
    for (const [name, part] of Object.entries(tests)) {
      if (!textOf(`test/${name}.test.ts`).includes(part)) wrong.push(`test/${name}.test.ts has no test ${part}`);
    }
  }
  assert.deepEqual(wrong, []);
});

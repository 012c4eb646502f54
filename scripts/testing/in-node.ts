/**
 * Runs test files one after the other in one process of Node:
 *
 *   node --expose-gc --enable-source-maps FOLDER/scripts/testing/in-node.js test/one.test.ts test/other.test.ts
 */
import { after, describe, it } from "node:test";
import { join } from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { testsOf } from "./gather.ts";

/** Where the JavaScript is that was made of the files. */
const folder = process.env["SHARDWISE_TEST_PROGRAMS"]!;

for (const file of process.argv.slice(2)) {
  const tests = await testsOf(pathToFileURL(join(folder, file.replace(/\.ts$/, ".js"))).href);
  await new Promise<void>((resolve) =>
    describe(file, () => {
      for (const { name, body } of tests) it(name, async (context) => void await body(context));
      after(() => resolve());
    })
  );
}

/** Training on the cpu device has the same bits in Node and in Deno, whose engines are not of one version. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { runtime } from "../src/host/host.ts";
import { runInNode } from "./programs.ts";

const project = fileURLToPath(new URL("..", import.meta.url));

const program = fileURLToPath(new URL("../examples/mnist.ts", import.meta.url));

function weightsOf(command: string, run: readonly string[]): string {
  const args = [...run, "--limit", "1280", "--devices", "3"];
  const env = { ...process.env, SHARDWISE_DEVICE: "cpu" };
  const { stdout, stderr } = spawnSync(command, args, { cwd: project, env, encoding: "utf8", timeout: 120_000 });
  const found = /^weights sha256: ([0-9a-f]{64})$/m.exec(stdout);
  assert.ok(found !== null, stdout + stderr);
  return found[1]!;
}

// The run in Node compares both.
if (runtime !== "deno") {
  test("weights after ten steps on three cpu devices are the same in Node and in Deno", () => {
    const inDeno = weightsOf(`${project}/node_modules/.bin/deno`, ["run", "--allow-all", "--no-check", program]);
    assert.equal(weightsOf(process.execPath, runInNode(program)), inDeno);
  });
}

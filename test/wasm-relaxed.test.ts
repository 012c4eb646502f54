/** SHARDWISE_RELAXED=1: products are added by one instruction where there is one, in plans of their own. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { compileGraph } from "../src/compiler/compile.ts";
import { readFlags, setFlags } from "../src/debug/flags.ts";
import { CpuDevice } from "../src/devices/cpu/cpu.ts";
import { hasRelaxedWasm } from "../src/devices/cpu/kernels.ts";
import { claimIdentity } from "../src/devices/device/registry.ts";
import * as g from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import { runtime } from "../src/host/host.ts";
import { matmul } from "../src/tensor/ops/contract.ts";
import { evaluate } from "./evaluate.ts";
import { assertClose } from "./harness.ts";

// Node 20 has it behind a flag, which is read when a module is compiled.
if (runtime === "node") setFlagsFromString("--experimental-wasm-relaxed-simd");

function device(relaxed: boolean): CpuDevice {
  setFlags({ ...readFlags(() => undefined), relaxed });
  const made = new CpuDevice(claimIdentity("cpu"), Infinity, "wasm");
  setFlags(undefined);
  return made;
}

test("sums of products are relaxed where that is asked for, and no kernel is shared with those that are not", async (t) => {
  const [plain, relaxed] = [device(false), device(true)];
  assert.equal(plain.target.relaxed, undefined);
  if (!hasRelaxedWasm()) {
    assert.deepEqual(relaxed.target, plain.target, "without relaxed SIMD the flag does nothing");
    return t.skip("no relaxed SIMD");
  }
  assert.equal(relaxed.target.relaxed, true);
  // Staged panels, strips, tiles of rows, and a sum by a team.
  for (const [m, k, n] of [[64, 300, 520], [2, 700, 1030], [7, 9, 5], [33, 20, 17], [5, 64, 1]] as const) {
    const [a, b] = [g.input([m, k], "f32"), g.input([k, n], "f32")];
    const request = { roots: [matmul(a, b)], inputs: [a, b] };
    const draw = (length: number, seed: number) => Float32Array.from({ length }, (_, i) => Math.sin(i * 1.7 + seed));
    const data = [draw(m * k, 1), draw(k * n, 2)];
    const [expected] = interpret(request.roots, new Map([[a, data[0]!], [b, data[1]!]]));
    for (const one of [plain, relaxed]) {
      const [actual] = await evaluate(one, request, data);
      assertClose(actual!, expected!, { atol: 2e-5, rtol: 1e-5, message: `${m}x${k}x${n}` });
    }
    const keys = [plain, relaxed].map((one) => compileGraph(request, one.target).programs.map(({ key }) => key).join());
    assert.notEqual(keys[0], keys[1]);
  }
  // A sum of nothing but elements has no products.
  const x = g.input([9, 40], "f32");
  const sums = { roots: [g.reduce("sum", x, [1])], inputs: [x] };
  const [one, other] = [plain, relaxed].map(({ target }) => compileGraph(sums, target).programs[0]!.key);
  assert.equal(one, other);
  for (const made of [plain, relaxed]) made.close();
});

import { tensor, grad, compile, random, zeros, realize, devices, setDefaultDevice, concat } from "../src/index.ts";
import { nodeCount } from "../src/graph/node.ts";
const kind = (process.argv[3] ?? "cpu") as "cpu" | "gpu";
const dev = (await devices({ kind }))[0]!;
setDefaultDevice(dev);
const mode = process.argv[2];
const gc = (globalThis as any).gc as (() => void) | undefined;
const t0 = performance.now();
async function report(i: number) {
  if (gc) { gc(); await new Promise((r) => setTimeout(r, 20)); gc(); await new Promise((r) => setTimeout(r, 20)); }
  const s = dev.stats();
  const m = process.memoryUsage();
  console.log(i, `${(performance.now() - t0).toFixed(0)}ms heap ${(m.heapUsed / 2 ** 20).toFixed(1)} rss ${(m.rss / 2 ** 20).toFixed(0)} ext ${(m.external/2**20).toFixed(0)} nodes ${nodeCount()} live ${(s.liveBytes / 2 ** 20).toFixed(2)} pooled ${(s.pooledBytes / 2 ** 20).toFixed(2)} allocs ${s.allocations} kernels ${s.kernels} disp ${s.dispatches}`);
}
const x = tensor(Float32Array.from({ length: 640 }, (_, i) => Math.sin(i)), { shape: [64, 10] });
const t = tensor(Float32Array.from({ length: 64 }, (_, i) => Math.cos(i)), { shape: [64, 1] });
let w = zeros([10, 1]);
const N = Number(process.argv[4] ?? 1500), every = N / 10;
if (mode === "A") {
  for (let i = 0; i <= N; i++) {
    const loss = x.matmul(w).sub(t).square().mean();
    const [g] = grad(loss, [w]);
    w = w.sub(g!.mul(0.1));
    const v = await loss.item();
    if (i % every === 0) { console.log(v); await report(i); }
  }
} else if (mode === "B") {
  for (let i = 0; i <= N; i++) {
    const loss = x.matmul(w).sub(t).square().mean();
    const [g] = grad(loss, [w]);
    w.assign(w.sub(g!.mul(0.1)));
    const v = await loss.item();
    if (i % every === 0) { console.log(v); await report(i); }
  }
} else if (mode === "C") {
  const step = compile((x: any, t: any) => { const loss = x.matmul(w).sub(t).square().mean(); const [g] = grad(loss, [w]); w.assign(w.sub(g!.mul(0.1))); return loss; });
  for (let i = 0; i <= N; i++) {
    const v = await (await step(x, t)).item();
    if (i % every === 0) { console.log(v); await report(i); }
  }
} else if (mode === "D") {
  const big = tensor(new Float32Array(1 << 20));
  for (let i = 0; i <= N; i++) {
    const y = big.add(i); await y.realize();
    if (i % every === 0) { console.log(await y.max().item()); await report(i); }
  }
} else if (mode === "E") {
  let y = zeros([1 << 20]);
  for (let i = 0; i <= N; i++) {
    y = y.mul(0.5).add(1); await y.realize();
    if (i % every === 0) { console.log(await y.max().item()); await report(i); }
  }
} else if (mode === "F") {
  let total = zeros([]);
  for (let i = 0; i <= N; i++) {
    const loss = x.matmul(w).sub(t).square().mean();
    total = total.add(loss.mul(i));
    await Promise.resolve();
    if (i % every === 0) { console.log(await total.item()); await report(i); }
  }
}

import { tensor, grad, zeros, devices, setDefaultDevice } from "../src/index.ts";
import { nodeCount } from "../src/graph/node.ts";
const dev = (await devices({ kind: "cpu" }))[0]!;
setDefaultDevice(dev);
const gc = (globalThis as any).gc as () => void;
const x = tensor(Float32Array.from({ length: 640 }, (_, i) => Math.sin(i)), { shape: [64, 10] });
const t = tensor(Float32Array.from({ length: 64 }, (_, i) => Math.cos(i)), { shape: [64, 1] });
let w = zeros([10, 1]);
async function loop() {
  for (let i = 0; i <= 50; i++) {
    const loss = x.matmul(w).sub(t).square().mean();
    const [g] = grad(loss, [w]);
    w.assign(w.sub(g!.mul(0.1)));
    await loss.item();
    if (i % 50 === 0) { for (let k = 0; k < 4; k++) { gc(); await new Promise((r) => setTimeout(r, 30)); console.log(i, nodeCount(), (w as any).node.op); } }
  }
}
await loop();
for (let i = 0; i < 6; i++) { gc(); await new Promise((r) => setTimeout(r, 30)); console.log(nodeCount()); }

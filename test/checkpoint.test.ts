/** checkpoint: the same values and gradients, in less memory. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { gradients } from "../src/autograd/grad.ts";
import { structureOf } from "../src/compiler/cache.ts";
import { compileGraph } from "../src/compiler/compile.ts";
import type { Target } from "../src/compiler/plan/plan.ts";
import { ArgumentError } from "../src/errors.ts";
import * as g from "../src/graph/build.ts";
import { type Node, toposort } from "../src/graph/node.ts";
import { checkpoint, compile, data, grad, nn, optim, random, Tensor, tensor, type Tree, where } from "../src/index.ts";
import { assertClose, onEachDevice, virtualDevices } from "./harness.ts";
import { discreteTarget } from "./targets.ts";

function noise(count: number, seed: number): number[] {
  return Array.from({ length: count }, (_, i) => Math.sin(12.9898 * (i + 1) + 78.233 * seed));
}

async function closeTrees(actual: readonly Tensor[], expected: readonly Tensor[], message: string): Promise<void> {
  assert.equal(actual.length, expected.length);
  for (let i = 0; i < actual.length; i++) {
    assertClose(await actual[i]!.data(), await expected[i]!.data(), { message: `${message}, ${i}`, atol: 1e-5 });
  }
}

onEachDevice("values and gradients are the same: trees, captured tensors, several results, nesting", async (device) => {
  const on = (shape: number[], seed: number) =>
    tensor(noise(shape.reduce((a, b) => a * b, 1), seed), { device }).reshape(shape);
  const [x, w, v] = [on([5, 4], 1), on([4, 4], 2), on([5, 4], 3)];
  const outside = x.matmul(w).sigmoid();
  type Block = (x: Tensor, w: Tensor, v: Tensor, mark: typeof checkpoint) => Tensor;
  const none = ((fn: unknown) => fn) as typeof checkpoint;
  const blocks: Record<string, Block> = {
    plain: (x, w, _, mark) => mark((a: Tensor) => a.matmul(w).tanh().matmul(w).sin())(x),
    "an argument that is captured, too": (x, w, _, mark) => mark((a: Tensor) => a.matmul(w).mul(x).tanh())(x),
    "records and numbers": (x, w, v, mark) =>
      mark(({ a, list }: { a: Tensor; list: Tensor[] }, factor: number) =>
        a.mul(factor).matmul(list[0]!).add(list[1]!).tanh()
      )({ a: x, list: [w, v] }, 0.5),
    "several results": (x, w, v, mark) => {
      const [a, { b, c, d }] = mark((x: Tensor, v: Tensor) => {
        const h = x.matmul(w).tanh();
        return [h.sin(), { b: h.mul(v), c: v, d: x.exp().stopGradient() }] as const;
      })(x, v);
      return a.mul(b).add(b.exp()).add(c.mul(d));
    },
    "results that are not used": (x, w, v, mark) =>
      mark((x: Tensor) => [x.matmul(w).tanh(), x.sin().mul(v)] as const)(x)[1],
    "a region in a region": (x, w, v, mark) =>
      mark((a: Tensor) => mark((b: Tensor) => b.matmul(w).tanh().mul(v))(a.sin()).matmul(w).tanh())(x),
    "one after the other": (x, w, _, mark) => {
      const layer = mark((a: Tensor) => a.matmul(w).tanh());
      return layer(layer(layer(x)));
    },
    "what was computed outside": (x, _, v, mark) => mark((a: Tensor) => a.mul(outside).mul(v).exp())(x),
    "nothing of its argument": (_x, w, v, mark) => mark((_: Tensor) => v.matmul(w).sin())(v),
  };
  for (const [name, block] of Object.entries(blocks)) {
    const results = ([none, checkpoint] as const).map((mark) => {
      const y = block(x, w, v, mark);
      const first = grad(y.mul(y).sum(), [x, w, v]);
      // Second gradients are many kernels, which drivers compile slowly.
      if (device.kind === "gpu") return [y, ...first];
      return [y, ...first, ...grad(first.map((d) => d.sin().sum()).reduce((a, b) => a.add(b)), [x, w, v])];
    });
    await closeTrees(results[1]!, results[0]!, name);
  }
  assert.throws(() => checkpoint((_: Tree) => x)(new Map() as never), ArgumentError);
});

onEachDevice("a dropout drops the same elements when it is computed again", async (device) => {
  const x = tensor(noise(600, 1), { device }).reshape([20, 30]);
  const w = tensor(noise(900, 2), { device }).reshape([30, 30]);
  const drop = nn.dropout(0.4);
  const run = async (mark: typeof checkpoint) => {
    random.seed(5);
    const step = compile((x: Tensor, w: Tensor) => {
      const y = mark((a: Tensor) => drop.forward(a.matmul(w).tanh()).matmul(w))(x);
      return [y, ...grad(y.square().sum(), [x, w])];
    });
    return [...await step(x, w), ...await step(x, w)];
  };
  const kept = await run(((fn: unknown) => fn) as typeof checkpoint);
  await closeTrees(await run(checkpoint), kept, "dropout");
  assert.notDeepEqual(await kept[0]!.data(), await kept[3]!.data());
});

test("the gradients of an inner value, and inner values that leave a region, are as without", async () => {
  const [x, w] = [tensor(noise(6, 1)).reshape([2, 3]), tensor(noise(9, 2)).reshape([3, 3])];
  let inner: Tensor | undefined;
  const y = checkpoint((a: Tensor) => {
    inner = a.matmul(w).sin();
    return inner.mul(inner).exp();
  })(x).sum();
  const own = x.matmul(w).sin();
  const expected = own.mul(own).exp();
  await closeTrees([...grad(y, [inner!, x]), grad(y.add(inner!.sum()), x)], [
    ...grad(expected.sum(), [own, x]),
    grad(expected.sum().add(own.sum()), x),
  ], "inner");
});

const targets: readonly Target[] = [
  { ...discreteTarget, language: "js", class: "js", subgroupSize: 0 },
  { ...discreteTarget, class: "software", subgroupSize: 8 },
  discreteTarget,
];

/** The gradients of a chain of layers, in regions of so many; their weights may be parts of one vector. */
function chain(layers: number, perRegion: number, mark: boolean, flat: boolean): { roots: Node[]; inputs: Node[] } {
  const [rows, d] = [512, 32];
  const x = g.input([rows, d], "f32");
  const all = g.input([layers * d * d], "f32");
  const weights = Array.from(
    { length: layers },
    (_, i) => flat ? g.reshape(g.slice(all, [i * d * d], [d * d], [1]), [d, d]) : g.input([d, d], "f32"),
  );
  let y = new Tensor(x);
  for (let i = 0; i < layers; i += perRegion) {
    const region = (a: Tensor) => weights.slice(i, i + perRegion).reduce((b, w) => b.matmul(new Tensor(w)).tanh(), a);
    y = (mark ? checkpoint(region) : region)(y);
  }
  const loss = y.square().sum().node;
  const parameters = flat ? [all] : weights;
  return { roots: [loss, ...gradients([loss], parameters)], inputs: [x, ...parameters] };
}

test("the gradients of a chain of n layers in regions of √n keep about 2 √n activations", () => {
  const activation = 512 * 32 * 4;
  for (const target of targets) {
    for (const flat of [false, true]) {
      const held = (request: { roots: Node[]; inputs: Node[] }) => {
        const plan = compileGraph(request, target);
        return plan.temporaries.reduce((sum, slot) => sum + plan.slots[slot]!.bytes, 0) / activation;
      };
      const plain = held(chain(25, 5, false, flat));
      const few = held(chain(25, 5, true, flat));
      assert.ok(plain >= 25, `${target.class}: ${plain} without checkpoints`);
      assert.ok(few <= 13, `${target.class}: ${few} with checkpoints`);
    }
  }
});

test("what a region reads may depend on other things that it reads", async () => {
  const gradient = async (mark: boolean) => {
    const kept = mark ? checkpoint : <F>(fn: F): F => fn;
    const x = tensor([0.5, -1.2, 2, 0.3]);
    const [gx] = grad(kept((a: Tensor) => a.mul(a).mul(a))(x).sum(), [x]);
    // Captured, and made of the second argument: both ways lead from it to the first.
    const mask = gx!.greater(1);
    const loss = kept((a: Tensor, b: Tensor) => {
      const product = a.mul(b);
      return where(mask, product, product.mul(5));
    })(x, gx!).sum();
    return [...await grad(loss, [x])[0]!.data()];
  };
  // 3x³, five times of it where 3x² is not above 1.
  const expected = [11.25, 12.96, 36, 4.05];
  assertClose(await gradient(false), expected);
  assertClose(await gradient(true), expected);
});

test("any cut of a chain into regions computes each layer at most twice forward", () => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 }), (layers, perRegion) => {
    const count = (mark: boolean) =>
      toposort(chain(layers, perRegion, mark, false).roots).filter((node) => node.op === "tanh").length;
    assert.equal(count(false), layers);
    assert.equal(count(true), 2 * layers);
  }));
});

test("equal programs have equal keys of plans, whatever the numbers of their regions", () => {
  const key = () => structureOf(chain(4, 2, true, true)).replaceAll(/slot \d+/g, "");
  assert.equal(key(), key());
});

onEachDevice(
  "training with checkpoints gives the weights that training without gives, on logical shards",
  async (device) => {
    const devices = await virtualDevices(device.kind === "gpu" ? "gpu" : "cpu", 2);
    assert.ok(devices !== undefined);
    class Net extends nn.Module {
      readonly layers = [nn.linear(6, 16), nn.linear(16, 16), nn.linear(16, 3)];
      readonly norm = nn.batchNorm(16);
      readonly drop = nn.dropout(0.2);
      readonly mark: boolean;
      constructor(mark: boolean) {
        super();
        this.mark = mark;
      }
      override forward(x: Tensor): Tensor {
        const body = (a: Tensor) =>
          this.drop.forward(this.layers[1]!.forward(this.norm.forward(this.layers[0]!.forward(a)).tanh()).relu());
        return this.layers[2]!.forward((this.mark ? checkpoint(body) : body)(x));
      }
    }
    const batch = {
      x: data.array(Float32Array.from(noise(66, 3)), { shape: [11, 6] }),
      y: data.array(Int32Array.from({ length: 11 }, (_, i) => i % 3), { dtype: "i32" }),
    };
    const trained = [];
    for (const mark of [false, true]) {
      random.seed(2);
      const net = new Net(mark);
      const trainer = nn.trainer(net, {
        loss: (output, rows) => nn.crossEntropy(output, rows.y),
        optimizer: optim.adam({ learningRate: 0.01 }),
        devices,
        seed: 4,
      });
      for (let step = 0; step < 3; step++) await trainer.step(batch);
      trained.push(net.parameters());
    }
    await closeTrees(trained[1]!, trained[0]!, "weights");
  },
);

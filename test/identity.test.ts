/** A tensor is a variable of its own: what is equal to it, or made in the same way, is another one. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Device } from "../src/devices/device/device.ts";
import { elementwise, input, withSources } from "../src/graph/build.ts";
import { interpret } from "../src/graph/interpret.ts";
import { type Node, toposort } from "../src/graph/node.ts";
import { compile, grad, jvp, type Tensor, valueAndGrad, vjp } from "../src/index.ts";
import * as s from "../src/index.ts";
import { valueOf } from "../src/tensor/eager/record.ts";
import { prune } from "../src/tensor/eager/history.ts";
import { assertClose, onEachDevice } from "./harness.ts";

const read = (x: Tensor) => x.data().then((data) => [...data]);

/** Pairs of tensors that are equal, or of which one is the other unchanged. */
const pairs: Record<string, (device: Device) => [Tensor, Tensor]> = {
  zeros: (device) => [s.zeros([2], { device }), s.zeros([2], { device })],
  ones: (device) => [s.ones([2], { device }), s.ones([2], { device })],
  full: (device) => [s.full([2], 7, { device }), s.full([2], 7, { device })],
  arange: (device) => [s.arange(2, { dtype: "f32", device }), s.arange(2, { dtype: "f32", device })],
  "of no device": () => [s.zeros([2]), s.zeros([2])],
  "the same op of one tensor": (device) => {
    const x = s.tensor([1, 2], { device });
    return [x.exp(), x.exp()];
  },
  "one op of numbers": (device) => {
    const x = s.tensor([1, 2], { device });
    return [x.mul(3).add(1), x.mul(3).add(1)];
  },
  "two detached ones": (device) => {
    const x = s.tensor([1, 2], { device });
    return [x.detach(), x.detach()];
  },
  "a power of 0": (device) => {
    const x = s.tensor([1, 2], { device });
    return [x.pow(0), x.pow(0)];
  },
  "two gradients of one cotangent": (device) => {
    const [x, y] = [s.tensor([1, 2], { device }), s.tensor([3, 4], { device })];
    return grad(x.add(y).sum(), [x, y]);
  },
  "two gradients of zeros": (device) => {
    const [x, y] = [s.tensor([1, 2], { device }), s.tensor([3, 4], { device })];
    return grad(s.zeros([], { device }), [x, y]);
  },
  "assigned one value": (device) => {
    const [x, y, z] = [s.tensor([1, 2], { device }), s.tensor([1, 2], { device }), s.tensor([3, 4], { device })];
    return [x.assign(z), y.assign(z)];
  },
  "assigned and its value": (device) => {
    const [x, z] = [s.tensor([1, 2], { device }), s.tensor([3, 4], { device })];
    return [x.assign(z), z];
  },
};

/** What gives its operand unchanged. */
const unchanged: Record<string, (x: Tensor) => Tensor> = {
  reshape: (x) => x.reshape([2]),
  "reshape of a free length": (x) => x.reshape([-1]),
  flatten: (x) => x.flatten(),
  transpose: (x) => x.transpose(),
  permute: (x) => x.permute([0]),
  broadcastTo: (x) => x.broadcastTo([2]),
  squeeze: (x) => x.squeeze(),
  slice: (x) => x.slice({}),
  "slice of all": (x) => x.slice([{ start: 0, end: 2 }]),
  pad: (x) => x.pad(0),
  split: (x) => x.split(1)[0]!,
  cast: (x) => x.cast("f32"),
  contiguous: (x) => x.contiguous(),
  concat: (x) => s.concat([x]),
  sum: (x) => x.sum({ axis: [] }),
  "add of 0": (x) => x.add(0),
  "mul by 1": (x) => x.mul(1),
  checkpoint: (x) => s.checkpoint((y: Tensor) => y)(x),
};

/** After which a pair is differentiated. */
const afterwards: Record<string, (pair: [Tensor, Tensor]) => Promise<[Tensor, Tensor]>> = {
  "as they are": (pair) => Promise.resolve(pair),
  realized: async (pair) => {
    await s.realize(...pair);
    return pair;
  },
  read: async ([a, b]) => {
    await a.data();
    await b.data();
    return [a, b];
  },
  detached: ([a, b]) => Promise.resolve([a.detach(), b.detach()]),
};

const loss = (a: Tensor, b: Tensor) => a.mul(3).add(b.mul(5)).sum();

onEachDevice("equal tensors have gradients of their own", async (device) => {
  for (const [name, make] of Object.entries(pairs)) {
    for (const [when, prepare] of Object.entries(afterwards)) {
      const [a, b] = await prepare(make(device));
      const what = `${name}, ${when}`;
      const [da, db] = grad(loss(a, b), [a, b]);
      assert.deepEqual(await read(da), [3, 3], what);
      assert.deepEqual(await read(db), [5, 5], what);
      assert.deepEqual(await read(grad(a.mul(2).sum(), b)), [0, 0], `${what}: on which it does not depend`);
      const [, gradient] = valueAndGrad(([a, b]: [Tensor, Tensor]) => loss(a, b))([a, b]);
      assert.deepEqual(await Promise.all(gradient.map(read)), [[3, 3], [5, 5]], `${what}: valueAndGrad`);
      const [, cotangents] = vjp(([a, b]: [Tensor, Tensor]) => loss(a, b), [a, b], s.full([], 2));
      assert.deepEqual(await Promise.all(cotangents.map(read)), [[6, 6], [10, 10]], `${what}: vjp`);
      const [, tangent] = jvp(([a, b]: [Tensor, Tensor]) => loss(a, b), [a, b], [s.ones([2]), s.full([2], 100)]);
      assert.deepEqual(await read(tangent), [2 * 3 + 2 * 500], `${what}: jvp`);
      const compiled = compile((a: Tensor, b: Tensor) => [loss(a, b), ...grad(loss(a, b), [a, b])]);
      assert.deepEqual(
        (await Promise.all((await compiled(a, b)).map(read))).slice(1),
        [[3, 3], [5, 5]],
        `${what}: compiled`,
      );
      const captured = compile(() => grad(loss(a, b), [a, b]));
      assert.deepEqual(await Promise.all((await captured()).map(read)), [[3, 3], [5, 5]], `${what}: captured`);
    }
  }
});

onEachDevice("what an op leaves unchanged is a tensor of its own, that depends on its operand", async (device) => {
  for (const [name, same] of Object.entries(unchanged)) {
    for (const [when, prepare] of Object.entries(afterwards)) {
      if (when === "detached") continue;
      const a = s.tensor([1, 2], { device }).mul(2);
      const [x, b] = await prepare([a, same(a)]);
      const [dx, db] = grad(loss(x, b), [x, b]);
      assert.deepEqual([await read(dx), await read(db)], [[8, 8], [5, 5]], `${name}, ${when}`);
      assert.deepEqual(await read(grad(x.mul(2).sum(), b)), [0, 0], `${name}, ${when}: on which it does not depend`);
      assert.deepEqual(await read(b), [2, 4], `${name}, ${when}`);
    }
    const inside = compile((x: Tensor) => {
      const a = x.mul(2);
      const b = same(a);
      return [b, ...grad(loss(a, b), [a, b])];
    });
    const results = await inside(s.tensor([1, 2], { device }));
    assert.deepEqual(await Promise.all(results.map(read)), [[2, 4], [8, 8], [5, 5]], `${name}: compiled`);
  }
  const detached = s.tensor([1, 2], { device }).detach();
  assert.deepEqual(await read(grad(detached.detach().sum(), detached)), [0, 0], "detached once more");
});

onEachDevice(
  "tensors made in place of each other: literals, results of compiled functions, parts of one tensor",
  async (device) => {
    assert.deepEqual(await read(grad(s.ones([2], { device }).sum(), s.ones([2], { device }))), [0, 0]);

    const x = s.tensor([1, 2], { device });
    const same = compile((x: Tensor) => [x, x, x.add(0), x.add(1), x.add(1)] as const);
    const results = await same(x);
    const all = [x, ...results];
    const factors = all.map((_, i) => i + 1);
    const total = all.map((y, i) => y.mul(factors[i]!).sum()).reduce((a, b) => a.add(b));
    const gradients = await Promise.all(grad(total, all).map(read));
    assert.deepEqual(gradients, factors.map((factor) => [factor, factor]));
    assert.deepEqual(await Promise.all(results.map(read)), [[1, 2], [1, 2], [1, 2], [2, 3], [2, 3]]);

    // One tensor that is two results.
    const [one, other] = await compile((x: Tensor) => {
      const y = x.mul(2);
      return [y, y] as const;
    })(x);
    assert.deepEqual(await Promise.all(grad(loss(one, other), [one, other]).map(read)), [[3, 3], [5, 5]]);

    const base = s.tensor([1, 2], { device });
    const [p, q] = [s.zeros([2]), s.zeros([2])];
    p.aliasOf(base, 0);
    q.aliasOf(base, 0);
    assert.deepEqual(await Promise.all(grad(loss(p, q), [p, q, base]).map(read)), [[3, 3], [5, 5], [8, 8]]);
    base.assign(base.mul(2));
    const before = loss(p, q);
    await base.realize();
    prune();
    assert.deepEqual(await Promise.all(grad(before, [p, q]).map(read)), [[3, 3], [5, 5]], "computed since");
    const traced = compile(() => grad(loss(p, q), [p, q]));
    await traced();
    assert.deepEqual(await Promise.all(grad(before, [p, q]).map(read)), [[3, 3], [5, 5]], "traced since");
    assert.deepEqual(await Promise.all((await traced()).map(read)), [[3, 3], [5, 5]], "traced");
  },
);

onEachDevice("an assignment cuts the history in a trace as outside", async (device) => {
  const run = (x: Tensor, p: Tensor) => {
    p.assign(x.mul(2));
    return grad(p.mul(x).sum(), [p, x]);
  };
  const x = s.tensor([1, 2], { device });
  const eager = await Promise.all(run(x, s.zeros([2], { device })).map(read));
  const p = s.zeros([2], { device });
  const compiled = await Promise.all((await compile((x: Tensor) => run(x, p))(x)).map(read));
  assert.deepEqual(eager, [[1, 2], [2, 4]]);
  assert.deepEqual(compiled, eager);
  assert.deepEqual(await read(p), [2, 4]);
});

onEachDevice("a regression learns from two equal starts", async (device) => {
  const x = s.tensor([0, 1, 2, 3], { shape: [4], device });
  const y = x.mul(2).add(1);
  for (const start of [() => s.zeros([1], { device }), () => s.ones([1], { device }).mul(0)]) {
    const [w, c] = [start(), start()];
    const fit = () => x.mul(w).add(c).sub(y).square().mean();
    for (let i = 0; i < 300; i++) {
      const [dw, dc] = grad(fit(), [w, c]);
      w.assign(w.sub(dw.mul(0.1)));
      c.assign(c.sub(dc.mul(0.1)));
      if (i % 50 === 0) await s.realize(w, c);
    }
    assertClose([...await read(w), ...await read(c)], [2, 1], { rtol: 1e-3 });
  }
});

test("a history that leads to a computed tensor is kept while that is there", async () => {
  const scope = () => s.tensor([1, 2]).mul(2);
  const a = scope();
  const total = a.mul(3).sum();
  await a.realize();
  await total.realize();
  prune();
  assert.deepEqual(await read(grad(total, a)), [3, 3]);
});

onEachDevice("equal values are computed once", async (device) => {
  const before = device.stats().dispatches;
  const x = s.tensor([1, 2, 3], { device });
  const norm = () => x.sub(x.mean()).div(x.variance().add(1e-5).sqrt());
  await norm().add(norm()).mul(norm()).realize();
  await device.sync();
  const thrice = device.stats().dispatches - before;
  await norm().realize();
  await device.sync();
  assert.equal(thrice, device.stats().dispatches - before - thrice);
});

/** A program of smooth ops on tensors [3], in which whole expressions come twice and more. */
interface Step {
  readonly op: "add" | "mul" | "sub" | "sin" | "tanh" | "reshape" | "sum" | "again" | "one";
  readonly a: number;
  readonly b: number;
}

const steps = fc.array(
  fc.record({
    op: fc.constantFrom<Step["op"]>(
      "add",
      "mul",
      "sub",
      "sin",
      "tanh",
      "reshape",
      "sum",
      "again",
      "again",
      "again",
      "one",
    ),
    a: fc.nat(20),
    b: fc.nat(20),
  }),
  { minLength: 3, maxLength: 14 },
);

/** All tensors of a program, in order; the last one depends on all that have no other reader. */
function run(program: readonly Step[], device: Device): Tensor[] {
  const made: { tensor: Tensor; again: () => Tensor }[] = [];
  const keep = (make: () => Tensor) => made.push({ tensor: make(), again: make });
  for (const at of [0.3, -0.7]) keep(() => s.tensor([at, at + 0.1, 0.2 - at], { device }));
  for (const { op, a, b } of program) {
    const [x, y] = [made[a % made.length]!, made[b % made.length]!];
    switch (op) {
      case "again":
        // The same expression as one that is there: another tensor of equal value.
        keep(x.again);
        break;
      case "one":
        keep(() => s.ones([3]));
        break;
      case "add":
      case "mul":
      case "sub":
        keep(() => x.tensor[op](y.tensor));
        break;
      case "sum":
        keep(() => x.tensor.mean().broadcastTo([3]));
        break;
      case "reshape":
        keep(() => x.tensor.reshape([3]));
        break;
      default:
        keep(() => x.tensor[op]());
    }
  }
  const all = made.map(({ tensor }) => tensor);
  return [...all, all.map((x, i) => x.mul(Math.cos(i)).sin().sum()).reduce((a, b) => a.add(b))];
}

/** d loss / d node by central differences in float64, of the graph in which that node alone is an input. */
function differences(loss: Node, of: Node): number[] {
  const given = (leaf: Node) => [...(valueOf(leaf)!.attrs.storage as unknown as { host: Float32Array }).host];
  const leaves = new Map(toposort([loss]).filter((node) => node.op === "storage").map((leaf) => [leaf, given(leaf)]));
  const value = interpret([of], leaves)[0]!;
  const free = input(of.shape, "f32");
  const now = new Map<Node, Node>([[of, free]]);
  for (const node of toposort([loss])) {
    if (!now.has(node)) {
      now.set(
        node,
        withSources(node, node.src.map((source) => now.get(source)!)),
      );
    }
  }
  const at = (i: number, h: number) => {
    const moved = Float64Array.from(value, (x, k) => k === i ? x + h : x);
    return interpret([now.get(loss)!], new Map<Node, ArrayLike<number>>([...leaves, [free, moved]]))[0]![0]!;
  };
  return Array.from(value, (_, i) => (at(i, 1e-5) - at(i, -1e-5)) / 2e-5);
}

onEachDevice("random programs with repeated expressions: the gradient by every tensor of them", async (device) => {
  await fc.assert(
    fc.asyncProperty(steps, fc.constantFrom("pending", "realized", "compiled"), async (program, when) => {
      const tensors = run(program, device);
      const loss = tensors.pop()!;
      // Before anything is computed, as the graph shows then how all of it came about.
      const wanted = tensors.map((x) => differences(loss.node, x.node));
      if (when === "realized") await s.realize(...tensors, loss);
      const gradients = when !== "compiled" ? grad(loss, tensors) : await compile(() => {
        const again = run(program, device);
        return grad(again.pop()!, again);
      })();
      for (let i = 0; i < tensors.length; i++) {
        assertClose(await read(gradients[i]!), wanted[i]!, { rtol: 1e-3, atol: 1e-4, message: `tensor ${i}, ${when}` });
      }
      // What is left pending would be due some programs later.
      await s.realize(...tensors, loss);
    }),
    { numRuns: device.kind === "cpu" ? 100 : 4, includeErrorInReport: true },
  );
});

test("the builder makes a node for each call", () => {
  const x = input([2], "f32");
  assert.notEqual(elementwise("exp", x), elementwise("exp", x));
});

/** Programs in strict TypeScript, as people write them: that they compile, without a cast, is the test, and that they run. */
import {
  arange,
  compile,
  concat,
  type Device,
  type DType,
  grad,
  nn,
  optim,
  random,
  stack,
  Tensor,
  tensor,
  valueAndGrad,
  where,
  zeros,
} from "../../src/index.ts";

/** Linear regression by hand: the loss is a number, the weights are rows of numbers. */
export async function regression(device: Device): Promise<{ losses: number[]; weights: number[][] }> {
  random.seed(1);
  const x = random.normal([64, 2]).to(device);
  const y = x.matmul(tensor([[2], [-3]])).add(0.5);
  let w = zeros([2, 1], { device });
  let b = zeros([1], { device });
  const losses: number[] = [];
  for (let step = 0; step < 60; step++) {
    const loss = x.matmul(w).add(b).sub(y).square().mean();
    const [dw, db] = grad(loss, [w, b] as const);
    w = w.sub(dw.mul(0.1));
    b = b.sub(db.mul(0.1));
    losses.push(await loss.item());
  }
  return { losses, weights: await w.array() };
}

/** A model of one's own, with functions of any Tensor, trained in a compiled step. */
class Cnn extends nn.Module {
  readonly conv = nn.conv2d(1, 4, { kernel: 3, padding: "same" });
  readonly norm = nn.layerNorm(4);
  readonly act = nn.relu();
  readonly drop = nn.dropout(0.1);
  readonly rest = [nn.linear(4 * 4 * 4, 16), nn.gelu(), nn.dropout(0.1)];
  readonly head = nn.sequential(nn.linear(16, 16), nn.relu(), nn.linear(16, 3));

  override forward(x: Tensor): Tensor<"f32"> {
    let h = this.conv.forward(x);
    h = this.act.forward(this.norm.forward(h)).maxPool2d({ size: 2 });
    h = this.drop.forward(h).flatten({ start: 1 });
    for (const layer of this.rest) h = layer.forward(h);
    return this.head.forward(h);
  }
}

export async function classifier(
  device: Device,
): Promise<{ first: number; last: number; accuracy: number; confusion: number[][]; wrong: boolean[] }> {
  random.seed(2);
  const labels = random.integers([48], { high: 3 }).to(device);
  const images = labels.oneHot(3).reshape([48, 3, 1]).tile([1, 1, 21]).reshape([48, 63]).pad([[0, 0], [0, 1]]).reshape([
    48,
    8,
    8,
    1,
  ])
    .add(random.uniform([48, 8, 8, 1], { low: 0, high: 0.2 }));
  const model = new Cnn().to(device);
  const optimizer = optim.adam({ learningRate: 0.01 }).bind(model.parameters());
  const step = compile((x: Tensor, y: Tensor<"i32">) => {
    const logits = model.forward(x);
    const loss = nn.crossEntropy(logits, y).mean;
    optimizer.step(grad(loss, model.parameters()));
    return { loss, right: logits.argmax({ axis: -1 }).equal(y).cast("f32").mean() };
  });
  const first = await (await step(images, labels)).loss.item();
  let last = first;
  for (let i = 0; i < 30; i++) last = await (await step(images, labels)).loss.item();
  const logits = model.eval().forward(images);
  const predicted = logits.argmax({ axis: -1 });
  const confusion = labels.oneHot(3).transpose().matmul(predicted.oneHot(3));
  return {
    first,
    last,
    accuracy: await nn.accuracy(logits, labels).mean.item(),
    confusion: await confusion.array(),
    wrong: await predicted.notEqual(labels).array<boolean[]>(),
  };
}

/** A function of any tensors: what it gives is one of any dtype. */
function twice(x: Tensor): Tensor {
  return x.add(x);
}
/** One that keeps the dtype, and says so. */
function reversed<D extends DType>(x: Tensor<D>): Tensor<D> {
  return x.flip().slice({ start: 0 });
}
/** One for floats alone, and one that gives masks. */
function standardized(x: Tensor<"f32" | "f16">): Tensor<"f32"> {
  return x.sub(x.mean()).div(x.std().add(1e-6));
}
const outside = (x: Tensor, limit: number) => x.less(-limit).or(x.greater(limit));

export async function functions(): Promise<
  { doubled: number | boolean; backwards: Int32Array; many: boolean; table: Map<string, Tensor> }
> {
  const ids = tensor([3, 1, 2], { dtype: "i32" });
  const doubled = twice(ids);
  const backwards = reversed(ids.mul(2).add(1));
  let carried: Tensor = zeros([3]);
  for (const x of [ids, doubled, standardized(ids.cast("f16"))]) carried = twice(carried.add(x));
  const masked = where(outside(carried, 2), 0, carried);
  const table = new Map<string, Tensor>([["ids", ids], ["masked", masked], ["mask", outside(ids, 1)]]);
  const all: Tensor[] = [ids, doubled, masked, arange(3)];
  const tree: { a: Tensor; b: Tensor[] } = { a: ids, b: [...all, ids.isNaN()] };
  table.set("last", tree.b.at(-1) ?? ids);
  return {
    doubled: await concat([...all, stack(all).max({ axis: 0 })]).sum().cast("bool").item(),
    backwards: await backwards.data(),
    many: await outside(carried, 2).any().item(),
    table,
  };
}

/** A batch as an interface, which has no index signature. */
interface Sensors {
  readonly readings: Tensor;
  readonly target: { readonly level: Tensor };
  readonly weights?: Tensor;
}

/** A trainer whose functions take an interface. */
export async function interfaces(device: Device): Promise<number> {
  const trainer = nn.trainer(nn.linear(2, 1), {
    forward: (model, batch: Sensors) => model.forward(batch.readings),
    loss: (output, { target, weights }: Sensors) => nn.mse(output, target.level, { weights }),
    optimizer: optim.sgd({ learningRate: 0.1 }),
    devices: [device],
  });
  return (await trainer.step({ readings: tensor([[1, 2]]), target: { level: tensor([[1]]) } })).step;
}

/** A training loop with a learning rate, state and statistics of one's own. */
export async function loop(): Promise<{ best: number; history: Float32Array; steps: number }> {
  random.seed(3);
  const parameters = { w: random.normal([4, 1]).mul(0.1), b: zeros([1]) };
  const velocity = { w: zeros([4, 1]), b: zeros([1]) };
  const count = zeros([], { dtype: "i32" });
  const lossOf = valueAndGrad(({ w, b }: typeof parameters, x: Tensor, y: Tensor<"bool">, weights?: Tensor) =>
    nn.binaryCrossEntropy(x.matmul(w).add(b).squeeze(-1), y, weights === undefined ? {} : { weights }).mean
  );
  const step = compile((x: Tensor<"f32">, y: Tensor<"bool">, rate: number) => {
    const [loss, gradient] = lossOf(parameters, x, y);
    for (const name of ["w", "b"] as const) {
      velocity[name].assign(velocity[name].mul(0.9).add(gradient[name]));
      parameters[name].assign(parameters[name].sub(velocity[name].mul(rate)));
    }
    count.assign(count.add(1));
    return loss;
  });
  const x = random.normal([32, 4]);
  const y = x.sum({ axis: 1 }).greater(0);
  const losses: Tensor<"f32">[] = [];
  let best = Infinity;
  for (let i = 0; i < 20; i++) {
    const loss = await step(x, y, i < 10 ? 0.1 : 0.01);
    losses.push(loss);
    best = Math.min(best, await loss.item());
  }
  return { best, history: await stack(losses).data(), steps: await count.item() };
}

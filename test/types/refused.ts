/** What must not compile, each with the reason. A line that did would make its `@ts-expect-error` an error. None of it is run. */
import {
  arange,
  compile,
  concat,
  type DType,
  type HostArray,
  nn,
  optim,
  Tensor,
  tensor,
  where,
  zeros,
} from "../../src/index.ts";

export async function refused(wide: Tensor, dtype: DType): Promise<void> {
  const x = tensor([[1, 2], [3, 4]]);
  const ids = tensor([1, 2], { dtype: "i32" });
  const mask = x.greater(1);

  // @ts-expect-error numbers are f32 where no dtype is given, whatever they are assigned to
  const a: Tensor<"i32"> = tensor([1, 2]);
  // @ts-expect-error and so are zeros
  const b: Tensor<"i32"> = zeros([2]);
  // @ts-expect-error a Tensor of any dtype may be one of another
  const c: Tensor<"f32"> = wide;
  // @ts-expect-error the dtype that is given is one of any
  const d: Tensor<"f32"> = zeros([2], { dtype });
  // @ts-expect-error there is no f64
  const e = zeros([2], { dtype: "f64" });
  // @ts-expect-error a comparison gives a mask
  const f: Tensor<"f32"> = x.less(2);
  // @ts-expect-error positions are i32
  const g: Float32Array = await x.argmax().data();
  // @ts-expect-error integers divided are f32
  const h: Tensor<"i32"> = ids.div(2);
  // @ts-expect-error a fraction makes f32 of integers
  const i: Tensor<"i32"> = ids.mul(0.5);
  // @ts-expect-error and a number may be one
  const j: Tensor<"i32"> = ids.mul(Number("2"));
  // @ts-expect-error f32 and i32 meet in f32
  const k: Tensor<"i32"> = ids.add(x);
  // @ts-expect-error masks are summed as i32
  const l: Tensor<"bool"> = mask.sum();
  // @ts-expect-error the data of a mask are bytes
  const m: Float32Array = await mask.data();
  // @ts-expect-error of any dtype, the data are of any kind
  const n: Float32Array = await wide.data();
  // @ts-expect-error the element of a mask is a boolean
  const o: number = await mask.any().item();
  // @ts-expect-error of any dtype, it may be one
  const p: number = await wide.item();
  // @ts-expect-error the elements of an f32 are numbers
  const q: boolean[][] = await x.array();
  // @ts-expect-error that of a mask are booleans
  const r = await mask.array<number[][]>();
  // @ts-expect-error how deep it is, is to be said
  const s = (await x.array())[0];
  // @ts-expect-error a text is no operand
  x.add("1");
  // @ts-expect-error nor is a list
  x.add([1, 2]);
  // @ts-expect-error nor null
  x.add(null);
  // @ts-expect-error matrices are multiplied by tensors
  x.matmul(2);
  // @ts-expect-error options are named
  x.sum(1);
  // @ts-expect-error and known: axis
  x.sum({ dim: 1 });
  // @ts-expect-error there is no bound of that name
  x.clamp({ min: 0, maximum: 1 });
  // @ts-expect-error nor an option of that name
  zeros([2], { dtype: "i32", on: "gpu" });
  // @ts-expect-error data are numbers or booleans
  tensor([["1"]]);
  // @ts-expect-error or typed arrays, without others
  tensor([new Float32Array(2), [1, 2]]);
  // @ts-expect-error a list of tensors is joined, not of numbers
  concat([x, 1]);
  // @ts-expect-error f32 and i32 joined are f32
  const t: Tensor<"i32"> = concat([ids, x]);
  // @ts-expect-error what is chosen is f32 where one is
  const u: Tensor<"i32"> = where(mask, ids, 0.5);
  let v = x;
  // @ts-expect-error a variable of f32 takes no mask
  v = mask;
  // @ts-expect-error how many there are decides the dtype of a range
  const w: Tensor<"i32"> = arange(ids.size);

  const model = nn.sequential(nn.linear(2, 2), nn.relu());
  // @ts-expect-error a layer of linear and relu gives f32
  const y: Tensor<"f16"> = model.forward(x);
  // @ts-expect-error a loss is differentiated by its mean
  nn.mse(x, x).item();
  // @ts-expect-error what a loss is of are tensors
  nn.mse(x, [[1, 2], [3, 4]]);
  // @ts-expect-error a layer is a module
  nn.sequential(nn.linear(2, 2), (x: Tensor) => x.relu());
  const step = compile((x: Tensor<"f32">, labels: Tensor<"i32">) => nn.crossEntropy(x, labels).mean);
  // @ts-expect-error labels of f32 are none of i32
  await step(x, x);
  // @ts-expect-error a loss is a number
  const z: boolean = await (await step(x, ids)).item();
  // @ts-expect-error a trainer needs an optimizer
  nn.trainer(model, { loss: (output, batch) => nn.mse(output, batch.y) });
  const trainer = nn.trainer(model, { loss: (output, batch) => nn.mse(output, batch.y), optimizer: optim.adam() });
  // @ts-expect-error what it predicts is f32
  const scores: Int32Array = await (await trainer.predict(x)).data();

  const names: Record<string, HostArray> = { a: await wide.data() };
  void [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, y, z, scores, names];
}

/**
 * The types are true: of each op and each dtype, or pair of them, the dtype that comes out is the one that the type says. The
 * compiler holds the one side (what an op's type is, and what the tables here must hold), the tests the other. Programs that
 * must compile, and such as must not, are in types/.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as s from "../src/index.ts";
import type {
  Computed,
  DType,
  Extreme,
  HostArray,
  Item,
  Magnitude,
  Meet,
  MeetAll,
  MeetOperands,
  Power,
  Product,
  Promote,
  Sum,
} from "../src/index.ts";
import { computed, dtypeNames, dtypes, promote } from "../src/graph/dtype.ts";
import { assertClose, onEachDevice } from "./harness.ts";
import * as programs from "./types/programs.ts";

type Tensor<D extends DType = DType> = s.Tensor<D>;

/** Whether two types are one, and not only assignable to each other. */
type Same<X, Y> = (<T>() => T extends X ? 1 : 2) extends (<T>() => T extends Y ? 1 : 2) ? true : false;

/** The members of a union, none left out. */
type Members<U extends string> = { readonly [K in U]: true };

const [cpu] = await s.devices({ kind: "cpu", virtual: 1 }) as [s.Device];

const all: { readonly [D in DType]: Tensor<D> } = {
  f32: s.tensor([[1, 2], [0, 3]], { device: cpu }),
  f16: s.tensor([[1, 2], [0, 3]], { dtype: "f16", device: cpu }),
  i32: s.tensor([[1, 2], [0, 3]], { dtype: "i32", device: cpu }),
  u32: s.tensor([[1, 2], [0, 3]], { dtype: "u32", device: cpu }),
  bool: s.tensor([[true, true], [false, true]], { device: cpu }),
};

const promoted: { readonly [A in DType]: { readonly [B in DType]: Promote<A, B> } } = {
  f32: { f32: "f32", f16: "f32", i32: "f32", u32: "f32", bool: "f32" },
  f16: { f32: "f32", f16: "f16", i32: "f32", u32: "f32", bool: "f16" },
  i32: { f32: "f32", f16: "f32", i32: "i32", u32: "i32", bool: "i32" },
  u32: { f32: "f32", f16: "f32", i32: "i32", u32: "u32", bool: "u32" },
  bool: { f32: "f32", f16: "f16", i32: "i32", u32: "u32", bool: "bool" },
};
const computations: { readonly [D in DType]: Computed<D> } = {
  f32: "f32",
  f16: "f32",
  i32: "i32",
  u32: "u32",
  bool: "i32",
};
const magnitudes: { readonly [D in DType]: Magnitude<D> } = {
  f32: "f32",
  f16: "f32",
  i32: "i32",
  u32: "u32",
  bool: "bool",
};

test("the tables of types are those of the program", () => {
  for (const a of dtypeNames) {
    assert.equal(computations[a], computed(a), a);
    for (const b of dtypeNames) assert.equal(promoted[a][b], promote(a, b), `${a} and ${b}`);
  }
});

/** What an op says that it gives, and what it gives then. */
const rules = {
  same: (d: DType): DType => d,
  computed: (d: DType): DType => computations[d],
  magnitude: (d: DType): DType => magnitudes[d],
  f32: (): DType => "f32",
  i32: (): DType => "i32",
  bool: (): DType => "bool",
};

interface Unary {
  same: <D extends DType>(x: Tensor<D>) => Tensor<D>;
  computed: <D extends DType>(x: Tensor<D>) => Tensor<Computed<D>>;
  magnitude: <D extends DType>(x: Tensor<D>) => Tensor<Magnitude<D>>;
  f32: <D extends DType>(x: Tensor<D>) => Tensor<"f32">;
  i32: <D extends DType>(x: Tensor<D>) => Tensor<"i32">;
  bool: <D extends DType>(x: Tensor<D>) => Tensor<"bool">;
}

/** Methods that were tried, so that none is forgotten. */
const tried = new Set<string>();

/** Functions of one tensor, each of exactly the type of a rule. */
function unary<R extends keyof Unary, F extends Record<string, unknown>>(
  rule: R,
  functions: F & { readonly [K in keyof F]: Same<F[K], Unary[R]> extends true ? unknown : Unary[R] },
): void {
  for (const name of Object.keys(functions)) tried.add(name.split(" ")[0]!);
  test(`what gives ${rule} says so`, () => {
    for (const [name, f] of Object.entries(functions) as [string, Unary["f32"]][]) {
      for (const d of dtypeNames) assert.equal(f(all[d]).dtype, rules[rule](d), `${name} of ${d}`);
    }
  });
}

unary("same", {
  reshape: <D extends DType>(x: Tensor<D>) => x.reshape([4]),
  "reshape by lengths": <D extends DType>(x: Tensor<D>) => x.reshape(4, 1),
  flatten: <D extends DType>(x: Tensor<D>) => x.flatten(),
  transpose: <D extends DType>(x: Tensor<D>) => x.transpose(),
  "transpose of two": <D extends DType>(x: Tensor<D>) => x.transpose(0, 1),
  permute: <D extends DType>(x: Tensor<D>) => x.permute([1, 0]),
  broadcastTo: <D extends DType>(x: Tensor<D>) => x.broadcastTo([3, 2, 2]),
  expand: <D extends DType>(x: Tensor<D>) => x.expand([3, 2, 2]),
  squeeze: <D extends DType>(x: Tensor<D>) => x.squeeze(),
  unsqueeze: <D extends DType>(x: Tensor<D>) => x.unsqueeze(0),
  flip: <D extends DType>(x: Tensor<D>) => x.flip(),
  slice: <D extends DType>(x: Tensor<D>) => x.slice({ start: 1 }),
  at: <D extends DType>(x: Tensor<D>) => x.at(0),
  take: <D extends DType>(x: Tensor<D>) => x.take([0, 0]),
  "take by a tensor": <D extends DType>(x: Tensor<D>) => x.take(all.i32),
  gather: <D extends DType>(x: Tensor<D>) => x.gather(all.u32, { axis: 0 }),
  windows: <D extends DType>(x: Tensor<D>) => x.windows({ axis: 0, length: 2 }),
  pad: <D extends DType>(x: Tensor<D>) => x.pad(1, { value: 2.5 }),
  split: <D extends DType>(x: Tensor<D>) => x.split(2)[0]!,
  repeat: <D extends DType>(x: Tensor<D>) => x.repeat(2),
  tile: <D extends DType>(x: Tensor<D>) => x.tile([2, 1]),
  sort: <D extends DType>(x: Tensor<D>) => x.sort(),
  to: <D extends DType>(x: Tensor<D>) => x.to(cpu),
  detach: <D extends DType>(x: Tensor<D>) => x.detach(),
  stopGradient: <D extends DType>(x: Tensor<D>) => x.stopGradient(),
  contiguous: <D extends DType>(x: Tensor<D>) => x.contiguous(),
});
unary("computed", {
  neg: <D extends DType>(x: Tensor<D>) => x.neg(),
  sign: <D extends DType>(x: Tensor<D>) => x.sign(),
  square: <D extends DType>(x: Tensor<D>) => x.square(),
  relu: <D extends DType>(x: Tensor<D>) => x.relu(),
  sum: <D extends DType>(x: Tensor<D>) => x.sum(),
  "sum of an axis": <D extends DType>(x: Tensor<D>) => x.sum({ axis: 0, keepDims: true }),
  prod: <D extends DType>(x: Tensor<D>) => x.prod(),
  max: <D extends DType>(x: Tensor<D>) => x.max(),
  min: <D extends DType>(x: Tensor<D>) => x.min(),
  cumsum: <D extends DType>(x: Tensor<D>) => x.cumsum(),
  cumprod: <D extends DType>(x: Tensor<D>) => x.cumprod(),
  maxPool2d: <D extends DType>(x: Tensor<D>) => x.reshape([1, 2, 2, 1]).maxPool2d({ size: 2 }),
  "pow by 2": <D extends DType>(x: Tensor<D>) => x.pow(2),
  "pow by 0": <D extends DType>(x: Tensor<D>) => x.pow(0),
  "pow by 8": <D extends DType>(x: Tensor<D>) => x.pow(8),
});
unary("magnitude", {
  abs: <D extends DType>(x: Tensor<D>) => x.abs(),
  floor: <D extends DType>(x: Tensor<D>) => x.floor(),
  ceil: <D extends DType>(x: Tensor<D>) => x.ceil(),
  trunc: <D extends DType>(x: Tensor<D>) => x.trunc(),
  round: <D extends DType>(x: Tensor<D>) => x.round(),
});
unary("f32", {
  div: <D extends DType>(x: Tensor<D>) => x.div(2),
  "div by a boolean": <D extends DType>(x: Tensor<D>) => x.div(true),
  "pow by 9": <D extends DType>(x: Tensor<D>) => x.pow(9),
  "pow by -1": <D extends DType>(x: Tensor<D>) => x.pow(-1),
  "pow by 0.5": <D extends DType>(x: Tensor<D>) => x.pow(0.5),
  "pow by a boolean": <D extends DType>(x: Tensor<D>) => x.pow(true),
  "pow by a tensor": <D extends DType>(x: Tensor<D>) => x.pow(all.bool),
  "atan2 of a number": <D extends DType>(x: Tensor<D>) => x.atan2(1),
  sqrt: <D extends DType>(x: Tensor<D>) => x.sqrt(),
  cbrt: <D extends DType>(x: Tensor<D>) => x.cbrt(),
  rsqrt: <D extends DType>(x: Tensor<D>) => x.rsqrt(),
  reciprocal: <D extends DType>(x: Tensor<D>) => x.reciprocal(),
  exp: <D extends DType>(x: Tensor<D>) => x.exp(),
  expm1: <D extends DType>(x: Tensor<D>) => x.expm1(),
  log: <D extends DType>(x: Tensor<D>) => x.log(),
  log1p: <D extends DType>(x: Tensor<D>) => x.log1p(),
  sin: <D extends DType>(x: Tensor<D>) => x.sin(),
  cos: <D extends DType>(x: Tensor<D>) => x.cos(),
  tan: <D extends DType>(x: Tensor<D>) => x.tan(),
  asin: <D extends DType>(x: Tensor<D>) => x.asin(),
  acos: <D extends DType>(x: Tensor<D>) => x.acos(),
  atan: <D extends DType>(x: Tensor<D>) => x.atan(),
  sinh: <D extends DType>(x: Tensor<D>) => x.sinh(),
  cosh: <D extends DType>(x: Tensor<D>) => x.cosh(),
  tanh: <D extends DType>(x: Tensor<D>) => x.tanh(),
  erf: <D extends DType>(x: Tensor<D>) => x.erf(),
  gelu: <D extends DType>(x: Tensor<D>) => x.gelu(),
  "gelu by tanh": <D extends DType>(x: Tensor<D>) => x.gelu({ approximate: "tanh" }),
  sigmoid: <D extends DType>(x: Tensor<D>) => x.sigmoid(),
  silu: <D extends DType>(x: Tensor<D>) => x.silu(),
  softplus: <D extends DType>(x: Tensor<D>) => x.softplus(),
  mean: <D extends DType>(x: Tensor<D>) => x.mean(),
  "mean over nothing": <D extends DType>(x: Tensor<D>) => x.slice({ end: 0 }).mean(),
  variance: <D extends DType>(x: Tensor<D>) => x.variance(),
  std: <D extends DType>(x: Tensor<D>) => x.std(),
  norm: <D extends DType>(x: Tensor<D>) => x.norm(),
  "norm 1": <D extends DType>(x: Tensor<D>) => x.norm({ ord: 1 }),
  "norm Infinity": <D extends DType>(x: Tensor<D>) => x.norm({ ord: Infinity }),
  logSumExp: <D extends DType>(x: Tensor<D>) => x.logSumExp(),
  softmax: <D extends DType>(x: Tensor<D>) => x.softmax(),
  logSoftmax: <D extends DType>(x: Tensor<D>) => x.logSoftmax(),
  avgPool2d: <D extends DType>(x: Tensor<D>) => x.reshape([1, 2, 2, 1]).avgPool2d({ size: 2 }),
  scaledDotProductAttention: <D extends DType>(x: Tensor<D>) => x.scaledDotProductAttention(x, x),
  "scaledDotProductAttention with a mask": <D extends DType>(x: Tensor<D>) =>
    x.scaledDotProductAttention(x, x, { mask: all.bool }),
  "scaledDotProductAttention online": <D extends DType>(x: Tensor<D>) =>
    x.scaledDotProductAttention(x, x, { scores: "online" }),
  "scaledDotProductAttention of other weights": <D extends DType>(x: Tensor<D>) =>
    x.scaledDotProductAttention(x, x, { onWeights: (weights) => weights.cast("i32") }),
  "random.uniformLike": <D extends DType>(x: Tensor<D>) => s.random.uniformLike(x),
  "random.normalLike": <D extends DType>(x: Tensor<D>) => s.random.normalLike(x),
});
unary("i32", {
  argmax: <D extends DType>(x: Tensor<D>) => x.argmax(),
  argmin: <D extends DType>(x: Tensor<D>) => x.argmin({ axis: 1 }),
  argsort: <D extends DType>(x: Tensor<D>) => x.argsort({ descending: true }),
  "cast to i32": <D extends DType>(x: Tensor<D>) => x.cast("i32"),
});
unary("bool", {
  not: <D extends DType>(x: Tensor<D>) => x.not(),
  isNaN: <D extends DType>(x: Tensor<D>) => x.isNaN(),
  isFinite: <D extends DType>(x: Tensor<D>) => x.isFinite(),
  all: <D extends DType>(x: Tensor<D>) => x.all(),
  any: <D extends DType>(x: Tensor<D>) => x.any(),
  "less than a number": <D extends DType>(x: Tensor<D>) => x.less(0.5),
  "greater than a large number": <D extends DType>(x: Tensor<D>) => x.greater(1e20),
  "and a number": <D extends DType>(x: Tensor<D>) => x.and(2),
  "random.bernoulliLike": <D extends DType>(x: Tensor<D>) => s.random.bernoulliLike(x, 0.5),
});

const meeting = (a: DType, b: DType): DType => promoted[a][b];
const calculating = (a: DType, b: DType): DType => computations[promoted[a][b]];
const pairs = {
  where: meeting,
  concat: meeting,
  product: calculating,
  sum: calculating,
  extreme: calculating,
  einsum: calculating,
  f32: (): DType => "f32",
  bool: (): DType => "bool",
};

interface Binary {
  where: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => Tensor<MeetOperands<Tensor<A>, Tensor<B>>>;
  concat: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => Tensor<MeetAll<[Tensor<A>, Tensor<B>]>>;
  product: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => Tensor<Product<A, B>>;
  sum: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => Tensor<Sum<A, Tensor<B>>>;
  extreme: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => Tensor<Extreme<A, Tensor<B>>>;
  einsum: <A extends DType, B extends DType>(
    x: Tensor<A>,
    y: Tensor<B>,
  ) => Tensor<Computed<MeetAll<[Tensor<A>, Tensor<B>]>>>;
  f32: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => Tensor<"f32">;
  bool: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => Tensor<"bool">;
}

/** Types that mean the same of a pair are one type for each of them. */
type Agreeing = {
  [A in DType]: {
    [B in DType]: Same<
      [Promote<A, B>, Product<A, B>],
      [
        MeetOperands<Tensor<A>, Tensor<B>> & MeetAll<[Tensor<A>, Tensor<B>]> & Meet<A, Tensor<B>>,
        Sum<A, Tensor<B>> & Extreme<A, Tensor<B>>,
      ]
    >;
  }[DType];
}[DType];
true satisfies [Agreeing] extends [true] ? true : false;

function binary<R extends keyof Binary, F extends Record<string, unknown>>(
  rule: R,
  functions: F & { readonly [K in keyof F]: Same<F[K], Binary[R]> extends true ? unknown : Binary[R] },
): void {
  for (const name of Object.keys(functions)) tried.add(name.split(" ")[0]!);
  test(`what gives ${rule} of two says so`, () => {
    for (const [name, f] of Object.entries(functions) as [string, Binary["f32"]][]) {
      for (const a of dtypeNames) {
        for (const b of dtypeNames) {
          assert.equal(f(all[a], all[b]).dtype, pairs[rule](a, b), `${name} of ${a} and ${b}`);
        }
      }
    }
  });
}

binary("sum", {
  add: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.add(y),
  sub: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.sub(y),
  mul: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.mul(y),
  floorDiv: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.floorDiv(y),
  mod: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.mod(y),
});
binary("extreme", {
  maximum: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.maximum(y),
  minimum: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.minimum(y),
  clamp: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.clamp({ min: y }),
  "clamp twice": <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.clamp({ min: y, max: y }),
});
binary("product", {
  matmul: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.matmul(y),
  dot: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.dot(y),
  conv1d: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.unsqueeze(0).conv1d(y.unsqueeze(0)),
  conv2d: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) =>
    x.reshape([1, 1, 2, 2]).conv2d(y.reshape([1, 1, 2, 2])),
  convTranspose2d: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) =>
    x.reshape([1, 1, 2, 2]).convTranspose2d(y.reshape([1, 1, 2, 2])),
  scatterAdd: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.scatterAdd(all.i32, y, { axis: 0 }),
  scatterMax: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.scatterMax(all.i32, y, { axis: 0 }),
});
binary("einsum", {
  "einsum (a function)": <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => s.einsum("ij,jk->ik", x, y),
});
binary("where", {
  where: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => all.bool.where(x, y),
  "where (a function)": <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => s.where(true, x, y),
});
binary("concat", {
  "concat (a function)": <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => s.concat([x, y]),
  "stack (a function)": <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => s.stack([x, y], { axis: 1 }),
});
binary("f32", {
  div: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.div(y),
  pow: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.pow(y),
  atan2: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.atan2(y),
});
binary("bool", {
  less: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.less(y),
  lessEqual: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.lessEqual(y),
  greater: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.greater(y),
  greaterEqual: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.greaterEqual(y),
  equal: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.equal(y),
  notEqual: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.notEqual(y),
  and: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.and(y),
  or: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.or(y),
  xor: <A extends DType, B extends DType>(x: Tensor<A>, y: Tensor<B>) => x.xor(y),
});

/** What is tried of a tensor of D and numbers: each of `numbers` gives one of the dtypes, and all of them are given by some. */
function withNumbers(
  name: string,
  numbers: readonly number[],
  f: (x: Tensor, number: number) => Tensor,
  dtypes: Record<DType, Partial<Record<DType, true>>>,
): void {
  test(name, () => {
    for (const d of dtypeNames) {
      const given = new Set(numbers.map((number) => f(all[d], number).dtype));
      assert.deepEqual([...given].sort(), Object.keys(dtypes[d]).sort(), d);
    }
  });
}

type OfNumbers<N extends number> = { readonly [D in DType]: Members<Sum<D, N>> };
const add = (x: Tensor, number: number) => x.add(number);

withNumbers(
  "0 and 1 keep a dtype",
  [0, 1],
  add,
  {
    f32: { f32: true },
    f16: { f32: true },
    i32: { i32: true },
    u32: { u32: true },
    bool: { i32: true },
  } satisfies OfNumbers<0> & OfNumbers<1>,
);
withNumbers(
  "a short natural number keeps integers",
  [2, 999999999],
  add,
  {
    f32: { f32: true },
    f16: { f32: true },
    i32: { i32: true },
    u32: { u32: true },
    bool: { i32: true },
  } satisfies OfNumbers<2> & OfNumbers<999999999>,
);
withNumbers(
  "a short negative number keeps i32",
  [-1, -999999999],
  add,
  {
    f32: { f32: true },
    f16: { f32: true },
    i32: { i32: true },
    u32: { f32: true },
    bool: { i32: true },
  } satisfies OfNumbers<-1> & OfNumbers<-999999999>,
);
withNumbers(
  "a fraction makes f32",
  [0.5, -2.5, 1234567890.5],
  add,
  {
    f32: { f32: true },
    f16: { f32: true },
    i32: { f32: true },
    u32: { f32: true },
    bool: { f32: true },
  } satisfies OfNumbers<0.5> & OfNumbers<-2.5> & OfNumbers<1234567890.5>,
);
const any = [1, 3, 0.5, -1, 1e-7, 2147483648, 4294967295, 4294967296, 1e21, NaN, -Infinity];
withNumbers(
  "of any number it is not known",
  any,
  add,
  {
    f32: { f32: true },
    f16: { f32: true },
    i32: { i32: true, f32: true },
    u32: { u32: true, f32: true },
    bool: { i32: true, f32: true },
  } satisfies OfNumbers<number> & OfNumbers<2147483648> & OfNumbers<1e21> & OfNumbers<1e-7> & OfNumbers<3 | 0.5>,
);
withNumbers(
  "the larger of integers and a number may be either",
  any,
  (x, number) => x.maximum(number),
  {
    f32: { f32: true },
    f16: { f32: true },
    i32: { i32: true, f32: true },
    u32: { u32: true, f32: true },
    bool: { i32: true, f32: true },
  } satisfies { readonly [D in DType]: Members<Extreme<D, number>> },
);
withNumbers(
  "a bound that integers do not hold may leave them integers",
  [-0.5, 0.5],
  (x, number) => x.clamp({ max: 1e10, min: number }),
  {
    f32: { f32: true },
    f16: { f32: true },
    i32: { f32: true },
    u32: { u32: true, f32: true },
    bool: { f32: true },
  } satisfies { readonly [D in DType]: Partial<Members<Extreme<D, -0.5 | 1e10>>> },
);
withNumbers(
  "a power is that of multiplication or of floats",
  [2, 8, 9, -1, 0.5],
  (x, number) => x.pow(number),
  {
    f32: { f32: true },
    f16: { f32: true },
    i32: { i32: true, f32: true },
    u32: { u32: true, f32: true },
    bool: { i32: true, f32: true },
  } satisfies { readonly [D in DType]: Members<Power<D, number>> },
);
withNumbers(
  "where keeps what holds the number",
  any,
  (x, number) => all.bool.where(number, x),
  {
    f32: { f32: true },
    f16: { f16: true, f32: true },
    i32: { i32: true, f32: true },
    u32: { u32: true, f32: true },
    bool: { bool: true, i32: true, f32: true },
  } satisfies { readonly [D in DType]: Members<MeetOperands<number, Tensor<D>>> },
);

const { f32, f16, i32, u32, bool } = all;
const wide: Tensor = f32;
const dtype = "u32" as DType;
const number = 3 as number;
const several: Tensor<"u32">[] = [u32, u32];
const yes: true = true;

/** A tensor, and all dtypes that its type says it may have. */
function gives<D extends DType>(tensor: Tensor<D>, dtypes: Members<NoInfer<D>>): void {
  assert.ok(Object.hasOwn(dtypes, tensor.dtype), `${tensor.dtype}; its type says ${Object.keys(dtypes)}`);
}

const every = { f32: yes, f16: yes, i32: yes, u32: yes, bool: yes };
const numeric = { f32: yes, i32: yes, u32: yes };

test("what makes tensors says of what dtype", () => {
  gives(s.tensor(1), { f32: yes });
  gives(s.tensor([1, 2]), { f32: yes });
  gives(s.tensor([[[1]], [[2.5]]] as const), { f32: yes });
  gives(s.tensor([]), { f32: yes });
  gives(s.tensor([[], []]), { f32: yes });
  gives(s.tensor(true), { bool: yes });
  gives(s.tensor([[true, false]]), { bool: yes });
  gives(s.tensor([[true, false]] as s.NestedArray), { f32: yes, bool: yes });
  gives(s.tensor([true, 1] as (number | boolean)[], { dtype: "i32" }), { i32: yes });
  gives(s.tensor(new Float32Array(2)), { f32: yes });
  gives(s.tensor(new Float64Array(2)), { f32: yes });
  gives(s.tensor(new Int8Array(2)), { i32: yes });
  gives(s.tensor(new Int16Array(2)), { i32: yes });
  gives(s.tensor(new Int32Array(2)), { i32: yes });
  gives(s.tensor(new Uint8Array(2)), { i32: yes });
  gives(s.tensor(new Uint8ClampedArray(2)), { i32: yes });
  gives(s.tensor(new Uint16Array(2)), { i32: yes });
  gives(s.tensor(new Uint32Array(2), { shape: [2, 1] }), { u32: yes });
  gives(s.tensor(new Float32Array(2) as s.TypedArray), numeric);
  gives(s.tensor([1, 2], { dtype: "f16" }), { f16: yes });
  gives(s.tensor(new Int32Array(2), { dtype: "bool" }), { bool: yes });
  gives(s.tensor([1, 2], { dtype }), every);
  gives(s.tensor([1, 2], { dtype: undefined }), every);
  gives(s.tensor([1, 2], { dtype: "i32" } as s.TensorOptions), every);
  gives(s.zeros([2]), { f32: yes });
  gives(s.zeros(2, 3), { f32: yes });
  gives(s.zeros([2], { dtype: "bool" }), { bool: yes });
  gives(s.zeros([2], { device: cpu }), { f32: yes });
  gives(s.ones([2]), { f32: yes });
  gives(s.ones(2), { f32: yes });
  gives(s.ones([2], { dtype: "u32" }), { u32: yes });
  gives(s.full([2], 3), { f32: yes });
  gives(s.full([2], true), { bool: yes });
  gives(s.full([2], true as number | boolean), { f32: yes, bool: yes });
  gives(s.full([2], 3, { dtype: "f16" }), { f16: yes });
  gives(s.arange(5), { i32: yes });
  gives(s.arange(2.5), numeric);
  gives(s.arange(5, { start: -2, step: 3 }), { i32: yes });
  gives(s.arange(1, { step: 0.25 }), { f32: yes });
  gives(s.arange(5, { start: 0.5 }), { f32: yes });
  gives(s.arange(number), numeric);
  gives(s.arange(5, { start: number }), numeric);
  gives(s.arange(4294967295, { start: 4294967290 }), numeric);
  gives(s.arange(6e9, { start: -6e9, step: 6e9 }), numeric);
  gives(s.arange(number, { dtype: "u32" }), { u32: yes });
  gives(s.arange(3, { dtype: "f16" }), { f16: yes });
  gives(s.linspace(0, 1, 3), { f32: yes });
  gives(s.eye(2), { f32: yes });
  gives(s.eye(2, { columns: 3, dtype: "bool" }), { bool: yes });
  gives(s.oneHot(i32, 4), { f32: yes });
  gives(s.oneHot(i32, 4, { dtype: "u32" }), { u32: yes });
  gives(i32.oneHot(4), { f32: yes });
  gives(i32.oneHot(4, { dtype: "bool" }), { bool: yes });
  gives(s.random.bits([2]), { u32: yes });
  gives(s.random.uniform([2], { low: 1, high: 2 }), { f32: yes });
  gives(s.random.normal([2]), { f32: yes });
  gives(s.random.bernoulli([2], 0.5), { bool: yes });
  gives(s.random.integers([2], { high: 5 }), { i32: yes });
  gives(s.random.permutation(3), { i32: yes });
});

test("what converts, joins and looks at bits says of what dtype", () => {
  for (const from of dtypeNames) {
    gives(all[from].cast("f16"), { f16: yes });
    gives(all[from].cast("u32"), { u32: yes });
    gives(all[from].cast("bool"), { bool: yes });
    gives(all[from].cast(dtype), every);
  }
  gives(f32.bitcast("u32"), { u32: yes });
  gives(u32.bitcast("i32"), { i32: yes });
  gives(s.concat([i32, u32, bool]), { i32: yes });
  gives(s.concat([bool]), { bool: yes });
  gives(s.concat([f16, i32, u32] as Tensor<"f16" | "i32" | "u32">[]), { f32: yes, f16: yes, i32: yes, u32: yes });
  gives(s.concat([bool, ...several]), { bool: yes, u32: yes });
  gives(s.stack([f16, bool, f16]), { f16: yes });
  gives(s.stack([wide, f32]), { f32: yes });
  gives(s.einsum("ij->i", bool), { i32: yes });
  gives(s.einsum("ij,jk,kl->il", bool, u32, bool), { u32: yes });
  gives(i32.bitAnd(u32), { i32: yes });
  gives(u32.bitOr(bool), { u32: yes });
  gives(bool.bitXor(bool), { i32: yes });
  gives(bool.bitXor(true), { i32: yes });
  gives(u32.bitAnd(255), { u32: yes });
  gives(u32.bitAnd(number), { u32: yes });
  gives(bool.bitOr(number), { i32: yes });
  gives(i32.bitNot(), { i32: yes });
  gives(u32.bitNot(), { u32: yes });
  gives(u32.shiftLeft(2), { u32: yes });
  gives(i32.shiftRight(u32), { i32: yes });
  gives(s.where(bool, 1, 2), { f32: yes });
  gives(s.where(bool, true, 2), { f32: yes });
  gives(s.where(bool, true, false), { bool: yes });
  gives(s.where(bool, u32, -1), { f32: yes });
  gives(bool.where(1, u32), { u32: yes });
  gives(i32.assign(u32.cast("i32")), { i32: yes });
  gives(s.where(bool, number, f16 as Tensor<"f16" | "i32">), { f32: yes, f16: yes, i32: yes });
  gives(f32.add(i32 as Tensor<"i32"> | number), { f32: yes });
  gives(i32.add(u32 as Tensor<"u32"> | Tensor<"f32">), { i32: yes, f32: yes });
  gives(wide.add(i32), numeric);
  gives(wide.mean(), { f32: yes });
  gives(wide.reshape([4]), every);
  assert.throws(() => f32.bitAnd(1) satisfies Tensor<never>, s.DTypeError);
});

test("gradients have the dtypes of what they are of", () => {
  const x = s.tensor([1, 2], { device: cpu });
  const h = s.tensor([1, 2], { dtype: "f16", device: cpu });
  const f = ({ x, h }: { x: Tensor<"f32">; h: readonly [Tensor<"f16">] }) => x.mul(h[0]).sum();
  const tree = { x, h: [h] as const };
  const gradient = s.grad(f(tree), tree);
  gives(gradient.x, { f32: yes });
  gives(gradient.h[0], { f16: yes });
  gives(s.grad(x.sum(), x), { f32: yes });
  gives(s.grad(x.sum(), [x, h] as Tensor[])[0]!, every);
  const [value, gradients] = s.valueAndGrad(f)(tree);
  gives(value, { f32: yes });
  gives(gradients.h[0], { f16: yes });
  const [halves, [cotangent]] = s.vjp((x: [Tensor<"f16">]) => ({ y: x[0].mul(2).cast("f16") }), [h], { y: h });
  gives(halves.y, { f16: yes });
  gives(cotangent, { f16: yes });
  const [primal, tangent] = s.jvp((x: Tensor<"f32">) => [x.cast("f16")] as const, x, x);
  gives(primal[0], { f16: yes });
  gives(tangent[0], { f16: yes });
  gives(s.checkpoint((x: Tensor<"f32">) => x.cast("f16"))(x), { f16: yes });
  gives(s.mapTree(tree, (leaf) => leaf.greater(0)).h[0], { bool: yes });
});

test("compiled functions, shards and outputs of many devices have the types that functions and tensors have", async () => {
  const devices = await s.devices({ kind: "cpu", virtual: 2 });
  const step = s.compile((x: Tensor<"i32">, scale: number) => ({
    sum: x.sum(),
    scaled: x.mul(scale),
    even: x.mod(2).equal(0),
  }));
  const { sum, scaled, even } = await step(i32, 2.5);
  gives(sum, { i32: yes });
  gives(scaled, { i32: yes, f32: yes });
  gives(even, { bool: yes });
  const [first] = s.parallel.scatter({ i32, many: [bool] as const }, devices) as [
    { i32: Tensor<"i32">; many: [Tensor<"bool">] },
  ];
  gives(first.i32, { i32: yes });
  const shards = s.parallel.scatter({ i32, many: [bool] as const }, devices);
  gives(shards[0]!.many[0], { bool: yes });
  gives(s.parallel.gather(shards).i32, { i32: yes });
  gives(await s.parallel.reduce([f16, f16], { weights: [1, 2] }), { f16: yes });
  gives(await s.parallel.reduce([u32, u32], { op: "sum" }), { u32: yes });
  const run = s.parallel.replicate(
    (x: Tensor<"i32">) => ({ mean: s.parallel.mean(x.cast("f32")), top: x.argmax({ axis: 1 }), same: [x] as const }),
    devices,
  );
  const merged = await run(i32);
  gives(merged.mean, { f32: yes });
  gives(merged.top, { i32: yes });
  gives(merged.same[0], { i32: yes });
  gives(s.parallel.allReduce(i32), { i32: yes });
  gives(s.parallel.allReduce(f32, { op: "mean", count: s.tensor(2) }), { f32: yes });
  gives(s.parallel.allGather(u32), { u32: yes });
  gives(s.parallel.rowIndex(bool), { u32: yes });
});

test("layers, losses and what trains them say of what dtype", async () => {
  const { nn, optim } = s;
  const x = s.tensor([[1, 2]], { device: cpu });
  const h = x.cast("f16");
  for (const each of [x, h]) {
    gives(nn.linear(2, 3).forward(each), { f32: yes });
    gives(nn.layerNorm(2).forward(each), { f32: yes });
    gives(nn.conv2d(2, 3, { kernel: 1 }).forward(each.reshape([1, 1, 1, 2])), { f32: yes });
    gives(nn.multiHeadAttention(2, 1).forward(each), { f32: yes });
  }
  gives(nn.batchNorm(2).forward(x), { f32: yes });
  gives(nn.batchNorm(2).eval().forward(h), { f32: yes });
  gives(nn.embedding(4, 2).forward(i32), { f32: yes });
  gives(nn.relu().forward(x), { f32: yes });
  gives(nn.relu().forward(h), { f32: yes });
  gives(nn.relu().forward(i32), { i32: yes });
  gives(nn.flatten().forward(bool), { bool: yes });
  gives(nn.maxPool2d({ size: 1 }).forward(u32.reshape([1, 2, 2, 1])), { u32: yes });
  gives(nn.avgPool2d({ size: 1 }).forward(u32.reshape([1, 2, 2, 1])), { f32: yes });
  for (
    const activation of [nn.gelu(), nn.tanh(), nn.sigmoid(), nn.silu(), nn.softplus(), nn.softmax(), nn.logSoftmax()]
  ) {
    for (const d of dtypeNames) gives(activation.forward(all[d]), { f32: yes });
  }
  gives(nn.cast("f16").forward(i32), { f16: yes });
  gives(nn.lambda((x) => x.greater(0)).forward(i32), { bool: yes });
  gives(nn.dropout(0.5).forward(f32), { f32: yes });
  gives(nn.dropout(0.5).forward(f16), { f16: yes, f32: yes });
  gives(nn.dropout(0.5).eval().forward(f16), { f16: yes, f32: yes });
  gives(nn.dropout(0.5).forward(i32), { i32: yes, f32: yes });
  gives(nn.dropout(0.75).eval().forward(i32), { i32: yes, f32: yes });
  gives(nn.dropout(0.25).forward(bool), { i32: yes, f32: yes, bool: yes });
  gives(nn.dropout(0.25).eval().forward(bool), { i32: yes, f32: yes, bool: yes });
  gives(nn.sequential(nn.linear(2, 2), nn.relu(), nn.dropout(0.5)).forward(x), { f32: yes });
  gives(nn.sequential(nn.sequential(nn.linear(2, 2), nn.cast("f16")), nn.flatten()).forward(x), { f16: yes });
  gives(nn.sequential([nn.linear(2, 2), nn.cast("f16"), nn.flatten()]).forward(x), { f16: yes });
  gives(nn.sequential(nn.linear(2, 2), nn.cast("f16"), nn.relu()).forward(x), { f32: yes });
  gives(nn.sequential().forward(i32), every);
  gives(nn.sequential(nn.relu()).forward(bool), numeric);
  gives(nn.sequential(...[nn.relu(), nn.linear(2, 2)] as s.nn.Layer[]).forward(x), every);
  gives(nn.parameter(x), { f32: yes });
  gives(nn.buffer(i32), { i32: yes });
  const model = nn.sequential(nn.linear(2, 2), nn.relu());
  for (const parameter of model.parameters()) gives(parameter, { f32: yes });
  for (const parameter of Object.values(model.namedParameters())) gives(parameter, { f32: yes });
  const labels = s.tensor([1], { dtype: "i32", device: cpu });
  for (
    const loss of [
      nn.crossEntropy(h, labels),
      nn.mse(x, h),
      nn.binaryCrossEntropy(h, x),
      nn.loss({ sum: x.sum(), count: 2 }),
      nn.penalty(x.sum()).plus(nn.mse(x, x)),
    ]
  ) {
    gives(loss.mean, { f32: yes });
    for (const term of loss.terms) gives(term.count, { f32: yes });
  }
  gives(nn.mse(x, h).sum, { f32: yes });
  gives(nn.accuracy(h, labels).mean, { f32: yes });
  gives(nn.metric({ sum: x.sum(), count: s.ones([]) as Tensor }).sum, { f32: yes });
  const bound = optim.adam({ learningRate: 0.1 }).bind(model.parameters());
  for (const state of Object.values(bound.state)) gives(state, { f32: yes });
  const trainer = nn.trainer(model, {
    loss: (output, batch) => nn.mse(output, batch.y),
    optimizer: optim.sgd({ learningRate: 0.1 }),
    devices: [cpu],
  });
  gives(await trainer.predict(x), { f32: yes });
});

const arrays: { readonly [D in DType]: new (...numbers: number[]) => HostArray<D> } = {
  f32: Float32Array,
  f16: Float32Array,
  i32: Int32Array,
  u32: Uint32Array,
  bool: Uint8Array,
};
true satisfies Same<
  { [D in DType]: HostArray<D> },
  { f32: Float32Array; f16: Float32Array; i32: Int32Array; u32: Uint32Array; bool: Uint8Array }
>;
true satisfies Same<{ [D in DType]: Item<D> }, { f32: number; f16: number; i32: number; u32: number; bool: boolean }>;
true satisfies Same<HostArray, Float32Array | Int32Array | Uint32Array | Uint8Array>;

onEachDevice("what is read has the type that is said", async (device) => {
  for (const d of dtypeNames) {
    const x = s.tensor([1, 0], { dtype: d, device });
    assert.equal((await x.data()).constructor, arrays[d]);
    assert.equal(arrays[d], dtypes[d].array);
    const one: 1 | true = d === "bool" ? true : 1;
    assert.strictEqual(await x.at(0).item(), one);
    assert.deepEqual(await x.array(), d === "bool" ? [true, false] : [1, 0]);
    assert.strictEqual(await x.at(0).array(), one);
  }
  const words: Int32Array = await s.tensor([1], { dtype: "i32", device }).data();
  const mask: Uint8Array = await s.tensor([1], { device }).greater(0).data();
  const yes: boolean = await s.tensor([1], { device }).greater(0).all().item();
  const no: boolean[] = await s.tensor([1, 2], { device }).greater(1).array();
  const rows: number[][] = await s.tensor([[1, 2]], { device }).array();
  assert.deepEqual([words, mask, yes, no, rows], [Int32Array.of(1), Uint8Array.of(1), true, [false, true], [[1, 2]]]);
});

test("the programs that must compile run", async () => {
  const { losses, weights } = await programs.regression(cpu);
  assert.ok(losses.at(-1)! < losses[0]! / 100);
  assertClose(weights.flat(), [2, -3], { atol: 0.1 });
  const { first, last, accuracy, confusion, wrong } = await programs.classifier(cpu);
  assert.ok(last < first / 2, `${first} to ${last}`);
  assert.equal(confusion[0]![0]! + confusion[1]![1]! + confusion[2]![2]!, Math.round(48 * accuracy));
  assert.equal(wrong.filter((one) => !one).length, Math.round(48 * accuracy));
});

test("programs of functions and loops of one's own run", async () => {
  const { doubled, backwards, many, table } = await programs.functions();
  assert.deepEqual([doubled, backwards, many], [true, Int32Array.of(5, 3, 7), true]);
  assert.equal(table.get("mask")!.dtype, "bool");
  assert.equal(await programs.interfaces(cpu), 1);
  const { best, history, steps } = await programs.loop();
  assert.ok(best < history[0]!);
  assert.equal(steps, 20);
});

test("no method of Tensor is left out", () => {
  const byHand = [
    "cast",
    "bitcast",
    "bitAnd",
    "bitOr",
    "bitXor",
    "bitNot",
    "shiftLeft",
    "shiftRight",
    "assign",
    "oneHot",
    "data",
    "array",
    "item",
  ];
  const otherwise = [
    "constructor",
    "realize",
    "dispose",
    "toString",
    "toJSON",
    "aliasOf",
    "bind",
    "settle",
    "promise",
    ...byHand,
  ];
  const methods = Object.entries(Object.getOwnPropertyDescriptors(s.Tensor.prototype)).filter(([, { value }]) =>
    typeof value === "function"
  ).map(([name]) => name);
  assert.deepEqual(methods.filter((name) => !tried.has(name) && !otherwise.includes(name)), []);
});

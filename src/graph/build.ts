/** Constructors of nodes: each checks its operands and gives the node, or the operand itself where nothing would change. */
import { ArgumentError, DeviceError, DTypeError, ShapeError } from "../errors.ts";
import { type DType, requireDType, toElement } from "./dtype.ts";
import {
  leaf,
  makeNode,
  type Node,
  type NodeOf,
  type ReductionNode,
  type StorageToken,
  type StructuralName,
  type Windows,
} from "./node.ts";
import {
  elementwise as table,
  type ElementwiseName,
  type ElementwiseOp,
  isElementwise,
  isReduction,
  type ReductionName,
  reductions,
} from "./ops.ts";
import { checkShape, formatShape, sameShape, type Shape, size, withoutAxes } from "./shape.ts";
import { bytesOf } from "./words.ts";

/** An elementwise op of operands of equal shape and dtype (the condition of `where` is a bool). */
export function elementwise(op: ElementwiseName, ...src: Node[]): Node {
  const record: ElementwiseOp = table[op];
  const last = src[src.length - 1]!;
  if (src.length !== record.arity) {
    throw new ArgumentError(op, { got: `${src.length} operands`, need: `${record.arity}` });
  }
  const values = record.conditional ? src.slice(1) : src;
  if (record.conditional) requireDType(op, src[0]!.dtype, ["bool"]);
  for (const node of src) {
    if (!sameShape(node.shape, last.shape)) {
      throw new ShapeError(op, { got: src.map((n) => formatShape(n.shape)).join(" and "), need: "equal shapes" });
    }
  }
  for (const node of values) {
    requireDType(op, node.dtype, record.takes);
    if (node.dtype !== last.dtype) {
      throw new DTypeError(op, { got: values.map((n) => n.dtype).join(" and "), need: "equal dtypes" });
    }
  }
  return makeNode(op, src, {}, last.shape, record.gives === "same" ? last.dtype : record.gives, deviceOf(op, src));
}

/** A scalar constant; `value` is first made an element of `dtype`. */
export function constant(value: number, dtype: DType): Node {
  return makeNode("const", [], { value: toElement(dtype, value) }, [], dtype, undefined);
}

/** A constant of `shape`. */
export function full(shape: Shape, value: number, dtype: DType): Node {
  return broadcastTo(constant(value, dtype), shape);
}

/** The constant made last of each of some numbers: programs compute with few, again and again. */
const numbers = new Map<number, { readonly value: number; readonly node: Node }>();
const mostNumbers = 256;

/**
 * A constant of `shape` to compute with. Equal ones may be one node, which is then the source of several: nothing that can be
 * differentiated by, as a tensor, may show it.
 */
export function number(shape: Shape, value: number, dtype: DType): Node {
  const known = numbers.get(value);
  if (
    known !== undefined && Object.is(known.value, value) && known.node.dtype === dtype &&
    sameShape(known.node.shape, shape)
  ) {
    return known.node;
  }
  if (numbers.size >= mostNumbers) numbers.clear();
  const node = full(shape, value, dtype);
  numbers.set(value, { value, node });
  return node;
}

/** 0, 1, …, length - 1. */
export function iota(length: number, dtype: "i32" | "u32" | "f32" = "i32"): Node {
  checkShape("iota", [length]);
  return makeNode("iota", [], {}, [length], dtype, undefined);
}

let nextSlot = 0;
/** A new placeholder, equal to no other. */
export function input(shape: Shape, dtype: DType): Node {
  checkShape("input", shape);
  return makeNode("input", [], { slot: nextSlot++ }, shape, dtype, undefined);
}

/** The leaf of a storage, of which it shows all elements as `shape`. */
export function storage(
  token: StorageToken,
  shape: Shape,
  dtype: DType,
  device: number | undefined,
): NodeOf<"storage"> {
  return leaf(token, shape, dtype, device);
}

/** Conversion of the values to `dtype`; see `cast` in ops.ts for what happens at the edges. */
export function cast(x: Node, dtype: DType): Node {
  if (x.dtype === dtype) return x;
  // An f16 becomes anything else by way of f32, which holds it.
  if ((x.dtype === "f16" && dtype !== "f32") || (dtype === "f16" && x.dtype !== "f32")) {
    return cast(cast(x, "f32"), dtype);
  }
  return makeNode("cast", [x], {}, x.shape, dtype, x.device);
}

/** The same bits as another 32-bit dtype. Throws DTypeError for bool. */
export function bitcast(x: Node, dtype: DType): Node {
  if (x.dtype === dtype) return x;
  requireDType("bitcast", x.dtype, ["f32", "i32", "u32"]);
  requireDType("bitcast", dtype, ["f32", "i32", "u32"]);
  return makeNode("bitcast", [x], {}, x.shape, dtype, x.device);
}

export function reshape(x: Node, shape: Shape): Node {
  checkShape("reshape", shape);
  if (size(shape) !== size(x.shape)) {
    throw new ShapeError("reshape", {
      got: `${formatShape(x.shape)} to ${formatShape(shape)}`,
      need: `a shape of ${size(x.shape)} elements`,
    });
  }
  if (sameShape(shape, x.shape)) return x;
  // Two reshapes are not made one here: a gradient may be asked for by the first.
  return makeNode("reshape", [x], {}, shape, x.dtype, x.device);
}

/** The same values as a node of its own, by which can be differentiated apart from `x`. */
export function another(x: Node): Node {
  return makeNode("reshape", [x], {}, x.shape, x.dtype, x.device);
}

/** Output axis i is source axis `axes[i]`. */
export function permute(x: Node, axes: readonly number[]): Node {
  if ([...axes].sort((a, b) => a - b).some((axis, i) => axis !== i) || axes.length !== x.shape.length) {
    throw new ShapeError("permute", { got: `axes [${axes}]`, need: `a permutation of 0..${x.shape.length - 1}` });
  }
  if (axes.every((axis, i) => axis === i)) return x;
  return makeNode("permute", [x], { axes: [...axes] }, axes.map((axis) => x.shape[axis]!), x.dtype, x.device);
}

/** Axes of length 1 repeated to those of `shape`, which has the same rank. */
export function expand(x: Node, shape: Shape): Node {
  checkShape("expand", shape);
  if (shape.length !== x.shape.length || !x.shape.every((n, axis) => n === 1 || n === shape[axis])) {
    throw new ShapeError("expand", {
      got: `${formatShape(x.shape)} to ${formatShape(shape)}`,
      need: "the same rank, and axes that are equal or of length 1",
    });
  }
  if (sameShape(shape, x.shape)) return x;
  return makeNode("expand", [x], {}, shape, x.dtype, x.device);
}

/** NumPy broadcasting of one operand: new axes in front, axes of length 1 repeated. */
export function broadcastTo(x: Node, shape: Shape): Node {
  if (sameShape(x.shape, shape)) return x;
  const missing = shape.length - x.shape.length;
  if (missing < 0) {
    throw new ShapeError("broadcastTo", {
      got: `${formatShape(x.shape)} to ${formatShape(shape)}`,
      need: "a rank at least as high",
    });
  }
  return expand(reshape(x, [...new Array<number>(missing).fill(1), ...x.shape]), shape);
}

/** `low[i]` and `high[i]` (at least 0) elements of `value` put before and after axis i. */
export function pad(x: Node, low: readonly number[], high: readonly number[], value = 0): Node {
  if (
    low.length !== x.shape.length || high.length !== x.shape.length ||
    ![...low, ...high].every((n) => Number.isSafeInteger(n) && n >= 0)
  ) {
    throw new ShapeError("pad", {
      got: `low [${low}], high [${high}]`,
      need: `${x.shape.length} counts of at least 0 each`,
    });
  }
  if (low.every((n) => n === 0) && high.every((n) => n === 0)) return x;
  const shape = x.shape.map((n, axis) => n + low[axis]! + high[axis]!);
  checkShape("pad", shape);
  return makeNode(
    "pad",
    [x],
    { low: [...low], high: [...high], value: toElement(x.dtype, value) },
    shape,
    x.dtype,
    x.device,
  );
}

/** Output index i of each axis reads source index `start + i * step`, `count` times; every index read must exist. */
export function slice(x: Node, start: readonly number[], count: readonly number[], step: readonly number[]): Node {
  checkShape("slice", count);
  const fits = x.shape.every((n, axis) => {
    const last = start[axis]! + (count[axis]! - 1) * step[axis]!;
    const within = (i: number) => Number.isSafeInteger(i) && i >= 0 && i < n;
    return step[axis] !== 0 && (count[axis] === 0 || (within(start[axis]!) && within(last)));
  });
  if (!fits || [start, count, step].some((list) => list.length !== x.shape.length)) {
    throw new ShapeError("slice", {
      got: `start [${start}], count [${count}], step [${step}] of ${formatShape(x.shape)}`,
      need: "indices that lie within every axis, steps other than 0",
    });
  }
  if (
    sameShape(count, x.shape) && start.every((n) => n === 0) && step.every((n, axis) => n === 1 || x.shape[axis]! <= 1)
  ) return x;
  // An axis that is empty reads nothing: one spelling for it.
  const first = start.map((n, axis) => count[axis] === 0 ? 0 : n);
  return makeNode("slice", [x], { start: first, step: [...step] }, count, x.dtype, x.device);
}

/** How many windows of `length` elements, `dilation` apart, one every `stride`, lie within an axis of `extent`; at least 0. */
export function windowCount(extent: number, { length, stride, dilation }: Omit<Windows, "axis">): number {
  return Math.max(0, Math.floor((extent - (length - 1) * dilation - 1) / stride) + 1);
}

/** Windows along one axis, the place within a window as the last axis; see `window` in structural.ts. */
export function window(x: Node, windows: Windows): Node {
  checkWindows("window", windows, x.shape.length);
  const { axis, length, stride, dilation } = windows;
  const count = windowCount(x.shape[axis]!, windows);
  const shape = [...x.shape.map((n, i) => i === axis ? count : n), length];
  checkShape("windows", shape);
  return makeNode("window", [x], { axis, length, stride, dilation }, shape, x.dtype, x.device);
}

/** The elements of windows (the last axis) where they lie on an axis of `length`, not yet added up; see `unwindow` in structural.ts. */
export function unwindow(x: Node, windows: Windows): Node {
  checkWindows("unwindow", windows, x.shape.length - 1);
  const { axis, length, stride, dilation } = windows;
  if (x.shape.at(-1) === 0) {
    throw new ShapeError("unwindow", { got: formatShape(x.shape), need: "windows of at least one element" });
  }
  const reach = (x.shape[axis]! - 1) * stride + (x.shape.at(-1)! - 1) * dilation + 1;
  if (size(x.shape) > 0 && reach > length) {
    throw new ShapeError("unwindow", {
      got: `windows ${formatShape(x.shape)} that reach ${reach} elements, on an axis of ${length}`,
      need: `a length of at least ${reach}`,
    });
  }
  const shape = x.shape.map((n, i) => i === axis ? length : n);
  return makeNode("unwindow", [x], { axis, length, stride, dilation }, shape, x.dtype, x.device);
}

function checkWindows(op: string, { axis, length, stride, dilation }: Windows, axes: number): void {
  const whole = (n: number, least: number) => Number.isSafeInteger(n) && n >= least;
  if (
    whole(axis, 0) && axis < axes && whole(length, op === "window" ? 1 : 0) && whole(stride, 1) && whole(dilation, 1)
  ) return;
  throw new ShapeError(op, {
    got: `axis ${axis}, length ${length}, stride ${stride}, dilation ${dilation}`,
    need: `an axis from 0 to ${axes - 1}, and whole numbers of at least 1`,
  });
}

/** Reduction over `axes` (sorted, distinct), which disappear. */
export function reduce(op: ReductionName, x: Node, axes: readonly number[]): Node {
  requireDType(op, x.dtype, reductions[op].takes);
  if (
    !axes.every((axis, i) =>
      Number.isInteger(axis) && axis >= 0 && axis < x.shape.length && (i === 0 || axis > axes[i - 1]!)
    )
  ) {
    throw new ShapeError(op, { got: `axes [${axes}]`, need: `sorted, distinct axes of ${formatShape(x.shape)}` });
  }
  if (axes.length === 0) return x;
  return makeNode(op, [x], { axes: [...axes] }, withoutAxes(x.shape, axes), x.dtype, x.device);
}

/** out[i] = x[i with i[axis] := index[i]]. `index` is i32, of x's shape but for `axis`. Out of range gives 0. */
export function gather(x: Node, index: Node, axis: number): Node {
  requireDType("gather", index.dtype, ["i32"]);
  checkIndexed("gather", x, index, axis);
  return makeNode("gather", [x, index], { axis }, index.shape, x.dtype, deviceOf("gather", [x, index]));
}

/** Zeros with `length` on `axis`, to which values[i] is added at i with i[axis] := index[i]. Out of range is dropped. */
export function scatterAdd(index: Node, values: Node, axis: number, length: number): Node {
  requireDType("scatterAdd", index.dtype, ["i32"]);
  requireDType("scatterAdd", values.dtype, ["f32", "i32", "u32"]);
  checkShape("scatterAdd", [length]);
  if (!sameShape(index.shape, values.shape) || axis < 0 || axis >= values.shape.length) {
    throw new ShapeError("scatterAdd", {
      got: `index ${formatShape(index.shape)}, values ${formatShape(values.shape)}, axis ${axis}`,
      need: "equal shapes with that axis",
    });
  }
  const shape = values.shape.map((n, i) => i === axis ? length : n);
  return makeNode(
    "scatterAdd",
    [index, values],
    { axis, length },
    shape,
    values.dtype,
    deviceOf("scatterAdd", [index, values]),
  );
}

/** x, or where that is larger the largest of the values[i] at i with i[axis] := index[i]. Out of range is dropped. */
export function scatterMax(x: Node, index: Node, values: Node, axis: number): Node {
  requireDType("scatterMax", index.dtype, ["i32"]);
  requireDType("scatterMax", x.dtype, ["f32", "i32", "u32"]);
  requireDType("scatterMax", values.dtype, [x.dtype]);
  checkIndexed("scatterMax", x, index, axis);
  if (!sameShape(index.shape, values.shape)) {
    throw new ShapeError("scatterMax", {
      got: `index ${formatShape(index.shape)}, values ${formatShape(values.shape)}`,
      need: "equal shapes",
    });
  }
  if (size(values.shape) === 0) return x;
  return makeNode(
    "scatterMax",
    [x, index, values],
    { axis },
    x.shape,
    x.dtype,
    deviceOf("scatterMax", [x, index, values]),
  );
}

/** What attention is of: see `attention` in structural.ts. */
export interface AttentionOperands {
  readonly q: Node;
  readonly k: Node;
  readonly v: Node;
  readonly bias?: Node | undefined;
}

/** The weighted values of each query, and what its weights are relative to; see `attention` in structural.ts. f32. */
export function attention({ q, k, v, bias }: AttentionOperands, diagonal?: number): Node {
  const { batch, e, t } = attentionLengths("attention", { q, k, v, bias });
  const src = bias === undefined ? [q, k, v] : [q, k, v, bias];
  return makeNode("attention", src, { diagonal }, [...batch, e + 2, t], "f32", deviceOf("attention", src));
}

/** What the gradients of an attention are made of: see `attentionGradient` in structural.ts. */
export interface AttentionGradientOperands extends AttentionOperands {
  readonly norm: Node;
  readonly g: Node;
  readonly delta: Node;
}

/** Gradients of attention by its queries, or by its keys and values; see `attentionGradient` in structural.ts. f32. */
export function attentionGradient(
  of: "queries" | "keys",
  operands: AttentionGradientOperands,
  diagonal?: number,
): Node {
  const { q, k, v, norm, g, delta, bias } = operands;
  const { batch, d, e, t, s } = attentionLengths("attentionGradient", operands);
  const [row, pair] = [[...batch, 1, t], [...batch, 2, t]];
  if (!sameShape(norm.shape, pair) || !sameShape(delta.shape, row) || !sameShape(g.shape, [...batch, e, t])) {
    throw new ShapeError("attentionGradient", {
      got: `norm ${formatShape(norm.shape)}, delta ${formatShape(delta.shape)}, g ${formatShape(g.shape)}`,
      need: `${formatShape(pair)}, ${formatShape(row)} and ${formatShape([...batch, e, t])}`,
    });
  }
  const src = [q, k, v, norm, g, delta, ...bias === undefined ? [] : [bias]];
  src.forEach((node) => requireDType("attentionGradient", node.dtype, ["f32"]));
  const shape = of === "queries" ? [...batch, d, t] : [...batch, d + e, s];
  return makeNode("attentionGradient", src, { of, diagonal }, shape, "f32", deviceOf("attentionGradient", src));
}

function attentionLengths(
  op: string,
  { q, k, v, bias }: AttentionOperands,
): { batch: Shape; d: number; e: number; t: number; s: number } {
  for (const node of bias === undefined ? [q, k, v] : [q, k, v, bias]) requireDType(op, node.dtype, ["f32"]);
  const batch = q.shape.slice(0, -2);
  const [d, t, e, s] = [q.shape.at(-2), q.shape.at(-1), v.shape.at(-2), v.shape.at(-1)];
  const fits = d !== undefined && t !== undefined && e !== undefined && s !== undefined && d > 0 && s > 0 &&
    sameShape(k.shape, [...batch, d, s]) && sameShape(v.shape, [...batch, e, s]) &&
    (bias === undefined || sameShape(bias.shape, [...batch, t, s]));
  if (fits) return { batch, d, e, t, s };
  throw new ShapeError(op, {
    got: `q ${formatShape(q.shape)}, k ${formatShape(k.shape)}, v ${formatShape(v.shape)}${
      bias === undefined ? "" : `, bias ${formatShape(bias.shape)}`
    }`,
    need: "[..., d, t], [..., d, s], [..., e, s] and [..., t, s], with a feature and a key at least",
  });
}

/** i32 positions that sort the last axis ascending, stably; NaN last. */
export function argsort(x: Node): Node {
  requireDType("argsort", x.dtype, ["f32", "i32", "u32"]);
  if (x.shape.length === 0) throw new ShapeError("argsort", { got: "a scalar", need: "at least one axis" });
  return makeNode("argsort", [x], {}, x.shape, "i32", x.device);
}

/** Running sums or products along an axis. */
export function scan(how: "sum" | "prod", x: Node, axis: number): Node {
  requireDType("scan", x.dtype, ["f32", "i32", "u32"]);
  if (!Number.isInteger(axis) || axis < 0 || axis >= x.shape.length) {
    throw new ShapeError("scan", { got: `axis ${axis} of ${formatShape(x.shape)}`, need: "an axis that it has" });
  }
  return makeNode("scan", [x], { axis, how }, x.shape, x.dtype, x.device);
}

/** Operands of one dtype joined on `axis`; the other axes are equal. */
export function concat(src: readonly Node[], axis: number): Node {
  const [first] = src;
  if (first === undefined) throw new ArgumentError("concat", { got: "no tensors", need: "at least one" });
  if (!Number.isInteger(axis) || axis < 0 || axis >= first.shape.length) {
    throw new ShapeError("concat", {
      got: `axis ${axis} of ${formatShape(first.shape)}`,
      need: "an axis that the operands have",
    });
  }
  for (const node of src) {
    if (node.dtype !== first.dtype) {
      throw new DTypeError("concat", { got: src.map((n) => n.dtype).join(", "), need: "equal dtypes" });
    }
    if (node.shape.length !== first.shape.length || !node.shape.every((n, i) => i === axis || n === first.shape[i])) {
      throw new ShapeError("concat", {
        got: src.map((n) => formatShape(n.shape)).join(", "),
        need: `equal shapes but for axis ${axis}`,
      });
    }
  }
  if (src.length === 1) return first;
  const length = src.reduce((sum, node) => sum + node.shape[axis]!, 0);
  const shape = first.shape.map((n, i) => i === axis ? length : n);
  checkShape("concat", shape);
  return makeNode("concat", src, { axis }, shape, first.dtype, deviceOf("concat", src));
}

export function contiguous(x: Node): Node {
  if (x.op === "contiguous" || x.op === "storage" || x.op === "input") return x;
  return makeNode("contiguous", [x], {}, x.shape, x.dtype, x.device);
}

export function stopGradient(x: Node): Node {
  return makeNode("stopGradient", [x], {}, x.shape, x.dtype, x.device);
}

let nextRegion = 0;
/** A number for a region between checkpoints, like no other. */
export function newRegion(): number {
  return nextRegion++;
}

/** The same values, at the border of a region; see `checkpoint` in structural.ts. */
export function checkpoint(x: Node, region: number, side: "in" | "out", others: readonly Node[] = []): Node {
  return makeNode(
    "checkpoint",
    [x, ...others],
    { region, side },
    x.shape,
    x.dtype,
    deviceOf("checkpoint", [x, ...others]),
  );
}

/** The same values, of which what is made is computed after `others`; see `after` in structural.ts. */
export function after(x: Node, others: readonly Node[], wait?: number): Node {
  return makeNode("after", [x, ...others], { wait }, x.shape, x.dtype, x.device);
}

/** Elementwise sum, maximum or minimum over the shards of a batch; f32, i32 or u32. */
export function allReduce(x: Node, how: "sum" | "max" | "min"): Node {
  requireDType("allReduce", x.dtype, ["f32", "i32", "u32"]);
  return makeNode("allReduce", [x], { how }, x.shape, x.dtype, x.device);
}

/** The values of all shards one after another on axis 0, which then has length `total`; f32, i32 or u32. */
export function allGather(x: Node, total: number): Node {
  requireDType("allGather", x.dtype, ["f32", "i32", "u32"]);
  checkFirstAxis("allGather", x, total, x.shape[0] ?? 0, Infinity);
  return makeNode("allGather", [x], { total }, [total, ...x.shape.slice(1)], x.dtype, x.device);
}

/** Of the sum over shards, the `rows` of axis 0 that belong to this one; f32, i32 or u32. */
export function reduceScatter(x: Node, rows: number): Node {
  requireDType("reduceScatter", x.dtype, ["f32", "i32", "u32"]);
  checkFirstAxis("reduceScatter", x, rows, 0, x.shape[0] ?? 0);
  return makeNode("reduceScatter", [x], { rows }, [rows, ...x.shape.slice(1)], x.dtype, x.device);
}

/** The same values on `device`. */
export function copy(x: Node, device: number): Node {
  if (x.device === device) return x;
  return makeNode("copy", [x], { device }, x.shape, x.dtype, device);
}

/** What the constructor of each op makes of a node's parts: it may be a simpler node, of the same shape, dtype and device. */
const makers: { readonly [K in Exclude<StructuralName, ReductionName>]: (node: NodeOf<K>) => Node } = {
  const: ({ attrs, dtype }) => {
    if (!Object.is(toElement(dtype, attrs.value), attrs.value)) throw new Error("the value is no element of the dtype");
    return constant(attrs.value, dtype);
  },
  iota: ({ shape, dtype }) => {
    if (dtype === "bool" || dtype === "f16") throw new Error("iota counts in numbers of 32 bits");
    return iota(shape[0]!, dtype);
  },
  input: (node) => node,
  storage: (node) => node,
  cast: ({ src, dtype }) => cast(src[0]!, dtype),
  bitcast: ({ src, dtype }) => bitcast(src[0]!, dtype),
  reshape: ({ src, shape }) => reshape(src[0]!, shape),
  permute: ({ src, attrs }) => permute(src[0]!, attrs.axes),
  expand: ({ src, shape }) => expand(src[0]!, shape),
  pad: ({ src, attrs }) => pad(src[0]!, attrs.low, attrs.high, attrs.value),
  slice: ({ src, attrs, shape }) => slice(src[0]!, attrs.start, shape, attrs.step),
  window: ({ src, attrs }) => window(src[0]!, attrs),
  unwindow: ({ src, attrs }) => unwindow(src[0]!, attrs),
  gather: ({ src, attrs }) => gather(src[0]!, src[1]!, attrs.axis),
  scatterAdd: ({ src, attrs }) => scatterAdd(src[0]!, src[1]!, attrs.axis, attrs.length),
  scatterMax: ({ src, attrs }) => scatterMax(src[0]!, src[1]!, src[2]!, attrs.axis),
  attention: ({ src, attrs }) => {
    const [q, k, v, bias] = src as readonly [Node, Node, Node, Node?];
    return attention({ q, k, v, bias }, attrs.diagonal);
  },
  attentionGradient: ({ src, attrs }) => {
    const [q, k, v, norm, g, delta, bias] = src as readonly [Node, Node, Node, Node, Node, Node, Node?];
    return attentionGradient(attrs.of, { q, k, v, norm, g, delta, bias }, attrs.diagonal);
  },
  argsort: ({ src }) => argsort(src[0]!),
  scan: ({ src, attrs }) => scan(attrs.how, src[0]!, attrs.axis),
  concat: ({ src, attrs }) => concat(src, attrs.axis),
  contiguous: ({ src }) => contiguous(src[0]!),
  stopGradient: ({ src }) => stopGradient(src[0]!),
  checkpoint: ({ src, attrs }) => checkpoint(src[0]!, attrs.region, attrs.side, src.slice(1)),
  after: ({ src, attrs }) => after(src[0]!, src.slice(1), attrs.wait),
  allReduce: ({ src, attrs }) => allReduce(src[0]!, attrs.how),
  allGather: ({ src, attrs }) => allGather(src[0]!, attrs.total),
  reduceScatter: ({ src, attrs }) => reduceScatter(src[0]!, attrs.rows),
  copy: ({ src, attrs }) => copy(src[0]!, attrs.device),
};

/** A node made of the parts of another by the constructor of its op; throws as that does where they do not fit. */
export function rebuilt(node: Node): Node {
  if (isElementwise(node.op)) return elementwise(node.op, ...node.src);
  if (isReduction(node.op)) return reduce(node.op, node.src[0]!, (node as ReductionNode).attrs.axes);
  // Each entry of the table takes the node of its own op, which is the one it is looked up with.
  return (makers[node.op] as (node: Node) => Node)(node);
}

/** `node` with other sources of the same shapes and dtypes. */
export function withSources(node: Node, src: readonly Node[]): Node {
  return src.every((source, i) => source === node.src[i]) ? node : madeAgain(node, src);
}

/** Another node like `node`, of other sources of the same shapes and dtypes. */
export function madeAgain(node: Node, src: readonly Node[]): Node {
  const device = node.op === "copy" ? node.device : node.op === "after" ? src[0]!.device : deviceOf(node.op, src);
  return makeNode(node.op, src, node.attrs, node.shape, node.dtype, device);
}

/** Bytes that the values take on a device, in whole words of four. */
export function byteLength(node: Node): number {
  return bytesOf(node.dtype, size(node.shape));
}

function deviceOf(op: string, src: readonly Node[]): number | undefined {
  let device: number | undefined;
  for (const node of src) {
    if (node.device === undefined) continue;
    if (device !== undefined && device !== node.device) {
      throw new DeviceError(op, {
        got: `tensors on devices ${device} and ${node.device}`,
        need: "one device: move a tensor first, with x.to(device)",
      });
    }
    device = node.device;
  }
  return device;
}

function checkFirstAxis(op: string, x: Node, length: number, least: number, most: number): void {
  if (x.shape.length > 0 && Number.isSafeInteger(length) && length >= least && length <= most) return;
  throw new ShapeError(op, { got: `${formatShape(x.shape)} to ${length} on axis 0`, need: `${least} to ${most}` });
}

function checkIndexed(op: string, x: Node, index: Node, axis: number): void {
  if (
    x.shape.length !== index.shape.length || !Number.isInteger(axis) || axis < 0 || axis >= x.shape.length ||
    !x.shape.every((n, i) => i === axis || n === index.shape[i])
  ) {
    throw new ShapeError(op, {
      got: `${formatShape(x.shape)} indexed by ${formatShape(index.shape)} on axis ${axis}`,
      need: "shapes that agree but for that axis",
    });
  }
}

/**
 * What nodes mean, in float64 on the host: the oracle that compiled kernels are compared with. It shares nothing with
 * the compiler. Values of f32 nodes are not rounded to f32 (only a bitcast rounds); a cast to f16 rounds, integers wrap to
 * 32 bits.
 */
import { ArgumentError, ShapeError } from "../errors.ts";
import type { DType } from "./dtype.ts";
import { attention, attentionGradient } from "./interpret-attention.ts";
import { isKind, type Node, type NodeOf, type ReductionNode, toposort } from "./node.ts";
import { bitcast, cast, elementwise, reductions } from "./ops.ts";
import { formatShape, type Shape, size, strides } from "./shape.ts";

/** Elements in row-major order; a bool is 0 or 1. */
export type Values = Float64Array;

/**
 * The values of `roots`. `given` holds the values of leaves, and of any other node that is not to be computed.
 * The results may share memory with each other: do not write to them.
 * Throws ArgumentError for a leaf without a value, ShapeError for a value of another length than its node.
 */
export function interpret(roots: readonly Node[], given: ReadonlyMap<Node, ArrayLike<number>>): Values[] {
  const values = new Map<Node, Values>();
  for (const node of toposort(roots, (node) => !given.has(node))) {
    const known = given.get(node);
    values.set(
      node,
      known === undefined ? evaluate(node, node.src.map((source) => values.get(source)!)) : hold(node, known),
    );
  }
  return roots.map((root) => values.get(root)!);
}

function hold(node: Node, known: ArrayLike<number>): Values {
  if (known.length !== size(node.shape)) {
    throw new ShapeError("interpret", {
      got: `${known.length} values for a node of shape ${formatShape(node.shape)}`,
      need: `${size(node.shape)} values`,
    });
  }
  return Float64Array.from(known);
}

function evaluate(node: Node, src: readonly Values[]): Values {
  const { shape, dtype } = node;
  const x = src[0]!;
  const from = node.src[0];
  if (isKind(node, "reduction")) return reduce(x, from!, node);
  switch (node.op) {
    case "const":
      return Float64Array.of(node.attrs.value);
    case "iota":
      return Float64Array.from({ length: shape[0]! }, (_, i) => i);
    case "input":
    case "storage":
      throw new ArgumentError("interpret", {
        got: `no values for node ${node.id}, an ${node.op} leaf of shape ${formatShape(shape)}`,
        need: "the values of every leaf",
      });
    case "cast":
      return x.map((value) => wrap(cast.f64(value, from!.dtype, dtype), dtype));
    case "bitcast":
      return x.map((value) => bitcast.f64(value, from!.dtype, dtype));
    case "reshape":
    case "contiguous":
    case "stopGradient":
    case "checkpoint":
    case "after":
    case "copy":
      return x;
    case "allReduce":
    case "allGather":
    case "reduceScatter":
      return alone(node, x);
    case "permute": {
      const step = strides(from!.shape);
      return read(x, shape, node.attrs.axes.map((axis) => step[axis]!), 0);
    }
    case "expand": {
      const step = strides(from!.shape);
      return read(x, shape, step.map((n, axis) => from!.shape[axis] === 1 ? 0 : n), 0);
    }
    case "slice": {
      const { start, step } = node.attrs;
      const unit = strides(from!.shape);
      return read(x, shape, unit.map((n, axis) => n * step[axis]!), dot(unit, start));
    }
    case "pad": {
      const out = new Float64Array(size(shape)).fill(node.attrs.value);
      const unit = strides(shape);
      walk(from!.shape, unit, dot(unit, node.attrs.low), (i, target) => out[target] = x[i]!);
      return out;
    }
    case "window": {
      const { axis, stride, dilation } = node.attrs;
      const unit = strides(from!.shape);
      return read(x, shape, [...unit.map((n, i) => i === axis ? n * stride : n), unit[axis]! * dilation], 0);
    }
    case "unwindow": {
      const { axis, stride, dilation } = node.attrs;
      const out = new Float64Array(size(shape));
      const unit = strides(shape);
      const step = unit.map((n, i) => i === axis ? n * stride : n);
      step[shape.length - 1]! += unit[axis]! * dilation;
      walk(from!.shape, step, 0, (i, target) => out[target] = x[i]!);
      return out;
    }
    case "gather":
      return gather(x, src[1]!, from!.shape, shape, node.attrs.axis);
    case "scatterAdd":
      return scatter(new Float64Array(size(shape)), x, src[1]!, from!.shape, node, (a, b) => a + b);
    case "scatterMax":
      return scatter(x.slice(), src[1]!, src[2]!, node.src[1]!.shape, node, Math.max);
    case "attention":
      return attention(node, src);
    case "attentionGradient":
      return attentionGradient(node, src);
    case "argsort":
      return argsort(x, shape[shape.length - 1]!);
    case "scan":
      return scan(x, node);
    case "concat":
      return concat(node.src, src, shape, node.attrs.axis);
    default: {
      const f = exact(node.op, dtype) ?? elementwise[node.op].f64;
      return mapElements(f, src, dtype);
    }
  }
}

/** A collective over one shard. */
function alone(node: Node, x: Values): Values {
  if (x.length === size(node.shape)) return x;
  throw new ArgumentError("interpret", {
    got: `${node.op} of ${x.length} elements to ${formatShape(node.shape)}`,
    need: "a single shard: a graph of several is cut into stages first",
  });
}

/** Integer products exceed what a double holds exactly, so that they need an arithmetic of their own. */
function exact(op: string, dtype: DType): ((a: number, b: number) => number) | undefined {
  return op === "mul" && dtype !== "f32" ? Math.imul : undefined;
}

function wrap(value: number, dtype: DType): number {
  return dtype === "i32" ? value | 0 : dtype === "u32" ? value >>> 0 : value;
}

function mapElements(f: (...x: number[]) => number, src: readonly Values[], dtype: DType): Values {
  const [a, b, c, d] = src;
  const out = new Float64Array(a!.length);
  for (let i = 0; i < out.length; i++) {
    const value = b === undefined
      ? f(a![i]!)
      : c === undefined
      ? f(a![i]!, b[i]!)
      : d === undefined
      ? f(a![i]!, b[i]!, c[i]!)
      : f(a![i]!, b[i]!, c[i]!, d[i]!);
    out[i] = wrap(value, dtype);
  }
  return out;
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, n, i) => sum + n * b[i]!, 0);
}

/** Calls `visit` for every index of `shape` in row-major order, with its position and `offset` + index · `step`. */
function walk(shape: Shape, step: readonly number[], offset: number, visit: (i: number, at: number) => void): void {
  const count = size(shape);
  const index = new Array<number>(shape.length).fill(0);
  let at = offset;
  for (let i = 0; i < count; i++) {
    visit(i, at);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += step[axis]!;
      if (++index[axis]! < shape[axis]!) break;
      at -= index[axis]! * step[axis]!;
      index[axis] = 0;
    }
  }
}

function read(x: Values, shape: Shape, step: readonly number[], offset: number): Values {
  const out = new Float64Array(size(shape));
  walk(shape, step, offset, (i, at) => out[i] = x[at]!);
  return out;
}

function reduce(x: Values, from: Node, node: ReductionNode): Values {
  const { combine, identity } = reductions[node.op];
  const f = exact(combine, node.dtype) ?? elementwise[combine].f64;
  const out = new Float64Array(size(node.shape)).fill(identity(node.dtype));
  const kept = strides(node.shape);
  let next = 0;
  const step = from.shape.map((_, axis) => node.attrs.axes.includes(axis) ? 0 : kept[next++]!);
  walk(from.shape, step, 0, (i, at) => out[at] = wrap(f(out[at]!, x[i]!), node.dtype));
  return out;
}

/** Elements outside an axis (before it) and inside it (after it). */
function around(shape: Shape, axis: number): { outer: number; inner: number } {
  return { outer: size(shape.slice(0, axis)), inner: size(shape.slice(axis + 1)) };
}

function gather(x: Values, index: Values, from: Shape, shape: Shape, axis: number): Values {
  const { inner } = around(shape, axis);
  const [length, count] = [from[axis]!, shape[axis]!];
  return index.map((at, i) => {
    const outer = Math.floor(i / (count * inner));
    return at >= 0 && at < length ? x[(outer * length + at) * inner + i % inner]! : 0;
  });
}

/** Combines values of shape `from` with those of `out`, at the places that the index names. */
function scatter(
  out: Values,
  index: Values,
  values: Values,
  from: Shape,
  node: Node & { attrs: { axis: number } },
  combine: (a: number, b: number) => number,
): Values {
  const { axis } = node.attrs;
  const { inner } = around(node.shape, axis);
  const [count, length] = [from[axis]!, node.shape[axis]!];
  index.forEach((at, i) => {
    if (at < 0 || at >= length) return;
    const target = (Math.floor(i / (count * inner)) * length + at) * inner + i % inner;
    out[target] = wrap(combine(out[target]!, values[i]!), node.dtype);
  });
  return out;
}

function argsort(x: Values, length: number): Values {
  const out = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += length) {
    // Array.prototype.sort is stable; NaN is larger than everything and equal to itself.
    const order = Array.from({ length }, (_, i) => i).sort((i, j) => {
      const [a, b] = [x[row + i]!, x[row + j]!];
      return a < b ? -1 : a > b ? 1 : Number(Number.isNaN(a)) - Number(Number.isNaN(b));
    });
    out.set(order, row);
  }
  return out;
}

function scan(x: Values, { shape, dtype, attrs: { axis, how } }: NodeOf<"scan">): Values {
  const { combine } = reductions[how];
  const f = exact(combine, dtype) ?? elementwise[combine].f64;
  const out = x.slice();
  const { inner } = around(shape, axis);
  const run = shape[axis]! * inner;
  out.forEach((value, i) => {
    if (i % run >= inner) out[i] = wrap(f(out[i - inner]!, value), dtype);
  });
  return out;
}

function concat(nodes: readonly Node[], src: readonly Values[], shape: Shape, axis: number): Values {
  const out = new Float64Array(size(shape));
  const { outer, inner } = around(shape, axis);
  let at = 0;
  for (let row = 0; row < outer; row++) {
    nodes.forEach((node, k) => {
      const run = node.shape[axis]! * inner;
      out.set(src[k]!.subarray(row * run, (row + 1) * run), at);
      at += run;
    });
  }
  return out;
}

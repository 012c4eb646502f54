/** What users of other libraries look for on a tensor. */
import type { ForeignWords } from "../signature/foreign.ts";
import type { Refusal } from "../signature/kinds.ts";
import { show } from "../signature/show.ts";

const read = "await t.array() (nested), await t.data() (flat) or await t.item(): values are read asynchronously";
const inPlace = "a new tensor: t = t.add(…); t.assign(value) changes what a tensor shows";
const gradients = "grad(loss, tensors) or valueAndGrad(f): gradients are computed when they are asked for";

export const foreignToTensor: ForeignWords = {
  // Reading.
  dataSync: read,
  arraySync: read,
  numpy: read,
  tolist: read,
  toArray: read,
  print: "console.log(t) after await t.realize()",
  // Gradients.
  backward: gradients,
  grad: gradients,
  requires_grad: gradients,
  requires_grad_: gradients,
  requiresGrad: gradients,
  // Shapes.
  view: "t.reshape(…)",
  T: "t.transpose()",
  t: "t.transpose()",
  ndim: "t.rank",
  dim: "t.rank",
  numel: "t.size",
  expandDims: "t.unsqueeze(axis)",
  expand_dims: "t.unsqueeze(axis)",
  chunk: "t.split(parts)",
  unstack: "t.split(parts), with squeeze",
  unbind: "t.split(parts), with squeeze",
  concat: "concat([a, b], { axis })",
  stack: "stack([a, b], { axis })",
  reverse: "t.flip(axis)",
  narrow: "t.slice(…)",
  clone: "t itself: tensors do not change; t.detach() cuts its history",
  // Dtypes and devices.
  asType: 't.cast("i32")',
  astype: 't.cast("i32")',
  toInt: 't.cast("i32")',
  toFloat: 't.cast("f32")',
  toBool: 't.cast("bool")',
  long: 't.cast("i32")',
  int: 't.cast("i32")',
  float: 't.cast("f32")',
  double: 't.cast("f32"): there is no f64',
  half: 't.cast("f16")',
  cpu: "t.to(device)",
  cuda: "t.to(device), with devices() for those that there are",
  // Arithmetic.
  mm: "t.matmul(other)",
  bmm: "t.matmul(other)",
  matMul: "t.matmul(other)",
  gt: "t.greater(other)",
  ge: "t.greaterEqual(other)",
  lt: "t.less(other)",
  le: "t.lessEqual(other)",
  eq: "t.equal(other)",
  ne: "t.notEqual(other)",
  var: "t.variance({ axis }), { correction: 1 } for n - 1",
  clip: "t.clamp({ min, max })",
  clipByValue: "t.clamp({ min, max })",
  argMax: "t.argmax({ axis })",
  argMin: "t.argmin({ axis })",
  masked_fill: "where(mask, value, t)",
  maskedFill: "where(mask, value, t)",
  index_select: "t.take(indices, { axis })",
  logicalAnd: "t.and(other)",
  logicalOr: "t.or(other)",
  logicalNot: "t.not()",
  add_: inPlace,
  sub_: inPlace,
  mul_: inPlace,
  div_: inPlace,
  zero_: inPlace,
  fill_: inPlace,
  copy_: "t.assign(value)",
};

export const indexOfTensor = "t.at(i) for one position of an axis, t.slice(…) for a range, await t.array() for values";

/** What is said of what is given in place of a Tensor. */
export function noTensor(name: string, x: unknown): Refusal {
  return { got: `${show(x)} as ${name}`, need: `a Tensor${wayToTensor(x)}` };
}

/** What is said of what is given in place of an operand. */
export function noOperand(name: string, x: unknown): Refusal {
  return { got: `${show(x)} as ${name}`, need: `a Tensor, a number or a boolean${wayToTensor(x)}` };
}

/** How something becomes a Tensor; empty where it cannot be told. */
function wayToTensor(x: unknown): string {
  if (Array.isArray(x) || ArrayBuffer.isView(x) || typeof x === "number") return ": tensor(values)";
  if (typeof x !== "object" || x === null) return "";
  if (x instanceof Promise) return ": await it";
  if ("terms" in x || ("sum" in x && "count" in x)) return ": its .mean";
  return "data" in x && "shape" in x ? ": data.tensors(batch) makes those of a host batch" : "";
}

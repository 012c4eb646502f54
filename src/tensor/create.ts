/** Tensors from numbers, and from other tensors. */
import type { Device } from "../devices/device/device.ts";
import { ArgumentError, DeviceError, DTypeError, ShapeError } from "../errors.ts";
import * as build from "../graph/build.ts";
import { type DType, dtypes, holds, type HostArray } from "../graph/dtype.ts";
import type { Node } from "../graph/node.ts";
import { checkShape, formatShape, type Shape, size } from "../graph/shape.ts";
import { hostElements } from "../graph/words.ts";
import {
  anything,
  boolean,
  either,
  type Fields,
  type Kind,
  listOf,
  number,
  optional,
  options,
  rest,
  string,
} from "../signature/kinds.ts";
import { takes } from "../signature/takes.ts";
import type { Computed, Counted, MeetAll, MeetOperands } from "./dtypes.ts";
import { Storage } from "./eager/storage.ts";
import { axis, device, dtype, shape } from "./kinds.ts";
import { flattenNested, type NestedArray, type NestedTyped } from "./nested.ts";
import { einsum as einsumNodes } from "./ops/contract.ts";
import { apply, where as whereNode } from "./ops/elementwise.ts";
import { oneHot as oneHotNode } from "./ops/indexing.ts";
import * as movement from "./ops/movement.ts";
import type { AxisOptions, DTypeOptions } from "./ops/options.ts";
import { type Operand, operand, operandKind, Tensor, tensorKind } from "./tensor.ts";

/** Numbers in a typed array. */
export type TypedArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | Uint8Array
  | Uint8ClampedArray
  | Uint16Array
  | Uint32Array;

/** The dtype that data have where none is asked for: of numbers and booleans, or of a typed array. */
export type DTypeOfData<X> = X extends NestedTyped<infer T> ? DTypeOfData<T>
  : X extends TypedArray ? X extends Float32Array | Float64Array ? "f32" : X extends Uint32Array ? "u32" : "i32"
  : X extends NestedArray<number> ? "f32"
  : X extends NestedArray<boolean> ? "bool"
  : "f32" | "bool";

/** What a new tensor is like. */
export interface CreateOptions<D extends DType = DType> {
  /** The dtype of the elements; each function says which one by default. */
  readonly dtype?: D | undefined;
  /** Binds the tensor to a device; without it, it may meet any. */
  readonly device?: Device | undefined;
}

/** What a tensor of given numbers is like. */
export interface TensorOptions<D extends DType = DType> extends CreateOptions<D> {
  /** The shape, of as many elements as there are. By default that of nested arrays, and [length] for a typed array. */
  readonly shape?: Shape | undefined;
}

/** The numbers of `arange`. */
export interface ArangeOptions<D extends DType = DType, Start extends number = number, Step extends number = number>
  extends CreateOptions<D> {
  /** The first number. Default 0. */
  readonly start?: Start | undefined;
  /** From one number to the next; not 0. Default 1. */
  readonly step?: Step | undefined;
}

/** The matrix that `eye` makes. */
export interface EyeOptions<D extends DType = DType> extends CreateOptions<D> {
  /** The number of columns. Default: as many as rows. */
  readonly columns?: number | undefined;
}

/** Where a new tensor is. */
export interface DeviceOption {
  /** Binds the tensor to a device; without it, it may meet any. */
  readonly device?: Device | undefined;
}

/**
 * A tensor of numbers, booleans, nested arrays of them, a typed array, or nested arrays of typed ones; the data is copied. The
 * dtype is by default bool for booleans, f32 for numbers, and for typed arrays that of their elements (f32 for 64-bit floats,
 * i32 for 8 and 16 bits). For `{ dtype: "f16" }` numbers are rounded to the nearest half.
 * Throws ShapeError for ragged arrays and for a shape of another size.
 */
export function tensor<X extends NestedArray | TypedArray | NestedTyped<TypedArray>, D extends DType = DTypeOfData<X>>(
  data: X,
  options: TensorOptions<D> = {},
): Tensor<NoInfer<D>> {
  signatures.tensor.check(arguments);
  const isTyped = (x: unknown): x is TypedArray => ArrayBuffer.isView(x);
  const { shape, values, typed } = isTyped(data)
    ? { shape: [data.length], values: data, typed: data }
    : flattenNested("tensor", data);
  const dtype = options.dtype ?? (isTyped(typed) ? dtypeOf(typed) : dtypeOfValues(values)) as D;
  const wanted = options.shape ?? shape;
  checkShape("tensor", wanted);
  if (size(wanted) !== values.length) {
    throw new ShapeError("tensor", {
      got: `${values.length} elements for shape ${formatShape(wanted)}`,
      need: `${size(wanted)} elements`,
    });
  }
  return fromHost(hostElements(dtype, values), wanted, dtype, options.device);
}

/**
 * @internal A tensor that takes over a host array. Made inside a trace, it belongs to the world outside, as data
 * does.
 */
export function fromHost<D extends DType>(data: HostArray, shape: Shape, dtype: D, device?: Device): Tensor<D> {
  return new Tensor(build.storage(Storage.ofHost(data, dtype), shape, dtype, deviceId("tensor", device)), true);
}

function dtypeOf(data: TypedArray): DType {
  if (data instanceof Float32Array || data instanceof Float64Array) return "f32";
  if (data instanceof Uint32Array) return "u32";
  const known = [Int8Array, Int16Array, Int32Array, Uint8Array, Uint8ClampedArray, Uint16Array];
  if (known.some((type) => data instanceof type)) return "i32";
  throw new DTypeError("tensor", {
    got: Object.prototype.toString.call(data).slice(8, -1),
    need: "an array of floats or of integers of at most 32 bits",
  });
}

function dtypeOfValues(values: readonly (number | boolean)[] | TypedArray): DType {
  let booleans = 0;
  for (const value of values) if (typeof value === "boolean") booleans++;
  if (booleans === 0) return "f32";
  if (booleans === values.length) return "bool";
  throw new DTypeError("tensor", { got: "numbers and booleans together", need: "one kind, or a dtype" });
}

const creating: Fields<CreateOptions> = { dtype, device };
const data: Kind<never> = { ...anything, need: "numbers or booleans, lists of them, or a typed array" };
const tensors = listOf(tensorKind, "a list of Tensors");
const signatures = {
  tensor: takes("tensor", { data, options: options<TensorOptions>({ ...creating, shape }) }),
  full: takes("full", { shape, value: either(number, boolean), options: options<CreateOptions>(creating) }),
  zeros: takes("zeros", { shape, options: options<CreateOptions>(creating) }),
  ones: takes("ones", { shape, options: options<CreateOptions>(creating) }),
  arange: takes("arange", {
    end: number,
    options: options<ArangeOptions>({ ...creating, start: number, step: number }),
  }),
  range: takes("arange", { start: number, end: number, step: optional(number) }),
  linspace: takes("linspace", {
    start: number,
    end: number,
    count: number,
    options: options<DeviceOption>({ device }),
  }),
  eye: takes("eye", { rows: number, options: options<EyeOptions>({ ...creating, columns: number }) }),
  concat: takes("concat", { tensors, options: options<AxisOptions>({ axis }) }),
  stack: takes("stack", { tensors, options: options<AxisOptions>({ axis }) }),
  oneHot: takes("oneHot", { labels: tensorKind, classes: number, options: options<DTypeOptions>({ dtype }) }),
  where: takes("where", { condition: operandKind, a: operandKind, b: operandKind }),
  einsum: takes("einsum", { spec: string, tensors: rest(tensorKind) }),
};

function deviceId(op: string, device: Device | undefined): number | undefined {
  if (device?.isLost === true) {
    throw new DeviceError(op, { got: `${device.name}, which was closed or lost`, need: "an open device" });
  }
  return device?.id;
}

/** A computed tensor on the device that was asked for. */
function placed<D extends DType>(op: string, node: Node, device: Device | undefined): Tensor<D> {
  const id = deviceId(op, device);
  return new Tensor(id === undefined ? node : build.copy(node, id));
}

/** A tensor of one value; f32 by default, bool for a boolean. */
export function full<V extends number | boolean, D extends DType = DTypeOfData<V>>(
  shape: Shape,
  value: V,
  options: CreateOptions<D> = {},
): Tensor<NoInfer<D>> {
  signatures.full.check(arguments);
  return filledWith("full", value, shape, options);
}

function filledWith<D extends DType>(
  op: string,
  value: number | boolean,
  shape: Shape,
  options: CreateOptions<D>,
): Tensor<D> {
  checkShape(op, shape);
  const dtype = options.dtype ?? (typeof value === "boolean" ? "bool" : "f32");
  return placed(op, build.full(shape, Number(value), dtype), options.device);
}

/** `zeros([2, 3], options)`, or `zeros(2, 3)`; f32 by default. */
export function zeros<D extends DType = "f32">(shape: Shape, options?: CreateOptions<D>): Tensor<NoInfer<D>>;
export function zeros(...lengths: readonly number[]): Tensor<"f32">;
export function zeros(...given: readonly unknown[]): Tensor {
  return filled("zeros", 0, given);
}

/** `ones([2, 3], options)`, or `ones(2, 3)`; f32 by default. */
export function ones<D extends DType = "f32">(shape: Shape, options?: CreateOptions<D>): Tensor<NoInfer<D>>;
export function ones(...lengths: readonly number[]): Tensor<"f32">;
export function ones(...given: readonly unknown[]): Tensor {
  return filled("ones", 1, given);
}

function filled(op: "zeros" | "ones", value: number, given: readonly unknown[]): Tensor {
  if (given.length > 0 && given.every((one): one is number => typeof one === "number")) {
    return filledWith(op, value, given, {});
  }
  signatures[op].check(given);
  const [shape, options = {}] = given as readonly [Shape, CreateOptions?];
  return filledWith(op, value, shape, options);
}

/**
 * start, start + step, … below `end` (above it for a negative step); `arange(end)` starts at 0, `arange(start, end, step)` is
 * `arange(end, { start, step })`. The dtype is by default f32 where start or step is a fraction, else the first of i32, u32 and
 * f32 that holds all numbers (f32 rounds them). Throws ArgumentError where a dtype of integers that is asked for does not hold
 * them.
 */
export function arange<
  End extends number,
  Start extends number = 0,
  Step extends number = 1,
  D extends DType = Counted<End, Start, Step>,
>(
  end: End,
  options?: ArangeOptions<D, Start, Step>,
): Tensor<NoInfer<D>>;
export function arange<Start extends number, End extends number, Step extends number = 1>(
  start: Start,
  end: End,
  step?: Step,
): Tensor<Counted<End, Start, Step>>;
export function arange(...given: readonly unknown[]): Tensor {
  if (typeof given[1] === "number") {
    signatures.range.check(given);
    const [start, end, step] = given as readonly [number, number, number?];
    return counted(end, { start, step });
  }
  signatures.arange.check(given);
  const [end, options] = given as readonly [number, ArangeOptions?];
  return counted(end, options);
}

function counted(end: number, options?: ArangeOptions): Tensor {
  const { start = 0, step = 1 } = options ?? {};
  if (![start, end, step].every(Number.isFinite) || step === 0) {
    throw new ArgumentError("arange", {
      got: `start ${start}, end ${end}, step ${step}`,
      need: "finite numbers, a step other than 0",
    });
  }
  const count = Math.max(0, Math.ceil((end - start) / step));
  checkShape("arange", [count]);
  const last = count === 0 ? start : start + (count - 1) * step;
  const whole = Number.isInteger(start) && Number.isInteger(step);
  const fits = (integer: DType) => count === 0 || (whole && holds(integer, start) && holds(integer, last));
  const asked: DType | undefined = options?.dtype;
  if (asked === "bool") throw new DTypeError("arange", { got: "bool", need: "a dtype of numbers" });
  if (asked === "f16") return counted(end, { ...options, dtype: "f32" }).cast("f16");
  if ((asked === "i32" || asked === "u32") && !fits(asked)) {
    throw new ArgumentError("arange", {
      got: `${start} to ${last} by ${step} as ${asked}`,
      need: `whole numbers from ${dtypes[asked].least} to ${dtypes[asked].most}`,
    });
  }
  const dtype = asked ?? (!whole ? "f32" : fits("i32") ? "i32" : fits("u32") ? "u32" : "f32");
  const steps = build.iota(count, dtype);
  // Integers wrap, so that a step backwards or beyond their range leads to where it should.
  const scaled = step === 1 ? steps : build.elementwise("mul", steps, build.full([count], step, dtype));
  const node = start === 0 ? scaled : build.elementwise("add", scaled, build.full([count], start, dtype));
  return placed("arange", node, options?.device);
}

/** Numbers that linspace computes, on the host. */
const mostSpaced = 2 ** 27;

/** `count` f32 numbers at equal distances from `start` to `end`, both included; at most 2^27, as the host computes them. */
export function linspace(start: number, end: number, count: number, options: DeviceOption = {}): Tensor<"f32"> {
  signatures.linspace.check(arguments);
  if (!Number.isInteger(count) || count < 0 || count > mostSpaced) {
    throw new ShapeError("linspace", { got: `count ${count}`, need: `a whole number from 0 to ${mostSpaced}` });
  }
  if (!Number.isFinite(start) || !Number.isFinite(end)) {
    throw new ArgumentError("linspace", { got: `${start} to ${end}`, need: "finite numbers" });
  }
  const data = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    data[i] = i === count - 1 && i > 0 ? end : start + (end - start) * i / Math.max(1, count - 1);
  }
  return fromHost(data, [count], "f32", options.device);
}

/** Ones on the diagonal of a matrix, else zeros. */
export function eye<D extends DType = "f32">(rows: number, options: EyeOptions<D> = {}): Tensor<NoInfer<D>> {
  signatures.eye.check(arguments);
  const columns = options.columns ?? rows;
  checkShape("eye", [rows, columns]);
  const row = build.reshape(build.iota(rows), [rows, 1]);
  const node = apply("eq", row, build.iota(columns));
  return placed("eye", build.cast(node, options.dtype ?? "f32"), options.device);
}

/** Tensors joined along an axis (0 by default), in the dtype in which they meet. */
export function concat<T extends readonly Tensor[] | []>(tensors: T, options: AxisOptions = {}): Tensor<MeetAll<T>> {
  signatures.concat.check(arguments);
  return new Tensor(movement.concat(tensors.map((x) => x.node), options.axis ?? 0));
}

/** Tensors of equal shape side by side along a new axis (0 by default). */
export function stack<T extends readonly Tensor[] | []>(tensors: T, options: AxisOptions = {}): Tensor<MeetAll<T>> {
  signatures.stack.check(arguments);
  return new Tensor(movement.stack(tensors.map((x) => x.node), options.axis ?? 0));
}

/** A new last axis of length `classes`: 1 at the label, else 0; a label outside gives zeros. f32 by default. */
export function oneHot<D extends DType = "f32">(
  labels: Tensor,
  classes: number,
  options: DTypeOptions<D> = {},
): Tensor<NoInfer<D>> {
  signatures.oneHot.check(arguments);
  return new Tensor(oneHotNode(labels.node, classes, options.dtype ?? "f32"));
}

/** Einstein summation, `einsum("ij,jk->ik", a, b)`; see ops/contract.ts for the notation. */
export function einsum<T extends readonly Tensor[]>(spec: string, ...tensors: T): Tensor<Computed<MeetAll<T>>> {
  signatures.einsum.check(arguments);
  return new Tensor(einsumNodes(spec, tensors.map((x) => x.node)));
}

/** `a` where `condition` is true (not 0), else `b`; all broadcast. A NaN in what is not chosen does no harm. */
export function where<A extends Operand, B extends Operand>(
  condition: Operand,
  a: A,
  b: B,
): Tensor<MeetOperands<A, B>> {
  signatures.where.check(arguments);
  return new Tensor(whereNode(operand(condition), operand(a), operand(b)));
}

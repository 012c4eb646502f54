/** Making, cutting and converting host tensors: what data sets and batches are made of. */
import { ArgumentError, DTypeError, ShapeError } from "../errors.ts";
import { type DType, dtypes, type HostArray, isDType, toElement } from "../graph/dtype.ts";
import { checkShape, formatShape, type Shape, size } from "../graph/shape.ts";
import type { HostData, HostTensor } from "../parallel/host-batch.ts";

export interface HostTensorOptions {
  /** Default one axis. */
  readonly shape?: Shape;
  /** Default f32 for floats and with `scale`, u32 for a Uint32Array, i32 for the other integers. */
  readonly dtype?: DType;
  /** Factor applied when a batch is made, such as 1 / 255 for pixels. f32 only. */
  readonly scale?: number;
}

/**
 * An array with a shape, for `data.batches`; nothing is copied.
 * Throws ShapeError when the length does not fit, DTypeError for an array of another kind, ArgumentError for a bad
 * scale.
 */
export function hostTensor(values: HostData, options: HostTensorOptions = {}): HostTensor {
  const op = "data.array";
  if (!isHostData(values)) {
    throw new DTypeError(op, {
      got: Object.prototype.toString.call(values),
      need: "a typed array of at most 32-bit integers, or floats",
    });
  }
  const { shape = [values.length], scale } = options;
  const dtype = options.dtype ?? (scale === undefined ? dtypeOf(values) : "f32");
  checkShape(op, shape);
  if (size(shape) !== values.length) {
    throw new ShapeError(op, {
      got: `${values.length} elements for ${formatShape(shape)}`,
      need: `${size(shape)} elements`,
    });
  }
  if (!isDType(dtype)) throw new DTypeError(op, { got: String(dtype), need: Object.keys(dtypes).join(" or ") });
  if (scale !== undefined && !Number.isFinite(scale)) {
    throw new ArgumentError(op, { got: `scale ${scale}`, need: "a finite number" });
  }
  if (scale !== undefined && dtype !== "f32") throw new DTypeError(op, { got: `scale with ${dtype}`, need: "f32" });
  return scale === undefined
    ? { data: values, shape: [...shape], dtype }
    : { data: values, shape: [...shape], dtype, scale };
}

/** Rows `begin` to `end - 1` of the first axis, as a view of the same memory. */
export function sliceRows(host: HostTensor, begin: number, end: number): HostTensor {
  const row = size(host.shape.slice(1));
  return { ...host, data: host.data.subarray(begin * row, end * row), shape: [end - begin, ...host.shape.slice(1)] };
}

/** Copies the rows at `order[begin]` to `order[end - 1]` together. */
export function pickRows(host: HostTensor, order: Uint32Array, begin: number, end: number): HostTensor {
  const row = size(host.shape.slice(1));
  const ArrayOfKind = host.data.constructor as new (length: number) => HostData;
  const data = new ArrayOfKind((end - begin) * row);
  if (row === 1) {
    for (let i = begin; i < end; i++) data[i - begin] = host.data[order[i]!]!;
  } else {
    for (let i = begin; i < end; i++) {
      const from = order[i]! * row;
      data.set(host.data.subarray(from, from + row), (i - begin) * row);
    }
  }
  return { ...host, data, shape: [end - begin, ...host.shape.slice(1)] };
}

/**
 * The elements as the device gets them: converted to the dtype and scaled. Written into `into` when it is given (an
 * array
 * of the dtype's kind and the right length), else a fresh array, or the data itself where nothing has to be converted.
 */
export function elements(host: HostTensor, into?: HostArray): HostArray {
  const { data, dtype, scale } = host;
  const ArrayOfKind = dtypes[dtype].array;
  const rounds = dtype === "bool" || dtype === "f16";
  if (into === undefined && data instanceof ArrayOfKind && scale === undefined && !rounds) {
    return data as HostArray;
  }
  const result: HostArray = into ?? new ArrayOfKind(data.length);
  if (rounds) {
    for (let i = 0; i < data.length; i++) result[i] = toElement(dtype, data[i]!);
  } else if (scale === undefined) {
    result.set(data);
  } else {
    for (let i = 0; i < data.length; i++) result[i] = data[i]! * scale;
  }
  return result;
}

export function isHostData(value: unknown): value is HostData {
  return ArrayBuffer.isView(value) && !(value instanceof DataView) && !(value instanceof BigInt64Array) &&
    !(value instanceof BigUint64Array);
}

function dtypeOf(values: HostData): DType {
  if (values instanceof Float32Array || values instanceof Float64Array) return "f32";
  return values instanceof Uint32Array ? "u32" : "i32";
}

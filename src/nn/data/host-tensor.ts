/** Making, cutting and converting host tensors: what data sets and batches are made of. */
import { ArgumentError, DTypeError, ShapeError } from "../../errors.ts";
import { type DType, dtypes, type HostArray, toElement } from "../../graph/dtype.ts";
import { checkShape, formatShape, type Shape, size } from "../../graph/shape.ts";
import { type HostData, type HostTensor, isHostData, isHostTensor } from "../../parallel/split/host-batch.ts";
import { type Kind, number, optional, options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { dtype as dtypeKind, shape as shapeKind } from "../../tensor/kinds.ts";

/** What the numbers of an array are. */
export interface HostTensorOptions {
  /** Default one axis. */
  readonly shape?: Shape | undefined;
  /** Default f32 for floats and with `scale`, u32 for a Uint32Array, i32 for the other integers. */
  readonly dtype?: DType | undefined;
  /** Factor applied when a batch is made, such as 1 / 255 for pixels. f32 only. */
  readonly scale?: number | undefined;
}

const hostData: Kind<HostData> = {
  need: "a typed array of at most 32-bit integers, or floats",
  accepts: isHostData,
  error: DTypeError,
};
export const hostTensorKind: Kind<HostTensor> = {
  need: "a host tensor { data, shape, dtype }, such as data.array(…)",
  accepts: isHostTensor,
};
const signatures = {
  array: takes("data.array", {
    values: hostData,
    options: options<HostTensorOptions>({ shape: shapeKind, dtype: dtypeKind, scale: number }),
  }),
  sliceRows: takes("data.sliceRows", { host: hostTensorKind, begin: number, end: number }),
  elements: takes("data.elements", { host: hostTensorKind, into: optional(hostData) }),
};

/**
 * An array with a shape, for `data.batches`; nothing is copied.
 * Throws ShapeError when the length does not fit, DTypeError for an array of another kind, ArgumentError for a bad
 * scale.
 */
export function hostTensor(values: HostData, options: HostTensorOptions = {}): HostTensor {
  const op = "data.array";
  signatures.array.check(arguments);
  const { shape = [values.length], scale } = options;
  const dtype = options.dtype ?? (scale === undefined ? dtypeOf(values) : "f32");
  checkShape(op, shape);
  if (size(shape) !== values.length) {
    throw new ShapeError(op, {
      got: `${values.length} elements for ${formatShape(shape)}`,
      need: `${size(shape)} elements`,
    });
  }
  if (scale !== undefined && !Number.isFinite(scale)) {
    throw new ArgumentError(op, { got: `scale ${scale}`, need: "a finite number" });
  }
  if (scale !== undefined && dtype !== "f32") throw new DTypeError(op, { got: `scale with ${dtype}`, need: "f32" });
  return scale === undefined
    ? { data: values, shape: [...shape], dtype }
    : { data: values, shape: [...shape], dtype, scale };
}

/** Rows `begin` to `end - 1` of the first axis, as a view of the same memory. Throws ShapeError for rows that it does not have. */
export function sliceRows(host: HostTensor, begin: number, end: number): HostTensor {
  signatures.sliceRows.check(arguments);
  const [rows] = host.shape;
  if (
    rows === undefined || !Number.isInteger(begin) || !Number.isInteger(end) || begin < 0 || begin > end || end > rows
  ) {
    const need = rows === undefined ? "an axis of rows" : `0 <= begin <= end <= ${rows}`;
    throw new ShapeError("data.sliceRows", { got: `rows ${begin} to ${end} of ${formatShape(host.shape)}`, need });
  }
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
 * Throws DTypeError for an array of another kind, ShapeError for one of another length.
 */
export function elements(host: HostTensor, into?: HostArray): HostArray {
  signatures.elements.check(arguments);
  const { data, dtype, scale } = host;
  const ArrayOfKind = dtypes[dtype].array;
  if (into !== undefined && !(into instanceof ArrayOfKind)) {
    throw new DTypeError("data.elements", {
      got: `${(into as HostData).constructor.name} for ${dtype}`,
      need: ArrayOfKind.name,
    });
  }
  if (into !== undefined && into.length !== data.length) {
    throw new ShapeError("data.elements", { got: `${into.length} elements`, need: String(data.length) });
  }
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

function dtypeOf(values: HostData): DType {
  if (values instanceof Float32Array || values instanceof Float64Array) return "f32";
  return values instanceof Uint32Array ? "u32" : "i32";
}

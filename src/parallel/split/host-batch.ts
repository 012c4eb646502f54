/** Batches as the host holds them, and shards of their rows as a device takes them. */
import { ArgumentError, DTypeError, ShapeError } from "../../errors.ts";
import { type DType, isDType } from "../../graph/dtype.ts";
import { checkShape, formatShape, type Shape, size } from "../../graph/shape.ts";
import { toWords, type Words } from "../../graph/words.ts";
import { show } from "../../signature/show.ts";
import type { Modes } from "../../tensor/eager/mode.ts";
import { isTensor, type Tensor } from "../../tensor/tensor.ts";
import { deepest } from "../../tensor/transform/tree.ts";

/** Typed arrays that can hold a batch's elements. */
export type HostData =
  | Float32Array
  | Float64Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray;

/**
 * A tensor in host memory, in whatever element type its data came; it is converted to `dtype` when it is
 * uploaded.
 */
export interface HostTensor {
  /** The values, in order. */
  readonly data: HostData;
  /** Rows first. */
  readonly shape: Shape;
  /** What the values are. */
  readonly dtype: DType;
  /** Factor for f32 values, as 1/255 for the bytes of an image. Default 1. */
  readonly scale?: number;
}

/** Tensors of a batch in records and lists. All but scalars have a row for each sample on axis 0. */
export type Batch = Tensor | HostTensor | readonly Batch[] | { readonly [name: string]: Batch };

/** What may be given where a function takes the tensors `T`: each in host memory or as a tensor. */
export type BatchOf<T> = T extends Tensor ? Tensor | HostTensor : { readonly [K in keyof T]: BatchOf<T[K]> };

/** A batch taken apart: its tensors in order, and the way back to its structure. */
export interface Fields {
  /** What it was given to, for messages. */
  readonly op: string;
  readonly paths: readonly string[];
  readonly leaves: readonly (Tensor | HostTensor)[];
  /** Rows of the batch. */
  readonly rows: number;
  /**
   * Describes everything but the rows: structure, dtypes, shapes of a row. Equal for batches that one trace
   * serves.
   */
  readonly signature: string;
  /** Modes in which functions of it are traced; undefined before it was judged. */
  readonly modes?: Modes;
  /** The structure, with other leaves. */
  rebuild<L>(leaves: readonly L[]): unknown;
}

export function isHostTensor(x: unknown): x is HostTensor {
  if (typeof x !== "object" || x === null || !("data" in x) || !("shape" in x) || !("dtype" in x)) {
    return false;
  }
  return isHostData(x.data) && Array.isArray(x.shape) && isDType(x.dtype);
}

/** Whether it is a typed array of what an element may be: of no 64-bit integers. */
export function isHostData(x: unknown): x is HostData {
  return ArrayBuffer.isView(x) && !(x instanceof DataView) && !(x instanceof BigInt64Array) &&
    !(x instanceof BigUint64Array);
}

/** Whether a leaf has a row for each sample: all but scalars do. */
export function isBatched(leaf: { readonly shape: Shape }): boolean {
  return leaf.shape.length > 0;
}

/**
 * Takes a batch apart. Throws ShapeError when its tensors have different numbers of rows, or none has rows at
 * all, and ArgumentError for a leaf that is no tensor.
 */
export function fieldsOf(op: string, batch: Batch): Fields {
  const paths: string[] = [];
  const leaves: (Tensor | HostTensor)[] = [];
  const structure = collect(op, batch, "", paths, leaves);
  leaves.forEach((leaf, i) => {
    if (isHostTensor(leaf)) checkHostTensor(op, paths[i]!, leaf);
  });
  const rows = rowsOf(op, paths, leaves);
  const signature = structure.text +
    leaves.map((leaf) => `|${leaf.dtype}[${isBatched(leaf) ? ["rows", ...leaf.shape.slice(1)] : ""}]`).join(
      "",
    );
  return { op, paths, leaves, rows, signature, rebuild: (others) => structure.rebuild(others) };
}

interface Structure {
  readonly text: string;
  rebuild(leaves: readonly unknown[]): unknown;
}

function collect(
  op: string,
  x: Batch,
  path: string,
  paths: string[],
  leaves: (Tensor | HostTensor)[],
  depth = 0,
): Structure {
  if (depth > deepest) {
    throw new ArgumentError(op, {
      got: `a batch nested more than ${deepest} deep, or that contains itself`,
      need: "another one",
    });
  }
  if (isTensor(x) || isHostTensor(x)) {
    const index = leaves.length;
    paths.push(path === "" ? "the batch" : path);
    leaves.push(x);
    return { text: "*", rebuild: (others) => others[index] };
  }
  if (Array.isArray(x)) {
    const parts = Array.from(
      x as readonly Batch[],
      (part, i) => collect(op, part, `${path}[${i}]`, paths, leaves, depth + 1),
    );
    return {
      text: `[${parts.map((part) => part.text)}]`,
      rebuild: (others) => parts.map((part) => part.rebuild(others)),
    };
  }
  if (typeof x === "object" && x !== null && !ArrayBuffer.isView(x) && !(Symbol.iterator in x)) {
    const parts = Object.entries(x as { readonly [name: string]: Batch }).map(([name, part]) => {
      return [name, collect(op, part, path === "" ? name : `${path}.${name}`, paths, leaves, depth + 1)] as const;
    });
    return {
      text: `{${parts.map(([name, part]) => `${JSON.stringify(name)}:${part.text}`)}}`,
      rebuild: (others) => Object.fromEntries(parts.map(([name, part]) => [name, part.rebuild(others)])),
    };
  }
  throw new ArgumentError(op, {
    got: `${show(x)} as ${path === "" ? "the batch" : path}`,
    need:
      "tensors, or host tensors { data, shape, dtype }, in records and arrays: tensor(data) or data.batches make them",
  });
}

function checkHostTensor(op: string, path: string, leaf: HostTensor): void {
  checkShape(op, leaf.shape);
  if (leaf.data.length !== size(leaf.shape)) {
    throw new ShapeError(op, {
      got: `${path} with ${leaf.data.length} elements for ${formatShape(leaf.shape)}`,
      need: `${size(leaf.shape)} elements`,
    });
  }
  if (leaf.scale !== undefined && leaf.dtype !== "f32") {
    throw new DTypeError(op, {
      got: `${path} with a scale and dtype ${leaf.dtype}`,
      need: "f32 where there is a scale",
    });
  }
}

function rowsOf(op: string, paths: readonly string[], leaves: readonly { readonly shape: Shape }[]): number {
  const first = leaves.findIndex(isBatched);
  if (first < 0) {
    throw new ShapeError(op, {
      got: `a batch of ${leaves.length} scalars`,
      need: "a tensor with rows on axis 0",
    });
  }
  const rows = leaves[first]!.shape[0]!;
  if (leaves.some((leaf) => isBatched(leaf) && leaf.shape[0] !== rows)) {
    throw new ShapeError(op, {
      got: leaves.map((leaf, i) => `${paths[i]} ${formatShape(leaf.shape)}`).join(", "),
      need: "as many rows (axis 0) in each",
    });
  }
  return rows;
}

/** Rows `from` to `from + count - 1` as a device takes them. A scalar is given whole. */
export function rowsForUpload(leaf: HostTensor, from: number, count: number): Words {
  const width = isBatched(leaf) ? size(leaf.shape.slice(1)) : 1;
  const data = isBatched(leaf) ? leaf.data.subarray(from * width, (from + count) * width) : leaf.data;
  const scale = leaf.scale ?? 1;
  if (scale === 1) return toWords(leaf.dtype, data);
  const scaled = new Float32Array(data.length);
  for (let i = 0; i < scaled.length; i++) scaled[i] = data[i]! * scale;
  return scaled;
}

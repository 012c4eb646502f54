import type { Device } from "../../devices/device/device.ts";
import { ArgumentError, DTypeError, ShapeError } from "../../errors.ts";
import { formatShape } from "../../graph/shape.ts";
import { options } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { concat } from "../../tensor/create.ts";
import { device, trees } from "../../tensor/kinds.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { flattenTree, type FlatTree, type TensorsOf, type Tree } from "../../tensor/transform/tree.ts";
import { alongAxis, type AxisOptions, batchAxes } from "./scatter.ts";

/** How shards are joined. */
export interface GatherOptions extends AxisOptions {
  /** Where the result shall be. Default: the device of the first shard. */
  readonly device?: Device | undefined;
}

const signature = takes("parallel.gather", {
  shards: trees,
  options: options<GatherOptions>({ ...alongAxis, device }),
});

/**
 * Joins shards along their batch axis, in order: the inverse of `scatter` with the same options. Of what is
 * not batched, the first shard's is taken.
 *
 * Throws ArgumentError for no shards or shards of other forms, ShapeError and DTypeError for leaves that do
 * not fit together.
 */
export function gather<T extends Tree>(shards: readonly T[], options: GatherOptions = {}): TensorsOf<T> {
  signature.check(arguments);
  const { op } = signature;
  const flats = sameForm(op, shards);
  const first = flats[0]!;
  const axes = batchAxes(op, first, options);
  return first.rebuild(first.leaves.map((leaf, i) => {
    const device = options.device ?? leaf.device;
    const here = (x: Tensor) => device === undefined ? x : x.to(device);
    const axis = axes[i];
    if (axis === undefined) return here(leaf);
    const parts = flats.map((flat) => flat.leaves[i]!);
    checkParts(op, first.paths[i]!, parts, axis);
    return concat(parts.map(here), { axis });
  })) as TensorsOf<T>;
}

/** Trees taken apart. Throws ArgumentError unless there is at least one and all are of one form. */
export function sameForm(op: string, trees: readonly Tree[]): FlatTree[] {
  if (trees.length === 0) throw new ArgumentError(op, { got: "no shards", need: "at least one" });
  const flats = trees.map((tree) => flattenTree(op, tree));
  const other = flats.findIndex((flat) => flat.key !== flats[0]!.key);
  if (other !== -1) {
    const form = (flat: FlatTree) => `[${flat.paths.join(", ")}]`;
    throw new ArgumentError(op, {
      got: `shard 0 of the form ${form(flats[0]!)} and shard ${other} of ${form(flats[other]!)}`,
      need: "one form",
    });
  }
  return flats;
}

function checkParts(op: string, path: string, parts: readonly Tensor[], axis: number): void {
  const [first] = parts;
  const fits = parts.every(({ shape }) =>
    shape.length === first!.shape.length && shape.every((n, i) => i === axis || n === first!.shape[i])
  );
  const shown = () =>
    `${path === "" ? "" : `${path} `}${parts.map((part) => `${part.dtype}${formatShape(part.shape)}`).join(", ")}`;
  if (!fits) throw new ShapeError(op, { got: shown(), need: `shapes that are equal but for axis ${axis}` });
  if (parts.some((part) => part.dtype !== first!.dtype)) {
    throw new DTypeError(op, { got: shown(), need: "one dtype" });
  }
}

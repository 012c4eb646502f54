import type { Device } from "../../devices/device/device.ts";
import { ArgumentError, ShapeError } from "../../errors.ts";
import { formatShape, resolveAxis } from "../../graph/shape.ts";
import { type Fields, listOf, number, options, string } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { axis, devices, tree } from "../../tensor/kinds.ts";
import { flattenTree, type FlatTree, type TensorsOf, type Tree } from "../../tensor/transform/tree.ts";
import { requireDistinct } from "../run/fleet.ts";
import { shardOffsets, shardSizes } from "../split/shard-sizes.ts";

/** Along which axis. */
export interface AxisOptions {
  /** The batch axis of every leaf. Default 0. */
  readonly axis?: number | undefined;
  /**
   * Paths of leaves, or of parts of the tree, that are not batched, as in `["table", "layers[0]"]`. Scalars
   * never are.
   */
  readonly replicated?: readonly string[] | undefined;
}

/** How a tensor is scattered. */
export interface ScatterOptions extends AxisOptions {
  /** How much each device gets, in proportion to these numbers. By default equal shares. */
  readonly capacities?: readonly number[] | undefined;
}

/** What `AxisOptions` are. */
export const alongAxis: Fields<AxisOptions> = {
  axis,
  replicated: listOf(string, 'a list of paths, such as ["table", "layers[0]"]'),
};

const signature = takes("parallel.scatter", {
  tree,
  devices,
  options: options<ScatterOptions>({ ...alongAxis, capacities: listOf(number, "a number for each device") }),
});

/**
 * Cuts every leaf of a tree along its batch axis into a shard for each device, and moves it there: one tree
 * for each device, in order. Sizes are those of `shardSizes`, so that no row is lost; a shard may have no
 * rows. What is not batched goes whole to each device.
 *
 * Throws ShapeError when the leaves differ in the length of their batch axis or one does not have it,
 * ArgumentError or DeviceError for no devices or one listed twice.
 */
export function scatter<T extends Tree>(
  tree: T,
  devices: readonly Device[],
  options: ScatterOptions = {},
): TensorsOf<T>[] {
  signature.check(arguments);
  const { op } = signature;
  requireDistinct(op, devices);
  const flat = flattenTree(op, tree);
  const axes = batchAxes(op, flat, options);
  const { capacities } = options;
  if (capacities !== undefined && capacities.length !== devices.length) {
    throw new ArgumentError(op, {
      got: `${capacities.length} capacities for ${devices.length} devices`,
      need: "one for each device",
    });
  }
  const sizes = shardSizes(
    batchLength(op, flat, axes),
    capacities === undefined ? devices.length : { capacities },
  );
  const offsets = shardOffsets(sizes);
  return devices.map((device, i) => {
    const leaves = flat.leaves.map((leaf, j) => {
      const axis = axes[j];
      const part = axis === undefined ? leaf : leaf.slice({ axis, start: offsets[i]!, end: offsets[i]! + sizes[i]! });
      return part.to(device);
    });
    return flat.rebuild(leaves) as TensorsOf<T>;
  });
}

/** The batch axis of each leaf; undefined for one that is not batched. */
export function batchAxes(
  op: string,
  flat: FlatTree,
  { axis = 0, replicated = [] }: AxisOptions,
): (number | undefined)[] {
  const unknown = replicated.find((path) => !flat.paths.some((leaf) => isWithin(leaf, path)));
  if (unknown !== undefined) {
    throw new ArgumentError(op, {
      got: `"${unknown}" as replicated`,
      need: `a path of ${flat.paths.map((path) => `"${path}"`).join(", ")}`,
    });
  }
  return flat.leaves.map((leaf, i) => {
    if (leaf.rank === 0 || replicated.some((path) => isWithin(flat.paths[i]!, path))) return undefined;
    return resolveAxis(op, axis, leaf.rank);
  });
}

/** The length of the batch axis, which all batched leaves share; 0 where none is batched. */
function batchLength(op: string, flat: FlatTree, axes: readonly (number | undefined)[]): number {
  const lengths = flat.leaves.flatMap((leaf, i) => axes[i] === undefined ? [] : [leaf.shape[axes[i]]!]);
  if (new Set(lengths).size > 1) {
    throw new ShapeError(op, {
      got: flat.leaves.map((leaf, i) => `${flat.paths[i] === "" ? "" : `${flat.paths[i]} `}${formatShape(leaf.shape)}`)
        .join(", "),
      need: "one length of the batch axis, as nothing is dropped; name leaves that are not batched in { replicated }",
    });
  }
  return lengths[0] ?? 0;
}

function isWithin(leaf: string, path: string): boolean {
  return leaf === path || (leaf.startsWith(path) && /^[.[]/.test(leaf.slice(path.length)));
}

import { another, reshape, slice } from "../../graph/build.ts";
import type { Node } from "../../graph/node.ts";
import { type Shape, size } from "../../graph/shape.ts";
import { recordOf } from "./record.ts";

/** A part of a vector, and the nodes that it was as, by what stands for the vector's value. */
export interface Part {
  readonly offset: number;
  readonly parts: WeakMap<object, WeakRef<Node>>;
}

/**
 * The part of `whole` that has `shape`, `of` being what stands for that value: one node for each, by which can be differentiated
 * as often as it is asked for.
 */
export function partOf(whole: Node, of: object, { offset, parts }: Part, shape: Shape): Node {
  // Weak, as it may be the last to keep alive what the base's value was computed from.
  let part = parts.get(of)?.deref();
  if (part === undefined) {
    part = reshape(slice(whole, [offset], [size(shape)], [1]), shape);
    if (part === whole) part = another(whole);
    recordOf(part).shown = true;
    parts.set(of, new WeakRef(part));
  }
  return part;
}

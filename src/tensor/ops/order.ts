/** Sorting, and running sums and products, of nodes along an axis. */
import * as build from "../../graph/build.ts";
import { computed } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import { resolveAxis } from "../../graph/shape.ts";
import { apply } from "./elementwise.ts";
import { flip, moveAxis } from "./movement.ts";

/** i32 positions that sort an axis, stably. Ascending puts NaN last, descending first. */
export function argsort(x: Node, axis: number, descending: boolean): Node {
  const at = resolveAxis("argsort", axis, x.shape.length);
  const last = x.shape.length - 1;
  const values = moveAxis(build.cast(x, computed(x.dtype)), at, last);
  if (!descending) return moveAxis(build.argsort(values), last, at);
  // The ascending order of the reversed axis, read backwards, keeps equal elements in their order.
  const length = x.shape[at]!;
  const backwards = flip(build.argsort(flip(values, last)), last);
  return moveAxis(apply("sub", length - 1, backwards), last, at);
}

export function sort(x: Node, axis: number, descending: boolean): Node {
  const at = resolveAxis("sort", axis, x.shape.length);
  return build.gather(x, argsort(x, at, descending), at);
}

/** Running sums (products) along an axis. */
export function cumulative(op: "sum" | "prod", x: Node, axis: number): Node {
  const at = resolveAxis(op === "sum" ? "cumsum" : "cumprod", axis, x.shape.length);
  return build.scan(op, build.cast(x, computed(x.dtype)), at);
}

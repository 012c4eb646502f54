/** Functions of which gradients compute the inner values again. */
import * as build from "../../graph/build.ts";
import { callable } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { Tensor } from "../tensor.ts";
import { flattenTree } from "./tree.ts";

const signature = takes("checkpoint", { fn: callable });

/**
 * A function that gives what `fn` gives. Where gradients flow through it, they do not read the values inside, but compute
 * them again from the arguments when they need them: in a compiled step, memory then holds what goes in and out of such a
 * function, for one more forward computation. What `fn` uses from outside (parameters, other tensors) and computes from that
 * alone is kept as ever, random masks are the same both times, and calls may be nested.
 * `fn` takes trees of tensors and plain values, and returns one. Throws ArgumentError for anything else.
 * Chen, Xu, Zhang, Guestrin: Training Deep Nets with Sublinear Memory Cost (2016).
 */
export function checkpoint<Arguments extends unknown[], Result>(
  fn: (...args: Arguments) => Result,
): (...args: Arguments) => Result {
  signature.check(arguments);
  return (...args) => {
    const region = build.newRegion();
    const given = flattenTree("checkpoint", args, { statics: true });
    const marked = given.leaves.map((leaf) => new Tensor(build.checkpoint(leaf.node, region, "in")));
    const result = flattenTree("checkpoint", fn(...given.rebuild(marked) as Arguments), { statics: true });
    const nodes = result.leaves.map((leaf) => leaf.node);
    const values = nodes.map((node, i) => build.checkpoint(node, region, "out", nodes.filter((_, j) => j !== i)));
    return result.rebuild(values.map((node) => new Tensor(node))) as Result;
  };
}

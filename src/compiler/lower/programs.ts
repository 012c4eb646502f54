/** The programs of ops that have one of their own: source that is written out, of what is in memory. */
import type { Node, NodeOf } from "../../graph/node.ts";
import type { StructuralOf } from "../../graph/structural.ts";
import type { Program, Target } from "../plan/plan.ts";
import { argsortProgram } from "./argsort.ts";

const programs: { readonly [K in StructuralOf<"program">]: (node: NodeOf<K>, target: Target) => Program } = {
  argsort: argsortProgram,
};

/** The program of a node of at least one element. It binds the sources, whole and in order, and then the result. */
export function ownProgram(node: NodeOf<StructuralOf<"program">>, target: Target): Program {
  // Each entry of the table takes the node of its own op, which is the one it is looked up with.
  return (programs[node.op] as (node: Node, target: Target) => Program)(node, target);
}

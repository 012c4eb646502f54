/** Kernels under construction: one value each, before they are grouped. */
import type { Node, ReductionNode } from "../../graph/node.ts";
import type { Variable } from "../kernel/index-arithmetic.ts";

/** A kernel under construction: the root's axes as variables; `outer` are those that row reductions were hoisted to. */
export interface Draft {
  readonly id: number;
  readonly root: Node;
  readonly variables: readonly Variable[];
  outer: ReadonlySet<Variable> | undefined;
  contraction: ReductionNode | undefined;
}

/** The axes of a root that invocations walk in parallel, and those that one walks serially; axes of length 1 are left out. */
export function splitAxes(draft: Draft): { outer: number[]; row: number[] } {
  const outer: number[] = [];
  const row: number[] = [];
  for (const [axis, variable] of draft.variables.entries()) {
    if (variable.extent !== 1) (isOuter(draft, variable) ? outer : row).push(axis);
  }
  return { outer, row };
}

/** The variables of the axes that are walked in parallel, those of length 1 too. */
export function outerVariables(draft: Draft): Variable[] {
  return draft.variables.filter((variable) => isOuter(draft, variable));
}

/** The lengths of the axes that are walked in parallel, those of length 1 left out. */
export function outerExtents(draft: Draft): number[] {
  return outerVariables(draft).map(({ extent }) => extent).filter((extent) => extent !== 1);
}

/** Whether an invocation walks a row of elements. */
export function hasRows(draft: Draft): boolean {
  return draft.variables.some((variable) => variable.extent > 1 && !isOuter(draft, variable));
}

/** Whether invocations walk the axis of a variable in parallel. */
export function isOuter({ outer }: Draft, variable: Variable): boolean {
  return outer === undefined || outer.has(variable);
}

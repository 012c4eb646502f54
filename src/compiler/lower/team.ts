/** A workgroup for each element, whose invocations take the steps of a row's loop, and of a reduction's, in turn. */
import type { ReductionNode } from "../../graph/node.ts";
import { size } from "../../graph/shape.ts";
import { add, type Index, scale, unflatten, type Variable, variableIndex, within } from "../kernel/index-arithmetic.ts";
import type { Expr, KernelBuilder, Scope } from "../kernel/ir.ts";
import type { TeamWalk } from "../tile/tile.ts";
import type { Invocations } from "./plain-domains.ts";

export interface TeamDomain extends Invocations {
  readonly kind: "team";
  /** The invocation's number in its team. */
  readonly member: Variable;
}

export function teamDomain(builder: KernelBuilder, extents: readonly number[], { invocations }: TeamWalk): TeamDomain {
  const member = builder.variable("local", invocations);
  const element = builder.variable("i", size(extents));
  const lanes = [{ indices: unflatten(variableIndex(element), extents), when: undefined }];
  return {
    kind: "team",
    parallel: [element, member],
    lanes,
    loadedOnly: 0,
    workgroup: invocations,
    together: true,
    member,
  };
}

/** A loop over steps. */
export interface Steps {
  readonly variable: Variable;
  readonly body: Scope;
  /** The step that an invocation is at. */
  readonly step: Index;
  /** Whether there is such a step. */
  readonly inside: Expr | undefined;
}

/** Opens a loop over so many steps in `parent`, which the invocations of a team take in turn, if there is one. */
export function openSteps(
  builder: KernelBuilder,
  prefix: string,
  count: number,
  parent: Scope,
  team: TeamDomain | undefined,
): Steps {
  if (team === undefined) {
    const variable = builder.variable(prefix, count);
    return {
      variable,
      body: builder.openLoop(parent, variable),
      step: variableIndex(variable),
      inside: undefined,
    };
  }
  const { member } = team;
  const variable = builder.variable(prefix, Math.ceil(count / member.extent));
  const body = builder.openLoop(parent, variable);
  const step = add(scale(variableIndex(variable), member.extent), variableIndex(member));
  const inside = count % member.extent === 0 ? undefined : builder.within(step, 0, count);
  return { variable, body, step: within(step, 0, Math.max(0, count - 1)), inside };
}

/** What the invocations of a team have of a reduction, combined. */
export function combinedByTeam(builder: KernelBuilder, node: ReductionNode, own: Expr, { member }: TeamDomain): Expr {
  const array = builder.combiningArray(node.dtype, member.extent);
  const accumulator = builder.accumulator(node.op, node.dtype, builder.root);
  builder.root.statements.push({ kind: "update", accumulator, value: own }, {
    kind: "combine",
    accumulators: [accumulator],
    columns: 1,
    array,
  });
  return builder.result(accumulator, builder.root);
}

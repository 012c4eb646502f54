/** Plans of graphs that differ in lengths only: from the second one on, kernels are made for any length. */
import { planOf } from "../../compiler/cache.ts";
import type { CompileRequest } from "../../compiler/compile.ts";
import type { Plan, Target } from "../../compiler/plan/plan.ts";
import type { PlanFamily } from "../../devices/device/family.ts";
import type { Shape } from "../../graph/shape.ts";

/** The lengths in which two lists of shapes differ. */
export interface Lengths {
  readonly own: readonly number[];
  readonly others: readonly number[];
}

/** Of what a graph is one. */
export interface FamilyOptions {
  readonly family?: PlanFamily | undefined;
  /** Another graph, and in what lengths they differ; undefined where not only in those, or in none. */
  readonly others?: { readonly request: CompileRequest; readonly lengths: Lengths | undefined } | undefined;
}

/** Undefined for shapes that differ in more than lengths, or not at all. */
export function differing(own: readonly Shape[], others: readonly Shape[]): Lengths | undefined {
  if (own.length !== others.length || own.some((shape, i) => shape.length !== others[i]!.length)) return undefined;
  const lengths = (
    of: readonly Shape[],
    from: readonly Shape[],
  ) => [...new Set(of.flatMap((shape, i) => shape.filter((length, axis) => length !== from[i]![axis])))];
  const found = { own: lengths(own, others), others: lengths(others, own) };
  return found.own.length > 0 ? found : undefined;
}

/** The plan of a graph, for any lengths where another graph of its family is known. */
export function planInFamily(request: CompileRequest, target: Target, { family, others }: FamilyOptions): Plan {
  if (family === undefined || others?.lengths === undefined || target.language !== "wgsl") {
    return planOf(request, target);
  }
  family.example ??= planOf(others.request, { ...target, varying: others.lengths.others }).programs;
  return planOf(request, { ...target, varying: others.lengths.own });
}

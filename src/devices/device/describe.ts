import type { Plan } from "../../compiler/plan/plan.ts";

/** What a plan does, for a line of debug output; `compiled` of its kernels were new to the device. */
export function describe(plan: Plan, compiled: number): string {
  const copies = plan.steps.filter((step) => step.kind === "copy").length;
  const dispatches = plan.steps.length - copies;
  return `${dispatches} dispatches and ${copies} copies of ${plan.programs.length} kernels (${compiled} new)`;
}

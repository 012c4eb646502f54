/** What the compiler shows of its work: DEBUG=3 plans, DEBUG=4 sources, DEBUG=5 graphs, and DUMP=folder for all of it. */
import { flags } from "../debug/flags.ts";
import { numberedSource } from "../debug/listing.ts";
import { debugLine, writeAsked } from "../debug/log.ts";
import type { Node } from "../graph/node.ts";
import { printGraph, toDot } from "../graph/print.ts";
import { makeFolder } from "../host/files.ts";
import { syncFiles } from "../host/host.ts";
import type { Plan } from "./plan/plan.ts";

let dumped = 0;

/** The steps of a plan, one line each: kernel, workgroups, slots, operations and bytes. */
export function printPlan(plan: Plan): string {
  return plan.steps.map((step, i) => {
    if (step.kind === "copy") return `${i}: copy slot ${step.from} to ${step.to}, ${step.bytes} bytes`;
    const program = plan.programs[step.program]!;
    const size = program.language === "wgsl"
      ? `${program.workgroups.join("x")} workgroups`
      : `${program.invocations} invocations`;
    return `${i}: ${program.name} on slots [${step.slots}], ${size}, ${program.flops} flop, ${program.bytes} bytes`;
  }).join("\n");
}

/** Prints and dumps, as far as the flags ask for it. */
export function report(given: readonly Node[], simplified: readonly Node[], plan: Plan): void {
  const { debug, dump } = flags();
  if (debug >= 3) debugLine(3, () => printPlan(plan));
  if (debug >= 4) {
    for (const program of plan.programs) {
      debugLine(4, () => `${program.name}\n${numberedSource(program.source)}`);
    }
  }
  if (debug >= 5) debugLine(5, () => `graph\n${printGraph(given)}\nsimplified\n${printGraph(simplified)}`);
  if (dump === undefined) return;
  const files = syncFiles();
  if (files === undefined) return;
  const folder = `${dump}/plan-${String(dumped++).padStart(4, "0")}`;
  writeAsked("dump", dump, () => {
    makeFolder(folder);
    files.writeFileSync(`${folder}/graph.dot`, toDot(given));
    files.writeFileSync(`${folder}/simplified.dot`, toDot(simplified));
    files.writeFileSync(`${folder}/plan.txt`, `${printPlan(plan)}\n`);
    plan.programs.forEach((program, i) => {
      files.writeFileSync(`${folder}/${i}-${program.name}.${program.language}`, program.source);
    });
  });
}

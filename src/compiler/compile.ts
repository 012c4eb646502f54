/** From a graph to a plan: simplify, store operands, split, schedule, merge, lay out, lower, tile, render. */
import { InternalError } from "../errors.ts";
import { mergingEqual, type Node, toposort } from "../graph/node.ts";
import { kernelOf } from "../graph/structural.ts";
import { assemble, isDispatched } from "./assemble.ts";
import { donorsLast, overwritesTooEarly } from "./donation.ts";
import { kernelsOf } from "./group/kernels.ts";
import { type Layout, layOut, type LayoutRequest } from "./group/memory.ts";
import type { KernelGroup } from "./group/merge.ts";
import { takeWaits, type Waits } from "./group/waits.ts";
import { type Watch, type Watched, watchedParts } from "./group/watch.ts";
import { type LoweredGroup, lowerGroup } from "./lower/lower-group.ts";
import { type ContractionSchedule, signatureOf } from "./plan/contraction-schedules.ts";
import type { Plan, Target } from "./plan/plan.ts";
import { wholeBlocks } from "./prepare/attention-operands.ts";
import { problemOf } from "./prepare/contraction.ts";
import { readHalves } from "./prepare/half-reads.ts";
import { scansInBlocks } from "./prepare/scans.ts";
import { splitReductions } from "./prepare/split-reductions.ts";
import { storeOperands } from "./prepare/stored-operands.ts";
import { keepDonors, materializeOperands } from "./prepare/written-values.ts";
import { report } from "./report.ts";
import { simplify } from "./simplify/simplify.ts";

/** What is to be computed, from what. */
export interface CompileRequest {
  /** The values wanted, in order; may repeat, may be inputs themselves. */
  readonly roots: readonly Node[];
  /** Nodes whose values are given: placeholders, storages, and anything else that exists already. All leaves that the roots need. */
  readonly inputs: readonly Node[];
  /** Root `output` is to be written over input `input` (same bytes). Always honoured, by a copy where it must. */
  readonly donate?: readonly { readonly input: number; readonly output: number }[];
  /** Asks for a plan for items (see Plan): the positions of the inputs that all items have in common. */
  readonly common?: readonly number[];
  /** Values that kernels look at as they store them. */
  readonly watch?: Watch;
}

/** The schedule of a contraction. */
export interface ChosenSchedule {
  /** Under which it is looked for among the tuned ones; undefined where none can be. */
  readonly signature: string | undefined;
  readonly schedule: ContractionSchedule;
}

/** The nodes behind a step of a plan. They are of the simplified graph. */
export interface StepNodes {
  /** Sources first; the ones in `writes` among them. */
  readonly computes: readonly Node[];
  /** Values in memory: inputs of the request, and what earlier steps wrote. */
  readonly reads: readonly Node[];
  readonly writes: readonly Node[];
  /** How it computes its contraction, if it has one. */
  readonly contraction?: ChosenSchedule;
}

/** What the nodes of a plan became: the roots of the request, in their order, and the nodes of each dispatch. */
export interface PlanNodes {
  readonly roots: readonly Node[];
  readonly steps: readonly StepNodes[];
}

/** Whether plans for items can be made of a graph: programs of ops are for one at a time, as that of sorting. */
export function servesItems(roots: readonly Node[], inputs: readonly Node[]): boolean {
  const given = new Set(inputs);
  return !toposort(roots, (node) => !given.has(node)).some((node) => kernelOf(node) === "program" && !given.has(node));
}

/**
 * Compiles a graph to a plan for a device of this kind. Deterministic: equal graphs give equal plans. `observe` is told
 * what each kernel computes.
 * Throws OutOfMemoryError for a value larger than the device can bind.
 */
export function compileGraph(request: CompileRequest, target: Target, observe?: (nodes: PlanNodes) => void): Plan {
  // What a pass makes of equal parts is one node, too.
  return mergingEqual(() => compiled(request, target, observe));
}

function compiled(request: CompileRequest, target: Target, observe: ((nodes: PlanNodes) => void) | undefined): Plan {
  const given = new Set(request.inputs);
  const { roots, watched, waits } = prepared(request, given, target);
  const values = new Set(watched.keys());
  checkLeaves([...roots, ...values], given);
  const { watch, donate = [] } = request;
  const { groups, stored } = kernelsOf({
    roots: [...roots, ...values],
    given,
    waits,
    maxBuffers: target.maxStorageBuffersPerKernel,
    watched: watch && { values, faults: request.inputs[watch.faults]! },
  });
  const ordered = donorsLast(groups, donate.map(({ output }) => roots[output]!));
  const { layout, lowered } = inMemory(ordered, {
    inputs: request.inputs,
    roots,
    stored,
    whole: new Set(stored.filter((node) => kernelOf(node) === "program").flatMap(({ src }): readonly Node[] => src)),
    donate,
    common: request.common && new Set(request.common.map((input) => request.inputs[input]!)),
    watch: watch && { ...watch, parts: watched },
  }, target);
  const plan = assemble(lowered, layout, target, request.common !== undefined);
  report(request.roots, roots, plan);
  observe?.({ roots, steps: lowered.filter(isDispatched).map((of) => nodesOf(of, layout)) });
  return plan;
}

/** A graph as kernels want it: its roots, what is to be watched as it is stored, and what waits for what. */
function prepared(
  { roots, inputs, watch, donate = [] }: CompileRequest,
  given: ReadonlySet<Node>,
  target: Target,
): { roots: Node[]; watched: Map<Node, Watched[]>; waits: Waits } {
  // What is watched is stored as roots are, but has no memory outside of the plan.
  const watched = watch?.values ?? [];
  const all = [...roots, ...watched.map(({ node }) => node)];
  const simplified = simplify(target.language === "wgsl" ? scansInBlocks(all, given) : all, given);
  const operands = storeOperands(wholeBlocks(readHalves(simplified, given), given, target), given);
  const written = materializeOperands(splitReductions(operands, given, target), given);
  const { roots: last, waits } = takeWaits(keepDonors(written, inputs, donate), given);
  const values = watched.map((of, i) => ({ ...of, node: last[roots.length + i]! }));
  return { roots: last.slice(0, roots.length), watched: watchedParts(values, given), waits };
}

/** Kernels in their memory. Updating in place is tried first; what turns out to be read after it is written goes through a copy. */
function inMemory(
  groups: readonly KernelGroup[],
  request: Omit<LayoutRequest, "copied">,
  target: Target,
): { layout: Layout; lowered: LoweredGroup[] } {
  const { inputs, roots, stored, donate } = request;
  const isInMemory = new Set([...inputs, ...stored]);
  const copied = new Set<number>();
  for (;;) {
    const layout = layOut({ ...request, copied });
    const lowered = groups.map((group) => lowerGroup(group, layout, target));
    const hazards = donate.filter(({ input, output }) =>
      !copied.has(output) &&
      overwritesTooEarly(lowered, roots[output]!, inputs[input]!, layout.inputs[input]!, isInMemory)
    );
    if (hazards.length === 0) return { layout, lowered };
    for (const { output } of hazards) copied.add(output);
  }
}

function checkLeaves(roots: readonly Node[], given: ReadonlySet<Node>): void {
  for (const node of toposort(roots, (node) => !given.has(node))) {
    if (kernelOf(node) === "given" && !given.has(node)) {
      throw new InternalError("compileGraph", {
        got: `a graph with the leaf ${node.op} #${node.id}`,
        need: "that leaf among the inputs",
      });
    }
  }
}

function nodesOf({ group, schedule }: LoweredGroup, layout: Layout): StepNodes {
  const inMemory = (node: Node) => layout.source(node) !== undefined;
  const writes = group.drafts.map((draft) => draft.root);
  const isRead = (node: Node) => inMemory(node) && !writes.includes(node);
  const order = toposort(writes, (node) => !isRead(node));
  const nodes = { computes: order.filter((node) => !isRead(node)), reads: order.filter(isRead), writes };
  const { contraction } = group.drafts[0];
  if (schedule === undefined || contraction === undefined) return nodes;
  const problem = problemOf(contraction, inMemory);
  return { ...nodes, contraction: { signature: problem && signatureOf(problem), schedule } };
}

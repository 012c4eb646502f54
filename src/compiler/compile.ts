/** From a graph to a plan: simplify, store operands, split, schedule, merge, lay out, lower, tile, render. */
import { flags } from "../debug/flags.ts";
import { InternalError, OutOfMemoryError } from "../errors.ts";
import { isKind, makeFor, makeNode, mergingEqual, type Node, type NodeOf, toposort } from "../graph/node.ts";
import { size } from "../graph/shape.ts";
import { kernelOf, type StructuralOf } from "../graph/structural.ts";
import { type Schedule, schedule } from "./group/fuse.ts";
import { type Layout, layOut, shareTemporaries, type SlotDraft } from "./group/memory.ts";
import { type KernelGroup, mergeKernels } from "./group/merge.ts";
import { takeWaits, type Waits } from "./group/waits.ts";
import { type Watch, watchedParts } from "./group/watch.ts";
import { eachStatement, type KernelIR } from "./kernel/ir.ts";
import type { Location } from "./kernel/location.ts";
import { isContraction } from "./kernel/patterns.ts";
import { overwritesWhatItRead } from "./lower/in-place.ts";
import { lower } from "./lower/lower.ts";
import { ownProgram } from "./lower/programs.ts";
import { attentionBlock } from "./plan/attention-block.ts";
import { type ContractionSchedule, signatureOf } from "./plan/contraction-schedules.ts";
import type { Plan, PlanStep, Program, Target } from "./plan/plan.ts";
import { wholeBlocks } from "./prepare/attention-operands.ts";
import { problemOf } from "./prepare/contraction.ts";
import { readHalves } from "./prepare/half-reads.ts";
import { splitReductions } from "./prepare/split-reductions.ts";
import { storeOperands } from "./prepare/stored-operands.ts";
import { renderJs } from "./render/js.ts";
import { renderWgsl } from "./render/wgsl.ts";
import { report } from "./report.ts";
import { simplify } from "./simplify/simplify.ts";
import { contractionTile } from "./tile/contraction-tile.ts";
import { loadsPerElement, readsInParts, sharedLoads } from "./tile/shared-loads.ts";
import { chooseTile, countOperations, plainBlock, plainTile, type Tile } from "./tile/tile.ts";

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
  const { watch } = request;
  // What is watched is stored as roots are, but has no memory outside of the plan.
  const wanted = [...request.roots, ...watch?.values.map(({ node }) => node) ?? []];
  const simplified = wholeBlocks(readHalves(simplify(wanted, given), given), given, target);
  const split = splitReductions(storeOperands(simplified, given), given, target);
  const { roots: all, waits } = takeWaits(keepDonors(materializeOperands(split, given), request), given);
  const roots = all.slice(0, request.roots.length);
  const parts = watchedParts(all.slice(roots.length).map((node, i) => ({ ...watch!.values[i]!, node })), given);
  const seen = [...parts.keys()];
  checkLeaves([...roots, ...seen], given);
  const donate = request.donate ?? [];
  const common = request.common && new Set(request.common.map((input) => request.inputs[input]!));
  const watched = watch && { values: new Set(parts.keys()), faults: request.inputs[watch.faults]! };
  const { groups, stored } = kernels([...roots, ...seen], given, waits, watched, target);
  const ordered = donorsLast(groups, new Set(donate.flatMap((pair) => [...writtenParts(roots[pair.output]!)])));

  // Updating in place is tried first; what turns out to be read after it is written goes through a copy.
  const copied = new Set<number>();
  const inMemory = new Set([...given, ...stored]);
  const whole = new Set(stored.filter((node) => kernelOf(node) === "program").flatMap((node) => node.src));
  for (;;) {
    const layout = layOut({
      inputs: request.inputs,
      roots,
      stored,
      whole,
      donate,
      copied,
      common,
      watch: watch && { ...watch, parts },
    });
    const chosen = new Map<KernelGroup, ContractionSchedule>();
    const lowered = ordered.map((group) => lowerGroup(group, layout, target, chosen));
    const hazards = donate.filter((pair) =>
      !copied.has(pair.output) &&
      overwritesTooEarly(
        ordered,
        lowered,
        roots[pair.output]!,
        request.inputs[pair.input]!,
        layout.inputs[pair.input]!,
        inMemory,
      )
    );
    if (hazards.length === 0) {
      const plan = assemble(ordered, lowered, layout, target, common !== undefined);
      report(request.roots, roots, plan);
      observe?.({
        roots,
        steps: ordered.filter((group, i) => hasKernel(group, lowered[i])).map((group) =>
          nodesOf(group, inMemory, layout, chosen.get(group))
        ),
      });
      return plan;
    }
    for (const pair of hazards) copied.add(pair.output);
  }
}

/** A root that turned out to be an input is copied by a kernel if that input is written over: in order with other kernels. */
function keepDonors(roots: readonly Node[], { inputs, donate = [] }: CompileRequest): Node[] {
  const donors = new Set(donate.map((pair) => inputs[pair.input]!));
  return roots.map((root, i) => {
    const stays = donate.some((pair) => pair.output === i && inputs[pair.input] === root);
    if (!donors.has(root) || stays) return root;
    return makeNode("contiguous", [root], {}, root.shape, root.dtype, root.device);
  });
}

/**
 * Parts of a concatenation that exist elsewhere, or that cannot be made in their place, are copied into it. The result of
 * a contraction that is only laid out flat, as a root or as part of a vector, stands there in its own shape: the axes
 * of its domain are what its kernel is tiled by. So the parts of a vector may have any shape.
 */
function materializeOperands(roots: readonly Node[], given: ReadonlySet<Node>): Node[] {
  const replaced = new Map<Node, Node>();
  const now = (node: Node) => replaced.get(node) ?? node;
  for (const node of toposort(roots, (node) => !given.has(node))) {
    if (given.has(node)) continue;
    makeFor(node);
    const src = node.src.map((source) => {
      if (kernelOf(node) !== "region") return now(source);
      if (!given.has(source) && kernelOf(source) !== "program") {
        return node.shape.length === 1 ? contractionOf(now(source), given) : now(source);
      }
      const inPlace = now(source);
      return makeNode("contiguous", [inPlace], {}, source.shape, source.dtype, source.device);
    });
    if (src.every((source, i) => source === node.src[i])) continue;
    replaced.set(node, makeNode(node.op, src, node.attrs, node.shape, node.dtype, node.device));
  }
  makeFor(undefined);
  return roots.map((root) => contractionOf(now(root), given));
}

/** Ops between a contraction and what is looked at that are looked through. */
const epilogueDepth = 16;

/** What a reshape lays out, if it is a contraction, or elementwise ops of one; else the node itself. */
function contractionOf(node: Node, given: ReadonlySet<Node>): Node {
  let base = node;
  while (base.op === "reshape" && !given.has(base)) base = base.src[0]!;
  const contracts = (x: Node, depth: number): boolean =>
    !given.has(x) && (isContraction(x) ||
      (depth > 0 && kernelOf(x) === "inside" && x.src.some((source) => contracts(source, depth - 1))));
  return base !== node && contracts(base, epilogueDepth) ? base : node;
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

/** The kernels of a graph, none of which binds more buffers than the device allows. */
function kernels(
  roots: readonly Node[],
  given: ReadonlySet<Node>,
  waits: Waits,
  watched: { readonly values: ReadonlySet<Node>; readonly faults: Node } | undefined,
  target: Target,
): { groups: KernelGroup[]; stored: Node[] } {
  const extra = new Set<Node>();
  const maxBuffers = target.maxStorageBuffersPerKernel;
  for (;;) {
    const fuse = !flags().noFuse;
    const plan = schedule({ roots, given, stored: extra, fuse });
    const tooWide = widestNode(plan, given, watched?.values ?? new Set(), maxBuffers);
    if (tooWide === undefined) {
      const groups = mergeKernels(plan, { given, roots, maxBuffers, waits, watched, join: fuse });
      return { groups, stored: plan.drafts.map((draft) => draft.root) };
    }
    extra.add(tooWide);
  }
}

/** In a kernel that would bind too many buffers, the inner node that takes most of them off it; undefined if all fit. */
function widestNode(
  plan: Schedule,
  given: ReadonlySet<Node>,
  watched: ReadonlySet<Node>,
  most: number,
): Node | undefined {
  const inMemory = new Set(plan.drafts.map((draft) => draft.root));
  for (const draft of plan.drafts) {
    if (kernelOf(draft.root) === "region") continue;
    const maxBuffers = watched.has(draft.root) ? most - 1 : most;
    const isLeaf = (node: Node) => node !== draft.root && (given.has(node) || inMemory.has(node));
    const order = toposort([draft.root], (node) => !isLeaf(node));
    const leaves = order.filter(isLeaf);
    if (leaves.length + 1 <= maxBuffers) continue;
    const reads = new Map<Node, Set<Node>>();
    let best: Node | undefined;
    for (const node of order) {
      const own = new Set<Node>();
      if (isLeaf(node)) own.add(node);
      else for (const source of node.src) for (const leaf of reads.get(source)!) own.add(leaf);
      reads.set(node, own);
      const candidate = node !== draft.root && !isLeaf(node) && own.size > 1 && own.size < maxBuffers;
      if (candidate && (best === undefined || own.size > reads.get(best)!.size)) best = node;
    }
    if (best === undefined) {
      throw new InternalError("schedule", {
        got: `${draft.root.op} of ${leaves.length} buffers`,
        need: `at most ${maxBuffers - 1}`,
      });
    }
    return best;
  }
  return undefined;
}

/** Kernels that overwrite a donated input run as late as their readers allow. */
function donorsLast(groups: readonly KernelGroup[], donated: ReadonlySet<Node>): KernelGroup[] {
  const isDonor = (group: KernelGroup) => group.drafts.some((draft) => donated.has(draft.root));
  const late = new Set(groups.filter(isDonor));
  // A kernel that reads a donor's result is late, too: `groups` has sources first.
  const lateRoots = new Set([...late].flatMap((group) => group.drafts.map((draft) => draft.root)));
  for (const group of groups) {
    if (late.has(group)) continue;
    const roots = group.drafts.map((draft) => draft.root);
    const reads = toposort(roots, (node) => roots.includes(node) || !lateRoots.has(node));
    if (!reads.some((node) => lateRoots.has(node))) continue;
    late.add(group);
    roots.forEach((root) => lateRoots.add(root));
  }
  return [...groups.filter((group) => !late.has(group)), ...groups.filter((group) => late.has(group))];
}

/** The kernel of a group; undefined where it has none. What is chosen for a contraction is noted in `chosen`. */
function lowerGroup(
  group: KernelGroup,
  layout: Layout,
  target: Target,
  chosen?: Map<KernelGroup, ContractionSchedule>,
): KernelIR | undefined {
  const [draft] = group.drafts;
  const { root } = draft!;
  const kernel = kernelOf(root);
  if (kernel === "region" || kernel === "program" || size(root.shape) === 0) return undefined;
  if (kernel === "own") return lower(group, layout, { ...plainTile, attention: attentionBlock(target) });
  const domain = draft!.variables
    .filter((variable) => variable.extent > 1 && (draft!.outer === undefined || draft!.outer.has(variable)))
    .map((variable) => variable.extent);
  const probe = (tile: Tile) => lower(group, layout, tile, target.varying);
  if (draft!.contraction === undefined || domain.length === 0) return lowerPlain(probe, domain, target);
  const { tile, schedule } = contractionTile(group, probe, domain, (node) => layout.source(node) !== undefined, target);
  chosen?.set(group, schedule);
  return probe(tile);
}

/** The kernel of a group without a contraction: of elements that share what they are made of, if that saves loads. */
function lowerPlain(probe: (tile: Tile) => KernelIR, domain: readonly number[], target: Target): KernelIR {
  const plain = probe(plainTile);
  const tile = chooseTile(plain, domain, target);
  const tiled = probe(tile);
  const walksRows = tile.row > 1 || tile.reduce > 1 || tile.walk.kind === "team" || tile.walk.kind === "gemv";
  const shared = !walksRows && readsInParts(plain)
    ? sharedLoads(probe(plainBlock(domain.length)), domain, target)
    : undefined;
  if (shared === undefined) return tiled;
  const together = probe(shared);
  return loadsPerElement(together) < loadsPerElement(tiled) ? together : tiled;
}

/** Whether the kernel that writes `root` over `old` is followed by a reader of `old`, or itself reads elsewhere than it writes. */
function overwritesTooEarly(
  groups: readonly KernelGroup[],
  lowered: readonly (KernelIR | undefined)[],
  root: Node,
  old: Node,
  slot: number,
  inMemory: ReadonlySet<Node>,
): boolean {
  if (root === old) return false;
  const parts = writtenParts(root);
  const writes = groups.map((group) => group.drafts.some((draft) => parts.has(draft.root)));
  for (let i = writes.indexOf(true); i < groups.length; i++) {
    if (i < 0) return true;
    const earlier = writes.slice(0, i).includes(true);
    const roots = groups[i]!.drafts.map((draft) => draft.root);
    const reads = toposort(roots, (node) => roots.includes(node) || !inMemory.has(node)).includes(old);
    if (reads && earlier) return true;
    if (writes[i] && reads && !overwrites(lowered[i], slot, slot)) return true;
  }
  return false;
}

/** Whether a kernel reads one slot and may write its value of another, or the same one, over that. */
function overwrites(ir: KernelIR | undefined, from: number, to: number): boolean {
  if (ir === undefined) return false;
  const [source, target] = [from, to].map((slot) => ir.buffers.findIndex((buffer) => buffer.slot === slot));
  return overwritesWhatItRead(ir, source!, target!);
}

function hasKernel(group: KernelGroup, ir: KernelIR | undefined): boolean {
  const { root } = group.drafts[0]!;
  return ir !== undefined || hasProgram(root);
}

/** Whether it is computed by a program of its own; where nothing is to be computed there is none. */
function hasProgram(root: Node): root is NodeOf<StructuralOf<"program">> {
  return isKind(root, "program") && size(root.shape) > 0;
}

function nodesOf(
  group: KernelGroup,
  inMemory: ReadonlySet<Node>,
  layout: Layout,
  schedule: ContractionSchedule | undefined,
): StepNodes {
  const writes = group.drafts.map((draft) => draft.root);
  const isRead = (node: Node) => inMemory.has(node) && !writes.includes(node);
  const order = toposort(writes, (node) => !isRead(node));
  const nodes = { computes: order.filter((node) => !isRead(node)), reads: order.filter(isRead), writes };
  if (schedule === undefined) return nodes;
  const problem = problemOf(group.drafts[0]!.contraction!, (node) => layout.source(node) !== undefined);
  return { ...nodes, contraction: { signature: problem && signatureOf(problem), schedule } };
}

/** A root, or for a concatenation the values that are its parts. */
function writtenParts(root: Node): Set<Node> {
  const parts = new Set<Node>([root]);
  for (const part of parts) {
    if (kernelOf(part) !== "region") continue;
    parts.delete(part);
    for (const source of part.src) parts.add(source);
  }
  return parts;
}

function assemble(
  groups: readonly KernelGroup[],
  lowered: readonly (KernelIR | undefined)[],
  layout: Layout,
  target: Target,
  forItems: boolean,
): Plan {
  const kernels = groups.flatMap((group, i): ToDispatch[] => {
    const { root } = group.drafts[0]!;
    const ir = lowered[i];
    if (ir !== undefined) return [{ group, ir, slots: slotsOf(ir) }];
    return hasProgram(root) ? [dispatched(root, layout, target)] : [];
  });
  const copies = layout.copies.filter((copy) => copy.bytes > 0);
  const touched = [...kernels.map(({ slots }) => slots), ...copies.map(({ from, to }) => [from, to])];
  const overwriting = new Map<string, ToRender | undefined>();
  const overwrite = (step: number, old: number, fresh: number): ToRender | undefined => {
    const kernel = kernels[step];
    if (kernel === undefined || !("ir" in kernel)) return undefined;
    const key = `${step}:${old}:${fresh}`;
    if (!overwriting.has(key)) overwriting.set(key, writtenOver(kernel, old, fresh, layout, target));
    return overwriting.get(key);
  };
  const standsFor = shareTemporaries(
    layout.slots,
    touched,
    (step, old, fresh) => overwrite(step, old, fresh) !== undefined,
  );
  kernels.forEach(({ slots }, step) => {
    const distinct = [...new Set(slots)];
    const shared = distinct.filter((slot) =>
      distinct.some((other) => other !== slot && standsFor[other] === standsFor[slot])
    );
    if (shared.length === 0) return;
    const [a, b] = shared as [number, number];
    const changed = overwrite(step, a, b) ?? overwrite(step, b, a);
    if (changed === undefined) {
      throw new InternalError("compileGraph", {
        got: `slots ${shared} in one memory`,
        need: "a kernel that writes over what it reads",
      });
    }
    kernels[step] = changed;
  });

  const programs: Program[] = [];
  const known = new Map<string, number>();
  const dispatches = kernels.map((kernel): PlanStep => {
    const strides = forItems ? kernel.slots.map((slot) => strideOfItems(layout.slots[standsFor[slot]!]!)) : undefined;
    const program = "ir" in kernel ? renderProgram(kernel, layout, target, strides) : kernel.program;
    let index = known.get(program.key);
    if (index === undefined) {
      index = programs.length;
      known.set(program.key, index);
      programs.push(program);
    }
    return { kind: "dispatch", program: index, slots: kernel.slots };
  });
  const drafts: PlanStep[] = [...dispatches, ...copies.map((copy): PlanStep => ({ kind: "copy", ...copy }))];
  const used = new Set([...touched.flat(), ...layout.outputs].map((slot) => standsFor[slot]!));
  // Numbered anew without the slots that nothing uses.
  const numbers = new Map<number, number>();
  const slots: { bytes: number; common?: boolean }[] = [];
  layout.slots.forEach((slot, index) => {
    if (!used.has(index)) return;
    if (slot.bytes > target.maxBindingBytes) {
      throw new OutOfMemoryError("compileGraph", {
        got: `a value of ${slot.bytes} bytes`,
        need: `at most ${target.maxBindingBytes} bytes, the largest that a kernel of this device can bind`,
      });
    }
    numbers.set(index, slots.length);
    slots.push(slot.common ? { bytes: slot.bytes, common: true } : { bytes: slot.bytes });
  });
  const number = (slot: number) => numbers.get(standsFor[slot]!)!;
  const outputs = layout.outputs.map(number);
  const inputNumbers = layout.inputs.map((slot) => numbers.get(slot) ?? -1);
  const outside = new Set([...outputs, ...inputNumbers]);
  return {
    ...forItems ? { items: true } : {},
    programs,
    steps: drafts.map((step) =>
      step.kind === "dispatch"
        ? { ...step, slots: step.slots.map(number) }
        : { ...step, from: number(step.from), to: number(step.to) }
    ),
    slots,
    inputs: inputNumbers,
    outputs,
    temporaries: slots.map((_, index) => index).filter((index) => !outside.has(index)),
  };
}

/** A kernel whose source is spelled when the layout of slots is known. */
interface ToRender {
  readonly group: KernelGroup;
  readonly ir: KernelIR;
  readonly slots: readonly number[];
  /** The slot over which it writes the value of another one. */
  readonly overwritten?: number;
}

/** A kernel of a plan and what it is given. */
type ToDispatch = ToRender | { readonly slots: readonly number[]; readonly program: Program };

function slotsOf(ir: KernelIR): number[] {
  return ir.buffers.map((buffer) => buffer.slot);
}

/** The kernel that writes its value of slot `fresh` over what it has read of `old`; undefined where that cannot be. */
function writtenOver(
  { group, ir }: ToRender,
  old: number,
  fresh: number,
  layout: Layout,
  target: Target,
): ToRender | undefined {
  const [source, ...others] = ir.buffers.filter(({ slot }) => slot === old);
  const result = ir.buffers.filter(({ slot }) => slot === fresh);
  if (source === undefined || others.length > 0 || result.length !== 1 || source.dtype !== result[0]!.dtype) {
    return undefined;
  }
  if (source.access !== "read" || !overwrites(ir, old, fresh)) return undefined;
  const here = (location: Location | undefined) => location?.slot === old ? { ...location, slot: fresh } : location;
  const again = lowerGroup(group, { ...layout, source: (node) => here(layout.source(node)) }, target);
  if (again === undefined || !overwrites(again, fresh, fresh)) return undefined;
  return { group, ir: again, slots: slotsOf(again), overwritten: old };
}

function strideOfItems({ bytes, common }: SlotDraft): number {
  return common ? 0 : bytes;
}

function dispatched(
  root: NodeOf<StructuralOf<"program">>,
  layout: Layout,
  target: Target,
): { program: Program; slots: readonly number[] } {
  const from = root.src.map((source) => layout.source(source)!);
  const [to, ...others] = layout.targets(root);
  if (from.some(({ offset }) => offset !== 0) || to === undefined || others.length > 0) {
    throw new InternalError(root.op, { got: "an operand inside another value", need: "memory of its own" });
  }
  return { program: ownProgram(root, target), slots: [...from, to].map(({ slot }) => slot) };
}

function roundsToHalf(ir: KernelIR): boolean {
  let rounds = false;
  eachStatement(
    ir.body,
    (statement) =>
      rounds ||= statement.kind === "let" && statement.expr.kind === "cast" && statement.expr.dtype === "f16",
  );
  return rounds;
}

/** 64 invocations are a multiple of every subgroup size in use. */
const workgroupSize = 64;

function renderProgram(
  { group, ir, overwritten }: ToRender,
  layout: Layout,
  target: Target,
  strides: readonly number[] | undefined,
): Program {
  const bindings = ir.buffers.map(({ access, dtype }) => ({ access, dtype }));
  const invocations = ir.parallel.reduce((n, variable) => n * variable.extent, 1);
  // Every buffer at least once, whole; a part of a flat vector counts as all of it.
  const touched = overwritten === undefined ? slotsOf(ir) : [...slotsOf(ir), overwritten];
  const bytes = touched.reduce((sum, slot) => sum + layout.slots[slot]!.bytes, 0);
  const ofItems = strides === undefined ? {} : { strides };
  const common = { name: ir.name, bindings, invocations, flops: countOperations(ir), bytes, ...ofItems };
  if (target.language === "js") {
    const source = renderJs(ir);
    // The source does not tell the types of the arrays, nor what of them is an item's.
    const key = `${invocations}|${ir.buffers.map((buffer) => buffer.dtype)}|${strides ?? ""}|${source}`;
    return { ...common, key, language: "js", source, workgroups: [1, 1, 1] };
  }
  const { source, workgroups } = renderWgsl(ir, {
    workgroupSize: Math.min(workgroupSize, target.maxInvocationsPerWorkgroup),
    maxWorkgroups: target.maxWorkgroupsPerDimension,
    rollLoops: !(target.rollLoops ?? target.class === "software")
      ? "no"
      : group.drafts[0]!.contraction !== undefined
      ? "partly"
      : "fully",
    f16: target.f16,
    guarded: target.varying !== undefined,
    strides,
  });
  const reference = flags().validate && !ir.together
    ? { reference: { source: renderJs(ir), invocations, roundsToHalf: roundsToHalf(ir) } }
    : {};
  return { ...common, ...reference, key: `${workgroups}|${source}`, language: "wgsl", source, workgroups };
}

/** Compiled plans of eager graphs, found again by the structure of the graph. */
import { planOf } from "../../compiler/cache.ts";
import type { CompileRequest } from "../../compiler/compile.ts";
import type { Device, DeviceBuffer, Executable } from "../../devices/device/device.ts";
import { PlanFamily } from "../../devices/device/family.ts";
import { input, madeAgain, reshape, slice } from "../../graph/build.ts";
import type { DType } from "../../graph/dtype.ts";
import { type Node, type NodeOf, toposort } from "../../graph/node.ts";
import { toWords } from "../../graph/words.ts";
import { differing, planInFamily } from "./lengths.ts";
import { RecentGraphs } from "./recent.ts";

/** A plan and what it must be given. */
export interface LoadedGraph {
  readonly executable: Executable;
  /** Nodes whose values the plan reads, in the order of its first inputs. */
  readonly given: readonly Node[];
  /** Numbers that it reads after them, one array an input. */
  readonly numbers: readonly ArrayBufferView[];
}

/** A graph without its identity: equal for graphs that differ in their leaves only. */
interface Canonical {
  readonly key: string;
  readonly given: readonly Node[];
  readonly constants: readonly NodeOf<"const">[];
}

/**
 * A plan for graphs of one structure. A constant that turned out to differ between them (a learning rate, say) is
 * `lifted`: read from memory, so that the next number needs no new plan.
 */
interface Entry {
  readonly key: string;
  readonly values: number[];
  readonly lifted: boolean[];
  readonly executable: Promise<Executable>;
  /** The executable once it is there. */
  ready: Executable | undefined;
}

const mostPlans = 1024;

/** The plans of a device. */
interface Plans {
  /** The most recently used come last. */
  readonly byKey: Map<string, Entry>;
  readonly recent: RecentGraphs<Entry>;
}

const plansOn = new WeakMap<Device, Plans>();

/**
 * The plan that computes `roots` from nodes for which `isGiven`; `order` has all nodes between them, sources first. Not to
 * be called while another call is under way.
 */
export async function loadGraph(
  device: Device,
  roots: readonly Node[],
  order: readonly Node[],
  isGiven: (node: Node) => boolean,
): Promise<LoadedGraph> {
  const graph = canonical(roots, order, isGiven);
  const { byKey: cache, recent } = plansOf(device);
  let entry = cache.get(graph.key);
  if (entry === undefined) {
    await evict(cache, recent);
    entry = entryFor(device, roots, graph, graph.constants.map(() => false));
  } else if (!fits(entry, graph)) {
    const before = entry;
    const lifted = graph.constants.map((node, i) =>
      before.lifted[i]! || !Object.is(node.attrs.value, before.values[i])
    );
    entry = entryFor(device, roots, graph, lifted);
    recent.forget(before);
    await before.executable.then((executable) => executable.release(), () => undefined);
  }
  use(cache, graph.key, entry);
  try {
    entry.ready = await entry.executable;
    return loadedFrom(entry, entry.ready, graph);
  } catch (error) {
    cache.delete(graph.key);
    recent.forget(entry);
    throw error;
  }
}

/** What `loadGraph` gives, where it is loaded already. */
export function loadedGraph(
  device: Device,
  roots: readonly Node[],
  order: readonly Node[],
  isGiven: (node: Node) => boolean,
): LoadedGraph | undefined {
  const { byKey: cache, recent } = plansOf(device);
  const found = recent.find(roots, order, isGiven);
  if (found?.found.ready !== undefined) {
    if (cache.size > mostPlans / 2) use(cache, found.found.key, found.found);
    return loadedFrom(found.found, found.found.ready, found);
  }
  const graph = canonical(roots, order, isGiven);
  const entry = cache.get(graph.key);
  if (entry?.ready === undefined || !fits(entry, graph)) return undefined;
  if (cache.size > mostPlans / 2) use(cache, graph.key, entry);
  recent.remember(roots, order, isGiven, entry.lifted, entry);
  return loadedFrom(entry, entry.ready, graph);
}

function use(cache: Map<string, Entry>, key: string, entry: Entry): void {
  cache.delete(key);
  cache.set(key, entry);
}

function plansOf(device: Device): Plans {
  let plans = plansOn.get(device);
  if (plans === undefined) plansOn.set(device, plans = { byKey: new Map(), recent: new RecentGraphs() });
  return plans;
}

function entryFor(device: Device, roots: readonly Node[], graph: Canonical, lifted: boolean[]): Entry {
  const values = graph.constants.map((node) => node.attrs.value);
  return { key: graph.key, values, lifted, executable: load(device, roots, graph, lifted), ready: undefined };
}

/** Whether the constants that the plan holds are those of the graph. */
function fits({ values, lifted }: Entry, { constants }: Canonical): boolean {
  return constants.every((node, i) => lifted[i]! || Object.is(node.attrs.value, values[i]));
}

function loadedFrom(
  { lifted }: Entry,
  executable: Executable,
  { given, constants }: Pick<Canonical, "given" | "constants">,
): LoadedGraph {
  return { executable, given, numbers: lifted.includes(true) ? numbersOf(constants, lifted) : none };
}

const none: readonly never[] = [];

async function evict(cache: Map<string, Entry>, recent: RecentGraphs<Entry>): Promise<void> {
  for (const [key, entry] of cache) {
    if (cache.size < mostPlans) return;
    cache.delete(key);
    recent.forget(entry);
    await entry.executable.then((executable) => executable.release(), () => undefined);
  }
}

function canonical(roots: readonly Node[], order: readonly Node[], isGiven: (node: Node) => boolean): Canonical {
  const numbers = new Map<Node, number>();
  const given: Node[] = [];
  const constants: NodeOf<"const">[] = [];
  const parts: string[] = [];
  for (const node of order) {
    const isLeaf = isGiven(node);
    if (node.op === "copy" && !isLeaf) {
      numbers.set(node, numbers.get(node.src[0]!)!);
      continue;
    }
    numbers.set(node, numbers.size);
    let part = `${isLeaf ? "given" : node.op}|${node.dtype}|${node.shape.join()}|`;
    if (isLeaf) given.push(node);
    else if (node.op === "const") constants.push(node);
    else {
      for (const source of node.src) part += `${numbers.get(source)},`;
      for (const value of Object.values(node.attrs)) part += `|${Object.is(value, -0) ? "-0" : String(value)}`;
    }
    parts.push(part);
  }
  parts.push(roots.map((root) => numbers.get(root)).join());
  return { key: parts.join(";"), given, constants };
}

/** The plan of the graph, made again of placeholders in place of what is given: what is kept of it holds no data. */
async function load(
  device: Device,
  roots: readonly Node[],
  graph: Canonical,
  lifted: readonly boolean[],
): Promise<Executable> {
  const now = new Map<Node, Node>();
  const inputs = graph.given.map((node) => {
    const placeholder = input(node.shape, node.dtype);
    now.set(node, placeholder);
    return placeholder;
  });
  for (const [dtype, constants] of byDType(graph.constants, lifted)) {
    const packed = input([constants.length], dtype);
    inputs.push(packed);
    constants.forEach((node, i) => now.set(node, reshape(slice(packed, [i], [1], [1]), [])));
  }
  // A copy that is left here is of a value that may be on any device, this one too.
  for (const node of toposort(roots, (node) => !now.has(node))) {
    if (now.has(node)) continue;
    const sources = node.src.map((source) => now.get(source)!);
    now.set(node, node.op === "copy" ? sources[0]! : madeAgain(node, sources));
  }
  return await loadOfForm(device, { roots: roots.map((root) => now.get(root)!), inputs });
}

/** Graphs that differ in lengths only. */
interface Form {
  readonly family: PlanFamily;
  readonly first: CompileRequest;
}

const forms = new WeakMap<Device, Map<string, Form>>();
const mostForms = 256;

async function loadOfForm(device: Device, request: CompileRequest): Promise<Executable> {
  const { target } = device;
  if (target.language !== "wgsl") return await device.load(planOf(request, target));
  let known = forms.get(device);
  if (known === undefined) forms.set(device, known = new Map());
  const order = toposort(request.roots);
  const key = formOf(request.roots, order);
  let form = known.get(key);
  const shapes = (nodes: readonly Node[]) => nodes.map((node) => node.shape);
  const others = form && { request: form.first, lengths: differing(shapes(order), shapes(toposort(form.first.roots))) };
  if (form === undefined) {
    for (const oldest of known.keys()) {
      if (known.size < mostForms) break;
      known.delete(oldest);
    }
    known.set(key, form = { family: new PlanFamily(), first: request });
  }
  const { family } = form;
  return await device.load(planInFamily(request, target, { family, others }), 1, family);
}

/** A graph without its lengths: equal for graphs of the same ops on the same axes. */
function formOf(roots: readonly Node[], order: readonly Node[]): string {
  const numbers = new Map(order.map((node, i) => [node, i]));
  const parts = order.map((node) => {
    const sources = node.src.map((source) => numbers.get(source)).join();
    const axes = "axis" in node.attrs ? node.attrs.axis : "axes" in node.attrs ? node.attrs.axes.join() : "";
    return `${node.op}|${node.dtype}|${node.shape.length}|${sources}|${axes}`;
  });
  return [...parts, roots.map((root) => numbers.get(root)).join()].join(";");
}

/** Lifted constants by dtype. */
function byDType(constants: readonly NodeOf<"const">[], lifted: readonly boolean[]): Map<DType, NodeOf<"const">[]> {
  const groups = new Map<DType, NodeOf<"const">[]>();
  constants.forEach((node, i) => {
    if (!lifted[i]) return;
    const group = groups.get(node.dtype);
    if (group === undefined) groups.set(node.dtype, [node]);
    else group.push(node);
  });
  return groups;
}

function numbersOf(constants: readonly NodeOf<"const">[], lifted: readonly boolean[]): ArrayBufferView[] {
  return [...byDType(constants, lifted)].map(([dtype, nodes]) => toWords(dtype, nodes.map((node) => node.attrs.value)));
}

/** Buffers of the numbers of a plan; the caller frees them once the plan was run. */
export function numberBuffers(device: Device, { numbers }: LoadedGraph): readonly DeviceBuffer[] {
  return numbers.length === 0 ? none : numbers.map((data) => {
    const buffer = device.alloc(data.byteLength);
    device.write(buffer, data);
    return buffer;
  });
}

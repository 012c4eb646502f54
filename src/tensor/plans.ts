/** Compiled plans of eager graphs, found again by the structure of the graph. */
import { planOf } from "../compiler/cache.ts";
import type { Device, DeviceBuffer, Executable } from "../devices/device.ts";
import { input, reshape, slice, withSources } from "../graph/build.ts";
import type { DType } from "../graph/dtype.ts";
import { type Node, type NodeOf, toposort } from "../graph/node.ts";
import { toWords } from "../graph/words.ts";

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
  readonly values: number[];
  readonly lifted: boolean[];
  executable: Promise<Executable>;
}

const mostPlans = 1024;
const caches = new WeakMap<Device, Map<string, Entry>>();

/** The plan that computes `roots` from nodes for which `isGiven`. Not to be called while another call is under way. */
export async function loadGraph(device: Device, roots: readonly Node[], isGiven: (node: Node) => boolean): Promise<LoadedGraph> {
  const graph = canonical(roots, isGiven);
  let cache = caches.get(device);
  if (cache === undefined) caches.set(device, cache = new Map());
  let entry = cache.get(graph.key);
  const values = graph.constants.map((node) => node.attrs.value);
  if (entry === undefined) {
    await evict(cache);
    const lifted = values.map(() => false);
    entry = { values, lifted, executable: load(device, roots, graph, lifted) };
  } else {
    const { lifted } = entry;
    const changed = values.map((value, i) => lifted[i]! || !Object.is(value, entry!.values[i]));
    if (changed.some((is, i) => is !== lifted[i])) {
      const before = entry.executable;
      entry = { values, lifted: changed, executable: load(device, roots, graph, changed) };
      await before.then((executable) => executable.release(), () => undefined);
    }
  }
  // The most recently used come last.
  cache.delete(graph.key);
  cache.set(graph.key, entry);
  try {
    return { executable: await entry.executable, given: graph.given, numbers: numbersOf(graph.constants, entry.lifted) };
  } catch (error) {
    cache.delete(graph.key);
    throw error;
  }
}

async function evict(cache: Map<string, Entry>): Promise<void> {
  for (const [key, entry] of cache) {
    if (cache.size < mostPlans) return;
    cache.delete(key);
    await entry.executable.then((executable) => executable.release(), () => undefined);
  }
}

function canonical(roots: readonly Node[], isGiven: (node: Node) => boolean): Canonical {
  const numbers = new Map<Node, number>();
  const given: Node[] = [];
  const constants: NodeOf<"const">[] = [];
  const parts: string[] = [];
  for (const node of toposort(roots, (node) => !isGiven(node))) {
    if (node.op === "copy" && !isGiven(node)) {
      numbers.set(node, numbers.get(node.src[0]!)!);
      continue;
    }
    numbers.set(node, numbers.size);
    const name = isGiven(node) ? "given" : node.op;
    let part = `${name}|${node.dtype}|${node.shape.join()}|`;
    if (name === "given") given.push(node);
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

async function load(device: Device, roots: readonly Node[], graph: Canonical, lifted: readonly boolean[]): Promise<Executable> {
  const given = new Set(graph.given);
  const now = new Map<Node, Node>();
  const inputs: Node[] = [];
  for (const [dtype, constants] of byDType(graph.constants, lifted)) {
    const packed = input([constants.length], dtype);
    inputs.push(packed);
    constants.forEach((node, i) => now.set(node, reshape(slice(packed, [i], [1], [1]), [])));
  }
  // A copy that is left here is of a value that may be on any device, this one too.
  for (const node of toposort(roots, (node) => !given.has(node))) {
    if (given.has(node) || now.has(node)) continue;
    const sources = node.src.map((source) => now.get(source) ?? source);
    const rebuilt = node.op === "copy" ? sources[0]! : withSources(node, sources);
    if (rebuilt !== node) now.set(node, rebuilt);
  }
  const request = { roots: roots.map((root) => now.get(root) ?? root), inputs: [...graph.given, ...inputs] };
  return await device.load(planOf(request, device.target));
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
export function numberBuffers(device: Device, { numbers }: LoadedGraph): DeviceBuffer[] {
  return numbers.map((data) => {
    const buffer = device.alloc(data.byteLength);
    device.write(buffer, data);
    return buffer;
  });
}

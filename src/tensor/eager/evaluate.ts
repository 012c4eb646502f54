/** When tensors are computed: what is read or asked for, with what is due; at once where nothing has to be waited for. */
import type { HostArray } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import { Backlog, type Pending } from "./backlog.ts";
import { refuseInTrace } from "./frame.ts";
import { free } from "./history.ts";
import { compute, computeAtOnce, exclusively, isIdle, locate, mayRunAtOnce, promise, readNode } from "./realize.ts";
import { recordOf } from "./record.ts";

/** That of all tensors. */
export const backlog: Backlog = new Backlog(computeDue);

/** A tensor, as its value is computed. */
export interface Evaluated extends Pending {
  /** The tensor of which it shows a part, if it does. */
  readonly alias: { readonly base: Evaluated } | undefined;
}

/** The values of a tensor, in order, as a copy. Throws TraceError inside a trace. */
export function readTensor(tensor: Evaluated, op: string): Promise<HostArray> {
  refuseInTrace(op);
  const { node } = tensor;
  const found = locate(node);
  if (found?.storage.host !== undefined) return readNode(node);
  const known = () => locate(node) !== undefined;
  return atOnce(() => {
    if (!known()) {
      if (!computeAtOnce([node])) return undefined;
      backlog.computed();
    }
    tensor.settle();
    return readNode(node);
  }) ?? whileHeld(node, () =>
    exclusively(async () => {
      if (!known()) {
        await computeWithAssigned([tensor], [node]);
        tensor.settle();
      }
      return { values: readNode(node) };
    })).then(({ values }) => values);
}

/** What `work` gives; until then no call before it writes over the data of a leaf, and nobody frees that. */
async function whileHeld<T>(node: Node, work: () => Promise<T>): Promise<T> {
  if (node.op !== "storage") return await work();
  const { handles } = recordOf(node);
  handles.count++;
  try {
    return await work();
  } finally {
    if (--handles.count === 0) free(node);
  }
}

/**
 * Computes several tensors, together where they are on one device, without reading them. Throws TraceError inside a
 * trace.
 */
export function realizeAll(tensors: readonly Evaluated[]): Promise<void> {
  refuseInTrace("realize");
  return atOnce(() => settledAtOnce(tensors) ? Promise.resolve() : undefined) ?? exclusively(() => realizeNow(tensors));
}

/** @internal `realizeAll`, to be called inside `exclusively`. */
export async function realizeNow(tensors: readonly Evaluated[]): Promise<void> {
  const handles = tensors.map(holder);
  await computeWithAssigned(handles, handles.map((handle) => handle.node));
  for (const handle of handles) handle.settle();
}

/** `realizeNow` where that needs nothing to be waited for; else does nothing and returns false. */
function settledAtOnce(tensors: readonly Evaluated[]): boolean {
  const handles = tensors.map(holder);
  if (!computeAtOnce(handles.map((handle) => handle.node))) return false;
  for (const handle of handles) handle.settle();
  backlog.computed();
  return true;
}

/** The tensor that has what `tensor` shows. */
function holder(tensor: Evaluated): Evaluated {
  return tensor.alias?.base ?? tensor;
}

/**
 * What `work` gives if it may be done now, before the call returns: nothing that was asked for earlier is under way, and
 * no assignment waits to be computed with it. Undefined where not, or where `work` says so; what it throws, the promise
 * rejects with.
 */
function atOnce<T>(work: () => Promise<T> | undefined): Promise<T> | undefined {
  if (!mayRunAtOnce() || backlog.hasAssigned) return undefined;
  try {
    return work();
  } catch (error) {
    return Promise.reject(error);
  }
}

/**
 * Computes nodes, and with them whatever was assigned since: state is not computed again with everything that reads
 * it.
 */
async function computeWithAssigned(handles: readonly Pending[], nodes: readonly Node[]): Promise<void> {
  const assigned = backlog.takeAssigned().filter((handle) => !handles.includes(handle));
  await compute([...nodes, ...assigned.map((handle) => handle.node)]);
  for (const handle of assigned) handle.settle();
  backlog.computed();
}

/** Computes what is due although nobody reads it. */
function computeDue(handles: readonly Pending[]): void {
  const nodes = handles.map((handle) => handle.node);
  try {
    if (isIdle() && computeAtOnce(nodes)) {
      for (const handle of handles) handle.settle();
      return;
    }
  } catch {
    // The error will meet whoever reads one of them.
  }
  const leaves = promise([...new Set(nodes)]);
  handles.forEach((handle, i) => handle.promise(leaves.get(nodes[i]!)!));
  exclusively(() => compute([...leaves.values()])).catch(() => undefined);
}

/** From nodes to values: transfers first, then one plan for each device. */
import { defaultDevice, knownDefaultDevice } from "../../devices/default.ts";
import type { Device, DeviceBuffer } from "../../devices/device/device.ts";
import { deviceById } from "../../devices/device/registry.ts";
import { DeviceError } from "../../errors.ts";
import { byteLength, storage as leafOf } from "../../graph/build.ts";
import { dtypes, type HostArray } from "../../graph/dtype.ts";
import { isKind, type Node, type NodeOf } from "../../graph/node.ts";
import { size } from "../../graph/shape.ts";
import { isMovement, isStored } from "../../graph/structural.ts";
import { nextTurn } from "../../host/host.ts";
import { remember } from "./history.ts";
import { allocate, allocateAtOnce, bring } from "./memory.ts";
import { type LoadedGraph, loadedGraph, loadGraph, numberBuffers } from "./plans.ts";
import {
  type Chunk,
  type Due,
  dueOf,
  isDue,
  knownRecord,
  type Leaf,
  pendingOrder,
  recordOf,
  requireConcrete,
  storageOf,
  valueOf,
} from "./record.ts";
import { Storage } from "./storage.ts";

let turn: Promise<unknown> = Promise.resolve();
/** Calls of `exclusively` that are not done. */
let underWay = 0;

/** Milliseconds of work after which the event loop gets a turn. */
const longestStretch = 10;
let lastTurn = performance.now();

/**
 * Runs `work` when everything that was asked for before is done: plans run in the order of the calls. Now and then it
 * lets the event loop turn first: on a device that answers at once a loop would else leave no room for timers and
 * signals, nor for the collection of what it dropped, as the targets of weak references live to the end of a turn.
 */
export function exclusively<T>(work: () => Promise<T>): Promise<T> {
  const next = turn.then(async () => {
    if (performance.now() - lastTurn > longestStretch) {
      await nextTurn();
      lastTurn = performance.now();
    }
    return await work();
  });
  underWay++;
  const done = () => {
    underWay--;
  };
  turn = next.then(done, done);
  return next;
}

/** Whether nothing was asked for that is not done. */
export function isIdle(): boolean {
  return underWay === 0;
}

/** Whether a call may do its work at once: nothing was asked for before it, and the event loop has had its turn. */
export function mayRunAtOnce(): boolean {
  return isIdle() && performance.now() - lastTurn <= longestStretch;
}

/** The open device with an id that a node carries. Throws DeviceError when it was closed or lost. */
export function requireDevice(op: string, id: number): Device {
  const device = deviceById(id);
  if (device === undefined || device.isLost) {
    throw new DeviceError(op, { got: `a tensor on device ${id}, which was closed or lost`, need: "an open device" });
  }
  return device;
}

/** The device on which a node is computed: its own, else the default one. */
export async function deviceFor(node: Node): Promise<Device> {
  return node.device === undefined ? await defaultDevice() : requireDevice("realize", node.device);
}

/** A leaf for data, as the value of `node`. */
export function leafFor(node: Node, storage: Storage): Leaf {
  return leafOf(storage, node.shape, node.dtype, node.device);
}

/**
 * Gives every node of `roots` a value. To be called inside `exclusively`. Throws TraceError for what only a trace
 * knows.
 */
export async function compute(roots: readonly Node[]): Promise<void> {
  for (const root of roots) requireConcrete("realize", root);
  await fulfil(roots);
  await computeAll(roots);
}

/** Leaves that stand for nodes, distinct ones, from now on, and get their values when these are computed, together. */
export function promise(nodes: readonly Node[]): Map<Node, Leaf> {
  const chunk: Chunk = { nodes, failed: false };
  return new Map(nodes.map((node) => {
    const leaf = leafFor(node, Storage.promised(node.dtype, size(node.shape)));
    recordOf(leaf).due = { node, chunk };
    recordOf(node).leaf = leaf;
    remember(leaf, node);
    return [node, leaf];
  }));
}

/** Computes what is due behind `roots`, chunk by chunk, the oldest first. Also what failed before. */
async function fulfil(roots: readonly Node[]): Promise<void> {
  const leavesBehind = (nodes: readonly Node[]) => pendingOrder(nodes).filter(isDue);
  const stack = leavesBehind(roots);
  for (let leaf = stack.at(-1); leaf !== undefined; leaf = stack.at(-1)) {
    const { due } = recordOf(leaf);
    const before = due === undefined ? [] : leavesBehind([due.node]);
    stack.push(...before);
    if (before.length > 0) continue;
    if (due !== undefined) await computeDue(due);
    stack.pop();
  }
}

/** A node with what is due with it; alone where that cannot be had, as of a device that was lost meanwhile. */
async function computeDue({ node, chunk }: Due): Promise<void> {
  if (!chunk.failed) {
    try {
      return await computeAll(chunk.nodes.filter((other) => !pendingOrder([other]).some(isDue)));
    } catch {
      chunk.failed = true;
    }
  }
  await computeAll([node]);
}

async function computeAll(roots: readonly Node[]): Promise<void> {
  const order = pendingOrder(roots);
  const isCut = (node: Node): node is NodeOf<"copy"> =>
    node.op === "copy" && valueOf(node) === undefined && node.src[0]!.device !== undefined;
  if (order.some(isCut)) {
    // Transfers that wait for no other go together, then those that waited for them.
    const levels = new Map<Node, number>();
    const rounds: NodeOf<"copy">[][] = [];
    for (const node of order) {
      const below = node.src.reduce((most, source) => Math.max(most, levels.get(source) ?? 0), 0);
      levels.set(node, isCut(node) ? below + 1 : below);
      if (isCut(node)) (rounds[below] ??= []).push(node);
    }
    for (const copies of rounds) {
      await computeHere(copies.map((copy) => copy.src[0]!));
      await Promise.all(copies.map(transfer));
    }
  }
  await computeHere(roots);
}

/**
 * `compute`, where that needs nothing to be waited for: the device is known, the plan loaded, the inputs are there and
 * memory is free. Else does nothing and returns false. Throws what `compute` rejects with.
 */
export function computeAtOnce(roots: readonly Node[]): boolean {
  const wanted: Node[] = [];
  let device: Device | undefined;
  for (const root of roots) {
    requireConcrete("realize", root);
    if (isDue(root)) return false;
    if (valueOf(root) !== undefined || wanted.includes(root)) continue;
    const own = root.device === undefined ? knownDefaultDevice() : deviceById(root.device);
    if (own === undefined || own.isLost || (device !== undefined && own !== device)) return false;
    if (size(root.shape) === 0 || locate(root) !== undefined) return false;
    device = own;
    wanted.push(root);
  }
  return device === undefined || runPlanAtOnce(device, wanted);
}

async function transfer(copy: NodeOf<"copy">): Promise<void> {
  const device = requireDevice("to", copy.attrs.device);
  const source = storageOf(valueOf(copy.src[0]!)!);
  const data = source.host ?? await source.read();
  const storage = Storage.ofHost(data, source.dtype);
  await bring(storage, device);
  if (source.host === undefined) storage.dropHost();
  settle(copy, storage);
}

/** Makes `storage` the value of `node`. */
function settle(node: Node, storage: Storage): void {
  const promised = dueOf(node);
  if (promised !== undefined) {
    recordOf(promised).due = undefined;
    storageOf(promised).fulfil(storage);
    return;
  }
  const leaf = leafFor(node, storage);
  recordOf(node).leaf = leaf;
  remember(leaf, node);
}

/** Values of nodes that need no transfer. */
async function computeHere(roots: readonly Node[]): Promise<void> {
  const groups = new Map<Device, Node[]>();
  for (const root of new Set(roots)) {
    if (valueOf(root) !== undefined || settleWithoutWork(root)) continue;
    const device = await deviceFor(root);
    const group = groups.get(device);
    if (group === undefined) groups.set(device, [root]);
    else group.push(root);
  }
  for (const [device, group] of groups) await runPlan(device, group);
}

/** An empty tensor, and another view of all of a value, need no kernel. */
function settleWithoutWork(root: Node): boolean {
  if (size(root.shape) === 0) {
    settle(root, Storage.ofHost(new dtypes[root.dtype].array(0), root.dtype));
    return true;
  }
  const found = locate(root);
  if (found === undefined || found.storage.count !== size(root.shape)) return false;
  settle(root, found.storage.share());
  return true;
}

/** Where a node's elements lie in order, if they already do. */
export function locate(node: Node): { storage: Storage; offset: number } | undefined {
  let x = node;
  let offset = 0;
  for (;;) {
    const leaf = valueOf(x);
    if (leaf !== undefined) return isDue(leaf) ? undefined : { storage: storageOf(leaf), offset };
    if (x.op === "slice") {
      const from = x.src[0]!.shape;
      const whole = from.every((n, axis) => axis === 0 || n === x.shape[axis]) && from.length > 0;
      const { start, step } = x.attrs;
      if (!whole || step.some((n, axis) => n !== 1 && x.shape[axis]! > 1)) return undefined;
      offset += start[0]! * size(from.slice(1));
    } else if (x.op === "copy") {
      if (x.src[0]!.device !== undefined) return undefined;
    } else if (x.op !== "reshape" && !isKind(x, "same")) {
      return undefined;
    }
    x = x.src[0]!;
  }
}

const isGiven = (node: Node) => valueOf(node) !== undefined;

async function runPlan(device: Device, wanted: readonly Node[]): Promise<void> {
  const order = pendingOrder(wanted);
  const roots = withRecomputed(order, wanted);
  const graph = await loadGraph(device, roots, order, isGiven);
  const inputs: DeviceBuffer[] = [];
  for (const node of graph.given) inputs.push(await bring(storageOf(valueOf(node)!), device));
  const outputs: DeviceBuffer[] = [];
  try {
    for (const root of roots) outputs.push(await allocate(device, byteLength(root)));
  } catch (error) {
    outputs.forEach((buffer) => device.free(buffer));
    throw error;
  }
  launch(device, graph, roots, order, inputs, outputs);
}

/** `runPlan` where nothing has to be waited for; else does nothing and returns false. */
function runPlanAtOnce(device: Device, wanted: readonly Node[]): boolean {
  const order = pendingOrder(wanted);
  if (order.some((node) => node.op === "copy" && !isGiven(node))) return false;
  const roots = withRecomputed(order, wanted);
  const graph = loadedGraph(device, roots, order, isGiven);
  if (graph === undefined) return false;
  const inputs: DeviceBuffer[] = [];
  for (const node of graph.given) {
    const buffer = storageOf(valueOf(node)!).present(device);
    if (buffer === undefined) return false;
    inputs.push(buffer);
  }
  const outputs: DeviceBuffer[] = [];
  for (const root of roots) {
    const buffer = allocateAtOnce(device, byteLength(root));
    if (buffer === undefined) {
      outputs.forEach((buffer) => device.free(buffer));
      return false;
    }
    outputs.push(buffer);
  }
  launch(device, graph, roots, order, inputs, outputs);
  return true;
}

/** Runs a plan and makes its outputs, which it takes over, the values of `roots`. */
function launch(
  device: Device,
  graph: LoadedGraph,
  roots: readonly Node[],
  order: readonly Node[],
  inputs: readonly DeviceBuffer[],
  outputs: readonly DeviceBuffer[],
): void {
  let numbers: readonly DeviceBuffer[] = [];
  try {
    numbers = numberBuffers(device, graph);
    device.run(graph.executable, numbers.length === 0 ? inputs : [...inputs, ...numbers], outputs);
  } catch (error) {
    for (const buffer of outputs) device.free(buffer);
    throw error;
  } finally {
    for (const buffer of numbers) device.free(buffer);
  }
  for (let i = 0; i < roots.length; i++) {
    const root = roots[i]!;
    settle(root, Storage.ofBuffer(device, outputs[i]!, root.dtype, size(root.shape)));
  }
  for (const node of order) if (node.src.length > 0) recordOf(node).computed = true;
}

/**
 * `wanted`, and nodes that an earlier plan computed without keeping them and that this one needs again: they are kept now,
 * so that nothing is computed more than twice. Of a region of such nodes, those that new ones read.
 */
function withRecomputed(order: readonly Node[], wanted: readonly Node[]): readonly Node[] {
  if (!order.some(isOld)) return wanted;
  const kept = new Set<Node>();
  const roots = new Set(wanted);
  for (const node of order) {
    if (isOld(node) || isGiven(node)) continue;
    for (const source of node.src) {
      const base = producer(source);
      if (isOld(base) && !roots.has(base) && worthKeeping(base)) kept.add(base);
    }
  }
  return kept.size === 0 ? wanted : [...wanted, ...kept];
}

/** Whether a node was computed, and not kept; a number that fills a shape is known without computing. */
function isOld(node: Node): boolean {
  if (node.src.length === 0 || valueOf(node) !== undefined || knownRecord(node)?.computed !== true) return false;
  let shown = node;
  while (isMovement(shown)) shown = shown.src[0]!;
  return shown.op !== "const";
}

/** What a chain of views shows. */
function producer(node: Node): Node {
  let x = node;
  while (valueOf(x) === undefined && ((isMovement(x) && !isStored(x)) || x.op === "cast")) x = x.src[0]!;
  return x;
}

/** Not the products of a contraction, which are many more than what they are made of; not constants. */
function worthKeeping(node: Node): boolean {
  const count = size(node.shape);
  const sources = node.src.map(producer);
  if (count === 0 || sources.every((source) => source.src.length === 0 && valueOf(source) === undefined)) return false;
  return count <= 2 * sources.reduce((sum, source) => sum + size(source.shape), 0);
}

/** The host copy of a node's value, once `compute` or `locate` knows it. */
export function readNode(node: Node): Promise<HostArray> {
  const found = locate(node);
  if (found === undefined) {
    throw new DeviceError("read", { got: "a tensor whose data was freed", need: "a tensor that is in use" });
  }
  return found.storage.read(found.offset, size(node.shape));
}

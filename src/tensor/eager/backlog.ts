/**
 * Tensors whose computing is due although nobody reads them. Without this a loop that reads only its last loss would make
 * its graph longer with every turn. What is due is computed in chunks, and chunks that are equal have one plan: what a
 * training loop assigns is a chunk when its next turn uses it, so that a chunk is a step; of what else is made, a chunk is
 * what was made since the last one, in whole turns of a loop where it is one.
 */
import { deviceById } from "../../devices/device/registry.ts";
import { type Node, toposort } from "../../graph/node.ts";
import { sameShape } from "../../graph/shape.ts";
import { type Leaf, recordOf, valueOf } from "./record.ts";

/** A tensor that may be computed. */
export interface Pending {
  readonly node: Node;
  readonly isPending: boolean;
  /** Shows the value once it is computed. */
  settle(): void;
  /** Shows the leaf of its node. */
  promise(leaf: Leaf): void;
}

/** Nodes to be computed beyond which they are due, and fewer of them in a loop, whose chunks are equal. */
export const longestGraph = 2000;
const longestLoop = 250;

/** Tensors that are made between two looks at how long the graph is. */
const stride = 64;

/** A tensor that was made, and its node then. */
interface Made {
  readonly handle: Pending;
  readonly node: Node;
}

export class Backlog {
  /** What was made since the last chunk and is not computed yet. */
  #made: Made[] = [];
  /** How many there are when the graph is looked at next. */
  #look = stride;
  /** Tensors that were made since a reader's graph was looked at. */
  #unseen = 0;
  /** What a loop carries on, of which the next turn is waited for: how far back it was made then. */
  #carried: readonly number[] | undefined;
  #assigned: WeakRef<Pending>[] = [];
  /** Those among them. */
  #waiting = new WeakSet<Pending>();
  /** Those that were assigned to again and again, and read not once. */
  #looping = new WeakSet<Pending>();
  /** How much was made before the last of them was assigned to. */
  #before = 0;
  readonly #compute: (handles: readonly Pending[]) => void;

  /** `compute` computes tensors, at once or when the calls before are done; they show their leaves from then on. */
  constructor(compute: (handles: readonly Pending[]) => void) {
    this.#compute = compute;
  }

  /** A tensor was made outside a trace. */
  notice(handle: Pending, node: Node): void {
    if (node.src.length === 0) return;
    this.#made.push({ handle, node });
    this.#unseen++;
    if (this.#made.length >= this.#look) this.#measure();
  }

  /** A tensor is about to be assigned to: what it shows so far, and all that was assigned with it, is of the turn before. */
  assigning(handle: Pending): void {
    if (!this.#waiting.has(handle)) return;
    const ofNext = this.#made.splice(this.#before);
    const assigned = this.takeAssigned();
    for (const each of assigned) this.#looping.add(each);
    this.#cut(assigned);
    this.#made = ofNext;
  }

  /** A tensor is used: if a loop goes on assigning to it, this is its next turn. */
  using(handle: Pending): void {
    if (this.#assigned.length > 0 && this.#looping.has(handle) && this.#waiting.has(handle)) {
      this.#cut(this.takeAssigned());
    }
  }

  /** A tensor was assigned a value that is not computed yet. */
  assigned(handle: Pending): void {
    this.#before = this.#made.length;
    if (this.#waiting.has(handle)) return;
    this.#waiting.add(handle);
    this.#assigned.push(new WeakRef(handle));
  }

  /** Whether some tensor was assigned to since `takeAssigned`. */
  get hasAssigned(): boolean {
    return this.#assigned.length > 0;
  }

  /** Tensors that were assigned to and are still to be computed, once. */
  takeAssigned(): Pending[] {
    if (this.#assigned.length === 0) return [];
    const references = this.#assigned;
    this.#assigned = [];
    this.#waiting = new WeakSet();
    return references.flatMap((reference) => {
      const handle = reference.deref();
      return handle !== undefined && handle.isPending && isReachable(handle.node) ? [handle] : [];
    });
  }

  /** Something was computed that was asked for, and what it was computed from: that is not kept from being collected. */
  computed(): void {
    this.#looping = new WeakSet();
    if (this.#made.length === 0) return;
    this.#made = this.#made.filter(({ handle, node }) => handle.isPending && !recordOf(node).computed);
    this.#look = this.#made.length + stride;
    this.#carried = undefined;
    this.#before = 0;
    // Little is left of what was made, and still all that it came from may be behind it, with the values of that.
    if (this.#unseen < 4 * stride) return;
    this.#unseen = 0;
    if (toposort(this.#ends().map(({ node }) => node)).length > longestGraph) this.#cut([]);
  }

  /** Looks how long the graph has become. */
  #measure(): void {
    if (this.#carried !== undefined) return this.#cut(this.#carried.map((back) => this.#made.at(-back)!.handle));
    const ends = this.#ends();
    const order = toposort(ends.map(({ node }) => node), (node) => valueOf(node) === undefined);
    const loop = order.length > longestLoop ? loopOf(this.#made.map(({ node }) => node)) : undefined;
    if (loop !== undefined) {
      this.#carried = loop.carried;
      this.#look = this.#made.length + loop.rest;
      if (loop.rest === 0) this.#measure();
    } else if (order.length > longestGraph) {
      this.#cut([]);
    } else {
      // What others were made from is behind them. Of ends, as of a model's parameters, there may be many.
      if (ends.length > longestGraph) this.#made = [];
      this.#look = Math.max(this.#made.length, 2 * ends.length) + stride;
    }
  }

  /** What nothing was made from is what the caller goes on with: the graph behind it becomes history. */
  #ends(): Made[] {
    return this.#made.filter(({ handle, node }) => {
      const record = recordOf(node);
      return handle.isPending && !record.consumed && !record.symbolic && isReachable(node);
    });
  }

  /** A chunk ends here: it is computed, as soon as may be, and what nobody may read of it is forgotten. */
  #cut(wanted: readonly Pending[]): void {
    const due = new Set([...wanted.filter((handle) => handle.isPending), ...this.#ends().map(({ handle }) => handle)]);
    this.#made = [];
    this.#look = stride;
    this.#carried = undefined;
    this.#before = 0;
    if (due.size > 0) this.#compute([...due]);
  }
}

/** Where a chunk of a loop is to end. */
interface Loop {
  /** How many more tensors are to be made before. */
  readonly rest: number;
  /** What was made before then and is read afterwards: how far back from there it is, from 1 on. */
  readonly carried: readonly number[];
}

/** The loop that made nodes, if one did: where in its turns the least is carried on. */
function loopOf(nodes: readonly Node[]): Loop | undefined {
  const length = period(nodes);
  if (length === undefined) return undefined;
  const position = new Map(nodes.map((node, i) => [node, i]));
  // What each node of the last two turns reads of what was made.
  const first = Math.max(0, nodes.length - 2 * length);
  const reads = nodes.slice(first).map((node, i) => {
    const isOther = (x: Node) => x !== node && position.has(x);
    return toposort([node], (x) => !isOther(x) && valueOf(x) === undefined).filter(isOther).map((x) => ({
      by: first + i,
      of: position.get(x)!,
    }));
  }).flat();
  let best: { readonly end: number; readonly carried: readonly number[] } | undefined;
  for (let end = nodes.length - 2 * length + 1; end <= nodes.length - length; end++) {
    const carried = [...new Set(reads.filter(({ by, of }) => by >= end && of < end).map(({ of }) => end - of))];
    // As a chunk ends, its last turn is the newest.
    if (best === undefined || carried.length <= best.carried.length) best = { end, carried };
  }
  return {
    rest: (best!.end + 2 * length - nodes.length) % length,
    carried: best!.carried.filter((back) => back <= best!.end),
  };
}

/** After how many nodes the last half of a list repeats itself, op by op; undefined where it does not. */
function period(nodes: readonly Node[]): number | undefined {
  const half = Math.floor(nodes.length / 2);
  const isLike = (a: Node, b: Node) => a.op === b.op && sameShape(a.shape, b.shape);
  for (let length = 1; length <= half; length++) {
    let i = nodes.length - 1;
    while (i >= half && isLike(nodes[i]!, nodes[i - length]!)) i--;
    if (i < half) return length;
  }
  return undefined;
}

/** Whether the device of a node is open. */
function isReachable(node: Node): boolean {
  return node.device === undefined || deviceById(node.device)?.isLost === false;
}

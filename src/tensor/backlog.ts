/**
 * Tensors whose computing is due although nobody reads them: those at the end of a graph that has become long, and
 * those that were assigned. Without this a loop that reads only its loss would make its graph longer with every turn.
 */
import { type Node, toposort } from "../graph/node.ts";
import { deviceById } from "../devices/registry.ts";
import { type NodeRecord, recordOf } from "./record.ts";

/** A tensor that may be computed. */
export interface Pending {
  readonly node: Node;
  readonly isPending: boolean;
  /** Shows the value once it is computed. */
  settle(): void;
}

/** Nodes behind a tensor beyond which it is due. */
export const longestGraph = 2000;

class Backlog {
  /** What was made since a graph became too long, until the caller waits for something. */
  #recent: Pending[] | undefined;
  readonly #assigned = new Set<WeakRef<Pending>>();
  /** Computes tensors; set by tensor.ts, which knows how. */
  realizeAll: (handles: readonly Pending[]) => Promise<void> = () => Promise.resolve();

  /** A tensor was made outside a trace. */
  notice(handle: Pending, node: Node, record: NodeRecord): void {
    if (this.#recent !== undefined) {
      this.#recent.push(handle);
      return;
    }
    if (record.length <= longestGraph || record.symbolic) return;
    // The bound counts a shared node once for every way to it; now once.
    record.length = Math.min(record.length, toposort([node]).length);
    if (record.length <= longestGraph) return;
    this.#recent = [handle];
    queueMicrotask(() => this.#flush());
  }

  /** A tensor was assigned a value that is not computed yet. */
  assigned(handle: Pending): void {
    this.#assigned.add(new WeakRef(handle));
  }

  /** Whether some tensor was assigned to since `takeAssigned`. */
  get hasAssigned(): boolean {
    return this.#assigned.size > 0;
  }

  /** Tensors that were assigned to and are still to be computed, once. */
  takeAssigned(): Pending[] {
    const handles = new Set<Pending>();
    for (const reference of this.#assigned) {
      const handle = reference.deref();
      if (handle !== undefined && handle.isPending && isReachable(handle.node)) handles.add(handle);
    }
    this.#assigned.clear();
    return [...handles];
  }

  /**
   * What nothing was made from is what the caller goes on with: it is computed, and the graph behind it becomes
   * history.
   */
  #flush(): void {
    const recent = this.#recent ?? [];
    this.#recent = undefined;
    const ends = recent.filter((handle) => handle.isPending && !recordOf(handle.node).consumed && isReachable(handle.node));
    // An error will meet whoever reads one of them.
    if (ends.length > 0) this.realizeAll(ends).catch(() => undefined);
  }
}

/** Whether the device of a node is open. */
function isReachable(node: Node): boolean {
  return node.device === undefined || deviceById(node.device)?.isLost === false;
}

export const backlog = new Backlog();

/** How many nodes read a node: known when a graph is complete, and kept up while it is rewritten. */
import { type Node, toposort } from "../../graph/node.ts";

export class Readers {
  readonly #counts = new Map<Node, number>();

  /** Of the graph above `inputs`. A root counts as read once for each time that it is a root. */
  constructor(roots: readonly Node[], inputs: ReadonlySet<Node>) {
    for (const root of roots) this.add(root, 1);
    for (const node of toposort(roots, (node) => !inputs.has(node))) {
      if (inputs.has(node)) continue;
      for (const source of node.src) this.add(source, 1);
    }
  }

  /** Undefined for a node that is not known. */
  of(node: Node): number | undefined {
    return this.#counts.get(node);
  }

  add(node: Node, more: number): void {
    this.#counts.set(node, (this.#counts.get(node) ?? 0) + more);
  }

  /** A node that is new takes the readers of the one whose place it takes. */
  replace(old: Node, by: Node): void {
    if (!this.#counts.has(by) && this.#counts.has(old)) this.#counts.set(by, this.#counts.get(old)!);
  }
}

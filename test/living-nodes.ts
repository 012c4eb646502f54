/** How many nodes of graphs are alive, of those that were made since. */
import { watchNodes } from "../src/graph/node.ts";

let count = 0;
const collected = new FinalizationRegistry<undefined>(() => count--);

/** Begins to count. `explain` ends that, as there is one watcher. */
export function countNodes(): void {
  count = 0;
  const seen = new WeakSet<object>();
  watchNodes((node) => {
    if (seen.has(node)) return;
    seen.add(node);
    count++;
    collected.register(node, undefined);
  });
}

/** Nodes that were made since and not yet found dead. */
export function livingNodes(): number {
  return count;
}

/** Ends counting. */
export function stopCounting(): void {
  watchNodes(undefined);
}

/** Which nodes are probabilities because of what made them, so that they are not taken for logits. */
import type { Node } from "../../graph/node.ts";

const made = new WeakMap<Node, "softmax" | "sigmoid">();

/** Notes that a node is the result of a softmax or a sigmoid, and gives it back. */
export function noteProbabilities<N extends Node>(by: "softmax" | "sigmoid", node: N): N {
  made.set(node, by);
  return node;
}

/** What made a node, or what it is a view of, probabilities. Undefined for one that was not, or that was computed already. */
export function probabilitiesOf(node: Node): "softmax" | "sigmoid" | undefined {
  let x = node;
  for (;;) {
    const by = made.get(x);
    if (by !== undefined) return by;
    if (x.op !== "reshape" && x.op !== "cast" && x.op !== "permute" && x.op !== "slice" && x.op !== "stopGradient") {
      return undefined;
    }
    x = x.src[0]!;
  }
}

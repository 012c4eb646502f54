/**
 * Cuts the graph of a shard at its collectives: what comes before one is computed for all shards, then combined on the
 * host, and what comes after it goes on with the result.
 */
import { input, withSources } from "../../graph/build.ts";
import { isKind, type Node, type NodeOf, toposort } from "../../graph/node.ts";
import { isExpensive, type StructuralOf } from "../../graph/structural.ts";

export type CollectiveNode = NodeOf<StructuralOf<"cut">>;

/** A value that leaves a stage, and what stands for it in the stages after it. */
export interface Crossing {
  readonly placeholder: Node;
  /** Position among the roots of its stage. */
  readonly root: number;
}

export interface Stage {
  /** Sources of the collectives, then the values kept; of the last stage those that the graph was cut for. */
  readonly roots: readonly Node[];
  /** What the stage reads: inputs of the whole graph, and placeholders of crossings of earlier stages. */
  readonly inputs: readonly Node[];
  /** What is combined over all shards at the end of the stage. */
  readonly collectives: readonly (Crossing & { readonly node: CollectiveNode })[];
  /** What stays on the device for later stages of the same shard. */
  readonly kept: readonly Crossing[];
}

export function isCollective(node: Node): node is CollectiveNode {
  return isKind(node, "cut");
}

/** Which collectives a graph has; `total` where one depends on how many rows the whole batch has. */
export function collectivesIn(roots: readonly Node[]): { readonly any: boolean; readonly total: boolean } {
  const found = toposort(roots).filter(isCollective);
  return { any: found.length > 0, total: found.some((node) => node.op !== "allReduce") };
}

/** A stage while nodes are given to it. */
interface GrowingStage {
  readonly roots: readonly Node[];
  readonly collectives: readonly CollectiveNode[];
  /** What each node that the stage computes has become in it. */
  readonly now: Map<Node, Node>;
  readonly inputs: Set<Node>;
  readonly kept: Node[];
}

/**
 * The stages of the graph of `roots`, whose leaves `isInput` tells. There is one more than collectives follow each
 * other; a graph without any is one stage as it is.
 */
export function cutStages(roots: readonly Node[], isInput: (node: Node) => boolean): Stage[] {
  const levels = levelsOf(roots, isInput);
  const collectives = [...levels.keys()].filter(isCollective);
  const last = Math.max(0, ...collectives.map((node) => levels.get(node)!));
  const placeholders = new Map<Node, Node>();
  const placeholderOf = (node: Node) => {
    let known = placeholders.get(node);
    if (known === undefined) placeholders.set(node, known = input(node.shape, node.dtype));
    return known;
  };
  const stages: GrowingStage[] = [];
  const computed = new Map<Node, GrowingStage>();
  for (let level = 0; level <= last; level++) {
    const ending = collectives.filter((node) => levels.get(node) === level + 1);
    const wanted = level < last ? ending.map((node) => node.src[0]!) : roots;
    const stage: GrowingStage = { roots: wanted, collectives: ending, now: new Map(), inputs: new Set(), kept: [] };
    // What is cheap is computed again in each stage that reads it.
    const isKept = (node: Node) => isExpensive(node) && computed.has(node);
    const order = toposort(wanted, (node) => !isInput(node) && !isCollective(node) && !isKept(node));
    for (const node of order) {
      if (isInput(node)) {
        stage.inputs.add(node);
        stage.now.set(node, node);
      } else if (isCollective(node) || isKept(node)) {
        const owner = computed.get(node);
        if (owner !== undefined && !owner.kept.includes(node)) owner.kept.push(node);
        stage.inputs.add(placeholderOf(node));
        stage.now.set(node, placeholderOf(node));
      } else stage.now.set(node, withSources(node, node.src.map((source) => stage.now.get(source)!)));
    }
    for (const node of order) if (isExpensive(node) && !computed.has(node)) computed.set(node, stage);
    stages.push(stage);
  }
  return stages.map(({ roots, collectives, now, inputs, kept }): Stage => ({
    roots: [...roots, ...kept].map((node) => now.get(node)!),
    inputs: [...inputs],
    collectives: collectives.map((node, root) => ({ node, root, placeholder: placeholderOf(node) })),
    kept: kept.map((node, i) => ({ root: roots.length + i, placeholder: placeholderOf(node) })),
  }));
}

/** How many collectives each node has behind it, itself included. */
function levelsOf(roots: readonly Node[], isInput: (node: Node) => boolean): Map<Node, number> {
  const levels = new Map<Node, number>();
  for (const node of toposort(roots, (node) => !isInput(node))) {
    const before = isInput(node) ? 0 : node.src.reduce((most, source) => Math.max(most, levels.get(source)!), 0);
    levels.set(node, before + (isCollective(node) ? 1 : 0));
  }
  return levels;
}

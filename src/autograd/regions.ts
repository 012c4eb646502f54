/**
 * Regions between checkpoints: what is inside is computed again for the gradients, from what the region is given and reads.
 * Chen, Xu, Zhang, Guestrin: Training Deep Nets with Sublinear Memory Cost (2016).
 */
import { after, checkpoint, newRegion, withSources } from "../graph/build.ts";
import { type Node, type NodeOf, toposort } from "../graph/node.ts";

/** The results of one region, as the walk meets them. */
export interface Region {
  readonly number: number;
  /** Position in the walk's order of the result that comes first: when the walk gets there, it has met all. */
  first: number;
  readonly results: { readonly value: Node; readonly g: Node }[];
}

export function isResult(node: Node): node is NodeOf<"checkpoint"> {
  return node.op === "checkpoint" && node.attrs.side === "out";
}

/** The region of every result in `order`, which has sources first. */
export function regionsOf(order: readonly Node[]): ReadonlyMap<Node, Region> {
  const known = new Map<string, Region>();
  const regions = new Map<Node, Region>();
  order.forEach((node, position) => {
    if (!isResult(node)) return;
    // A graph may hold a region twice, with other sources.
    const key = `${node.attrs.region}:${node.src.map((x) => x.id).sort((a, b) => a - b)}`;
    let region = known.get(key);
    if (region === undefined) known.set(key, region = { number: node.attrs.region, first: position, results: [] });
    regions.set(node, region);
  });
  return regions;
}

/** What a region reads: a node outside, and what stands for it where the region is computed again. */
export interface Reading {
  readonly of: Node;
  readonly as: Node;
}

export interface Again {
  /** The values of the results. */
  readonly values: readonly Node[];
  /** What the region reads through which a gradient may flow. */
  readonly readings: readonly Reading[];
  /** The nodes between its borders, as they are. */
  readonly inside: ReadonlySet<Node>;
}

/** A region once more, to be computed after the cotangents of its results. `flows` tells through which nodes gradients do. */
export function computedAgain({ number, results }: Region, flows: (node: Node) => boolean): Again {
  const isGiven = (node: Node) => node.op === "checkpoint" && node.attrs.side === "in" && node.attrs.region === number;
  const cotangents = results.map(({ g }) => g);
  const inside = new Set<Node>();
  const now = new Map<Node, Node>();
  // What is given and also read from outside is one reading.
  const readings = new Map<Node, Reading>();
  const read = (of: Node): Node => {
    let reading = readings.get(of);
    if (reading === undefined) readings.set(of, reading = { of, as: after(of, cotangents) });
    return reading.as;
  };
  const outside = (node: Node): Node => {
    if (!now.has(node)) now.set(node, flows(node) ? read(node) : node);
    return now.get(node)!;
  };
  const inner = new Map<number, number>();
  for (const node of toposort(results.map(({ value }) => value), (node) => !isGiven(node))) {
    if (isGiven(node)) {
      inside.add(node);
      now.set(node, read(node.src[0]!));
    } else if (node.src.some((x) => inside.has(x))) {
      inside.add(node);
      const src = node.src.map((x) => inside.has(x) ? now.get(x)! : outside(x));
      now.set(node, node.op === "checkpoint" ? renumbered(node, src, inner) : withSources(node, src));
    }
  }
  return {
    values: results.map(({ value }) => now.get(value) ?? value),
    readings: [...readings.values()].filter(({ of }) => flows(of)),
    inside,
  };
}

/** A border of a region within the region: its copy is a region of its own. */
function renumbered(node: NodeOf<"checkpoint">, src: readonly Node[], numbers: Map<number, number>): Node {
  const { region, side } = node.attrs;
  if (!numbers.has(region)) numbers.set(region, newRegion());
  return checkpoint(src[0]!, numbers.get(region)!, side, src.slice(1));
}

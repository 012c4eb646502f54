/**
 * Values that are watched: the kernels that store them note, as they do, which of their elements are not finite. So whoever
 * asks about a gradient of many parts need not read it again.
 */
import { makeNode, type Node } from "../../graph/node.ts";
import { size, strides } from "../../graph/shape.ts";
import { isAlone, kernelOf } from "../../graph/structural.ts";
import type { Expr, KernelBuilder, Lane, Statement } from "../kernel/ir.ts";
import { locate, type Marks } from "../kernel/location.ts";

/** A value that is watched, of f32, and the number of its elements; with `each`, they are numbered in order from there on. */
export interface Watched {
  readonly node: Node;
  readonly number: number;
  readonly each: boolean;
}

/**
 * Of the elements that are not finite the smallest number n is left in the input `faults`, u32 [2], as 2^32 - 1 - n, unless
 * a larger word is there already; 0 stands for none. The first word is of numbers below `boundary`, the second of the
 * others. A kernel that reads `faults` comes after all values are stored.
 */
export interface Watch {
  readonly values: readonly Watched[];
  readonly boundary: number;
  /** The position of an input. */
  readonly faults: number;
}

/** The larger word stands for the smaller number, so that memory full of 0 means none. */
const most = 0xffffffff;

/** The number that a word of `faults` stands for; undefined for none. */
export function faultOf(word: number): number | undefined {
  return word === 0 ? undefined : most - word;
}

/** A value such that a kernel that stores single elements of it, or of each of its parts, is there: what is watched needs one. */
function watchable(node: Node, given: ReadonlySet<Node>): Node {
  return given.has(node) || (isAlone(node) && kernelOf(node) !== "region")
    ? makeNode("contiguous", [node], {}, node.shape, node.dtype, node.device)
    : node;
}

/** The values that kernels are to store, and what is watched of each: of a concatenation, its parts. */
export function watchedParts(watched: readonly Watched[], given: ReadonlySet<Node>): Map<Node, Watched[]> {
  const parts = new Map<Node, Watched[]>();
  const stack = [...watched].reverse();
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const { number, each } = next;
    const node = watchable(next.node, given);
    if (size(node.shape) === 0) continue;
    if (kernelOf(node) !== "region") {
      parts.set(node, [...parts.get(node) ?? [], { node, number, each }]);
      continue;
    }
    let start = number;
    for (const part of node.src) {
      stack.push({ node: part, number: start, each });
      if (each) start += size(part.shape);
    }
  }
  return parts;
}

/** Statements that note the elements which are not finite of a value that is stored at some lanes. */
export function markFaults(
  builder: KernelBuilder,
  node: Node,
  marks: readonly Marks[],
  lanes: readonly Lane[],
  values: readonly Expr[],
): Statement[] {
  const u32 = (value: number) => builder.constant(value, "u32");
  const op = builder.op.bind(builder);
  const infinite = u32(0x7f800000);
  // Told by the bits, as a device's compiler may assume that all is finite.
  const magnitudes = values.map((value) => op("and", builder.convert("bitcast", value, "u32"), u32(0x7fffffff)));
  const where = (condition: Expr | undefined, x: Expr) =>
    condition === undefined ? x : op("where", condition, x, u32(0));
  // What costs is this alone: all else is computed where a fault was found.
  const found = op("le", infinite, largest(builder, lanes.map(({ when }, i) => where(when, magnitudes[i]!))));
  return marks.flatMap(({ slot, number, each, boundary }) => {
    const buffer = builder.buffer(slot, "u32", "readWrite");
    if (!each) {
      return [{ kind: "mark", buffer, place: number < boundary ? 0 : 1, value: u32(most - number), when: found }];
    }
    const end = number + size(node.shape);
    const words = [...(number < boundary ? [0] : []), ...(end > boundary ? [1] : [])];
    return words.map((place): Statement => {
      const keys = lanes.map(({ indices, when }, i) => {
        const index = locate({ slot, offset: number, strides: strides(node.shape) }, indices);
        const side = words.length === 1
          ? undefined
          : place === 0
          ? builder.within(index, number, boundary)
          : builder.within(index, boundary, end);
        const key = op("sub", u32(most), builder.index(index, "u32"));
        return where(when, where(side, where(op("le", infinite, magnitudes[i]!), key)));
      });
      return { kind: "mark", buffer, place, value: largest(builder, keys), when: found };
    });
  });
}

/** The largest of some numbers, by halves: compilers read deep expressions only so far. */
function largest(builder: KernelBuilder, numbers: readonly Expr[]): Expr {
  if (numbers.length === 1) return numbers[0]!;
  const half = Math.ceil(numbers.length / 2);
  return builder.op("max", largest(builder, numbers.slice(0, half)), largest(builder, numbers.slice(half)));
}

/** What a kernel of an op's own is made of: see own-kernels.ts. */
import type { Node } from "../../graph/node.ts";
import type { Expr, KernelBuilder, Lane } from "../kernel/ir.ts";
import type { Location } from "../kernel/location.ts";
import type { AttentionBlock } from "../plan/attention-block.ts";

/** A node with a kernel of its own, and what is there to make it. */
export interface OwnKernel<N extends Node = Node> {
  readonly node: N;
  readonly builder: KernelBuilder;
  /** Where the result goes. */
  readonly targets: readonly Location[];
  /** The elements of a source, whether it is in memory or computed here. */
  readonly values: (source: Node, lanes: readonly Lane[]) => readonly Expr[];
  /** A name for the kernel, of that kind. */
  readonly name: (kind: string) => string;
  readonly block: AttentionBlock;
  /** How many invocations work together; 1: each by itself. */
  readonly team: number;
}

/** The kernels of ops that have one of their own. */
import type { Node, NodeOf } from "../../graph/node.ts";
import type { ReductionName } from "../../graph/ops.ts";
import { size } from "../../graph/shape.ts";
import type { StructuralOf } from "../../graph/structural.ts";
import { type Index, unflatten, valueIndex, variableIndex } from "../kernel/index-arithmetic.ts";
import type { KernelIR, Lane } from "../kernel/ir.ts";
import { locate } from "../kernel/location.ts";
import { attentionKernel } from "./attention.ts";
import type { OwnKernel } from "./own-kernel.ts";
import { scanKernel } from "./scan.ts";

const kernels: { readonly [K in StructuralOf<"own">]: (of: OwnKernel<NodeOf<K>>) => KernelIR } = {
  scatterAdd: (of) => {
    const [index, values] = of.node.src as readonly [Node, Node];
    return scatterKernel(of, { onto: undefined, index, values, as: "sum" });
  },
  scatterMax: (of) => {
    const [onto, index, values] = of.node.src as readonly [Node, Node, Node];
    return scatterKernel(of, { onto, index, values, as: "amax" });
  },
  scan: scanKernel,
  attention: attentionKernel,
  attentionGradient: attentionKernel,
};

export function ownKernel(of: OwnKernel<NodeOf<StructuralOf<"own">>>): KernelIR {
  // Each entry of the table takes the node of its own op, which is the one it is looked up with.
  return (kernels[of.node.op] as (of: OwnKernel) => KernelIR)(of);
}

/** What is combined where an index says, and how; with zeros, or with what is there. */
interface Scatter {
  readonly onto: Node | undefined;
  readonly index: Node;
  readonly values: Node;
  readonly as: ReductionName;
}

/** Serial along the axis, parallel across the others: the order of additions is that of positions, on every device. */
function scatterKernel(
  { node, builder, targets, values: valuesOf, name }: OwnKernel<NodeOf<"scatterAdd" | "scatterMax">>,
  { onto, index, values, as }: Scatter,
): KernelIR {
  const { axis } = node.attrs;
  const length = node.shape[axis]!;
  const others = node.shape.map((n, a) => a === axis ? 1 : n);
  const variable = builder.variable("i", size(others));
  const at = unflatten(variableIndex(variable), others);
  const put = (along: Index) => at.map((own, a) => a === axis ? along : own);
  const clear = builder.variable("z", length);
  const cleared = builder.openLoop(builder.root, clear);
  const walk = builder.variable("k", values.shape[axis]!);
  const body = builder.openLoop(builder.root, walk);
  const begun: Lane = { indices: put(variableIndex(clear)), when: undefined };
  const start = onto === undefined ? builder.constant(0, node.dtype) : valuesOf(onto, [begun])[0]!;
  for (const target of targets) {
    const buffer = builder.buffer(target.slot, node.dtype, "readWrite");
    cleared.statements.push({
      kind: "store",
      buffer,
      index: locate(target, begun.indices),
      value: start,
      when: undefined,
      accumulate: undefined,
    });
  }
  builder.root.statements.push({ kind: "loop", variable: clear, body: cleared });
  const lane: Lane = { indices: put(variableIndex(walk)), when: undefined };
  const position = valuesOf(index, [lane])[0]!;
  const value = valuesOf(values, [lane])[0]!;
  const inside = builder.op(
    "and",
    builder.op("le", builder.constant(0, "i32"), position),
    builder.op("lt", position, builder.constant(length, "i32")),
  );
  const destination = put(valueIndex(builder.nameValue(position), length));
  for (const target of targets) {
    const buffer = builder.buffer(target.slot, node.dtype, "readWrite");
    body.statements.push({
      kind: "store",
      buffer,
      index: locate(target, destination),
      value,
      when: inside,
      accumulate: as,
    });
  }
  builder.root.statements.push({ kind: "loop", variable: walk, body });
  return builder.finish(name("scatter"), [variable]);
}

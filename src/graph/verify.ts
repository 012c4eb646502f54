/** A check of whole graphs, for use between passes: every node is what its constructor would make of its parts. */
import { InternalError } from "../errors.ts";
import { rebuilt } from "./build.ts";
import { isDType } from "./dtype.ts";
import { type Node, toposort } from "./node.ts";
import { checkShape, formatShape, sameShape } from "./shape.ts";

/**
 * Throws InternalError for the first node, sources first, whose operands break the rules of its op, or whose shape,
 * dtype or device is not what they give.
 */
export function verify(roots: readonly Node[]): void {
  for (const node of toposort(roots)) {
    const fault = faultOf(node);
    if (fault === undefined) continue;
    const operands = node.src.map((source) => `${source.op} ${source.dtype}${formatShape(source.shape)}`).join(", ");
    throw new InternalError("verify", {
      got: `node ${node.id}, ${node.op}(${operands}) ${node.dtype}${formatShape(node.shape)} ${
        JSON.stringify(node.attrs)
      }: ${fault}`,
      need: "a node as its constructor makes it",
    });
  }
}

function faultOf(node: Node): string | undefined {
  if (!isDType(node.dtype)) return "an unknown dtype";
  if (node.src.some((source) => source.id >= node.id)) return "a source that is younger than the node";
  try {
    checkShape("verify", node.shape);
    const made = rebuilt(node);
    if (!sameShape(made.shape, node.shape)) return `the shape should be ${formatShape(made.shape)}`;
    if (made.dtype !== node.dtype) return `the dtype should be ${made.dtype}`;
    if (made.device !== node.device) return `the device should be ${made.device}`;
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** A check of whole graphs, for use between passes: every node is what its constructor would make of its parts. */
import { InternalError } from "../errors.ts";
import * as build from "./build.ts";
import { isDType, toElement } from "./dtype.ts";
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
    const made = rebuild(node);
    if (!sameShape(made.shape, node.shape)) return `the shape should be ${formatShape(made.shape)}`;
    if (made.dtype !== node.dtype) return `the dtype should be ${made.dtype}`;
    if (made.device !== node.device) return `the device should be ${made.device}`;
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** What the constructor makes of the node's parts: it may be a simpler node, of the same shape, dtype and device. */
function rebuild(node: Node): Node {
  const [x, y] = node.src as readonly [Node, Node];
  switch (node.op) {
    case "const":
      if (!Object.is(toElement(node.dtype, node.attrs.value), node.attrs.value)) {
        throw new Error("the value is no element of the dtype");
      }
      return build.constant(node.attrs.value, node.dtype);
    case "iota":
      if (node.dtype === "bool" || node.dtype === "f16") throw new Error("iota counts in numbers of 32 bits");
      return build.iota(node.shape[0]!, node.dtype);
    case "input":
    case "storage":
      return node;
    case "cast":
      return build.cast(x, node.dtype);
    case "bitcast":
      return build.bitcast(x, node.dtype);
    case "reshape":
      return build.reshape(x, node.shape);
    case "permute":
      return build.permute(x, node.attrs.axes);
    case "expand":
      return build.expand(x, node.shape);
    case "pad":
      return build.pad(x, node.attrs.low, node.attrs.high, node.attrs.value);
    case "slice":
      return build.slice(x, node.attrs.start, node.shape, node.attrs.step);
    case "window":
      return build.window(x, node.attrs);
    case "unwindow":
      return build.unwindow(x, node.attrs);
    case "sum":
    case "prod":
    case "amax":
    case "amin":
      return build.reduce(node.op, x, node.attrs.axes);
    case "gather":
      return build.gather(x, y, node.attrs.axis);
    case "scatterAdd":
      return build.scatterAdd(x, y, node.attrs.axis, node.attrs.length);
    case "checkpoint":
      return build.checkpoint(x, node.attrs.region, node.attrs.side, node.src.slice(1));
    case "after":
      return build.after(x, node.src.slice(1), node.attrs.wait);
    case "attention": {
      const [q, k, v, bias] = node.src as readonly [Node, Node, Node, Node?];
      return build.attention({ q, k, v, bias }, node.attrs.diagonal);
    }
    case "attentionGradient": {
      const [q, k, v, norm, g, delta, bias] = node.src as readonly [Node, Node, Node, Node, Node, Node, Node?];
      return build.attentionGradient(node.attrs.of, { q, k, v, norm, g, delta, bias }, node.attrs.diagonal);
    }
    case "argsort":
      return build.argsort(x);
    case "concat":
      return build.concat(node.src, node.attrs.axis);
    case "contiguous":
      return build.contiguous(x);
    case "allReduce":
      return build.allReduce(x, node.attrs.how);
    case "allGather":
      return build.allGather(x, node.attrs.total);
    case "reduceScatter":
      return build.reduceScatter(x, node.attrs.rows);
    case "stopGradient":
      return build.stopGradient(x);
    case "copy":
      return build.copy(x, node.attrs.device);
    default:
      return build.elementwise(node.op, ...node.src);
  }
}

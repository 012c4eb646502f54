/** Graphs as text, for debugging: one line a node, or a drawing for Graphviz. */
import { type Node, toposort } from "./node.ts";
import { formatShape } from "./shape.ts";

/**
 * One line a node, sources first, numbered from 0 in that order (equal graphs print alike):
 * `%2 = sum %1 {axes: [0]} : f32[3]`; the last line names the roots.
 */
export function printGraph(roots: readonly Node[]): string {
  const order = toposort(roots);
  const number = new Map(order.map((node, i) => [node, i]));
  const name = (node: Node) => `%${number.get(node)}`;
  const lines = order.map((node) => {
    const words = [`${name(node)} =`, node.op, ...node.src.map(name), attributes(node), `: ${type(node)}`];
    return words.filter((word) => word !== "").join(" ");
  });
  return [...lines, `return ${roots.map(name).join(", ")}`].join("\n");
}

/** The graph in Graphviz's DOT language; roots have a double frame, and repeated or ordered operands keep their order. */
export function toDot(roots: readonly Node[]): string {
  const order = toposort(roots);
  const number = new Map(order.map((node, i) => [node, i]));
  const lines = ["digraph {", "  rankdir=TB;", '  node [shape=box, fontname="monospace"];'];
  for (const node of order) {
    const label = [node.op, attributes(node), type(node)].filter((line) => line !== "").map(escape).join("\\n");
    const frame = roots.includes(node) ? ", peripheries=2" : "";
    lines.push(`  n${number.get(node)} [label="${label}"${frame}];`);
    for (const source of node.src) lines.push(`  n${number.get(source)} -> n${number.get(node)};`);
  }
  return [...lines, "}"].join("\n");
}

function type(node: Node): string {
  const device = node.device === undefined ? "" : `@${node.device}`;
  return `${node.dtype}${formatShape(node.shape)}${device}`;
}

function attributes(node: Node): string {
  if (node.op === "storage") return `{storage: ${node.attrs.storage.id}}`;
  const entries: [string, unknown][] = Object.entries(node.attrs);
  if (entries.length === 0) return "";
  return `{${entries.map(([key, value]) => `${key}: ${spell(value)}`).join(", ")}}`;
}

function spell(value: unknown): string {
  if (Array.isArray(value)) return `[${value.join(", ")}]`;
  return Object.is(value, -0) ? "-0" : String(value);
}

function escape(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"');
}

/**
 * The adjoint of windows of stride 1 below a contraction, as in the gradient of a convolution by its input: there, products
 * are summed, put where their windows lie (unwindow), and summed again over what overlaps. All of it is one sum of products:
 *   Σ_A unwindow(Σ_B a·b) = Σ_{A,B} (unwindow a)·b',
 * where b' reads b at the same window. One factor that is 0 beyond the windows is enough: so where b has a NaN or an
 * infinity, that shows in all that its window would reach. Undone, the products would go through memory, once for each
 * place in a window. A slice (the adjoint of padding) goes in as well.
 */
import { elementwise, reduce } from "../../graph/build.ts";
import type { Node } from "../../graph/node.ts";
import { type AffineMove, type AffineView, type Look, moved, moveOf, viewOf, written } from "./affine-view.ts";
import type { Readers } from "./read-counts.ts";
import type { RewriteRule, Rewriting } from "./rewriting.ts";

/** How much longer an axis may become by it: beyond, what is computed for nothing costs more than the memory does. */
const mostGrowth = 2;

export function mergeWindows(readers: Readers): RewriteRule {
  /** The products that were made here: a slice of a sum of others stays what it is. */
  const made = new WeakSet<Node>();
  return (node, graph) => {
    const unwindowed = graph.look(node, "unwindow");
    if (unwindowed !== undefined) {
      const { axis, length, stride } = unwindowed.attrs;
      if (stride !== 1 || length > mostGrowth * unwindowed.src[0].shape[axis]!) return undefined;
    } else if (graph.look(node, "slice") === undefined || !made.has(graph.look(node.src[0]!, "sum")?.src[0] ?? node)) {
      return undefined;
    }
    return intoSum(node, graph, readers, made);
  };
}

/** A movement of a contraction as a contraction of movements. */
function intoSum(node: Node, graph: Rewriting, readers: Readers, made: WeakSet<Node>): Node | undefined {
  const look: Look = (x, op) => graph.look(x, op);
  const moves: AffineMove[] = [];
  let sum = node;
  for (; sum.op !== "sum"; sum = sum.src[0]!) {
    const move = moveOf(sum, look);
    if (move === undefined || (sum !== node && readers.of(sum) !== 1)) return undefined;
    moves.push(move);
  }
  const reduced = graph.look(sum, "sum");
  const factors = reduced && graph.operands(reduced.src[0], "mul");
  if (reduced === undefined || factors === undefined || readers.of(sum) !== 1 || readers.of(reduced.src[0]) !== 1) {
    return undefined;
  }
  const { axes } = reduced.attrs;
  const product = reduced.src[0].shape;
  const kept = [...product.keys()].filter((axis) => !axes.includes(axis));
  // The axes of the sum come last, behind those that stay, so that theirs are those of the movements.
  let views = factors.map((factor) => moved(viewOf(factor, look), behind(product, kept, axes)).view);
  for (const move of moves.reverse()) {
    const wider = widened(move, axes.map((axis) => product[axis]!));
    const both = views.map((view) => moved(view, wider));
    if (!both.some(({ zeroOutside }) => zeroOutside)) return undefined;
    views = both.map(({ view }) => view);
  }
  const [left, right] = views.map((view: AffineView) => written(view, graph));
  if (left === undefined || right === undefined) return undefined;
  const rank = node.shape.length;
  const products = graph.simple(elementwise("mul", left, right));
  const result = reduce("sum", products, axes.map((_, i) => rank + i));
  readers.add(products, 1);
  made.add(products);
  readers.add(result, readers.of(node) ?? 1);
  return graph.simple(result);
}

/** The permutation that puts `axes` behind `kept`. */
function behind(shape: readonly number[], kept: readonly number[], axes: readonly number[]): AffineMove {
  const order = [...kept, ...axes];
  return {
    shape: order.map((axis) => shape[axis]!),
    rows: shape.map((_, axis) => ({ offset: 0, coefficients: order.map((other) => other === axis ? 1 : 0) })),
  };
}

/** The movement with further axes behind its own, which stay as they are. */
function widened({ shape, rows }: AffineMove, more: readonly number[]): AffineMove {
  const zeros = more.map(() => 0);
  return {
    shape: [...shape, ...more],
    rows: [
      ...rows.map(({ offset, coefficients }) => ({ offset, coefficients: [...coefficients, ...zeros] })),
      ...more.map((_, i) => ({
        offset: 0,
        coefficients: [...shape.map(() => 0), ...more.map((_, j) => i === j ? 1 : 0)],
      })),
    ],
  };
}

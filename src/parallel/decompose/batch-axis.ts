/**
 * Follows the batch axis through a graph, to decide whether a computation over a batch may be cut into shards
 * of rows.
 *
 * Every node is one of:
 *   replicated   the same on every shard: parameters, constants, what comes of them alone;
 *   batched      one slice per row, on one axis, so that shards are slices of the whole;
 *   partial      a sum over the shard's rows: shards add up to the whole. Linear ops keep it so;
 *   shard        none of these, and dependent on how many rows the shard has (1/rows, arange(rows)).
 * An op that mixes rows in any other way throws DecompositionError.
 *
 * Constants do not tell where they come from: in `x.mean()` the number of rows is a plain 1/7. So a
 * computation is judged by two traces of it, with different numbers of rows, walked side by side: an axis
 * whose lengths differ is one of rows, a constant that is equal in both is replicated, and one that is
 * proportional to the rows is partial (it counts them).
 */
import { DecompositionError } from "../../errors.ts";
import type { Node } from "../../graph/node.ts";
import { checkShapes, ruleOf } from "./spread-rules.ts";
import type { Site, Spread } from "./spread.ts";

/**
 * The rules of the ops, applied along two traces, or along one alone (then lengths of rows cannot be told
 * from others).
 */
export class BatchAxis {
  readonly #rows: number;
  readonly #twinRows: number;
  readonly #given: ReadonlyMap<Node, Spread>;
  readonly #known = new Map<Node, Map<Node, Spread>>();

  /**
   * `given` says how the inputs of the first trace are spread; other leaves are replicated. `rows` is the
   * first trace's number.
   */
  constructor(given: ReadonlyMap<Node, Spread>, rows: number, twinRows: number = rows) {
    this.#given = given;
    this.#rows = rows;
    this.#twinRows = twinRows;
  }

  /**
   * How `node` is spread, `twin` being the same value in the other trace.
   * Throws DecompositionError where rows are mixed, or where the traces are not of the same ops.
   */
  of(node: Node, twin: Node = node): Spread {
    const stack: { readonly node: Node; readonly twin: Node; next: number }[] = [{ node, twin, next: 0 }];
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      if (this.#get(top.node, top.twin) !== undefined) {
        stack.pop();
        continue;
      }
      const given = this.#given.get(top.node);
      if (
        given === undefined && (top.node.op !== top.twin.op || top.node.src.length !== top.twin.src.length)
      ) {
        throw new DecompositionError(top.node.op, {
          got: `a ${top.node.op} for ${this.#rows} rows where there is a ${top.twin.op} for ${this.#twinRows}`,
          need: "the same computation for any number of rows",
        });
      }
      const source = given === undefined ? top.node.src[top.next] : undefined;
      if (source !== undefined) {
        stack.push({ node: source, twin: top.twin.src[top.next++]!, next: 0 });
        continue;
      }
      this.#set(top.node, top.twin, given ?? this.#apply(top.node, top.twin));
      stack.pop();
    }
    return this.#get(node, twin)!;
  }

  #get(node: Node, twin: Node): Spread | undefined {
    return this.#known.get(node)?.get(twin);
  }

  #set(node: Node, twin: Node, spread: Spread): void {
    let twins = this.#known.get(node);
    if (twins === undefined) this.#known.set(node, twins = new Map());
    twins.set(twin, spread);
  }

  #apply(node: Node, twin: Node): Spread {
    const src = node.src.map((source, i) => this.#get(source, twin.src[i]!)!);
    const at: Site = { node, twin, src, rows: this.#rows, twinRows: this.#twinRows };
    const spread = ruleOf(node.op)(at);
    if (this.#rows !== this.#twinRows && spread.kind !== "shard") checkShapes(at, spread);
    return spread;
  }
}

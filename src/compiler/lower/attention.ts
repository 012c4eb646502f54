/**
 * Kernels of attention that hold no scores. An invocation has a few columns (the queries, or for the gradients of keys and
 * values the keys) and walks the rows (the others) block by block. It computes the scores of its columns in a block, of which
 * only it needs to know anything: with features first in memory, that is an outer product for each feature, and so is what
 * the block adds to the result, which stays in the device's memory meanwhile: values of any number of features fit.
 *
 * Forward: Milakov, Gimelshein, Online normalizer calculation for softmax (2018); Rabe, Staats, Self-attention Does Not Need
 * O(n²) Memory (2021). Backward, from the log of each sum: Dao, Fu, Ermon, Rudra, Ré, FlashAttention (2022).
 */
import type { Node, NodeOf } from "../../graph/node.ts";
import { hidden as hiddenWeight } from "../../graph/ops.ts";
import { size } from "../../graph/shape.ts";
import {
  add,
  addConstant,
  constantIndex,
  divide,
  type Index,
  remainder,
  scale,
  type Variable,
  variableIndex,
  within,
} from "../kernel/index-arithmetic.ts";
import type { Accumulator, Expr, KernelBuilder, KernelIR, Lane, Scope } from "../kernel/ir.ts";
import { locate, type Location } from "../kernel/location.ts";
import type { AttentionBlock } from "../plan/attention-block.ts";

/** The elements of a node at some indices. */
type Values = (node: Node, lanes: readonly Lane[]) => readonly Expr[];

/** What a kernel of attention is made of. */
interface AttentionRequest {
  readonly node: NodeOf<"attention" | "attentionGradient">;
  readonly builder: KernelBuilder;
  readonly targets: readonly Location[];
  readonly block: AttentionBlock;
  readonly values: Values;
}

/** Elements of a vector of WGSL. */
const width = 4;

/** The least score that is no -Infinity: what a column that has seen nothing is compared with. */
const lowest = -3.4028234663852886e38;

/** The kernel of `node`, whose lengths are multiples of the block's. */
export function attentionKernel({ node, builder, targets, block, values }: AttentionRequest): KernelIR {
  const kernel = new AttentionKernel(builder, node, targets, block, values);
  if (node.op === "attention") kernel.forward();
  else kernel.backward(node.attrs.of);
  return kernel.finish();
}

/** A step over one feature: where it is computed, which feature it is, and the elements of the rows. */
interface FeatureStep {
  readonly scope: Scope;
  readonly feature: Index;
  /** Whether there is that feature; undefined where there always is. */
  readonly inside: Expr | undefined;
  readonly rows: readonly Expr[];
}

class AttentionKernel {
  readonly #builder: KernelBuilder;
  readonly #node: NodeOf<"attention" | "attentionGradient">;
  readonly #targets: readonly Location[];
  readonly #block: AttentionBlock;
  readonly #values: Values;
  readonly #columnsAreQueries: boolean;
  readonly #parallel: Variable[] = [];
  readonly #batch: readonly Index[];
  /** Columns of all lanes together, and rows of a block. */
  readonly #breadth: number;
  readonly #height: number;
  readonly #firstColumn: Index;
  readonly #columns: readonly Index[];
  readonly #lane: Variable;
  readonly #walk: Variable;
  readonly #firstRow: Index;
  readonly #workgroup: number | undefined;
  /** The body of the walk over blocks of rows. */
  readonly #body: Scope;
  /** Workgroup memory for rows. */
  #shared: number | undefined;

  constructor(
    builder: KernelBuilder,
    node: NodeOf<"attention" | "attentionGradient">,
    targets: readonly Location[],
    block: AttentionBlock,
    values: Values,
  ) {
    this.#builder = builder;
    this.#node = node;
    this.#targets = targets;
    this.#block = block;
    this.#values = values;
    this.#columnsAreQueries = node.op === "attention" || node.attrs.of === "queries";
    const { by, lanes, columns, rows } = block;
    this.#breadth = lanes * columns;
    this.#height = by === "subgroup" ? lanes * rows : rows;
    const [q, k] = node.src as readonly [Node, Node];
    const [t, s] = [q.shape.at(-1)!, k.shape.at(-1)!];
    const [length, depth] = this.#columnsAreQueries ? [t, s] : [s, t];

    const parallel = (prefix: string, extent: number) => {
      const variable = builder.variable(prefix, extent);
      this.#parallel.push(variable);
      return variable;
    };
    this.#batch = q.shape.slice(0, -2).map((extent) => variableIndex(parallel("i", extent)));
    const blocks = length / this.#breadth;
    this.#firstColumn = scale(variableIndex(parallel("i", blocks)), this.#breadth);
    this.#lane = parallel(by === "workgroup" ? "local" : "lane", lanes);
    this.#columns = Array.from(
      { length: columns },
      (_, j) => addConstant(add(this.#firstColumn, scale(variableIndex(this.#lane), columns)), j),
    );
    const groups = size(q.shape.slice(0, -2)) * blocks;
    const subgroups = groups % 4 === 0 && groups >= 32 ? 4 : 1;
    this.#workgroup = by === "each" ? undefined : by === "workgroup" ? lanes : lanes * subgroups;

    this.#walk = builder.variable("k", depth / this.#height);
    this.#body = builder.openLoop(builder.root, this.#walk);
    this.#firstRow = this.#rowsFrom(node.attrs.diagonal, t);
  }

  /** The first row of a block. The walk ends where no row that is left is, or sees, a key up to the diagonal. */
  #rowsFrom(diagonal: number | undefined, t: number): Index {
    const last = this.#walk.extent - 1;
    const upward = scale(variableIndex(this.#walk), this.#height);
    if (diagonal === undefined) return upward;
    // Not negative in either case, as index arithmetic has to be.
    const ahead = (later: Index, earlier: Index, allowed: number) => {
      if (this.#walk.extent === 1) return;
      const index = within(addConstant(add(later, scale(earlier, -1)), t), 0, Infinity);
      this.#body.statements.push({ kind: "stop", index, limit: allowed + 1 + t });
    };
    if (this.#columnsAreQueries) {
      ahead(upward, this.#firstColumn, this.#breadth - 1 + diagonal);
      return upward;
    }
    // The last queries see most, so that they come first.
    const downward = within(addConstant(scale(upward, -1), last * this.#height), 0, last * this.#height);
    ahead(this.#firstColumn, downward, this.#height - 1 + diagonal);
    return downward;
  }

  finish(): KernelIR {
    const { op, attrs, shape } = this.#node;
    const of = op === "attention" ? "" : `_${attrs.of}`;
    const name = `${op === "attention" ? op : "attention_gradient"}${of}_${shape.join("x")}`;
    return this.#builder.finish(name, this.#parallel, this.#workgroup, this.#block.by !== "each");
  }

  /** The weighted values of queries, their largest scores, and the logs of their sums relative to these. */
  forward(): void {
    const builder = this.#builder;
    const [q, k, v, bias] = this.#node.src as readonly [Node, Node, Node, Node?];
    const e = v.shape.at(-2)!;
    this.#clear(e);
    const most = this.#columns.map(() => builder.accumulator("amax", "f32", builder.root));
    const totals = this.#columns.map(() => builder.accumulator("sum", "f32", builder.root));

    const body = this.#body;
    const { scores, hidden } = this.#scores(k, q, bias);
    const factors: Expr[] = [];
    const powers = this.#columns.map((_, j) => {
      const before = builder.result(most[j]!, body);
      const now = scores[j]!.reduce(
        (a, b) => builder.op("max", a, b),
        builder.op("max", before, builder.constant(lowest, "f32")),
      );
      // What was summed so far was relative to the largest score so far.
      const factor = builder.op("exp", builder.op("sub", before, now));
      const column = scores[j]!.map((score) => builder.op("exp", builder.op("sub", score, now)));
      const total = builder.op(
        "add",
        builder.op("mul", builder.result(totals[j]!, body), factor),
        pairwise(builder, column),
      );
      factors.push(factor);
      body.statements.push({ kind: "assign", accumulator: totals[j]!, value: total }, {
        kind: "assign",
        accumulator: most[j]!,
        value: now,
      });
      return column;
    });
    this.#accumulate(v, 0, powers, hidden, factors);
    this.#endWalk();

    const sums = totals.map((total) => builder.result(total, builder.root));
    const zero = builder.constant(0, "f32");
    const nothing = sums.map((sum) => builder.op("eq", sum, zero));
    const safe = sums.map((sum, j) => builder.op("where", nothing[j]!, builder.constant(1, "f32"), sum));
    const { scope, variable } = this.#features(builder.root, e);
    const feature = variableIndex(variable);
    const sought = this.#stored(scope, feature);
    this.#store(scope, feature, sought.map((value, j) => builder.op("div", value, safe[j]!)), undefined);
    builder.root.statements.push({ kind: "loop", variable, body: scope });
    const largest = nothing.map((none, j) => builder.op("where", none, zero, builder.result(most[j]!, builder.root)));
    this.#store(builder.root, constantIndex(e), largest, undefined);
    this.#store(builder.root, constantIndex(e + 1), safe.map((sum) => builder.op("log", sum)), undefined);
    this.#copyOut(e + 2);
  }

  /** The gradients of queries, or of keys and values. */
  backward(of: "queries" | "keys"): void {
    const builder = this.#builder;
    const [q, k, v, norm, g, delta, bias] = this.#node.src as readonly [Node, Node, Node, Node, Node, Node, Node?];
    const [d, e] = [q.shape.at(-2)!, v.shape.at(-2)!];
    const ofQueries = of === "queries";
    this.#clear(ofQueries ? d : d + e);
    // Of the queries, be they columns or rows: [row][column].
    const perQuery = (x: Node, row = 0) => {
      const at = constantIndex(row);
      const known = ofQueries ? this.#columnValues(x, at) : this.#rowValues(x, at);
      return (i: number, j: number) => known[ofQueries ? j : i]!;
    };
    const [largest, logs, deltas] = [perQuery(norm), perQuery(norm, 1), perQuery(delta)];
    const { scores, hidden } = ofQueries ? this.#scores(k, q, bias) : this.#scores(q, k, bias);
    const { scores: products } = ofQueries ? this.#scores(v, g, undefined) : this.#scores(g, v, undefined);
    const unlessHidden = (value: Expr, i: number, j: number) =>
      hidden === undefined ? value : builder.op("where", hidden[j]![i]!, builder.constant(0, "f32"), value);
    const weights = scores.map((column, j) =>
      column.map((score, i) => {
        const relative = builder.op("sub", builder.op("sub", score, largest(i, j)), logs(i, j));
        return unlessHidden(builder.op("exp", relative), i, j);
      })
    );
    const cotangents = weights.map((column, j) =>
      column.map((p, i) => unlessHidden(builder.op("mul", p, builder.op("sub", products[j]![i]!, deltas(i, j))), i, j))
    );
    this.#accumulate(ofQueries ? k : q, 0, cotangents, hidden, undefined);
    if (!ofQueries) this.#accumulate(g, d, weights, hidden, undefined);
    this.#endWalk();
    this.#copyOut(ofQueries ? d : d + e);
  }

  #endWalk(): void {
    this.#builder.root.statements.push({ kind: "loop", variable: this.#walk, body: this.#body });
  }

  /** A loop over features, to be put into `parent` once it is filled. */
  #features(parent: Scope, count: number): { variable: Variable; scope: Scope } {
    const variable = this.#builder.variable("f", count);
    return { variable, scope: this.#builder.openLoop(parent, variable) };
  }

  #at(feature: Index, position: Index): Lane {
    return { indices: [...this.#batch, feature, position], when: undefined };
  }

  #row(i: Index): Index {
    return add(this.#firstRow, i);
  }

  #columnValues(x: Node, feature: Index): readonly Expr[] {
    return this.#values(x, this.#columns.map((column) => this.#at(feature, column)));
  }

  /** The elements of the rows of a block, without workgroup memory. */
  #rowValues(x: Node, feature: Index): readonly Expr[] {
    const { by, rows } = this.#block;
    const own = Array.from(
      { length: rows },
      (_, i) =>
        this.#at(
          feature,
          this.#row(by === "subgroup" ? addConstant(scale(variableIndex(this.#lane), rows), i) : constantIndex(i)),
        ),
    );
    const loaded = this.#values(x, own);
    if (by !== "subgroup") return loaded;
    return Array.from(
      { length: this.#height },
      (_, i) => this.#builder.broadcast(loaded[i % rows]!, Math.floor(i / rows)),
    );
  }

  /** Walks the features of the rows' operand `x`, in the block that the walk is at. */
  #overFeatures(x: Node, step: (at: FeatureStep) => void): void {
    const count = x.shape.at(-2)!;
    if (this.#block.by === "workgroup") return this.#throughWorkgroup(x, count, step);
    const { variable, scope } = this.#features(this.#body, count);
    const feature = variableIndex(variable);
    step({ scope, feature, inside: undefined, rows: this.#rowValues(x, feature) });
    this.#body.statements.push({ kind: "loop", variable, body: scope });
  }

  /** The same: the workgroup brings `depth` features of all rows at a time to its memory. */
  #throughWorkgroup(x: Node, count: number, step: (at: FeatureStep) => void): void {
    const builder = this.#builder;
    const { lanes, depth } = this.#block;
    const height = this.#height;
    const array = this.#shared ??= builder.sharedArray("f32", depth * height, true);
    const even = count % depth === 0;
    const slice = builder.variable("k", Math.ceil(count / depth));
    const slices = builder.openLoop(this.#body, slice);
    const first = scale(variableIndex(slice), depth);
    const local = variableIndex(this.#lane);
    for (let i = 0; i < depth * height / (lanes * width); i++) {
      // Four neighbours at a time, as they are loaded.
      const element = scale(addConstant(local, i * lanes), width);
      const position = add(first, divide(element, height));
      const rows = Array.from({ length: width }, (_, j) => this.#row(addConstant(remainder(element, height), j)));
      const loaded = this.#values(x, rows.map((row) => this.#at(within(position, 0, count - 1), row)));
      const inside = even ? undefined : builder.within(position, 0, count);
      const values = loaded.map((value) =>
        inside === undefined ? value : builder.op("where", inside, value, builder.constant(0, "f32"))
      );
      slices.statements.push({ kind: "stage", array, index: element, values });
    }
    const variable = builder.variable("f", depth);
    const scope = builder.openLoop(slices, variable);
    const position = add(first, variableIndex(variable));
    const rows = Array.from(
      { length: height },
      (_, i) => builder.sharedLoad(array, addConstant(scale(variableIndex(variable), height), i)),
    );
    const inside = even ? undefined : builder.within(position, 0, count);
    step({ scope, feature: within(position, 0, count - 1), inside, rows });
    slices.statements.push({ kind: "barrier" }, { kind: "loop", variable, body: scope }, { kind: "barrier" });
    this.#body.statements.push({ kind: "loop", variable: slice, body: slices });
  }

  /** Σ over features of rows of `x` and columns of `y`, and the bias; and what the bias hides, if it may: [column][row]. */
  #scores(x: Node, y: Node, bias: Node | undefined): { scores: Expr[][]; hidden: Expr[][] | undefined } {
    const builder = this.#builder;
    const sums: Accumulator[][] = this.#columns.map(() =>
      Array.from({ length: this.#height }, () => builder.accumulator("sum", "f32", this.#body))
    );
    this.#overFeatures(x, ({ scope, feature, rows }) => {
      const columns = this.#columnValues(y, feature);
      rows.forEach((row, i) =>
        columns.forEach((column, j) =>
          scope.statements.push({ kind: "update", accumulator: sums[j]![i]!, value: builder.op("mul", row, column) })
        )
      );
    });
    const products = sums.map((column) => column.map((sum) => builder.result(sum, this.#body)));
    if (bias === undefined) return { scores: products, hidden: undefined };
    const lanes = Array.from({ length: this.#height }, (_, i) =>
      this.#columns.map((column): Lane => {
        const row = this.#row(constantIndex(i));
        return {
          indices: [...this.#batch, ...this.#columnsAreQueries ? [column, row] : [row, column]],
          when: undefined,
        };
      })).flat();
    const biases = this.#values(bias, lanes);
    const count = this.#columns.length;
    const biasOf = (i: number, j: number) => biases[i * count + j]!;
    const hidden = products.map((column, j) =>
      column.map((_, i) => builder.op("lt", biasOf(i, j), builder.constant(lowest, "f32")))
    );
    // Of what is hidden, no matter whether the product is a number.
    const scores = products.map((column, j) =>
      column.map((product, i) =>
        builder.op(
          "where",
          hidden[j]![i]!,
          builder.constant(-Infinity, "f32"),
          builder.op("add", product, biasOf(i, j)),
        )
      )
    );
    return { scores, hidden };
  }

  /**
   * Adds Σ over rows of weights [column][row] times rows of `x` to the result, from feature `start` on; of what is there,
   * `factors`. What is hidden adds nothing: 0 times NaN would be NaN.
   */
  #accumulate(
    x: Node,
    start: number,
    weights: readonly (readonly Expr[])[],
    hidden: readonly (readonly Expr[])[] | undefined,
    factors: readonly Expr[] | undefined,
  ): void {
    const builder = this.#builder;
    const op = hidden === undefined ? "mul" : "gated";
    // The mark is in the weight itself, so that no other value lives on through the features.
    const mark = builder.constant(hiddenWeight, "f32");
    const marked = hidden === undefined
      ? weights
      : weights.map((column, j) => column.map((w, i) => builder.op("where", hidden[j]![i]!, mark, w)));
    this.#overFeatures(x, ({ scope, feature, inside, rows }) => {
      const place = addConstant(feature, start);
      const before = this.#stored(scope, place);
      const sums = this.#columns.map(() => builder.accumulator("sum", "f32", scope));
      rows.forEach((row, i) =>
        sums.forEach((accumulator, j) => {
          scope.statements.push({ kind: "update", accumulator, value: builder.op(op, marked[j]![i]!, row) });
        })
      );
      const now = sums.map((sum, j) => {
        const kept = factors === undefined ? before[j]! : builder.op("mul", before[j]!, factors[j]!);
        return builder.op("add", kept, builder.result(sum, scope));
      });
      this.#store(scope, place, now, inside);
    });
  }

  /** Zeros in the result's first `count` features. */
  #clear(count: number): void {
    const { root } = this.#builder;
    const { scope, variable } = this.#features(root, count);
    this.#store(scope, variableIndex(variable), this.#columns.map(() => this.#builder.constant(0, "f32")), undefined);
    root.statements.push({ kind: "loop", variable, body: scope });
  }

  #place(target: Location, feature: Index, column: Index): Index {
    return locate(target, this.#at(feature, column).indices);
  }

  #buffer(target: Location): number {
    return this.#builder.buffer(target.slot, "f32", "readWrite");
  }

  /** A feature of the result as it stands. */
  #stored(scope: Scope, feature: Index): readonly Expr[] {
    const target = this.#targets[0]!;
    return this.#columns.map((column) =>
      this.#builder.loadNow(this.#buffer(target), this.#place(target, feature, column), scope)
    );
  }

  #store(
    scope: Scope,
    feature: Index,
    values: readonly Expr[],
    when: Expr | undefined,
    target: Location = this.#targets[0]!,
  ): void {
    const buffer = this.#buffer(target);
    this.#columns.forEach((column, j) =>
      scope.statements.push({
        kind: "store",
        buffer,
        index: this.#place(target, feature, column),
        value: values[j]!,
        when,
        accumulate: undefined,
      })
    );
  }

  /** What stands in the first place also goes to the others. */
  #copyOut(count: number): void {
    const { root } = this.#builder;
    for (const target of this.#targets.slice(1)) {
      const { scope, variable } = this.#features(root, count);
      this.#store(scope, variableIndex(variable), this.#stored(scope, variableIndex(variable)), undefined, target);
      root.statements.push({ kind: "loop", variable, body: scope });
    }
  }
}

/** The sum of some terms, by halves. */
function pairwise(builder: KernelBuilder, terms: readonly Expr[]): Expr {
  if (terms.length === 1) return terms[0]!;
  const half = Math.ceil(terms.length / 2);
  return builder.op("add", pairwise(builder, terms.slice(0, half)), pairwise(builder, terms.slice(half)));
}

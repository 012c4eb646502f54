/** What each op does with values that are spread over the rows of a batch. See batch-axis.ts. */
import { DecompositionError } from "../../errors.ts";
import { dtypes } from "../../graph/dtype.ts";
import type { Node, NodeOf, Op } from "../../graph/node.ts";
import { elementwise, type ElementwiseName, type ElementwiseOp, isElementwise } from "../../graph/ops.ts";
import { formatShape, sameShape, size } from "../../graph/shape.ts";
import { type Batched, batched, type OfShard, partial, replicated, type Site, type Spread } from "./spread.ts";

const advice =
  "a value of each row, or a sum over rows: return a Loss or Metric with its sum and its count, which are added " +
  "over the shards and divided once (a statistic of the whole batch inside the model needs a collective, allReduce)";

export type Rule = (at: Site) => Spread;

/** The rule of an op. */
export function ruleOf(op: Op): Rule {
  // Each entry of the table takes the node of its own op, which is the one it is looked up with.
  return isElementwise(op) ? elementwiseRule : structural[op] as Rule;
}

/** Spreads of the sources of ops that have not just one. */
interface OtherSources {
  readonly const: readonly [];
  readonly iota: readonly [];
  readonly input: readonly [];
  readonly storage: readonly [];
  readonly gather: readonly [x: Spread, index: Spread];
  readonly scatterAdd: readonly [index: Spread, values: Spread];
  readonly scatterMax: readonly [x: Spread, index: Spread, values: Spread];
  readonly attention: readonly Spread[];
  readonly attentionGradient: readonly Spread[];
  readonly concat: readonly [Spread, ...Spread[]];
}
type OneSource = readonly [Spread];
type SourcesOf<K extends Op> = K extends keyof OtherSources ? OtherSources[K] : OneSource;

const structural: { readonly [K in Exclude<Op, ElementwiseName>]: (at: Site<NodeOf<K>, SourcesOf<K>>) => Spread } = {
  const: ({ node, twin, rows, twinRows }) => {
    const value = node.attrs.value;
    const other = (twin as NodeOf<"const">).attrs.value;
    if (Object.is(value, other)) return replicated;
    // Both are rounded to f32, so the ratio is equal to a few parts in 2^24.
    if (Math.abs(value * twinRows - other * rows) <= 2e-7 * Math.abs(value * twinRows)) return partial;
    return {
      kind: "shard",
      what: "a number that depends on how many rows the shard has, such as 1/rows in a mean over the batch",
    };
  },
  iota: ({ node, twin }) =>
    sameShape(node.shape, twin.shape) ? replicated : {
      kind: "shard",
      what: "positions within the shard (of an arange, or of a random tensor that follows no batched one)",
    },
  input: () => replicated,
  storage: () => replicated,

  cast: (at) => {
    const [x] = at.src;
    const from = at.node.src[0].dtype;
    // A sum of parts that were rounded to f16 is not the rounded sum.
    const linear = at.node.dtype === "f32" || (dtypes[from].kind === "int" && dtypes[at.node.dtype].kind === "int");
    return x.kind === "partial" && !linear ? nonlinear(at) : x;
  },
  bitcast: (at) => at.src[0].kind === "partial" ? nonlinear(at) : at.src[0],
  contiguous: ({ src }) => src[0],
  stopGradient: ({ src }) => src[0],
  checkpoint: ({ src }) => src[0],
  after: ({ src }) => src[0],
  allReduce: (at) => {
    const [x] = at.src;
    const { how } = at.node.attrs;
    // Along one trace alone, counts of rows look like any other constant.
    const known = at.rows !== at.twinRows;
    if (how === "sum" ? x.kind === "partial" : x.kind === "shard" && x.extreme === how) return replicated;
    if (x.kind === "replicated" && (how !== "sum" || !known)) return replicated;
    return refused(
      at,
      x,
      how === "sum"
        ? "a sum over rows, such as x.sum({ axis: 0 }), or a count of them"
        : `the ${how} over rows: x.${how}({ axis: 0 })`,
    );
  },
  allGather: (at) => {
    const [x] = at.src;
    if ((x.kind === "batched" && x.axis === 0 && x.outer === 1)) return replicated;
    if (x.kind === "replicated" && at.rows === at.twinRows) return replicated;
    return refused(at, x, "values of each row");
  },
  reduceScatter: (at) => {
    const [x] = at.src;
    const inner = at.node.attrs.rows / at.rows;
    if (x.kind === "partial" || at.rows === at.twinRows) return batched(0, { inner });
    return refused(at, x, "a sum over rows");
  },
  copy: ({ src }) => src[0],

  reshape: (at) => {
    const [x] = at.src;
    return x.kind === "batched" ? reshaped(at, x) : x;
  },
  permute: ({ node, src: [x] }) => x.kind === "batched" ? { ...x, axis: node.attrs.axes.indexOf(x.axis) } : x,
  expand: (at) => {
    const { node, twin, rows, src: [x] } = at;
    const from = node.src[0];
    const grown = node.shape.flatMap((n, axis) => n !== twin.shape[axis] && from.shape[axis] === 1 ? [axis] : []);
    const [axis, ...others] = grown;
    if (axis === undefined || x.kind === "shard") return x;
    if (x.kind === "batched" || others.length > 0) {
      return mixes(at, "rows that are paired with all rows of the batch");
    }
    if (x.kind === "partial") {
      return mixes(at, "a sum over the rows of the batch that is spread over those rows again");
    }
    if (node.shape[axis]! % rows !== 0) return mixes(at, `an axis of ${node.shape[axis]} for ${rows} rows`);
    return batched(axis, { inner: node.shape[axis]! / rows });
  },
  pad: (at) => {
    const { node, twin, src: [x] } = at;
    if (x.kind === "partial") return node.attrs.value === 0 ? partial : nonlinear(at);
    if (x.kind !== "batched") {
      return sameAttributes(at, x, node.attrs.low, (twin as NodeOf<"pad">).attrs.low);
    }
    if (node.attrs.low[x.axis] !== 0 || node.attrs.high[x.axis] !== 0) {
      return mixes(at, "rows that are padded or shifted");
    }
    return sameAttributes(at, x, node.attrs.low, (twin as NodeOf<"pad">).attrs.low);
  },
  slice: (at) => {
    const { node, twin, rows, src: [x] } = at;
    const { start, step } = node.attrs;
    if (x.kind === "shard") return x;
    if (x.kind !== "batched") return sameAttributes(at, x, start, (twin as NodeOf<"slice">).attrs.start);
    const { axis, inner } = x;
    const block = rows * inner;
    const count = node.shape[axis]!;
    if (step[axis] !== 1 || count === 0 || start[axis]! % block !== 0 || count % block !== 0) {
      return mixes(
        at,
        `some of the rows: start ${start[axis]}, count ${count}, step ${step[axis]} of ${node.src[0].shape[axis]}`,
      );
    }
    const sliced = batched(axis, { outer: count / block, inner });
    return sameAttributes(at, sliced, start, (twin as NodeOf<"slice">).attrs.start, axis);
  },
  window: (at) => windowed(at),
  unwindow: (at) => windowed(at),

  sum: (at) => {
    const [x] = at.src;
    if (x.kind === "partial" || x.kind === "replicated" || x.kind === "shard") return x;
    return at.node.attrs.axes.includes(x.axis) ? partial : reduced(at.node.attrs.axes, x);
  },
  prod: (at) => reduceOthers(at),
  amax: (at) => reduceOthers(at),
  amin: (at) => reduceOthers(at),

  gather: (at) => {
    const { node, src: [x, index] } = at;
    const { axis } = node.attrs;
    const shard = ofShard(at);
    if (shard !== undefined) return besideShard(at, shard);
    if (index.kind === "partial") return nonlinear(at);
    if (x.kind === "partial") {
      return index.kind === "replicated" ? partial : mixes(at, "a sum over rows that is read by row");
    }
    if (x.kind === "batched" && x.axis === axis) return mixes(at, "rows that are picked by index");
    // A table that all shards have, looked up by row.
    if (x.kind === "replicated" && index.kind === "batched" && index.axis === axis) return index;
    return onOneAxis(at, [x, index]);
  },
  scatterAdd: (at) => {
    const { node, src: [index, values] } = at;
    const { axis } = node.attrs;
    const shard = ofShard(at);
    if (shard !== undefined) return besideShard(at, shard);
    if (index.kind === "partial") return nonlinear(at);
    if (values.kind === "partial") {
      return index.kind === "replicated" ? partial : mixes(at, "a sum over rows that is added by row");
    }
    const both = onOneAxis(at, [index, values]);
    // Rows that are added into the bins of their axis: bins of shards add up.
    return both.kind === "batched" && both.axis === axis ? partial : both;
  },
  scatterMax: (at) => {
    const { node, src: [x, index, values] } = at;
    const { axis } = node.attrs;
    const shard = ofShard(at);
    if (shard !== undefined) return besideShard(at, shard);
    if (at.src.some((source) => source.kind === "partial")) return nonlinear(at);
    if (x.kind === "batched" && x.axis === axis) return mixes(at, "rows that are put by index");
    const both = onOneAxis(at, [index, values]);
    if (both.kind !== "batched" || both.axis !== axis) return onOneAxis(at, [x, both]);
    if (x.kind === "batched") return mixes(at, `rows on axis ${axis} beside rows on axis ${x.axis}`);
    return { kind: "shard", what: "the max over the rows of a shard, by index", extreme: "max" };
  },
  attention: (at) => attended(at, ["queries", "keys", "keys", "scores"]),
  attentionGradient: (at) => {
    const kinds = ["queries", "keys", "keys", "queries", "queries", "queries", "scores"] as const;
    const result = attended(at, kinds);
    const own = at.node.attrs.of === "queries" || result.kind !== "batched" || result.axis < at.node.shape.length - 2;
    // Each row adds to what the keys get.
    return own ? result : partial;
  },
  argsort: (at) => {
    const [x] = at.src;
    if (x.kind === "partial") return nonlinear(at);
    if (x.kind === "batched" && x.axis === at.node.shape.length - 1) {
      return mixes(at, "rows that are sorted among each other");
    }
    return x;
  },
  scan: (at) => {
    const [x] = at.src;
    if (x.kind === "partial" && at.node.attrs.how === "prod") return nonlinear(at);
    const along = x.kind === "batched" && x.axis === at.node.attrs.axis;
    return along ? mixes(at, "running sums or products over its rows") : x;
  },
  concat: (at) => {
    const { node, src } = at;
    const shard = ofShard(at);
    if (shard !== undefined) return besideShard(at, shard);
    if (src.some((x) => x.kind === "partial")) {
      return src.every((x, i) => x.kind === "partial" || isZero(node.src[i]!)) ? partial : onOneAxis(at, src);
    }
    const [first] = src;
    const { axis } = node.attrs;
    if (
      first.kind === "batched" && first.axis === axis &&
      src.every((x) => x.kind === "batched" && x.axis === axis && x.inner === first.inner)
    ) {
      return batched(axis, {
        outer: src.reduce((sum, x) => sum + (x as Batched).outer, 0),
        inner: first.inner,
      });
    }
    if (src.some((x) => x.kind === "batched" && x.axis === axis)) {
      return mixes(at, "rows that are joined with other values");
    }
    return onOneAxis(at, src);
  },
};

/** Rows of the batch may be those of leading axes, or the queries: then keys and values are the same for all. */
function attended(at: Site, kinds: readonly ("queries" | "keys" | "scores")[]): Spread {
  const { node, src } = at;
  const shard = ofShard(at);
  if (shard !== undefined) return besideShard(at, shard);
  if (src.some((x) => x.kind === "partial")) return nonlinear(at);
  const rank = node.shape.length;
  const queries = (x: Spread, i: number) =>
    x.kind === "batched" &&
    ((kinds[i] === "queries" && x.axis === rank - 1) || (kinds[i] === "scores" && x.axis === rank - 2));
  if (src.some((x, i) => x.kind === "batched" && x.axis >= rank - 2 && !queries(x, i))) {
    return mixes(at, "rows of the batch that are keys, values or features of an attention");
  }
  const first = src.find(queries);
  if (first === undefined) return onOneAxis(at, src);
  const alike = src.every((x, i) => kinds[i] === "keys" ? x.kind === "replicated" : queries(x, i));
  return alike
    ? { ...first, axis: rank - 1 } as Batched
    : mixes(at, "rows of the batch that are queries beside others that are not");
}

function elementwiseRule(at: Site): Spread {
  const { node, src } = at;
  const shard = ofShard(at);
  if (shard !== undefined) return besideShard(at, shard);
  if (!src.some((x) => x.kind === "partial")) return onOneAxis(at, src);
  const additive = (x: Spread, i: number) => x.kind === "partial" || isZero(node.src[i]!);
  const { partial: linear }: ElementwiseOp = elementwise[node.op as ElementwiseName];
  if (linear === undefined) return nonlinear(at);
  switch (linear) {
    case "terms":
      if (src.every(additive)) return partial;
      return mixes(
        at,
        "a sum over the rows of the batch combined with something that is not one: each shard would count it",
      );
    case "factor":
      return src.filter((x) => x.kind === "partial").length === 1 && src.some((x) => x.kind === "replicated")
        ? partial
        : nonlinear(at);
    case "dividend":
      return src[0]?.kind === "partial" && src[1]?.kind === "replicated" ? partial : nonlinear(at);
    case "chosen":
      return src[0]?.kind === "replicated" && src.every((x, i) => i === 0 || additive(x, i)) ? partial : nonlinear(at);
  }
}

/** Of operands that are replicated or batched: batched when one is, and all on one axis. */
function onOneAxis(at: Site, src: readonly Spread[]): Spread {
  const first = src.find((x) => x.kind === "batched");
  const judged = at.rows !== at.twinRows;
  for (const x of src) {
    if (x.kind === "partial") return mixes(at, "a sum over rows beside values of each row");
    if (first === undefined || x === first) continue;
    // In two traces a value with an axis of rows is known as batched, so a replicated one here differs from
    // row to row.
    if (x.kind === "replicated" && judged) {
      return mixes(at, "a value of each row beside one that follows no batch axis");
    }
    if (
      x.kind === "batched" && (x.axis !== first.axis || x.outer !== first.outer || x.inner !== first.inner)
    ) {
      return mixes(at, `rows on axis ${first.axis} beside rows on axis ${x.axis}`);
    }
  }
  return first ?? replicated;
}

/** The first operand that depends on the number of rows. */
function ofShard({ src }: Site): OfShard | undefined {
  return src.find((x) => x.kind === "shard");
}

/** Of operands one of which is `shard`: no harm as long as only replicated ones stand beside it. */
function besideShard(at: Site, { what }: OfShard): Spread {
  const other = at.src.find((x) => x.kind === "batched" || x.kind === "partial");
  if (other === undefined) return { kind: "shard", what };
  return mixes(
    at,
    `${other.kind === "partial" ? "a sum over the rows of the batch" : "a value of each row"} with ${what}`,
  );
}

/**
 * The rows' axis after a reshape. Flattened, the source is [before, rows, after]; in the target it is the
 * axis whose elements before it divide `before` and whose length holds what is left of `before`, times the
 * rows.
 */
function reshaped(at: Site<Node, OneSource>, x: Batched): Spread {
  const { node, rows } = at;
  const from = node.src[0].shape;
  if (size(from) === 0) {
    const axis = node.shape.findIndex((n) => n > 0 && n % rows === 0);
    return axis < 0 ? replicated : batched(axis, { inner: node.shape[axis]! / rows });
  }
  const before = size(from.slice(0, x.axis)) * x.outer;
  let best: Batched | undefined;
  let prefix = 1;
  for (let axis = 0; axis < node.shape.length; axis++) {
    const length = node.shape[axis]!;
    const outer = before / prefix;
    if (Number.isInteger(outer) && length % (outer * rows) === 0) {
      const found = batched(axis, { outer, inner: length / (outer * rows) });
      // Only where there is a single row can several axes qualify: the tightest is meant.
      if (best === undefined || found.outer * found.inner < best.outer * best.inner) best = found;
    }
    prefix *= length;
  }
  if (best !== undefined) return best;
  return mixes(
    at,
    `a reshape of ${formatShape(from)} to ${formatShape(node.shape)} that cuts through the rows of axis ${x.axis}`,
  );
}

/** Windows along another axis leave the rows where they are; along that of the rows they hold several. */
function windowed(at: Site<NodeOf<"window" | "unwindow">, OneSource>): Spread {
  const [x] = at.src;
  const { axis } = at.node.attrs;
  if (x.kind !== "batched") return x;
  const places = at.node.op === "unwindow" && x.axis === at.node.shape.length - 1;
  return x.axis === axis || places ? mixes(at, `windows along axis ${axis}, which holds the rows of the batch`) : x;
}

function reduced(axes: readonly number[], x: Batched): Spread {
  return { ...x, axis: x.axis - axes.filter((axis) => axis < x.axis).length };
}

/** prod, amax, amin. */
function reduceOthers(at: Site<NodeOf<"prod" | "amax" | "amin">, OneSource>): Spread {
  const [x] = at.src;
  if (x.kind === "partial") return nonlinear(at);
  if (x.kind !== "batched") return x;
  if (at.node.attrs.axes.includes(x.axis)) {
    if (at.node.op !== "prod") {
      const extreme = at.node.op === "amax" ? "max" : "min";
      return { kind: "shard", what: `the ${extreme} over the rows of a shard`, extreme };
    }
    return mixes(at, `its reduction over axis ${x.axis}, which holds the rows of the batch`);
  }
  return reduced(at.node.attrs.axes, x);
}

/** `spread`, unless attributes of axes other than `except` differ between the two traces. */
function sameAttributes(
  at: Site,
  spread: Spread,
  one: readonly number[],
  two: readonly number[],
  except?: number,
): Spread {
  if (spread.kind === "shard" || one.every((value, axis) => axis === except || value === two[axis])) {
    return spread;
  }
  return mixes(at, "a position that depends on how many rows the shard has");
}

/** The lengths that differ between the traces must be the ones that the spread says. */
export function checkShapes(at: Site, spread: Spread): void {
  const { node, twin, rows, twinRows } = at;
  const axis = spread.kind === "batched" ? spread.axis : undefined;
  const fits = node.shape.length === twin.shape.length && node.shape.every((n, i) => {
    if (i !== axis || spread.kind !== "batched") return n === twin.shape[i];
    const width = spread.outer * spread.inner;
    return n === rows * width && twin.shape[i] === twinRows * width;
  });
  if (!fits) {
    mixes(at, `${formatShape(node.shape)} for ${rows} rows and ${formatShape(twin.shape)} for ${twinRows}`);
  }
}

function isZero(node: Node): boolean {
  let source = node;
  while (source.op === "expand" || source.op === "reshape" || source.op === "cast") source = source.src[0]!;
  return source.op === "const" && source.attrs.value === 0;
}

function nonlinear(at: Site): never {
  const ratio = at.node.op === "div" && at.src[1]?.kind === "partial";
  return mixes(
    at,
    ratio
      ? "something divided by a sum over the rows of the batch"
      : "a sum over the rows of the batch, in which it is not linear",
  );
}

/** What a collective was given. */
function refused(at: Site, x: Spread, need: string): never {
  const got = {
    replicated: "a value that is the same for every shard, so that each would count it",
    batched: "values of each row",
    partial: "a sum over the rows of a shard",
    shard: x.kind === "shard" ? x.what : "",
  }[x.kind];
  throw new DecompositionError(at.node.op, { got, need });
}

function mixes(at: Site, got: string): never {
  throw new DecompositionError(at.node.op, { got, need: advice });
}

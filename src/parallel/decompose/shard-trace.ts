/**
 * A function of a batch, traced for a number of rows; and the judgement whether shards of rows add up to the
 * whole.
 */
import { DecompositionError, ShardwiseError } from "../../errors.ts";
import { constant, elementwise, expand, iota, reshape, slice } from "../../graph/build.ts";
import type { Node } from "../../graph/node.ts";
import { formatShape } from "../../graph/shape.ts";
import type { Modes } from "../../tensor/eager/mode.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { placeholder, trace, type Traced } from "../../tensor/transform/trace.ts";
import { type Fields, isBatched } from "../split/host-batch.ts";
import { BatchAxis } from "./batch-axis.ts";
import { batched, type Spread } from "./spread.ts";
import { WatchedBatch } from "./watched-batch.ts";

/**
 * What changes from step to step, in one small u32 input of every plan. `offset` is the first row of the
 * shard in the whole batch; `learningRate` holds the bits of an f32.
 */
export const control = { seed: 0, step: 1, offset: 2, learningRate: 3, length: 4 } as const;

/** Placeholders that stand for what a plan is given. */
export interface ShardInputs {
  /** One for each leaf of the batch. */
  readonly fields: readonly Tensor[];
  /** u32 [control.length]. */
  readonly control: Tensor;
}

/** A traced function of a batch. */
export interface ShardTrace<R> extends Traced<R> {
  readonly rows: number;
  readonly inputs: ShardInputs;
  /**
   * Nodes whose spread over rows is known from the start: the batch, and positions of rows in the whole
   * batch.
   */
  readonly spreads: ReadonlyMap<Node, Spread>;
}

/**
 * Traces `body` for a batch of `rows` rows like `fields`. Throws ArgumentError where it fails for a field that is not there. Random ops inside are keyed by the seed, the step
 * and the call, and, where they follow a tensor with rows, by the index of each row in the whole batch: so
 * they do not depend on how it is cut.
 */
export function traceShard<R>(
  fields: Fields,
  rows: number,
  body: (batch: unknown, inputs: ShardInputs) => R,
  total: number = rows,
): ShardTrace<R> {
  const inputs: ShardInputs = {
    fields: fields.leaves.map((leaf) => placeholder(isBatched(leaf) ? [rows, ...leaf.shape.slice(1)] : [], leaf.dtype)),
    control: placeholder([control.length], "u32"),
  };
  const spreads = new Map<Node, Spread>();
  for (const field of inputs.fields) if (isBatched(field)) spreads.set(field.node, batched(0));
  const axes = new BatchAxis(spreads, rows);

  const sampleIndex = (like: Node): { index: Node; axis: number } | undefined => {
    const spread = spreadAlone(axes, like);
    if (spread?.kind !== "batched") return undefined;
    const index = rowIndex(inputs.control.node, rows, spread.outer, spread.inner);
    spreads.set(index, batched(0, spread));
    return { index, axis: spread.axis };
  };
  const key = inputs.control.slice({ axis: 0, start: control.seed, end: control.step + 1 });
  const indices = () => {
    const index = rowIndex(inputs.control.node, rows, 1, 1);
    spreads.set(index, batched(0));
    return index;
  };
  const watched = new WatchedBatch(fields.rebuild(inputs.fields));
  const traced = trace(() => watched.during(fields.op, () => body(watched.batch, inputs)), {
    random: { key, sampleIndex },
    shard: { rows, total, rowIndex: indices },
    modes: fields.modes,
  });
  return { ...traced, rows, inputs, spreads };
}

/** An f32 scalar out of the control vector. */
export function controlScalar(inputs: ShardInputs, at: number): Tensor {
  return inputs.control.slice({ axis: 0, start: at, end: at + 1 }).bitcast("f32").reshape([]);
}

/**
 * u32 [outer * rows * inner]: a number for each element along an axis of rows, the same however the batch is
 * cut.
 */
function rowIndex(controls: Node, rows: number, outer: number, inner: number): Node {
  const shape = [outer, rows, inner];
  const along = (n: Node, axis: number) =>
    expand(reshape(n, [0, 1, 2].map((i) => i === axis ? n.shape[0]! : 1)), shape);
  const times = (n: Node, factor: number) =>
    elementwise("mul", n, expand(reshape(constant(factor, "u32"), [1]), n.shape));
  const first = expand(slice(controls, [control.offset], [1], [1]), [rows]);
  const row = along(times(elementwise("add", first, iota(rows, "u32")), outer * inner), 1);
  const rest = elementwise("add", along(times(iota(outer, "u32"), inner), 0), along(iota(inner, "u32"), 2));
  return reshape(elementwise("add", row, rest), [outer * rows * inner]);
}

function spreadAlone(axes: BatchAxis, node: Node): Spread | undefined {
  try {
    return axes.of(node);
  } catch (error) {
    // What mixes rows is refused by the judgement below, with a better view of it.
    if (error instanceof DecompositionError) return undefined;
    throw error;
  }
}

/**
 * Numbers of rows for the two traces that are compared: primes, so that no other length of a model is a
 * multiple.
 */
const probes = [1009, 1013] as const;
/** Rows of the whole batch in both of them, so that what is gathered has one shape. */
const probedTotal = 2039;

/** `x [2, 3] and y [2]`. */
function describeFields({ paths, leaves }: Fields): string {
  return leaves.map(({ shape }, i) => `${paths[i]} ${formatShape(shape)}`).join(" and ");
}

/** Tells how values of a function of a batch are spread over its rows. */
export interface Judgement<R> {
  /** What the function gave for one of the numbers of rows. */
  readonly result: R;
  /** Throws DecompositionError for a value that mixes rows. */
  of(select: (result: R) => Tensor): Spread;
  /** Tensors from outside that the function assigns to, and how their new values are spread. */
  readonly assignments: readonly (readonly [tensor: Tensor, spread: Spread])[];
  /** Modes that the function found outside. */
  readonly modes: Modes;
}

/**
 * Traces `body` for two numbers of rows and judges its values. Throws what `body` throws for the batch as it is, and
 * DecompositionError when it does not work for those numbers of rows.
 */
export function judgeShards<R>(
  op: string,
  fields: Fields,
  body: (batch: unknown, inputs: ShardInputs) => R,
): Judgement<R> {
  // The real number of rows first, so that a plain mistake in the function is reported as it is.
  const { modes } = traceShard(fields, Math.max(1, fields.rows), body);
  const probe = (rows: number) => {
    try {
      return traceShard(fields, rows, body, probedTotal);
    } catch (error) {
      if (!(error instanceof ShardwiseError) || error instanceof DecompositionError) throw error;
      throw new DecompositionError(op, {
        got: `a function that works for the ${fields.rows} rows of ${
          describeFields(fields)
        } and fails for another number, ${rows}: ${error.message}`,
        need:
          "a function of any number of rows (the first axis), as the batch is cut: what belongs to rows must be in the batch, reshape takes -1 for them, and one sample alone is x.unsqueeze(0)",
        cause: error,
      });
    }
  };
  const [one, two] = [probe(probes[0]), probe(probes[1])];
  const axes = new BatchAxis(one.spreads, ...probes);
  // The traces live as long as the judge, which looks only at nodes that they hold.
  const assignments = [...one.assignments].map(([tensor, node]) =>
    [tensor, axes.of(node, two.assignments.get(tensor))] as const
  );
  return {
    result: one.result,
    assignments,
    modes: new Map([...modes, ...one.modes, ...two.modes]),
    of: (select) => axes.of(select(one.result).node, select(two.result).node),
  };
}

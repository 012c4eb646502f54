/**
 * What the executor computes of a batch: a loss and metrics as sums and counts, packed so that a shard is
 * read once.
 */
import { mergeEqual } from "../../compiler/simplify/merge-equal.ts";
import { ArgumentError, DecompositionError } from "../../errors.ts";
import type { Node } from "../../graph/node.ts";
import { formatShape } from "../../graph/shape.ts";
import { concat, full } from "../../tensor/create.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Fields } from "../split/host-batch.ts";
import type { Judged } from "./batch-kinds.ts";
import type { Ratio } from "./ratio.ts";
import type { ScoreLayout } from "./scores.ts";
import { type Judgement, judgeShards } from "./shard-trace.ts";
import { collectivesIn } from "./stages.ts";

/** The sum over terms of `weight * sum / count`, plus a penalty that the batch has no part in. */
export interface ShardLoss {
  readonly terms: readonly (Ratio & { readonly weight: number })[];
  readonly penalty: Tensor | undefined;
}

/** What a program gives for the rows it is shown. */
export interface Scored {
  readonly loss: ShardLoss;
  readonly metrics: Readonly<Record<string, Ratio>>;
}

/** A function of a batch (a tree of tensors) that knows nothing of shards. */
export type Program = (batch: unknown) => Scored;

/** Terms of a loss with equal denominators, added up; a gradient is kept for each such group. */
export function groupsOf(loss: ShardLoss): Ratio[] {
  const groups = new Map<Node, { sum: Tensor; count: Tensor }>();
  const counts = mergeEqual(loss.terms.map(({ count }) => count.node), new Set());
  loss.terms.forEach(({ sum, count, weight }, i) => {
    const part = weight === 1 ? sum : sum.mul(weight);
    const group = groups.get(counts[i]!);
    if (group === undefined) groups.set(counts[i]!, { sum: part, count });
    else group.sum = group.sum.add(part);
  });
  return [...groups.values()];
}

/**
 * The scores of a shard as one f32 vector, as scores.ts lays them out. The penalty is that of the first shard
 * only, so that all add up.
 */
export function packScores(
  groups: readonly Ratio[],
  penalty: Tensor | undefined,
  metrics: Readonly<Record<string, Ratio>>,
): Tensor {
  const ratios = Object.values(metrics);
  const scalars = [
    ...groups.map((group) => group.count),
    ...groups.map((group) => group.sum),
    penalty ?? full([], 0),
    ...ratios.flatMap((ratio) => [ratio.sum, ratio.count]),
  ];
  return concat(scalars.map((x) => x.reshape([1])), { axis: 0 });
}

/** What is known of a program for one kind of batch. */
export interface Checked {
  readonly layout: ScoreLayout;
  /** Whether the loss has a penalty. */
  readonly penalty: boolean;
  /** Whether a shard's computation depends on how many rows the whole batch has. */
  readonly dependsOnTotal: boolean;
}

/** Judges a program for a kind of batch. Throws as `judgeShards` and `checkProgram` do. */
export function judgeProgram(op: string, fields: Fields, program: Program): Judged<Checked> {
  const judgement = judgeShards(op, fields, program);
  return { value: checkProgram(op, judgement), modes: judgement.modes };
}

/**
 * The layout of a program's scores. Throws DecompositionError unless all sums and counts add up over shards,
 * and the penalty and what is assigned to are the same for all; ArgumentError when there is no loss at all.
 */
function checkProgram(op: string, judgement: Judgement<Scored>): Checked {
  const { loss, metrics } = judgement.result;
  if (loss.terms.length === 0 && loss.penalty === undefined) {
    throw new ArgumentError(op, {
      got: "a loss without terms",
      need: "a Loss, as of nn.crossEntropy, nn.mse or nn.loss({ sum, count })",
    });
  }
  const additive = (what: string, select: (scored: Scored) => Tensor) => {
    const spread = judgement.of(select);
    if (spread.kind === "partial" || isZero(select(judgement.result))) return;
    const got = spread.kind === "replicated"
      ? "is the same for every shard, so that it would count once a shard"
      : spread.kind === "batched"
      ? "has a value for each row"
      : `is ${spread.what}`;
    throw new DecompositionError(op, {
      got: `${what} that ${got}`,
      need: "a sum over rows and the count it is divided by: nn.loss({ sum: x.sum(), count: rows }), not x.mean(); " +
        "nn.penalty for what depends on parameters only",
    });
  };
  loss.terms.forEach((_, i) => {
    additive(`a loss whose sum (of term ${i})`, (s) => s.loss.terms[i]!.sum);
    additive(`a loss whose count (of term ${i})`, (s) => s.loss.terms[i]!.count);
  });
  for (const name of Object.keys(metrics)) {
    additive(`a metric ${name} whose sum`, (s) => s.metrics[name]!.sum);
    additive(`a metric ${name} whose count`, (s) => s.metrics[name]!.count);
  }
  if (loss.penalty !== undefined && judgement.of((s) => s.loss.penalty!).kind !== "replicated") {
    throw new DecompositionError(op, {
      got: "a penalty that depends on the batch",
      need: "a penalty of parameters only; what depends on rows is a term of the loss, with its count",
    });
  }
  for (const [tensor, spread] of judgement.assignments) {
    if (spread.kind === "replicated") continue;
    throw new DecompositionError(op, {
      got: `${tensor.dtype}${formatShape(tensor.shape)} that is assigned what depends on rows of the batch`,
      need: "a value that is the same for every shard; a statistic of the whole batch needs a collective, allReduce",
    });
  }
  const layout = { groups: groupsOf(loss).length, metrics: Object.keys(metrics) };
  const computed = [
    ...loss.terms.flatMap(({ sum, count }) => [sum, count]),
    ...Object.values(metrics).flatMap(({ sum, count }) => [sum, count]),
  ];
  const { total } = collectivesIn(computed.map((x) => x.node));
  return { layout, penalty: loss.penalty !== undefined, dependsOnTotal: total };
}

function isZero(x: Tensor): boolean {
  return x.node.op === "const" && x.node.attrs.value === 0;
}

/** The numbers that come of a batch, as sums and counts: of shards, which add up, and of many batches. */

/**
 * Where the numbers lie: counts and sums of the loss's groups, the penalty, then sum and count of each
 * metric.
 */
export interface ScoreLayout {
  /** Terms of the loss that share a count are one group. */
  readonly groups: number;
  readonly metrics: readonly string[];
}

export function scoreLength({ groups, metrics }: ScoreLayout): number {
  return 2 * groups + 1 + 2 * metrics.length;
}

/** Means of a batch or an epoch, by name. */
export type Means = Readonly<Record<string, number>>;

/** A numerator and a denominator. */
export interface HostRatio {
  readonly sum: number;
  readonly count: number;
}

/** Scores of a whole batch. */
export interface Scores {
  readonly groups: readonly HostRatio[];
  readonly penalty: number;
  readonly metrics: Readonly<Record<string, HostRatio>>;
}

/** Reads scores that were added over all shards. */
export function readScores({ groups, metrics }: ScoreLayout, numbers: ArrayLike<number>): Scores {
  const at = (i: number) => numbers[i]!;
  const first = 2 * groups + 1;
  return {
    groups: Array.from({ length: groups }, (_, i) => ({ count: at(i), sum: at(groups + i) })),
    penalty: at(2 * groups),
    metrics: Object.fromEntries(
      metrics.map((name, i) => [name, { sum: at(first + 2 * i), count: at(first + 2 * i + 1) }]),
    ),
  };
}

/** Whether anything was counted; a loss of a penalty alone counts always. */
export function counted({ groups }: Scores): boolean {
  return groups.length === 0 || groups.some(({ count }) => count !== 0);
}

export function isFiniteLoss({ groups, penalty }: Scores): boolean {
  return Number.isFinite(penalty) &&
    groups.every(({ sum, count }) => Number.isFinite(sum) && Number.isFinite(count));
}

/** The loss: groups that count nothing are left out; NaN where none counts anything. */
export function lossOf(scores: Scores): number {
  if (!counted(scores)) return NaN;
  return scores.groups.reduce(
    (total, { sum, count }) => count === 0 ? total : total + sum / count,
    scores.penalty,
  );
}

/** The metrics as means; NaN where nothing was counted. */
export function meansOf({ metrics }: Scores): Means {
  return Object.fromEntries(Object.entries(metrics).map(([name, { sum, count }]) => [name, sum / count]));
}

/** Scores added over batches: means over all their rows, whatever the sizes of the batches. */
export class ScoreTotals {
  rows = 0;
  #groups: { sum: number; count: number }[] = [];
  #metrics = new Map<string, { sum: number; count: number }>();
  #penalty = 0;

  add(scores: Scores, rows: number): void {
    scores.groups.forEach((group, i) => addTo(this.#groups[i] ??= { sum: 0, count: 0 }, group));
    for (const [name, ratio] of Object.entries(scores.metrics)) {
      let total = this.#metrics.get(name);
      if (total === undefined) this.#metrics.set(name, total = { sum: 0, count: 0 });
      addTo(total, ratio);
    }
    this.#penalty += scores.penalty * rows;
    this.rows += rows;
  }

  /** The totals; the penalty is the mean over the rows. */
  get scores(): Scores {
    return {
      groups: this.#groups,
      penalty: this.rows === 0 ? 0 : this.#penalty / this.rows,
      metrics: Object.fromEntries(this.#metrics),
    };
  }
}

function addTo(total: { sum: number; count: number }, { sum, count }: HostRatio): void {
  total.sum += sum;
  total.count += count;
}

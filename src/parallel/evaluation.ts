/** Loss and metrics of batches, without a gradient, on many devices. */
import { BatchKinds } from "./batch-kinds.ts";
import type { Batch } from "./host-batch.ts";
import { Inference, type InferenceOptions, type RunOptions } from "./inference.ts";
import type { HostOutput } from "./output-tree.ts";
import { groupsOf, judgeProgram, packScores, type Program } from "./program.ts";
import { readScores, type ScoreLayout, type Scores } from "./scores.ts";
import { GivenBatch } from "./uploads.ts";

export class Evaluation {
  readonly #op: string;
  readonly #inference: Inference;
  readonly #layouts: BatchKinds<ScoreLayout>;

  constructor(op: string, program: Program, options: InferenceOptions) {
    this.#op = op;
    this.#inference = new Inference(op, (batch) => {
      const { loss, metrics } = program(batch);
      // Apart, as the one adds up over shards and the other is the same for all.
      return { scores: packScores(groupsOf(loss), undefined, metrics), penalty: loss.penalty ?? [] };
    }, options);
    this.#layouts = new BatchKinds((fields) => {
      const { value, modes } = judgeProgram(op, fields, program);
      return { value: value.layout, modes };
    }, options.modes);
  }

  /** The scores of all rows of a batch. */
  async run(batch: Batch | GivenBatch, options: RunOptions = {}): Promise<{ readonly scores: Scores; readonly rows: number }> {
    const given = GivenBatch.of(this.#op, batch);
    const { value: layout } = this.#layouts.of(given.fields);
    const outputs = await this.#inference.run(given, ({ values }: HostOutput) => values, options) as {
      readonly scores: ArrayLike<number>;
      readonly penalty: ArrayLike<number>;
    };
    const scores = readScores(layout, outputs.scores);
    return { scores: { ...scores, penalty: outputs.penalty[0] ?? 0 }, rows: given.fields.rows };
  }

  async release(): Promise<void> {
    await this.#inference.release();
  }
}

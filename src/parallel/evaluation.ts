/** Loss and metrics of batches, without a gradient, on many devices. */
import { type Batch, fieldsOf } from "./host-batch.ts";
import { Inference, type InferenceOptions } from "./inference.ts";
import type { HostOutput } from "./output-tree.ts";
import { checkProgram, groupsOf, packScores, type Program } from "./program.ts";
import { readScores, type ScoreLayout, type Scores } from "./scores.ts";
import { judgeShards } from "./shard-trace.ts";

export class Evaluation {
  readonly #op: string;
  readonly #program: Program;
  readonly #inference: Inference;
  readonly #layouts = new Map<string, ScoreLayout>();

  constructor(op: string, program: Program, options: InferenceOptions) {
    this.#op = op;
    this.#program = program;
    this.#inference = new Inference(op, (batch) => {
      const { loss, metrics } = program(batch);
      // Apart, as the one adds up over shards and the other is the same for all.
      return { scores: packScores(groupsOf(loss), undefined, metrics), penalty: loss.penalty ?? [] };
    }, options);
  }

  /** The scores of all rows of a batch, of which at most `rowsAtOnce` are on the devices at one time. */
  async run(
    batch: Batch,
    rowsAtOnce = Infinity,
  ): Promise<{ readonly scores: Scores; readonly rows: number }> {
    const fields = fieldsOf(this.#op, batch);
    const outputs = await this.#inference.run(batch, ({ values }: HostOutput) => values, rowsAtOnce) as {
      readonly scores: ArrayLike<number>;
      readonly penalty: ArrayLike<number>;
    };
    // After the run, so that a plain mistake in the program is reported as it is.
    let layout = this.#layouts.get(fields.signature);
    if (layout === undefined) {
      ({ layout } = checkProgram(this.#op, judgeShards(this.#op, fields, this.#program)));
      this.#layouts.set(fields.signature, layout);
    }
    const scores = readScores(layout, outputs.scores);
    return { scores: { ...scores, penalty: outputs.penalty[0] ?? 0 }, rows: fields.rows };
  }

  async release(): Promise<void> {
    await this.#inference.release();
  }
}

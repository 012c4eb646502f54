/** Loss and metrics of batches, without a gradient, on many devices. */
import { NonFiniteLossError } from "../../errors.ts";
import { BatchKinds } from "../decompose/batch-kinds.ts";
import type { HostOutput } from "../decompose/output-tree.ts";
import { groupsOf, judgeProgram, packScores, type Program } from "../decompose/program.ts";
import { isFiniteLoss, lossOf, readScores, type ScoreLayout, type Scores } from "../decompose/scores.ts";
import { wrongLabel } from "../run/label-ranges.ts";
import { GivenBatch } from "../run/uploads.ts";
import type { Batch } from "../split/host-batch.ts";
import { Inference, type InferenceOptions, type RunOptions } from "./inference.ts";

export class Evaluation {
  readonly #op: string;
  readonly #program: Program;
  readonly #seed: number;
  readonly #inference: Inference;
  readonly #layouts: BatchKinds<ScoreLayout>;

  constructor(op: string, program: Program, options: InferenceOptions) {
    this.#op = op;
    this.#program = program;
    this.#seed = options.seed ?? 0;
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

  /** The scores of all rows of a batch. Rejects with NonFiniteLossError for a loss that is NaN because of a label. */
  async run(
    batch: Batch | GivenBatch,
    options: RunOptions = {},
  ): Promise<{ readonly scores: Scores; readonly rows: number }> {
    const given = GivenBatch.of(this.#op, batch);
    const { value: layout, fields } = this.#layouts.of(given.fields);
    const outputs = await this.#inference.run(given, ({ values }: HostOutput) => values, options) as {
      readonly scores: ArrayLike<number>;
      readonly penalty: ArrayLike<number>;
    };
    const scores: Scores = { ...readScores(layout, outputs.scores), penalty: outputs.penalty[0] ?? 0 };
    if (!isFiniteLoss(scores)) {
      const reason = wrongLabel(await given.onHost(fields), this.#program, {
        seed: this.#seed,
        step: 0,
        learningRate: 0,
      });
      if (reason !== undefined) {
        throw new NonFiniteLossError(this.#op, { ...reason, got: `a loss of ${lossOf(scores)}, with ${reason.got}` });
      }
    }
    return { scores, rows: given.fields.rows };
  }

  async release(): Promise<void> {
    await this.#inference.release();
  }
}

/** The plans of a training step: of a shard, of a whole step on one device, and of the update. */
import { ArgumentError } from "../errors.ts";
import type { Device, DeviceBuffer } from "../devices/device.ts";
import { byteLength } from "../graph/build.ts";
import type { Node } from "../graph/node.ts";
import { concat, full, zeros } from "../tensor/create.ts";
import { grad } from "../tensor/grad.ts";
import { adopt, replaceBuffer } from "../tensor/runtime.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { placeholder, trace } from "../tensor/trace.ts";
import { where } from "../tensor/where.ts";
import type { Bucket } from "./buckets.ts";
import { type Fields, isBatched } from "./host-batch.ts";
import { groupsOf, packScores, type Program, type Ratio } from "./program.ts";
import type { Replicas } from "./replicas.ts";
import { control, controlScalar, type ShardTrace, traceShard } from "./shard-trace.ts";
import { PlanCache, SharedPlan } from "./shared-plan.ts";
import { StagedPlan } from "./staged-plan.ts";
import { firstScalars, type State, updated, type UpdateRule } from "./update.ts";

/** A traced computation and what it takes and gives besides the batch. */
export interface Prepared {
  /** Tensors bound for each run, in order, after the plan's own inputs. */
  readonly captures: readonly { readonly tensor: Tensor }[];
  /** Tensors that the model assigns to, in order. */
  readonly assigned: readonly { readonly tensor: Tensor; readonly bytes: number }[];
}

/**
 * Forward and backward of a shard. Inputs: the fields, control, captures. Outputs: the scores; for each bucket of
 * parameters one f32 vector of the groups' gradients and, where it is the first shard, the penalty's; then the
 * assigned tensors.
 */
export interface ShardPlan extends Prepared {
  readonly plan: StagedPlan;
  /** Elements of the outputs before the assigned tensors. */
  readonly lengths: readonly number[];
}

/**
 * A whole step. Inputs: the fields, control, slots, scalars, parameters, captures. Outputs: slots, scalars
 * and parameters in place; the scores; then the assigned tensors.
 */
export interface WholePlan extends Prepared {
  readonly plan: SharedPlan;
  readonly scoreBytes: number;
}

export class TrainingPlans {
  readonly #program: Program;
  readonly #rule: UpdateRule;
  readonly #replicas: Replicas;
  readonly #clipNorm: number | undefined;
  readonly #shards = new PlanCache<ShardPlan>();
  readonly #wholes = new PlanCache<WholePlan>();
  readonly #updates = new PlanCache<{ readonly plan: SharedPlan }>(1);

  /** The gradient is clipped to the norm `clipNorm`, if it is given. */
  constructor(program: Program, rule: UpdateRule, replicas: Replicas, clipNorm: number | undefined) {
    this.#clipNorm = clipNorm;
    this.#program = program;
    this.#rule = rule;
    this.#replicas = replicas;
  }

  async release(): Promise<void> {
    await Promise.all([this.#shards.release(), this.#wholes.release(), this.#updates.release()]);
  }

  /**
   * Only the first shard of a step carries the penalty, so that it is added once. Buckets are ranges of the flat
   * parameters, in the order in which their gradients are wanted. `total` is how many rows the whole batch has.
   */
  shard(
    fields: Fields,
    { rows, total, first, buckets, together }: {
      readonly rows: number;
      /** Undefined where the program does not depend on it. */
      readonly total: number | undefined;
      readonly first: boolean;
      readonly buckets: readonly Bucket[];
      /** Whether several such shards are to run at once, by the same kernels as one. */
      readonly together: boolean;
    },
  ): ShardPlan {
    return this.#shards.get(`${rows} ${total} ${first} ${together} ${fields.signature}`, () => {
      const traced = traceShard(fields, rows, (batch) => {
        const { loss, metrics } = this.#program(batch);
        const groups = groupsOf(loss);
        const penalty = first ? loss.penalty : undefined;
        const sums = [...groups.map((group) => group.sum), ...penalty === undefined ? [] : [penalty]];
        const scores = packScores(groups, penalty, metrics);
        if (sums.length === 0) return [scores];
        const inBuckets = buckets.map((bucket) => this.#replicas.within(bucket));
        const gradients = sums.map((sum) => grad(sum, inBuckets.flat()));
        let taken = 0;
        const packed = inBuckets.map(({ length }) => {
          const parts = gradients.flatMap((of) => of.slice(taken, taken + length));
          taken += length;
          return concat(parts.map((part) => part.reshape([part.size])), { axis: 0 });
        });
        return [scores, ...packed];
      }, total);
      const own = ownInputs(traced);
      const after = this.#effects(traced, traced.captures);
      const roots = [...traced.result.map((x) => x.node), ...after.nodes];
      const common = together ? own.slice(0, -1).filter((_, i) => !isBatched(fields.leaves[i]!)) : undefined;
      const plan = new StagedPlan(roots, own, traced.captures.map((capture) => capture.placeholder), common);
      return { plan, lengths: traced.result.map((x) => x.size), ...after };
    });
  }

  whole(fields: Fields): WholePlan {
    return this.#wholes.get(`${fields.rows} ${fields.signature}`, () => {
      const { flat, length } = this.#replicas;
      const slots = this.#rule.slots.map(() => placeholder([length], "f32"));
      const scalars = placeholder([firstScalars(this.#rule).length], "f32");
      const traced = traceShard(fields, fields.rows, (batch, inputs) => {
        const { loss, metrics } = this.#program(batch);
        const groups = groupsOf(loss);
        const parts = [
          ...groups.flatMap(({ sum, count }) => [sum, count]),
          ...loss.penalty === undefined ? [] : [loss.penalty],
        ];
        const guard = {
          finite: parts.map((part) => part.isFinite()).reduce((a, b) => a.and(b)),
          counted: groups.length === 0
            ? full([], true)
            : groups.map(({ count }) => count.notEqual(0)).reduce((a, b) => a.or(b)),
        };
        const state: State<Tensor> = { parameters: flat, slots, scalars };
        const parameters = this.#replicas.within({ start: 0, end: length });
        const gradients = meanGradient(groups, loss.penalty, parameters).map((part) => part.reshape([part.size]));
        const gradient = concat([...gradients, zeros([length - this.#replicas.used])], { axis: 0 });
        const rate = controlScalar(inputs, control.learningRate);
        const next = updated(this.#rule, state, gradient, rate, { guard, clipNorm: this.#clipNorm });
        return { next, scores: packScores(groups, loss.penalty, metrics) };
      });
      const own = ownInputs(traced);
      const { next, scores } = traced.result;
      // The parameters are captured like any tensor of the model; here they are state.
      const parameters = traced.captures.find((capture) => capture.tensor === flat)!;
      const captures = traced.captures.filter((capture) => capture !== parameters);
      const after = this.#effects(traced, captures);
      const state = [...slots.map((slot) => slot.node), scalars.node, parameters.placeholder];
      const roots = [...next.slots, next.scalars, next.parameters, scores].map((x) => x.node);
      const plan = new SharedPlan({
        roots: [...roots, ...after.nodes],
        inputs: [...own, ...state, ...captures.map((capture) => capture.placeholder)],
        donate: state.map((_, i) => ({ input: own.length + i, output: i })),
      }, own.map((_, i) => i));
      return { plan, scoreBytes: byteLength(scores.node), ...after };
    });
  }

  /**
   * The update of a replica. Inputs: control, the gradient, slots, scalars, parameters. Outputs: the last
   * three, in place.
   */
  update(): { readonly plan: SharedPlan } {
    return this.#updates.get("", () => {
      const { length } = this.#replicas;
      const controls = placeholder([control.length], "u32");
      const gradient = placeholder([length], "f32");
      const state: State<Tensor> = {
        parameters: placeholder([length], "f32"),
        slots: this.#rule.slots.map(() => placeholder([length], "f32")),
        scalars: placeholder([firstScalars(this.#rule).length], "f32"),
      };
      const traced = trace(() => {
        return updated(
          this.#rule,
          state,
          gradient,
          controlScalar({ fields: [], control: controls }, control.learningRate),
          { clipNorm: this.#clipNorm },
        );
      });
      const next = traced.result;
      const inputs = [controls, gradient, ...state.slots, state.scalars, state.parameters].map((x) => x.node);
      const roots = [...next.slots, next.scalars, next.parameters].map((x) => x.node);
      return {
        plan: new SharedPlan({ roots, inputs, donate: roots.map((_, i) => ({ input: i + 2, output: i })) }, [
          0,
          1,
        ]),
      };
    });
  }

  /** Captures to bind, and tensors assigned to while the model ran: buffers such as running statistics. */
  #effects(traced: ShardTrace<unknown>, captures: readonly { readonly tensor: Tensor }[]) {
    const entries = [...traced.assignments];
    for (const [tensor] of entries) {
      if (tensor === this.#replicas.flat || this.#replicas.has(tensor)) {
        throw new ArgumentError("train", {
          got: "a parameter that is assigned to in the forward pass",
          need: "an optimizer to update it, or a buffer",
        });
      }
    }
    return {
      captures: captures.map(({ tensor }) => ({ tensor })),
      nodes: entries.map(([, node]) => node),
      assigned: entries.map(([tensor, node]) => ({ tensor, bytes: Math.max(4, byteLength(node)) })),
    };
  }
}

/** Shows the new values of assigned tensors, which are in these buffers of a device. */
export function assignBuffers(
  assigned: Prepared["assigned"],
  device: Device,
  buffers: readonly DeviceBuffer[],
): void {
  assigned.forEach(({ tensor }, i) => {
    const bound = tensor.device;
    if (bound === undefined || bound === device) replaceBuffer(tensor, device, buffers[i]!);
    else tensor.assign(adopt(device, buffers[i]!, tensor.shape, tensor.dtype).to(bound));
  });
}

/** Placeholders that every plan of a batch starts with. */
function ownInputs(traced: ShardTrace<unknown>): Node[] {
  return [...traced.inputs.fields, traced.inputs.control].map((x) => x.node);
}

/**
 * The gradients of sum over groups of sum / count, plus the penalty's; groups that count nothing are left out.
 */
function meanGradient(
  groups: readonly Ratio[],
  penalty: Tensor | undefined,
  parameters: readonly Tensor[],
): Tensor[] {
  const terms = groups.map(({ sum, count }) => {
    const counted = count.notEqual(0);
    return grad(sum, parameters).map((part) => where(counted, part.div(where(counted, count, 1)), 0));
  });
  if (penalty !== undefined) terms.push(grad(penalty, parameters));
  return parameters.map((parameter, i) =>
    terms.length === 0 ? zeros(parameter.shape) : terms.map((of) => of[i]!).reduce((a, b) => a.add(b))
  );
}

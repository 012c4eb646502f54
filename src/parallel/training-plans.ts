/** The plans of a training step: of a shard, of a whole step on one device, and of the update. */
import { ArgumentError } from "../errors.ts";
import type { Device, DeviceBuffer } from "../devices/device.ts";
import { byteLength } from "../graph/build.ts";
import type { Node } from "../graph/node.ts";
import { concat, full } from "../tensor/create.ts";
import { grad } from "../tensor/grad.ts";
import { adopt, replaceBuffer } from "../tensor/runtime.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { placeholder, trace } from "../tensor/trace.ts";
import { where } from "../tensor/where.ts";
import type { Fields } from "./host-batch.ts";
import { groupsOf, packScores, type Program, type Ratio } from "./program.ts";
import type { Replicas } from "./replicas.ts";
import { control, controlScalar, type ShardTrace, traceShard } from "./shard-trace.ts";
import { PlanCache, SharedPlan } from "./shared-plan.ts";
import { firstScalars, type State, updated, type UpdateRule } from "./update.ts";

/** A traced computation and what it takes and gives besides the batch. */
interface Prepared {
  readonly plan: SharedPlan;
  /** Tensors bound for each run, in order, after the plan's own inputs. */
  readonly captures: readonly { readonly tensor: Tensor }[];
  /** Tensors that the model assigns to, in order. */
  readonly assigned: readonly { readonly tensor: Tensor; readonly bytes: number }[];
  /** Gives the assigned tensors their new values. */
  assign(device: Device, buffers: readonly DeviceBuffer[]): void;
}

/**
 * Forward and backward of a shard. Inputs: the fields, control, captures. Outputs: one f32 vector of the
 * groups' gradients, the penalty's gradient where it is the first shard, and the scores; then the assigned
 * tensors.
 */
export interface ShardPlan extends Prepared {
  readonly packedBytes: number;
  readonly penalty: boolean;
}

/**
 * A whole step. Inputs: the fields, control, slots, scalars, parameters, captures. Outputs: slots, scalars
 * and parameters in place; the scores; then the assigned tensors.
 */
export interface WholePlan extends Prepared {
  readonly scoreBytes: number;
}

export class TrainingPlans {
  readonly #program: Program;
  readonly #rule: UpdateRule;
  readonly #replicas: Replicas;
  readonly #shards = new PlanCache<ShardPlan>();
  readonly #wholes = new PlanCache<WholePlan>();
  readonly #updates = new PlanCache<{ readonly plan: SharedPlan }>(1);

  constructor(program: Program, rule: UpdateRule, replicas: Replicas) {
    this.#program = program;
    this.#rule = rule;
    this.#replicas = replicas;
  }

  async release(): Promise<void> {
    await Promise.all([this.#shards.release(), this.#wholes.release(), this.#updates.release()]);
  }

  /** Only the first shard of a step carries the penalty, so that it is added once. */
  shard(fields: Fields, rows: number, first: boolean): ShardPlan {
    return this.#shards.get(`${rows} ${first} ${fields.signature}`, () => {
      const { flat } = this.#replicas;
      const traced = traceShard(fields, rows, (batch) => {
        const { loss, metrics } = this.#program(batch);
        const groups = groupsOf(loss);
        const penalty = first ? loss.penalty : undefined;
        const sums = [...groups.map((group) => group.sum), ...penalty === undefined ? [] : [penalty]];
        const gradients = sums.map((sum) => grad(sum, [flat])[0]!);
        return {
          packed: concat([...gradients, packScores(groups, penalty, metrics)], { axis: 0 }),
          penalty: penalty !== undefined,
        };
      });
      const own = ownInputs(traced);
      const { packed, penalty } = traced.result;
      const after = this.#effects(traced, traced.captures);
      const roots = [packed.node, ...after.nodes];
      const plan = new SharedPlan(
        { roots, inputs: [...own, ...traced.captures.map((c) => c.placeholder)] },
        own.map((_, i) => i),
      );
      return { plan, packedBytes: byteLength(packed.node), penalty, ...after };
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
        const gradient = meanGradient(groups, loss.penalty, flat);
        const next = updated(this.#rule, state, gradient, controlScalar(inputs, control.learningRate), guard);
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
      assign: (device: Device, buffers: readonly DeviceBuffer[]) => {
        entries.forEach(([tensor], i) => {
          const bound = tensor.device;
          if (bound === undefined || bound === device) replaceBuffer(tensor, device, buffers[i]!);
          else tensor.assign(adopt(device, buffers[i]!, tensor.shape, tensor.dtype).to(bound));
        });
      },
    };
  }
}

/** Placeholders that every plan of a batch starts with. */
function ownInputs(traced: ShardTrace<unknown>): Node[] {
  return [...traced.inputs.fields, traced.inputs.control].map((x) => x.node);
}

/**
 * The gradient of sum over groups of sum / count, plus the penalty's; groups that count nothing are left out.
 */
function meanGradient(groups: readonly Ratio[], penalty: Tensor | undefined, parameters: Tensor): Tensor {
  const ofSum = (sum: Tensor) => grad(sum, [parameters])[0]!;
  const parts = groups.map(({ sum, count }) =>
    where(count.notEqual(0), ofSum(sum).div(where(count.notEqual(0), count, 1)), 0)
  );
  if (penalty !== undefined) parts.push(ofSum(penalty));
  return parts.length === 0 ? full(parameters.shape, 0) : parts.reduce((a, b) => a.add(b));
}

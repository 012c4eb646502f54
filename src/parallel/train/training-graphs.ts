/** The graphs of a training step: of a shard, of a whole step on one device, and of the update. */
import type { Watch } from "../../compiler/group/watch.ts";
import type { Device, DeviceBuffer, Executable } from "../../devices/device/device.ts";
import type { PlanFamily } from "../../devices/device/family.ts";
import { ArgumentError, InternalError } from "../../errors.ts";
import { broadcastTo, byteLength, elementwise, input } from "../../graph/build.ts";
import type { Node } from "../../graph/node.ts";
import { concat, zeros } from "../../tensor/create.ts";
import { adopt, replaceBuffer } from "../../tensor/runtime.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { grad } from "../../tensor/transform/grad.ts";
import { type Capture, placeholder, trace } from "../../tensor/transform/trace.ts";
import { countsAny, gradientOfSums, meanGradient, watchedSum } from "../decompose/gradient.ts";
import { groupsOf, packScores, type Program } from "../decompose/program.ts";
import { control, controlScalar, type ShardTrace, traceShard } from "../decompose/shard-trace.ts";
import { GraphCache, SharedGraph } from "../run/shared-graph.ts";
import { StagedGraph } from "../run/staged-graph.ts";
import { type Fields, isBatched } from "../split/host-batch.ts";
import type { Bucket } from "./buckets.ts";
import type { Replicas } from "./replicas.ts";
import { sumOfTensors } from "./shard-sums.ts";
import { firstScalars, inPlace, type State, type StateUpdate, updated } from "./update.ts";

/** What a graph takes and gives of the model's tensors, besides the batch. */
export interface ModelTensors {
  /** Tensors bound for each run, in order, after the graph's own inputs. */
  readonly captures: readonly { readonly tensor: Tensor }[];
  /** Tensors that the model assigns to, in order. */
  readonly assigned: readonly { readonly tensor: Tensor; readonly bytes: number }[];
}

/**
 * Forward and backward of a shard. Inputs: the fields, control, captures. Outputs: the scores; for each bucket of
 * parameters one f32 vector of the groups' gradients and, where it is the first shard, the penalty's; then the
 * assigned tensors.
 */
export interface GradientGraph extends ModelTensors {
  readonly graph: StagedGraph;
  /** Elements of the outputs before the assigned tensors. */
  readonly lengths: readonly number[];
}

/**
 * A whole step. Inputs: the fields, control, the state (as `inPlace` has it), captures. Outputs: the state in place; the
 * scores; then the assigned tensors.
 */
export interface StepGraph extends ModelTensors {
  readonly graph: SharedGraph;
  readonly scoreBytes: number;
}

/** Of what there are sums: so many groups of the loss, and whether a penalty. */
export interface Summed {
  readonly groups: number;
  readonly penalty: boolean;
}

/** The update on a device, with the buffers of what it is made from. */
export interface LoadedUpdate {
  readonly executable: Executable;
  readonly control: DeviceBuffer;
  readonly sums: DeviceBuffer;
  readonly totals: DeviceBuffer;
}

/** Shards that ran together: how many, and bytes of each of their outputs. */
export interface GroupOutputs {
  readonly shards: number;
  readonly strides: readonly number[];
}

/** Scores that decide on an update: counts and sums of the groups, and the penalty. */
export function totalsLength(groups: number): number {
  return 2 * groups + 1;
}

export class TrainingGraphs {
  readonly #program: Program;
  readonly #rule: StateUpdate;
  readonly #replicas: Replicas;
  readonly #clipNorm: number | undefined;
  readonly #shards: GraphCache<GradientGraph>;
  readonly #wholes: GraphCache<StepGraph>;
  readonly #updates = new GraphCache<{ readonly graph: SharedGraph }>({ most: 8 });
  readonly #folds = new GraphCache<{ readonly graph: SharedGraph }>({ most: 16 });

  /** The gradient is clipped to the norm `clipNorm`, if it is given. */
  constructor(
    program: Program,
    rule: StateUpdate,
    replicas: Replicas,
    family: PlanFamily,
    clipNorm: number | undefined,
  ) {
    this.#shards = new GraphCache({ family });
    this.#wholes = new GraphCache({ family });
    this.#clipNorm = clipNorm;
    this.#program = program;
    this.#rule = rule;
    this.#replicas = replicas;
  }

  async release(): Promise<void> {
    await Promise.all([this.#shards.release(), this.#wholes.release(), this.#updates.release(), this.#folds.release()]);
  }

  /**
   * Only the first shard of a step carries the penalty, so that it is added once. Buckets are ranges of the flat
   * parameters, in the order in which their gradients are wanted. `total` is how many rows the whole batch has.
   */
  shard(
    fields: Fields,
    { rows, total, first, buckets, together, uneven }: {
      readonly rows: number;
      /** Undefined where the program does not depend on it. */
      readonly total: number | undefined;
      readonly first: boolean;
      readonly buckets: readonly Bucket[];
      /** Whether several such shards are to run at once, by the same kernels as one. */
      readonly together: boolean;
      /** Whether other shards of the step have other numbers of rows. */
      readonly uneven: boolean;
    },
  ): GradientGraph {
    return this.#shards.get(`${rows} ${total} ${first} ${together} ${fields.signature}`, (family) => {
      const traced = traceShard(fields, rows, (batch) => {
        const { loss, metrics } = this.#program(batch);
        const groups = groupsOf(loss);
        const penalty = first ? loss.penalty : undefined;
        const sums = [...groups.map((group) => group.sum), ...penalty === undefined ? [] : [penalty]];
        const scores = packScores(groups, penalty, metrics);
        if (sums.length === 0) return [scores];
        return [scores, ...this.#packedGradients(sums, buckets)];
      }, total);
      const own = ownInputs(traced);
      const after = this.#effects(traced, traced.captures);
      const roots = [...traced.result.map((x) => x.node), ...after.nodes];
      const common = together ? own.slice(0, -1).filter((_, i) => !isBatched(fields.leaves[i]!)) : undefined;
      const graph = new StagedGraph(roots, own, traced.captures.map((capture) => capture.placeholder), {
        common,
        family,
      });
      return { graph, lengths: traced.result.map((x) => x.size), ...after };
    }, { rows, uneven });
  }

  /** For each bucket the gradients of all sums, one sum's after the other's. */
  #packedGradients(sums: readonly Tensor[], buckets: readonly Bucket[]): Tensor[] {
    const inBuckets = buckets.map((bucket) => ({ bucket, parameters: this.#replicas.layout.within(bucket) }));
    const gradients = sums.map((sum) => grad(sum, inBuckets.flatMap(({ parameters }) => parameters)));
    let taken = 0;
    return inBuckets.map(({ bucket: { start, end }, parameters }) => {
      const size = parameters.reduce((sum, parameter) => sum + parameter.size, 0);
      // The first bucket ends where the vector of parameters does: zeros follow them.
      const rest = zeros([end - start - size]);
      const parts = gradients.flatMap((of) => [...of.slice(taken, taken + parameters.length), rest]);
      taken += parameters.length;
      return concat(parts.map((part) => part.reshape([part.size])), { axis: 0 });
    });
  }

  whole(fields: Fields): StepGraph {
    return this.#wholes.get(`${fields.rows} ${fields.signature}`, (family) => {
      const { flat, layout } = this.#replicas;
      const { length, used } = layout;
      const slots = this.#rule.slots.map(() => placeholder([length], "f32"));
      const scalars = placeholder([firstScalars(this.#rule).length], "f32");
      const faults = placeholder([2], "u32");
      const traced = traceShard(fields, fields.rows, (batch, inputs) => {
        const { loss, metrics } = this.#program(batch);
        const groups = groupsOf(loss);
        const parts = [
          ...groups.flatMap(({ sum, count }) => [sum, count]),
          ...loss.penalty === undefined ? [] : [loss.penalty],
        ];
        const guard = {
          finite: parts.map((part) => part.isFinite()).reduce((a, b) => a.and(b)),
          counted: countsAny(groups.map(({ count }) => count)),
        };
        const state: State<Tensor> = { parameters: flat, slots, scalars, faults };
        const parameters = layout.within({ start: 0, end: length });
        const gradients = meanGradient(groups, loss.penalty, parameters).map((part) => part.reshape([part.size]));
        const gradient = concat([...gradients, zeros([length - used])], { axis: 0 });
        const rate = controlScalar(inputs, control.learningRate);
        const next = updated(this.#rule, state, gradient, rate, { guard, clipNorm: this.#clipNorm });
        return { next, gradients, scores: packScores(groups, loss.penalty, metrics) };
      });
      const own = ownInputs(traced);
      const { next, gradients, scores } = traced.result;
      // The parameters are captured like any tensor of the model; here they are state.
      const parameters = traced.captures.find((capture) => capture.tensor === flat)!;
      const read = new Set(traced.captures.map((capture) => capture.tensor));
      const written = [...traced.assignments.keys()].filter((tensor) => !read.has(tensor));
      const captures = [
        ...traced.captures.filter((capture) => capture !== parameters),
        ...written.map((tensor) => ({ tensor, placeholder: input(tensor.shape, tensor.dtype) })),
      ];
      const after = this.#effects(traced, captures, next.apply);
      const state = [
        ...inPlace({ slots, scalars, faults, parameters: flat }).slice(0, -1).map((x) => x.node),
        parameters.placeholder,
      ];
      const roots = [...inPlace(next), scores].map((x) => x.node);
      const graph = new SharedGraph(
        {
          roots: [...roots, ...after.nodes],
          inputs: [...own, ...state, ...captures.map((capture) => capture.placeholder)],
          donate: state.map((_, i) => ({ input: own.length + i, output: i })),
          watch: this.#watch(gradients, own.length + slots.length + 1),
        },
        own.map((_, i) => i),
        family,
      );
      return { graph, scoreBytes: byteLength(scores.node), ...after };
    }, { rows: fields.rows });
  }

  /**
   * The update of a replica from sums over all shards. Inputs: control; sums [groups' and the penalty's, length]; totals, the
   * first of the scores; the state. Outputs: the state in place, as it was where the totals are not finite or count nothing,
   * or the state has faults.
   */
  update({ groups, penalty }: Summed): { readonly graph: SharedGraph } {
    return this.#updates.get(`${groups} ${penalty}`, () => {
      const { length } = this.#replicas.layout;
      const controls = placeholder([control.length], "u32");
      const sums = placeholder([groups + (penalty ? 1 : 0), length], "f32");
      const totals = placeholder([totalsLength(groups)], "f32");
      const state: State<Tensor> = {
        parameters: placeholder([length], "f32"),
        slots: this.#rule.slots.map(() => placeholder([length], "f32")),
        scalars: placeholder([firstScalars(this.#rule).length], "f32"),
        faults: placeholder([2], "u32"),
      };
      const traced = trace(() => {
        const row = (i: number) => sums.slice({ axis: 0, start: i, end: i + 1 }).reshape([length]);
        const counts = countsOf(totals, groups);
        const gradient = gradientOfSums(Array.from({ length: groups + (penalty ? 1 : 0) }, (_, i) => row(i)), counts, [
          length,
        ]);
        const guard = { finite: totals.isFinite().all(), counted: countsAny(counts) };
        const rate = controlScalar({ fields: [], control: controls }, control.learningRate);
        return updated(this.#rule, state, gradient, rate, { clipNorm: this.#clipNorm, guard });
      });
      const next = traced.result;
      const inputs = [controls, sums, totals, ...inPlace(state)].map((x) => x.node);
      const roots = inPlace(next).map((x) => x.node);
      return {
        graph: new SharedGraph({ roots, inputs, donate: roots.map((_, i) => ({ input: i + 3, output: i })) }, [
          0,
          1,
          2,
        ]),
      };
    });
  }

  /** The update on a device. */
  async updateOn(device: Device, summed: Summed): Promise<LoadedUpdate> {
    const { executable, written: [control, sums, totals] } = await this.update(summed).graph.on(device);
    if (control !== undefined && sums !== undefined && totals !== undefined) {
      return { executable, control, sums, totals };
    }
    throw new InternalError("train", { got: "an update without buffers", need: "control, sums and totals of its own" });
  }

  /**
   * The sums over all shards on the device that has run them. Inputs: for each group of shards that ran together its outputs,
   * scores and buckets, one shard's after the other's; then the state's faults. Outputs: sums and totals, as the update takes
   * them, and the faults of the gradient that they make, in place. The kernel that stores the sums sees all that makes an
   * element of the gradient, so that it can be watched without being stored.
   */
  fold(
    runs: readonly GroupOutputs[],
    buckets: readonly Bucket[],
    { groups, penalty }: Summed,
  ): { readonly graph: SharedGraph } {
    const key = JSON.stringify([runs, buckets, groups, penalty]);
    return this.#folds.get(key, () => {
      const inputs = runs.map(({ shards, strides }) => strides.map((bytes) => placeholder([shards, bytes / 4], "f32")));
      const traced = trace(() => {
        // Of each shard, in order, `count` elements of an output from `start` on.
        const parts = (output: number, start: number, count: number, first = false) =>
          runs.slice(0, first ? 1 : undefined).flatMap(({ shards }, run) =>
            Array.from(
              { length: first ? 1 : shards },
              (_, shard) =>
                inputs[run]![output]!.slice({ axis: 0, start: shard, end: shard + 1 })
                  .slice({ axis: 1, start, end: start + count }).reshape([count]),
            )
          );
        const totals = sumOfTensors(parts(0, 0, totalsLength(groups)));
        const rows = Array.from(
          { length: groups + (penalty ? 1 : 0) },
          (_, row) =>
            inBucketOrder(buckets).map((bucket) => {
              const size = bucket.end - bucket.start;
              return sumOfTensors(parts(buckets.indexOf(bucket) + 1, row * size, size, row === groups));
            }),
        );
        const counts = countsOf(totals, groups);
        const watched = rows[0]!.map((_, bucket) => watchedSum(rows.map((row) => row[bucket]!), counts));
        return { watched, outputs: [concat([watched, ...rows.slice(1)].flat(), { axis: 0 }), totals] };
      });
      const { watched, outputs } = traced.result;
      const faults = placeholder([2], "u32");
      const given = inputs.flat();
      const graph = new SharedGraph({
        roots: [...outputs, faults].map((x) => x.node),
        inputs: [...given, faults].map((x) => x.node),
        donate: [{ input: given.length, output: outputs.length }],
        watch: {
          values: inBucketOrder(buckets).map(({ start }, i) => ({ node: watched[i]!.node, number: start, each: true })),
          boundary: this.#replicas.layout.boundary,
          faults: given.length,
        },
      }, []);
      return { graph };
    });
  }

  /** Watches the gradients of all parameters, in the order in which they lie side by side; each has its first element's number. */
  #watch(gradients: readonly Tensor[], faults: number): Watch {
    let offset = 0;
    const values = gradients.map(({ node, size }) => {
      const value = { node, number: offset, each: false };
      offset += size;
      return value;
    });
    return { values, boundary: this.#replicas.layout.boundary, faults };
  }

  /**
   * Captures to bind, and tensors assigned to while the model ran: buffers such as running statistics. They keep their
   * values where `apply` is false.
   */
  #effects(traced: ShardTrace<unknown>, captures: readonly Capture[], apply?: Tensor) {
    const entries = [...traced.assignments];
    for (const [tensor] of entries) {
      if (tensor === this.#replicas.flat || this.#replicas.layout.has(tensor)) {
        throw new ArgumentError("train", {
          got: "a parameter that is assigned to in the forward pass",
          need: "an optimizer to update it, or a buffer",
        });
      }
    }
    return {
      captures: captures.map(({ tensor }) => ({ tensor })),
      nodes: entries.map(([tensor, node]) => {
        const old = captures.find((capture) => capture.tensor === tensor);
        return apply === undefined || old === undefined
          ? node
          : elementwise("where", broadcastTo(apply.node, node.shape), node, old.placeholder);
      }),
      assigned: entries.map(([tensor, node]) => ({ tensor, bytes: Math.max(4, byteLength(node)) })),
    };
  }
}

/** Buckets as they lie side by side. */
function inBucketOrder(buckets: readonly Bucket[]): Bucket[] {
  return [...buckets].sort((a, b) => a.start - b.start);
}

/** Shows the new values of assigned tensors, which are in these buffers of a device. */
export function assignBuffers(
  assigned: ModelTensors["assigned"],
  device: Device,
  buffers: readonly DeviceBuffer[],
): void {
  assigned.forEach(({ tensor }, i) => {
    const bound = tensor.device;
    if (bound === undefined || bound === device) replaceBuffer(tensor, device, buffers[i]!);
    else tensor.assign(adopt(device, buffers[i]!, tensor.shape, tensor.dtype).to(bound));
  });
}

/** Placeholders that every graph of a batch starts with. */
function ownInputs(traced: ShardTrace<unknown>): Node[] {
  return [...traced.inputs.fields, traced.inputs.control].map((x) => x.node);
}

/** The counts of the groups, which the totals begin with. */
function countsOf(totals: Tensor, groups: number): Tensor[] {
  return Array.from({ length: groups }, (_, i) => totals.slice({ axis: 0, start: i, end: i + 1 }).reshape([]));
}

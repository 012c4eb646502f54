/** The optimizer's update of all parameters at once, as a traced function of flat vectors. */
import { InternalError } from "../../errors.ts";
import { concat, where } from "../../tensor/create.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/** What a rule is given. All are f32; vectors have one element for each element of the parameters. */
export interface UpdateInput {
  /** All parameters in one vector. */
  readonly parameter: Tensor;
  /** Their gradient, in the same order. */
  readonly gradient: Tensor;
  /** State vectors, by the names in `Optimizer.slots`. */
  readonly slots: Readonly<Record<string, Tensor>>;
  /** State scalars, by the names in `Optimizer.scalars`. */
  readonly scalars: Readonly<Record<string, Tensor>>;
  /** Scalar: 1 at the first update. */
  readonly step: Tensor;
  /** Scalar. */
  readonly learningRate: Tensor;
}

/** What an update gives. */
export interface UpdateResult {
  /** The new parameters. */
  readonly parameter: Tensor;
  /** The new slots, by name. */
  readonly slots: Readonly<Record<string, Tensor>>;
  /** The new scalars, by name. */
  readonly scalars: Readonly<Record<string, Tensor>>;
}

/** What an optimizer makes of state and gradient, whatever the learning rate: the part of its rule that runs on devices. */
export interface StateUpdate {
  /** What errors call it, after `optim.`. */
  readonly name: string;
  /** Names of the state vectors, which are 0 at first. */
  readonly slots: readonly string[];
  /** State scalars with their first values. */
  readonly scalars: Readonly<Record<string, number>>;
  /** One update. Elementwise in parameter, gradient and slots, so that it may run on all parameters laid end to end. */
  update(input: UpdateInput): UpdateResult;
}

/** The first values of the state's scalars: the number of updates made, and the rule's own in order. */
export function scalarsAtFirst({ scalars }: StateUpdate): number[] {
  return [0, ...Object.values(scalars)];
}

/** What an update takes and gives, with the state in the order of the rule's names; `step` is the number of this update. */
export interface OrderedState {
  readonly parameter: Tensor;
  readonly slots: readonly Tensor[];
  /** The rule's own. */
  readonly scalars: readonly Tensor[];
}

/** One update by a rule. */
export function updatedBy(
  rule: StateUpdate,
  { parameter, slots, scalars }: OrderedState,
  by: Pick<UpdateInput, "gradient" | "step" | "learningRate">,
): OrderedState {
  const scalarNames = Object.keys(rule.scalars);
  const result = rule.update({
    parameter,
    slots: byName(rule.slots, slots),
    scalars: byName(scalarNames, scalars),
    ...by,
  });
  return {
    parameter: result.parameter,
    slots: inOrder(rule.slots, result.slots),
    scalars: inOrder(scalarNames, result.scalars),
  };
}

function byName(names: readonly string[], values: readonly Tensor[]): Record<string, Tensor> {
  return Object.fromEntries(values.map((value, i) => [names[i], value]));
}

function inOrder(names: readonly string[], values: Readonly<Record<string, Tensor>>): Tensor[] {
  return names.map((name) => {
    const value = values[name];
    if (value !== undefined) return value;
    throw new InternalError("update", {
      got: `no ${name} of an update`,
      need: "what the rule names, as optimizer() checks",
    });
  });
}

/** Scalars in one vector, as a kernel can bind few buffers. */
export function asVector(scalars: readonly Tensor[]): Tensor {
  return concat(scalars.map((x) => x.reshape([1])), { axis: 0 });
}

/** A replica's trainable state. */
export interface State<T> {
  readonly parameters: T;
  /** In the order of the rule's slots. */
  readonly slots: readonly T[];
  /** See `firstScalars`. */
  readonly scalars: T;
  /** u32 [2]: the first elements of a gradient that were not finite, as of the compiler's `Watch`; 0 where all were. */
  readonly faults: T;
}

/** What an update is made in place of, in the order in which plans take and give it. The parameters are the last. */
export function inPlace<T>({ slots, scalars, faults, parameters }: State<T>): T[] {
  return [...slots, scalars, faults, parameters];
}

/**
 * The first values of the scalar state: whether every loss and gradient so far was finite (1 or 0), the number of updates
 * made, and the rule's own scalars in order. They live on the device, so that a step may be enqueued before the last one's
 * loss is known.
 */
export function firstScalars(rule: StateUpdate): Float32Array {
  return Float32Array.from([1, ...scalarsAtFirst(rule)]);
}

export interface UpdateOptions {
  /** The gradient's largest norm; undefined for no limit. */
  readonly clipNorm: number | undefined;
  /** Bool scalars: whether the loss is finite, and whether the step counts anything. */
  readonly guard: { readonly finite: Tensor; readonly counted: Tensor };
}

/**
 * The state after one update, and whether there is one: it is the state as it was where the step counted nothing, or its
 * loss or, by the faults, its gradient was not finite; and once something was not finite, nothing is updated any more. The
 * gradient is not read for that: what has stored it has noted the faults.
 */
export function updated(
  rule: StateUpdate,
  state: State<Tensor>,
  gradient: Tensor,
  learningRate: Tensor,
  { clipNorm, guard }: UpdateOptions,
): State<Tensor> & { readonly apply: Tensor } {
  const scalar = (i: number) => state.scalars.slice({ axis: 0, start: i, end: i + 1 }).reshape([]);
  const healthy = scalar(0);
  const updates = scalar(1);
  const own = Object.keys(rule.scalars).map((_, i) => scalar(i + 2));
  const next = updatedBy(rule, { parameter: state.parameters, slots: state.slots, scalars: own }, {
    gradient: clipNorm === undefined ? gradient : clippedByNorm(gradient, clipNorm),
    step: updates.add(1),
    learningRate,
  });
  const scalars = [updates.add(1), ...next.scalars];
  const faulty = [0, 1].map((word) =>
    state.faults.slice({ axis: 0, start: word, end: word + 1 }).reshape([]).notEqual(0)
  );
  const finite = guard.finite.and(faulty[0]!.or(faulty[1]!).not());
  const stillHealthy = where(finite, healthy, 0);
  const apply = stillHealthy.notEqual(0).and(guard.counted);
  return {
    apply,
    faults: state.faults,
    parameters: where(apply, next.parameter, state.parameters),
    slots: state.slots.map((slot, i) => where(apply, next.slots[i]!, slot)),
    scalars: asVector([stillHealthy, ...scalars.map((x, i) => where(apply, x, scalar(i + 1)))]),
  };
}

/**
 * A gradient [n] scaled down to the norm `maxNorm` where it is longer: times min(1, maxNorm / (norm + 1e-6)), as
 * torch.nn.utils.clip_grad_norm_ has it. The norm is taken of the gradient over its largest element, so that squares
 * neither overflow nor vanish.
 */
function clippedByNorm(gradient: Tensor, maxNorm: number): Tensor {
  const largest = gradient.abs().max();
  const scale = where(largest.greater(0), largest, 1);
  const norm = gradient.div(scale).square().sum().sqrt().mul(largest);
  return gradient.mul(norm.add(1e-6).reciprocal().mul(maxNorm).minimum(1));
}

/** The optimizer's update of all parameters at once, as a traced function of flat vectors. */
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
  return Float32Array.from([1, 0, ...Object.values(rule.scalars)]);
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
  const names = Object.keys(rule.scalars);
  const result = rule.update({
    parameter: state.parameters,
    gradient: clipNorm === undefined ? gradient : clippedByNorm(gradient, clipNorm),
    slots: Object.fromEntries(rule.slots.map((name, i) => [name, state.slots[i]!])),
    scalars: Object.fromEntries(names.map((name, i) => [name, scalar(i + 2)])),
    step: updates.add(1),
    learningRate,
  });
  const slots = rule.slots.map((name) => result.slots[name]!);
  const scalars = [updates.add(1), ...names.map((name) => result.scalars[name]!)];
  const faulty = [0, 1].map((word) =>
    state.faults.slice({ axis: 0, start: word, end: word + 1 }).reshape([]).notEqual(0)
  );
  const finite = guard.finite.and(faulty[0]!.or(faulty[1]!).not());
  const stillHealthy = where(finite, healthy, 0);
  const apply = stillHealthy.notEqual(0).and(guard.counted);
  return {
    apply,
    faults: state.faults,
    parameters: where(apply, result.parameter, state.parameters),
    slots: slots.map((slot, i) => where(apply, slot, state.slots[i]!)),
    scalars: asVector([stillHealthy, ...scalars.map((x, i) => where(apply, x, scalar(i + 1)))]),
  };
}

function asVector(scalars: readonly Tensor[]): Tensor {
  return concat(scalars.map((x) => x.reshape([1])), { axis: 0 });
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

/** An optimizer bound to parameters, for training without the trainer: eagerly, or inside `compile`. */
import { ArgumentError, DTypeError, ShapeError, TraceError } from "../../errors.ts";
import { formatShape, sameShape } from "../../graph/shape.ts";
import { asVector, scalarsAtFirst, updatedBy } from "../../parallel/train/update.ts";
import { foreignWords } from "../../signature/foreign.ts";
import { type Signature, takes } from "../../signature/takes.ts";
import { concat, full, tensor, zeros } from "../../tensor/create.ts";
import { isTracing } from "../../tensor/eager/frame.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { assignAll, pack, type Packed } from "../layers/flat.ts";
import { namedTensors } from "../layers/kinds.ts";
import { tensorTree } from "./kinds.ts";
import { learningRateAt, requireLearningRate, type UpdateRule } from "./rule.ts";
import { isSchedule } from "./schedules.ts";

/** Parameters as a list, or by name as `namedParameters()` gives them. */
export type ParameterTree = readonly Tensor[] | Readonly<Record<string, Tensor>>;

/** Gradients in the structure of the parameters, as `grad(loss, parameters)` gives them. */
export type GradientTree<T extends ParameterTree> = { readonly [K in keyof T]: Tensor };

/** An optimizer that updates its parameters in place. */
export interface BoundOptimizer<T extends ParameterTree = ParameterTree> {
  /** The parameters that it updates. */
  readonly parameters: T;
  /**
   * The optimizer's state by name: its vectors (as long as all parameters together), its scalars, and `step`, the
   * number
   * of updates made.
   */
  readonly state: Readonly<Record<string, Tensor<"f32">>>;
  /**
   * One update. Inside `compile` it becomes part of the compiled step.
   * Throws ShapeError or ArgumentError when the gradients are not those of the parameters, TraceError when the learning
   * rate is a plain function inside a compiled function, where only numbers and the schedules of `optim` can be
   * followed.
   */
  step(gradients: GradientTree<T>): void;
  /**
   * Takes over a state that was saved. Throws ArgumentError, ShapeError or DTypeError when it is not one of this
   * optimizer.
   */
  load(state: Readonly<Record<string, Tensor>>): Promise<void>;
}

/** Binds a rule to parameters, which become views of one flat tensor. */
export function bind<T extends ParameterTree>(rule: UpdateRule, parameters: T): BoundOptimizer<T> {
  return new Bound(rule, parameters);
}

class Bound<T extends ParameterTree> implements BoundOptimizer<T> {
  readonly parameters: T;
  readonly state: Readonly<Record<string, Tensor<"f32">>>;
  readonly #rule: UpdateRule;
  readonly #takes: { readonly step: Signature; readonly load: Signature };
  readonly #names: readonly string[];
  readonly #list: readonly Tensor[];
  /** `step` and the scalars in one vector, of which those in `state` are views: a kernel can bind few buffers. */
  readonly #scalars: Tensor;
  #packed: Packed;
  /** Updates made outside a trace: what a plain function of the step is asked for. */
  #steps = 0;

  constructor(rule: UpdateRule, parameters: T) {
    this.parameters = parameters;
    this.#rule = rule;
    this.#takes = {
      step: takes(`optim.${rule.name}.step`, { gradients: tensorTree }),
      load: takes(`optim.${rule.name}.load`, { state: namedTensors }),
    };
    this.#names = Object.keys(parameters);
    this.#list = Object.values(parameters);
    if (isTracing()) {
      throw new TraceError(`optim.${rule.name}.bind`, {
        got: "a call inside a compiled function",
        need: "to bind before it",
      });
    }
    this.#packed = pack(`optim.${rule.name}.bind`, this.#list);
    const length = this.#packed.base.size;
    const scalars = this.#scalars = tensor(scalarsAtFirst(rule));
    const view = (offset: number) => {
      const scalar = full([], 0);
      scalar.aliasOf(scalars, offset);
      return scalar;
    };
    this.state = Object.freeze({
      ...Object.fromEntries(rule.slots.map((name) => [name, zeros([length])])),
      ...Object.fromEntries(Object.keys(rule.scalars).map((name, i) => [name, view(i + 1)])),
      step: view(0),
    });
    // Setting a learning rate, say, would do nothing.
    Object.freeze(this);
  }

  step(gradients: GradientTree<T>): void {
    this.#takes.step.check(arguments);
    const rule = this.#rule;
    const gradient = concat(this.#inOrder(gradients).map((gradient) => gradient.flatten()));
    this.#keepPacked();
    const { base } = this.#packed;
    const step = this.state["step"]!.add(1);
    const state = { parameter: base, slots: this.#pick(rule.slots), scalars: this.#pick(Object.keys(rule.scalars)) };
    const next = updatedBy(rule, state, { gradient, step, learningRate: this.#learningRate(step) });
    base.assign(next.parameter);
    state.slots.forEach((slot, i) => slot.assign(next.slots[i]!));
    this.#scalars.assign(asVector([step, ...next.scalars]));
    if (!isTracing()) this.#steps++;
  }

  async load(state: Readonly<Record<string, Tensor>>): Promise<void> {
    this.#takes.load.check(arguments);
    const op = `optim.${this.#rule.name}.load`;
    const names = Object.keys(this.state);
    const given = Object.keys(state);
    if (given.length !== names.length || !names.every((name) => Object.hasOwn(state, name))) {
      throw new ArgumentError(op, { got: `[${given}]`, need: `[${names}]` });
    }
    for (const name of names) {
      const [own, value] = [this.state[name]!, state[name]!];
      if (!sameShape(own.shape, value.shape)) {
        throw new ShapeError(op, { got: `${name} ${formatShape(value.shape)}`, need: formatShape(own.shape) });
      }
      if (value.dtype !== "f32") throw new DTypeError(op, { got: `${name} of ${value.dtype}`, need: "f32" });
    }
    const steps = await state["step"]!.item();
    assignAll(names.map((name) => [this.state[name]!, state[name]!]));
    this.#steps = Number(steps);
  }

  #learningRate(step: Tensor): Tensor {
    const { name, learningRate } = this.#rule;
    if (isSchedule(learningRate)) return learningRate.graph(step);
    if (typeof learningRate === "number") return full([], requireLearningRate(name, learningRate));
    if (isTracing()) {
      throw new TraceError(`optim.${name}`, {
        got: "a learning rate that is a plain function, inside a compiled function",
        need: "a number or a schedule of optim, such as optim.cosineSchedule; the trainer takes any function",
      });
    }
    return full([], learningRateAt(this.#rule, this.#steps + 1));
  }

  #inOrder(gradients: GradientTree<T>): Tensor[] {
    const op = `optim.${this.#rule.name}.step`;
    const given: Readonly<Record<string, Tensor>> = { ...gradients as Readonly<Record<string, Tensor>> };
    const names = Object.keys(given);
    if (names.length !== this.#names.length || !this.#names.every((name) => Object.hasOwn(given, name))) {
      throw new ArgumentError(op, { got: `gradients [${names}]`, need: `one for each parameter: [${this.#names}]` });
    }
    return this.#names.map((name, i) => {
      const gradient = given[name]!;
      const { shape } = this.#list[i]!;
      if (!sameShape(gradient.shape, shape)) {
        throw new ShapeError(op, { got: `gradient ${name} ${formatShape(gradient.shape)}`, need: formatShape(shape) });
      }
      if (gradient.dtype !== "f32") {
        throw new DTypeError(op, { got: `gradient ${name} of ${gradient.dtype}`, need: "f32" });
      }
      return gradient;
    });
  }

  /** A parameter that was assigned to, or packed elsewhere, since is taken in again. */
  #keepPacked(): void {
    const { base, layout } = this.#packed;
    if (layout.areViewsOf(base)) return;
    if (isTracing()) {
      throw new TraceError(`optim.${this.#rule.name}.step`, {
        got: "parameters that were assigned to or bound elsewhere since they were bound",
        need: "to bind them again before the function is compiled",
      });
    }
    this.#packed = pack(`optim.${this.#rule.name}.step`, this.#list);
  }

  #pick(names: readonly string[]): Tensor[] {
    return names.map((name) => this.state[name]!);
  }
}

foreignWords("optimizer", Bound.prototype, {
  zeroGrad: "nothing: grad and valueAndGrad give gradients, and keep none",
  zero_grad: "nothing: grad and valueAndGrad give gradients, and keep none",
  minimize: "opt.step(grad(loss, parameters))",
  applyGradients: "opt.step(gradients)",
});

import type { Device } from "../../devices/device/device.ts";
import { ArgumentError, DTypeError, ShapeError } from "../../errors.ts";
import { formatShape, sameShape } from "../../graph/shape.ts";
import { foreignWords } from "../../signature/foreign.ts";
import { boolean, type Kind } from "../../signature/kinds.ts";
import { show } from "../../signature/show.ts";
import { guard, type Methods, takes } from "../../signature/takes.ts";
import { Mode, type Modes } from "../../tensor/eager/mode.ts";
import { device as deviceKind } from "../../tensor/kinds.ts";
import { isTensor, type Tensor } from "../../tensor/tensor.ts";
import { assignAll } from "./flat.ts";
import { isRecord, namedTensors } from "./kinds.ts";
import { freeze, isBuffer, isParameter, unfreeze } from "./parameter.ts";

/**
 * A part of a model: data plus `forward`. Its public fields are the declaration: tensors marked by `nn.parameter` or
 * `nn.buffer`, modules, and arrays or plain objects of them are found by walking the fields in the order of their assignment.
 * What is in a Map, a Set or an object of another class has no stable name: modules, parameters and buffers that are nowhere
 * else are refused there, with an ArgumentError, by all that walks. Private (#) fields and what a function holds cannot be seen:
 * a trainer refuses parameters and modules that it finds to be used from there.
 */
export abstract class Module {
  readonly #mode = new Mode(show(this));

  /**
   * Whether the module trains (dropout drops); true until it is set, by `train()` and `eval()`. A compiled function follows it
   * at each call. A trainer trains and evaluates its model in the mode that is right, whatever is set here, and sets nothing.
   * What is set while a function is traced holds for the rest of that trace only.
   */
  get training(): boolean {
    return this.#mode.on;
  }

  set training(on: boolean) {
    setting.check([on]);
    this.#mode.on = on;
  }

  /** @internal The mode of this module and of those in it, with `on` for each. */
  modes(on: boolean): Modes {
    return new Map(this.modules().map((module) => [module.#mode, on]));
  }

  /** What the module computes: to be written by each. */
  abstract forward(...inputs: never[]): unknown;

  /** The distinct parameters, in the order of the fields: a tied weight once. */
  parameters(): Tensor<"f32">[] {
    return Object.values(this.namedParameters());
  }

  /** The distinct parameters by path, as in `layers.0.weight`; a tied weight under its first path. */
  namedParameters(): Record<string, Tensor<"f32">> {
    return Object.fromEntries(walk(this).tensors.filter(([, tensor]) => isParameter(tensor))) as Record<
      string,
      Tensor<"f32">
    >;
  }

  /** The distinct buffers, in the order of the fields. */
  buffers(): Tensor[] {
    return Object.values(this.namedBuffers());
  }

  /** The distinct buffers by path. */
  namedBuffers(): Record<string, Tensor> {
    return Object.fromEntries(walk(this).tensors.filter(([, tensor]) => isBuffer(tensor)));
  }

  /** This module and the distinct modules in it, outermost first. */
  modules(): Module[] {
    return walk(this).modules;
  }

  /** Puts this module and those in it into training mode. */
  train(): this {
    for (const module of this.modules()) module.training = true;
    return this;
  }

  /** Puts this module and those in it into evaluation mode: nothing is dropped. */
  eval(): this {
    for (const module of this.modules()) module.training = false;
    return this;
  }

  /**
   * From now on the parameters of this module and of those in it are buffers: they are kept, saved and moved, and not trained,
   * while gradients flow through what is computed with them. A trainer that has begun goes on with those that it began with.
   */
  freeze(): this {
    for (const [, tensor] of walk(this).tensors) freeze(tensor);
    return this;
  }

  /** What `freeze` made buffers are parameters again. */
  unfreeze(): this {
    for (const [, tensor] of walk(this).tensors) unfreeze(tensor);
    return this;
  }

  /** Parameters and buffers by path, as they are now: training on does not change the tensors returned. */
  stateDict(): Record<string, Tensor> {
    return Object.fromEntries(walk(this).tensors.map(([path, tensor]) => [path, tensor.detach()]));
  }

  /**
   * Takes over the values of `state`, which has exactly the paths of `stateDict()`; an f16 may stand where an f32 is kept.
   * Nothing is changed when it does not fit.
   * Throws ArgumentError for missing or unexpected paths, ShapeError and DTypeError for tensors that do not fit.
   */
  loadStateDict(state: Readonly<Record<string, Tensor>>): this {
    const op = "Module.loadStateDict";
    const own = walk(this).tensors;
    requirePaths(own.map(([path]) => path), Object.keys(state));
    for (const [path, tensor] of own) {
      const value = state[path]!;
      if (!sameShape(value.shape, tensor.shape)) {
        throw new ShapeError(op, { got: `${path} ${formatShape(value.shape)}`, need: formatShape(tensor.shape) });
      }
      if (value.dtype !== tensor.dtype && !(value.dtype === "f16" && tensor.dtype === "f32")) {
        throw new DTypeError(op, { got: `${path} of ${value.dtype}`, need: tensor.dtype });
      }
    }
    assignAll(own.map(([path, tensor]) => [tensor, state[path]!.cast(tensor.dtype)]));
    return this;
  }

  /** Moves parameters and buffers to a device. */
  to(device: Device): this {
    const tensors = walk(this).tensors.map(([, tensor]) => tensor);
    // A view moves with the flat tensor that it is a part of.
    for (const tensor of new Set(tensors.map((tensor) => tensor.alias?.base ?? tensor))) {
      tensor.assign(tensor.to(device));
    }
    return this;
  }
}

/** @internal Throws ArgumentError unless the paths of a state are those that a module has. */
export function requirePaths(own: readonly string[], given: readonly string[]): void {
  const [wanted, there] = [new Set(own), new Set(given)];
  const missing = own.filter((path) => !there.has(path));
  const unexpected = given.filter((path) => !wanted.has(path));
  if (missing.length === 0 && unexpected.length === 0) return;
  throw new ArgumentError("Module.loadStateDict", {
    got: `a state without [${missing}] and with unexpected [${unexpected}]`,
    need: "exactly the paths of stateDict()",
  });
}

const noGradients = "nothing: grad and valueAndGrad give gradients, and keep none";
const training = "nn.trainer(model, { loss, optimizer }).fit(batches, { epochs })";
const setting = takes("Module.training", { on: boolean });
const signatures: Methods<Module, "modes" | "forward"> = {
  parameters: {},
  namedParameters: {},
  buffers: {},
  namedBuffers: {},
  modules: {},
  train: {},
  eval: {},
  freeze: {},
  unfreeze: {},
  stateDict: {},
  loadStateDict: { state: namedTensors },
  to: { device: deviceKind },
};
guard("Module.", Module.prototype, signatures);
foreignWords("Module", Module.prototype, {
  call: "model.forward(x)",
  zero_grad: noGradients,
  zeroGrad: noGradients,
  requires_grad_: "model.freeze() for parameters that are not to train",
  state_dict: "model.stateDict()",
  load_state_dict: "model.loadStateDict(state)",
  getWeights: "model.stateDict()",
  setWeights: "model.loadStateDict(state)",
  named_parameters: "model.namedParameters()",
  register_buffer: "a field: this.name = nn.buffer(value)",
  register_parameter: "a field: this.name = nn.parameter(value)",
  addWeight: "a field: this.name = nn.parameter(value)",
  cuda: "model.to(device)",
  cpu: "model.to(device)",
  compile: "nn.trainer(model, { loss, optimizer })",
  fit: training,
  fitDataset: training,
  trainOnBatch: "nn.trainer(model, { loss, optimizer }).step(batch)",
  evaluate: "nn.trainer(model, { loss, optimizer }).evaluate(batches)",
  predict: "model.eval().forward(x), or trainer.predict(x) on all devices",
  save: "await io.save(path, model)",
  summary: "model.namedParameters(), or console.log(model)",
  add: "nn.sequential(…layers)",
});

/** For what functions take: a function in its place is one that makes a layer, or one that `nn.lambda` makes a layer of. */
export const moduleKind: Kind<Module> = {
  need: "a module",
  accepts: (x) => x instanceof Module,
  refuse(name, x) {
    if (typeof x !== "function") return { got: `${show(x)} as ${name}`, need: "a module" };
    const make = x.prototype instanceof Module ? `new ${x.name}(…)` : x.name === "" ? undefined : `${x.name}(…)`;
    return {
      got: `${show(x)} as ${name}`,
      need: `a module: ${make === undefined ? "" : `${make}, or `}nn.lambda(f) for a function of a Tensor`,
    };
  },
};

/** A module of one tensor to one tensor, as `sequential` chains them. */
export interface Layer extends Module {
  /** One tensor for one tensor. */
  forward(x: Tensor): Tensor;
}

interface Found {
  /** Marked tensors by path; each once. */
  readonly tensors: [path: string, tensor: Tensor][];
  readonly modules: Module[];
}

interface Place {
  readonly path: string;
  readonly value: unknown;
}

/**
 * Everything marked under a module, in the order of fields. Modules may be shared, and may refer back to their parents. Throws
 * ArgumentError for two tensors at one path, and for what is only where it has no name.
 */
function walk(root: Module): Found {
  const found: Found = { tensors: [], modules: [] };
  const seen = new Set<object>();
  const taken = new Set<string>();
  /** Objects that are not walked. */
  const others: Place[] = [];
  const stack: Place[] = [{ path: "", value: root }];
  while (stack.length > 0) {
    const { path, value } = stack.pop()!;
    if (typeof value !== "object" || value === null || seen.has(value)) continue;
    if (isTensor(value)) {
      if (!isParameter(value) && !isBuffer(value)) continue;
      if (taken.has(path)) {
        throw new ArgumentError("Module", { got: `two tensors at the path ${path}`, need: "names without dots" });
      }
      taken.add(path);
      found.tensors.push([path, value]);
    } else if (value instanceof Module) {
      found.modules.push(value);
    } else if (!Array.isArray(value) && !isRecord(value)) {
      others.push({ path, value });
      continue;
    }
    seen.add(value);
    if (isTensor(value)) continue;
    const fields = Object.entries(value);
    for (let i = fields.length - 1; i >= 0; i--) {
      const [name, field] = fields[i]!;
      stack.push({ path: path === "" ? name : `${path}.${name}`, value: field });
    }
  }
  for (const place of others) refuseHidden(place, seen);
  return found;
}

/** Throws ArgumentError where an object that is not walked holds modules or marked tensors that were not seen yet. */
function refuseHidden({ path, value: holder }: Place, seen: Set<object>): void {
  const stack: unknown[] = [holder];
  while (stack.length > 0) {
    const value = stack.pop();
    if (typeof value !== "object" || value === null || seen.has(value) || ArrayBuffer.isView(value)) continue;
    seen.add(value);
    const hidden = value instanceof Module
      ? show(value)
      : isTensor(value) && isParameter(value)
      ? "a parameter"
      : isTensor(value) && isBuffer(value)
      ? "a buffer"
      : undefined;
    if (hidden !== undefined) {
      throw new ArgumentError("Module", {
        got: `${show(holder)} at ${path} with ${hidden} in it`,
        need:
          "modules, parameters and buffers in fields, arrays, plain objects, or modules of your own (extends nn.Module)",
      });
    }
    if (isTensor(value)) continue;
    const parts = value instanceof Map
      ? [...value.keys(), ...value.values()]
      : value instanceof Set
      ? value
      : Object.values(value);
    for (const part of parts) stack.push(part);
  }
}

import { ArgumentError, DTypeError, ShapeError } from "../errors.ts";
import type { Device } from "../devices/device.ts";
import { formatShape, sameShape } from "../graph/shape.ts";
import { Mode, type Modes } from "../tensor/mode.ts";
import { isTensor, type Tensor } from "../tensor/tensor.ts";
import { assignAll } from "./flat.ts";
import { isBuffer, isParameter } from "./parameter.ts";

/**
 * A part of a model: data plus `forward`. Its public fields are the declaration: tensors marked by `nn.parameter` or
 * `nn.buffer`, modules, and arrays or records of them are found by walking the fields in the order of their assignment.
 * Private (#) fields are not seen.
 */
export abstract class Module {
  readonly #mode = new Mode();

  /**
   * Whether the module trains (dropout drops); true until it is set, by `train()` and `eval()`. A compiled function follows it
   * at each call. A trainer trains and evaluates its model in the mode that is right, whatever is set here, and sets nothing.
   * What is set while a function is traced holds for the rest of that trace only.
   */
  get training(): boolean {
    return this.#mode.on;
  }

  set training(on: boolean) {
    this.#mode.on = on;
  }

  /** @internal The mode of this module and of those in it, with `on` for each. */
  modes(on: boolean): Modes {
    return new Map(this.modules().map((module) => [module.#mode, on]));
  }

  abstract forward(...inputs: never[]): unknown;

  /** The distinct parameters, in the order of the fields: a tied weight once. */
  parameters(): Tensor<"f32">[] {
    return Object.values(this.namedParameters());
  }

  /** The distinct parameters by path, as in `layers.0.weight`; a tied weight under its first path. */
  namedParameters(): Record<string, Tensor<"f32">> {
    return Object.fromEntries(walk(this).tensors.filter(([, tensor]) => isParameter(tensor))) as Record<string, Tensor<"f32">>;
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
    const op = "loadStateDict";
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
  throw new ArgumentError("loadStateDict", {
    got: `a state without [${missing}] and with unexpected [${unexpected}]`,
    need: "exactly the paths of stateDict()",
  });
}

/** A module of one tensor to one tensor, as `sequential` chains them. */
export interface Layer extends Module {
  forward(x: Tensor): Tensor;
}

interface Found {
  /** Marked tensors by path; each once. */
  readonly tensors: [path: string, tensor: Tensor][];
  readonly modules: Module[];
}

/**
 * Everything marked under a module, in the order of fields. Modules may be shared, and may refer back to their parents.
 */
function walk(root: Module): Found {
  const found: Found = { tensors: [], modules: [] };
  const seen = new Set<object>();
  const taken = new Set<string>();
  const stack: { path: string; value: unknown }[] = [{ path: "", value: root }];
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
  return found;
}

/** @internal Whether it is a plain object, and no class's. */
export function isRecord(value: object): boolean {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

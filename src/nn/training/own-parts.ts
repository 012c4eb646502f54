/** Whether what a trainer runs is made of parts of its model: what the walk over its fields cannot see shows in the trace. */
import { ArgumentError } from "../../errors.ts";
import { isFloat } from "../../graph/dtype.ts";
import { type Node, toposort } from "../../graph/node.ts";
import { formatShape } from "../../graph/shape.ts";
import { isFlat } from "../../parallel/train/flat-parameters.ts";
import { show } from "../../signature/show.ts";
import { currentFrame } from "../../tensor/eager/frame.ts";
import { Mode } from "../../tensor/eager/mode.ts";
import { isTensor, type Tensor } from "../../tensor/tensor.ts";
import type { Module } from "../layers/module.ts";
import { isBuffer, isParameter } from "../layers/parameter.ts";
import type { Loss } from "../losses/loss.ts";

const op = "nn.trainer";
const places = "a public field of the model or of a module in it (in arrays and plain objects too)";

/**
 * To be called in a trace, after the forward pass. Throws ArgumentError for a module that trains and is not one of the model's:
 * it would drop what `evaluate` and `predict` are to keep.
 */
export function refuseForeignModules(): void {
  for (const [mode, on] of currentFrame()?.consulted ?? []) {
    if (!on || !(mode instanceof Mode)) continue;
    throw new ArgumentError(op, {
      got:
        `${mode.owner}, in training mode, which is not found in the model: it is in a #private field, say, or a closure`,
      need: `it in ${places}; eval() of it, for a module that is not to train`,
    });
  }
}

/**
 * To be called in a trace, after the forward pass. Throws ArgumentError for a plain tensor of floats in a field of the model that the
 * pass uses: it would neither be trained, nor saved, nor moved.
 */
export function refusePlainFields(model: Module): void {
  for (const [tensor] of currentFrame()?.captures ?? []) {
    if (!isTensor(tensor) || !isFloat(tensor.dtype) || isParameter(tensor) || isBuffer(tensor) || isFlat(tensor)) {
      continue;
    }
    for (const module of model.modules()) {
      const field = Object.entries(module).find(([, value]) => value === tensor);
      if (field === undefined) continue;
      throw new ArgumentError(op, {
        got: `${show(module)} with a plain tensor ${formatShape(tensor.shape)} as its field ${field[0]}`,
        need: "nn.parameter(…) for what is to be trained, nn.buffer(…) for what is only kept with the model",
      });
    }
  }
}

/** The parameters that were used in a trace so far, and are none of `own`: by the nodes that stand for them. */
export function foreignParameters(own: readonly Tensor[]): ReadonlyMap<Node, Tensor> {
  const known = new Set(own.map((parameter) => parameter.alias?.base ?? parameter));
  const foreign = new Map<Node, Tensor>();
  for (const [tensor, node] of currentFrame()?.captures ?? []) {
    if (isTensor(tensor) && !known.has(tensor) && (isParameter(tensor) || isFlat(tensor))) foreign.set(node, tensor);
  }
  return foreign;
}

/**
 * Throws ArgumentError where a loss has a derivative by one of the `foreign` parameters of a forward pass, which would not be
 * trained. What only the loss uses may be another model, as the critic of a generator is.
 */
export function refuseUntrained(loss: Loss, foreign: ReadonlyMap<Node, Tensor>): void {
  if (foreign.size === 0) return;
  const roots = [...loss.terms.map(({ sum }) => sum.node), ...loss.penalty === undefined ? [] : [loss.penalty.node]];
  for (
    const node of toposort(roots, (node) => isFloat(node.dtype) && node.op !== "stopGradient" && !foreign.has(node))
  ) {
    const tensor = foreign.get(node);
    if (tensor === undefined) continue;
    const what = isFlat(tensor)
      ? "a parameter of another trainer or optimizer"
      : `a parameter ${formatShape(tensor.shape)}`;
    throw new ArgumentError(op, {
      got:
        `${what} that the forward pass uses and that is not found in the model: it is in a #private field, say, or a closure`,
      need: `it in ${places}, or freeze() of its module, where it is not to be trained`,
    });
  }
}

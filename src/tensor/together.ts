/** Tensors that are computed together. */
import { rest } from "../signature/kinds.ts";
import { takes } from "../signature/takes.ts";
import { realizeAll } from "./eager/evaluate.ts";
import { isTensor, type Tensor } from "./tensor.ts";

const signature = takes("realize", {
  tensors: rest({ accepts: isTensor, need: "Tensors, each as an argument: realize(...list)" }),
});

/**
 * Computes several tensors, together where they are on one device, without reading them. Throws TraceError inside a
 * trace.
 */
export function realize(...tensors: readonly Tensor[]): Promise<void> {
  return signature.rejection(tensors) ?? realizeAll(tensors);
}

import type { Tensor } from "../../tensor/tensor.ts";
import { where } from "../../tensor/where.ts";

/**
 * A gradient [n] scaled down to the norm `maxNorm` where it is longer: times min(1, maxNorm / (norm + 1e-6)), as
 * torch.nn.utils.clip_grad_norm_ has it. The norm is taken of the gradient over its largest element, so that squares
 * neither overflow nor vanish.
 */
export function clippedByNorm(gradient: Tensor, maxNorm: number): Tensor {
  const largest = gradient.abs().max();
  const scale = where(largest.greater(0), largest, 1);
  const norm = gradient.div(scale).square().sum().sqrt().mul(largest);
  return gradient.mul(norm.add(1e-6).reciprocal().mul(maxNorm).minimum(1));
}

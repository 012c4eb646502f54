/** Flat tensors of which parameters are views: a function that uses such a parameter captures the flat one. */
import type { Tensor } from "../../tensor/tensor.ts";

export const flats: WeakSet<Tensor> = new WeakSet<Tensor>();

/** Tensors as they were at one moment, whatever is assigned to them or written over them later. */
import { fromHost, zeros } from "../../tensor/create.ts";
import { Tensor } from "../../tensor/tensor.ts";

export class Held {
  /** Handles of its own on what tensors showed. */
  readonly #values = new Map<Tensor, Tensor>();
  /** Tensors that were a part of another one. */
  readonly #views = new Map<Tensor, { readonly base: Tensor; readonly offset: number }>();
  #onHost = false;

  /** Holds a tensor as it is now; one that is held already as it was. Nothing is copied. */
  take(tensor: Tensor): void {
    if (this.#values.has(tensor) || this.#views.has(tensor)) return;
    const { alias } = tensor;
    if (alias === undefined) this.#values.set(tensor, new Tensor(tensor.node, true));
    else {
      this.#views.set(tensor, alias);
      this.take(alias.base);
    }
  }

  /** Whether a tensor still shows what is held of it. */
  isNow(tensor: Tensor): boolean {
    const value = this.#values.get(tensor);
    return value === undefined || (tensor.alias === undefined && value.node === tensor.node);
  }

  /** What is held of a tensor; itself where nothing is. */
  of(tensor: Tensor): Tensor {
    const value = this.#values.get(tensor);
    if (value !== undefined) return value;
    const view = this.#views.get(tensor);
    if (view === undefined) return tensor;
    const held = zeros(tensor.shape, { dtype: tensor.dtype });
    held.aliasOf(this.of(view.base), view.offset);
    this.#values.set(tensor, held);
    return held;
  }

  /** Copies everything to the host, so that it stays though what it was is given up. */
  async toHost(): Promise<void> {
    if (this.#onHost) return;
    this.#onHost = true;
    for (const tensor of this.#views.keys()) this.#values.delete(tensor);
    await Promise.all([...this.#values].map(async ([tensor, handle]) => {
      const { shape, dtype, device } = handle;
      this.#values.set(tensor, fromHost(await handle.data(), shape, dtype, device));
      handle.dispose();
    }));
  }

  release(): void {
    for (const [tensor, handle] of this.#values) {
      tensor.settle(); // What was computed is kept by the caller's own.
      handle.dispose();
    }
    this.#values.clear();
    this.#views.clear();
  }
}

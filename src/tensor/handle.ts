/** Tensors as handles: what they show, how that is read and given back. */
import type { Device } from "../devices/device/device.ts";
import { deviceById } from "../devices/device/registry.ts";
import { ArgumentError, DTypeError, ShapeError } from "../errors.ts";
import * as build from "../graph/build.ts";
import { Finalizer } from "../graph/collected.ts";
import type { DType, HostArray } from "../graph/dtype.ts";
import type { Node } from "../graph/node.ts";
import { formatShape, sameShape, size } from "../graph/shape.ts";
import type { Item } from "./dtypes.ts";
import type { Pending } from "./eager/backlog.ts";
import { backlog, readTensor, realizeAll } from "./eager/evaluate.ts";
import { currentFrame, type Frame } from "./eager/frame.ts";
import { free, settleHistory } from "./eager/history.ts";
import { type Part, partOf } from "./eager/parts.ts";
import { locate } from "./eager/realize.ts";
import { type HandleCount, isDue, type Leaf, recordOf, requireConcrete, sharedLeaf, valueOf } from "./eager/record.ts";
import { nested, type NestedArray, show, visible } from "./nested.ts";

/** The tensor of which another one shows a part, and where that begins. */
interface Place<T> {
  readonly base: T;
  readonly offset: number;
}

interface Alias<T> extends Place<T>, Part {}

/** The count in which a handle is. */
interface Counted {
  handles: HandleCount;
}

const dropped = new FinalizationRegistry<Counted>(({ handles }) => handles.count--);

/**
 * What a tensor is before any op: a handle that shows a node of the graph, or a part of what another one shows. It can be made to show
 * another value (`assign`), read, printed and disposed of.
 */
export class TensorHandle<out D extends DType = DType> implements Pending {
  /** Lengths of the axes, outermost first; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** The dtype of the elements. */
  readonly dtype: D;
  #node: Node;
  #frame: Frame | undefined;
  readonly #counted: Counted;
  readonly #finalizer: Finalizer<TensorHandle<D>, Counted>;
  #alias: Alias<this> | undefined;
  #disposed = false;
  /** Stands for the value to those that show a part of it: another one with every value that the handle is made to show. */
  #version: object | undefined;
  /** What is printed of a value that was read. */
  #read: { readonly version: object; readonly visible: HostArray } | undefined;

  /**
   * @internal A handle on a node: where a tensor showed it already, on one of its own of the same value, as every tensor is
   * a variable. With `outside` it is on that node in any case, and belongs to no trace, even when made inside one.
   */
  constructor(given: Node, outside = false) {
    if (typeof (given as Partial<Node> | undefined)?.op !== "string") {
      throw new ArgumentError("Tensor", {
        got: "new Tensor(…)",
        need: "a function that makes tensors: tensor([[1, 2], [3, 4]]), zeros([2, 3])",
      });
    }
    const node = outside || !recordOf(given).shown ? given : build.another(given);
    this.shape = node.shape;
    this.dtype = node.dtype as D;
    this.#node = node;
    this.#frame = outside ? undefined : currentFrame();
    const record = recordOf(node);
    record.shown = true;
    record.handles.count++;
    this.#counted = { handles: record.handles };
    this.#finalizer = new Finalizer(dropped, this, this.#counted);
    if (this.#frame === undefined && !outside) backlog.notice(this, node);
  }

  /** The number of axes. */

  get rank(): number {
    return this.shape.length;
  }
  /** Number of elements. */
  get size(): number {
    return size(this.shape);
  }
  /** The device to which the tensor was bound, by `{ device }` or `to`; undefined for one that may meet any device. */
  get device(): Device | undefined {
    const id = (this.#alias?.base ?? this).#node.device;
    return id === undefined ? undefined : deviceById(id);
  }
  /**
   * @internal The graph node now. Inside a trace, a tensor from outside is a placeholder. Throws ArgumentError when
   * disposed.
   */
  get node(): Node {
    const frame = currentFrame();
    const foreign = frame !== undefined && this.#frame !== frame;
    if (foreign) {
      const assigned = frame.assignments.get(this);
      if (assigned !== undefined) return assigned;
    }
    if (this.#disposed) {
      throw new ArgumentError("tensor", { got: "a tensor that was disposed of", need: "a tensor in use" });
    }
    if (this.#alias !== undefined) return this.#partOf(this.#alias);
    if (foreign && !recordOf(this.#node).symbolic) return frame.valueOf(this);
    // In a trace a value that exists already, as that of a constant computed elsewhere, would be a leaf that no input
    // gives.
    if (frame === undefined) {
      backlog.using(this);
      this.settle();
    }
    return this.#node;
  }
  #partOf(alias: Alias<TensorHandle>): Node {
    const whole = alias.base.node;
    return partOf(whole, currentFrame() === undefined ? alias.base.#currentVersion() : whole, alias, this.shape);
  }
  /** @internal The tensor of which this one shows a part, if it does. */
  get alias(): Place<this> | undefined {
    return this.#alias && { base: this.#alias.base, offset: this.#alias.offset };
  }
  /** @internal Whether the value is still to be computed. */
  get isPending(): boolean {
    return !this.#disposed && this.#alias === undefined && (valueOf(this.#node) === undefined || isDue(this.#node));
  }

  /**
   * From now on this handle shows `value` (a number fills it), with no history. Tensors made from the old value keep
   * it. Inside a trace the assignment happens when the compiled function runs. Throws ShapeError, DTypeError.
   */
  assign(value: TensorHandle | number | boolean): this {
    if (currentFrame() === undefined) backlog.assigning(this);
    const node = value instanceof TensorHandle ? value.node : build.full(this.shape, Number(value), this.dtype);
    if (!sameShape(node.shape, this.shape)) {
      throw new ShapeError("assign", { got: formatShape(node.shape), need: formatShape(this.shape) });
    }
    if (node.dtype !== this.dtype) throw new DTypeError("assign", { got: node.dtype, need: this.dtype });
    const frame = currentFrame();
    if (frame !== undefined && this.#frame !== frame) {
      frame.assign(this, build.stopGradient(node));
      return this;
    }
    if (frame === undefined) requireConcrete("assign", node);
    this.bind(node.op === "storage" && !isDue(node) ? sharedLeaf(node) : build.stopGradient(node));
    if (frame === undefined && this.isPending) backlog.assigned(this);
    return this;
  }

  /** @internal This handle becomes the part of `base` [n] from `offset` on, as `base` is at each use. `assign` ends that. */
  aliasOf(base: this, offset: number): void {
    const fits = base.rank === 1 && Number.isSafeInteger(offset) && offset >= 0 && offset + this.size <= base.size;
    if (!fits || base.dtype !== this.dtype || base === this) {
      throw new ShapeError("aliasOf", {
        got: `${this.size} elements of ${this.dtype} at ${offset} of ${base.dtype}${formatShape(base.shape)}`,
        need: "a part of a vector of the same dtype",
      });
    }
    this.#release();
    this.#alias = { base, offset, parts: new WeakMap() };
  }

  /** @internal The handle shows another value. */
  bind(node: Node): void {
    this.#version = undefined;
    this.#show(node);
  }

  #show(node: Node): void {
    if (this.#alias === undefined) this.#release();
    this.#alias = undefined;
    this.#node = node;
    const record = recordOf(node);
    record.shown = true;
    record.handles.count++;
    this.#counted.handles = record.handles;
  }

  /** @internal Whether no other handle shows this one's node. */
  get isOnlyHandle(): boolean {
    return this.#counted.handles.count === 1;
  }

  /** Shows nothing of its own from now on, and is in no node's count. */
  #release(): void {
    this.#counted.handles.count--;
    this.#counted.handles = { count: 1 };
  }

  /** @internal Once the node has a value, the handle shows that. */
  settle(): void {
    if (this.#disposed || this.#alias !== undefined) return;
    const leaf = valueOf(this.#node);
    if (leaf === undefined || leaf === this.#node) return;
    this.promise(leaf);
  }

  /** @internal The handle shows the leaf of its node, which has its value now or will have it. */
  promise(leaf: Leaf): void {
    if (this.#disposed || this.#alias !== undefined) return;
    settleHistory(leaf);
    this.#show(leaf);
  }

  /** The values, in order, as a copy. Bools are bytes of 0 and 1, f16 a Float32Array. Throws TraceError inside a trace. */
  data(): Promise<HostArray<D>> {
    return this.#values("data");
  }
  #values(op: string): Promise<HostArray<D>> {
    const version = this.#currentVersion();
    return readTensor(this, op).then((values) => {
      this.#read = { version, visible: visible(values, this.shape) };
      return values as HostArray<D>;
    });
  }
  /**
   * The values as nested arrays; a scalar is a number, or a boolean. How deep they are is no part of a Tensor's type: say it
   * where they are taken, `const rows: number[][] = await x.array()`, or as `x.array<number[][]>()`.
   */
  array<A extends NestedArray<Item<D>> = NestedArray<Item<D>>>(): Promise<A> {
    return this.#values("array").then((data) => nested(data, this.shape, this.dtype) as A);
  }
  /** The value of a tensor of one element: a boolean for a bool, else a number. Throws ShapeError for any other. */
  item(): Promise<Item<D>> {
    if (this.size !== 1) throw new ShapeError("item", { got: formatShape(this.shape), need: "one element" });
    return this.#values("item").then((data) => nested(data, [], this.dtype) as Item<D>);
  }
  /**
   * Computes the value, without reading it. Small ops that follow each other leave for the device together, at the latest
   * when the event loop turns; `device.sync()` sends them at once.
   */
  realize(): Promise<this> {
    return realizeAll([this]).then(() => this);
  }

  /** Gives the memory back, as soon as no other tensor needs it. The handle cannot be used any more. Idempotent. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#finalizer.callOff();
    if (this.#alias !== undefined) return;
    this.#release();
    const leaf = valueOf(this.#node);
    if (leaf !== undefined && recordOf(leaf).handles.count === 0) free(leaf);
  }
  /** `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #currentVersion(): object {
    return (this.#alias?.base ?? this).#version ??= {};
  }

  /** dtype and shape, where it is, and its values once they were read, or where the host has them. */
  toString(): string {
    const { device } = this;
    const place = device === undefined ? "" : ` on ${device.name}`;
    return `Tensor ${this.dtype}${formatShape(this.shape)}${place} ${this.#valueText()}`;
  }
  #valueText(): string {
    if (this.#disposed) return "(disposed)";
    if (this.#read?.version === this.#currentVersion()) return show(this.#read.visible, this.shape, this.dtype);
    const found = this.#alias === undefined ? locate(this.#node) : undefined;
    const host = found?.storage.host?.subarray(found.offset, found.offset + this.size);
    if (host !== undefined) return show(visible(host, this.shape), this.shape, this.dtype);
    return found === undefined && this.isPending ? "(not computed)" : "(not read)";
  }
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }
  /** Operators of JavaScript cannot compute with tensors: they throw, where they would give NaN or compare texts. */
  [Symbol.toPrimitive](hint: string): string {
    if (hint === "string") return this.toString();
    throw new ArgumentError("tensor", {
      got: "a Tensor where JavaScript needs a number (t * 2, t < 2, t + 1)",
      need: "a method: t.mul(2), t.less(2), t.add(1); await t.item() for the number",
    });
  }
  /** Always throws: a value is read with `await`. */
  toJSON(): never {
    throw new ArgumentError("JSON.stringify", {
      got: `a Tensor ${this.dtype}${formatShape(this.shape)}`,
      need: "its values: await t.array()",
    });
  }
}

/** The trained state on every device: flat parameters, the optimizer's vectors, and its scalars. */
import { ArgumentError, DTypeError, ReplicaMismatchError } from "../errors.ts";
import type { Device, DeviceBuffer } from "../devices/device.ts";
import type { Node } from "../graph/node.ts";
import { copyOf } from "../tensor/compile.ts";
import { fromHost } from "../tensor/create.ts";
import { bufferOf, mayOverwrite, overwritten, replaceBuffer } from "../tensor/runtime.ts";
import { storageOf } from "../tensor/record.ts";
import { allocate } from "../tensor/storage.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type Checksum, Checksummer } from "./checksum.ts";
import { firstScalars, type State, type UpdateRule } from "./update.ts";

/** Buffers to give back when the replicas are garbage-collected. */
type Owned = Map<Device, DeviceBuffer[]>;

const collected = new FinalizationRegistry<Owned>(giveBack);

function giveBack(owned: Owned): void {
  for (const [device, buffers] of owned) {
    for (const buffer of buffers) if (!device.isLost) device.free(buffer);
  }
  owned.clear();
}

export class Replicas {
  /** Elements of all parameters together. */
  readonly length: number;
  readonly #op: string;
  readonly #devices: readonly Device[];
  readonly #parameters: readonly Tensor[];
  readonly #offsets: readonly number[];
  readonly #rule: UpdateRule;
  /** The optimizer's state on each device. */
  readonly #states: Omit<State<DeviceBuffer>, "parameters">[] = [];
  /** The parameters on each device but the first, where they are `#flat`. */
  readonly #copies: DeviceBuffer[] = [];
  readonly #owned: Owned = new Map();
  readonly #checksummers = new Map<Device, Checksummer>();
  #flat: Tensor | undefined;
  /** What `#flat` was when it was last written here: anything else was assigned by the user. */
  #written: Node | undefined;

  /** Throws ArgumentError for no parameters or one listed twice, DTypeError for one that is not f32. */
  constructor(op: string, devices: readonly Device[], parameters: readonly Tensor[], rule: UpdateRule) {
    if (parameters.length === 0) {
      throw new ArgumentError(op, { got: "a model without parameters", need: "at least one" });
    }
    if (new Set(parameters).size < parameters.length) {
      throw new ArgumentError(op, {
        got: "a parameter listed twice",
        need: "each once: a tied weight is one parameter",
      });
    }
    const offsets: number[] = [];
    let length = 0;
    for (const parameter of parameters) {
      if (parameter.dtype !== "f32") {
        throw new DTypeError(op, { got: `a parameter of ${parameter.dtype}`, need: "f32" });
      }
      offsets.push(length);
      length += parameter.size;
    }
    this.length = length;
    this.#op = op;
    this.#devices = devices;
    this.#parameters = [...parameters];
    this.#offsets = offsets;
    this.#rule = rule;
    collected.register(this, this.#owned, this);
  }

  /**
   * All parameters end to end; every parameter is a view of it. Its newest version is on the first device.
   * Call `ready` first.
   */
  get flat(): Tensor {
    return this.#flat!;
  }

  /** Whether a tensor is one of the parameters. */
  has(tensor: Tensor): boolean {
    return this.#parameters.includes(tensor);
  }

  /**
   * Brings all replicas to the parameters' values: at first, and again whenever the user has assigned to one.
   */
  async ready(): Promise<void> {
    if (this.#isCurrent()) return;
    const [device] = this.#devices;
    const buffer = await allocate(device!, 4 * this.length);
    // From here on nothing waits, so that no assignment comes between.
    const values = await this.#values();
    device!.write(buffer, values);
    if (this.#flat === undefined) {
      this.#allocate();
      this.#flat = fromHost(values, [this.length], "f32");
    }
    this.#show(buffer);
    this.#devices.slice(1).forEach((device, i) => device.write(this.#copies[i]!, values));
    this.#parameters.forEach((parameter, i) => {
      if (!this.#isView(parameter, i)) parameter.aliasOf(this.flat, this.#offsets[i]!);
    });
  }

  /** The state of a replica other than the first, to be updated in place. */
  state(replica: number): State<DeviceBuffer> {
    return { ...this.#states[replica]!, parameters: this.#copies[replica - 1]! };
  }

  /**
   * The first replica's state, to be updated in place before anything else happens; undefined where
   * `makeWritable` must be awaited first.
   */
  claim(): State<DeviceBuffer> | undefined {
    const device = this.#devices[0]!;
    const { flat } = this;
    if (!this.#isCurrent() || !mayOverwrite(flat, device) || flat.node.op !== "storage") return undefined;
    const parameters = storageOf(flat.node).present(device);
    return parameters === undefined ? undefined : { ...this.#states[0]!, parameters };
  }

  /** Brings the parameters to the first device, apart from tensors that need them as they are now. */
  async makeWritable(): Promise<void> {
    await this.ready();
    const device = this.#devices[0]!;
    const { node } = this.flat;
    const buffer = await bufferOf(this.flat, device);
    if (mayOverwrite(this.flat, device)) return;
    const copy = await copyOf(device, buffer, Math.max(4, 4 * this.length));
    // Whoever calls claims again, and comes back here when the user has assigned meanwhile.
    if (this.flat.node === node) this.#show(copy);
    else device.free(copy);
  }

  /** To be called when the first replica's state was updated in place: its tensors read as the new values. */
  wrote(): void {
    overwritten(this.flat, this.#devices[0]!);
    this.#written = this.flat.node;
  }

  /** The buffer that a replica keeps of a captured tensor, if it is the parameters. */
  own(tensor: Tensor, replica: number): DeviceBuffer | undefined {
    return tensor === this.#flat && replica > 0 ? this.#copies[replica - 1] : undefined;
  }

  /** Lets updates happen again after a loss that was not finite. */
  heal(): void {
    this.#devices[0]!.write(this.#states[0]!.scalars, Float32Array.of(1), 0);
  }

  /**
   * Throws ReplicaMismatchError, which names the replicas that differ from the most, unless all hold the same
   * bits.
   */
  async check(step: number): Promise<void> {
    const sums = await Promise.all(this.#devices.map(async (device, i) => {
      const parameters = i === 0 ? await bufferOf(this.flat, device) : this.#copies[i - 1]!;
      const checksummer = this.#checksummer(device);
      // In the order of `parts`.
      const all: Checksum[] = [];
      for (const buffer of [parameters, ...this.#states[i]!.slots]) all.push(await checksummer.of(buffer));
      return all;
    }));
    const parts = ["parameters", ...this.#rule.slots];
    const shown = sums.map((all) =>
      all.map((words) => words.map((word) => word.toString(16).padStart(8, "0")).join(""))
    );
    const votes = new Map<string, number>();
    for (const all of shown) votes.set(all.join(), (votes.get(all.join()) ?? 0) + 1);
    if (votes.size === 1) return;
    // Of equally many, those of the first replica are taken as the right ones.
    const [most] = [...votes].sort((a, b) => b[1] - a[1])[0]!;
    const right = most.split(",");
    const differ = shown.flatMap((all, i) => {
      const wrong = parts.filter((_, part) => all[part] !== right[part]);
      return wrong.length === 0
        ? []
        : [`replica ${i} (${this.#devices[i]!.name}) in its ${wrong.join(" and ")}`];
    });
    throw new ReplicaMismatchError(this.#op, {
      got: `after step ${step}, other bits than most in ${differ.join(", ")}`,
      need: "the same bits on every replica: a faulty device, or devices of different models or drivers",
    });
  }

  /**
   * Gives back the optimizer's state and the copies of the parameters; the parameters themselves stay on the
   * first device.
   */
  async release(): Promise<void> {
    giveBack(this.#owned);
    collected.unregister(this);
    for (const checksummer of this.#checksummers.values()) await checksummer.release();
  }

  /** Whether nobody has assigned to a parameter since the replicas were brought to the same values. */
  #isCurrent(): boolean {
    const flat = this.#flat;
    return flat !== undefined && flat.node === this.#written &&
      this.#parameters.every((parameter, i) => this.#isView(parameter, i));
  }

  #isView(parameter: Tensor, i: number): boolean {
    return parameter.alias?.base === this.#flat && parameter.alias?.offset === this.#offsets[i];
  }

  /** The parameters are in this buffer from now on; tensors made from the old ones keep those. */
  #show(buffer: DeviceBuffer): void {
    replaceBuffer(this.flat, this.#devices[0]!, buffer);
    this.#written = this.flat.node;
  }

  /** The parameters' values, as they are when the promise resolves. */
  async #values(): Promise<Float32Array> {
    const values = new Float32Array(this.length);
    for (;;) {
      const read = this.#versions();
      const data = await Promise.all(this.#parameters.map((parameter) => parameter.data()));
      const now = this.#versions();
      if (!read.every((version, i) => version === now[i])) continue;
      data.forEach((part, i) => values.set(part, this.#offsets[i]!));
      return values;
    }
  }

  /** What changes when a parameter is assigned to. Of a view it is the vector, as a node of its own would hold that. */
  #versions(): Node[] {
    return this.#parameters.map((parameter) => (parameter.alias?.base ?? parameter).node);
  }

  #allocate(): void {
    this.#devices.forEach((device, replica) => {
      const buffers: DeviceBuffer[] = [];
      const hold = (values: Float32Array): DeviceBuffer => {
        const buffer = device.alloc(Math.max(4, values.byteLength));
        device.write(buffer, values);
        buffers.push(buffer);
        return buffer;
      };
      this.#owned.set(device, buffers);
      const zeros = new Float32Array(this.length);
      this.#states.push({
        scalars: hold(firstScalars(this.#rule)),
        slots: this.#rule.slots.map(() => hold(zeros)),
      });
      if (replica > 0) this.#copies.push(hold(zeros));
    });
  }

  #checksummer(device: Device): Checksummer {
    let checksummer = this.#checksummers.get(device);
    if (checksummer === undefined) {
      this.#checksummers.set(device, checksummer = new Checksummer(device, this.length));
    }
    return checksummer;
  }
}

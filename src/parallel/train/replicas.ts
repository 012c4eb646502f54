/** The trained state on every device: flat parameters, the optimizer's vectors, and its scalars. */
import type { Device, DeviceBuffer } from "../../devices/device/device.ts";
import { DeviceError, InternalError, ReplicaMismatchError } from "../../errors.ts";
import type { HostArray } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import { fromHost } from "../../tensor/create.ts";
import { reserve } from "../../tensor/eager/memory.ts";
import { recordOf, storageOf } from "../../tensor/eager/record.ts";
import type { Spare } from "../../tensor/eager/storage.ts";
import { bufferOf, mayOverwrite, overwritten, replaceBuffer } from "../../tensor/runtime.ts";
import { Tensor } from "../../tensor/tensor.ts";
import { copyOf } from "../../tensor/transform/compile.ts";
import { Checksummer } from "./checksum.ts";
import { FlatParameters } from "./flat-parameters.ts";
import { firstScalars, type State, type StateUpdate } from "./update.ts";

/** Buffers to give back when the replicas are garbage-collected. */
type Owned = Map<Device, DeviceBuffer[]>;

const collected = new FinalizationRegistry<Owned>(giveBack);

function giveBack(owned: Owned): void {
  for (const [device, buffers] of owned) {
    for (const buffer of buffers) if (!device.isLost) device.free(buffer);
  }
  owned.clear();
}

/** What a device keeps of the trained state. */
interface Replica extends Omit<State<DeviceBuffer>, "parameters"> {
  /** The parameters, on each device but the first, where they are `#flat`. */
  copy: DeviceBuffer | undefined;
}

const noFaults = new Uint32Array(2);

export class Replicas {
  /** Where each parameter lies in `flat`. */
  readonly layout: FlatParameters;
  readonly #op: string;
  readonly #rule: StateUpdate;
  #devices: readonly Device[];
  readonly #replicas = new Map<Device, Replica>();
  readonly #owned: Owned = new Map();
  readonly #checksummers = new Map<Device, Checksummer>();
  /** What parameters are to be computed from, until the replicas have them: the device that does so may be lost. */
  #pending: readonly (Node | undefined)[];
  #flat: Tensor | undefined;
  /** What `#flat` was when it was last written here: anything else was assigned by the user. */
  #written: Node | undefined;
  /** A copy of one version on the host. */
  #onHost: { readonly version: Node; readonly values: Float32Array } | undefined;

  /** Throws as `FlatParameters`. */
  constructor(op: string, devices: readonly Device[], parameters: readonly Tensor[], rule: StateUpdate) {
    this.layout = new FlatParameters(op, parameters, { aligned: true });
    this.#op = op;
    this.#devices = [...devices];
    this.#rule = rule;
    this.#pending = parameters.map((parameter) => parameter.isPending ? parameter.node : undefined);
    collected.register(this, this.#owned, this);
  }

  /**
   * All parameters end to end; every parameter is a view of it. Its newest version is on the first device.
   * Call `ready` first.
   */
  get flat(): Tensor {
    if (this.#flat !== undefined) return this.#flat;
    throw new InternalError(this.#op, { got: "parameters that lie nowhere yet", need: "a call of ready before" });
  }

  /** Bytes that a device keeps of the parameters and of the optimizer's state. */
  bytesOn(device: Device): { readonly parameters: number; readonly optimizer: number } {
    const replica = this.#replicas.get(device);
    if (replica === undefined) return { parameters: 0, optimizer: 0 };
    const optimizer = [...replica.slots, replica.scalars].reduce((sum, { bytes }) => sum + bytes, 0);
    return { parameters: 4 * this.layout.length, optimizer };
  }

  /**
   * Brings all replicas to the parameters' values: at first, and again whenever the user has assigned to one. Gives
   * the values where it had to. `each` calls a function for every device, and leaves out those that fail.
   */
  async ready(each: (body: (device: Device) => void) => void): Promise<Float32Array | undefined> {
    if (this.#isCurrent()) return undefined;
    await Promise.all(this.#devices.map((device) => reserve(device, 4 * this.layout.length)));
    // From here on nothing waits, so that no assignment comes between.
    const values = await this.#values();
    each((device) => {
      if (!this.#replicas.has(device)) this.#allocate(device);
      if (device !== this.#devices[0]) return device.write(this.#copyOn(device), values);
      const buffer = device.alloc(Math.max(4, 4 * this.layout.length));
      device.write(buffer, values);
      this.#flat ??= fromHost(values, [this.layout.length], "f32");
      this.#show(buffer);
    });
    this.layout.showIn(this.flat);
    this.#pending = [];
    return values;
  }

  /** Takes in another device: it gets a copy of the state, as it is after all steps enqueued so far. */
  async add(device: Device): Promise<void> {
    if (this.#flat !== undefined) {
      const from = this.#first;
      const source = this.#on(from);
      const parameters = await bufferOf(this.flat, from);
      const all = await Promise.all([parameters, source.scalars, ...source.slots].map((buffer) => from.read(buffer)));
      this.#allocate(device);
      const { scalars, slots } = this.#on(device);
      const buffers = [this.#copyOn(device), scalars, ...slots];
      for (const [i, words] of all.entries()) {
        const into = buffers[i];
        if (into !== undefined) device.write(into, new Uint8Array(words, 0, Math.min(into.bytes, words.byteLength)));
      }
    }
    this.#devices = [...this.#devices, device];
  }

  /** What the parameters are now; another version after each update. */
  get version(): Node | undefined {
    return this.#written;
  }

  /** The host has these values of a version of the parameters. */
  keptOnHost(version: Node | undefined, values: Float32Array): void {
    this.#onHost = version === undefined ? undefined : { version, values };
  }

  /** Forgets a device that is not used any more. The parameters are those of another one from now on, if there is one. */
  remove(device: Device): void {
    const first = this.#devices[0];
    this.#devices = this.#devices.filter((other) => other !== device);
    const heir = this.#devices[0];
    if (device === first && heir !== undefined && this.#flat !== undefined) {
      const copy = this.#copyOn(heir);
      // What the user assigned meanwhile is newer than any replica.
      if (this.#flat.node.op === "storage" && this.#flat.node === this.#written) {
        storageOf(this.#flat.node).adopt(heir, copy);
      } else if (!heir.isLost) heir.free(copy);
      this.#owned.set(heir, (this.#owned.get(heir) ?? []).filter((buffer) => buffer !== copy));
      this.#on(heir).copy = undefined;
    }
    this.#replicas.delete(device);
    this.#checksummers.delete(device);
    for (const buffer of this.#owned.get(device) ?? []) if (!device.isLost) device.free(buffer);
    this.#owned.delete(device);
  }

  /** No device is left: the model's tensors read as these values of all parameters. */
  restore(values: Float32Array): void {
    if (this.#flat === undefined || this.#flat.node !== this.#written) return;
    this.#flat.assign(fromHost(values, [this.layout.length], "f32"));
    this.#written = this.#flat.node;
  }

  /** The state on a device other than the first, to be updated in place. */
  state(device: Device): State<DeviceBuffer> {
    const { slots, scalars, faults } = this.#on(device);
    return { slots, scalars, faults, parameters: this.#copyOn(device) };
  }

  /**
   * The first device's state, to be updated in place before anything else happens; undefined where
   * `makeWritable` must be awaited first.
   */
  claim(): State<DeviceBuffer> | undefined {
    const device = this.#first;
    const { flat } = this;
    if (!this.#isCurrent() || !mayOverwrite(flat, device) || flat.node.op !== "storage") return undefined;
    const parameters = storageOf(flat.node).present(device);
    if (parameters === undefined) return undefined;
    const { slots, scalars, faults } = this.#on(device);
    return { slots, scalars, faults, parameters };
  }

  /** Brings the parameters to the first device, apart from tensors that need them as they are now. */
  async makeWritable(): Promise<void> {
    const device = this.#first;
    const { node } = this.flat;
    const buffer = await bufferOf(this.flat, device);
    if (mayOverwrite(this.flat, device)) return;
    const copy = await copyOf(device, buffer, Math.max(4, 4 * this.layout.length));
    // Whoever calls claims again, and comes back here when the user has assigned meanwhile.
    if (this.flat.node === node && device === this.#devices[0]) this.#show(copy);
    else if (!device.isLost) device.free(copy);
  }

  /** To be called when the first device's state was updated in place: its tensors read as the new values. */
  wrote(): void {
    overwritten(this.flat, this.#first);
    this.#isWritten();
  }

  /** The buffer that a device keeps of a captured tensor, if it is the parameters. */
  own(tensor: Tensor, device: Device): DeviceBuffer | undefined {
    return tensor === this.#flat ? this.#replicas.get(device)?.copy : undefined;
  }

  /** Lets updates happen again on a device after a loss or a gradient that was not finite. */
  heal(device: Device): void {
    const { scalars, faults } = this.#on(device);
    device.write(scalars, Float32Array.of(1), 0);
    device.write(faults, noFaults);
  }

  /** Checksums of a device's state, in the order parameters, slots; of equal text where the bits are equal. */
  async checksums(device: Device): Promise<string[]> {
    const { copy, slots } = this.#on(device);
    const parameters = copy ?? await bufferOf(this.flat, device);
    const checksummer = this.#checksummer(device);
    const all = await Promise.all([parameters, ...slots].map((buffer) => checksummer.of(buffer)));
    return all.map((words) => words.map((word) => word.toString(16).padStart(8, "0")).join(""));
  }

  /**
   * Throws ReplicaMismatchError, which names the replicas that differ from the most, unless the checksums of all
   * devices are equal.
   */
  compare(step: number, sums: ReadonlyMap<Device, readonly string[]>): void {
    const shown = [...sums.values()];
    const parts = ["parameters", ...this.#rule.slots];
    const votes = new Map<string, number>();
    for (const all of shown) votes.set(all.join(), (votes.get(all.join()) ?? 0) + 1);
    if (votes.size === 1) return;
    // Of equally many, those of the first replica are taken as the right ones.
    const [[most] = [""]] = [...votes].sort((a, b) => b[1] - a[1]);
    const right = most.split(",");
    const differ = [...sums].flatMap(([{ name }, all], i) => {
      const wrong = parts.filter((_, part) => all[part] !== right[part]);
      return wrong.length === 0 ? [] : [`replica ${i} (${name}) in its ${wrong.join(" and ")}`];
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
    this.#replicas.clear();
    giveBack(this.#owned);
    collected.unregister(this);
    for (const checksummer of this.#checksummers.values()) await checksummer.release();
  }

  get #first(): Device {
    const [first] = this.#devices;
    if (first !== undefined) return first;
    throw new InternalError(this.#op, { got: "replicas on no device", need: "one" });
  }

  #on(device: Device): Replica {
    const replica = this.#replicas.get(device);
    if (replica !== undefined) return replica;
    throw new InternalError(this.#op, { got: `no replica on ${device.name}`, need: "one that was made ready" });
  }

  /** The parameters on a device other than the first. */
  #copyOn(device: Device): DeviceBuffer {
    const { copy } = this.#on(device);
    if (copy !== undefined) return copy;
    throw new InternalError(this.#op, {
      got: `no copy of the parameters on ${device.name}`,
      need: "one, as it is not the first",
    });
  }

  /** Whether nobody has assigned to a parameter since the replicas were brought to the same values. */
  #isCurrent(): boolean {
    const flat = this.#flat;
    return flat !== undefined && flat.node === this.#written && this.layout.areViewsOf(flat);
  }

  /** The parameters are in this buffer from now on; tensors made from the old ones keep those. */
  #show(buffer: DeviceBuffer): void {
    replaceBuffer(this.flat, this.#first, buffer);
    this.#isWritten();
  }

  /** What `#flat` shows now is what all replicas hold: should the first device be lost, it is read from another. */
  #isWritten(): void {
    const { node } = this.flat;
    this.#written = node;
    if (node.op !== "storage") return;
    // The tensors may outlive whatever trains them.
    const weak = new WeakRef(this);
    storageOf(node).spare = (failed) => {
      const replicas = weak.deref();
      return replicas === undefined ? undefined : replicas.#spareOf(node, failed);
    };
  }

  #spareOf(version: Node, failed: ReadonlySet<Device>): Spare | undefined {
    if (version !== this.#written) return undefined;
    for (const [device, { copy }] of this.#replicas) {
      if (copy !== undefined && !device.isLost && !failed.has(device)) return { device, buffer: copy };
    }
    return this.#onHost?.version === version ? { host: this.#onHost.values } : undefined;
  }

  /** The parameters' values, as they are when the promise resolves. */
  async #values(): Promise<Float32Array> {
    const { parameters, offsets, length } = this.layout;
    const values = new Float32Array(length);
    for (;;) {
      const read = this.#versions();
      const data = await Promise.all(parameters.map((parameter, i) => this.#read(parameter, this.#pending[i])));
      const now = this.#versions();
      if (!read.every((version, i) => version === now[i])) continue;
      data.forEach((part, i) => values.set(part, offsets[i]));
      return values;
    }
  }

  /** The values of a parameter. What it is to be computed from is used again where the device is lost that has done so. */
  async #read(parameter: Tensor, pending: Node | undefined): Promise<HostArray> {
    try {
      return await parameter.data();
    } catch (error) {
      const other = this.#devices.find((device) => !device.isLost);
      if (pending === undefined || other === undefined || !(error instanceof DeviceError)) throw error;
      const isSame = parameter.node === pending || parameter.node === recordOf(pending).leaf;
      if (!isSame) throw error;
      const lost = parameter.node;
      const values = await new Tensor(pending, true).to(other).data();
      if (parameter.node === lost) parameter.assign(fromHost(values, parameter.shape, parameter.dtype));
      return values;
    }
  }

  /** What changes when a parameter is assigned to. Of a view it is the vector, as a node of its own would hold that. */
  #versions(): Node[] {
    return this.layout.parameters.map((parameter) => (parameter.alias?.base ?? parameter).node);
  }

  #allocate(device: Device): void {
    const buffers: DeviceBuffer[] = [];
    const hold = (values: Float32Array | Uint32Array): DeviceBuffer => {
      const buffer = device.alloc(Math.max(4, values.byteLength));
      device.write(buffer, values);
      buffers.push(buffer);
      return buffer;
    };
    this.#owned.set(device, buffers);
    const zeros = new Float32Array(this.layout.length);
    this.#replicas.set(device, {
      scalars: hold(firstScalars(this.#rule)),
      faults: hold(noFaults),
      slots: this.#rule.slots.map(() => hold(zeros)),
      copy: device === this.#devices[0] ? undefined : hold(zeros),
    });
  }

  #checksummer(device: Device): Checksummer {
    let checksummer = this.#checksummers.get(device);
    if (checksummer === undefined) {
      this.#checksummers.set(device, checksummer = new Checksummer(device, this.layout.length));
    }
    return checksummer;
  }
}

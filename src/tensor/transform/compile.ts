/** Functions of tensors, traced once and replayed. */
import type { CompileRequest } from "../../compiler/compile.ts";
import type { Plan } from "../../compiler/plan/plan.ts";
import { defaultDevice } from "../../devices/default.ts";
import type { Device, DeviceBuffer, Executable } from "../../devices/device/device.ts";
import { PlanFamily } from "../../devices/device/family.ts";
import { DeviceError, TraceError } from "../../errors.ts";
import { byteLength, storage as leafOf } from "../../graph/build.ts";
import { type Node, toposort } from "../../graph/node.ts";
import { sameShape, type Shape, size } from "../../graph/shape.ts";
import { callable } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { realizeNow } from "../eager/evaluate.ts";
import { refuseInTrace } from "../eager/frame.ts";
import { differing, type FamilyOptions, planInFamily } from "../eager/lengths.ts";
import { allocate, bring } from "../eager/memory.ts";
import { areModes, type Modes } from "../eager/mode.ts";
import { compute, exclusively, requireDevice } from "../eager/realize.ts";
import { requireConcrete, sharedLeaf, storageOf, valueOf } from "../eager/record.ts";
import { nextKey } from "../eager/seed.ts";
import { Storage } from "../eager/storage.ts";
import { mayOverwrite } from "../runtime.ts";
import { Tensor } from "../tensor.ts";
import { placeholder, refusePromise, trace } from "./trace.ts";
import { flattenTree, type FlatTree } from "./tree.ts";

/** Signatures that one compiled function keeps. */
const mostSignatures = 256;

const signature = takes("compile", { fn: callable });

/**
 * A function that does what `fn` does as one plan. `fn` takes trees of tensors and plain values, and returns one; it
 * is traced once for each signature: shapes and dtypes of the tensors, the plain values themselves, and the modes of the
 * modules that it runs (`train()`, `eval()`) at the time of the call are part of it. Tensors that it uses from outside
 * are arguments too, read when the call's turn comes; what it assigns to them is written in place where nothing else
 * needs the old value. What it assigns to an argument, the caller's tensor shows. Random ops draw anew in every call.
 * Calls run one after the other.
 * Rejects with TraceError when `fn` reads a value or is asynchronous, and with whatever `fn` throws while it is
 * traced.
 */
export function compile<Arguments extends unknown[], Result>(
  fn: (...args: Arguments) => Result,
): (...args: Arguments) => Promise<Result> {
  signature.check(arguments);
  const traces = new Map<string, CompiledTrace>();
  const family = new PlanFamily();
  /** The first graph, and the shapes of its arguments: where later ones differ, kernels are made for any length. */
  let first: { readonly request: CompileRequest; readonly shapes: readonly Shape[] } | undefined;
  return async (...args) => {
    refuseInTrace("compile");
    const flat = flattenTree("compile", args, { statics: true });
    const leaves = flat.leaves.map((leaf) => leaf.node);
    leaves.forEach((node) => requireConcrete("compile", node));
    const signature = `${flat.key};${leaves.map((node) => `${node.dtype}[${node.shape}]`).join()}`;
    let key = signature;
    let compiled = traces.get(key);
    // What modes count is known of a trace only: those of one signature are looked through.
    for (let other = 1; compiled !== undefined && !areModes(compiled.modes); other++) {
      key = `${signature};${other}`;
      compiled = traces.get(key);
    }
    if (compiled === undefined) {
      const shapes = leaves.map((node) => node.shape);
      const others = first && { request: first.request, lengths: differing(shapes, first.shapes) };
      compiled = new CompiledTrace(flat, (placeholders) => fn(...flat.rebuild(placeholders) as Arguments), {
        family,
        others,
      });
      first ??= { request: compiled.request, shapes };
      for (const [oldest, trace] of traces) {
        if (traces.size < mostSignatures) break;
        traces.delete(oldest);
        trace.release();
      }
      traces.set(key, compiled);
    }
    // Handles of its own keep the arguments' values, whatever is assigned before the call's turn comes.
    const held = leaves.map((node) => new Tensor(node, true));
    const { run } = compiled;
    try {
      return await exclusively(() => run(held, flat.leaves)) as Result;
    } finally {
      held.forEach((handle) => handle.dispose());
    }
  };
}

/** Where a value of a replay comes from: a root of the plan, or an input as it is. */
type Source = { readonly kind: "root" | "input"; readonly index: number };

/** What is assigned to a captured tensor, or to the argument of that number. */
interface Assignment {
  readonly target: Tensor | number;
  readonly source: Source;
}

/** A root that may be written over the captured tensor that it is assigned to. */
interface Donation {
  readonly input: number;
  readonly output: number;
  readonly tensor: Tensor;
}

/** What a device needs to replay. */
interface Loaded {
  readonly executable: Executable;
  /** The words of the random key, written before every run. */
  readonly key: DeviceBuffer | undefined;
}

/** One signature of a compiled function. */
export class CompiledTrace {
  readonly #argumentCount: number;
  readonly #argumentPaths: readonly string[];
  /** Tensors from outside that the function uses. */
  readonly captured: readonly Tensor[];
  /** Modes of modules that it ran. */
  readonly modes: Modes;
  /** Placeholders of the arguments, the captured tensors, and the random key. */
  readonly #inputs: readonly Node[];
  readonly #usesRandom: boolean;
  readonly #roots: readonly Node[];
  readonly #results: readonly Source[];
  readonly #assignments: readonly Assignment[];
  readonly #donations: readonly Donation[];
  readonly #result: FlatTree;
  readonly #loaded = new Map<Device, Promise<Loaded>>();
  readonly #shapes: FamilyOptions;

  constructor(flat: FlatTree, fn: (placeholders: readonly Tensor[]) => unknown, shapes: FamilyOptions = {}) {
    this.#shapes = shapes;
    const args = flat.leaves.map((leaf) => placeholder(leaf.shape, leaf.dtype));
    const key = placeholder([2], "u32");
    const traced = trace(() => {
      const value = fn(args);
      refusePromise("compile", value);
      const result = flattenTree("compile", value, { statics: true });
      // Inside the trace, a tensor from outside is its placeholder, or what was assigned to it.
      return { result, nodes: result.leaves.map((leaf) => leaf.node) };
    }, { random: { key } });
    this.#result = traced.result.result;
    this.#argumentCount = args.length;
    this.#argumentPaths = flat.paths;
    this.captured = traced.captures.map((capture) => capture.tensor);
    this.modes = traced.modes;
    this.#usesRandom = traced.randomCalls > 0;
    this.#inputs = [
      ...args.map((arg) => arg.node),
      ...traced.captures.map((capture) => capture.placeholder),
      ...(this.#usesRandom ? [key.node] : []),
    ];
    const inputOf = new Map(this.#inputs.map((node, index) => [node, index]));
    const rootOf = new Map<Node, number>();
    const sourceOf = (of: Node): Source => {
      const node = shown(of);
      const input = inputOf.get(node);
      if (input !== undefined) return { kind: "input", index: input };
      if (!rootOf.has(node)) rootOf.set(node, rootOf.size);
      return { kind: "root", index: rootOf.get(node)! };
    };
    this.#results = traced.result.nodes.map(sourceOf);
    this.#assignments = [...traced.assignments].map(([tensor, node]) => {
      const argument = args.indexOf(tensor);
      return { target: argument === -1 ? tensor : argument, source: sourceOf(node) };
    });
    this.#roots = [...rootOf.keys()];
    refuseStrangers(this.#roots, inputOf);
    this.#donations = this.#donationsOf();
  }

  /** The graph that is compiled. */
  get request(): CompileRequest {
    return { roots: this.#roots, inputs: this.#inputs, donate: this.#donations };
  }

  /** What an input of the graph is, as in `argument 0`, `argument 1.labels` or `captured 2`. */
  inputName(index: number): string {
    const path = this.#argumentPaths[index];
    if (path !== undefined) return `argument ${path.replace(/^\[(\d+)\]/, "$1")}`;
    const capture = index - this.#argumentCount;
    return capture < this.captured.length ? `captured ${capture}` : "random key";
  }

  /** What becomes of a root of the graph, as in `result`, `result.loss` or `new captured 2`. */
  rootName(index: number): string {
    const isRoot = (source: Source) => source.kind === "root" && source.index === index;
    const result = this.#results.findIndex(isRoot);
    if (result >= 0) {
      const path = this.#result.paths[result]!;
      return path === "" || path.startsWith("[") ? `result${path}` : `result.${path}`;
    }
    const { target } = this.#assignments.find(({ source }) => isRoot(source))!;
    return `new ${
      this.inputName(typeof target === "number" ? target : this.#argumentCount + this.captured.indexOf(target))
    }`;
  }

  #donationsOf(): Donation[] {
    // An input that goes out as it is must not be written over.
    const passed = new Set(
      [...this.#results, ...this.#assignments.map(({ source }) => source)]
        .filter((source) => source.kind === "input").map((source) => source.index),
    );
    const donated = new Set<number>();
    const donations: Donation[] = [];
    for (const { target: tensor, source } of this.#assignments) {
      if (typeof tensor === "number") continue;
      const capture = this.captured.indexOf(tensor);
      const input = this.#argumentCount + capture;
      if (
        capture === -1 || source.kind !== "root" || passed.has(input) || donated.has(source.index) || tensor.size === 0
      ) continue;
      donated.add(source.index);
      donations.push({ input, output: source.index, tensor });
    }
    return donations;
  }

  /**
   * One call: with the values of the arguments, and the caller's own tensors, which may be assigned to. To be run
   * inside `exclusively`.
   */
  readonly run = async (args: readonly Tensor[], own: readonly Tensor[]): Promise<unknown> => {
    if (args.some((arg) => arg.isPending)) {
      await compute(args.map((arg) => arg.node));
      // The caller's own handles keep what was computed: the next call has it.
      for (const arg of [...args, ...own]) arg.settle();
    }
    if (this.captured.some((tensor) => tensor.isPending)) await realizeNow(this.captured);
    const given = [...args, ...this.captured];
    const { device, id } = await placeOf(given);
    const loaded = await this.#load(device);
    const passed = given.map((tensor) => valueOf(tensor.node)!);
    const inputs: DeviceBuffer[] = [];
    for (const leaf of passed) inputs.push(await bring(storageOf(leaf), device));
    if (loaded.key !== undefined) {
      device.write(loaded.key, nextKey());
      inputs.push(loaded.key);
    }
    const outputs: DeviceBuffer[] = [];
    const fresh: DeviceBuffer[] = [];
    const inPlace = new Map<number, Tensor>();
    try {
      const donated = new Set(this.#donations.map(({ output }) => output));
      for (let i = 0; i < this.#roots.length; i++) {
        if (!donated.has(i)) fresh.push(outputs[i] = await allocate(device, byteLength(this.#roots[i]!)));
      }
      // Whoever needs an old value may have come while this waited: nothing waits between the last look and the run.
      const mayStand = ({ input, tensor }: Donation) =>
        valueOf(tensor.node) === passed[input] && mayOverwrite(tensor, device);
      for (let needed: readonly Donation[] = this.#donations; needed.length > 0;) {
        needed = this.#donations.filter((donation) => outputs[donation.output] === undefined && !mayStand(donation));
        for (const { input, output } of needed) {
          fresh.push(
            inputs[input] = outputs[output] = await copyOf(device, inputs[input]!, byteLength(this.#inputs[input]!)),
          );
        }
      }
      for (const { input, output, tensor } of this.#donations) {
        if (outputs[output] !== undefined) continue;
        inPlace.set(output, tensor);
        outputs[output] = inputs[input]!;
      }
      device.run(loaded.executable, inputs, outputs);
    } catch (error) {
      fresh.forEach((buffer) => device.free(buffer));
      throw error;
    }
    const values = this.#roots.map((root, i) => {
      const overwritten = inPlace.get(i);
      const storage = overwritten === undefined
        ? Storage.ofBuffer(device, outputs[i]!, root.dtype, size(root.shape))
        : storageOf(valueOf(overwritten.node)!).overwrite(device);
      return leafOf(storage, root.shape, root.dtype, id);
    });
    const taken = new Set<Node>();
    // Every tensor is a variable of its own, also where several show one value.
    const pick = ({ kind, index }: Source): Node => {
      const leaf = (kind === "root" ? values : passed)[index]!;
      if (kind === "input" || taken.has(leaf)) return sharedLeaf(leaf);
      taken.add(leaf);
      return leaf;
    };
    const results = this.#results.map((source) => new Tensor(pick(source), true));
    const assigned = this.#assignments.map(({ source }) => pick(source));
    this.#assignments.forEach(({ target }, i) =>
      (typeof target === "number" ? own[target]! : target).bind(assigned[i]!)
    );
    return this.#result.rebuild(results);
  };

  #load(device: Device): Promise<Loaded> {
    const known = this.#loaded.get(device);
    if (known !== undefined) return known;
    const loading = (async (): Promise<Loaded> => {
      const executable = await device.load(
        planInFamily(this.request, device.target, this.#shapes),
        1,
        this.#shapes.family,
      );
      return { executable, key: this.#usesRandom ? device.alloc(8) : undefined };
    })();
    this.#loaded.set(device, loading);
    loading.catch(() => this.#loaded.delete(device));
    return loading;
  }

  /** Gives back what the devices hold for this trace. */
  release(): void {
    for (const [device, loading] of this.#loaded) {
      exclusively(async () => {
        const { executable, key } = await loading;
        executable.release();
        if (key !== undefined) device.free(key);
      }).catch(() => undefined);
    }
    this.#loaded.clear();
  }
}

/** The node of which another only is the same value. */
function shown(node: Node): Node {
  let x = node;
  while (x.op === "stopGradient" || (x.op === "reshape" && sameShape(x.shape, x.src[0]!.shape))) x = x.src[0]!;
  return x;
}

/** Throws TraceError when a graph reads a placeholder of another trace, or moves between devices. */
function refuseStrangers(roots: readonly Node[], inputs: ReadonlyMap<Node, number>): void {
  for (const node of toposort(roots)) {
    if (node.op === "input" && !inputs.has(node)) {
      throw new TraceError("compile", {
        got: "a tensor that was made while another function was traced",
        need: "tensors that were returned by it, or that are arguments",
      });
    }
    if (node.op === "copy") {
      throw new TraceError("compile", {
        got: "a move to another device",
        need: "tensors moved before the call, with x.to(device)",
      });
    }
  }
}

/** The one device to which some tensors are bound, else the default one. */
export async function placeOf(tensors: readonly Tensor[]): Promise<{ device: Device; id: number | undefined }> {
  let id: number | undefined;
  for (const tensor of tensors) {
    const own = tensor.node.device;
    if (own !== undefined && id !== undefined && own !== id) {
      throw new DeviceError("compile", {
        got: `tensors on devices ${id} and ${own}`,
        need: "arguments and captured tensors on one device: move them first, with x.to(device)",
      });
    }
    id = own ?? id;
  }
  return { device: id === undefined ? await defaultDevice() : requireDevice("compile", id), id };
}

const copiers = new WeakMap<Device, Map<number, Promise<Executable>>>();

/** A new buffer with the same bytes, copied on the device. */
export async function copyOf(device: Device, buffer: DeviceBuffer, bytes: number): Promise<DeviceBuffer> {
  let ofDevice = copiers.get(device);
  if (ofDevice === undefined) copiers.set(device, ofDevice = new Map());
  let loading = ofDevice.get(bytes);
  if (loading === undefined) {
    const plan: Plan = {
      programs: [],
      steps: [{ kind: "copy", from: 0, to: 1, bytes }],
      slots: [{ bytes }, { bytes }],
      inputs: [0],
      outputs: [1],
      temporaries: [],
    };
    const known = ofDevice;
    known.set(bytes, loading = device.load(plan));
    // Handled here, too: when the device is lost meanwhile, what comes before the wait fails as well.
    loading.catch(() => known.delete(bytes));
  }
  const target = await allocate(device, bytes);
  device.run(await loading, [buffer], [target]);
  return target;
}

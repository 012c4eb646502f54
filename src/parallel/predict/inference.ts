/** Runs a function of a batch on shards of it, on many devices, and merges what it gives. */
import type { Device, DeviceBuffer } from "../../devices/device/device.ts";
import { ArgumentError, DecompositionError, InternalError } from "../../errors.ts";
import type { DType, HostArray } from "../../graph/dtype.ts";
import { type Shape, size } from "../../graph/shape.ts";
import { asWords, bytesOf, fromWords, hostElements } from "../../graph/words.ts";
import { concat } from "../../tensor/create.ts";
import type { Modes } from "../../tensor/eager/mode.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { BatchKinds, type Judged } from "../decompose/batch-kinds.ts";
import { type HostOutput, type OutputTree, outputTree } from "../decompose/output-tree.ts";
import { judgeShards, traceShard } from "../decompose/shard-trace.ts";
import type { Spread } from "../decompose/spread.ts";
import { collectivesIn } from "../decompose/stages.ts";
import type { Fleet, Placed } from "../run/fleet.ts";
import type { Placement } from "../run/placement.ts";
import { BatchRun, type Group } from "../run/batch-run.ts";
import { GraphCache } from "../run/shared-graph.ts";
import { StagedGraph } from "../run/staged-graph.ts";
import { areUneven, bindCaptures, GivenBatch, type HostFields, type Shard } from "../run/uploads.ts";
import { Held } from "../split/held.ts";
import type { Batch, Fields } from "../split/host-batch.ts";

export interface InferenceOptions {
  readonly fleet: Fleet;
  /** How the rows are cut over the devices. */
  readonly placement: Placement;
  /** Buffers of captured tensors that a device keeps already. */
  readonly own?: (tensor: Tensor, device: Device) => DeviceBuffer | undefined;
  readonly seed?: number | undefined;
  /** Modes in which the function is traced, whatever they are outside. */
  readonly modes?: (() => Modes) | undefined;
}

export interface RunOptions {
  /** At most so many rows are on the devices at one time. Default: all. */
  readonly rowsAtOnce?: number | undefined;
  /** What the tensors that the function captures are to be. Default: what they are when the run begins. */
  readonly held?: Held | undefined;
}

/** Throws ArgumentError unless a number of rows is a whole number of at least 1, or Infinity. */
export function requireRowsAtOnce(op: string, rowsAtOnce: number): void {
  if (rowsAtOnce >= 1 && (Number.isInteger(rowsAtOnce) || rowsAtOnce === Infinity)) return;
  throw new ArgumentError(op, { got: `rowsAtOnce ${rowsAtOnce}`, need: "a whole number of at least 1" });
}

/** How an output of the function becomes one of the whole. */
interface Merge {
  readonly spread: Spread;
  readonly dtype: DType;
  /** Its shape in a trace; the axis of rows of the whole is as long as that has rows. */
  readonly shape: Shape;
}

/** What computes the outputs of a shard. */
interface OutputGraph {
  readonly graph: StagedGraph;
  readonly captures: readonly { readonly tensor: Tensor }[];
  /** Shape and dtype of each output of the shard. */
  readonly outputs: readonly { readonly shape: Shape; readonly dtype: DType }[];
  /** Bytes of each packed root; see `packed`. */
  readonly bytes: readonly number[];
}

/** How outputs become those of the whole batch. */
interface Merging {
  readonly tree: OutputTree;
  readonly merges: readonly Merge[];
  readonly collectives: { readonly any: boolean; readonly total: boolean };
}

/** Rows that are on the devices at one time: their shards, with the graph of each. */
interface Part {
  readonly shards: readonly Placed<Shard>[];
  graphOf(shard: Shard): OutputGraph;
}

/** What a shard gave. */
interface ShardValues {
  readonly shard: Shard;
  readonly shapes: readonly Shape[];
  readonly values: readonly HostArray[];
}

/** A function of a batch, given device-less placeholders, that returns tensors in records and arrays. */
export class Inference {
  readonly #op: string;
  readonly #fn: (batch: unknown) => unknown;
  readonly #options: InferenceOptions;
  readonly #graphs: GraphCache<OutputGraph>;
  readonly #kinds: BatchKinds<Merging>;

  constructor(op: string, fn: (batch: unknown) => unknown, options: InferenceOptions) {
    this.#op = op;
    this.#fn = fn;
    this.#options = options;
    this.#graphs = new GraphCache({ family: options.fleet.family });
    this.#kinds = new BatchKinds((fields) => this.#judge(fields), options.modes);
  }

  /**
   * The outputs for all rows of the batch, in its structure: rows in order, declared means combined by
   * weight, sums over rows added, everything else as it is; each made by `make`. Batch, modes and captured tensors are
   * as they are at the call, from the first row to the last.
   */
  async run<L>(
    batch: Batch | GivenBatch,
    make: (output: HostOutput) => L,
    { rowsAtOnce = Infinity, held }: RunOptions = {},
  ): Promise<unknown> {
    // Nothing waits before all is traced and held.
    const given = GivenBatch.of(this.#op, batch);
    const { value: { tree, merges, collectives }, fields } = this.#kinds.of(given.fields);
    const { rows } = fields;
    if (collectives.any && rows > rowsAtOnce) {
      throw new ArgumentError(this.#op, {
        got: `${rows} rows, ${rowsAtOnce} at once, of a function with a collective over the batch`,
        need: "all rows of the batch at once, as that is what the collective is over: a larger rowsAtOnce",
      });
    }
    const parts: Part[] = [];
    for (let first = 0; first === 0 || first < rows; first += rowsAtOnce) {
      parts.push(this.#part(fields, first, Math.min(rowsAtOnce, rows - first), collectives.total));
    }
    const captured = held ?? new Held();
    try {
      for (const { shards, graphOf } of parts) {
        for (const { job } of shards) for (const { tensor } of graphOf(job).captures) captured.take(tensor);
      }
      const onHost = await given.onHost(fields);
      const outputs = merges.map((merge) => new Merged(merge, rows));
      for (const part of parts) {
        for (const { values, shapes, shard } of await this.#runShards(onHost, part, captured)) {
          values.forEach((of, i) => outputs[i]!.take(of, shapes[i]!, shard));
        }
      }
      return tree.rebuild(outputs.map((output) => output.host()), make);
    } finally {
      if (held === undefined) captured.release();
    }
  }

  async release(): Promise<void> {
    await this.#graphs.release();
  }

  #judge(fields: Fields): Judged<Merging> {
    const judgement = judgeShards(this.#op, fields, (batch) => outputTree(this.#op, this.#fn(batch)));
    const tree = judgement.result;
    if (judgement.assignments.length > 0) {
      throw new ArgumentError(this.#op, {
        got: "a function that assigns to a tensor",
        need: "one that only returns values: state is updated by training steps",
      });
    }
    const merges = tree.leaves.map((leaf, i): Merge => {
      const spread = judgement.of((result) => result.leaves[i]!);
      if (spread.kind === "shard" || (spread.kind === "batched" && spread.outer !== 1)) {
        throw new DecompositionError(this.#op, {
          got: `an output ${tree.paths[i]} that ${
            spread.kind === "shard" ? `is ${spread.what}` : "has rows in several blocks of one axis"
          }`,
          need:
            "values of each row, parallel.mean(x) for a mean over rows, a sum over rows, or parallel.allReduce for more",
        });
      }
      return {
        spread,
        dtype: leaf.dtype,
        shape: leaf.shape,
      };
    });
    const collectives = collectivesIn(tree.leaves.map((leaf) => leaf.node));
    return { value: { tree, merges, collectives }, modes: judgement.modes };
  }

  /**
   * Rows `first` to `first + rows - 1`, cut over all devices. A batch of no rows is run as one row of zeros.
   */
  #part(fields: Fields, first: number, rows: number, dependsOnTotal: boolean): Part {
    const { fleet, placement } = this.#options;
    const devices = fleet.present;
    const placed = placement.place(rows, devices);
    if (placed.length === 0) placed.push({ device: devices[0]!, job: { index: 0, offset: 0, rows: 0 } });
    const shards = placed.map(({ device, job }) => ({ device, job: { ...job, offset: first + job.offset } }));
    const uneven = areUneven(shards.map(({ job }) => job));
    const total = dependsOnTotal ? Math.max(1, rows) : undefined;
    const graphs = new Map(
      shards.map(({ job }) => [job, this.#graphFor(fields, Math.max(1, job.rows), total, uneven)]),
    );
    return { shards, graphOf: (shard) => graphs.get(shard)! };
  }

  async #runShards(fields: HostFields, { shards, graphOf }: Part, held: Held): Promise<ShardValues[]> {
    const { fleet, own = () => undefined, seed = 0 } = this.#options;
    await fleet.prune(0);
    const parts = new Array<ShardValues>(shards.length);
    const prepare = async (device: Device, [shard]: Group) => {
      const prepared = graphOf(shard!);
      const loaded = await prepared.graph.on(device);
      const captured = await bindCaptures(prepared.captures, device, (tensor) => own(tensor, device), held);
      return { ...prepared, loaded, captured };
    };
    const run = new BatchRun(fields, { seed, step: 0, learningRate: 0 });
    const ready = await run.collect(fleet, shards, graphOf(shards[0]!.job).graph.stages.length, prepare);
    await fleet.deliver(ready, 0, prepare, async (device, group, bound) => {
      const [shard] = group as readonly [Shard];
      const outputs = bound.bytes.map((bytes) => device.alloc(Math.max(4, bytes)));
      const words = bound.bytes.map((bytes) => new Uint32Array(bytes / 4));
      fleet.enter(device, "compute");
      const reads = run.finish(device, group, bound, outputs, words.map((into, output) => ({ output, into })));
      await Promise.all(reads).finally(() => {
        if (!device.isLost) { for (const buffer of outputs) device.free(buffer); }
      });
      parts[shard.index] = {
        shard,
        shapes: bound.outputs.map((output) => output.shape),
        values: unpacked(bound, words.map(({ buffer }) => buffer)),
      };
    }).finally(() => run.release());
    return parts;
  }

  #graphFor(fields: Fields, rows: number, total: number | undefined, uneven: boolean): OutputGraph {
    return this.#graphs.get(`${rows} ${total} ${fields.signature}`, (family) => {
      const traced = traceShard(fields, rows, (batch) => {
        const tree = outputTree(this.#op, this.#fn(batch));
        return { leaves: tree.leaves, roots: packed(tree.leaves) };
      }, total);
      const own = [...traced.inputs.fields, traced.inputs.control].map((x) => x.node);
      const captured = traced.captures.map((capture) => capture.placeholder);
      const { leaves, roots } = traced.result;
      return {
        graph: new StagedGraph(roots.map((root) => root.node), own, captured, { family }),
        captures: traced.captures.map(({ tensor }) => ({ tensor })),
        outputs: leaves.map(({ shape, dtype }) => ({ shape, dtype })),
        bytes: roots.map((root) => bytesOf(root.dtype, root.size)),
      };
    }, { rows, uneven });
  }
}

/** The leaves of each dtype laid end to end, so that a shard is read with one copy for each. */
function packed(leaves: readonly Tensor[]): Tensor[] {
  return dtypesOf(leaves).map((dtype) => {
    return concat(leaves.filter((leaf) => leaf.dtype === dtype).map((leaf) => leaf.reshape([leaf.size])), {
      axis: 0,
    });
  });
}

function dtypesOf(leaves: readonly { readonly dtype: DType }[]): DType[] {
  return [...new Set(leaves.map((leaf) => leaf.dtype))];
}

function unpacked({ outputs }: OutputGraph, bytes: readonly ArrayBuffer[]): HostArray[] {
  const kinds = dtypesOf(outputs);
  const used = kinds.map(() => 0);
  return outputs.map(({ shape, dtype }) => {
    const kind = kinds.indexOf(dtype);
    const length = size(shape);
    const from = used[kind]!;
    used[kind] = from + length;
    return fromWords(dtype, asWords(dtype, bytes[kind]!).subarray(from), length);
  });
}

/** One output of the whole batch, filled shard by shard. */
class Merged {
  readonly #spread: Spread;
  readonly #rows: number;
  readonly #shape: Shape;
  #values: HostArray | Float64Array | undefined;
  readonly #dtype: DType;

  constructor({ spread, shape, dtype }: Merge, rows: number) {
    this.#spread = spread;
    this.#rows = rows;
    this.#dtype = dtype;
    this.#shape = spread.kind === "batched"
      ? shape.map((n, axis) => axis === spread.axis ? rows * spread.inner : n)
      : shape;
  }

  take(values: HostArray, shape: Shape, shard: Shard): void {
    const spread = this.#spread;
    switch (spread.kind) {
      case "replicated":
        this.#values ??= values;
        return;
      case "partial": {
        this.#values ??= new Float64Array(values.length);
        if (shard.rows > 0) { for (let i = 0; i < values.length; i++) this.#values[i]! += values[i]!; }
        return;
      }
      case "batched": {
        this.#values ??= new (values.constructor as new (length: number) => HostArray)(size(this.#shape));
        const after = size(shape.slice(spread.axis + 1)) * spread.inner;
        const before = size(shape.slice(0, spread.axis));
        const part = shard.rows * after;
        for (let b = 0; b < before && part > 0; b++) {
          this.#values.set(
            values.subarray(b * part, (b + 1) * part),
            (b * this.#rows + shard.offset) * after,
          );
        }
        return;
      }
      case "shard":
        throw new InternalError("parallel", {
          got: "an output that depends on the shard",
          need: "an error before it was run",
        });
    }
  }

  host(): HostOutput {
    return {
      values: hostElements(this.#dtype, this.#values ?? []),
      shape: this.#shape,
      dtype: this.#dtype,
    };
  }
}

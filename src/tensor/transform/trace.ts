/** Tracing: what a function computes, as a graph of placeholders. */
import { TraceError } from "../../errors.ts";
import { input } from "../../graph/build.ts";
import type { DType } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import type { Shape } from "../../graph/shape.ts";
import { Frame, type FrameShard, isTracing, within } from "../eager/frame.ts";
import { Mode, type Modes } from "../eager/mode.ts";
import { isTensor, Tensor } from "../tensor.ts";

export { isTracing };

/** A tensor from outside that a traced function reads, and the placeholder that stands for it in the graph. */
export interface Capture {
  readonly tensor: Tensor;
  readonly placeholder: Node;
}

/** What a function gave while it was traced. */
export interface Traced<R> {
  readonly result: R;
  /** In the order of their first use. */
  readonly captures: readonly Capture[];
  /** Tensors from outside that it assigned to, with their new values. */
  readonly assignments: ReadonlyMap<Tensor, Node>;
  /** Random ops in it. */
  readonly randomCalls: number;
  /** Modes that were not given to it, as it found them: for other ones it is another trace. */
  readonly modes: Modes;
}

/** Where random ops inside a trace get their bits. */
export interface TraceRandom {
  /** u32 [2]: seed and step. */
  readonly key: Tensor;
  /**
   * For random values like `like`: u32 [n], the index of each of its rows in the whole batch, and the axis of the rows;
   * undefined where `like` has no rows.
   */
  readonly sampleIndex?: (like: Node) => { readonly index: Node; readonly axis: number } | undefined;
}

/**
 * Runs `fn` once and records what it computes. Tensors from outside become placeholders, assignments to them are
 * noted and not made. Reading a value inside throws TraceError, as does a function that is asynchronous. What `fn`
 * throws goes through, and nothing of the trace stays. Without `random`, random ops draw as they do outside a trace,
 * once for all replays. `modes` hold inside, whatever they are outside.
 */
export function trace<R>(
  fn: () => R,
  options: { readonly random?: TraceRandom; readonly shard?: FrameShard; readonly modes?: Modes | undefined } = {},
): Traced<R> {
  const frame = new Frame(options.random, options.shard, options.modes);
  const result = within(frame, fn);
  refusePromise("trace", result);
  const captures: Capture[] = [];
  for (const [tensor, placeholder] of frame.captures) if (isTensor(tensor)) captures.push({ tensor, placeholder });
  const assignments = new Map<Tensor, Node>();
  for (const [tensor, node] of frame.assignments) if (isTensor(tensor)) assignments.set(tensor, node);
  const modes = new Map<Mode, boolean>();
  for (const [mode, on] of frame.consulted) if (mode instanceof Mode) modes.set(mode, on);
  return { result, captures, assignments, randomCalls: frame.randomCalls, modes };
}

/** Throws TraceError for the result of an asynchronous function. */
export function refusePromise(op: string, result: unknown): void {
  if (!(result instanceof Promise)) return;
  result.catch(() => undefined);
  throw new TraceError(op, {
    got: "a function that returns a promise",
    need: "a synchronous function: await what it needs before it is called",
  });
}

/** A tensor whose value is given when a plan runs. */
export function placeholder(shape: Shape, dtype: DType): Tensor {
  return new Tensor(input(shape, dtype));
}

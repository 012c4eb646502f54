/** What happens while a function is traced. Knows tensors only as handles, so that tensors can know it. */
import { TraceError } from "../../errors.ts";
import * as build from "../../graph/build.ts";
import type { DType } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import type { Shape } from "../../graph/shape.ts";
import { recordOf } from "./record.ts";

/** A tensor, as a trace sees it. */
export interface Handle {
  readonly shape: Shape;
  readonly dtype: DType;
}

/** Where the random ops of a trace get their key, and what they number. */
export interface FrameRandom {
  /** u32 [2]: seed and step. */
  readonly key: { readonly node: Node };
  /** The index of each row of `like` in the whole batch, u32 [n], and the axis of rows; undefined where it has none. */
  readonly sampleIndex?: (like: Node) => { readonly index: Node; readonly axis: number } | undefined;
}

/** The part of a batch that a trace computes. */
export interface FrameShard {
  /** Rows of this part, and of the whole batch. */
  readonly rows: number;
  readonly total: number;
  /** The index of each row in the whole batch, u32 [rows]. */
  rowIndex(): Node;
}

/** One trace in progress. */
export class Frame {
  /** Tensors from outside, with the placeholders that stand for them. */
  readonly captures = new Map<Handle, Node>();
  /** Tensors from outside that the function assigned to, with their new values. */
  readonly assignments = new Map<Handle, Node>();
  readonly random: FrameRandom | undefined;
  readonly shard: FrameShard | undefined;
  /** Modes that are given to the trace or were set in it, by what has them; see mode.ts. */
  readonly modes: Map<object, boolean>;
  /** Modes that it found outside. */
  readonly consulted = new Map<object, boolean>();
  /** Random ops so far. */
  randomCalls = 0;

  constructor(random: FrameRandom | undefined, shard?: FrameShard, modes: Iterable<readonly [object, boolean]> = []) {
    this.random = random;
    this.shard = shard;
    this.modes = new Map(modes);
  }

  /** What a tensor from outside is in this trace. */
  valueOf(handle: Handle): Node {
    let node = this.assignments.get(handle) ?? this.captures.get(handle);
    if (node === undefined) {
      this.captures.set(handle, node = build.input(handle.shape, handle.dtype));
      recordOf(node).shown = true;
    }
    return node;
  }

  /** A tensor from outside is this node from now on. */
  assign(handle: Handle, node: Node): void {
    this.assignments.set(handle, node);
    recordOf(node).shown = true;
  }
}

const frames: Frame[] = [];

/** The innermost trace in progress. */
export function currentFrame(): Frame | undefined {
  return frames[frames.length - 1];
}

/** Whether a function is being traced. */
export function isTracing(): boolean {
  return frames.length > 0;
}

/** Runs `body` inside a frame. What it throws goes through; the frame is gone either way. */
export function within<R>(frame: Frame, body: () => R): R {
  frames.push(frame);
  try {
    return body();
  } finally {
    frames.pop();
  }
}

/** Throws TraceError inside a trace, where no value exists. */
export function refuseInTrace(op: string): void {
  if (!isTracing()) return;
  throw new TraceError(op, {
    got: "a call while a function is traced",
    need: "no value yet: return the tensor, and read what the function gives",
  });
}

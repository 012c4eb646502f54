/** What a function of tensors becomes: its kernels, and the lines of the program that each of them computes. */
import { compileGraph, type PlanNodes } from "../../compiler/compile.ts";
import type { Program } from "../../compiler/plan/plan.ts";
import { callerOf, withDeepStacks } from "../../debug/caller.ts";
import type { DType } from "../../graph/dtype.ts";
import { type Node, type Purpose, watchNodes } from "../../graph/node.ts";
import { formatShape, type Shape } from "../../graph/shape.ts";
import { isFree, kernelOf } from "../../graph/structural.ts";
import { anything, callable, rest } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";
import { refuseInTrace } from "../eager/frame.ts";
import { CompiledTrace, placeOf } from "../transform/compile.ts";
import { flattenTree, type FlatTree } from "../transform/tree.ts";

/** An op that a kernel computes. */
export interface ExplainedOp {
  /** As the graph names it, as in `mul` or `sum`. */
  readonly op: string;
  /** The shape of its result. */
  readonly shape: Shape;
  /** The dtype of its result. */
  readonly dtype: DType;
  /** `path:line` of the call that made it; of the call that it is derived from, where `grad` or the compiler made it. */
  readonly line: string | undefined;
  /** Whether `grad` made it, for the call at that line. */
  readonly backward: boolean;
}

/** A value in memory that a kernel reads or writes. */
export interface ExplainedBuffer {
  /**
   * `argument 0`, `captured 1` (a tensor from outside, in the order of use), `result`, `new captured 1`, `#3` (what kernel
   * 3 writes), or several of them in brackets, where they lie one after another.
   */
  readonly name: string;
  /** The shape of its value. */
  readonly shape: Shape;
  /** The dtype of its elements. */
  readonly dtype: DType;
}

/** One kernel. */
export interface ExplainedKernel {
  /** As it is named in profiles and traces. */
  readonly name: string;
  /** Of what it writes, the last value where there are several. */
  readonly shape: Shape;
  /** Sources first; what only moves elements, and constants, left out. */
  readonly ops: readonly ExplainedOp[];
  /** What it reads. */
  readonly reads: readonly ExplainedBuffer[];
  /** What it writes. */
  readonly writes: readonly ExplainedBuffer[];
  /** Arithmetic operations, and bytes of its buffers, each counted once, whole. */
  readonly flops: number;
  /** Bytes that it reads and writes. */
  readonly bytes: number;
}

/** What `explain` found. As a string, a listing. */
export class Explanation {
  /** In the order in which they run. */
  readonly kernels: readonly ExplainedKernel[];
  /** The device that they are for, as in `gpu:0`. */
  readonly device: string;
  /** Copies of whole buffers at the end. */
  readonly copies: number;

  /** @internal */
  constructor(device: string, kernels: readonly ExplainedKernel[], copies: number) {
    this.device = device;
    this.kernels = kernels;
    this.copies = copies;
  }

  /** A table for people. */
  toString(): string {
    const folder = commonFolder(this.kernels.flatMap(({ ops }) => ops.flatMap(({ line }) => line ?? [])));
    const flops = this.kernels.reduce((sum, kernel) => sum + kernel.flops, 0);
    const bytes = this.kernels.reduce((sum, kernel) => sum + kernel.bytes, 0);
    const copies = this.copies === 0 ? "" : ` and ${counted(this.copies, "copy", "copies")}`;
    return [
      `${counted(this.kernels.length, "kernel", "kernels")}${copies} on ${this.device}, ${flops} flop, ${bytes} bytes`,
      ...this.kernels.flatMap((kernel, i) => listing(kernel, i, folder)),
    ].join("\n");
  }
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }
}

const signature = takes("explain", { fn: callable, args: rest(anything) });

/**
 * Traces `fn` with such arguments, as `compile` does, and compiles what it computes for the device of the tensors, or the
 * default one. Nothing is run, and what the function assigns is not assigned. Give it the function itself, not what
 * `compile` made of it.
 * Rejects as a call of the compiled function does: with TraceError when `fn` reads a value or is asynchronous.
 */
export async function explain<Arguments extends unknown[]>(
  fn: (...args: Arguments) => unknown,
  ...args: Arguments
): Promise<Explanation> {
  signature.check(arguments);
  refuseInTrace("explain");
  const flat = flattenTree("explain", args, { statics: true });
  const origins = new Origins();
  const traced = origins.ofCalls(() =>
    new CompiledTrace(flat, (placeholders) => fn(...rebuilt<Arguments>(flat, placeholders)))
  );
  const { device } = await placeOf([...flat.leaves, ...traced.captured]);
  let nodes: PlanNodes | undefined;
  const plan = origins.ofRewrites(() => compileGraph(traced.request, device.target, (found) => nodes = found));
  const dispatches = plan.steps.flatMap((step) => step.kind === "dispatch" ? plan.programs[step.program]! : []);
  return new Explanation(
    device.name,
    explained(traced, nodes!, dispatches, origins),
    plan.steps.length - dispatches.length,
  );
}

function rebuilt<Arguments>(flat: FlatTree, leaves: readonly unknown[]): Arguments {
  return flat.rebuild(leaves) as Arguments;
}

/** Where a node comes from. */
interface Origin {
  /** Thrown by nobody: its stack tells. */
  readonly call: Error;
  readonly backward: boolean;
}

/** Where the nodes come from that are made while it watches. Of nodes that are made again, the first call counts. */
class Origins {
  readonly #known = new WeakMap<Node, Origin>();

  /** What `body` gives, which calls ops, or differentiates. */
  ofCalls<T>(body: () => T): T {
    return withDeepStacks(() =>
      this.#watch(body, (node, { node: of, backward }) => {
        const origin = of && this.#known.get(of);
        const found = origin === undefined
          ? { call: new Error(), backward }
          : { call: origin.call, backward: backward || origin.backward };
        this.#known.set(node, found);
      })
    );
  }

  /** What `body` gives, which rewrites a graph. */
  ofRewrites<T>(body: () => T): T {
    return this.#watch(body, (node, { node: of }) => {
      const origin = of && this.#known.get(of);
      if (origin !== undefined) this.#known.set(node, origin);
    });
  }

  lineOf(node: Node): Pick<ExplainedOp, "line" | "backward"> {
    const origin = this.#known.get(node);
    return { line: origin && callerOf(origin.call), backward: origin?.backward ?? false };
  }

  #watch<T>(body: () => T, note: (node: Node, purpose: Purpose) => void): T {
    watchNodes((node, purpose) => {
      if (!this.#known.has(node)) note(node, purpose);
    });
    try {
      return body();
    } finally {
      watchNodes(undefined);
    }
  }
}

function explained(
  traced: CompiledTrace,
  { roots, steps }: PlanNodes,
  programs: readonly Program[],
  origins: Origins,
): ExplainedKernel[] {
  const names = new Map<Node, string>();
  roots.forEach((root, i) => {
    if (!names.has(root)) names.set(root, traced.rootName(i));
    if (kernelOf(root) !== "region") return;
    for (const part of root.src) if (!names.has(part)) names.set(part, `part of ${traced.rootName(i)}`);
  });
  traced.request.inputs.forEach((input, i) => names.set(input, traced.inputName(i)));
  steps.forEach(({ writes }, i) => {
    for (const node of writes) if (!names.has(node)) names.set(node, `#${i}`);
  });
  const nameOf = (node: Node): string =>
    names.get(node) ?? (kernelOf(node) === "region" ? `(${node.src.map(nameOf).join(", ")})` : node.op);
  const buffer = (node: Node): ExplainedBuffer => ({ name: nameOf(node), shape: node.shape, dtype: node.dtype });
  return steps.map(({ computes, reads, writes }, i) => {
    const { name, flops, bytes } = programs[i]!;
    const loud = computes.filter((node) => !isFree(node));
    const ops = (loud.length > 0 ? loud : computes.slice(-1)).map((node): ExplainedOp => ({
      op: node.op,
      shape: node.shape,
      dtype: node.dtype,
      ...origins.lineOf(node),
    }));
    return {
      name,
      shape: writes.at(-1)!.shape,
      ops,
      reads: reads.map(buffer),
      writes: writes.map(buffer),
      flops,
      bytes,
    };
  });
}

function listing(
  { name, shape, ops, reads, writes, flops, bytes }: ExplainedKernel,
  index: number,
  folder: string,
): string[] {
  const spelled = (buffers: readonly ExplainedBuffer[]) =>
    buffers.map((buffer) => `${buffer.name} ${buffer.dtype}${formatShape(buffer.shape)}`).join(", ") || "nothing";
  const byLine = new Map<string, string[]>();
  for (const { op, line, backward } of ops) {
    const place = `${backward ? "backward of " : ""}${line?.slice(folder.length) ?? "(unknown)"}`;
    const list = byLine.get(place);
    if (list === undefined) byLine.set(place, [op]);
    else list.push(op);
  }
  const width = Math.max(...[...byLine.keys()].map((place) => place.length));
  return [
    "",
    `#${index} ${name} ${formatShape(shape)}, ${flops} flop, ${bytes} bytes`,
    `   reads  ${spelled(reads)}`,
    `   writes ${spelled(writes)}`,
    ...[...byLine].map(([place, list]) => `   ${place.padEnd(width)}  ${list.join(" ")}`),
  ];
}

function counted(count: number, one: string, many: string): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** The folder in which all files of these lines are, with the slash at its end. */
function commonFolder(lines: readonly string[]): string {
  const [first = "", ...others] = lines;
  let length = first.lastIndexOf("/") + 1;
  for (const line of others) {
    while (length > 0 && !line.startsWith(first.slice(0, length))) length = first.lastIndexOf("/", length - 2) + 1;
  }
  return first.slice(0, length);
}

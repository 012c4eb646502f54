/**
 * Elements that are computed from the same data: those of a window, of which each has a part (the gradient of pooling), or
 * neighbours that an upsampling made of one. An invocation that computes all of them loads what they share once.
 */
import { size } from "../../graph/shape.ts";
import type { Index, Variable } from "../kernel/index-arithmetic.ts";
import { eachStatement, type KernelIR } from "../kernel/ir.ts";
import type { Target } from "../plan/plan.ts";
import { isGpu, plainTile, type Tile } from "./tile.ts";

/** An invocation computes no more elements than these. */
const mostElements = 32;
/** The longest run of elements along an axis that share what they are made of. */
const longestRun = 4;
/** Blocks that keep a GPU busy. */
const fewestBlocks = 1024;

/** Whether a kernel loads data at quotients of its counters. */
export function readsInParts(ir: KernelIR): boolean {
  let found = false;
  eachLoad(ir, (index) => eachQuotient(index, () => found = true));
  return found;
}

/** The block of elements that share loads in a kernel that was lowered with plainBlock; undefined if there is none. */
export function sharedLoads(
  ir: KernelIR,
  domain: readonly number[],
  target: Pick<Target, "language" | "class">,
): Tile | undefined {
  const runs = new Map<Variable, number>();
  eachLoad(
    ir,
    (index) => eachQuotient(index, (variable, by) => runs.set(variable, Math.max(by, runs.get(variable) ?? 1))),
  );
  const block = ir.parallel.map((variable, axis) => {
    const run = runs.get(variable) ?? 1;
    return run <= longestRun && domain[axis]! % run === 0 ? run : 1;
  });
  if (block.every((length) => length === 1)) return undefined;
  const last = block.length - 1;
  // Vectors are four elements wide.
  if (target.language === "wgsl" && block[last] === 1 && domain[last]! % 4 === 0) block[last] = 4;
  const elements = size(block);
  if (elements > mostElements) return undefined;
  // A GPU wants many invocations, which store neighbours.
  if (isGpu(target) && (size(domain) / elements < fewestBlocks || block[last] === 1)) return undefined;
  return { ...plainTile, walk: { kind: "blocks", block } };
}

/** Loads of an invocation, an aligned group of four counted as one, for each element that it stores. */
export function loadsPerElement(ir: KernelIR): number {
  const loads = new Map<string, number>();
  let stores = 0;
  eachStatement(ir.body, (statement, times) => {
    if (statement.kind === "store") stores += times;
  });
  eachLoad(ir, (index, buffer, times) => {
    const element = ((index.offset % 4) + 4) % 4;
    loads.set(
      `${buffer}:${index.terms.map(({ atom, coefficient }) => `${coefficient}*${atom.key}`).join("+")}+${
        index.offset - element
      }`,
      times,
    );
  });
  return [...loads.values()].reduce((a, b) => a + b, 0) / stores;
}

function eachLoad(ir: KernelIR, visit: (index: Index, buffer: number, times: number) => void): void {
  eachStatement(ir.body, (statement, times) => {
    if (statement.kind === "let" && statement.expr.kind === "load") {
      visit(statement.expr.index, statement.expr.buffer, times);
    }
  });
}

/** Visits the counters that an index divides, with the divisor. */
function eachQuotient({ terms }: Index, visit: (variable: Variable, by: number) => void): void {
  for (const { atom } of terms) {
    if (atom.kind === "variable" || atom.kind === "value") continue;
    const [only] = atom.of.terms;
    if (
      atom.kind === "div" && atom.of.terms.length === 1 && only!.coefficient === 1 && only!.atom.kind === "variable"
    ) visit(only!.atom.variable, atom.by);
    else eachQuotient(atom.of, visit);
  }
}

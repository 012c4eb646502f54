/** What a kernel has written, compared with what the same kernel in JavaScript makes of the same buffers. */
import type { Program } from "../../compiler/plan/plan.ts";
import { InternalError } from "../../errors.ts";
import { type DType, isFloat } from "../../graph/dtype.ts";
import { fromWords, type Words } from "../../graph/words.ts";
import { partOfItem } from "./bind.ts";

type Reference = (buffers: readonly Words[], begin: number, end: number) => void;

/** A dispatch of a program that has a reference. */
export interface Dispatched {
  readonly program: Program;
  /** The name of the device. */
  readonly device: string;
  readonly items: number;
  /** For each binding, what it held before; the reference writes into it. */
  readonly before: readonly Words[];
  /** For each binding that is written, what it holds now. */
  readonly after: readonly (Words | undefined)[];
}

/** A reference that does not run, or what it made that the kernel did not. */
export interface Disagreement {
  readonly found: "difference" | "error";
  readonly error: InternalError;
}

/** The references of a device's programs, compiled. */
export class References {
  readonly #known = new WeakMap<Program, Reference>();

  /** Runs the reference and compares all that is written, of whole blocks: so stores beyond the end are found. */
  compare({ program, device, items, before, after }: Dispatched): Disagreement | undefined {
    const { bindings, name, reference, strides } = program;
    if (reference === undefined) return undefined;
    const order = reference.order ?? [...bindings.keys()];
    try {
      const run = this.#of(program, reference.source);
      for (let item = 0; item < items; item++) {
        run(order.map((binding) => partOfItem(before[binding]!, strides?.[binding], item)), 0, reference.invocations);
      }
    } catch (cause) {
      return {
        found: "error",
        error: new InternalError("run", {
          got: `${String(cause)} in the reference of kernel ${name}`,
          need: "JavaScript that runs",
          cause,
        }),
      };
    }
    for (const [binding, { dtype }] of bindings.entries()) {
      const got = after[binding];
      const difference = got && firstDifference(got, before[binding]!, dtype, reference.roundsToHalf);
      if (difference === undefined) continue;
      return {
        found: "difference",
        error: new InternalError("run", {
          got: `${difference.got} in element ${difference.index} of binding ${binding} (${dtype}) after kernel ` +
            `${name} on ${device}; ${difference.count} elements differ`,
          need: `${difference.need}, which is what the same kernel in JavaScript makes of the same buffers`,
        }),
      };
    }
    return undefined;
  }

  #of(program: Program, source: string): Reference {
    let reference = this.#known.get(program);
    if (reference === undefined) {
      reference = new Function("buffers", "begin", "end", source) as Reference;
      this.#known.set(program, reference);
    }
    return reference;
  }
}

/** How far apart f32 may be: the order of a sum and the functions of a device are its own. */
const absolute = 1e-5;
const relative = 1e-4;
/** What of that is near the middle between two f16 goes to either, or to an infinity instead of the largest one. */
const relativeOfHalves = relative + 2 ** -10;
const largestHalf = 65504;

function agree(got: number, need: number, within: number): boolean {
  if (got === need || (Number.isNaN(got) && Number.isNaN(need))) return true;
  return Number.isFinite(need) && Math.abs(got - need) <= absolute + within * Math.abs(need);
}

function agreeAsFloats(got: number, need: number): boolean {
  return agree(got, need, relative);
}

function agreeAsHalves(got: number, need: number): boolean {
  const limit = (x: number) => Math.abs(x) === Infinity ? Math.sign(x) * largestHalf : x;
  return agree(limit(got), limit(need), relativeOfHalves);
}

function firstDifference(
  got: Words,
  need: Words,
  dtype: DType,
  roundsToHalf: boolean,
): { readonly index: number; readonly got: number; readonly need: number; readonly count: number } | undefined {
  const same = !isFloat(dtype) ? Object.is : roundsToHalf ? agreeAsHalves : agreeAsFloats;
  const [values, needed] = [got, need].map((words) => dtype === "f16" ? fromWords(dtype, words, words.length) : words);
  let first = -1;
  let count = 0;
  for (let index = 0; index < needed!.length; index++) {
    if (same(values![index] ?? NaN, needed![index] ?? NaN)) continue;
    if (count++ === 0) first = index;
  }
  if (count === 0) return undefined;
  return { index: first, got: values![first] ?? NaN, need: needed![first] ?? NaN, count };
}

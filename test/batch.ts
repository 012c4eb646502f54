/** Many graphs in one request, so that few kernels are compiled, each result compared with the interpreter's. */
import assert from "node:assert/strict";
import type { Device } from "../src/devices/device/device.ts";
import * as g from "../src/graph/build.ts";
import { type DType, isFloat, toElement } from "../src/graph/dtype.ts";
import { interpret } from "../src/graph/interpret.ts";
import type { Node } from "../src/graph/node.ts";
import { type Shape, size } from "../src/graph/shape.ts";
import { hostElements } from "../src/graph/words.ts";
import { evaluate } from "./evaluate.ts";
import { assertClose, type Tolerance } from "./harness.ts";

/** The spacing of f32 numbers just above 1, relative to them. */
export const ulp = 2 ** -23;

export interface Comparison extends Tolerance {
  /** Which elements are compared; the others may be anything. All by default. */
  readonly specified?: (i: number) => boolean;
  /** Whether -0 differs from 0. It does not by default. */
  readonly zeroSigns?: boolean;
}

/** What `values` makes where it is not told otherwise: distinct numbers, so that an element of a wrong place shows. */
export function counting(count: number, dtype: DType): number[] {
  if (dtype === "bool") return Array.from({ length: count }, (_, i) => Number(Math.sin(12.9898 * i + 1) > 0));
  return Array.from({ length: count }, (_, i) => dtype === "u32" || i % 2 === 0 ? i + 1 : -i - 1);
}

/** Leaves with values, and roots that are made from them. */
export class Batch {
  readonly #given = new Map<Node, ArrayLike<number>>();
  readonly #roots: { readonly name: string; readonly node: Node; readonly comparison: Comparison }[] = [];

  /** A placeholder and its values, which are rounded to its dtype. */
  leaf(shape: Shape, dtype: DType, values: readonly number[] = counting(size(shape), dtype)): Node {
    return this.give(g.input(shape, dtype), values);
  }

  give(node: Node, values: readonly number[]): Node {
    assert.equal(values.length, size(node.shape));
    this.#given.set(node, hostElements(node.dtype, values));
    return node;
  }

  /** Wants a node's values to be those of the interpreter, exactly unless told otherwise. */
  check(name: string, node: Node, comparison: Comparison = {}): void {
    this.#roots.push({ name, node, comparison });
  }

  /** How many results are wanted. */
  get size(): number {
    return this.#roots.length;
  }

  /** Evaluates and compares all. Results are compared with float64 ones rounded to f32. */
  async run(device: Device): Promise<void> {
    const inputs = [...this.#given.keys()];
    const roots = this.#roots.map((root) => root.node);
    const actual = await evaluate(device, { roots, inputs }, inputs.map((input) => this.#given.get(input)!));
    const expected = interpret(roots, this.#given);
    const failures: string[] = [];
    this.#roots.forEach(({ name, node, comparison }, i) => {
      try {
        compare(actual[i]!, expected[i]!, node.dtype, { ...comparison, message: name });
      } catch (error) {
        failures.push((error as Error).message);
      }
    });
    assert.deepEqual(failures, [], failures.join("\n"));
  }
}

function compare(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  dtype: DType,
  { specified = () => true, zeroSigns = false, rtol = 0, atol = 0, message }: Comparison & { readonly message: string },
): void {
  assert.equal(actual.length, expected.length, `${message}: number of elements`);
  const rounded = Array.from(expected, (x, i) => !specified(i) ? actual[i]! : isFloat(dtype) ? toElement(dtype, x) : x);
  assertClose(actual, rounded, { rtol, atol, message });
  if (!zeroSigns) return;
  rounded.forEach((x, i) => {
    if (x === 0) assert.ok(Object.is(x, actual[i]), `${message}: [${i}] got ${1 / actual[i]! < 0 ? "-0" : "0"}`);
  });
}

/** What a function of a batch returns: tensors and declared means, in records and arrays. */
import { ArgumentError } from "../../errors.ts";
import type { DType, HostArray } from "../../graph/dtype.ts";
import type { Shape } from "../../graph/shape.ts";
import { isTensor, type Tensor } from "../../tensor/tensor.ts";
import { deepest } from "../../tensor/transform/tree.ts";
import { RowMean } from "./mean.ts";

/** An output of the whole batch, in host memory. */
export interface HostOutput {
  readonly values: HostArray;
  readonly shape: Shape;
  readonly dtype: DType;
}

/** An output taken apart: a declared mean is two leaves, its sum and its count. */
export interface OutputTree {
  readonly paths: readonly string[];
  readonly leaves: readonly Tensor[];
  /** The structure with other leaves, made from what became of these. */
  rebuild<L>(outputs: readonly HostOutput[], make: (output: HostOutput) => L): unknown;
}

type Rebuild = <L>(outputs: readonly HostOutput[], make: (output: HostOutput) => L) => unknown;

/** Throws ArgumentError for what is neither a tensor, a declared mean, a record nor an array. */
export function outputTree(op: string, output: unknown): OutputTree {
  const paths: string[] = [];
  const leaves: Tensor[] = [];
  const add = (path: string, leaf: Tensor) => {
    paths.push(path === "" ? "of the function" : path);
    return leaves.push(leaf) - 1;
  };
  const collect = (x: unknown, path: string, depth = 0): Rebuild => {
    if (depth > deepest) {
      throw new ArgumentError(op, {
        got: `an output nested more than ${deepest} deep, or that contains itself`,
        need: "another one",
      });
    }
    if (isTensor(x)) {
      const index = add(path, x);
      return (outputs, make) => make(outputs[index]!);
    }
    if (x instanceof RowMean) {
      const sum = add(path, x.sum);
      const count = add(path, x.count);
      return (outputs, make) => make(quotient(outputs[sum]!, outputs[count]!));
    }
    if (Array.isArray(x)) {
      const parts = Array.from(x, (part, i) => collect(part, `${path}[${i}]`, depth + 1));
      return (outputs, make) => parts.map((part) => part(outputs, make));
    }
    if (typeof x === "object" && x !== null) {
      const parts = Object.entries(x).map(([name, part]) =>
        [name, collect(part, path === "" ? name : `${path}.${name}`, depth + 1)] as const
      );
      return (outputs, make) => Object.fromEntries(parts.map(([name, part]) => [name, part(outputs, make)]));
    }
    throw new ArgumentError(op, {
      got: `${String(x)} as output ${path}`,
      need: "tensors, in records and arrays",
    });
  };
  const rebuild = collect(output, "");
  return { paths, leaves, rebuild };
}

function quotient(sum: HostOutput, count: HostOutput): HostOutput {
  const divisor = Number(count.values[0]);
  return { ...sum, values: Float32Array.from(sum.values, (x) => x / divisor) };
}

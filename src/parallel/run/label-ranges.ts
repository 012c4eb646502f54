/** Why a loss is not finite: labels outside the classes, which are looked for only when there is no number. */
import type { HostArray } from "../../graph/dtype.ts";
import { interpret, type Values } from "../../graph/interpret.ts";
import { type Node, toposort } from "../../graph/node.ts";
import { type Shape, size, strides } from "../../graph/shape.ts";
import { fromWords } from "../../graph/words.ts";
import { isTracing } from "../../tensor/eager/frame.ts";
import { storageOf, valueOf } from "../../tensor/eager/record.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Program } from "../decompose/program.ts";
import { traceShard } from "../decompose/shard-trace.ts";
import { rowsForUpload } from "../split/host-batch.ts";
import { controlWords, type HostFields, type StepNumbers } from "./uploads.ts";

/** Labels that a value depends on, and how many classes there are. */
interface LabelRange {
  readonly op: string;
  readonly labels: Node;
  readonly classes: number;
}

const ranges = new WeakMap<Node, LabelRange>();

/** Notes of a trace that `values` are NaN where one of `labels` (0 in rows that do not count) is outside the classes. */
export function noteLabels(op: string, values: Tensor, labels: Tensor, classes: number): void {
  if (!isTracing()) return;
  ranges.set(values.node, { op, labels: labels.node, classes });
}

/** What is said of a loss that is not finite. */
export interface Reason {
  readonly got: string;
  readonly need: string;
}

/**
 * The first label outside the classes on which the loss of a batch depends, found on the host; undefined where there is none, or
 * where labels depend on what is on a device only.
 */
export function wrongLabel(
  fields: HostFields,
  program: Program,
  numbers: Omit<StepNumbers, "offset">,
): Reason | undefined {
  if (fields.rows === 0) return undefined;
  try {
    const traced = traceShard(fields, fields.rows, program);
    const { terms, penalty } = traced.result.loss;
    const roots = [...terms.map(({ sum }) => sum.node), ...penalty === undefined ? [] : [penalty.node]];
    const valueOfInput = new Map<Node, () => HostArray | Uint32Array | undefined>([
      [traced.inputs.control.node, () => controlWords({ ...numbers, offset: 0 })],
      ...traced.inputs.fields.map(({ node, dtype }, i) =>
        [node, () => fromWords(dtype, rowsForUpload(fields.leaves[i]!, 0, fields.rows), size(node.shape))] as const
      ),
      ...traced.captures.map(({ tensor, placeholder }) => [placeholder, () => onHost(tensor)] as const),
    ]);
    for (const node of toposort(roots)) {
      const range = ranges.get(node);
      if (range === undefined) continue;
      const given = new Map<Node, ArrayLike<number>>();
      for (const input of toposort([range.labels])) {
        const value = valueOfInput.get(input)?.();
        if (value !== undefined) given.set(input, value);
      }
      const reason = wrongIn(range, interpret([range.labels], given)[0]!, fields.rows);
      if (reason !== undefined) return reason;
    }
  } catch {
    // The loss is not finite, whatever else there is to be said of it.
  }
  return undefined;
}

function onHost(tensor: Tensor): HostArray | undefined {
  const leaf = valueOf(tensor.node);
  return leaf === undefined ? undefined : storageOf(leaf).host;
}

function wrongIn({ op, labels: { shape }, classes }: LabelRange, labels: Values, rows: number): Reason | undefined {
  const isWrong = (label: number) => label < 0 || label >= classes;
  const first = labels.findIndex(isWrong);
  if (first < 0) return undefined;
  const label = labels[first]!;
  const others = labels.reduce((count, other) => isWrong(other) ? count + 1 : count, -1);
  return {
    got: `label ${label} ${placeOf(first, shape, rows)}${
      others === 0 ? "" : ` and ${others} more`
    } for the ${classes} classes of ${op}`,
    need: needOf(label, classes, labels.reduce((least, one) => Math.min(least, one), Infinity)),
  };
}

/** What labels are to be; with what is likely to be meant by one that they cannot be. */
function needOf(label: number, classes: number, least: number): string {
  if (classes === 1) return "a logit for each class; nn.binaryCrossEntropy for one logit of yes and no";
  const legal = `labels from 0 to ${classes - 1}`;
  if (label === classes && least === 1) return `${legal}: these begin at 1`;
  return label === classes ? legal : `${legal}; { ignore: ${label} } for rows that are not to count`;
}

/** `in row 3`, or `in row 3 at [5]` for labels of tokens. */
function placeOf(position: number, shape: Shape, rows: number): string {
  if (shape[0] !== rows) return `at ${position}`;
  const [row, ...rest] = strides(shape).map((step, axis) => Math.floor(position / step) % shape[axis]!);
  return `in row ${row}${rest.length === 0 ? "" : ` at [${rest.join(", ")}]`}`;
}

/** Reverse-mode differentiation, from a graph to a larger graph of ordinary nodes: so gradients fuse and have gradients. */
import { GradientError } from "../errors.ts";
import { cast, constant, copy, full } from "../graph/build.ts";
import { isFloat } from "../graph/dtype.ts";
import { makeFor, type Node, toposort } from "../graph/node.ts";
import { formatShape, sameShape } from "../graph/shape.ts";
import { joinDisjoint } from "./adjoints.ts";
import { add } from "./arithmetic.ts";
import { computedAgain, type Region, regionsOf } from "./regions.ts";
import { flows, pullback } from "./rules.ts";

/**
 * The gradient of Σ outputs · cotangents by each of `inputs`, which may be leaves or inner nodes; zeros where no output
 * depends on an input. Without `cotangents` the outputs must be scalars, and their sum is differentiated. A gradient has
 * the dtype of its input: that of an f16 is computed in f32 throughout, and rounded once.
 * Throws GradientError for outputs or inputs that are not floats, for outputs that are not scalars, and for cotangents
 * that do not match the outputs.
 */
export function gradients(outputs: readonly Node[], inputs: readonly Node[], cotangents?: readonly Node[]): Node[] {
  check(outputs, inputs, cotangents);
  return throughOrder(toposort(outputs), outputs, inputs, cotangents);
}

/** `order` has the outputs and all nodes between them and the inputs, sources first. Nothing flows on from one of `ends`. */
function throughOrder(
  order: readonly Node[],
  outputs: readonly Node[],
  inputs: readonly Node[],
  cotangents?: readonly Node[],
  ends?: ReadonlySet<Node>,
): Node[] {
  const wanted = new Set(inputs);
  const active = new Set<Node>();
  for (const node of order) {
    if (wanted.has(node) || node.src.some((x, i) => active.has(x) && flows(node, i))) active.add(node);
  }

  const terms = new Map<Node, Node[]>();
  const accumulate = (node: Node, g: Node) => {
    const list = terms.get(node);
    if (list === undefined) terms.set(node, [g]);
    else list.push(g);
  };
  outputs.forEach((output, i) => accumulate(output, cast(cotangents?.[i] ?? constant(1, "f32"), "f32")));
  const regions = regionsOf(order);
  const result = new Map<Node, Node>();
  for (let i = order.length - 1; i >= 0; i--) {
    const node = order[i]!;
    const region = regions.get(node);
    const list = terms.get(node);
    if (list !== undefined && active.has(node)) {
      terms.delete(node);
      makeFor(node, true);
      const g = total(list);
      if (wanted.has(node)) result.set(node, cast(g, node.dtype));
      if (ends?.has(node) === true) continue;
      if (region !== undefined) {
        region.results.push({ value: node.src[0]!, g });
      } else {
        node.src.forEach((x, operand) => {
          if (active.has(x) && flows(node, operand)) accumulate(x, pullback(g, node, operand));
        });
      }
    }
    if (region?.first === i && region.results.length > 0) {
      makeFor(node, true);
      throughRegion(region, active, wanted, accumulate);
    }
  }
  makeFor(undefined);
  return inputs.map((input) => result.get(input) ?? full(input.shape, 0, input.dtype));
}

/** Gives the cotangents of what a region reads, from a computation of its own. */
function throughRegion(
  region: Region,
  active: ReadonlySet<Node>,
  wanted: ReadonlySet<Node>,
  accumulate: (node: Node, g: Node) => void,
): void {
  const { values, readings, inside } = computedAgain(region, (node) => isFloat(node.dtype) && active.has(node));
  const isInside = (value: Node) => inside.has(value);
  // A gradient by something inside is by what was computed first: that is kept, then.
  const again = ![...inside].some((node) => wanted.has(node));
  const own = region.results.map((result, i) => ({ ...result, again: values[i]! })).filter(({ value }) =>
    again && isInside(value)
  );
  for (const { value, g } of region.results) if (!again || !isInside(value)) accumulate(value, g);
  if (own.length === 0 || readings.length === 0) return;
  // Not beyond what the region reads, of which the rest of the walk gives the gradients: all of the graph may be behind it.
  const inputs = readings.map(({ as }) => as);
  const outputs = own.map((result) => result.again);
  const ends = new Set(inputs);
  const through = throughOrder(
    toposort(outputs, (node) => !ends.has(node)),
    outputs,
    inputs,
    own.map(({ g }) => g),
    ends,
  );
  readings.forEach(({ of }, i) => accumulate(of, through[i]!));
}

/** The sum of the cotangents that reached one node. Those of disjoint slices, as of many parameters in one buffer, are joined. */
function total(terms: readonly Node[]): Node {
  const [first, ...rest] = joinDisjoint(terms);
  return rest.reduce((sum, g) => {
    // Only where one value, bound to no device, was sent to several are there cotangents on several.
    return add(sum, sum.device === undefined || g.device === undefined ? g : copy(g, sum.device));
  }, first!);
}

function check(outputs: readonly Node[], inputs: readonly Node[], cotangents: readonly Node[] | undefined): void {
  for (const output of outputs) {
    if (!isFloat(output.dtype)) {
      throw new GradientError("grad", { got: `an output of dtype ${output.dtype}`, need: "f32 or f16" });
    }
    if (cotangents === undefined && output.shape.length > 0) {
      throw new GradientError("grad", {
        got: `an output of shape ${formatShape(output.shape)}`,
        need: "a scalar, as from sum() or mean(), or a cotangent of the output's shape",
      });
    }
  }
  for (const input of inputs) {
    if (!isFloat(input.dtype)) {
      throw new GradientError("grad", { got: `an input of dtype ${input.dtype}`, need: "f32 or f16" });
    }
  }
  if (cotangents === undefined) return;
  if (cotangents.length !== outputs.length) {
    throw new GradientError("grad", {
      got: `${cotangents.length} cotangents`,
      need: `one for each of ${outputs.length} outputs`,
    });
  }
  cotangents.forEach((g, i) => {
    const { shape } = outputs[i]!;
    if (!isFloat(g.dtype) || !sameShape(g.shape, shape)) {
      throw new GradientError("grad", {
        got: `a cotangent ${g.dtype}${formatShape(g.shape)}`,
        need: `floats of shape ${formatShape(shape)}, as the output`,
      });
    }
  });
}

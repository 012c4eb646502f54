/**
 * Running sums and products on the cpu device: serial along the axis. Lanes lie across the others, or, where the axis is the last one, along it:
 * a team of them takes neighbours at a time. Elements are added up in blocks, and blocks in blocks of blocks, so that no sum is of many
 * terms: rounding errors grow with the logarithm of the length.
 */
import type { NodeOf } from "../../graph/node.ts";
import { type Shape, size } from "../../graph/shape.ts";
import { add, constantIndex, type Index, scale, unflatten, variableIndex, within } from "../kernel/index-arithmetic.ts";
import type { Accumulator, Expr, KernelIR, Lane, Scope } from "../kernel/ir.ts";
import { locate } from "../kernel/location.ts";
import { partLength } from "../tile/tile.ts";
import type { OwnKernel } from "./own-kernel.ts";

/** Most terms that are added up one after another. */
const mostTerms = 32;

/** Lanes of a vector. */
const width = 4;

/** Rows that are long enough for lanes along them: such lanes cost a few additions more, others read and write one by one. */
const rowsOfTeams: readonly { readonly length: number; readonly invocations: number }[] = [
  { length: 64, invocations: 16 },
  { length: 16, invocations: 8 },
];

/** How many lanes take the neighbours of a row together, where there are vectors; 1: each takes a row. */
export function scanTeam({ shape, attrs }: NodeOf<"scan">): number {
  const length = shape[attrs.axis]!;
  const inner = size(shape.slice(attrs.axis + 1));
  return inner > 1 ? 1 : rowsOfTeams.find((team) => length >= team.length)?.invocations ?? 1;
}

/** Elements of an axis that are added up together. */
interface Part {
  readonly begin: Index;
  readonly length: number;
  /** The sum of all before them, if there are any. */
  readonly before: Expr | undefined;
  readonly scope: Scope;
}

export function scanKernel(of: OwnKernel<NodeOf<"scan">>): KernelIR {
  const { node, builder, targets, values, name, team } = of;
  const { axis, how } = node.attrs;
  const [source] = node.src;
  const [ahead, behind] = [node.shape.slice(0, axis), node.shape.slice(axis + 1)];
  const [outer, inner] = [builder.variable("i", size(ahead)), builder.variable("j", size(behind))];
  const member = team > 1 ? builder.variable("local", team) : undefined;
  const at = (along: Index): Index[] => [
    ...unflatten(variableIndex(outer), ahead as Shape),
    along,
    ...unflatten(variableIndex(inner), behind as Shape),
  ];
  const buffers = targets.map((target) => ({ target, buffer: builder.buffer(target.slot, node.dtype, "readWrite") }));
  const sum = (scope: Scope) => builder.accumulator(how, node.dtype, scope);
  const plus = (a: Expr | undefined, b: Expr) => a === undefined ? b : builder.combine(how, a, b);

  /** Adds up the elements at one step, and stores what they come to; `total` grows by them. */
  const step = (along: Index, when: Expr | undefined, total: Accumulator, before: Expr | undefined, scope: Scope) => {
    const lane: Lane = { indices: at(along), when };
    const value = values(source, [lane])[0]!;
    let running = total;
    if (member === undefined) scope.statements.push({ kind: "update", accumulator: total, value });
    else {
      running = sum(scope);
      scope.statements.push({ kind: "assign", accumulator: running, value }, {
        kind: "prefix",
        accumulator: running,
        total,
      });
    }
    const stored = plus(before, builder.result(running, scope));
    for (const { target, buffer } of buffers) {
      const index = locate(target, lane.indices);
      scope.statements.push({ kind: "store", buffer, index, value: stored, when, accumulate: undefined });
    }
  };

  /** Gives the sum of a part of one block. */
  const oneBlock = ({ begin, length, before, scope }: Part): Expr => {
    const total = sum(scope);
    const steps = Math.floor(length / team);
    const lanes = (base: Index) => member === undefined ? base : add(base, variableIndex(member));
    if (steps > 0) {
      const variable = builder.variable("k", steps);
      const body = builder.openLoop(scope, variable);
      step(lanes(add(begin, scale(variableIndex(variable), team))), undefined, total, before, body);
      scope.statements.push({ kind: "loop", variable, body });
    }
    if (member !== undefined && length % team > 0) {
      // The end of the axis: nothing follows that asks for the total.
      const when = builder.within(variableIndex(member), 0, length % team);
      const last = add(begin, add(constantIndex(steps * team), within(variableIndex(member), 0, length % team - 1)));
      step(last, when, total, before, scope);
    }
    return builder.result(total, scope);
  };

  const lengths = blockLengths(node.shape[axis]!, team);
  const parts = (part: Part, level: number): Expr => {
    const length = lengths[level - 1];
    if (length === undefined) return oneBlock(part);
    if (part.length <= length) return parts(part, level - 1);
    const { begin, before, scope } = part;
    const total = sum(scope);
    const variable = builder.variable("b", Math.floor(part.length / length));
    const body = builder.openLoop(scope, variable);
    const from = add(begin, scale(variableIndex(variable), length));
    const inside = { begin: from, length, before: plus(before, builder.result(total, body)), scope: body };
    body.statements.push({ kind: "update", accumulator: total, value: parts(inside, level - 1) });
    scope.statements.push({ kind: "loop", variable, body });
    const rest = part.length % length;
    if (rest > 0) {
      const end = add(begin, constantIndex(part.length - rest));
      parts({ begin: end, length: rest, before: plus(before, builder.result(total, scope)), scope }, level - 1);
    }
    return builder.result(total, scope);
  };
  parts({ begin: constantIndex(0), length: node.shape[axis]!, before: undefined, scope: builder.root }, lengths.length);

  if (member !== undefined) return builder.finish(name("running"), [outer, member], team, true);
  // Lanes lie along the last counter: across what is side by side in memory, if that fills a vector.
  const across = inner.extent < width && outer.extent > inner.extent;
  return builder.finish(name("running"), across ? [inner, outer] : [outer, inner]);
}

/** The lengths of blocks, of blocks of these, and so on, while there are several: each divides the next, and the axis if it can. */
function blockLengths(length: number, team: number): number[] {
  const lengths: number[] = [];
  for (let unit = team, most = mostTerms * unit; length > most; most = mostTerms * unit) {
    unit = partLength(length, unit, most);
    lengths.push(unit);
  }
  return lengths;
}

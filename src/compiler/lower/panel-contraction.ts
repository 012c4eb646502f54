/**
 * Contractions on the cpu device: lanes side by side compute a panel of columns. Both operands are put into scratch memory first, a
 * block of rows and a panel of columns at a time, so that what adds up reads nothing else, wherever and however they lie. A `direct`
 * walk reads them where they are.
 */
import type { Node, ReductionNode } from "../../graph/node.ts";
import { type ElementwiseName, reductions } from "../../graph/ops.ts";
import { size } from "../../graph/shape.ts";
import {
  add,
  addConstant,
  type Index,
  scale,
  unflatten,
  type Variable,
  variableIndex,
  within,
  zeroIndex,
} from "../kernel/index-arithmetic.ts";
import type { Accumulator, Expr, KernelBuilder, Lane, Scope, ValuesOf } from "../kernel/ir.ts";
import { termIndices } from "../kernel/source-indices.ts";
import type { PanelWalk } from "../tile/tile.ts";
import { dependsOn, productAt } from "./contraction-operands.ts";
import type { Invocations } from "./plain-domains.ts";

/** A loop that is being filled; one of a single pass is none, and fills what is around it. */
interface Open {
  readonly variable: Variable;
  readonly parent: Scope;
  readonly body: Scope;
}

export interface PanelDomain extends Invocations {
  readonly kind: "panel";
  readonly walk: PanelWalk;
  /** Over the parts of the sum; the rows that are packed are in it. */
  readonly part: Open;
  /** Over packed rows and the terms of each, or over terms and the rows of each; the inner ones go along the lanes. */
  readonly packed: readonly [outer: Open, inner: Open];
  /** Where a panel of columns is staged, and where a tile of rows walks it. */
  readonly panel: Open;
  readonly tile: Open;
  /** Over the elements of an invocation, panels around tiles; the same loops where the sum has one part. */
  readonly results: readonly [panel: Open, tile: Open];
  readonly lane: Variable;
  /** The lanes of the domain at a row that is packed and at a column that is staged. */
  readonly brought: { readonly row: number; readonly column: number };
  /** The lanes at the rows of the tile that walks a panel. */
  readonly walked: readonly number[];
  /** A lane at any column, which `variable` stands for: it tells what depends on the column. */
  readonly column: { readonly variable: Variable; readonly lane: number };
}

function open(builder: KernelBuilder, prefix: string, extent: number, parent: Scope): Open {
  const variable = builder.variable(prefix, extent);
  return { variable, parent, body: extent > 1 ? builder.openLoop(parent, variable) : parent };
}

function close({ variable, parent, body }: Open): void {
  if (body !== parent) parent.statements.push({ kind: "loop", variable, body });
}

/** The lanes are the rows of a tile; behind them are those whose operands are brought to scratch memory. */
export function panelDomain(builder: KernelBuilder, domain: readonly number[], walk: PanelWalk): PanelDomain {
  const { runs, m, n, rows, columns, tiles, panels, parts, depth, adjacent } = walk;
  const extents = runs.map((run) => size(run.map((axis) => domain[axis]!)));
  const blocks = [tiles * rows, panels * columns] as const;
  const parallel: Variable[] = [];
  const starts = extents.map((extent, axis) => {
    const block = axis === m ? blocks[0] : axis === n ? blocks[1] : 1;
    const variable = builder.variable("i", Math.ceil(extent / block));
    parallel.push(variable);
    return scale(variableIndex(variable), block);
  });
  const lane = builder.variable("local", columns);
  parallel.push(lane);
  const { root } = builder;
  const part = open(builder, "part", parts, root);
  const around = open(builder, "p", adjacent ? depth : blocks[0], part.body);
  const inner = open(builder, "p", Math.ceil((adjacent ? blocks[0] : depth) / columns), around.body);
  const panel = open(builder, "j", panels, part.body);
  const tile = open(builder, "t", tiles, panel.body);
  const outer = parts === 1 ? panel : open(builder, "j", panels, root);
  const results = [outer, parts === 1 ? tile : open(builder, "t", tiles, outer.body)] as const;
  // Beyond the edges nothing is loaded, nor stored.
  const guard = (axis: number, index: Index) =>
    index.max < extents[axis]! ? undefined : builder.within(index, 0, extents[axis]!);
  const at = (row: Index, column: Index): Lane => {
    const places = starts.map((start, axis) => axis === m ? add(start, row) : axis === n ? add(start, column) : start);
    return {
      indices: places.flatMap((place, axis) =>
        unflatten(within(place, 0, extents[axis]! - 1), runs[axis]!.map((of) => domain[of]!))
      ),
      when: builder.and(m < 0 ? undefined : guard(m, places[m]!), guard(n, places[n]!)),
    };
  };
  const columnOf = ({ variable }: Open) => add(scale(variableIndex(variable), columns), variableIndex(lane));
  const rowsAt = (panel: Open, tile: Open) =>
    Array.from(
      { length: rows },
      (_, r) => at(addConstant(scale(variableIndex(tile.variable), rows), r), columnOf(panel)),
    );
  const ofTile = rowsAt(...results);
  const alongLanes = add(scale(variableIndex(inner.variable), columns), variableIndex(lane));
  const lanes = [...ofTile];
  // Lanes are distinct: what is staged may lie where a row of the tile does.
  const laneOf = (at: Lane) => {
    const key = (lane: Lane) => lane.indices.map((index) => index.key).join();
    const known = lanes.findIndex((lane) => key(lane) === key(at));
    return known < 0 ? lanes.push(at) - 1 : known;
  };
  const brought = {
    row: laneOf(at(adjacent ? alongLanes : variableIndex(around.variable), zeroIndex)),
    column: laneOf(at(zeroIndex, columnOf(panel))),
  };
  const walked = walk.direct ? rowsAt(panel, tile).map(laneOf) : [];
  // Of an index that is known to be less than its terms may be, a division may leave what is always 0: this one has its exact range.
  const whole = builder.variable("column", extents[n]!);
  const first = unflatten(variableIndex(whole), runs[n]!.map((of) => domain[of]!));
  const probed = starts.flatMap((_, axis) => axis === n ? first : runs[axis]!.map(() => zeroIndex));
  const column = { variable: whole, lane: laneOf({ indices: probed, when: undefined }) };
  return {
    kind: "panel",
    walk,
    parallel,
    lanes,
    loadedOnly: lanes.length - rows,
    workgroup: columns,
    together: true,
    part,
    packed: [around, inner],
    panel,
    tile,
    results,
    lane,
    brought,
    walked,
    column,
  };
}

/**
 * The sums of a tile's rows; those at what is only loaded are 0. `lanes` are those of the domain at the contraction, or at any other
 * reduction where operands are read where they are.
 */
export function panelSums(
  builder: KernelBuilder,
  node: ReductionNode,
  lanes: readonly Lane[],
  domain: PanelDomain,
  values: ValuesOf,
): readonly Expr[] {
  const { walk: { rows, columns, tiles, panels, parts, direct }, part, panel, tile, lane } = domain;
  const zero = builder.constant(reductions[node.op].identity(node.dtype), node.dtype);
  const own = variableIndex(lane);
  const height = tiles * rows;
  const addUp = direct ? directly : throughScratch;
  const sums = addUp(builder, node, lanes, domain, values);
  const ofPart = sums.map((accumulator) => builder.result(accumulator, tile.body));
  if (parts === 1) return lanes.map((_, i) => ofPart[i] ?? zero);

  // Parts are added up in scratch memory, in their order.
  const width = panels * columns;
  const totals = builder.sharedArray(node.dtype, height * width, false);
  const place = ([panel, tile]: readonly [Open, Open], r: number) => {
    const row = addConstant(scale(variableIndex(tile.variable), rows), r);
    return add(scale(row, width), add(scale(variableIndex(panel.variable), columns), own));
  };
  ofPart.forEach((value, r) => {
    const index = place([panel, tile], r);
    const total = builder.combine(node.op, builder.sharedLoadNow(totals, index, tile.body), value);
    tile.body.statements.push({ kind: "stage", array: totals, index, values: [total] });
  });
  panel.body.statements.push({ kind: "barrier" });
  close(tile);
  close(panel);
  const cleared = open(builder, "z", height * panels, builder.root);
  cleared.body.statements.push({
    kind: "stage",
    array: totals,
    index: add(scale(variableIndex(cleared.variable), columns), own),
    values: [zero],
  });
  close(cleared);
  close(part);
  const { body } = domain.results[1];
  return lanes.map((_, r) => r < rows ? builder.sharedLoadNow(totals, place(domain.results, r), body) : zero);
}

/** Sums of a part by operands that are brought to scratch memory first. */
function throughScratch(
  builder: KernelBuilder,
  node: ReductionNode,
  lanes: readonly Lane[],
  domain: PanelDomain,
  values: ValuesOf,
): readonly Accumulator[] {
  const { walk: { rows, columns, tiles, parts, depth, adjacent }, part, packed, panel, tile, lane, brought } = domain;
  const extents = node.attrs.axes.map((axis) => node.src[0].shape[axis]!);
  const terms = size(extents);
  const zero = builder.constant(0, node.dtype);
  const [rowLane, columnLane] = [lanes[brought.row]!, lanes[brought.column]!];
  /** The product at a term of the part's sum. */
  const productOf = ({ indices, when }: Lane, k: Index) => {
    const position = add(scale(variableIndex(part.variable), depth), k);
    const inside = position.max < terms ? undefined : builder.within(position, 0, terms);
    const found = productAt(node, indices, unflatten(within(position, 0, terms - 1), extents));
    return { product: found.product, lane: { indices: found.indices, when: builder.and(when, inside) }, inside };
  };
  const { product, lane: probe } = productOf(lanes[domain.column.lane]!, zeroIndex);
  const [left, right] = product.src as [Node, Node];
  // The row operand is the one that does not change along n.
  const leftIsColumn = dependsOn(left, probe.indices, domain.column.variable);
  const [rowOperand, columnOperand] = leftIsColumn ? [right, left] : [left, right];
  const put = (scope: Scope, operand: Node, of: Lane, k: Index, array: number, index: Index) => {
    const { lane, inside } = productOf(of, k);
    const [value] = values(operand, [lane]);
    // What is beyond the sum counts as 0 in both operands; of a sum in one part it is never read.
    const staged = inside === undefined || parts === 1 ? value! : builder.op("where", inside, value!, zero);
    scope.statements.push({ kind: "stage", array, index, values: [staged] });
  };
  const own = variableIndex(lane);
  const height = tiles * rows;

  // Rows: [k][row] where they are neighbours in memory, else [row][k].
  const along = adjacent ? Math.ceil(height / columns) * columns : Math.ceil(depth / columns) * columns;
  const rowArray = builder.sharedArray(node.dtype, adjacent ? depth * along : height * along, false);
  const outer = variableIndex(packed[0].variable);
  const inner = add(scale(variableIndex(packed[1].variable), columns), own);
  put(packed[1].body, rowOperand, rowLane, adjacent ? outer : inner, rowArray, add(scale(outer, along), inner));
  close(packed[1]);
  close(packed[0]);

  const columnArray = builder.sharedArray(node.dtype, depth * columns, false);
  const term = open(builder, "k", depth, panel.body);
  const k = variableIndex(term.variable);
  put(term.body, columnOperand, columnLane, k, columnArray, add(scale(k, columns), own));
  close(term);
  panel.body.statements.push({ kind: "barrier" });

  const sums = Array.from({ length: rows }, () => builder.accumulator(node.op, node.dtype, tile.body));
  const walked = open(builder, "k", depth, tile.body);
  const now = variableIndex(walked.variable);
  const column = builder.sharedLoad(columnArray, add(scale(now, columns), own));
  const firstRow = scale(variableIndex(tile.variable), rows);
  sums.forEach((accumulator, r) => {
    const place = addConstant(firstRow, r);
    const row = builder.sharedLoad(rowArray, adjacent ? add(scale(now, along), place) : add(scale(place, along), now));
    const value = builder.op(product.op as ElementwiseName, ...leftIsColumn ? [column, row] : [row, column]);
    walked.body.statements.push({ kind: "update", accumulator, value });
  });
  close(walked);
  return sums;
}

/** Sums of a part by operands that are read where they are. */
function directly(
  builder: KernelBuilder,
  node: ReductionNode,
  lanes: readonly Lane[],
  { walk: { parts, depth }, part, tile, walked }: PanelDomain,
  values: ValuesOf,
): readonly Accumulator[] {
  const terms = size(node.attrs.axes.map((axis) => node.src[0].shape[axis]!));
  const zero = builder.constant(reductions[node.op].identity(node.dtype), node.dtype);
  const sums = walked.map(() => builder.accumulator(node.op, node.dtype, tile.body));
  const term = open(builder, "k", depth, tile.body);
  const position = add(scale(variableIndex(part.variable), depth), variableIndex(term.variable));
  const inside = position.max < terms ? undefined : builder.within(position, 0, terms);
  const along = unflatten(within(position, 0, terms - 1), node.attrs.axes.map((axis) => node.src[0].shape[axis]!));
  const places = walked.map((i): Lane => ({
    indices: termIndices(node, lanes[i]!.indices, along),
    when: builder.and(lanes[i]!.when, inside),
  }));
  values(node.src[0], places).forEach((value, r) => {
    const counted = inside === undefined || parts === 1 ? value : builder.op("where", inside, value, zero);
    term.body.statements.push({ kind: "update", accumulator: sums[r]!, value: counted });
  });
  close(term);
  return sums;
}

/** Puts the loops around the stores of an invocation's elements. */
export function closePanels({ results: [panel, tile] }: PanelDomain): void {
  close(tile);
  close(panel);
}

/** From a kernel's values to kernel IR. All lanes of a tile are lowered together, so that they share loops and loads. */
import { InternalError } from "../../errors.ts";
import type { DType } from "../../graph/dtype.ts";
import { isKind, type Node, type ReductionNode } from "../../graph/node.ts";
import { type ElementwiseName, isElementwise, isReduction, reductions } from "../../graph/ops.ts";
import { size, strides } from "../../graph/shape.ts";
import { isMovement } from "../../graph/structural.ts";
import type { Draft } from "../group/fuse.ts";
import { kernelName } from "../group/kernel-name.ts";
import type { KernelGroup } from "../group/merge.ts";
import { markFaults } from "../group/watch.ts";
import {
  add,
  addConstant,
  atMost,
  constantIndex,
  flatten,
  type Index,
  scale,
  unflatten,
  valueIndex,
  type Variable,
  variableIndex,
  within,
  zeroIndex,
} from "../kernel/index-arithmetic.ts";
import {
  deeper,
  type Expr,
  KernelBuilder,
  type KernelIR,
  type Lane,
  type Scope,
  type Statement,
} from "../kernel/ir.ts";
import { locate, type Memory } from "../kernel/location.ts";
import { isContraction } from "../kernel/patterns.ts";
import { sourceIndices } from "../kernel/source-indices.ts";
import type { OuterProduct, Tile } from "../tile/tile.ts";
import { dependsOn } from "./contraction-operands.ts";
import { type GemvDomain, gemvDomain, gemvResults } from "./gemv.ts";
import { ownKernel } from "./own-kernels.ts";
import { type StagedDomain, stagedDomain, stagedSums } from "./workgroup-contraction.ts";

/** Invocations that walk a block side by side: a subgroup of the software adapters. */
const walkers = 8;

/** Terms of a reduction that are written out. */
const mostUnrolled = 4;

/** Lowers one kernel with the factors of `tile`. Along `varying` lengths blocks are guarded even where they divide them. */
export function lower(group: KernelGroup, memory: Memory, tile: Tile, varying: readonly number[] = []): KernelIR {
  const lowering = new Lowering(group, memory, tile, varying);
  return lowering.run();
}

/** The axes of a draft's domain that invocations walk in parallel, and those that one walks serially. */
function splitAxes(draft: Draft): { outer: number[]; row: number[] } {
  const outer: number[] = [];
  const row: number[] = [];
  draft.variables.forEach((variable, axis) => {
    if (variable.extent !== 1) (draft.outer === undefined || draft.outer.has(variable) ? outer : row).push(axis);
  });
  return { outer, row };
}

class Lowering {
  readonly #builder = new KernelBuilder();
  readonly #group: KernelGroup;
  readonly #memory: Memory;
  readonly #tile: Tile;
  readonly #varying: readonly number[];
  readonly #own: ReadonlySet<Node>;
  readonly #memo = new Map<string, readonly Expr[]>();
  /** Stores of values without rows. */
  readonly #stores: Statement[] = [];
  /** The loop in which an invocation walks its part of a block. */
  #walk: { readonly variable: Variable; readonly body: Scope } | undefined;
  /** The invocation's number among those that walk a row together. */
  #team: Variable | undefined;
  /** By dtype and length, the workgroup memory in which invocations combine what they have. */
  readonly #sharedArrays = new Map<string, number>();
  /** The lane of a subgroup that computes a block together. */
  #subgroupLane: Variable | undefined;
  /** How a contraction through workgroup memory walks its domain. */
  #staged: StagedDomain | undefined;
  /** How a reduction whose invocations walk the terms together does. */
  #gemv: GemvDomain | undefined;

  constructor(group: KernelGroup, memory: Memory, tile: Tile, varying: readonly number[]) {
    this.#group = group;
    this.#memory = memory;
    this.#tile = tile;
    this.#varying = varying;
    this.#own = new Set(group.drafts.map((draft) => draft.root));
  }

  run(): KernelIR {
    const [first] = this.#group.drafts;
    const { root: alone } = first!;
    if (isKind(alone, "own")) {
      return ownKernel({
        node: alone,
        builder: this.#builder,
        targets: this.#memory.targets(alone),
        values: (node, lanes) => this.#lanes(node, lanes),
        name: (kind) => kernelName(this.#group, kind),
        block: this.#tile.attention!,
      });
    }
    const domain = splitAxes(first!).outer.map((axis) => first!.root.shape[axis]!);
    const { axes, subgroup, staged, gemv, team, factors } = this.#tile;
    const walked = factors?.flat() ?? domain;
    const and = (a: Expr | undefined, b: Expr | undefined) => this.#and(a, b);
    if (team > 1) this.#team = this.#builder.variable("local", team);
    if (staged !== undefined) this.#staged = stagedDomain(this.#builder, walked, staged, and, this.#varying);
    if (gemv !== undefined) this.#gemv = gemvDomain(this.#builder, walked, gemv, and);
    const { parallel, lanes: ofWalked } = this.#staged ?? this.#gemv ??
      (subgroup !== undefined
        ? this.#subgroupDomain(walked, subgroup)
        : axes !== undefined
        ? this.#tiledDomain(walked, axes)
        : this.#flatDomain(walked));
    const lanes = factors === undefined
      ? ofWalked
      : ofWalked.map((lane) => ({ ...lane, indices: joined(lane.indices, factors) }));
    for (const draft of this.#group.drafts) this.#value(draft, lanes);
    // After all loads: a value may be written over what another one is computed from.
    const { root } = this.#builder;
    (this.#walk?.body ?? root).statements.push(...this.#stores);
    if (this.#walk !== undefined) root.statements.push({ kind: "loop", ...this.#walk });
    const together = staged !== undefined || gemv !== undefined || team > 1 || subgroup !== undefined;
    const threads = (staged ?? gemv)?.threads;
    const workgroup = threads !== undefined
      ? threads[0] * threads[1]
      : team > 1
      ? team
      : this.#walk !== undefined
      ? walkers
      : subgroup && subgroup.lanes * subgroup.subgroups;
    return this.#builder.finish(kernelName(this.#group), parallel, workgroup, together);
  }

  /**
   * The lanes that an invocation of an outer product computes, row by row; behind them, the elements whose row operand it
   * loads for its subgroup, which are computed no further.
   */
  #subgroupDomain(
    domain: readonly number[],
    { runs, m, n, rows, columns, lanes }: OuterProduct,
  ): { parallel: Variable[]; lanes: Lane[] } {
    const builder = this.#builder;
    const parallel: Variable[] = [];
    const extents = runs.map((run) => size(run.map((axis) => domain[axis]!)));
    const bases = extents.map((extent, axis) => {
      const block = axis === m ? lanes * rows : axis === n ? lanes * columns : 1;
      const variable = builder.variable("i", Math.ceil(extent / block));
      parallel.push(variable);
      const start = scale(variableIndex(variable), block);
      const varies = block > 1 && runs[axis]!.some((own) => this.#varying.includes(domain[own]!));
      return { start, base: atMost(start, extent - block, varies) };
    });
    const lane = this.#subgroupLane = builder.variable("lane", lanes);
    parallel.push(lane);
    // At an edge the last block moves back, and stores only what is its own.
    const own = (axis: number, index: Index) => {
      const { start, base } = bases[axis]!;
      return base === start ? undefined : builder.within(add(index, scale(start, -1)), 0, extents[axis]!);
    };
    const at = (row: Index, column: Index) =>
      bases.map(({ base }, axis) =>
        within(axis === m ? add(base, row) : axis === n ? add(base, column) : base, 0, extents[axis]! - 1)
      );
    const apart = (indices: readonly Index[]) =>
      indices.flatMap((index, i) => unflatten(index, runs[i]!.map((axis) => domain[axis]!)));
    const ownColumn = (j: number) => addConstant(scale(variableIndex(lane), columns), j);
    const result: Lane[] = [];
    // Columns that are all there or none share a guard, so that they are stored as a vector.
    const inGroups = extents[n]! % columns === 0;
    for (let row = 0; row < lanes * rows; row++) {
      for (let j = 0; j < columns; j++) {
        const indices = at(constantIndex(row), ownColumn(j));
        const guarded = inGroups ? at(constantIndex(row), ownColumn(0)) : indices;
        result.push({ indices: apart(indices), when: this.#and(own(m, guarded[m]!), own(n, guarded[n]!)) });
      }
    }
    for (let i = 0; i < rows; i++) {
      result.push({
        indices: apart(at(addConstant(scale(variableIndex(lane), rows), i), ownColumn(0))),
        when: undefined,
      });
    }
    return { parallel, lanes: result };
  }

  /** One counter over the whole domain; each invocation computes `outer` neighbours. */
  #flatDomain(domain: readonly number[]): { parallel: Variable[]; lanes: Lane[] } {
    const { outer: factor, walk } = this.#tile;
    const builder = this.#builder;
    const count = size(domain) / factor;
    const variable = builder.variable("i", Math.ceil(count / (walk === 1 ? 1 : walk * walkers)));
    const parallel = this.#team === undefined ? [variable] : [variable, this.#team];
    let at = variableIndex(variable);
    if (walk > 1) {
      const local = builder.variable("local", walkers);
      const step = builder.variable("r", walk);
      parallel.push(local);
      this.#walk = { variable: step, body: builder.openLoop(builder.root, step) };
      const position = add(scale(add(scale(at, walk), variableIndex(step)), walkers), variableIndex(local));
      const varies = domain.some((extent) => this.#varying.includes(extent));
      if (count % (walk * walkers) !== 0 || varies) {
        this.#walk.body.statements.push({ kind: "stop", index: position, limit: count });
      }
      at = within(position, 0, count - 1);
    }
    const base = scale(at, factor);
    const lanes = Array.from({ length: factor }, (_, lane) => ({
      indices: unflatten(addConstant(base, lane), domain),
      when: undefined,
    }));
    return { parallel, lanes };
  }

  /**
   * A loop over `steps` steps, which the invocations of a team take in turn. `step` is the one that an invocation is at,
   * `inside` whether there is such a step.
   */
  #loop(
    prefix: string,
    steps: number,
    parent: Scope,
    shared: boolean,
  ): { variable: Variable; body: Scope; step: Index; inside: Expr | undefined } {
    const builder = this.#builder;
    const team = shared ? this.#team : undefined;
    const variable = builder.variable(prefix, team === undefined ? steps : Math.ceil(steps / team.extent));
    const body = builder.openLoop(parent, variable);
    if (team === undefined) return { variable, body, step: variableIndex(variable), inside: undefined };
    const step = add(scale(variableIndex(variable), team.extent), variableIndex(team));
    const inside = steps % team.extent === 0 ? undefined : builder.within(step, 0, steps);
    return { variable, body, step: within(step, 0, Math.max(0, steps - 1)), inside };
  }

  /** A counter per axis; each invocation computes a block. At an edge the last block moves back, and stores only what is its own. */
  #tiledDomain(domain: readonly number[], factors: readonly number[]): { parallel: Variable[]; lanes: Lane[] } {
    const parallel: Variable[] = [];
    let lanes: Lane[] = [{ indices: [], when: undefined }];
    domain.forEach((extent, axis) => {
      const factor = factors[axis]!;
      const variable = this.#builder.variable("i", Math.ceil(extent / factor));
      parallel.push(variable);
      const start = scale(variableIndex(variable), factor);
      const base = atMost(start, extent - factor, factor > 1 && extent > factor && this.#varying.includes(extent));
      lanes = lanes.flatMap((lane) =>
        Array.from({ length: factor }, (_, i) => {
          const index = addConstant(base, i);
          const own = base === start ? undefined : this.#builder.within(add(index, scale(start, -1)), 0, extent);
          return { indices: [...lane.indices, within(index, 0, extent - 1)], when: this.#and(lane.when, own) };
        })
      );
    });
    return { parallel, lanes };
  }

  /** Computes and stores one value of the kernel at the lanes of the domain, in a loop where it has a row. */
  #value(draft: Draft, domain: readonly Lane[]): void {
    const { outer, row } = splitAxes(draft);
    const root = draft.root;
    if (row.length === 0) {
      // All of a team have the same value.
      const first = this.#team && this.#builder.within(variableIndex(this.#team), 0, 1);
      const lanes = domain.map((lane) => ({
        when: this.#and(lane.when, first),
        indices: this.#place(root, outer, lane.indices, row, []),
      }));
      this.#store(root, lanes, this.#stores);
      return;
    }
    const extents = row.map((axis) => root.shape[axis]!);
    const factor = size(extents) % this.#tile.row === 0 ? this.#tile.row : 1;
    const { variable, body, step, inside } = this.#loop("r", size(extents) / factor, this.#builder.root, true);
    const lanes = domain.flatMap((lane) =>
      Array.from({ length: factor }, (_, i) => {
        const position = addConstant(scale(step, factor), i);
        return {
          when: this.#and(lane.when, inside),
          indices: this.#place(root, outer, lane.indices, row, unflatten(position, extents)),
        };
      })
    );
    this.#store(root, lanes, body.statements);
    this.#builder.root.statements.push({ kind: "loop", variable, body });
  }

  #place(
    root: Node,
    outer: readonly number[],
    at: readonly Index[],
    row: readonly number[],
    along: readonly Index[],
  ): Index[] {
    const indices = root.shape.map(() => zeroIndex);
    outer.forEach((axis, i) => indices[axis] = at[i]!);
    row.forEach((axis, i) => indices[axis] = along[i]!);
    return indices;
  }

  #store(root: Node, lanes: readonly Lane[], statements: Statement[]): void {
    const values = this.#lanes(root, lanes.map((lane) => ({ indices: lane.indices, when: undefined })), true);
    const stored = lanes.slice(0, lanes.length - this.#loadedOnly());
    for (const location of this.#memory.targets(root)) {
      const buffer = this.#builder.buffer(location.slot, root.dtype, "readWrite");
      stored.forEach((lane, i) => {
        const index = locate(location, lane.indices);
        statements.push({ kind: "store", buffer, index, value: values[i]!, when: lane.when, accumulate: undefined });
      });
    }
    const marks = this.#memory.marks(root);
    if (marks.length > 0) {
      statements.push(...markFaults(this.#builder, root, marks, stored, values.slice(0, stored.length)));
    }
  }

  /** Lanes at the end that an invocation only loads operands for. */
  #loadedOnly(): number {
    const { subgroup } = this.#tile;
    return this.#staged?.loadedOnly ?? subgroup?.rows ?? 0;
  }

  /** The values of a node at some elements; equal elements are computed once. Recursion is bounded by the scheduler's depth. */
  #lanes(node: Node, at: readonly Lane[], root = false): readonly Expr[] {
    const lanes = isReduction(node.op) ? at.map((lane) => this.#withoutInnerGuard(lane)) : at;
    const keys = lanes.map((lane) => `${lane.indices.map((index) => index.key).join()}?${lane.when?.id ?? ""}`);
    const distinct = new Map<string, number>();
    const unique: Lane[] = [];
    lanes.forEach((lane, i) => {
      if (distinct.has(keys[i]!)) return;
      distinct.set(keys[i]!, unique.length);
      unique.push(lane);
    });
    const memoKey = `${node.id}@${[...distinct.keys()].join(";")}`;
    let values = this.#memo.get(memoKey);
    if (values === undefined) {
      values = this.#compute(node, unique, root);
      this.#memo.set(memoKey, values);
    }
    return keys.map((key) => values[distinct.get(key)!]!);
  }

  /**
   * The lane of a reduction for all passes of a loop whose passes only its guard tells apart: so that it is computed once,
   * before the loop.
   */
  #withoutInnerGuard(lane: Lane): Lane {
    const { indices, when } = lane;
    if (when === undefined) return lane;
    const depth = Math.max(0, ...indices.map((index) => this.#builder.scopeOfIndex(index).depth));
    if (when.scope.depth <= depth) return lane;
    const outer = conditions(when).filter((condition) => condition.scope.depth <= depth);
    return { indices, when: outer.reduce<Expr | undefined>((all, condition) => this.#and(all, condition), undefined) };
  }

  #compute(node: Node, lanes: readonly Lane[], root: boolean): readonly Expr[] {
    const builder = this.#builder;
    if (!root && !this.#own.has(node)) {
      const location = this.#memory.source(node);
      if (location !== undefined) {
        const buffer = builder.buffer(location.slot, node.dtype, "read");
        return lanes.map((lane) => builder.load(buffer, locate(location, lane.indices), lane.when));
      }
    }
    if (isReduction(node.op)) return this.#reduce(node as ReductionNode, lanes);
    if (isElementwise(node.op)) {
      const sources = node.src.map((source) => this.#lanes(source, lanes));
      return lanes.map((_, i) => builder.op(node.op as ElementwiseName, ...sources.map((values) => values[i]!)));
    }
    switch (node.op) {
      case "const":
        return lanes.map(() => builder.constant(node.attrs.value, node.dtype));
      case "iota":
        return lanes.map((lane) => builder.index(lane.indices[0]!, node.dtype));
      case "cast":
      case "bitcast":
        return this.#lanes(node.src[0]!, lanes).map((value) =>
          builder.convert(node.op as "cast" | "bitcast", value, node.dtype)
        );
      case "gather":
        return this.#gather(node.src[0]!, node.src[1]!, node.attrs.axis, lanes);
      default:
        if (isMovement(node)) return this.#movement(node, lanes);
        throw new InternalError("lower", {
          got: `${node.op} inside a kernel`,
          need: "an op that can be computed there",
        });
    }
  }

  #movement(node: Node, lanes: readonly Lane[]): readonly Expr[] {
    const builder = this.#builder;
    const moved = lanes.map((lane) => {
      const { indices, bounds } = sourceIndices(node, lane.indices);
      const inside = bounds.reduce<Expr | undefined>(
        (all, { index, low, high }) => this.#and(all, builder.within(index, low, high)),
        undefined,
      );
      const never = bounds.some(({ index, low, high }) => index.max < low || index.min >= high);
      return { inside, never, lane: { indices, when: this.#and(lane.when, inside) } };
    });
    const filler = () => builder.constant(node.op === "pad" ? node.attrs.value : 0, node.dtype);
    const possible = moved.filter((entry) => !entry.never);
    const values = this.#lanes(node.src[0]!, possible.map((entry) => entry.lane));
    let next = 0;
    return moved.map((entry) => {
      if (entry.never) return filler();
      const value = values[next++]!;
      return entry.inside === undefined ? value : builder.op("where", entry.inside, value, filler());
    });
  }

  #gather(x: Node, index: Node, axis: number, lanes: readonly Lane[]): readonly Expr[] {
    const builder = this.#builder;
    const length = x.shape[axis]!;
    if (length === 0) return lanes.map(() => builder.constant(0, x.dtype));
    const positions = this.#lanes(index, lanes);
    const found = lanes.map((lane, i) => {
      const position = positions[i]!;
      const name = builder.nameValue(position);
      const inside = builder.op(
        "and",
        builder.op("le", builder.constant(0, "i32"), position),
        builder.op("lt", position, builder.constant(length, "i32")),
      );
      const indices = lane.indices.map((own, a) => a === axis ? valueIndex(name, length) : own);
      return { inside, lane: { indices, when: this.#and(lane.when, inside) } };
    });
    const values = this.#lanes(x, found.map((entry) => entry.lane));
    return found.map((entry, i) => builder.op("where", entry.inside, values[i]!, builder.constant(0, x.dtype)));
  }

  /** One loop nest for all lanes: adjacent axes walk as one. */
  #reduce(node: ReductionNode, lanes: readonly Lane[]): readonly Expr[] {
    const builder = this.#builder;
    const source = node.src[0]!;
    const contraction = isContraction(node);
    if (contraction && this.#staged !== undefined) return this.#stagedSums(node, lanes, this.#staged);
    const terms = node.attrs.axes.reduce((n, axis) => n * source.shape[axis]!, 1);
    if (!contraction && terms <= mostUnrolled) return this.#fewTerms(node, lanes);
    const subgroup = contraction ? this.#tile.subgroup : undefined;
    const computed = subgroup === undefined ? lanes : lanes.slice(0, -subgroup.rows);
    const runs: number[][] = [];
    for (const axis of node.attrs.axes) {
      const last = runs[runs.length - 1];
      if (last !== undefined && last[last.length - 1] === axis - 1) last.push(axis);
      else runs.push([axis]);
    }
    // The loops go where all that the lanes depend on is known.
    const parent = lanes.reduce((scope, lane) => {
      const own = lane.indices.reduce((s, index) => deeper(s, builder.scopeOfIndex(index)), scope);
      return deeper(own, lane.when?.scope);
    }, builder.root);
    if (this.#gemv !== undefined && parent === builder.root) return this.#gemvResults(node, lanes, this.#gemv);
    const inner = size(runs[runs.length - 1]!.map((axis) => source.shape[axis]!));
    const factor = inner % this.#tile.reduce === 0 ? this.#tile.reduce : 1;
    // In a loop, the invocations of a team are at different elements.
    const together = this.#team !== undefined && parent === builder.root && !contraction;
    const loops: { variable: Variable; body: Scope; inside: Expr | undefined }[] = [];
    const along = new Map<number, (step: number) => Index>();
    runs.forEach((axes, level) => {
      const innermost = level === runs.length - 1;
      const extents = axes.map((axis) => source.shape[axis]!);
      const steps = size(extents) / (innermost ? factor : 1);
      const { variable, body, step: at, inside } = this.#loop(
        "k",
        steps,
        loops[level - 1]?.body ?? parent,
        together && innermost,
      );
      loops.push({ variable, body, inside });
      axes.forEach((axis, i) =>
        along.set(axis, (step) => unflatten(innermost ? addConstant(scale(at, factor), step) : at, extents)[i]!)
      );
    });
    // Independent partial results shorten the chain of dependent additions; a contraction has enough lanes.
    const partials = contraction ? 1 : factor;
    const identity = reductions[node.op].identity(node.dtype);
    const accumulators = computed.map(() =>
      Array.from({ length: partials }, () => builder.accumulator(node.op, node.dtype, parent))
    );
    const { body, inside } = loops[loops.length - 1]!;
    const steps: Lane[] = [];
    for (let step = 0; step < factor; step++) {
      for (const lane of lanes) {
        let kept = 0;
        const indices = source.shape.map((_, axis) => along.get(axis)?.(step) ?? lane.indices[kept++]!);
        steps.push({ indices, when: this.#and(lane.when, inside) });
      }
    }
    const products = subgroup === undefined
      ? this.#lanes(source, steps).entries()
      : this.#outerProduct(source, steps, factor, subgroup);
    for (const [i, value] of products) {
      const accumulator = accumulators[i % computed.length]![Math.floor(i / computed.length) % partials]!;
      const term = inside === undefined
        ? value
        : builder.op("where", inside, value, builder.constant(identity, node.dtype));
      body.statements.push({ kind: "update", accumulator, value: term });
    }
    for (let level = loops.length - 1; level >= 0; level--) {
      const { variable, body } = loops[level]!;
      (loops[level - 1]?.body ?? parent).statements.push({ kind: "loop", variable, body });
    }
    if (loops.some((loop) => loop.variable.extent === 0)) {
      return lanes.map(() => builder.constant(identity, node.dtype));
    }
    const results = accumulators.map((parts) => {
      let level = parts.map((part) => builder.result(part, parent));
      while (level.length > 1) {
        level = Array.from(
          { length: Math.ceil(level.length / 2) },
          (_, i) =>
            2 * i + 1 < level.length ? builder.combine(node.op, level[2 * i]!, level[2 * i + 1]!) : level[2 * i]!,
        );
      }
      return together ? this.#combined(node, level[0]!) : level[0]!;
    });
    return lanes.map((_, i) => results[i] ?? builder.constant(identity, node.dtype));
  }

  /** A reduction without a loop: what it reads is loaded once for all that need it. */
  #fewTerms(node: ReductionNode, lanes: readonly Lane[]): readonly Expr[] {
    const builder = this.#builder;
    const source = node.src[0]!;
    const { axes } = node.attrs;
    const extents = axes.map((axis) => source.shape[axis]!);
    const steps = Array.from({ length: size(extents) }, (_, term) => {
      const along = unflatten(constantIndex(term), extents);
      return lanes.map((lane): Lane => {
        let kept = 0;
        return {
          indices: source.shape.map((_, axis) => along[axes.indexOf(axis)] ?? lane.indices[kept++]!),
          when: lane.when,
        };
      });
    });
    const values = this.#lanes(source, steps.flat());
    const identity = builder.constant(reductions[node.op].identity(node.dtype), node.dtype);
    return lanes.map((_, i) =>
      steps.reduce((sum, _, term) => builder.combine(node.op, sum, values[term * lanes.length + i]!), identity)
    );
  }

  /** What the invocations of a team have, combined. */
  #combined(node: ReductionNode, own: Expr): Expr {
    const builder = this.#builder;
    const array = this.#sharedFor(node.dtype, this.#tile.team);
    const accumulator = builder.accumulator(node.op, node.dtype, builder.root);
    builder.root.statements.push({ kind: "update", accumulator, value: own }, {
      kind: "combine",
      accumulators: [accumulator],
      columns: 1,
      array,
    });
    return builder.result(accumulator, builder.root);
  }

  /** Workgroup memory in which invocations combine what they have. */
  #sharedFor(dtype: DType, length: number): number {
    const key = `${dtype} ${length}`;
    let array = this.#sharedArrays.get(key);
    if (array === undefined) this.#sharedArrays.set(key, array = this.#builder.sharedArray(dtype, length, false));
    return array;
  }

  #stagedSums(node: ReductionNode, lanes: readonly Lane[], domain: StagedDomain): readonly Expr[] {
    const builder = this.#builder;
    const empty = node.src[0]!.shape.includes(0);
    const sums = empty
      ? []
      : stagedSums(builder, node, lanes, domain, this.#tile.staged!, (operand, at) => this.#lanes(operand, at));
    return lanes.map((_, i) => sums[i] ?? builder.constant(0, node.dtype));
  }

  #gemvResults(node: ReductionNode, lanes: readonly Lane[], domain: GemvDomain): readonly Expr[] {
    const builder = this.#builder;
    if (node.src[0]!.shape.includes(0)) {
      return lanes.map(() => builder.constant(reductions[node.op].identity(node.dtype), node.dtype));
    }
    const values = (source: Node, at: readonly Lane[]) => this.#lanes(source, at);
    return gemvResults(
      builder,
      node,
      lanes,
      domain,
      this.#tile.gemv!,
      values,
      (length) => this.#sharedFor(node.dtype, length),
    );
  }

  /**
   * The products of a block, each with its position in `factor` blocks of them: each lane's own elements of the row operand are
   * broadcast to all. `steps` is as #subgroupDomain made it, for each of `factor` terms of the sum. Row by row, so that few
   * values are alive at once, and all terms of an element together, so that its sum is fetched and put back once.
   */
  *#outerProduct(
    product: Node,
    steps: readonly Lane[],
    factor: number,
    { rows, columns }: OuterProduct,
  ): Generator<[number, Expr]> {
    const [left, right] = product.src as [Node, Node];
    // The first row is that of all lanes, its columns are a lane's own.
    const leftIsRow = !dependsOn(left, steps[0]!.indices, this.#subgroupLane!);
    const [rowOperand, columnOperand] = leftIsRow ? [left, right] : [right, left];
    const stride = steps.length / factor;
    const count = stride - rows;
    const terms = Array.from({ length: factor }, (_, term) => {
      const own = steps.slice(term * stride, (term + 1) * stride);
      return {
        own: this.#lanes(rowOperand, own.slice(count)),
        column: this.#lanes(columnOperand, own.slice(0, columns)),
      };
    });
    for (let row = 0; row < count / columns; row++) {
      for (const [term, { own, column }] of terms.entries()) {
        const element = this.#builder.broadcast(own[row % rows]!, Math.floor(row / rows));
        for (let j = 0; j < columns; j++) {
          const [a, b] = leftIsRow ? [element, column[j]!] : [column[j]!, element];
          yield [term * count + row * columns + j, this.#builder.op(product.op as ElementwiseName, a, b)];
        }
      }
    }
  }

  #and(a: Expr | undefined, b: Expr | undefined): Expr | undefined {
    if (a === undefined || a === b) return b;
    return b === undefined ? a : this.#builder.op("and", a, b);
  }
}

/** Indices of a domain from those of the axes that it is walked by. */
function joined(indices: readonly Index[], factors: readonly (readonly number[])[]): Index[] {
  let next = 0;
  return factors.map((lengths) => flatten(indices.slice(next, next += lengths.length), strides(lengths)));
}

/** What must hold for a guard to hold. */
function conditions(guard: Expr): readonly Expr[] {
  return guard.kind === "op" && guard.op === "and" ? guard.args.flatMap(conditions) : [guard];
}
